"""Images and files in the formats of published sets."""

from pathlib import Path

import numpy as np

from pipeline.datasets.medmnist import Variant


def draw_digits(number: int, seed: int, num_classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright row that shows the class; no two images are equal."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 100, (number, 28, 28)).astype(np.uint8)
    labels = (np.arange(number) % num_classes).astype(np.uint8)
    images[np.arange(number), 2 * labels + 4] += 150
    return images, labels


def to_idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def write_medmnist(
    folder: Path, variant: Variant, numbers: tuple[int, int, int] = (40, 12, 12)
) -> dict[str, np.ndarray]:
    """Write a part of a set of MedMNIST; a bright row, column or plane shows the class, and no two images are equal.

    Returns:
        The arrays in the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    arrays = {}
    for split, number in zip(("train", "val", "test"), numbers, strict=True):
        labels = np.arange(number) % len(variant.facts.class_names)
        images = generator.integers(0, 100, (number, *variant.facts.row_shape(variant.side))).astype(np.uint8)
        images[np.arange(number), 2 * labels + 4] += 150
        if variant.facts.is_3d:
            images[:, -1] = 0  # the outermost slices of real volumes are black
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None].astype(np.uint8)}
    np.savez_compressed(folder / variant.file_name, **arrays)
    return arrays
