"""The probe within classes: whether the model's features show where and when a scan of one class was made."""

import numpy as np
import pandas
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.core.array_types import Floats
from pipeline.evaluation.baselines import choose_rows, score_baseline
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.schema import WithinClassProbe, explain_missing_interval
from pipeline.evaluation.validity.shortcut_probes import UNKNOWN_VISIT, name_visits

COVARIATES = ("site", "scanner", "visit")
MIN_PROBED_PATIENTS, MIN_PATIENTS_A_VALUE = 10, 5
NUM_PROBE_FOLDS = 5
MAX_PROBED_SCANS = 5000
# Features are many and scans few: a strong penalty.
PROBE_INVERSE_REGULARISATION = 0.01
CHANCE_AUROC = 0.5


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
