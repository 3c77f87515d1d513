"""Image files: what a file says about its pixels is followed, by values that were computed by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError, VolumeError
from pipeline.formats.image_files import match_channels, read_image, read_pixels, turn_grey
from tests.builders.dicom import write_radiograph

# Pillow reads none of these, or not with white as 0.
REFUSED_TIFFS = {"i1", ">u2", "<i2", ">i2", "<u4", ">u4", "<i4", ">i4", "<f8"}
RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
@pytest.mark.parametrize("is_colour", [False, True])
def test_lossless_formats_give_the_pixels_that_were_saved(suffix, is_colour, tmp_path):
    expected = np.stack([RAMP, RAMP // 2, 255 - RAMP]) if is_colour else RAMP[None]
    pixels = read_pixels(save(tmp_path / f"a.{suffix}", np.moveaxis(expected, 0, -1).squeeze()))
    assert (pixels.limits, pixels.is_coloured) == ((0.0, 255.0), is_colour)
    np.testing.assert_array_equal(pixels.values[:1] if not is_colour else pixels.values, expected)


def test_a_jpeg_is_read_whatever_its_name_ends_in(tmp_path):
    pixels = read_pixels(save(tmp_path / "a.png", np.full((8, 8), 77, np.uint8), format="JPEG"))
    np.testing.assert_array_equal(pixels.values, np.full((1, 8, 8), 77))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_16_keep_their_levels_and_name_no_white(suffix, tmp_path):
    levels = RAMP.astype(np.uint16) * 17
    pixels = read_pixels(save(tmp_path / f"a.{suffix}", levels))
    np.testing.assert_array_equal(pixels.values, levels[None])
    assert pixels.limits is None


@pytest.mark.parametrize("shape", [(1, (1 << 16) + 1), (5793, 5793)])
def test_images_of_too_many_pixels_or_too_long_a_side_are_refused(shape, tmp_path):
    path = save(tmp_path / "a.png", np.zeros(shape, np.uint8), compress_level=1)
    with pytest.raises(VolumeError, match=rf"{shape[0]} x {shape[1]} pixels, at most 33,554,432 are read, and 65,536"):
        read_pixels(path)


def test_a_palette_is_looked_up(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png")
    expected = [[[10, 200], [200, 10]], [[20, 100], [100, 20]], [[30, 50], [50, 30]]]
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png").values, expected)


def test_transparency_is_shown_over_black(tmp_path):
    alpha = np.array([[0, 255], [51, 255]], np.uint8)
    grey = np.stack([np.full((2, 2), 100, np.uint8), alpha], axis=-1)
    np.testing.assert_array_equal(read_pixels(save(tmp_path / "a.png", grey)).values, [[[0, 100], [20, 100]]])
    colour = np.stack([np.full((2, 2), level, np.uint8) for level in (100, 50, 0)] + [alpha], axis=-1)
    expected = [[[0, 100], [20, 100]], [[0, 50], [10, 50]], [[0, 0], [0, 0]]]
    np.testing.assert_array_equal(read_pixels(save(tmp_path / "a.png", colour)).values, expected)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, RAMP),
        (2, RAMP[:, ::-1]),
        (3, RAMP[::-1, ::-1]),
        (4, RAMP[::-1]),
        (5, RAMP.T),
        (6, np.rot90(RAMP, -1)),
        (7, np.rot90(RAMP, 2).T),
        (8, np.rot90(RAMP)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_turns_and_mirrors(orientation, turned, suffix, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    large, turned = (np.kron(levels, np.ones((8, 8), np.uint8)) for levels in (RAMP, turned))
    pixels = read_pixels(save(tmp_path / f"a.{suffix}", large, exif=exif))
    error = np.abs(pixels.values[0].astype(int) - turned).max() if pixels.values[0].shape == turned.shape else 255
    assert error <= (4 if suffix == "jpg" else 0)


def test_grey_where_white_is_zero_is_inverted(tmp_path):
    path = save(tmp_path / "a.tif", RAMP.astype(np.uint16) * 100, tiffinfo={262: 0})
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        assert image.tag_v2[262] == 0
    values = read_pixels(path).values[0].astype(int)
    np.testing.assert_array_equal(values - values.min(), (RAMP.max() - RAMP.astype(int)) * 100)


def write_tiff(path, values, is_white_zero, orientation):
    """Write grey of any type as TIFF 6.0 has it: one strip, a tag for the sign or the float, one for the turn."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    height, width = values.shape
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: width, 257: height, 258: 8 * values.dtype.itemsize, 259: 1, 262: int(not is_white_zero), 273: 8,
        274: orientation, 277: 1, 278: height, 279: values.nbytes, 339: sample_format,
    }  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack(f"{order}2sHI", b"MM" if order == ">" else b"II", 42, 8 + values.nbytes)
    count = struct.pack(f"{order}H", len(tags))
    path.write_bytes(start + values.tobytes() + count + entries + bytes(4))
    return path


@pytest.mark.parametrize("is_white_zero", [False, True])
@pytest.mark.parametrize("orientation", [1, 2, 6])
@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "<u2", ">u2", "<i2", ">i2", "<u4", ">u4", "<i4", ">i4", "<f4", ">f4", "<f8"]
)
def test_a_tiff_of_any_type_of_grey_is_read_as_it_is_or_refused(dtype, orientation, is_white_zero, tmp_path):
    """Pillow alone takes a signed byte for an unsigned one, and half of the 32-bit levels for negative ones."""
    kind = np.dtype(dtype)
    limits = (-3.0, 3.0) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    levels = np.linspace(*limits, 24).round().reshape(4, 6).clip(*limits)
    path = write_tiff(tmp_path / "a.tif", levels.astype(kind), is_white_zero, orientation)
    turned = {1: levels, 2: levels[:, ::-1], 6: np.rot90(levels, -1)}[orientation]
    seen = turned.max() - turned if is_white_zero else turned - turned.min()
    try:
        values = read_pixels(path).values[0].astype(np.float64)
    except VolumeError:
        assert dtype in REFUSED_TIFFS
        return
    np.testing.assert_allclose(values - values.min(), seen, rtol=1e-9)


def test_the_transparent_level_of_deep_grey_is_black_and_the_others_keep_their_levels(tmp_path):
    deep = RAMP.astype(np.uint16) * 250
    pixels = read_pixels(save(tmp_path / "a.png", deep, transparency=int(deep.max())))
    np.testing.assert_array_equal(pixels.values[0], np.where(deep == deep.max(), 0, deep))
    assert pixels.limits is None


def test_what_cannot_be_shown_is_refused_by_name(tmp_path):
    frames = [Image.fromarray(RAMP), Image.fromarray(RAMP // 2)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(VolumeError, match=r"a.tif: several frames"):
        read_pixels(tmp_path / "a.tif")
    save(tmp_path / "nan.tif", np.array([[1.0, np.nan]], np.float32))
    with pytest.raises(VolumeError, match=r"nan.tif: NaN or infinite"):
        read_pixels(tmp_path / "nan.tif")
    rows = b"".join(b"\0" + bytes(6 * 2) for _ in range(2))  # two pixels of 16 bits and three colours a row
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(VolumeError, match=r"deep.png: colour or transparency of more than 8 bits"):
        read_pixels(tmp_path / "deep.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(VolumeError, match=r"b.png: not readable as an image"):
        read_pixels(tmp_path / "b.png")
    with pytest.raises(VolumeError, match=r"c.png: no such file"):
        read_pixels(tmp_path / "c.png")


def test_a_published_sets_model_takes_its_own_size_and_depth_alone(tmp_path):
    path = save(tmp_path / "a.png", RAMP)
    np.testing.assert_array_equal(read_image(path, 1, (4, 6)), RAMP)
    np.testing.assert_array_equal(read_image(path, 3, (4, 6)), np.stack([RAMP] * 3))
    with pytest.raises(UserError, match="4 x 6 pixels, the model was trained on 8 x 8"):
        read_image(path, 1, (8, 8))
    with pytest.raises(UserError, match="more than 8 bits"):
        read_image(save(path, RAMP.astype(np.uint16)), 1, (4, 6))


def test_colour_becomes_grey_only_where_that_is_wanted(tmp_path):
    pixels = read_pixels(save(tmp_path / "a.png", np.stack([RAMP, RAMP, RAMP // 2], axis=-1)))
    with pytest.raises(UserError, match="in colour, the model was trained on grey images"):
        match_channels("a.png", pixels.values, 1)
    expected = 0.299 * RAMP + 0.587 * RAMP + 0.114 * (RAMP // 2)
    np.testing.assert_allclose(turn_grey(pixels.values)[0], expected, atol=0.51)


def test_a_radiograph_is_windowed_by_its_header(tmp_path):
    levels = RAMP.astype(np.uint16) * 10
    pixels = read_pixels(write_radiograph(tmp_path / "a", levels, WindowCenter=1000.5, WindowWidth=801))
    np.testing.assert_array_equal(pixels.values[0], levels)
    assert pixels.limits == (600.0, 1400.0), "DICOM PS3.3 C.11.2.1.2: centre - 0.5 -+ (width - 1) / 2"
    assert pixels.pixel_mm == (0.2, 0.3)
    assert read_pixels(write_radiograph(tmp_path / "b", levels)).limits is None
    scaled = read_pixels(write_radiograph(tmp_path / "c", levels, RescaleSlope=2, RescaleIntercept=-5))
    np.testing.assert_array_equal(scaled.values[0], levels * 2.0 - 5.0)
    alone = read_pixels(write_radiograph(tmp_path / "e", levels, RescaleSlope=2))
    np.testing.assert_array_equal(alone.values[0], levels * 2.0)
    nothing = read_pixels(write_radiograph(tmp_path / "d", levels, WindowCenter=-9000, WindowWidth=10))
    assert nothing.limits is None, "a window that shows nothing"


def test_a_radiograph_with_white_as_zero_is_inverted(tmp_path):
    levels = RAMP.astype(np.uint16) * 10
    path = write_radiograph(
        tmp_path / "a", levels, PhotometricInterpretation="MONOCHROME1", WindowCenter=1000.5, WindowWidth=801
    )
    pixels = read_pixels(path)
    np.testing.assert_array_equal(pixels.values[0], -levels.astype(float))
    assert pixels.limits == (-1400.0, -600.0)


def test_padding_of_a_radiograph_is_black(tmp_path):
    levels = RAMP.astype(np.uint16) + 1000
    levels[0] = 4095
    pixels = read_pixels(write_radiograph(tmp_path / "a", levels, PixelPaddingValue=4095))
    assert (pixels.values[0][0] == pixels.values[0].min()).all()
    np.testing.assert_array_equal(pixels.values[0][1:], levels[1:])
    levels[0] = [4000, 4010, 4020, 4030, 4040, 4095]
    ranged = write_radiograph(tmp_path / "b", levels, PixelPaddingValue=4095, PixelPaddingRangeLimit=4000)
    np.testing.assert_array_equal(read_pixels(ranged).values, pixels.values)


def test_nothing_personal_of_a_radiograph_is_in_a_refusal(tmp_path):
    path = write_radiograph(tmp_path / "a", RAMP.astype(np.uint16), PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(VolumeError, match="neither grey nor RGB") as caught:
        read_pixels(path)
    assert "Secret" not in str(caught.value)
