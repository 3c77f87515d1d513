"""Where this project's reader and another one both accept a file, they read the same from it.

Valid files are changed at random (:mod:`~tests.faults.fuzz`). nibabel reads volumes: its geometry and voxels are
compared after both are turned to right, anterior, superior.
"""

import gzip
import io
import random
import warnings

import nibabel
import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.formats.nifti import UNIT_MM, read_volume
from tests.builders.volumes import compute_intensity
from tests.faults.fuzz import HARD_NUMBERS, KINDS, edit
from tests.faults.readers import MAX_VOXEL_BYTES, make_volumes

# Most of the files are still read where only what a header means is changed: sizes, types, units, scale and affine.
HEADER_BYTES = 348


def change(content, generator):
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
    image = nibabel.as_closest_canonical(image)
    unit = UNIT_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return image.get_fdata(dtype=np.float32), tuple(unit * np.linalg.norm(image.affine[:3, :3], axis=0))


def compare(seed, contents, path):
    """Read a changed file with both; return whether both accepted it."""
    generator = random.Random(seed)
    content = change(generator.choice(contents), generator)
    path.write_bytes(content)
    try:
        volume = read_volume(path, MAX_VOXEL_BYTES, needs_orientation=False)
    except UserError:
        return False
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            other = read_with_nibabel(content)
    except Exception:  # noqa: BLE001 (nibabel refuses with whatever its parts raise)
        return False
    if other is None:
        return False
    intensity, spacing_mm = other
    # nibabel scales in double precision, so that a scale of 1e-45 gives other last bits of what is nearly 0.
    tiny = float(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(compute_intensity(volume), intensity, rtol=1e-5, atol=tiny, err_msg=f"seed {seed}")
    np.testing.assert_allclose(volume.spacing_mm, spacing_mm, rtol=1e-5, err_msg=f"seed {seed}")
    return True


def count_read_alike(number, folder):
    contents = make_volumes(folder)
    return sum(compare(seed, contents, folder / "scan.nii") for seed in range(number))


def test_volumes_are_read_as_nibabel_reads_them(tmp_path):
    assert count_read_alike(150, tmp_path) > 40


@pytest.mark.slow
def test_twenty_thousand_volumes_are_read_as_nibabel_reads_them(tmp_path):
    assert count_read_alike(20_000, tmp_path) > 5_000
