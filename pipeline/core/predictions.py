"""Which class is predicted where probabilities are all but equal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Averages that should be equal differ in the last digits with the order of the
# rows; rounding keeps a tie a tie. The first class name wins a tie.
TIE_DECIMALS = 12


def choose_class(probabilities: NDArray[Any]) -> int:
    """Return the index of the largest of the probabilities (classes,), of equal ones the first."""
    return int(np.asarray(probabilities, dtype=np.float64).round(TIE_DECIMALS).argmax())
