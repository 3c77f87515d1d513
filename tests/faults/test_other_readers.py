"""Where this project's reader and another one both accept a file, they read the same from it.

Valid files are changed at random (:mod:`~tests.faults.fuzz`). nibabel reads volumes, Pillow images, pydicom radiographs
and series, pandas tables. Geometry is computed by nibabel after both are turned to right, anterior, superior.
"""

import gzip
import io
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image, ImageOps
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from pipeline.core.errors import UserError
from pipeline.formats.dicom import read_series
from pipeline.formats.image_files import FORMATS, read_pixels
from pipeline.formats.nifti import UNIT_MM, read_volume
from pipeline.formats.spreadsheets import DELIMITERS, read_cells
from tests.builders.dicom import PLANES, write_radiograph, write_series
from tests.builders.volumes import compute_intensity
from tests.faults.fuzz import HARD_NUMBERS, KINDS, edit
from tests.faults.readers import (
    MAX_VOXEL_BYTES,
    TABLE_WORDS,
    make_images,
    make_jpegs,
    make_tables,
    make_tiffs,
    make_volumes,
)

# Most of the files are still read where only what a header means is changed: sizes, types, units, scale and affine.
HEADER_BYTES = 348
# nibabel and pydicom scale in double precision: a scale of 1e-45 gives other last bits of what is nearly 0.
TINY = float(np.finfo(np.float32).tiny)
SERIES_SHAPE = (3, 4, 5)


@dataclass(frozen=True)
class Comparison:
    """A reader of this project and another one of the same files.

    Args:
        seeds: Makes valid files in a folder; a file is one or several contents.
        change: Changes one at random.
        compare: Reads the files of these contents in a folder with both, and fails where they differ; returns whether
            both accepted it.
        num_alike: The least number, of 1,000 files, that both accept.
    """

    seeds: Callable[[Path], Sequence[Any]]
    change: Callable[[Any, random.Random], Any]
    compare: Callable[[Any, Path], bool]
    num_alike: int


def change_volume(content, generator):
    """Change some numbers in the header of a file that is not compressed, or anything anywhere."""
    if content[:2] == b"\x1f\x8b" or generator.random() < 0.3:
        edits = [(generator.choice(KINDS), generator.random(), generator.choice(HARD_NUMBERS)) for _ in range(2)]
        return edit(content, edits)
    changed = bytearray(content)
    for _ in range(generator.randint(1, 3)):
        place = generator.randrange(40, HEADER_BYTES - 4)
        value = generator.choice((generator.randbytes(1), generator.randbytes(4), generator.choice(HARD_NUMBERS)))
        changed[place : place + len(value)] = value
    return bytes(changed)


def read_with_nibabel(content):
    """Return intensities and spacing of a volume as nibabel has them, or None where it refuses the file."""
    stream = io.BytesIO(content)
    if content[:2] == b"\x1f\x8b":
        stream = io.BytesIO(gzip.decompress(content))
    kind = nibabel.Nifti2Image if stream.getvalue()[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
    image = kind.from_stream(stream)
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        return None  # nibabel takes the first axis from right to left, the standard leaves it open
    while len(image.shape) > 3 and image.shape[-1] == 1:
        image = image.slicer[..., 0]
    if len(image.shape) == 2:
        return None
    unit = UNIT_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return turn(image, unit)


def turn(image, unit=1.0):
    image = nibabel.as_closest_canonical(image)
    return image.get_fdata(dtype=np.float32), unit * np.linalg.norm(image.affine[:3, :3], axis=0)


def compare_volumes(volume, other):
    intensity, spacing_mm = other
    np.testing.assert_allclose(compute_intensity(volume), intensity, rtol=1e-5, atol=TINY)
    np.testing.assert_allclose(volume.spacing_mm, spacing_mm, rtol=1e-5)


def read_other(read, *arguments):
    """Read with another reader; None where it refuses, with whatever its parts raise."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return read(*arguments)
        except Exception:  # noqa: BLE001 (see above)
            return None


def compare_volume(content, folder):
    (folder / "scan.nii").write_bytes(content)
    volume = read_volume(folder / "scan.nii", MAX_VOXEL_BYTES, needs_orientation=False)
    other = read_other(read_with_nibabel, content)
    if other is not None:
        compare_volumes(volume, other)
    return other is not None


def make_turned_images(folder):
    """Make images of all modes and formats, and some with each turn of EXIF."""
    contents = [*make_images(folder), *make_jpegs(folder), *make_tiffs(folder)]
    levels = (np.arange(6 * 9) * 37 % 251).astype(np.uint8).reshape(6, 9)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        for mode, kind in (("L", "PNG"), ("RGB", "PNG"), ("RGBA", "TIFF"), ("I;16", "TIFF"), ("LA", "PNG")):
            buffer = io.BytesIO()
            image = Image.fromarray(levels.astype(np.uint16) * 99) if mode == "I;16" else Image.fromarray(levels)
            (image if mode == "I;16" else image.convert(mode)).save(buffer, kind, exif=exif)
            contents.append(buffer.getvalue())
    return contents


def change_anything(content, generator):
    values = (generator.choice(HARD_NUMBERS), generator.randbytes(1), generator.randbytes(1))
    return edit(content, [(generator.choice(KINDS[:3]), generator.random(), generator.choice(values))])


def read_with_pillow(content):
    """Return ``(channels, height, width)`` as the image is seen, over black."""
    # Pillow 13.0 maps a plain TIFF that it opens by its name into memory, and turns it wrongly.
    opened = Image.open(io.BytesIO(content), formats=FORMATS)
    image = ImageOps.exif_transpose(opened)
    if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa", "RGBA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[None]
    if image.mode in ("P", "RGB", "CMYK", "YCbCr"):
        return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    values = np.asarray(image)
    inverted = opened.format == "TIFF" and opened.tag_v2.get(262) == 0
    return (values.max() - values if inverted else values)[None]


def compare_image(content, folder):
    path = folder / "image"
    path.write_bytes(content)
    ours, other = read_pixels(path), read_other(read_with_pillow, content)
    if other is None:
        return False
    assert ours.values.shape[1:] == other.shape[1:]
    values = ours.values.astype(np.float64)
    np.testing.assert_allclose(np.broadcast_to(values, other.shape), other, atol=1 if ours.limits else 0)
    return True


def make_many_radiographs(folder):
    """Make radiographs of several depths, signs, windows, scales and ways of storing."""
    contents = []
    for number, (bits, is_signed) in enumerate([(16, 0), (12, 0), (10, 0), (12, 1), (16, 1), (8, 0)]):
        levels = np.random.default_rng(number).integers(0, 1 << bits, (6, 8)).astype(np.uint16)
        options = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": is_signed}
        window = {"WindowCenter": 300 * number + 40, "WindowWidth": 500 + number}
        scale = {"RescaleSlope": 0.5 * number, "RescaleIntercept": 7 - 9 * number} if number else {}
        photometric = {"PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2")[number % 2]}
        for more in ({}, window, scale, window | scale | photometric, photometric):
            path = write_radiograph(folder / "radiograph", levels, **options, **more)
            contents += [path.read_bytes(), *store_otherwise(path)]
    return contents


def store_otherwise(path):
    """Store a file with implicit types, and with the bytes of each number the other way round."""
    contents = []
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        header = pydicom.dcmread(path)
        header.file_meta.TransferSyntaxUID = syntax
        header.decode()  # takes all elements apart
        if syntax == ExplicitVRBigEndian:
            header.PixelData = np.frombuffer(header.PixelData, "<u2").astype(">u2").tobytes()
        buffer = io.BytesIO()
        pydicom.dcmwrite(
            buffer,
            header,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            force_encoding=True,
        )
        contents.append(buffer.getvalue())
    return contents


def change_dicom(content, generator):
    """Change a byte or two of the header, mostly after the first 132 bytes, which say that it is DICOM."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 2)):
        place = generator.randrange(132, len(content))
        changed[place] = generator.choice((generator.randrange(256), *b"0123456789-.", changed[place] ^ 1))
    return bytes(changed)


def read_with_pydicom(content):
    """Return levels with black as the lowest, and where the header's window puts them between black and white."""
    header = pydicom.dcmread(io.BytesIO(content))
    if header.get("PixelPaddingValue", None) is not None or header.SamplesPerPixel != 1 or lacks_scale(header):
        return None
    values = pydicom.pixels.apply_modality_lut(header.pixel_array, header).astype(np.float64)
    shown = None
    if header.get("WindowWidth", None) is not None and header.get("WindowCenter", None) is not None:
        shown = pydicom.pixels.apply_windowing(pydicom.pixels.apply_modality_lut(header.pixel_array, header), header)
        low, high = (0, 2**header.BitsStored - 1)
        if header.PixelRepresentation == 1:
            low, high = -(2 ** (header.BitsStored - 1)), 2 ** (header.BitsStored - 1) - 1
        if header.get("RescaleSlope", None) is not None:
            low, high = (float(header.RescaleSlope) * end + float(header.RescaleIntercept) for end in (low, high))
        shown = (shown - low) / (high - low) if high > low else None
    if header.PhotometricInterpretation == "MONOCHROME1":
        return -values, None if shown is None else 1 - shown
    return values, shown


def lacks_scale(header):
    """Return whether a header has a slope or an intercept alone; pydicom ignores it, this project and others do not."""
    return (header.get("RescaleSlope", None) is None) != (header.get("RescaleIntercept", None) is None)


def compare_radiograph(content, folder):
    (folder / "radiograph").write_bytes(content)
    ours, other = read_pixels(folder / "radiograph"), read_other(read_with_pydicom, content)
    if other is None or len(ours.values) == 3:
        return False
    values, shown = other
    np.testing.assert_allclose(ours.values[0], values, rtol=1e-6, atol=TINY)
    if shown is not None and ours.limits is not None:
        low, high = ours.limits
        np.testing.assert_allclose(((ours.values[0] - low) / (high - low)).clip(0, 1), shown, atol=1e-3)
    return True


def make_series(folder):
    """Make series in each plane, stored in three ways; each is the contents of its files."""
    series = []
    for number, plane in enumerate(PLANES):
        voxels = np.random.default_rng(number).integers(-99, 999, SERIES_SHAPE).astype(np.int16)
        paths = sorted(
            write_series(folder / f"series{number}", voxels, plane, RescaleSlope=0.5, RescaleIntercept=3).iterdir()
        )
        series.append(tuple(path.read_bytes() for path in paths))
        series += zip(*map(store_otherwise, paths), strict=True)
    return series


def compare_series(contents, folder):
    paths = tuple(folder / f"{number}.dcm" for number in range(len(contents)))
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    volume = read_series("series", paths, MAX_VOXEL_BYTES)
    other = read_other(stack_with_pydicom, paths)
    if other is not None:
        compare_volumes(volume, other)
    return other is not None


def stack_with_pydicom(paths):
    """Stack the slices as DICOM PS3.3, C.7.6.2.1.1 says, and let nibabel turn them."""
    headers = [pydicom.dcmread(path) for path in paths]
    if any(map(lacks_scale, headers)):
        return None
    first = np.array(headers[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(first[:3], first[3:])
    headers.sort(key=lambda header: float(np.dot(np.array(header.ImagePositionPatient, dtype=float), normal)))
    places = [np.array(header.ImagePositionPatient, dtype=float) for header in headers]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first[3:] * headers[0].PixelSpacing[0], first[:3] * headers[0].PixelSpacing[1]
    affine[:3, 2], affine[:3, 3] = (places[-1] - places[0]) / (len(places) - 1), places[0]
    levels = [pydicom.pixels.apply_modality_lut(header.pixel_array, header).astype(np.float32) for header in headers]
    return turn(nibabel.Nifti1Image(np.stack(levels, axis=-1), np.diag([-1, -1, 1, 1]) @ affine))


def change_series(contents, generator):
    """Change all files at the same place, as a program that writes otherwise does, or one of them."""
    if generator.random() < 0.3:
        number = generator.randrange(len(contents))
        return tuple(
            change_dicom(content, generator) if place == number else content for place, content in enumerate(contents)
        )
    seed = generator.random()
    return tuple(change_dicom(content, random.Random(seed)) for content in contents)


def change_table(content, generator):
    edits = []
    for _ in range(generator.randint(1, 3)):
        value = generator.choice((*TABLE_WORDS, b" ", b"\r\n", b"\xc2\xa0", b'""', generator.randbytes(1)))
        edits.append((generator.choice(KINDS[:4]), generator.random(), value))
    return edit(content, edits)


def compare_table(content, folder):
    path = folder / "table.csv"
    path.write_bytes(content)
    ours = read_cells(path, {"path", "patient", "label"})
    other = read_other(read_with_pandas, content, ours.guessed_separator)
    if other is not None:
        assert (ours.header, ours.rows) == other
    return other is not None


def read_with_pandas(content, guessed_separator):
    """Return the header, and the cells of the rows that are not empty, as wide as it."""
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252")
    text = text.lstrip("\ufeff")  # pandas drops one mark, of two or more it leaves the others in a name
    separator = {name: sign for sign, name in DELIMITERS.items()}.get(guessed_separator, ",")
    first, _, rest = text.partition("\n")
    if first.startswith("sep=") and len(first.rstrip("\r")) == 5:
        separator, text = first[4], rest
    table = pd.read_csv(
        io.StringIO(text, newline=""), sep=separator, header=None, names=range(60), dtype=str, keep_default_na=False
    )
    rows = [row for row in table.fillna("").values.tolist() if any(cell.strip() for cell in row)]
    header = rows[0]
    while not header[-1].strip():
        header.pop()
    return header, [row[: len(header)] for row in rows[1:]]


COMPARISONS = {
    "volumes, nibabel": Comparison(make_volumes, change_volume, compare_volume, 300),
    "images, Pillow": Comparison(make_turned_images, change_anything, compare_image, 400),
    "radiographs, pydicom": Comparison(make_many_radiographs, change_dicom, compare_radiograph, 500),
    "series, pydicom": Comparison(make_series, change_series, compare_series, 380),
    "tables, pandas": Comparison(make_tables, change_table, compare_table, 550),
}


def count_read_alike(comparison, numbers, folder):
    """Read the files of these numbers with both readers, and count those that both accept."""
    contents, num_alike = comparison.seeds(folder), 0
    for number in numbers:
        generator = random.Random(number)
        content = comparison.change(generator.choice(contents), generator)
        try:
            num_alike += comparison.compare(content, folder)
        except UserError:
            continue
        except AssertionError as error:
            raise AssertionError(f"file {number}: {error}") from error
    return num_alike


@pytest.mark.parametrize("name", COMPARISONS)
def test_files_are_read_as_the_other_reader_reads_them(name, tmp_path):
    assert count_read_alike(COMPARISONS[name], range(60), tmp_path) >= COMPARISONS[name].num_alike / 20


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARISONS)
def test_twenty_thousand_files_are_read_as_the_other_reader_reads_them(name, tmp_path):
    assert count_read_alike(COMPARISONS[name], range(20_000), tmp_path) >= 20 * COMPARISONS[name].num_alike
