"""The scans that a reader should see: the worst answers, the most uncertain ones, and a random sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.config.outputs import CasesConfig
from pipeline.core.predictions import choose_classes, probability_columns


@dataclass(frozen=True)
class Case:
    """A scan, an image or an object, with the model's answer.

    Args:
        source_id: The scan.
        group_id: The patient.
        label: The label.
        predicted: The class with the highest mean probability over its examples.
        probabilities: These means, in the order of the classes.
        reason: Why it is shown: ``worst``, ``uncertain`` or ``random``.
    """

    source_id: str
    group_id: str
    label: str
    predicted: str
    probabilities: tuple[float, ...]
    reason: str


def choose_cases(test: pd.DataFrame, class_names: Sequence[str], options: CasesConfig) -> list[Case]:
    """Choose scans by the answers to them; each is there once.

    Of answers 0.9 (wrong), 0.6 (wrong), 0.52 (right) and 0.99 (right) the worst two are 0.9 and 0.6, and the most
    uncertain of the others is 0.52.

    Args:
        test: The predictions of the tested examples.
        class_names: The classes.
        options: The number of each kind, and the seed of the sample.
    """
    columns = probability_columns(class_names)
    means = test.groupby("source_id", sort=True)[columns].mean()
    facts = test.groupby("source_id", sort=True)[["group_id", "label"]].first()
    scores = means.to_numpy(dtype=np.float64)
    predicted = np.asarray(class_names)[choose_classes(scores)]
    ordered = np.sort(scores, axis=1)
    confidence, margin = ordered[:, -1], ordered[:, -1] - ordered[:, -2]
    is_wrong = predicted != facts["label"].to_numpy()
    places = np.arange(len(means))
    worst = places[is_wrong][np.argsort(-confidence[is_wrong], kind="stable")][: options.num_worst]
    rest = np.setdiff1d(places, worst)
    uncertain = rest[np.argsort(margin[rest], kind="stable")][: options.num_uncertain]
    rest = np.setdiff1d(rest, uncertain)
    drawn = np.random.default_rng(options.seed).permutation(rest)[: options.num_random]
    found = {"worst": worst, "uncertain": uncertain, "random": np.sort(drawn)}
    return [
        Case(
            str(means.index[place]),
            str(facts["group_id"].iloc[place]),
            str(facts["label"].iloc[place]),
            str(predicted[place]),
            tuple(float(value) for value in scores[place]),
            reason,
        )
        for reason, chosen in found.items()
        for place in chosen
    ]
