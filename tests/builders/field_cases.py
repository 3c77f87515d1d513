"""The folder of small inputs that went wrong, which lies next to the repository where it is there."""

import os
from pathlib import Path

CASES = Path(os.environ.get("PERCEIVER_TEST_CASES", Path(__file__).parents[3] / "shared" / "cases"))
