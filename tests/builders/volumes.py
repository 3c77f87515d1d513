"""The intensities of a volume, in scanner units."""

import numpy as np

from pipeline.formats.volume import Volume


def compute_intensity(volume: Volume) -> np.ndarray:
    """Return all voxels in scanner units, float32, ``(right, anterior, superior)``."""
    return volume.voxels.astype(np.float32) * np.float32(volume.slope) + np.float32(volume.intercept)
