"""``python -m pipeline STAGE ...`` is the console script ``perceiver STAGE ...``."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
