"""An array that counts how many of its rows are read."""

from typing import Any

import numpy as np


class RowReads:
    """Looks like an array of examples and counts the rows of each read.

    Args:
        values: The array.
    """

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim
        self.counts: list[int] = []

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        taken = self.values[key]
        self.counts.append(len(taken))
        return taken
