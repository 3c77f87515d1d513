"""What a score is worth nothing below: the commonest class, and a linear model of raw pixels."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas
from einops import rearrange, reduce
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.tree import DecisionTreeClassifier

from pipeline.core.array_types import Floats
from pipeline.core.data_kinds import VOLUMES, DataKind
from pipeline.core.errors import UserError
from pipeline.data.store import Store
from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.predictions import build_predictions, check_predictions

INVERSE_REGULARISATIONS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
MAX_ITERATIONS = 200
TOLERANCE = 1e-4  # of the largest gradient
MIN_LEAF_ROWS = 10

Labels = Iterable[str]  # an array, a list or a column

MAX_POOLED_SIZE = 64  # pixels along the longer side
POOLED_ROWS_AT_ONCE = 1024


def majority(train_labels: Labels, num_test: int, class_names: Sequence[str]) -> Floats:
    """Predict how often each class occurs in training, whatever the image.

    Returns:
        ``(num_test, classes)``; its most probable class is the commonest one, and its
        log-likelihood is the best that a model blind to the images can have.

    Raises:
        UserError: there is no training label, or one that is not a class name.
    """
    counts = count_labels(train_labels, class_names)
    return np.repeat((counts / counts.sum())[None], num_test, axis=0)


def count_labels(labels: Labels, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Count the labels of each class, ``(classes,)``; refuse an empty list and an unknown label."""
    found = [str(label) for label in labels]
    unknown = sorted(set(found) - set(class_names))
    if unknown or len(found) == 0:
        raise UserError(f"baselines: training labels hold {unknown[:5] or 'no rows'}; allowed are {list(class_names)}.")
    return np.array([found.count(name) for name in class_names])


def logistic_regression(
    store: Store, rows: dict[str, NDArray[np.int64]], seed: int = 0, max_rows: int = 10_000
) -> Floats:
    """Fit a linear model of the pixels and score the test images.

    Images are averaged over square blocks to at most 64 pixels a side and standardised
    with the mean and deviation of each training pixel. Of five penalties, the strongest first,
    the one before the first that is worse on validation is taken; without validation rows it
    is the third. Of the store no more is read at once than a thousand images.

    Args:
        store: images and their labels; a class that training lacks gets probability 0.
        rows: of "train", "val" (used for the penalty alone) and "test".
        seed: of the rows that are drawn where there are too many.
        max_rows: training rows that are fitted; of more, so many are drawn without replacement.

    Returns:
        ``(test rows, classes)``, each row sums to 1.

    Raises:
        UserError: training holds fewer than two classes, or an unknown label.
    """
    labels = store.index["label"].to_numpy(dtype=str)
    if (count_labels(labels[rows["train"]], store.class_names) > 0).sum() < 2:
        raise UserError("baselines: all training labels are equal; a logistic regression needs two classes.")
    fitted = rows["train"][choose_rows(len(rows["train"]), max_rows, seed)]
    if len(set(labels[fitted])) < 2:
        raise UserError(
            f"baselines: {len(fitted)} rows drawn from training all have the label "
            f"{labels[fitted][0]!r}; the rarer classes have too few rows for a logistic regression."
        )
    train, val, test = (pool_images(store.examples, part) for part in (fitted, rows["val"], rows["test"]))
    return fit_linear_model(train, labels[fitted], val, labels[rows["val"]], test, store.class_names)


def fit_linear_model(
    train_pixels: NDArray[np.float32],
    train_labels: Labels,
    val_pixels: NDArray[np.float32],
    val_labels: Labels,
    test_pixels: NDArray[np.float32],
    class_names: Sequence[str],
) -> Floats:
    """Fit a logistic regression as ``logistic_regression`` tells it, of pixels ``(rows, pixels)``, and score the test.

    Returns:
        ``(test rows, classes)``, each row sums to 1.
    """
    mean, deviation = train_pixels.mean(axis=0), train_pixels.std(axis=0)
    deviation[deviation == 0] = 1.0  # a pixel that never changes carries nothing and stays 0
    train_pixels = (train_pixels - mean) / deviation
    val_pixels, test_pixels = (val_pixels - mean) / deviation, (test_pixels - mean) / deviation

    model = LogisticRegression(solver="lbfgs", tol=TOLERANCE, max_iter=MAX_ITERATIONS, warm_start=True)
    best_loss, best = np.inf, None
    candidates = INVERSE_REGULARISATIONS if len(val_pixels) > 0 else INVERSE_REGULARISATIONS[2:3]
    for inverse_regularisation in candidates:  # the strongest first, each starts from the one before
        with warnings.catch_warnings():
            # A weak penalty on many pixels may need more steps than are worth their time; it stops where it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=inverse_regularisation).fit(train_pixels, train_labels)
        loss = validation_loss(model, val_pixels, val_labels, class_names)
        if best is not None and loss >= best_loss:
            break  # weaker penalties are worse still, and take longer
        best_loss, best = loss, predict_probabilities(model, test_pixels, class_names)
    assert best is not None
    return best


def decision_tree(
    train_values: Floats, train_labels: Labels, test_values: Floats, class_names: Sequence[str], seed: int = 0
) -> Floats:
    """Fit a decision tree of a few numbers a row, which needs no straight line, and score the test rows.

    Its leaves hold at least 10 training rows, so that a slice's index alone can have one.

    Args:
        train_values: ``(rows, numbers)``.
        train_labels: ``(rows,)`` class names; where all are equal, the answer is that class.
        test_values: ``(test rows, numbers)``.
        class_names: all classes; one that training lacks gets probability 0.
        seed: of the order in which equally good splits are tried.

    Returns:
        ``(test rows, classes)``, each row sums to 1.
    """
    labels = np.array(list(train_labels), dtype=str)
    if (count_labels(labels, class_names) > 0).sum() < 2:
        return majority(labels, len(test_values), class_names)
    tree = DecisionTreeClassifier(min_samples_leaf=MIN_LEAF_ROWS, random_state=seed)
    return predict_probabilities(tree.fit(train_values, labels), test_values, class_names)


def choose_rows(num_rows: int, max_rows: int, seed: int) -> NDArray[np.int64]:
    """Return all row indices, or ``max_rows`` of them drawn without replacement, in rising order."""
    if num_rows <= max_rows:
        return np.arange(num_rows)
    drawn = np.random.default_rng(seed).choice(num_rows, size=max_rows, replace=False)
    return np.sort(drawn)


def predict_probabilities(
    model: LogisticRegression | DecisionTreeClassifier, pixels: NDArray[Any], class_names: Sequence[str]
) -> Floats:
    """Return ``(rows, classes)`` in the order of the class names; a class never seen has 0."""
    probabilities = np.zeros((len(pixels), len(class_names)))
    if len(pixels) > 0:
        columns = [list(class_names).index(name) for name in model.classes_]
        probabilities[:, columns] = model.predict_proba(pixels)
    probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), np.finfo(np.float64).eps)
    return probabilities


def validation_loss(
    model: LogisticRegression, pixels: NDArray[np.float32], labels: Labels, class_names: Sequence[str]
) -> float:
    """Return the mean negative log-likelihood on validation; infinite where there are no rows."""
    if len(pixels) == 0:
        return float("inf")
    probabilities = predict_probabilities(model, pixels, class_names)
    order = np.argsort(class_names)  # the order that scikit-learn assumes
    sorted_names = [class_names[index] for index in order]
    return float(log_loss(np.array(list(labels), dtype=str), probabilities[:, order], labels=sorted_names))


def score_baseline(
    index: pandas.DataFrame,
    probabilities: Floats,
    class_names: Sequence[str],
    num_resamples: int = 2000,
    seed: int = 0,
    kind: DataKind = VOLUMES,
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of a baseline, example by example, as they stand under ``baselines`` in metrics.json."""
    table = build_predictions(index, probabilities, class_names)
    check_predictions(table, class_names)
    metrics: dict[str, dict[str, float | None]] = compute_level(table, class_names, num_resamples, seed, kind)[
        "metrics"
    ]
    return metrics


def pool_images(images: NDArray[np.uint8], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Average images over square blocks until both sides have at most 64 pixels.

    Rows and columns that fill no whole block are cut off, evenly from both ends.

    Args:
        images: ``(rows, height, width)`` or ``(rows, channels, height, width)``.
        rows: which of them; all if None.

    Returns:
        ``(rows, channels * pooled height * pooled width)`` float32, still 0 to 255.
    """
    rows = np.arange(len(images)) if rows is None else rows
    height, width = images.shape[-2:]
    factor = choose_pooling(height, width)
    top, left = (height % factor) // 2, (width % factor) // 2
    bottom, right = top + height // factor * factor, left + width // factor * factor
    num_pixels = (height // factor) * (width // factor) * int(np.prod(images.shape[1:-2], dtype=np.int64))
    pooled = np.empty((len(rows), num_pixels), dtype=np.float32)
    for start in range(0, len(rows), POOLED_ROWS_AT_ONCE):
        batch = images[rows[start : start + POOLED_ROWS_AT_ONCE], ..., top:bottom, left:right]
        blocks = reduce(batch.astype(np.float32), "... (y dy) (x dx) -> ... y x", "mean", dy=factor, dx=factor)
        pooled[start : start + len(batch)] = rearrange(blocks, "row ... -> row (...)")
    return pooled


def choose_pooling(height: int, width: int) -> int:
    """Return the side of the blocks, in pixels, that pictures are averaged over."""
    return min(-(-max(height, width) // MAX_POOLED_SIZE), height, width)
