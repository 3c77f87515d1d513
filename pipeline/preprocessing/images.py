"""From an image file of any size, depth and colour to an image of one size and 8 bits."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.data import PreprocessConfig
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import VolumeError
from pipeline.data.resampling import resample
from pipeline.formats.image_files import ImagePixels, match_channels, read_image, read_pixels, turn_grey
from pipeline.preprocessing.slicing import choose_window


@dataclass(frozen=True)
class FittedImage:
    """An image as a store holds it.

    Args:
        values: ``(channels, height, width)`` uint8, one channel where it is grey.
        low: The level that became black, as the file has it.
        high: The level that became white.
        stored_shape: The height and width, and the channels of colour, as read.
        pixel_mm: The height and width of a pixel as read; None where unknown.
        sha256: The checksum of the file.
    """

    values: Array
    low: float
    high: float
    stored_shape: tuple[int, ...]
    pixel_mm: tuple[float, float] | None
    sha256: str


def fit_image(path: Path, options: PreprocessConfig) -> FittedImage:
    """Read an image and fit it into the size of the options.

    Args:
        path: The file.
        options: The size, fit, spacing, colour and percentiles.

    Raises:
        VolumeError: unreadable, or one grey level everywhere.
    """
    return fit_pixels(str(path), read_pixels(path), options)


def read_stored(path: Path, spec: InputSpec, options: PreprocessConfig) -> Array:
    """Read an image as a model takes it; only images of patients are fitted, others must have the model's size.

    Args:
        path: The file.
        spec: The images that the model was trained on.
        options: The options by which images of patients were fitted in training.

    Returns:
        ``(height, width)`` for one channel, else ``(channels, height, width)``, uint8.

    Raises:
        UserError: unreadable, of another size, or in colour where the model was trained on grey alone.
    """
    if not spec.kind.has_patients:
        return read_image(path, spec.num_channels, spec.image_size)
    return match_channels(str(path), fit_image(path, options).values, spec.num_channels)


def fit_pixels(name: str, pixels: ImagePixels, options: PreprocessConfig) -> FittedImage:
    """Fit pixels into the size of the options; black and white are those of the file, or percentiles.

    Args:
        name: The name of the file, for messages.
        pixels: The pixels as read.
        options: The size, fit, spacing, colour and percentiles.

    Raises:
        VolumeError: one grey level everywhere.
    """
    values, is_coloured = pixels.values, pixels.is_coloured
    if not is_coloured:
        values = values[:1]
    elif options.colour == "grey":
        values = turn_grey(values)
    limits = pixels.limits
    if limits is None:
        limits = choose_window(values.astype(np.float32), options.intensity_percentiles)
    low, high = limits
    if low < high:
        pixel_mm = pixels.pixel_mm or (1.0, 1.0)
        spacing_mm = None if pixels.pixel_mm is None else options.spacing_mm
        fitted = resample(values, (low, high), pixel_mm, spacing_mm, options.image_size, options.fit)
    if low >= high or fitted.min() == fitted.max():
        raise VolumeError(f"{name}: one grey level everywhere after fitting. There is nothing to see.")
    shape = (*pixels.values.shape[1:], *((3,) if is_coloured else ()))
    return FittedImage(fitted, low, high, shape, pixels.pixel_mm, pixels.sha256)
