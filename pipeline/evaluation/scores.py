"""Scores as functions of patient weights: how often each patient counts.

With every weight 1 a score is the plain score of the table. With the weights of
a draw of patients with replacement it is the score of that bootstrap resample.
So one formula gives the value and its interval, and a resample costs a product
of matrices instead of a walk through the rows.

scikit-learn scores one table at a time: each of 2,000 resamples would be a table of its
own, to be counted and sorted from the start. The tests compare every score with its.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from einops import rearrange

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.auroc import RankCounts, compute_auroc, count_ranks
from pipeline.evaluation.bootstrap import Bootstrap, count_pairs, divide_or_nan

METRIC_TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "mcc": "Matthews correlation",
    "f1": "F1",
    "nll": "Negative log-likelihood",
    "brier": "Brier score",
    "ece": "Expected calibration error",
}
METRIC_NAMES = tuple(METRIC_TITLES)
NUM_CALIBRATION_BINS = 15


@dataclass(frozen=True)
class PatientTotals:
    """The sums per patient that all scores are computed from.

    Attributes:
        confusion: ``(classes * classes, patients)`` sparse counts, rows are (true, predicted).
        losses: ``(patients, 2)``: sums of the negative log-likelihood and of the Brier score.
        calibration_gaps: ``(patients, bins)``: sums of confidence minus correctness.
        rank_counts: The counts of each class where there are several; of two classes those of the last one alone.
        num_classes: The number of classes that the table may hold.
    """

    confusion: scipy.sparse.csr_array
    losses: Floats
    calibration_gaps: Floats
    rank_counts: tuple[RankCounts, ...]
    num_classes: int

    @property
    def num_patients(self) -> int:
        return len(self.losses)

    @property
    def numbers_held(self) -> int:
        """The numbers that a resample holds at once."""
        return max([self.num_patients, self.num_classes**2, *(counts.numbers_held for counts in self.rank_counts)])


def sum_over_patients(
    labels: Indices, predicted: Indices, probabilities: Floats, patients: Indices, ranked: Floats | None = None
) -> PatientTotals:
    """Sum the rows of a predictions table per patient.

    Args:
        labels: ``(rows,)`` index of the true class.
        predicted: ``(rows,)`` index of the predicted class.
        probabilities: ``(rows, classes)``, each row sums to 1.
        patients: ``(rows,)`` index of the patient, 0 to the number of patients - 1.
        ranked: ``(rows, classes)``: what the AUROC ranks the rows by, the probabilities where it is None.

    Returns:
        The sums. The negative log-likelihood takes no probability below the
        rounding of float64, so that one impossible row does not make it infinite.
        The Brier score of two classes is the squared error of the last class; of
        several classes it is the sum of the squared errors over the classes.
    """
    num_rows, num_classes = probabilities.shape
    num_patients = int(patients.max()) + 1
    is_class = labels[:, None] == np.arange(num_classes)
    likelihood = np.clip(probabilities[np.arange(num_rows), labels], np.finfo(np.float64).eps, 1.0)
    squared_errors = (probabilities - is_class) ** 2
    brier = squared_errors[:, 1] if num_classes == 2 else squared_errors.sum(axis=1)
    losses = [np.bincount(patients, loss, num_patients) for loss in (-np.log(likelihood), brier)]
    confidence = probabilities.max(axis=1)
    gap_cells = patients * NUM_CALIBRATION_BINS + assign_bins(confidence, NUM_CALIBRATION_BINS)
    excess = confidence - (labels == predicted)
    gaps = np.bincount(gap_cells, excess, num_patients * NUM_CALIBRATION_BINS).astype(np.float64)
    scores = probabilities if ranked is None else ranked
    ranked_classes = [1] if num_classes == 2 else range(num_classes)
    return PatientTotals(
        confusion=count_pairs(labels * num_classes + predicted, patients, (num_classes * num_classes, num_patients)),
        losses=np.stack(losses, axis=1),
        calibration_gaps=rearrange(gaps, "(patient bin) -> patient bin", bin=NUM_CALIBRATION_BINS),
        rank_counts=tuple(
            count_ranks(scores[:, index], is_class[:, index], patients, num_patients) for index in ranked_classes
        ),
        num_classes=num_classes,
    )


def assign_bins(confidence: Floats, num_bins: int) -> Indices:
    """Return the index of the equally wide bin of [0, 1]; a bin holds its upper edge, not its lower."""
    return np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def resample_scores(totals: PatientTotals, bootstrap: Bootstrap) -> dict[str, Floats] | None:
    """Score bootstrap resamples of the patients.

    Returns:
        For each name in METRIC_NAMES ``(resamples,)``, NaN where a resample does not define it; None for one patient.
    """

    def compute(weights: Floats) -> Floats:
        scores = compute_scores(totals, weights)
        return np.stack([scores[name] for name in METRIC_NAMES], axis=1)

    resampled = bootstrap.resample(compute, totals.num_patients, totals.numbers_held)
    return None if resampled is None else dict(zip(METRIC_NAMES, resampled.T, strict=True))


def compute_scores(totals: PatientTotals, weights: Floats) -> dict[str, Floats]:
    """Compute every score for every row of weights.

    Args:
        totals: A table summed per patient.
        weights: ``(resamples, patients)``, at least one weight of a row above 0.

    Returns:
        For each name in METRIC_NAMES ``(resamples,)``; NaN where it is not defined.
    """
    cells = np.asarray((totals.confusion @ weights.T).T)
    confusion = rearrange(cells, "resample (true predicted) -> resample true predicted", true=totals.num_classes)
    num_rows = cells.sum(axis=1)
    losses = weights @ totals.losses / num_rows[:, None]
    gaps = weights @ totals.calibration_gaps
    scores = compute_confusion_scores(confusion)
    scores["auroc"] = average_defined(
        np.stack([compute_auroc(counts, weights) for counts in totals.rank_counts], axis=1)
    )
    scores["nll"], scores["brier"] = losses[:, 0], losses[:, 1]
    scores["ece"] = np.abs(gaps).sum(axis=1) / num_rows
    return {name: scores[name] for name in METRIC_NAMES}


def compute_confusion_scores(confusion: Floats) -> dict[str, Floats]:
    """Compute the scores that depend on the confusion matrix alone.

    Two classes: sensitivity and F1 are those of the last class. Several classes:
    sensitivity and specificity are means over the classes that occur as a label, F1
    over those that occur as a label or a prediction. Matthews' coefficient is 0 where
    all predictions are equal, its usual convention.

    Args:
        confusion: ``(resamples, classes, classes)`` counts, axis 1 the true class.

    Returns:
        ``(resamples,)`` each; NaN where a class that is needed does not occur.

    Source:
        Gorodkin, "Comparing two K-category assignments by a K-category correlation
        coefficient", 2004, for Matthews' coefficient.
    """
    num_classes = confusion.shape[1]
    total = confusion.sum(axis=(1, 2))
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    recall = divide_or_nan(hits, support)
    specificity = divide_or_nan(total[:, None] - support - predicted + hits, total[:, None] - support)
    f1 = divide_or_nan(2 * hits, support + predicted)
    if num_classes == 2:
        sensitivity, true_negative_rate, f1_score = recall[:, 1], specificity[:, 1], f1[:, 1]
    else:
        sensitivity = average_defined(recall)
        true_negative_rate = average_defined(np.where(support > 0, specificity, np.nan))
        f1_score = average_defined(f1)
    covariance = hits.sum(axis=1) * total - (support * predicted).sum(axis=1)
    label_variance = total**2 - (support**2).sum(axis=1)
    predicted_variance = total**2 - (predicted**2).sum(axis=1)
    # Square roots first: the product of two variances of 8 million rows loses digits.
    mcc = divide_or_nan(covariance, np.sqrt(label_variance) * np.sqrt(predicted_variance))
    has_two_classes = (support > 0).sum(axis=1) >= 2
    return {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": np.where(has_two_classes, average_defined(recall), np.nan),
        "sensitivity": sensitivity,
        "specificity": true_negative_rate,
        "mcc": np.where(has_two_classes, np.where(predicted_variance == 0, 0.0, mcc), np.nan),
        "f1": f1_score,
    }


def average_defined(values: Floats) -> Floats:
    """Average ``(resamples, classes)`` over the classes that are not NaN; NaN where all are."""
    is_defined = ~np.isnan(values)
    return divide_or_nan(np.where(is_defined, values, 0.0).sum(axis=1), is_defined.sum(axis=1).astype(np.float64))
