"""Descriptors of scans that stay nearly the same whatever was done to the scan.

Two steps make them so. Local contrast (what is left of an image after its surroundings are subtracted, in units of
their own contrast) ignores brightness, window and gamma, and only changes its sign with an inversion. The magnitudes
of its low frequencies ignore that sign and a shift; in wide bands of direction and wavelength they change little with
a small rotation or zoom; and sorted over the directions that mirrors and quarter turns exchange, they ignore these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from einops import rearrange

from pipeline.core.array_types import Array, Indices
from pipeline.data.resampling import resampling_weights
from pipeline.data.store import Store

SIDE = 32
# The surroundings of a pixel, in pixels of the reduced image.
SURROUNDINGS = 4.0
# In grey levels: less contrast than that is noise.
MIN_CONTRAST = 6.0
# In grey levels: what is left of one grey level all over is nothing but rounding.
ROUNDING = 0.01
# Bands of wavelength (in cycles an image, from the first to the last) and of direction (over half a turn).
FIRST_CYCLES, LAST_CYCLES, NUM_RINGS, NUM_ANGLES = 1.5, 9.0, 6, 12
NUM_VALUES = NUM_RINGS * NUM_ANGLES
CHUNK = 512


@dataclass(frozen=True)
class Sources:
    """The scans of a store that show anything, with their descriptors.

    Args:
        source_ids: ``(sources,)``.
        group_ids: The patient of each, ``(sources,)``.
        labels: ``(sources,)``; of a scan whose slices have several labels, these joined.
        rows: The rows of the store that belong to each, in the order of the slices.
        descriptors: ``(sources, NUM_VALUES)`` float32, of length 1.
    """

    source_ids: Array
    group_ids: Array
    labels: Array
    rows: tuple[Indices, ...]
    descriptors: Array


def describe_sources(store: Store) -> Sources:
    """Compute the descriptors of all scans; that of a volume is the mean over its slices.

    Args:
        store: Slices or images. A scan of one grey level all over is left out: it is like any other such scan.
    """
    sums, codes = _sum_over_sources(store)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    kept = np.flatnonzero(lengths[:, 0] > 0)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(sums) + 1))
    table = store.index[["source_id", "group_id", "label"]]
    first = table.iloc[order[starts[:-1]]]
    labels = first["label"].to_numpy(dtype=object)
    found = pd.DataFrame({"source": codes, "label": table["label"]}).drop_duplicates()
    # Nearly all scans have one label; to join those of all takes seconds where there are many.
    for source, several in found[found["source"].duplicated(keep=False)].groupby("source"):
        labels[source] = "+".join(sorted(several["label"]))
    return Sources(
        source_ids=first["source_id"].to_numpy(dtype=str)[kept],
        group_ids=first["group_id"].to_numpy(dtype=str)[kept],
        labels=labels.astype(str)[kept],
        rows=tuple(order[starts[source] : starts[source + 1]] for source in kept),
        descriptors=(sums[kept] / lengths[kept]).astype(np.float32),
    )


def _sum_over_sources(store: Store) -> tuple[Array, Indices]:
    codes = pd.factorize(store.index["source_id"])[0].astype(np.int64)
    sums = np.zeros((int(codes.max()) + 1, NUM_VALUES))
    for start in range(0, len(codes), CHUNK):
        chunk = slice(start, start + CHUNK)
        np.add.at(sums, codes[chunk], compute_descriptors(store.examples[chunk]))
    return sums, codes


def describe_stacks(stacks: Sequence[Array]) -> Array:
    """Return the descriptor of each scan, ``(scans, NUM_VALUES)`` of length 1.

    Args:
        stacks: The slices of each, ``(slices, height, width)``, all of one height and width.
    """
    starts = np.cumsum([0, *(len(stack) for stack in stacks[:-1])])
    sums = np.add.reduceat(compute_descriptors(np.concatenate(stacks)).astype(np.float64), starts, axis=0)
    found: Array = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return found


def compute_descriptors(images: Array) -> Array:
    """Return the sorted magnitudes of each image's low frequencies, ``(images, NUM_VALUES)`` float32.

    They are those of local contrast, and so grow with how much an image shows; one grey level all over gives zeros.

    Args:
        images: ``(images, height, width)`` or ``(images, channels, height, width)``; channels are averaged.
    """
    found = [np.zeros((0, NUM_VALUES), np.float32)]
    for start in range(0, len(images), CHUNK):
        contrast = compute_contrast(reduce_images(images[start : start + CHUNK], SIDE), SURROUNDINGS)
        power = np.abs(np.fft.rfft2(contrast * taper(SIDE, 0.3))) ** 2
        # The fourth root of the energy: a strong band must not drown the others.
        bands = (rearrange(power, "image y x -> image (y x)").astype(np.float32) @ _band_weights()) ** np.float32(0.25)
        rings = rearrange(bands, "image (ring angle) -> image ring angle", angle=NUM_ANGLES)
        orbits = [np.sort(rings[:, :, orbit], axis=2) for orbit in list_orbits(NUM_ANGLES)]
        found.append(
            np.concatenate([rearrange(orbit, "image ring angle -> image (ring angle)") for orbit in orbits], 1)
        )
    return np.concatenate(found)


@cache
def list_orbits(num_angles: int) -> list[list[int]]:
    """Return the groups of directions that mirrors and quarter turns exchange.

    A quarter turn adds half of the directions (they span half a turn), and a mirror turns them round. Of twelve
    directions 1 becomes 7, 11 or 5; 0 becomes 6, and 3 becomes 9.

    Args:
        num_angles: The number of directions, an even number.
    """
    orbits: list[list[int]] = []
    for angle in range(num_angles):
        if not any(angle in orbit for orbit in orbits):
            quarter = angle + num_angles // 2
            orbits.append(sorted({place % num_angles for place in (angle, quarter, -angle, -quarter)}))
    return orbits


@cache
def _band_weights() -> Array:
    """Return the weights of the frequencies in each band of wavelength and direction, ``(frequencies, bands)``."""
    down, across = np.meshgrid(np.fft.fftfreq(SIDE) * SIDE, np.arange(SIDE // 2 + 1), indexing="ij")
    cycles, direction = np.hypot(down, across), np.arctan2(down, across)
    rings = np.geomspace(FIRST_CYCLES, LAST_CYCLES, NUM_RINGS)
    ring_width = np.log(rings[1] / rings[0]) / 1.6
    bands = []
    for ring in rings:
        # At a long wavelength few frequencies are there, a cycle apart: a narrow band would hold none.
        angle_width = max(np.pi / NUM_ANGLES, 0.7 / ring) / 1.6
        for angle in np.pi * np.arange(NUM_ANGLES) / NUM_ANGLES:
            turned = (direction - angle + np.pi / 2) % np.pi - np.pi / 2
            away = np.log(np.maximum(cycles, 0.1) / ring) / ring_width
            weights = np.exp(-(away**2) / 2 - (turned / angle_width) ** 2 / 2) * (cycles >= 0.5)
            # Of these both halves of the plane are there, of the others one.
            weights = np.where(across == 0, weights / 2, weights)
            bands.append((weights / weights.sum()).ravel())
    return np.array(bands, dtype=np.float32).T


def reduce_images(images: Array, side: int) -> Array:
    """Return the images in a square of ``side`` pixels, ``(images, side, side)`` float32; channels are averaged.

    The longer side of an image fills the square.
    """
    grey = images.astype(np.float32)
    if grey.ndim == 4:
        grey = grey.mean(axis=1)
    down, across = _reduction_weights(*grey.shape[-2:], side)
    reduced: Array = down @ grey @ across.T
    return reduced


@cache
def _reduction_weights(height: int, width: int, side: int) -> tuple[Array, Array]:
    pixel = max(height, width) / side
    return resampling_weights(height, 1.0, side, pixel), resampling_weights(width, 1.0, side, pixel)


def compute_contrast(images: Array, surroundings: float) -> Array:
    """Return local contrast: how far each pixel is from its surroundings, in units of their own contrast.

    Args:
        images: ``(images, side, side)`` float32 in grey levels.
        surroundings: The standard deviation of the Gaussian that weights the surroundings, in pixels.
    """
    blur = _blur_matrix(images.shape[-1], surroundings)
    difference = images - blur @ images @ blur.T
    difference[np.abs(difference) < ROUNDING] = 0
    contrast: Array = difference / np.sqrt(blur @ difference**2 @ blur.T + MIN_CONTRAST**2)
    return contrast


@cache
def _blur_matrix(side: int, standard_deviation: float) -> Array:
    place = np.arange(side)
    weights = np.exp(-((place[:, None] - place[None, :]) ** 2) / (2 * standard_deviation**2))
    matrix: Array = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


@cache
def taper(side: int, margin: float) -> Array:
    """Return weights that fall to zero at the border of a square, ``(side, side)`` float32.

    What enters or leaves at the border when an image is shifted then counts little.

    Args:
        side: The side of the square in pixels.
        margin: The part of the side over which they fall.
    """
    place = (np.arange(side) + 0.5) / side
    inside = np.minimum(1, np.minimum(place, 1 - place) / margin)
    edge = (0.5 - 0.5 * np.cos(np.pi * inside)).astype(np.float32)
    return np.outer(edge, edge)
