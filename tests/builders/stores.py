"""A store in memory of random images, and its splits."""

import numpy as np
import pandas as pd

from pipeline.data.store import Store

NAMES = ("left", "right")

ROWS = {"train": np.arange(0, 200), "val": np.arange(200, 260), "test": np.arange(260, 400)}


def build_store(images=None, labels=None, slice_index=None, num_rows=400, seed=0) -> Store:
    for_labels, for_images, for_indices = (np.random.default_rng([seed, purpose]) for purpose in range(3))
    labels = for_labels.choice(NAMES, num_rows) if labels is None else labels
    images = for_images.integers(0, 256, (num_rows, 32, 32), dtype=np.uint8) if images is None else images
    slice_index = for_indices.integers(0, 10, num_rows) if slice_index is None else slice_index
    ids = [str(row) for row in range(num_rows)]
    index = pd.DataFrame({"example_id": ids, "source_id": ids, "group_id": ids, "label": labels})
    index["slice_index"], index["slice_position"] = slice_index, np.linspace(-1, 1, 10)[slice_index]
    return Store(images, index, NAMES, {}, "")
