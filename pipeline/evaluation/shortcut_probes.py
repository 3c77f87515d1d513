"""Shortcut probes: signs that a model reads how, when or where in the scan an image was taken, and not the knee.

Three tables of accuracy (by a slice's index, by visit, by brightness), two models that see no anatomy, the mirror
check, and whether the model's features show within one class where and when a scan was made. All are numbers of
metrics.json, under ``probes``.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.core.array_types import Floats, Indices
from pipeline.core.predictions import Mirrored
from pipeline.data.store import Store
from pipeline.evaluation.baselines import border_only, choose_rows, index_only, score_baseline, take_border
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
    WithinClassProbe,
    explain_missing_interval,
)

NUM_QUARTILES = 4
ROWS_AT_ONCE = 1024
DARK = 25  # of 255: below it a pixel of the border is background
MAX_VISITS = 12  # of more, the rarest are counted together
UNKNOWN_VISIT, OTHER_VISITS = "unknown", "others"
COVARIATES = ("site", "scanner", "visit")
MIN_PROBED_PATIENTS, MIN_PATIENTS_A_VALUE = 10, 5
NUM_PROBE_FOLDS = 5
MAX_PROBED_SCANS = 5000
# Features are many and scans few: a strong penalty.
PROBE_INVERSE_REGULARISATION = 0.01
CHANCE_AUROC = 0.5


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
    probes["intensity_quartile"] = score_quartiles(test, compute_brightness(store.examples, rows["test"]))

    def score(probabilities: Floats) -> Scores:
        return score_baseline(index, probabilities, store.class_names, bootstrap, store.kind)

    probes["border_only"] = score(border_only(store, rows, bootstrap.seed, max_fitted))
    probes["border_is_background"] = is_background(store.examples, rows["test"])
    if store.kind.has_slices:
        probes["index_only"] = score(index_only(store, rows, bootstrap.seed))
    return probes


def is_background(images: NDArray[np.uint8], rows: Indices) -> bool:
    """Return whether most pixels of the images' border are dark; a radiograph that fills its frame shows bone there."""
    chunks = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    dark = [float((take_border(images, chunk) < DARK).mean()) for chunk in chunks]
    return bool(np.average(dark, weights=[len(chunk) for chunk in chunks]) > 0.5)


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


def compute_brightness(images: NDArray[np.uint8], rows: Indices) -> Floats:
    """Compute each image's mean over its pixels and channels, ``(rows,)``, black 0 and white 1."""
    chunks = [images[rows[start : start + ROWS_AT_ONCE]] for start in range(0, len(rows), ROWS_AT_ONCE)]
    return np.concatenate([chunk.reshape(len(chunk), -1).mean(axis=1, dtype=np.float64) for chunk in chunks]) / 255


def split_into_quartiles(values: Floats) -> tuple[Indices, list[float]]:
    """Split rows into quartiles, from the darkest to the brightest.

    Returns:
        ``(rows,)`` numbers 1 to 4 (a value on an edge belongs below it), and the five edges. Of many equal values
        some quartiles may be empty.
    """
    edges = np.quantile(values, np.linspace(0, 1, NUM_QUARTILES + 1))
    return np.searchsorted(edges[1:-1], values, side="left").astype(np.int64) + 1, edges.tolist()


def probe_within_classes(
    test: pandas.DataFrame,
    features: NDArray[np.float32],
    scans: pandas.DataFrame,
    class_names: tuple[str, ...],
    bootstrap: Bootstrap,
) -> list[WithinClassProbe]:
    """Try to predict where and when a scan was made from the model's features, among the scans of one class.

    Between classes a difference may be the disease; within one class the features have no need of the site. A scan is
    the mean of its slices' features. Folds are by patient, and classes of the fact are weighted alike, so that without
    a signal a scan of one site gets a higher score than one of another in half of the cases.

    Args:
        test: The predictions of the test rows.
        features: What the model's last layer reads of these rows, ``(rows, features)``.
        scans: The facts of each scan by its ``source_id``; of ``COVARIATES`` those are probed that it knows.
        class_names: The classes.
        bootstrap: The seed of the folds, and the resamples of patients.
    """
    keys = ["source_id", "group_id", "label"]
    codes = test.groupby(keys, sort=True).ngroup().to_numpy()
    table = test[keys].groupby(codes).first()
    sums = np.zeros((len(table), features.shape[1]))
    np.add.at(sums, codes, features)
    means = sums / np.bincount(codes)[:, None]
    probes = []
    for covariate in COVARIATES:
        if covariate not in scans.columns:
            continue
        values = name_visits(table["source_id"].map(scans[covariate]))
        if (values == UNKNOWN_VISIT).all():
            continue
        table["value"] = values
        for label in class_names:
            rows = (table["label"] == label).to_numpy() & (values != UNKNOWN_VISIT)
            probes.append(_probe_class(covariate, label, table[rows], means[rows], bootstrap))
    return probes


def _probe_class(
    covariate: str, label: str, table: pandas.DataFrame, means: Floats, bootstrap: Bootstrap
) -> WithinClassProbe:
    """Probe the scans of one class; the rarest values of the fact are left out."""
    patients = table.groupby("value")["group_id"].nunique()
    names = patients.index[patients >= MIN_PATIENTS_A_VALUE].tolist()
    is_probed = table["value"].isin(names).to_numpy()
    table, means = table[is_probed], means[is_probed]
    num_patients = int(table["group_id"].nunique())
    reason = ""
    if len(names) < 2:
        reason = f"fewer than two values of {covariate} with {MIN_PATIENTS_A_VALUE} patients or more"
    elif num_patients < MIN_PROBED_PATIENTS:
        reason = f"fewer than {MIN_PROBED_PATIENTS} patients"
    probe: WithinClassProbe = {
        "covariate": covariate,
        "label": label,
        "values": names,
        "n": len(table),
        "groups": num_patients,
        "chance": CHANCE_AUROC,
        "auroc": explain_missing_interval(None, reason),
    }
    if not reason:
        drawn = choose_rows(len(table), MAX_PROBED_SCANS, bootstrap.seed)
        table, means = table.iloc[drawn], means[drawn]
        probabilities = _score_out_of_fold(table, means, names, bootstrap.seed)
        index = table.assign(label=table["value"], example_id=table["source_id"])
        probe["auroc"] = score_baseline(index, probabilities, names, bootstrap)["auroc"]
    return probe


def _score_out_of_fold(table: pandas.DataFrame, means: Floats, names: list[str], seed: int) -> Floats:
    """Return the probability of each value, ``(scans, values)``, of a model that has not seen the scan's patient."""
    values = table["value"].to_numpy(dtype=str)
    probabilities = np.zeros((len(values), len(names)))
    folds = StratifiedGroupKFold(NUM_PROBE_FOLDS, shuffle=True, random_state=seed)
    for fitted, scored in folds.split(means, values, table["group_id"]):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=PROBE_INVERSE_REGULARISATION, class_weight="balanced", max_iter=500)
        )
        model.fit(means[fitted], values[fitted])
        columns = [names.index(str(name)) for name in model.classes_]
        probabilities[np.ix_(scored, columns)] = model.predict_proba(means[scored])
    return probabilities


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
