"""Pictures that are shown to a model of images: read as they are, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image, UnidentifiedImageError

from pipeline.errors import UserError

# Of Pillow's modes those with 8 bits and no transparency: bilevel, grey, palette, colour.
MODES = ("1", "L", "P", "RGB")


def read_picture(path: Path, num_channels: int, image_size: tuple[int, int]) -> np.ndarray[Any, Any]:
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
    try:
        with Image.open(path) as picture:
            mode, (width, height) = picture.mode, picture.size
            if (height, width) != tuple(image_size):
                raise UserError(
                    f"{path}: {height} x {width} pixels, the model was trained on {image_size[0]} x {image_size[1]}. "
                    "Bring it to that size as the training images were."
                )
            if mode not in MODES or "transparency" in picture.info:
                raise UserError(f"{path}: of kind {mode}; allowed are 8-bit grey and RGB without transparency.")
            pixels = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not readable as a picture ({error}). Copy it anew.") from error
    if num_channels == 1:
        if (pixels != pixels[..., :1]).any():
            raise UserError(f"{path}: in colour, the model was trained on grey images. Turn it grey first.")
        return pixels[..., 0]
    return rearrange(pixels, "height width channel -> channel height width")
