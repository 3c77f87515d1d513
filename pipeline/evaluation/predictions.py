"""The table of predictions: its columns, and its means over volumes, knees and patients."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas

from pipeline.core.array_types import Floats, Indices
from pipeline.core.errors import UserError
from pipeline.core.predictions import TIE_DECIMALS
from pipeline.core.tables import prediction_columns, read_table

ID_COLUMNS = ("example_id", "source_id", "group_id", "split", "label", "predicted")
ROW_LEVELS = ("slice", "image", "object")  # those of the table's own rows
# The columns whose values together are one row of the level.
LEVEL_KEYS = {"volume": ("source_id",), "knee": ("group_id", "side"), "patient": ("group_id",)}

PROBABILITY_SUM_TOLERANCE = 1e-3  # six decimals for each of a hundred classes stay far below


def check_predictions(predictions: pandas.DataFrame, class_names: Sequence[str]) -> None:
    """Refuse a predictions table that cannot be scored.

    Raises:
        UserError: no rows, a column is missing, a label is not a class name, a
            probability is outside [0, 1] or missing, or a row does not sum to 1.
    """
    columns = [*ID_COLUMNS, *(f"probability_{name}" for name in class_names)]
    missing = [column for column in columns if column not in predictions.columns]
    if len(class_names) < 2:
        raise UserError(f"predictions: found {len(class_names)} class names; scores need at least 2.")
    if missing:
        raise UserError(f"predictions: columns {missing} are missing; needed are {columns}.")
    if len(predictions) == 0:
        raise UserError("predictions: the table has no rows; check that the split holds patients.")
    for column in ("label", "predicted"):
        unknown = sorted({str(name) for name in predictions[column].unique()} - set(class_names))
        if unknown:
            raise UserError(f"predictions: column {column} holds {unknown[:5]}; allowed are {list(class_names)}.")
    probabilities = read_probabilities(predictions, class_names)
    is_good = (probabilities >= 0) & (probabilities <= 1)
    is_good &= np.abs(probabilities.sum(axis=1, keepdims=True) - 1) <= PROBABILITY_SUM_TOLERANCE
    bad_rows = np.flatnonzero(~is_good.all(axis=1))
    if len(bad_rows) > 0:
        first = predictions["example_id"].iloc[bad_rows[0]]
        raise UserError(
            f"predictions: {len(bad_rows)} rows, first example_id {first!r}, "
            f"have probabilities {probabilities[bad_rows[0]].tolist()}; "
            "allowed are numbers from 0 to 1 that sum to 1; run evaluate again."
        )


def read_probabilities(predictions: pandas.DataFrame, class_names: Sequence[str]) -> Floats:
    """Return the probability columns as ``(rows, classes)``, in the order of the class names."""
    columns = [f"probability_{name}" for name in class_names]
    probabilities: Floats = predictions[columns].to_numpy(dtype=np.float64)
    return probabilities


def has_level(predictions: pandas.DataFrame, level: str) -> bool:
    """Return whether :func:`aggregate` can make a level of these rows.

    Each row of the level must be known and have one label only; a patient with both knees may have two. Levels of the
    test rows need not be levels of the validation rows.
    """
    if level in ROW_LEVELS:
        return True
    keys = list(LEVEL_KEYS[level])
    if any(key not in predictions.columns or (predictions[key] == "").any() for key in keys):
        return False
    return bool((predictions.groupby(keys)["label"].nunique() == 1).all())


def aggregate(predictions: pandas.DataFrame, level: str) -> pandas.DataFrame:
    """Average the probabilities over the slices of a volume, of a knee or of a patient.

    Args:
        predictions: A predictions table with one row a slice.
        level: The level: "slice", "image" or "object" (the table as it is), "volume", "knee" (the ``side`` of a
            patient, over all visits) or "patient".

    Returns:
        One row a volume, knee or patient, sorted by its id, with the columns of the table and
        ``num_slices``; ``example_id`` is the id of the volume, knee or patient. ``predicted``
        comes from the averaged probabilities; of equal ones the first class wins.

    Raises:
        UserError: the level is not known, or rows to be averaged differ in their label.
    """
    if level in ROW_LEVELS:
        return predictions
    if level not in LEVEL_KEYS:
        raise UserError(f"level: found {level!r}; allowed are {', '.join((*ROW_LEVELS, *LEVEL_KEYS))}.")
    first, *others = LEVEL_KEYS[level]
    ids = predictions[first].str.cat(predictions[others], sep=" ") if others else predictions[first]
    rows = predictions.groupby(ids, sort=True)
    num_labels = rows["label"].nunique()
    if (num_labels > 1).any():
        raise UserError(
            f"predictions: {level} {num_labels.idxmax()!r} has {num_labels.max()} different labels; "
            f"the {level} level needs one. Leave that level out or correct the labels."
        )
    probability_columns = [name for name in predictions.columns if name.startswith("probability_")]
    averaged = rows[["source_id", "group_id", "split", "label"]].first()
    averaged[probability_columns] = rows[probability_columns].mean()
    averaged["num_slices"] = rows.size()
    averaged.insert(0, "example_id", averaged.index)
    class_names = np.array([name.removeprefix("probability_") for name in probability_columns])
    ranked = averaged[probability_columns].to_numpy(dtype=np.float64).round(TIE_DECIMALS)
    averaged.insert(5, "predicted", class_names[ranked.argmax(axis=1)])
    return averaged.reset_index(drop=True)


def read_class_indices(names: pandas.Series, class_names: Sequence[str]) -> Indices:
    """Return the place of each name in the class names, ``(rows,)``."""
    codes = pandas.Categorical(names, categories=list(class_names)).codes
    return np.asarray(codes, dtype=np.int64)


def number_patients(group_ids: pandas.Series) -> Indices:
    """Number the patients from 0 in the order of their ids, ``(rows,)``."""
    numbers, _ = pandas.factorize(group_ids, sort=True)
    return np.asarray(numbers, dtype=np.int64)


def build_predictions(
    index: pandas.DataFrame, probabilities: Floats, class_names: Sequence[str], split: str = "test"
) -> pandas.DataFrame:
    """Join probabilities to the ids of the store's index: a predictions table.

    Args:
        index: The example_id, source_id, group_id and label of each row, and slice_index if there is one.
        probabilities: The probabilities ``(rows, classes)``, in the order of the index.
        class_names: The names of the classes, in the order of the columns.
        split: The split that the rows belong to.

    Returns:
        The predictions table; of equal probabilities the first class is predicted.
    """
    if len(index) != len(probabilities):
        raise UserError(f"predictions: {len(probabilities)} rows of probabilities for {len(index)} rows of the index.")
    kept = ["example_id", "source_id", "group_id", "label", "slice_index"]
    table = index[[name for name in kept if name in index.columns]].reset_index(drop=True)
    table["split"] = split
    table["predicted"] = np.asarray(class_names)[probabilities.round(TIE_DECIMALS).argmax(axis=1)]
    columns = pandas.DataFrame(probabilities, columns=[f"probability_{name}" for name in class_names])
    return pandas.concat([table, columns], axis=1)


def read_predictions(path: Path, class_names: tuple[str, ...]) -> pandas.DataFrame:
    """Read a predictions table, with probabilities as numbers.

    Args:
        path: The file.
        class_names: The classes whose probability columns the file must have.

    Raises:
        UserError: no such file, a missing column, or a probability that is no number.
    """
    table = read_table(path, prediction_columns(class_names))
    columns = [f"probability_{name}" for name in class_names]
    try:
        return table.astype(dict.fromkeys(columns, float))
    except ValueError as error:
        raise UserError(f"{path}: {error}. Run the stage that wrote it again.") from error
