"""Alignment of two images, and how much they agree once aligned.

One image is looked for in the other in eight orientations, three rotations and three zooms by correlation in the
frequency domain; the best of these are refined to an affine map (Lucas-Kanade), first coarse, then fine. All of it is
on local contrast, so that gamma, window and inversion do not matter.

How much a correlation says depends on how much the images show: two smooth or small ones agree by chance once they
may be shifted, turned and stretched. Its significance counts that. Fisher's transform of a correlation of n independent
pixels has the standard deviation 1 / sqrt(n - 3); neighbouring pixels are not independent, and count as so many as the
spectra of both images say. The significance is in these standard deviations.

scikit-image and OpenCV align one pair at a time and by shift or by affine map alone; thousands of pairs are aligned
here at once.

Source:
    S. Baker, I. Matthews, "Lucas-Kanade 20 Years On: A Unifying Framework" (2004), the forward additive form.
    P. Clifford, S. Richardson, D. Hémon, "Assessing the significance of the correlation between two spatial processes",
    Biometrics 45 (1989), for the effective number of pixels.
"""

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
from einops import rearrange

from pipeline.copies.descriptors import compute_contrast, reduce_images, taper
from pipeline.copies.sampling import sample
from pipeline.core.array_types import Array, Indices

COARSE_SIDE, MAX_FINE_SIDE = 32, 96
COARSE_SURROUNDINGS, FINE_SURROUNDINGS = 3.0, 1.5
ROTATIONS_DEGREES, ZOOMS = (-5.0, 0.0, 5.0), (0.9, 1.0, 1.1)
# The largest shift that is looked for, in pixels of the coarse image; the refinement goes further.
MAX_SHIFT = 5
NUM_STARTS, NUM_ITERATIONS = 2, 5
# The part of the first image that the second one must cover, and by how much an aligned image may be stretched.
MIN_COVER, MIN_STRETCH, MAX_STRETCH = 0.6, 0.75, 1.3
MAX_STEP = 0.1
# A correlation of 1 would be infinitely many standard deviations above none.
MAX_CORRELATION = 0.9999
# Images that agree less than this when coarse are not compared when fine; their similarity is what it then is at most.
MIN_COARSE, HOPELESS_FACTOR = 0.8, 0.7
CHUNK = 32
ORIENTATIONS = (
    "upright", "mirrored", "mirrored from top to bottom", "turned by 180 degrees",
    "mirrored and turned by 90 degrees", "turned by 90 degrees",
    "turned by 270 degrees", "mirrored and turned by 270 degrees",
)  # fmt: skip


@dataclass(frozen=True)
class Alignments:
    """The agreement of pairs of images at their best alignment.

    Args:
        similarity: The correlation of fine local contrast where both images are, ``(pairs,)``, 0 to 1.
        orientation: The place in ``ORIENTATIONS`` of how the second image lies to the first, ``(pairs,)``.
        is_inverted: Whether black is white in one of them, ``(pairs,)``.
        significance: How far the similarity is above that of two images that have nothing in common, in standard
            deviations of a single alignment, ``(pairs,)``; 0 where images are not compared when fine.
    """

    similarity: Array
    orientation: Indices
    is_inverted: Array
    significance: Array

    def take(self, places: Array) -> "Alignments":
        """Return those of the pairs at these places."""
        return Alignments(
            self.similarity[places], self.orientation[places], self.is_inverted[places], self.significance[places]
        )


def join(parts: list[Alignments]) -> Alignments:
    """Return the alignments of several lists of pairs, one list after the other."""
    if not parts:
        return Alignments(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0))
    return Alignments(
        np.concatenate([part.similarity for part in parts]),
        np.concatenate([part.orientation for part in parts]),
        np.concatenate([part.is_inverted for part in parts]),
        np.concatenate([part.significance for part in parts]),
    )


@dataclass(frozen=True)
class Maps:
    """Affine maps from the first image of each pair into the oriented second one, in units of half a side.

    Args:
        matrix: ``(pairs, 2, 2)``.
        shift: ``(pairs, 2)``.
        correlation: The correlation after this map, ``(pairs,)``, negative where one image is inverted.
    """

    matrix: Array
    shift: Array
    correlation: Array

    def take(self, places: Array) -> "Maps":
        """Return the maps at these places."""
        return Maps(self.matrix[places], self.shift[places], self.correlation[places])


def align(first: Array, second: Array, min_coarse: float = MIN_COARSE) -> Alignments:
    """Align each image with its partner.

    Args:
        first: ``(pairs, height, width)`` or ``(pairs, channels, height, width)`` uint8.
        second: As ``first``.
        min_coarse: Images that agree less than this when coarse are not compared when fine; their similarity is then
            a guess. 0 compares all.
    """
    parts = [_align(first[at : at + CHUNK], second[at : at + CHUNK], min_coarse) for at in range(0, len(first), CHUNK)]
    return join(parts)


def _align(first: Array, second: Array, min_coarse: float) -> Alignments:
    fine_side = min(MAX_FINE_SIDE, max(COARSE_SIDE, *first.shape[-2:]))
    coarse = [compute_contrast(reduce_images(images, COARSE_SIDE), COARSE_SURROUNDINGS) for images in (first, second)]
    orientations, starts = find_starts(*coarse)
    pair = np.arange(orientations.size) // NUM_STARTS
    refined = refine(coarse[0][pair], orient(coarse[1][pair], orientations.ravel()), starts)
    strength = rearrange(_rate(refined), "(pair start) -> pair start", start=NUM_STARTS)
    best = strength.argmax(axis=1)
    places = np.arange(len(first)) * NUM_STARTS + best
    chosen = orientations[np.arange(len(first)), best]
    similarity, correlation = strength.max(axis=1) * HOPELESS_FACTOR, refined.correlation[places]
    significance = np.zeros(len(first))
    hopeful = np.flatnonzero(strength.max(axis=1) >= min_coarse)
    if len(hopeful) > 0:
        fine = [compute_contrast(reduce_images(im[hopeful], fine_side), FINE_SURROUNDINGS) for im in (first, second)]
        final = refine(fine[0], orient(fine[1], chosen[hopeful]), refined.take(places[hopeful]))
        similarity[hopeful], correlation[hopeful] = _rate(final), final.correlation
        significance[hopeful] = compute_significance(similarity[hopeful], count_effective_pixels(*fine))
    return Alignments(similarity, chosen, correlation < 0, significance)


def compute_significance(similarity: Array, num_pixels: Array) -> Array:
    """Return how far correlations are above none, in standard deviations of Fisher's transform.

    A correlation of 0.8 of 100 pixels is ``arctanh(0.8) * sqrt(97)``, 10.8 standard deviations above none.

    Args:
        similarity: Sizes of correlations, ``(pairs,)``.
        num_pixels: The effective number of pixels of each, ``(pairs,)``.
    """
    found: Array = np.arctanh(np.minimum(similarity, MAX_CORRELATION)) * np.sqrt(np.maximum(num_pixels - 3, 0))
    return found


def count_effective_pixels(first: Array, second: Array) -> Array:
    """Return how many independent pixels say as much as those of two images, ``(pairs,)``.

    The variance of the correlation of two unrelated images is the sum over all distances of the products of their
    autocorrelations, over the number of pixels; of their power spectra that is the mean of the product over the product
    of the means. White noise of both gives about the number of pixels that the correlation weights, a tenth of the
    spectrum a tenth of it. Mirrors and quarter turns, which reorder a spectrum, are not undone: it changes little.

    Args:
        first: Fine local contrast, ``(pairs, side, side)``.
        second: As ``first``.
    """
    weights = taper(first.shape[1], 0.2)
    powers = [_compute_power(images, weights) for images in (first, second)]
    product_of_means = powers[0].mean(axis=(1, 2)) * powers[1].mean(axis=(1, 2))
    part = product_of_means / ((powers[0] * powers[1]).mean(axis=(1, 2)) + 1e-9)
    number: Array = part * weights.sum() ** 2 / (weights**2).sum()
    return number


def _compute_power(images: Array, weights: Array) -> Array:
    means = (images * weights).sum(axis=(1, 2), keepdims=True) / weights.sum()
    power: Array = np.abs(np.fft.fft2((images - means) * np.sqrt(weights))) ** 2
    return power


def _rate(maps: Maps) -> Array:
    """Return the size of the correlation, zero where the map squeezes or stretches an image beyond belief."""
    stretch = np.linalg.svd(maps.matrix, compute_uv=False)
    is_plausible = (stretch.max(axis=1) <= MAX_STRETCH) & (stretch.min(axis=1) >= MIN_STRETCH)
    rated: Array = np.abs(maps.correlation) * is_plausible
    return rated


def orient(images: Array, orientations: Array) -> Array:
    """Return each square image in its orientation, a place in ``ORIENTATIONS``."""
    oriented = np.empty_like(images)
    for orientation in np.unique(orientations):
        chosen = orientations == orientation
        turned = images[chosen]
        if orientation & 4:
            turned = turned.swapaxes(1, 2)
        if orientation & 2:
            turned = turned[:, ::-1]
        oriented[chosen] = turned[:, :, ::-1] if orientation & 1 else turned
    return oriented


def find_starts(first: Array, second: Array) -> tuple[Indices, Maps]:
    """Look for each first image in the second one in all orientations, rotations, zooms and shifts.

    Args:
        first: Coarse local contrast, ``(pairs, side, side)``.
        second: As ``first``.

    Returns:
        The best orientations, ``(pairs, NUM_STARTS)``, and a map for each of them, those of a pair together.
    """
    num_pairs, side = first.shape[:2]
    window = taper(side, 0.3)
    linear = np.array([_rotate_and_zoom(*move) for move in itertools.product(ROTATIONS_DEGREES, ZOOMS)])
    # A(x) agrees with B(Mx + t) as A(M^-1 x) does with B(x + t): the first image is moved, and the second one turned.
    warped = [_sample(first, np.linalg.inv(matrix)[None], np.zeros((1, 2)))[0] for matrix in linear]
    firsts = np.stack([rearrange(values, "pair (y x) -> pair y x", y=side) * window for values in warped], axis=1)
    seconds = np.stack([orient(second, np.full(num_pairs, place)) * window for place in range(8)], axis=1)
    lengths = np.linalg.norm(firsts, axis=(2, 3))[:, :, None] * np.linalg.norm(seconds, axis=(2, 3))[:, None]
    near = np.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    shifts = near / (side / 2)
    product = np.conj(np.fft.rfft2(firsts))[:, :, None] * np.fft.rfft2(seconds)[:, None]
    # The inverse transform at a few shifts alone: two small products cost less than the whole surface.
    down, across = _inverse_transform(side)
    surfaces = (down @ product @ across).real
    surfaces = rearrange(surfaces, "pair move turn y x -> pair (move turn) (y x)")
    places = np.abs(surfaces).argmax(axis=2)
    heights = np.take_along_axis(surfaces, places[..., None], axis=2)[..., 0]
    correlations = heights / np.maximum(rearrange(lengths, "pair move turn -> pair (move turn)"), 1e-6)
    order = np.argsort(-np.abs(correlations), axis=1)[:, :NUM_STARTS]
    moves, orientations = np.divmod(order, 8)
    chosen = np.take_along_axis(places, order, axis=1)
    shift = np.stack([shifts[chosen // len(near)], shifts[chosen % len(near)]], axis=-1)
    flat = "pair start ... -> (pair start) ..."
    maps = Maps(
        rearrange(linear[moves], flat),
        rearrange(shift, flat),
        rearrange(np.take_along_axis(correlations, order, axis=1), flat),
    )
    return orientations, maps


@cache
def _inverse_transform(side: int) -> tuple[Array, Array]:
    """Return the matrices, from the left and from the right, that give a correlation at the shifts looked for."""
    near, frequency = np.arange(-MAX_SHIFT, MAX_SHIFT + 1), np.arange(side // 2 + 1)
    down = np.exp(2j * np.pi * np.outer(near, np.arange(side)) / side)
    across = np.exp(2j * np.pi * np.outer(frequency, near) / side)
    # The half of the plane that is not there is the conjugate of what is.
    twice = np.where((frequency == 0) | (frequency == side // 2), 1, 2)[:, None]
    return down.astype(np.complex64), (across * twice / side**2).astype(np.complex64)


def _rotate_and_zoom(degrees: float, zoom: float) -> Array:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom


def refine(first: Array, second: Array, start: Maps) -> Maps:
    """Improve affine maps step by step; the best one on the way is kept.

    Args:
        first: Local contrast, ``(pairs, side, side)``.
        second: As ``first``, in the orientation of the map.
        start: A map for each pair.
    """
    num_pairs, side = first.shape[:2]
    window = taper(side, 0.2).reshape(-1)
    values = rearrange(first, "pair y x -> pair (y x)")
    matrix, shift = start.matrix.copy(), start.shift.copy()
    best = Maps(matrix, shift, np.zeros(num_pairs))
    for iteration in range(NUM_ITERATIONS + 1):
        moved, is_inside = _sample(second, matrix, shift)
        weights = window * is_inside
        total = weights.sum(axis=1, keepdims=True) + 1e-6
        one = values - _dot(values, weights)[:, None] / total
        two = moved - _dot(moved, weights)[:, None] / total
        weighted = two * weights
        product, power = _dot(one, weighted), _dot(two, weighted)
        correlation = product / np.sqrt(_dot(one * one, weights) * power + 1e-9)
        correlation = correlation * (total[:, 0] >= MIN_COVER * window.sum())
        best = _keep_better(best, Maps(matrix.copy(), shift.copy(), correlation))
        if iteration == NUM_ITERATIONS:
            break
        scale = product / (power + 1e-9)
        turn = np.linalg.inv(matrix).swapaxes(1, 2) * scale[:, None, None]
        step = _step(_slopes(moved, side), turn, one - scale[:, None].astype(np.float32) * two, weights)
        matrix = matrix + step[:, :, :2]
        shift = shift + step[:, :, 2]
    return best


def _keep_better(best: Maps, new: Maps) -> Maps:
    is_better = np.abs(new.correlation) > np.abs(best.correlation)
    return Maps(
        np.where(is_better[:, None, None], new.matrix, best.matrix),
        np.where(is_better[:, None], new.shift, best.shift),
        np.where(is_better, new.correlation, best.correlation),
    )


def _dot(first: Array, second: Array) -> Array:
    found: Array = np.einsum("pn,pn->p", first, second)
    return found


def _slopes(values: Array, side: int) -> Array:
    """Return how the second image changes along the axes of the first one, ``(pairs, 2, pixels)`` in half sides."""
    images = rearrange(values, "pair (y x) -> pair y x", y=side)
    slopes = np.stack([np.gradient(images, axis=1), np.gradient(images, axis=2)], axis=1) * np.float32(side / 2)
    return rearrange(slopes, "pair direction y x -> pair direction (y x)")


def _step(slopes: Array, turn: Array, rest: Array, weights: Array) -> Array:
    """Return the changes of matrix and shift that explain best what the images still differ by.

    With one entry (a, b) of the matrix the moved image changes by its slope along a times the place along b, with an
    entry of the shift by its slope. The sums over pixels are those of products of two slopes with products of two
    places; the slopes are turned to the axes of the second image afterwards, where there are six numbers a pair.

    Args:
        slopes: ``(pairs, 2, pixels)`` along the axes of the first image.
        turn: What turns them to the axes of the second one, ``(pairs, 2, 2)``.
        rest: What the images differ by, ``(pairs, pixels)``, of weighted mean 0.
        weights: ``(pairs, pixels)``.

    Returns:
        ``(pairs, 2, 3)``: the two columns of the matrix, and the shift.
    """
    places, products = _place_products(round(slopes.shape[2] ** 0.5))
    weighted = slopes * weights[:, None]
    square = np.stack([weighted[:, 0] * slopes[:, 0], weighted[:, 0] * slopes[:, 1], weighted[:, 1] * slopes[:, 1]], 1)
    sums = rearrange(square @ products, "pair slopes (j k) -> pair slopes j k", j=3)[:, [[0, 1], [1, 2]]]
    mean = turn @ (weighted @ places)
    right = turn @ ((weighted * rest[:, None]) @ places)
    normal = np.einsum("pca,pdb,pabjk->pcjdk", turn, turn, sums)
    normal -= np.einsum("pcj,pdk->pcjdk", mean, mean) / (weights.sum(axis=1) + 1e-6)[:, None, None, None, None]
    normal = rearrange(normal, "pair c j d k -> pair (c j) (d k)")
    damping = 1e-2 * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 6 + 1e-9
    step = np.linalg.solve(normal + damping * np.eye(6), rearrange(right, "pair c j -> pair (c j) 1"))
    return rearrange(step.clip(-MAX_STEP, MAX_STEP), "pair (c j) 1 -> pair c j", c=2)


@cache
def _places(side: int) -> Array:
    """Return the pixels' places from the centre, ``(2, pixels)`` float32 in units of half a side."""
    place = (np.arange(side) - (side - 1) / 2) / (side / 2)
    return rearrange(np.stack(np.meshgrid(place, place, indexing="ij")), "direction y x -> direction (y x)").astype(
        np.float32
    )


@cache
def _place_products(side: int) -> tuple[Array, Array]:
    """Return the places with a 1, ``(pixels, 3)``, and the products of any two of the three, ``(pixels, 9)``."""
    places = np.concatenate([_places(side), np.ones((1, side**2), np.float32)])
    products = rearrange(places[:, None] * places, "j k pixel -> pixel (j k)")
    return np.ascontiguousarray(places.T), np.ascontiguousarray(products)


def _sample(images: Array, matrix: Array, shift: Array) -> tuple[Array, Array]:
    """Sample images at the mapped places.

    Args:
        images: ``(pairs, side, side)``.
        matrix: ``(pairs or 1, 2, 2)``.
        shift: ``(pairs or 1, 2)``.

    Returns:
        The values, ``(pairs, pixels)`` float32, and whether each place is inside its image.
    """
    side = images.shape[1]
    moved = matrix.astype(np.float32) @ _places(side) + shift[..., None].astype(np.float32)
    moved = moved * np.float32(side / 2) + np.float32((side - 1) / 2)
    return sample(images, moved[:, 0], moved[:, 1])
