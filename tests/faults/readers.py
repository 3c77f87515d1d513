"""All readers of files from outside, with small valid files for each."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import openpyxl
import pydicom
import safetensors.torch
import torch
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from pipeline.config.data import PreprocessConfig
from pipeline.config.sources import DataConfig
from pipeline.data.label_tables import read_label_table
from pipeline.datasets.akoa import parse_name
from pipeline.datasets.cifar import CIFAR10, CIFAR100, read_records
from pipeline.datasets.mnist import read_idx
from pipeline.formats.dicom import read_series
from pipeline.formats.hdf5 import read_hdf5_points
from pipeline.formats.image_files import read_image
from pipeline.formats.nifti import read_volume
from pipeline.formats.npz import ArrayLimits, read_npz
from pipeline.formats.point_clouds import read_cloud
from pipeline.preprocessing.images import fit_image
from pipeline.preprocessing.slicing import cut_stack
from pipeline.training.checkpoint import FORMAT, HEADER_KEY, read_checkpoint, write_checkpoint
from tests.builders.checkpoints import make_checkpoint
from tests.builders.dicom import write_radiograph, write_series
from tests.builders.published_sets import to_idx
from tests.builders.volumes import compute_intensity
from tests.faults.fuzz import Reader

MAX_VOXEL_BYTES = 1 << 20


def make_volumes(folder: Path) -> list[bytes]:
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    oblique = nibabel.Nifti1Image(voxels.astype(np.float32), None)
    oblique.header.set_qform(np.array([[0, 1, 0, 3], [0, 0, 2, 4], [3, 0, 0, 5], [0, 0, 0, 1.0]]), code=1)
    oblique.header["sform_code"] = 0
    oblique.header.set_slope_inter(2.0, 1.0)
    plain = nibabel.Nifti1Image(voxels, affine).to_bytes()
    second = nibabel.Nifti2Image(voxels, affine).to_bytes()
    return [plain, oblique.to_bytes(), second, gzip.compress(plain, 1), gzip.compress(plain, 0)]


def read_slices(path: Path) -> Any:
    volume = read_volume(path, MAX_VOXEL_BYTES, needs_orientation=False)
    assert np.isfinite([*volume.spacing_mm, *volume.centre_mm, volume.obliquity_degrees]).all()
    assert min(volume.spacing_mm) > 0
    assert np.isfinite(compute_intensity(volume)).all()
    with np.errstate(invalid="raise"):  # a NaN that becomes a grey level
        return cut_stack(volume, PreprocessConfig(num_slices=3, image_size=(8, 8), spacing_mm=4.0), str(path))


def make_idx(folder: Path) -> list[bytes]:
    return [to_idx(np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8)), to_idx(np.zeros((0, 28, 28), np.uint8))]


def make_packed_idx(folder: Path) -> list[bytes]:
    return [gzip.compress(content, level) for content in make_idx(folder) for level in (0, 9)]


def make_cifar10(folder: Path) -> list[bytes]:
    return [bytes(3 * 3073), bytes(range(10)) * 3073]


def make_cifar100(folder: Path) -> list[bytes]:
    return [bytes(3 * 3074), bytes([5, 7]) * 1537]


def make_meshes(folder: Path) -> list[bytes]:
    solid = b"OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
    triangle = b"OFF # c\r\n3 1\r\n0 0 0\r\n1.5 0 0\r\n0 1e0 0\r\n3 0 1 2 255 0 0\r\n"
    return [solid, solid.replace(b"OFF\n", b"OFF"), triangle]


def make_arrays(folder: Path) -> list[bytes]:
    contents = []
    fortran = np.asfortranarray(np.arange(27, dtype=np.float32).reshape(9, 3))
    for values in (np.eye(3), np.arange(24, dtype=np.int16).reshape(8, 3), fortran):
        buffer = io.BytesIO()
        np.save(buffer, values)
        contents.append(buffer.getvalue())
    return contents


def make_archives(folder: Path) -> list[bytes]:
    contents = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, images=np.arange(24, dtype=np.uint8).reshape(4, 2, 3), labels=np.arange(4)[:, None])
        contents.append(buffer.getvalue())
    return contents


def make_clouds(folder: Path) -> list[bytes]:
    contents = []
    for number, options in enumerate(({}, {"compression": "gzip", "chunks": (1, 8, 3)})):
        path = folder / f"seed{number}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=np.random.default_rng(0).random((3, 8, 3), dtype=np.float32), **options)
            file.create_dataset("label", data=np.arange(3, dtype=np.uint8)[:, None])
        contents.append(path.read_bytes())
    return contents


def make_images(folder: Path) -> list[bytes]:
    pixels = Image.fromarray(np.arange(8 * 8, dtype=np.uint8).reshape(8, 8))
    contents = []
    for mode, kind in (("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("RGB", "PNG"), ("L", "JPEG"), ("RGB", "BMP")):
        buffer = io.BytesIO()
        pixels.convert(mode).save(buffer, kind)
        contents.append(buffer.getvalue())
    return contents


def make_jpegs(folder: Path) -> list[bytes]:
    pixels = Image.fromarray((np.arange(16 * 24) % 251).astype(np.uint8).reshape(16, 24))
    exif = Image.Exif()
    exif[274] = 6
    contents = []
    for mode, options in (("L", {}), ("RGB", {"progressive": True}), ("CMYK", {}), ("L", {"exif": exif})):
        buffer = io.BytesIO()
        pixels.convert(mode).save(buffer, "JPEG", **options)
        contents.append(buffer.getvalue())
    return contents


def make_tiffs(folder: Path) -> list[bytes]:
    levels = np.arange(16 * 24).reshape(16, 24)
    grey = Image.fromarray(levels.astype(np.uint8))
    images = [grey, Image.fromarray(levels.astype(np.uint16)), Image.fromarray(levels.astype(np.float32))]
    contents = []
    for image, options in (
        *((image, {}) for image in (*images, grey.convert("RGBA"), grey.convert("P"))),
        *((grey, {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "TIFF", **options)
        contents.append(buffer.getvalue())
    return contents


def make_radiographs(folder: Path) -> list[bytes]:
    levels = (np.arange(34 * 36) % 4096).astype(np.uint16).reshape(34, 36)
    plain = write_radiograph(folder / "plain", levels, WindowCenter=500, WindowWidth=900)
    inverted = write_radiograph(folder / "inverted", levels, PhotometricInterpretation="MONOCHROME1")
    contents = [plain.read_bytes(), inverted.read_bytes()]
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        header = pydicom.dcmread(plain)
        header.compress(syntax)
        header.save_as(folder / "packed")
        contents.append((folder / "packed").read_bytes())
    return contents


def read_fitted(path: Path) -> Any:
    fitted = fit_image(path, PreprocessConfig(image_size=(8, 8)))
    assert (fitted.values.dtype, fitted.values.shape[1:]) == (np.uint8, (8, 8))
    return fitted


def make_tars(folder: Path) -> list[bytes]:
    series = write_series(folder / "series", np.arange(3 * 8 * 9, dtype=np.int16).reshape(3, 8, 9))
    contents = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            archive.add(series, "series" + "/long" * 40)
        contents += [buffer.getvalue(), gzip.compress(buffer.getvalue(), 0)]
    return contents


def make_zips(folder: Path) -> list[bytes]:
    series = write_series(folder / "series", np.arange(3 * 8 * 9, dtype=np.int16).reshape(3, 8, 9))
    contents = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for path in sorted(series.iterdir()):
                archive.write(path, f"series/{path.name}")
        contents.append(buffer.getvalue())
    return contents


def make_checkpoints(folder: Path) -> list[bytes]:
    write_checkpoint(folder / "seed.safetensors", make_checkpoint())
    return [(folder / "seed.safetensors").read_bytes()]


def make_facts(folder: Path) -> list[bytes]:
    (content,) = make_checkpoints(folder)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return [json.loads(header["__metadata__"][HEADER_KEY])["facts"].encode()]


def read_facts(path: Path) -> Any:
    """Put facts into a checkpoint whose checksum is right, as a liar would."""
    text = path.read_bytes().decode("utf-8", "replace")
    tensors = {"model.weight": torch.zeros(2)}
    digest = hashlib.sha256(text.encode())
    digest.update(b"model.weight torch.float32 (2,)" + bytes(8))
    header = json.dumps({"format": FORMAT, "sha256": digest.hexdigest(), "facts": text})
    liar = path.with_suffix(".safetensors")
    liar.write_bytes(safetensors.torch.save(tensors, {HEADER_KEY: header}))
    return read_checkpoint(liar)


def make_dicom(folder: Path) -> list[bytes]:
    series = write_series(folder / "series", np.arange(8 * 9, dtype=np.int16).reshape(1, 8, 9))
    return [path.read_bytes() for path in sorted(series.iterdir())]


def make_tables(folder: Path) -> list[bytes]:
    text = '\ufeffpath,patient,label\na.nii,007,left\n"b,\n.nii",NA,right\n'
    wide = "Path|Patient|Label|side|split|weight|born\r\na.png|J\u00fc|0|R|train|0,5|1902\r\nb.png|8|1|l|val|2|\r\n"
    semicolons = wide.replace("|", ";")
    return [text.encode(), wide.encode("cp1252"), semicolons.encode("utf-16"), b"sep=;\n" + semicolons.encode()]


def make_workbooks(folder: Path) -> list[bytes]:
    """Make workbooks, the second without compression, so that edits reach the XML."""
    book = openpyxl.Workbook()
    for row in (["path", "patient", "label", "weight"], ["a.nii", 7, "left", 0.5], ["b.nii", "008", "right", 2]):
        book.active.append(row)
    book.active["B2"].number_format = "000"
    packed = io.BytesIO()
    book.save(packed)
    plain = io.BytesIO()
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as copy:
        for name in source.namelist():
            copy.writestr(name, source.read(name))
    return [packed.getvalue(), plain.getvalue()]


def read_labels(path: Path) -> Any:
    return read_label_table(DataConfig(label_table=path))


def make_names(folder: Path) -> list[bytes]:
    return [
        b"OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz_0.png",
        b"OAI9961728_BaseLine_3de3d1_SAG_3D_DESS_WE_L_E_F_T.hdr",
        b"9000099_20050712_SAG_3D_DESS_LEFT_10424405_image.nii.gz",
    ]


def read_name(path: Path) -> Any:
    name = path.read_bytes().decode("utf-8", "surrogateescape").replace("/", "_").replace("\x00", "_")[:255]
    source, slice_index = parse_name(Path("folder") / (name or "_"))
    assert len(source.group_id) == 7
    assert source.label == source.side
    assert source.side in ("left", "right")
    assert slice_index >= -1
    assert not set(source.source_id) - set("0123456789_eflghirt")
    return source


NAME_WORDS = [
    *(b"OAI", b"BaseLine", b"de3d1", b"_SAG_3D_DESS_WE_", b"_SAG_3D_DESS_", b"RIGHT", b"L_E_F_T", b".nii", b".gz"),
    *(b".hdr", b".png", b"_", b"9014797", b"\n", b".", b"..", b"-", *(text.encode() for text in ("٣", "９", "ſ", "ı"))),
]
MESH_WORDS = [
    *(b"OFF", b"\n", b" ", b"3", b"0", b"1", b"-1", b"1.5", b"1e5", b"#", b"\r", b"\x0b", b"99999999999", b"0x1"),
    *(b"1_0", b"1e400", b"infinity"),
]
TABLE_WORDS = [
    *(b"path", b"patient", b"label", b",", b"\n", b'"', b"\r", b"a", b"\xff", b"\x00", b"=1+1", b"NA", b"007"),
    *(
        b";",
        b"|",
        b"\t",
        b"sep=;\n",
        b"0,5",
        b"split",
        b"train",
        b"weight",
        b"1e999",
        b"side",
        b"R",
        b"\xff\xfe",
        b"1E+15",
    ),
]
WORKBOOK_WORDS = [
    *(b"<!DOCTYPE", b"&a;", b"<c", b"</c>", b"<row", b'r="', b"A1048576", b"XFD1", b't="s"', b't="d"', b"<v>", b"<f>"),
    *(b"-1", b"99999999999", b"sheet1.xml", b"../../etc/passwd", b"http://", b"PK\x01\x02", b"PK\x05\x06", b"nan"),
]
ARRAY_WORDS = [b"'descr'", b"'<f8'", b"'O'", b"(", b")", b"'shape'", b"99999999999999", b",", b"True", b"-1", b"'|V3'"]
ARCHIVE_WORDS = [*ARRAY_WORDS, b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"images.npy", b"labels.npy", b"\x0e\x00"]
ARCHIVE_LIMITS = {"images": ArrayLimits(10, ((2, 3),)), "labels": ArrayLimits(10, ((), (1,)), max_item_bytes=8)}
JPEG_WORDS = [b"\xff\xd8", b"\xff\xd9", b"\xff\xc0", b"\xff\xe1", b"Exif\0\0", b"MPF\0", b"\xff\xff\xff\xff"]
TAR_WORDS = [b"ustar", b"x", b"g", b"L", b"S", b"../", b"/etc", b"77777777777", b"\x80\xff", b"30 mtime=1\n"]
SERIES_WORDS = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07", b"../", b"\xff\xff\xff\xff"]
IMAGE_WORDS = [b"IDAT", b"tRNS", b"zTXt", b"iTXt", b"IHDR", b"PLTE", b"IEND", b"acTL", b"eXIf", b"\x7f\xff\xff\xff"]
FACT_WORDS = [b"null", b"[]", b"{}", b"-1", b"1e999", b"true", b'"x"', b"NaN", b",", b":", b"99999999999999999999"]

READERS = {
    "names": Reader("name.txt", make_names, read_name, ValueError, NAME_WORDS),
    "NIfTI": Reader("knee.nii", make_volumes, read_slices),
    "IDX": Reader("images-idx3-ubyte", make_idx, lambda path: read_idx(path, (60_000, 28, 28))),
    "IDX-gzip": Reader("images-idx3-ubyte.gz", make_packed_idx, lambda path: read_idx(path, (60_000, 28, 28))),
    "CIFAR-10": Reader("a.bin", make_cifar10, lambda path: read_records(path, CIFAR10.num_labels, 10_000)),
    "CIFAR-100": Reader("a.bin", make_cifar100, lambda path: read_records(path, CIFAR100.num_labels, 50_000)),
    "OFF": Reader("a.off", make_meshes, lambda path: read_cloud(path, 8, 16), words=MESH_WORDS),
    "npy": Reader("a.npy", make_arrays, lambda path: read_cloud(path, 3, 16), words=ARRAY_WORDS),
    "npz": Reader("a.npz", make_archives, lambda path: read_npz(path, ARCHIVE_LIMITS), words=ARCHIVE_WORDS),
    "HDF5": Reader("a.h5", make_clouds, lambda path: read_hdf5_points(path, 8)),
    "image": Reader("a.png", make_images, lambda path: read_image(path, 3, (8, 8)), words=IMAGE_WORDS),
    "JPEG": Reader("a.jpg", make_jpegs, read_fitted, words=JPEG_WORDS),
    "TIFF": Reader("a.tif", make_tiffs, read_fitted),
    "radiograph": Reader("a.dcm", make_radiographs, read_fitted),
    "tar": Reader("a.tar.gz", make_tars, lambda path: read_series("a", (path,), MAX_VOXEL_BYTES), words=TAR_WORDS),
    "zip": Reader("a.zip", make_zips, lambda path: read_series("a", (path,), MAX_VOXEL_BYTES), words=SERIES_WORDS),
    "checkpoint": Reader("a.safetensors", make_checkpoints, read_checkpoint),
    "facts": Reader("facts.json", make_facts, read_facts, words=FACT_WORDS),
    "DICOM": Reader("a.dcm", make_dicom, lambda path: read_series("series", (path,), MAX_VOXEL_BYTES)),
    "table": Reader("a.csv", make_tables, read_labels, words=TABLE_WORDS),
    "workbook": Reader("a.xlsx", make_workbooks, read_labels, words=WORKBOOK_WORDS),
}
