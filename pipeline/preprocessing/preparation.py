"""The preparation of a store: what volumes and published sets each offer, and the preprocess stage carries out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console


@dataclass(frozen=True)
class Preparation:
    """The preparation of one store.

    Args:
        folder: The folder of the store.
        plan: A fingerprint of all that shapes the store: options, raw files and formats; ``complete.json``, which is
            written last, holds it.
        build: Writes manifest, coverage report and store; returns whether a second run would only write the same.
        report: Prints what the manifest holds.
        notes: Warnings about a table of the user.
        coverage: What a delivery of many series holds, as :class:`pipeline.data.sources.Listing` has it.
    """

    folder: Path
    plan: str
    build: Callable[[Console], bool]
    report: Callable[[Console], None]
    notes: tuple[str, ...] = ()
    coverage: pd.DataFrame | None = None
