"""Image files: read as they are for a model of images, or refused."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError, VolumeError

# Of Pillow's modes those with 8 bits and no transparency: bilevel, grey, palette, colour.
MODES = ("1", "L", "P", "RGB")
FORMATS = ("PNG", "JPEG", "BMP", "PPM")
MAX_FILE_BYTES = 1 << 28
MAX_PIXELS = 1 << 26
# Pillow has no error of its own; damaged files were seen to end in most of these.
READ_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image of a plain format that is no larger than memory holds.

    Pillow reads many formats, of which one starts another program (PostScript), and it looks at the content alone: the
    ending ``.png`` of a name guarantees nothing.

    Args:
        path: A PNG, JPEG, BMP or PPM file.

    Yields:
        The image; what goes wrong while its pixels are read is refused as well.

    Raises:
        VolumeError: no such file, damaged, of another format, or too large.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise VolumeError(f"{path}: {num_bytes:,} bytes, at most {MAX_FILE_BYTES:,} are read. Make it smaller.")
        # From memory, because a length in the file may be larger than the file.
        with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                found = f"{image.height} x {image.width}"
                raise VolumeError(f"{path}: {found} pixels, at most {MAX_PIXELS:,} are read. Make it smaller.")
            yield image
    except UserError:
        raise
    except READ_ERRORS as error:
        raise VolumeError(f"{path}: not readable as an image ({error}). Copy it again.") from error


def read_image(path: Path, num_channels: int, image_size: tuple[int, int]) -> Array:
    """Read an image that already has the model's size.

    Nothing is resized or cut: a model of 28 x 28 digits was not trained on photographs made small.

    Args:
        path: A file that Pillow reads, such as PNG.
        num_channels: The number of channels: 1 for grey, 3 for red, green and blue.
        image_size: The height and width of the image.

    Returns:
        ``(height, width)`` for one channel, else ``(channels, height, width)``, uint8.

    Raises:
        UserError: no such file, unreadable, of another size, with transparency or more than 8 bits, or in colour
            where the model was trained on grey alone.
    """
    with open_image(path) as image:
        mode, (width, height) = image.mode, image.size
        if (height, width) != tuple(image_size):
            raise UserError(
                f"{path}: {height} x {width} pixels, the model was trained on {image_size[0]} x {image_size[1]}. "
                "Bring it to that size as the training images were."
            )
        if mode not in MODES or "transparency" in image.info:
            raise UserError(f"{path}: of kind {mode}; allowed are 8-bit grey and RGB without transparency.")
        pixels = np.asarray(image.convert("RGB"))
    if num_channels == 1:
        if (pixels != pixels[..., :1]).any():
            raise UserError(f"{path}: in colour, the model was trained on grey images. Turn it grey first.")
        return pixels[..., 0]
    return rearrange(pixels, "height width channel -> channel height width")
