"""Baselines: the most frequent class, a linear model of raw pixels, and two models that see no anatomy.

The last two see the border of the images alone and a slice's index alone. Where the border is background, a label that
they predict comes not from the knee but from how the images were made: a mark in a corner, a coil's shading, another
scanner, more slices of one class.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas
from einops import rearrange, reduce
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.tree import DecisionTreeClassifier

from pipeline.core.array_types import Floats, Indices
from pipeline.core.errors import UserError
from pipeline.data.store import Store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import estimate_scores, sum_table
from pipeline.evaluation.predictions import build_predictions, check_predictions
from pipeline.evaluation.schema import Scores

INVERSE_REGULARISATIONS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
MAX_ITERATIONS = 200
TOLERANCE = 1e-4  # of the largest gradient
MIN_LEAF_ROWS = 10

Labels = Iterable[str]  # an array, a list or a column


class Predictor(Protocol):
    """A fitted model, as scikit-learn's."""

    classes_: Any

    def predict_proba(self, values: Any, /) -> Any:
        """Return the probability of each of ``classes_`` in each row."""


class LinearModel(Predictor, Protocol):
    """A linear model that can be fitted again with another penalty."""

    def set_params(self, *, C: float) -> Any:  # noqa: N803 (scikit-learn's name)
        """Set the inverse of the penalty's strength."""

    def fit(self, values: Any, labels: Any, /) -> Any:
        """Fit the rows, from the last fit on."""


MAX_POOLED_SIZE = 64  # pixels along the longer side
ROWS_AT_ONCE = 1024
BORDER_PARTS = 16  # the border is as wide as this part of a side, at least one pixel


def majority(train_labels: Labels, num_test: int, class_names: Sequence[str]) -> Floats:
    """Predict the fraction of each class in training, whatever the image.

    Args:
        train_labels: The labels of the training rows.
        num_test: The number of rows to predict.
        class_names: All classes.

    Returns:
        ``(num_test, classes)``; its most probable class is the most frequent one, and its
        log-likelihood is the best that a model blind to the images can have.

    Raises:
        UserError: there is no training label, or one that is not a class name.
    """
    counts = count_labels(train_labels, class_names)
    return np.repeat((counts / counts.sum())[None], num_test, axis=0)


def count_labels(labels: Labels, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Count the labels of each class, ``(classes,)``; refuse an empty list and an unknown label."""
    found = Counter(str(label) for label in labels)
    unknown = sorted(set(found) - set(class_names))
    if unknown or not found:
        raise UserError(f"baselines: training labels hold {unknown[:5] or 'no rows'}; allowed are {list(class_names)}.")
    return np.array([found[name] for name in class_names])


def logistic_regression(store: Store, rows: dict[str, Indices], seed: int = 0, max_rows: int = 10_000) -> Floats:
    """Fit a linear model of the pixels and score the test images.

    Images are averaged over square blocks to at most 64 pixels a side and standardised
    with the mean and standard deviation of each training pixel. Of five penalties, the strongest first,
    the one before the first that is worse on validation is taken; without validation rows it
    is the third. At most 1,024 images of the store are read at once.

    Args:
        store: Images and their labels; a class that training lacks gets probability 0.
        rows: The rows of "train", "val" (used for the penalty alone) and "test".
        seed: The seed of the rows that are drawn where there are too many.
        max_rows: The largest number of training rows that are fitted; of more, so many are drawn without replacement.

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
    return fit_linear_model(store, rows | {"train": fitted}, pool_images)


def border_only(store: Store, rows: dict[str, Indices], seed: int, max_rows: int) -> Floats:
    """Fit a logistic regression of the images' border and score the test rows.

    Args:
        store: Images and their labels.
        rows: The rows of "train", "val" and "test".
        seed: The seed of the rows that are drawn where there are too many.
        max_rows: The largest number of training rows that are fitted.

    Returns:
        ``(test rows, classes)``; the fraction of each class in training where all drawn labels are equal.
    """
    labels = store.index["label"].to_numpy(dtype=str)
    fitted = rows["train"][choose_rows(len(rows["train"]), max_rows, seed)]
    if (count_labels(labels[fitted], store.class_names) > 0).sum() < 2:
        return majority(labels[fitted], len(rows["test"]), store.class_names)
    return fit_linear_model(store, rows | {"train": fitted}, take_border)


def index_only(store: Store, rows: dict[str, Indices], seed: int) -> Floats:
    """Fit a decision tree of a slice's index and its position along the axis, and score the test rows.

    Args:
        store: The index, with labels.
        rows: The rows of "train" and "test".
        seed: The seed of the tree.

    Returns:
        ``(test rows, classes)``.
    """
    values = store.index[["slice_index", "slice_position"]].to_numpy(dtype=np.float64)
    labels = store.index["label"].to_numpy(dtype=str)
    return decision_tree(values[rows["train"]], labels[rows["train"]], values[rows["test"]], store.class_names, seed)


def fit_linear_model(
    store: Store,
    rows: dict[str, Indices],
    read_pixels: Callable[[NDArray[np.uint8], Indices], NDArray[np.float32]],
    model: LinearModel | None = None,
) -> Floats:
    """Fit a linear model of pixels and score the test rows; see ``logistic_regression``.

    Only the training rows are held at once. Of the others, of which there may be millions, 1,024 are: those of
    validation are read for each penalty that is tried, those of the test once, for the best one.

    Args:
        store: Images and their labels.
        rows: The rows of "train", "val" (which the penalty is chosen by; may be none) and "test".
        read_pixels: Reads rows of the images, ``(rows, pixels)`` float32.
        model: The model to fit; None for a logistic regression.

    Returns:
        ``(test rows, classes)``, each row sums to 1.
    """
    labels, class_names = store.index["label"].to_numpy(dtype=str), store.class_names
    train_pixels = read_pixels(store.examples, rows["train"])
    mean, std = train_pixels.mean(axis=0), train_pixels.std(axis=0)
    std[std == 0] = 1.0  # a pixel that never changes has no information and stays 0
    train_pixels = (train_pixels - mean) / std

    def score(fitted: Predictor, scored: Indices) -> Floats:
        probabilities = np.empty((len(scored), len(class_names)))
        for start in range(0, len(scored), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            pixels = (read_pixels(store.examples, scored[part]) - mean) / std
            probabilities[part] = predict_probabilities(fitted, pixels, class_names)
        return probabilities

    if model is None:
        model = LogisticRegression(solver="lbfgs", tol=TOLERANCE, max_iter=MAX_ITERATIONS, warm_start=True)
    best_loss, best = np.inf, None
    candidates = INVERSE_REGULARISATIONS if len(rows["val"]) > 0 else INVERSE_REGULARISATIONS[2:3]
    for inverse_regularisation in candidates:  # the strongest first, each starts from the one before
        with warnings.catch_warnings():
            # A weak penalty on many pixels may need very many steps; it stops after MAX_ITERATIONS.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=inverse_regularisation)
            model.fit(train_pixels, labels[rows["train"]])
        loss = validation_loss(score(model, rows["val"]), labels[rows["val"]], class_names)
        if best is not None and loss >= best_loss:
            break  # weaker penalties are worse still, and take longer
        best_loss, best = loss, copy.deepcopy(model)
    assert best is not None
    return score(best, rows["test"])


def decision_tree(
    train_values: Floats, train_labels: Labels, test_values: Floats, class_names: Sequence[str], seed: int = 0
) -> Floats:
    """Fit a decision tree of a few numbers a row, which finds more than linear relations, and score the test rows.

    Its leaves hold at least 10 training rows, so that a slice's index alone can have one.

    Args:
        train_values: ``(rows, numbers)``.
        train_labels: ``(rows,)`` class names; where all are equal, that class is predicted.
        test_values: ``(test rows, numbers)``.
        class_names: All classes; one that training lacks gets probability 0.
        seed: The seed of the order in which equally good splits are tried.

    Returns:
        ``(test rows, classes)``, each row sums to 1.
    """
    labels = np.array(list(train_labels), dtype=str)
    if (count_labels(labels, class_names) > 0).sum() < 2:
        return majority(labels, len(test_values), class_names)
    tree = DecisionTreeClassifier(min_samples_leaf=MIN_LEAF_ROWS, random_state=seed)
    return predict_probabilities(tree.fit(train_values, labels), test_values, class_names)


def choose_rows(num_rows: int, max_rows: int, seed: int) -> NDArray[np.int64]:
    """Return all row indices, or ``max_rows`` of them drawn without replacement, in rising order.

    Args:
        num_rows: The number of rows to choose from.
        max_rows: The largest number of rows to return.
        seed: The seed of the random number generator.
    """
    if num_rows <= max_rows:
        return np.arange(num_rows)
    drawn = np.random.default_rng(seed).choice(num_rows, size=max_rows, replace=False)
    return np.sort(drawn)


def predict_probabilities(model: Predictor, pixels: NDArray[Any], class_names: Sequence[str]) -> Floats:
    """Return the probabilities of a fitted model, ``(rows, classes)``.

    Args:
        model: The fitted model, with the classes that it has seen.
        pixels: ``(rows, numbers)``, the inputs.
        class_names: All classes, in the order of the columns; one that the model has not seen has probability 0.
    """
    probabilities = np.zeros((len(pixels), len(class_names)))
    if len(pixels) > 0:
        columns = [list(class_names).index(name) for name in model.classes_]
        probabilities[:, columns] = model.predict_proba(pixels)
    probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), np.finfo(np.float64).eps)
    return probabilities


def validation_loss(probabilities: Floats, labels: Labels, class_names: Sequence[str]) -> float:
    """Return the mean negative log-likelihood on validation; infinite where there are no rows.

    Args:
        probabilities: ``(rows, classes)`` of the validation rows.
        labels: The class names of these rows.
        class_names: All classes.
    """
    if len(probabilities) == 0:
        return float("inf")
    order = np.argsort(class_names)  # the order that scikit-learn assumes
    sorted_names = [class_names[index] for index in order]
    return float(log_loss(np.array(list(labels), dtype=str), probabilities[:, order], labels=sorted_names))


def score_baseline(
    index: pandas.DataFrame,
    probabilities: Floats,
    class_names: Sequence[str],
    bootstrap: Bootstrap,
) -> Scores:
    """Return the metrics of a baseline, example by example, as ``baselines`` in metrics.json holds them.

    Args:
        index: The rows of the store's index that are scored.
        probabilities: ``(rows, classes)``, in the order of the index.
        class_names: All classes.
        bootstrap: The resamples of patients.
    """
    table = build_predictions(index, probabilities, class_names)
    check_predictions(table, class_names)
    return estimate_scores(*sum_table(table, class_names), bootstrap)


def pool_images(images: NDArray[np.uint8], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Average images over square blocks until both sides have at most 64 pixels.

    Rows and columns that fill no whole block are left out, evenly at both ends.

    Args:
        images: ``(rows, height, width)`` or ``(rows, channels, height, width)``.
        rows: The indices of the images to pool; None for all.

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
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = images[rows[start : start + ROWS_AT_ONCE], ..., top:bottom, left:right]
        blocks = batch
        if factor > 1:
            blocks = reduce(batch.astype(np.float32), "... (y dy) (x dx) -> ... y x", "mean", dy=factor, dx=factor)
        pooled[start : start + len(batch)] = rearrange(blocks, "row ... -> row (...)")
    return pooled


def choose_pooling(height: int, width: int) -> int:
    """Return the side of the blocks, in pixels, that images are averaged over."""
    return min(-(-max(height, width) // MAX_POOLED_SIZE), height, width)


def take_border(images: NDArray[Any], rows: Indices) -> NDArray[np.float32]:
    """Take a frame of each image, a sixteenth of its height and width wide; nothing of the inside.

    Images of more than 64 pixels a side are averaged over square blocks first, as for ``logistic_regression``; the
    frame is then whole blocks. Edges that fill no whole block are left out here too.

    Args:
        images: ``(images, height, width)`` or ``(images, channels, height, width)`` uint8.
        rows: The rows that are read.

    Returns:
        ``(rows, pixels of the frame)`` float32.
    """
    num_channels = 1 if images.ndim == 3 else images.shape[1]
    height, width = images.shape[-2:]
    block = choose_pooling(height, width)
    height, width = height // block, width // block
    is_border = np.ones((height, width), dtype=bool)
    thick_rows, thick_columns = max(1, height // BORDER_PARTS), max(1, width // BORDER_PARTS)
    is_border[thick_rows : height - thick_rows, thick_columns : width - thick_columns] = False
    pixels = rearrange(pool_images(images, rows), "row (channel pixel) -> row channel pixel", channel=num_channels)
    border: NDArray[np.float32] = rearrange(
        pixels[:, :, is_border.reshape(-1)], "row channel pixel -> row (channel pixel)"
    )
    return border
