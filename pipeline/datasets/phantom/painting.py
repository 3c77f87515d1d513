"""Painting one knee: the tubes of the anatomy, placed, bent and lit as no other knee is."""

import numpy as np
from einops import rearrange

from pipeline.config.phantom import PhantomConfig
from pipeline.core.array_types import Array
from pipeline.datasets.phantom.anatomy import read_anatomy
from pipeline.datasets.phantom.geometry import (
    Coordinates,
    Surface,
    bounded_normal,
    cut,
    place_knee,
    smooth_field,
    vary_shape,
)
from pipeline.datasets.phantom.lesions import Lesion, compute_rise
from pipeline.datasets.phantom.osteoarthritis import CARTILAGE_LEFT, grow_osteophytes, narrow_joint

AIR = 0.02
# Mean intensity of each tissue and how far it strays between scans, on the scale of a DESS image with more or
# less good fat suppression: cartilage and fluid bright, cortical bone and tendon dark. Chosen by eye.
TISSUES = {
    "fat": (0.45, 0.20),
    "deep_fat": (0.50, 0.20),
    "muscle": (0.36, 0.08),
    "pad": (0.62, 0.15),
    "tendon": (0.12, 0.05),
    "vessel": (0.75, 0.25),
    "cortex": (0.08, 0.04),
    "marrow": (0.35, 0.15),
    "cartilage": (0.90, 0.10),
}
# A part of the body differs a little from the others of its tissue.
PART_VARIATION = 0.12
LARGEST_RANGE = 1.2
CORTEX_MM = 2.2
EDGE_MM = 1.6
FATTER_MM = 5.0
SCANNER_GAIN = (500.0, 1100.0)


def paint_knee(
    config: PhantomConfig,
    patient_generator: np.random.Generator,
    scan_generator: np.random.Generator,
    side: str,
    grade: int = 0,
    lesion: Lesion | None = None,
) -> Array:
    """Paint one scan of a knee. A left knee is the mirror image of the right one from the same draws.

    Args:
        config: The size of the volume and the variation of knees.
        patient_generator: The random number generator of what both knees and all visits of a patient have in common:
            size and shape.
        scan_generator: The random number generator of what is new in each scan: position, contrast, noise.
        side: ``left`` or ``right``.
        grade: The Kellgren-Lawrence grade, 0 to 4.
        lesion: A lesion of the bone marrow; no random number depends on it.

    Returns:
        ``(right, anterior, superior)`` int16.
    """
    coordinates = place_knee(config, patient_generator, scan_generator)
    image = paint_tissues(config, coordinates, patient_generator, scan_generator, grade, lesion)
    image *= np.exp(np.float32(config.bias_field) * smooth_field(scan_generator, image.shape, (3, 3, 3)))
    noise_std = np.float32(config.noise * scan_generator.uniform(0.5, 1.0))
    real, imaginary = (noise_std * scan_generator.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    # The magnitude of a signal with noise in both channels, as a scanner gives it (Rician noise).
    image += real
    np.hypot(image, imaginary, out=image)
    image *= np.float32(scan_generator.uniform(*SCANNER_GAIN))
    volume = rearrange(image, "superior anterior lateral -> lateral anterior superior")
    if side == "left":
        volume = volume[::-1]
    return np.ascontiguousarray(np.clip(volume, 0, np.iinfo(np.int16).max).astype(np.int16))


def paint_tissues(
    config: PhantomConfig,
    coordinates: Coordinates,
    patient_generator: np.random.Generator,
    scan_generator: np.random.Generator,
    grade: int = 0,
    lesion: Lesion | None = None,
) -> Array:
    """Paint the tissues of a right knee, from the skin inwards.

    Args:
        config: The variation of shape and contrast.
        coordinates: The coordinates of the voxels.
        patient_generator: The random number generator of the shape of each part.
        scan_generator: The random number generator of the intensities.
        grade: The Kellgren-Lawrence grade; no random number depends on it.
        lesion: A lesion of the bone marrow; no random number depends on it either.

    Returns:
        ``(superior, anterior, lateral)`` float32; fat is about 0.5.
    """
    reach = LARGEST_RANGE * config.contrast_variation
    level = {
        tissue: np.float32(max(AIR, mean + reach * spread * scan_generator.uniform(-1, 1)))
        for tissue, (mean, spread) in TISSUES.items()
    }
    image = np.full(coordinates.lateral_mm.shape, AIR, np.float32)
    fatter_mm = config.shape_variation * FATTER_MM * patient_generator.uniform(-1, 1)
    anatomy = read_anatomy()
    limb, compartments = (vary_shape(tube, config.shape_variation, patient_generator) for tube in anatomy["limb"])
    _paint(image, _cut(coordinates, limb, (fatter_mm, fatter_mm)), level["fat"])
    _paint(image, _cut(coordinates, compartments), level["deep_fat"])
    image *= 1 + np.float32(config.texture) * smooth_field(scan_generator, image.shape, (16, 20, 20))
    for tube in anatomy["soft_tissues"]:
        factor = 1 + PART_VARIATION * config.contrast_variation * bounded_normal(scan_generator)
        rows = vary_shape(tube, config.shape_variation, patient_generator)
        _paint(image, _cut(coordinates, rows), level[tube.tissue] * np.float32(factor))

    bones = [(tube, vary_shape(tube, config.shape_variation, patient_generator)) for tube in anatomy["bones"]]
    bones = [(tube, narrow_joint(tube.name, rows, grade)) for tube, rows in bones]
    for tube, rows in bones:
        if tube.cartilage_mm > 0:
            thickness_mm = tube.cartilage_mm * CARTILAGE_LEFT[grade]
            _paint(image, _cut(coordinates, rows, (0, thickness_mm)), level["cartilage"])
    solids = [rows for _, rows in bones]
    solids += [spur for tube, rows in bones for spur in grow_osteophytes(tube.name, rows, grade)]
    surfaces = [surface for rows in solids if (surface := _cut(coordinates, rows)) is not None]
    # All the shells before all the marrow: where two parts of a bone meet, no wall is left between them.
    for block, distance_mm in surfaces:
        _paint(image, (block, distance_mm), level["cortex"])
    for block, distance_mm in surfaces:
        _paint(image, (block, distance_mm + np.float32(CORTEX_MM)), level["marrow"])
    if lesion is not None:
        is_marrow = np.zeros(image.shape, bool)
        for block, distance_mm in surfaces:
            is_marrow[block] |= distance_mm < -CORTEX_MM
        image += compute_rise(coordinates, lesion) * is_marrow
    for tube in anatomy["joint"]:
        _paint(
            image, _cut(coordinates, vary_shape(tube, config.shape_variation, patient_generator)), level[tube.tissue]
        )
    image *= 1 + np.float32(config.texture) * smooth_field(scan_generator, image.shape, (32, 36, 36))
    return image


def _cut(coordinates: Coordinates, rows: Array, grow_mm: tuple[float, float] = (0.0, 0.0)) -> Surface | None:
    """Compute the distances of the voxels that a tube may paint."""
    return cut(coordinates, rows, grow_mm, reach_mm=EDGE_MM / 2)


def _paint(image: Array, surface: Surface | None, level: np.float32) -> None:
    if surface is None:
        return
    block, distance_mm = surface
    part = image[block]
    covered = distance_mm / np.float32(EDGE_MM)
    np.subtract(np.float32(0.5), covered, out=covered)
    np.clip(covered, 0, 1, out=covered)
    covered *= level - part
    part += covered
