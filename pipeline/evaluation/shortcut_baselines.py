"""Models that see no anatomy: the border of the pictures alone, or a slice's index alone.

Whatever they can tell of the label is no sign of disease or side in the knee but of how the pictures were made:
a mark in a corner, a coil's shading, another scanner, more slices of one class.
"""

from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.data.store import Store
from pipeline.evaluation.baselines import (
    choose_pooling,
    choose_rows,
    count_labels,
    decision_tree,
    fit_linear_model,
    majority,
    pool_images,
)

BORDER_PARTS = 16  # the border is as wide as this part of a side, at least one pixel


def border_only(store: Store, rows: dict[str, Indices], seed: int, max_rows: int) -> Floats:
    """Fit a logistic regression of the pictures' border and score the test rows.

    Args:
        store: pictures and their labels.
        rows: of "train", "val" and "test".
        seed: of the rows that are drawn where there are too many.
        max_rows: training rows that are fitted.

    Returns:
        ``(test rows, classes)``; how often each class occurs in training where all labels drawn are equal.
    """
    labels = store.index["label"].to_numpy(dtype=str)
    fitted = rows["train"][choose_rows(len(rows["train"]), max_rows, seed)]
    if (count_labels(labels[fitted], store.class_names) > 0).sum() < 2:
        return majority(labels[fitted], len(rows["test"]), store.class_names)
    train, val, test = (take_border(store.examples, part) for part in (fitted, rows["val"], rows["test"]))
    return fit_linear_model(train, labels[fitted], val, labels[rows["val"]], test, store.class_names)


def take_border(images: NDArray[Any], rows: Indices) -> NDArray[np.float32]:
    """Take a frame of each picture, a sixteenth of its height and width wide; nothing of the inside.

    Pictures of more than 64 pixels a side are averaged over square blocks first, as for ``logistic_regression``; the
    frame is then whole blocks. What is cut off at the edges there, where blocks do not fit, is missing here too.

    Args:
        images: ``(pictures, height, width)`` or ``(pictures, channels, height, width)`` uint8.
        rows: which of them.

    Returns:
        ``(rows, pixels of the frame)`` float32.
    """
    num_channels = 1 if images.ndim == 3 else images.shape[1]
    height, width = images.shape[-2:]
    block = choose_pooling(height, width)
    height, width = height // block, width // block
    is_border = np.ones((height, width), dtype=bool)
    thick_rows, thick_columns = max(1, height // BORDER_PARTS), max(1, width // BORDER_PARTS)
    is_border[thick_rows : height - thick_rows, thick_columns : width - thick_columns] = False
    pixels = rearrange(pool_images(images, rows), "row (channel pixel) -> row channel pixel", channel=num_channels)
    border: NDArray[np.float32] = rearrange(
        pixels[:, :, is_border.reshape(-1)], "row channel pixel -> row (channel pixel)"
    )
    return border


def index_only(store: Store, rows: dict[str, Indices], seed: int) -> Floats:
    """Fit a decision tree of a slice's index and its place along the axis, and score the test rows.

    Args:
        store: the index, with labels.
        rows: of "train" and "test".
        seed: of the tree.

    Returns:
        ``(test rows, classes)``.
    """
    values = store.index[["slice_index", "slice_position"]].to_numpy(dtype=np.float64)
    labels = store.index["label"].to_numpy(dtype=str)
    return decision_tree(values[rows["train"]], labels[rows["train"]], values[rows["test"]], store.class_names, seed)
