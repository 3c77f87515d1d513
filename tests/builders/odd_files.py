"""The same content in files that say more than an 8-bit image in millimetres does."""

import shutil

import nibabel
import numpy as np
from PIL import Image

from tests.builders.dicom import write_radiograph, write_series

SPACING_MM = (4.0, 5.0, 6.0)


def write_grey_modes(folder, levels):
    """Write one image, uint8 with levels from 0 to 255, in all modes of grey; return the files, 8 bits first."""
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    wide = levels.astype(np.uint16) * 16
    images = {
        "8 bits.png": (Image.fromarray(levels), {}),
        "12 bits.png": (Image.fromarray(wide), {}),
        "12 bits.tif": (Image.frombytes("I;16B", levels.shape[::-1], wide.astype(">u2").tobytes()), {}),
        "float.tif": (Image.fromarray(levels.astype(np.float32) / 2 - 9), {}),
        "opaque.png": (Image.merge("LA", (Image.fromarray(levels), Image.new("L", levels.shape[::-1], 255))), {}),
        "turned.png": (Image.fromarray(np.rot90(levels).copy()), {"exif": exif}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    square = {"ImagerPixelSpacing": [0.2, 0.2]}
    radiographs = [
        write_radiograph(folder / "radiograph", wide, **square),
        write_radiograph(folder / "white is 0", 4080 - wide, PhotometricInterpretation="MONOCHROME1", **square),
    ]
    return [*(folder / name for name in images), *radiographs]


def write_units(folder, voxels):
    """Write one scan in millimetres, metres and micrometres; return the files."""
    files = []
    for name, code, factor in (("millimetres", 2, 1), ("metres", 1, 1e-3), ("micrometres", 3, 1e3)):
        image = nibabel.Nifti1Image(voxels, np.diag([*(factor * np.array(SPACING_MM)), 1.0]))
        image.header["xyzt_units"] = code
        files.append(folder / f"{name}.nii.gz")
        nibabel.save(image, files[-1])
    return files


def write_contradictions(folder, voxels):
    """Write a scan whose sform and qform name different sides, and a series with a gap as a zip file."""
    image = nibabel.Nifti1Image(voxels, np.diag([*SPACING_MM, 1.0]))
    image.set_qform(np.diag([*SPACING_MM, 1.0]) * [[-1], [1], [1], [1]], code=1)
    image.set_sform(image.affine, code=1)
    nibabel.save(image, folder / "mirrored.nii.gz")
    series = write_series(folder / "gap", voxels)
    sorted(series.iterdir())[1].unlink()
    packed = shutil.make_archive(str(folder / "gap"), "zip", series)
    shutil.rmtree(series)
    return folder / "mirrored.nii.gz", packed
