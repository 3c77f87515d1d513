"""Shortcut probes: signs that a model reads how, when or where in the scan an image was taken, and not the knee.

Three tables of accuracy (by a slice's index, by visit, by brightness), two models that see no anatomy, and the mirror
check. All are numbers of metrics.json, under ``probes``.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.core.predictions import Mirrored
from pipeline.data.store import Store
from pipeline.evaluation.baselines import border_only, index_only, score_baseline, take_border
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.predictions import number_patients
from pipeline.evaluation.proportions import SubgroupFraction, compute_fraction, compute_fractions
from pipeline.evaluation.schema import (
    MirrorCheck,
    Probes,
    QuartileSubgroup,
    Scores,
    SliceIndexSubgroup,
    VisitSubgroup,
    explain_missing_interval,
)

NUM_QUARTILES = 4
ROWS_AT_ONCE = 1024
DARK = 25  # of 255: below it a pixel of the border is background
MAX_VISITS = 12  # of more, the rarest are counted together
UNKNOWN_VISIT, OTHER_VISITS = "unknown", "others"


def compute_probes(
    store: Store,
    rows: dict[str, Indices],
    test: pandas.DataFrame,
    visits: pandas.Series,
    max_fitted: int,
    bootstrap: Bootstrap,
) -> Probes:
    """Compute the probes that make sense for the data, except the mirror check.

    Args:
        store: Images, labels and slice indices.
        rows: The rows of the store in "train", "val" and "test".
        test: The predictions of the test rows, in their order.
        visits: The visit of each scan by its ``source_id``; read for data of patients alone.
        max_fitted: The largest number of training images that the border's model is fitted on.
        bootstrap: The resamples of patients.

    Returns:
        ``slice_index`` (volumes), ``visit`` (patients), ``intensity_quartile`` (images): a row a subgroup with ``n``,
        ``groups`` and ``accuracy``. ``border_only`` (images) and ``index_only`` (volumes): the metrics of a baseline.
        ``border_is_background``: whether most of the border is dark in the test images, so that it shows nothing of
        what was imaged. What makes no sense for the data is absent.
    """
    probes: Probes = {}
    if not store.kind.is_image:
        return probes
    index = store.index.iloc[rows["test"]]
    if store.kind.has_slices:
        probes["slice_index"] = score_slice_indices(test, index["slice_index"].to_numpy(dtype=np.int64))
    names = name_visits(index["source_id"].map(visits)) if store.kind.has_patients else np.array([UNKNOWN_VISIT])
    if (names != UNKNOWN_VISIT).any():
        probes["visit"] = score_visits(test, names)
    probes["intensity_quartile"] = score_quartiles(test, compute_brightness(store, rows["test"]))

    def score(probabilities: Floats) -> Scores:
        return score_baseline(index, probabilities, store.class_names, bootstrap)

    probes["border_only"] = score(border_only(store, rows, bootstrap.seed, max_fitted))
    probes["border_is_background"] = is_background(store, rows["test"])
    if store.kind.has_slices:
        probes["index_only"] = score(index_only(store, rows, bootstrap.seed))
    return probes


def is_background(store: Store, rows: Indices) -> bool:
    """Return whether most pixels of the images' border are dark; a radiograph that fills its frame shows bone there.

    The black slices that fill up scans with fewer slices than others do not count.

    Args:
        store: Images, or the slices of whole scans.
        rows: The rows of the store that are looked at.
    """
    is_slice, num_dark, num_pixels = _find_slices(store, rows), 0, 0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        counted = is_slice[start : start + ROWS_AT_ONCE]
        border = take_border(store.examples, rows[start : start + ROWS_AT_ONCE])
        border = border.reshape(*counted.shape, -1)[counted]
        num_dark, num_pixels = num_dark + int((border < DARK).sum()), num_pixels + border.size
    return num_dark > 0.5 * num_pixels


def _find_slices(store: Store, rows: Indices) -> NDArray[np.bool_]:
    """Return which slices of scans are no padding, ``(rows, slices)``; of other examples ``(rows, 1)``, all true."""
    if store.places_mm is None:
        return np.ones((len(rows), 1), dtype=bool)
    return ~np.isnan(store.places_mm[rows][..., 0])


def score_slice_indices(test: pandas.DataFrame, slice_index: Indices) -> list[SliceIndexSubgroup]:
    """Compute the accuracy of the test slices of each index.

    Args:
        test: The predictions of the test rows.
        slice_index: ``(rows,)``, the slice index of each row.
    """
    return [
        {"slice_index": int(value), "n": part.num_rows, "groups": part.num_patients, "accuracy": part.fraction}
        for value, part in _score_subgroups(test, slice_index)
    ]


def score_visits(test: pandas.DataFrame, visits: NDArray[np.str_]) -> list[VisitSubgroup]:
    """Compute the accuracy of the test slices of each visit, in the order of ``order_visit``.

    Args:
        test: The predictions of the test rows.
        visits: ``(rows,)``, the name of each row's visit.
    """
    subgroups: list[VisitSubgroup] = [
        {"visit": str(value), "n": part.num_rows, "groups": part.num_patients, "accuracy": part.fraction}
        for value, part in _score_subgroups(test, visits)
    ]
    return sorted(subgroups, key=lambda subgroup: order_visit(subgroup["visit"]))


def score_quartiles(test: pandas.DataFrame, brightness: Floats) -> list[QuartileSubgroup]:
    """Compute the accuracy of each quartile of the test rows, from the darkest to the brightest.

    Args:
        test: The predictions of the test rows.
        brightness: ``(rows,)``, the mean intensity of each row's image.
    """
    quartiles, edges = split_into_quartiles(brightness)
    return [
        {
            "quartile": int(value),
            "n": part.num_rows,
            "groups": part.num_patients,
            "accuracy": part.fraction,
            "from": edges[value - 1],
            "to": edges[value],
        }
        for value, part in _score_subgroups(test, quartiles)
    ]


def _score_subgroups(test: pandas.DataFrame, subgroups: NDArray[Any]) -> Iterator[tuple[Any, SubgroupFraction]]:
    """Yield number or name of each subgroup of the test rows, in order, and its accuracy."""
    values, codes = np.unique(subgroups, return_inverse=True)
    is_correct = (test["label"] == test["predicted"]).to_numpy()
    patients = number_patients(test["group_id"])
    return zip(values, compute_fractions(is_correct, codes, patients, len(values)), strict=True)


def name_visits(visits: pandas.Series) -> NDArray[np.str_]:
    """Name the visit of each row: as its file has it, of a date the year alone, "unknown" where there is none."""

    def name(visit: Any) -> str:
        text = "" if pandas.isna(visit) else str(visit).strip()
        return text[:4] if re.fullmatch(r"(19|20)\d{6}", text) else text or UNKNOWN_VISIT

    names = visits.map(name).astype(str)
    counts = names.value_counts()
    if len(counts) > MAX_VISITS:
        names = names.where(names.isin(counts.index[: MAX_VISITS - 1]), OTHER_VISITS)
    return np.array(names.tolist(), dtype=str)


def order_visit(name: str) -> tuple[int, int, str]:
    """Return the sort key of a visit: numbers by size, then names, then unknown visits and the rare others."""
    if name.isdigit():
        return 0, int(name), name
    return 2 if name in (UNKNOWN_VISIT, OTHER_VISITS) else 1, 0, name


def compute_brightness(store: Store, rows: Indices) -> Floats:
    """Compute each example's mean over its pixels and channels, ``(rows,)``, black 0 and white 1.

    Of whole scans the mean is over their own slices, so that a scan with fewer than others is no darker for it.

    Args:
        store: Images, or the slices of whole scans.
        rows: The rows of the store.
    """
    images = store.examples
    chunks = [images[rows[start : start + ROWS_AT_ONCE]] for start in range(0, len(rows), ROWS_AT_ONCE)]
    means = np.concatenate([chunk.reshape(len(chunk), -1).mean(axis=1, dtype=np.float64) for chunk in chunks]) / 255
    brightness: Floats = means / _find_slices(store, rows).mean(axis=1)  # what fills up a scan is black
    return brightness


def split_into_quartiles(values: Floats) -> tuple[Indices, list[float]]:
    """Split rows into quartiles, from the darkest to the brightest.

    Returns:
        ``(rows,)`` numbers 1 to 4 (a value on an edge belongs below it), and the five edges. Of many equal values
        some quartiles may be empty.
    """
    edges = np.quantile(values, np.linspace(0, 1, NUM_QUARTILES + 1))
    return np.searchsorted(edges[1:-1], values, side="left").astype(np.int64) + 1, edges.tolist()


def check_mirrored(mirrored: Mirrored, test: pandas.DataFrame, class_names: tuple[str, ...]) -> MirrorCheck:
    """Compute the fraction of predictions that change where a slice is mirrored.

    Args:
        mirrored: The network's probabilities of the test rows and of their mirror images.
        test: The predictions of the same rows.
        class_names: The classes, left and right.

    Returns:
        ``flipped``: the fraction of the classifier's answers that change; 1 by construction where it averages.
        ``is_by_construction``. ``flipped_without_averaging`` and ``accuracy_without_averaging``: of the network with
        one pass a slice.
    """
    patients = number_patients(test["group_id"])
    first, second = mirrored.straight.argmax(axis=1), mirrored.mirrored.argmax(axis=1)
    is_correct = np.asarray(class_names)[first] == test["label"].to_numpy(dtype=str)
    flipped = compute_fraction(first != second, patients)
    return {
        "flipped": explain_missing_interval(1.0, "1 by construction") if mirrored.is_averaged else flipped,
        "is_by_construction": mirrored.is_averaged,
        "flipped_without_averaging": flipped,
        "accuracy_without_averaging": compute_fraction(is_correct, patients),
    }
