"""Image files: PNG, JPEG, TIFF, BMP, PPM and DICOM radiographs as arrays of pixels, or refused.

One reader for preprocessing, prediction and serving. What a file says about its pixels is followed: more than eight
bits, palettes, transparency (over black), the turn and mirror of EXIF, inverted grey. Other metadata are not read.
"""

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image, ImageOps

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError, VolumeError
from pipeline.core.files import describe_absence
from pipeline.formats.dicom import has_magic, read_radiograph

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF")
MAX_FILE_BYTES = 1 << 28
MAX_PIXELS, MAX_SIDE = 1 << 25, 1 << 16  # in colour and as float32, twice, they are a gibibyte
# Pillow has no error of its own; damaged files were seen to end in most of these.
READ_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error, zlib.error,
    ZeroDivisionError, AttributeError, NotImplementedError, Image.DecompressionBombError,
)  # fmt: skip
# Of Pillow's modes those with 8 bits that are shown as they are.
SHOWN_AS_RGB = ("P", "CMYK", "YCbCr")
DEEP = ("I", "F")  # the first letter of Pillow's modes of grey with more than 8 bits
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
PNG_START, PNG_COLOUR = b"\x89PNG\r\n\x1a\n", (2, 4, 6)
TIFF_BITS, TIFF_INVERTED, TIFF_SAMPLE_FORMAT, EXIF_ORIENTATION = 258, (262, 0), 339, 274
SIGNED = 2  # of TIFF's sample formats


@dataclass(frozen=True)
class ImagePixels:
    """The pixels of an image, turned as it is to be seen.

    Args:
        values: ``(channels, height, width)``, one channel (grey) or three (red, green, blue); uint8, or wider numbers
            for more than 8 bits.
        limits: The values that are black and white; None where the file does not say so, as with more than 8 bits.
        pixel_mm: The height and width of a pixel; None where they are not known.
        sha256: The checksum of the file.
    """

    values: Array
    limits: tuple[float, float] | None
    pixel_mm: tuple[float, float] | None = None
    sha256: str = ""

    @property
    def is_coloured(self) -> bool:
        """True where red, green and blue differ somewhere; grey that is stored as RGB is grey."""
        return len(self.values) == 3 and bool((self.values != self.values[:1]).any())


def read_pixels(path: Path) -> ImagePixels:
    """Read an image file.

    Args:
        path: A PNG, JPEG, TIFF, BMP or PPM file, or a DICOM radiograph, whatever its name ends in.

    Raises:
        VolumeError: no such file, damaged, of another format, too large, or of several frames.
    """
    try:
        num_bytes = path.stat().st_size
    except FileNotFoundError as error:
        raise VolumeError(f"{path}: {describe_absence(path)}.") from error
    if num_bytes > MAX_FILE_BYTES:
        raise VolumeError(f"{path}: {num_bytes:,} bytes, at most {MAX_FILE_BYTES:,} are read. Make it smaller.")
    return decode_pixels(str(path), path.read_bytes())


def decode_pixels(name: str, content: bytes) -> ImagePixels:
    """Decode the content of an image file.

    Pillow reads many formats, of which one starts another program (PostScript); only those of ``FORMATS`` are tried.

    Args:
        name: The name of the file, for messages.
        content: All of its bytes.

    Raises:
        VolumeError: damaged, of another format, too large, of several frames, or colour of more than 8 bits.
    """
    if has_magic(content):
        values, limits, pixel_mm = read_radiograph(name, content, MAX_PIXELS)
        pixels = ImagePixels(values, limits, pixel_mm)
    else:
        pixels = _decode_plain(name, content)
    return replace(pixels, sha256=hashlib.sha256(content).hexdigest())


def read_image(path: Path, num_channels: int, image_size: tuple[int, int]) -> Array:
    """Read an image that already has the model's size.

    Nothing is resized or cut: a model of 28 x 28 digits was not trained on photographs made small.

    Args:
        path: An image file.
        num_channels: The number of channels: 1 for grey, 3 for red, green and blue.
        image_size: The height and width of the image.

    Returns:
        ``(height, width)`` for one channel, else ``(channels, height, width)``, uint8.

    Raises:
        UserError: no such file, unreadable, of another size, of more than 8 bits, or in colour where the model was
            trained on grey alone.
    """
    pixels = read_pixels(path)
    height, width = pixels.values.shape[1:]
    if (height, width) != tuple(image_size):
        raise UserError(
            f"{path}: {height} x {width} pixels, the model was trained on {image_size[0]} x {image_size[1]}. "
            "Bring it to that size as the training images were."
        )
    if pixels.values.dtype != np.uint8:
        raise UserError(f"{path}: more than 8 bits; the model was trained on 8-bit images. Convert it as they were.")
    return match_channels(str(path), pixels.values if pixels.is_coloured else pixels.values[:1], num_channels)


def match_channels(name: str, values: Array, num_channels: int) -> Array:
    """Return an image with as many channels as a model takes.

    Args:
        name: The name of the file, for messages.
        values: ``(channels, height, width)``, one channel where it is grey.
        num_channels: 1 or 3.

    Returns:
        ``(height, width)`` for one channel, else ``(channels, height, width)``.

    Raises:
        UserError: in colour, and the model takes grey alone.
    """
    if num_channels == 1:
        if len(values) > 1:
            raise UserError(f"{name}: in colour, the model was trained on grey images. Turn it grey first.")
        values = values[0]
    else:
        values = np.ascontiguousarray(np.broadcast_to(values, (num_channels, *values.shape[1:])))
    return values


def turn_grey(values: Array) -> Array:
    """Return ``(1, height, width)`` of ``(channels, height, width)``: the luma of ITU-R 601, as Pillow computes it."""
    if len(values) == 1:
        return values
    image = Image.fromarray(rearrange(values, "channel row column -> row column channel"), "RGB")
    grey: Array = np.asarray(image.convert("L"))[None]
    return grey


def _decode_plain(name: str, content: bytes) -> ImagePixels:
    try:
        # From memory, because a length in the file may be larger than the file. Warnings may quote the metadata.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                raise VolumeError(
                    f"{name}: {image.height} x {image.width} pixels, at most {MAX_PIXELS:,} are read, and {MAX_SIDE:,} "
                    "a side. Make it smaller."
                )
            _refuse_kind(name, image, content)
            values, limits = _take_values(name, image)
    except UserError:
        raise
    except READ_ERRORS as error:
        found = type(error).__name__  # its text may quote the metadata
        raise VolumeError(
            f"{name}: not readable as an image ({found}); {', '.join(FORMATS)} and DICOM are. Copy or convert it."
        ) from error
    return ImagePixels(values, limits)


def _refuse_kind(name: str, image: Image.Image, content: bytes) -> None:
    if image.format in ("TIFF", "PNG") and getattr(image, "n_frames", 1) > 1:
        raise VolumeError(f"{name}: several frames in a file. Save each as a file.")
    # Pillow would drop half of the bits without a word, and 12 of 16 would be nearly black.
    is_deep_png = content.startswith(PNG_START) and content[24] == 16 and content[25] in PNG_COLOUR
    bits = image.tag_v2.get(TIFF_BITS, (8,)) if image.format == "TIFF" else (8,)  # type: ignore[attr-defined]
    if is_deep_png or (len(bits) > 1 and max(bits) > 8):
        raise VolumeError(
            f"{name}: colour or transparency of more than 8 bits. Save it with 8 bits, or as 16-bit grey."
        )


def _take_values(name: str, image: Image.Image) -> tuple[Array, tuple[float, float] | None]:
    """Return ``(channels, height, width)`` and its limits, turned as EXIF says."""
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    transparent_level = image.info.get("transparency")
    has_exif = image.format == "TIFF" or any(key in image.info for key in ("exif", "xmp", "XML:com.adobe.xmp"))
    if has_exif and image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)  # what it returns is of no format and has no tags
    mode = image.mode
    if mode in TRANSPARENT or (transparent_level is not None and not mode.startswith(DEEP)):
        return _blend_over_black(image), (0.0, 255.0)
    is_signed = max(tags.get(TIFF_SAMPLE_FORMAT, (1,))) == SIGNED
    if mode in ("1", "L") and not is_signed:
        return np.asarray(image if mode == "L" else image.convert("L"))[None], (0.0, 255.0)
    if mode == "RGB" or mode in SHOWN_AS_RGB:
        pixels = np.asarray(image.convert("RGB"))
        return rearrange(pixels, "row column channel -> channel row column"), (0.0, 255.0)
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise VolumeError(f"{name}: of kind {mode}; grey and RGB images are read. Convert it.")
    values = values.astype(values.dtype.newbyteorder("="))[None]
    if not np.isfinite(values).all():
        raise VolumeError(f"{name}: NaN or infinite pixels. Repair or leave out the image.")
    # Pillow has the bits of these, and takes the first one for a part of the number, or for its sign.
    if mode == "L":
        values = values.view(np.int8).astype(np.int16)
    elif mode == "I" and tags.get(TIFF_BITS) == (32,) and not is_signed:
        values = values.view(np.uint32)
    if isinstance(transparent_level, int):
        values = np.where(values == transparent_level, 0, values)
    tag, inverted = TIFF_INVERTED
    if tags.get(tag) == inverted:
        values = values.max() - values
    return values, None


def _blend_over_black(image: Image.Image) -> Array:
    """Show a transparent image over black, ``(channels, height, width)`` uint8."""
    is_grey = image.mode in ("LA", "La", "L")
    pixels = np.asarray(image.convert("LA" if is_grey else "RGBA")).astype(np.uint16)
    blended = ((pixels[..., :-1] * pixels[..., -1:] + 127) // 255).astype(np.uint8)
    return rearrange(blended, "row column channel -> channel row column")
