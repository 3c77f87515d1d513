"""Pictures that are shown to a model of images: read as they are, or refused."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image

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
    """Open a picture of a plain format that is no larger than memory holds.

    Pillow knows many formats, of which one starts another program (PostScript), and it looks at the content alone: a
    name that ends with ``.png`` says nothing.

    Args:
        path: a PNG, JPEG, BMP or PPM file.

    Yields:
        The picture; what goes wrong while its pixels are read is refused as well.

    Raises:
        VolumeError: no such file, damaged, of another format, or too large.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise VolumeError(f"{path}: {num_bytes:,} bytes, at most {MAX_FILE_BYTES:,} are read. Make it smaller.")
        # From memory, because a length in the file may promise more than there is.
        with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                found = f"{picture.height} x {picture.width}"
                raise VolumeError(f"{path}: {found} pixels, at most {MAX_PIXELS:,} are read. Make it smaller.")
            yield picture
    except UserError:
        raise
    except READ_ERRORS as error:
        raise VolumeError(f"{path}: not readable as a picture ({error}). Copy it anew.") from error


def read_image(path: Path, num_channels: int, image_size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Read a picture that already has the model's size.

    Nothing is resized or cut: a model of 28 x 28 digits knows nothing of a photograph made small.

    Args:
        path: a file that Pillow reads, such as PNG.
        num_channels: 1 for grey, 3 for red, green and blue.
        image_size: height and width.

    Returns:
        ``(height, width)`` for one channel, else ``(channels, height, width)``, uint8.

    Raises:
        UserError: no such file, unreadable, of another size, with transparency or more than 8 bits, or in colour
            where the model knows grey alone.
    """
    with open_image(path) as picture:
        mode, (width, height) = picture.mode, picture.size
        if (height, width) != tuple(image_size):
            raise UserError(
                f"{path}: {height} x {width} pixels, the model was trained on {image_size[0]} x {image_size[1]}. "
                "Bring it to that size as the training images were."
            )
        if mode not in MODES or "transparency" in picture.info:
            raise UserError(f"{path}: of kind {mode}; allowed are 8-bit grey and RGB without transparency.")
        pixels = np.asarray(picture.convert("RGB"))
    if num_channels == 1:
        if (pixels != pixels[..., :1]).any():
            raise UserError(f"{path}: in colour, the model was trained on grey images. Turn it grey first.")
        return pixels[..., 0]
    return rearrange(pixels, "height width channel -> channel height width")
