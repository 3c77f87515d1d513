"""Label doubts: labels that models contradict with confidence. The only module that imports cleanlab, an extra.

Each scan is scored by models that have not seen its patient. A label is in doubt where the mean probability of another
class is higher than it is on average for scans that have that label (confident learning). A doubt is a reason to look
at the scan: the model may be wrong as well.

Source:
    Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", JAIR 70, 2021.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.core.array_types import Array
from pipeline.core.predictions import probability_columns

DOUBT_COLUMNS = ("source_id", "group_id", "label", "suggested", "probability_of_label", "probability_of_suggested")


@dataclass(frozen=True)
class LabelDoubts:
    """The scans whose labels are in doubt.

    Args:
        table: ``DOUBT_COLUMNS``, the lowest probability of the label first.
        num_scans: The number of scans that were looked at.
        reason: The reason why none were; else empty.
    """

    table: pd.DataFrame
    num_scans: int
    reason: str = ""


def find_label_doubts(tests: Sequence[pd.DataFrame], class_names: Sequence[str]) -> LabelDoubts:
    """Find the labels that the models of several runs contradict.

    Args:
        tests: The predictions of the test rows of each run.
        class_names: All classes.
    """
    rows = pd.concat(tests, ignore_index=True)
    columns = probability_columns(class_names)
    # A scan with several labels is looked at once for each of them.
    scans = rows.groupby(["source_id", "group_id", "label"], sort=True)[columns].mean().reset_index()
    nothing = pd.DataFrame(columns=list(DOUBT_COLUMNS))
    if importlib.util.find_spec("cleanlab") is None:
        return LabelDoubts(nothing, 0, "cleanlab is not installed (pip install 'perceiver-knees[labels]')")
    labels = pd.Index(list(class_names)).get_indexer(scans["label"])
    if len(set(labels)) < 2:
        return LabelDoubts(nothing, 0, "all scans have one label")
    probabilities = scans[columns].to_numpy(dtype=np.float64)
    return LabelDoubts(_list_doubts(scans, labels, probabilities, class_names), len(scans))


def _list_doubts(scans: pd.DataFrame, labels: Array, probabilities: Array, class_names: Sequence[str]) -> pd.DataFrame:
    # To import it takes seconds, and one study needs it.
    from cleanlab.filter import find_label_issues

    # Classes that no scan has are left out, as cleanlab asks for.
    present = np.unique(labels)
    kept = probabilities[:, present] / np.maximum(probabilities[:, present].sum(axis=1, keepdims=True), 1e-12)
    codes = np.searchsorted(present, labels)
    is_doubted = find_label_issues(codes, kept, filter_by="confident_learning", n_jobs=1)
    suggested = kept.argmax(axis=1)
    rows = np.arange(len(scans))
    table = scans[["source_id", "group_id", "label"]].assign(
        suggested=np.asarray(class_names)[present[suggested]],
        probability_of_label=kept[rows, codes],
        probability_of_suggested=kept[rows, suggested],
    )
    # Where the label's class is the most probable one all the same, there is nothing to suggest.
    table = table[is_doubted & (suggested != codes)]
    return table.sort_values(["probability_of_label", "source_id"], kind="stable").reset_index(drop=True)
