"""The preparation of a store, and the record that it is complete: ``complete.json``, written last.

Volumes and published sets each offer a :class:`Preparation`; the preprocess stage carries it out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.core.files import read_json, write_json


@dataclass(frozen=True)
class Preparation:
    """The preparation of one store.

    Args:
        folder: The folder of the store.
        plan: A fingerprint of all that shapes the store: options, raw files and formats.
        build: Writes manifest, coverage report and store; returns whether a second run would only write the same.
        report: Prints what the manifest holds.
    """

    folder: Path
    plan: str
    build: Callable[[Console], bool]
    report: Callable[[Console], None]

    @property
    def record(self) -> Path:
        return self.folder / "complete.json"


def is_complete(preparation: Preparation) -> bool:
    """Return whether the store of this plan is there."""
    return preparation.record.is_file() and read_json(preparation.record).get("plan") == preparation.plan


def begin(preparation: Preparation) -> None:
    """Remove what makes a store valid, so that no stage finds one that the options no longer describe."""
    preparation.record.unlink(missing_ok=True)
    (preparation.folder / "store.json").unlink(missing_ok=True)


def mark_complete(preparation: Preparation) -> None:
    """Record that all files of this plan are written."""
    write_json(preparation.record, {"plan": preparation.plan})
