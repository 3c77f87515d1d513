"""The types of arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, Any]

Floats = NDArray[np.float64]

Indices = NDArray[np.int64]
