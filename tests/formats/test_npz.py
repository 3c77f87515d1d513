"""Archives of arrays: read as NumPy wrote them, and refused in one line whatever a liar put there."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.formats.npz import ArrayLimits, read_npz

LIMITS = {"images": ArrayLimits(10, ((2, 3),)), "labels": ArrayLimits(10, ((), (1,)), max_item_bytes=8)}
IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([[0], [1], [0], [2]], np.uint8)


def to_npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def write_members(path, *members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("images", [IMAGES, np.asfortranarray(IMAGES)])
def test_an_archive_that_numpy_wrote_is_what_numpy_reads(save, images, tmp_path):
    save(tmp_path / "a.npz", images=images, labels=LABELS, other=np.array([None]))
    found = read_npz(tmp_path / "a.npz", LIMITS)
    np.testing.assert_array_equal(found["images"], IMAGES)
    np.testing.assert_array_equal(found["labels"], LABELS)
    assert found["labels"].dtype == np.uint8


def claim(shape):
    return to_npy(IMAGES).replace(b"(4, 2, 3), }" + b" " * 20, f"{shape}, }}".encode().ljust(32))


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (to_npy(np.array([None, 1], dtype=object)), r"images is \(2,\) of object, allowed is \(10, 2, 3\) of uint8"),
        (to_npy(IMAGES.astype(np.int64)), r"of int64, allowed"),
        (to_npy(IMAGES.view(np.int8)), r"of int8, allowed"),
        (to_npy(IMAGES.astype(np.float32)), r"of float32, allowed"),
        (to_npy(np.zeros((11, 2, 3), np.uint8)), r"\(11, 2, 3\)"),
        (to_npy(np.zeros((0, 2, 3), np.uint8)), r"\(0, 2, 3\)"),
        (to_npy(np.zeros((4, 3, 2), np.uint8)), r"\(4, 3, 2\)"),
        (claim("(10, 2, 3)"), r"truncated: 24 bytes after its header, which announces 60"),
        (claim("(3, 2, 3)"), r"too long: more than 18 bytes"),
        (claim("(99999999, 2, 3)"), r"\(99999999, 2, 3\)"),
        (claim("(-4, 2, 3)"), r"shape \(-4, 2, 3\)"),
        (claim("(True, 2, 3)"), r"is \(True, 2, 3\)|truncated|too long"),
        (b"", "magic"),
        (b"\x80\x04K\x01.", "magic"),
        (to_npy(IMAGES)[:40], "header"),
    ],
)
def test_an_array_that_is_not_as_allowed_is_refused_in_one_line(images, match, tmp_path):
    path = write_members(tmp_path / "a.npz", ("images.npy", images), ("labels.npy", to_npy(LABELS)))
    with pytest.raises(UserError, match=match) as refusal:
        read_npz(path, LIMITS)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_without_an_array_or_with_two_of_a_name_is_refused(tmp_path):
    images, labels = ("images.npy", to_npy(IMAGES)), ("labels.npy", to_npy(LABELS))
    with pytest.raises(UserError, match=r"no labels\.npy in it"):
        read_npz(write_members(tmp_path / "a.npz", images), LIMITS)
    with pytest.raises(UserError, match=r"twice images\.npy in it"):
        read_npz(write_members(tmp_path / "b.npz", images, labels, images), LIMITS)
    with pytest.raises(UserError, match=r"compressed by method 14"):
        read_npz(write_members(tmp_path / "c.npz", images, labels, method=zipfile.ZIP_LZMA), LIMITS)
    with pytest.raises(UserError, match=r"nowhere\.npz: not a whole archive"):
        read_npz(tmp_path / "nowhere.npz", LIMITS)


def test_a_changed_byte_of_an_image_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(IMAGES.tobytes()) + 5] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="CRC"):
        read_npz(tmp_path / "a.npz", LIMITS)


def test_a_bomb_and_a_directory_of_many_members_take_no_memory(tmp_path):
    bomb = to_npy(np.zeros((4, 2, 3), np.uint8)) + bytes(1 << 26)
    bomb_path = write_members(tmp_path / "a.npz", ("images.npy", bomb), ("labels.npy", to_npy(LABELS)))
    crowd_path = write_members(tmp_path / "b.npz", *((f"{number:0200d}.npy", b"") for number in range(8_000)))
    assert crowd_path.stat().st_size < 1 << 22
    liar_path = write_members(tmp_path / "c.npz", ("images.npy", to_npy(IMAGES)), ("labels.npy", to_npy(LABELS)))
    end = bytearray(liar_path.read_bytes())
    end[-10:-6] = struct.pack("<I", 1 << 31)  # the size of the directory
    liar_path.write_bytes(end)
    del bomb
    for path, match in ((bomb_path, "too long"), (crowd_path, "directory claims"), (liar_path, "not a whole archive")):
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match=match):
                read_npz(path, LIMITS)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20, path
        finally:
            tracemalloc.stop()
