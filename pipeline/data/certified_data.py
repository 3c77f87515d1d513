"""The examples with their splits, after everything that vouches for them was checked, and a model's answers to them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig
from pipeline.core.array_types import Array, Indices
from pipeline.core.errors import UserError
from pipeline.core.predictions import Mirrored
from pipeline.core.tables import MANIFEST_COLUMNS, read_table
from pipeline.data.label_tables import describe_class_folders
from pipeline.data.leak_certificate import Certificate, check_certificate
from pipeline.data.splits import SPLITS, read_splits, resolve_roles
from pipeline.data.store import Store, read_store


@dataclass(frozen=True)
class SplitData:
    """A store and the split of each patient.

    Args:
        store: All examples.
        roles: The split of each patient: train, val or test.
    """

    store: Store
    roles: dict[str, str]

    @cached_property
    def split_of(self) -> NDArray[np.str_]:
        """The split of each row of the store, ``(rows,)``."""
        return np.asarray(self.store.index["group_id"].map(self.roles), dtype=str)

    @cached_property
    def rows(self) -> dict[str, Indices]:
        """The rows of the store that belong to each split, in rising order."""
        return {split: np.flatnonzero(self.split_of == split) for split in SPLITS}


@dataclass(frozen=True)
class CertifiedData(SplitData):
    """A store and its splits, for which a leak certificate vouches.

    Args:
        certificate: The content of leak_certificate.json.
        manifest_path: The table of the sources, which is read on first use.
    """

    certificate: Certificate
    manifest_path: Path

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """The manifest, one row for each source: its status, labels and geometry."""
        return read_table(self.manifest_path, MANIFEST_COLUMNS)

    @property
    def warnings(self) -> list[str]:
        """Warnings that every result of these data has: what the set lacks, and patients that are unknown."""
        return [text for text in (self.store.missing, describe_class_folders(self.manifest_path)) if text]


@dataclass(frozen=True)
class Answers:
    """The answers of a trained model to the rows that it was not trained on.

    Args:
        probabilities: Those of the "val" and "test" rows, ``(rows, classes)`` each.
        features: What the last layer reads of the test rows, ``(rows, features)``.
        mirrored: The network's probabilities of the test rows and of their mirror images; None where a mirror image
            does not have the other label.
    """

    probabilities: dict[str, Array]
    features: Array
    mirrored: Mirrored | None


def order_classes(store: Store, options: DataConfig) -> Store:
    """Order the classes of a store as its grades; classes without an order stay sorted as texts.

    Args:
        store: The store, as it was read.
        options: The kind of the labels, and their order where it is given.

    Raises:
        UserError: the labels are grades, but their order is not known, or it is one of other labels.
    """
    if options.label_type == "nominal":
        return store
    found, given = store.class_names, tuple(map(str, options.label_order))
    if given:
        if set(given) != set(found):
            raise UserError(
                f"data.label_order: found {', '.join(given)}; the labels are {', '.join(found)}. Name each of them "
                "once, from the lowest to the highest."
            )
        return replace(store, class_names=given, is_ordinal=True)
    if options.bins and not options.merge:  # whose names sort as their numbers do
        return replace(store, is_ordinal=True)
    numbers = np.array([_read_number(name) for name in found])
    if np.isnan(numbers).any() or len(set(numbers)) < len(numbers):
        raise UserError(
            f"data.label_type: ordinal needs an order, and the labels {', '.join(found)} are not numbers, each "
            "another one. Name them from the lowest to the highest: data.label_order: [LOWEST, ..., HIGHEST]."
        )
    return replace(store, class_names=tuple(found[place] for place in np.argsort(numbers)), is_ordinal=True)


def _read_number(text: str) -> float:
    """Read a finite number; of any other text NaN."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def load_certified_data(experiment: Experiment) -> CertifiedData:
    """Open the store, every byte of it checked, with splits and certificate that belong to it.

    Raises:
        UserError: one of them is absent or damaged, was made for others, or the splits leak.
    """
    paths = experiment.paths
    store = order_classes(read_store(paths.prepared, verify=True), experiment.data)
    splits = read_splits(paths.splits, experiment.split)
    certificate = check_certificate(paths.certificate, store, splits)
    return CertifiedData(store, resolve_roles(splits, experiment.split), certificate, paths.manifest)
