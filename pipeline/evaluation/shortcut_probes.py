"""Shortcut probes: does the model read the knee, or how, when and where in the scan the picture was taken?

Three tables of accuracy (by a slice's index, by visit, by brightness), two models that see no anatomy, and the
mirror check. All are numbers of metrics.json, under ``probes``.
"""

import re
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.data.store import Store
from pipeline.evaluation.baselines import score_baseline
from pipeline.evaluation.bootstrap import Draws
from pipeline.evaluation.shortcut_baselines import border_only, index_only
from pipeline.evaluation.subgroups import compute_share, compute_shares, number_patients

NUM_QUARTILES = 4
ROWS_AT_ONCE = 1024
MAX_VISITS = 12  # the rarest of more stand together
UNKNOWN_VISIT, OTHER_VISITS = "unknown", "others"


def compute_probes(
    store: Store,
    rows: dict[str, Indices],
    test: pandas.DataFrame,
    visits: pandas.Series,
    mirror: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    is_averaged: bool,
    max_fitted: int,
    draws: Draws,
) -> dict[str, Any]:
    """Compute the probes that make sense for the data.

    Args:
        store: pictures, labels and slice indices.
        rows: of the store, in "train", "val" and "test".
        test: predictions of the test rows, in their order.
        visits: each scan's visit by its ``source_id``; of volumes.
        mirror: the network's probabilities of the test rows, straight and mirrored; None where a mirror image is not
            one of the other label.
        is_averaged: whether the classifier averages over mirror images.
        max_fitted: training pictures that the border's model is fitted on.
        draws: of the intervals.

    Returns:
        ``slice_index`` and ``visit`` (volumes), ``intensity_quartile`` (pictures): a row a part with ``n``, ``groups``
        and ``accuracy``. ``border_only`` (pictures) and ``index_only`` (volumes): the metrics of a baseline.
        ``mirror``: what ``score_mirror`` returns. What makes no sense for the data is absent.
    """
    probes: dict[str, Any] = {}
    if not store.kind.is_image:
        return probes
    index = store.index.iloc[rows["test"]]
    if store.kind.has_slices:
        probes["slice_index"] = score_parts(test, index["slice_index"].to_numpy(dtype=np.int64), "slice_index", draws)
        parts = score_parts(test, name_visits(index["source_id"].map(visits)), "visit", draws)
        probes["visit"] = sorted(parts, key=lambda part: order_visit(part["visit"]))
    brightness = compute_brightness(store.examples, rows["test"])
    quartiles, edges = divide_into_quartiles(brightness)
    parts = score_parts(test, quartiles, "quartile", draws)
    probes["intensity_quartile"] = [
        part | {"from": edges[part["quartile"] - 1], "to": edges[part["quartile"]]} for part in parts
    ]
    blind = {"border_only": border_only(store, rows, draws.seed, max_fitted)}
    if store.kind.has_slices:
        blind["index_only"] = index_only(store, rows, draws.seed)
    for name, scores in blind.items():
        probes[name] = score_baseline(index, scores, store.class_names, draws.num_resamples, draws.seed, store.kind)
    if mirror is not None:
        probes["mirror"] = score_mirror(*mirror, test, store.class_names, is_averaged, draws)
    return probes


def score_parts(test: pandas.DataFrame, parts: NDArray[Any], name: str, draws: Draws) -> list[dict[str, Any]]:
    """Compute the accuracy in each part of the test rows.

    Args:
        test: predictions.
        parts: ``(rows,)``, a number or a name.
        name: of the key under which each result holds its part.
        draws: of the intervals.

    Returns:
        A row a part, in the order of the numbers or names.
    """
    values, places = np.unique(parts, return_inverse=True)
    is_right = (test["label"] == test["predicted"]).to_numpy()
    patients = number_patients(test["group_id"])
    shares = compute_shares(is_right, places, patients, len(values), draws.num_resamples, draws.seed)
    return [
        {name: value.item(), "n": share["n"], "groups": share["groups"], "accuracy": share["share"]}
        for value, share in zip(values, shares, strict=True)
    ]


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
    """Return what visits are sorted by: numbers by size, then names, then what stands for no visit of its own."""
    if name.isdigit():
        return 0, int(name), name
    return 2 if name in (UNKNOWN_VISIT, OTHER_VISITS) else 1, 0, name


def compute_brightness(images: NDArray[np.uint8], rows: Indices) -> Floats:
    """Compute each picture's mean over its pixels and channels, ``(rows,)``, black 0 and white 1."""
    chunks = [images[rows[start : start + ROWS_AT_ONCE]] for start in range(0, len(rows), ROWS_AT_ONCE)]
    return np.concatenate([chunk.reshape(len(chunk), -1).mean(axis=1, dtype=np.float64) for chunk in chunks]) / 255


def divide_into_quartiles(values: Floats) -> tuple[Indices, list[float]]:
    """Divide rows into four parts of as many, from the darkest to the brightest.

    Returns:
        ``(rows,)`` numbers 1 to 4 (a value on an edge belongs below it), and the five edges. Of many equal values
        some parts may be empty.
    """
    edges = np.quantile(values, np.linspace(0, 1, NUM_QUARTILES + 1))
    return np.searchsorted(edges[1:-1], values, side="left").astype(np.int64) + 1, edges.tolist()


def score_mirror(
    straight: NDArray[np.float32],
    mirrored: NDArray[np.float32],
    test: pandas.DataFrame,
    class_names: tuple[str, ...],
    is_averaged: bool,
    draws: Draws,
) -> dict[str, Any]:
    """Compute how often the answer flips when a slice is mirrored.

    Args:
        straight: the network's probabilities ``(rows, classes)``, asked once a slice.
        mirrored: the network's of the mirror images, as it saw them.
        test: predictions of the same rows.
        class_names: left and right.
        is_averaged: whether the classifier averages over mirror images.
        draws: of the intervals.

    Returns:
        ``flipped``: the share of the classifier's answers that flip; 1 by construction where it averages.
        ``is_by_construction``. ``flipped_without_averaging`` and ``accuracy_without_averaging``: of the network asked
        once a slice.
    """
    patients = number_patients(test["group_id"])
    first, second = straight.argmax(axis=1), mirrored.argmax(axis=1)
    is_flipped = first != second
    is_right = np.asarray(class_names)[first] == test["label"].to_numpy(dtype=str)
    flipped = compute_share(is_flipped, patients, draws.num_resamples, draws.seed)
    return {
        "flipped": {"value": 1.0, "low": 1.0, "high": 1.0} if is_averaged else flipped,
        "is_by_construction": is_averaged,
        "flipped_without_averaging": flipped,
        "accuracy_without_averaging": compute_share(is_right, patients, draws.num_resamples, draws.seed),
    }
