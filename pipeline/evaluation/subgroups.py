"""Shares of rows in parts of a table, such as the accuracy at each visit, with intervals over patients."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.array_types import Indices
from pipeline.evaluation.bootstrap import count_cells, divide, draw_weights, summarise

Estimate = dict[str, float | None]  # value, low and high, as everywhere in metrics.json


def compute_shares(
    is_counted: NDArray[np.bool_], parts: Indices, patients: Indices, num_parts: int, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Compute, for each part of a table, which share of its rows is counted.

    Args:
        is_counted: ``(rows,)``, such as whether the answer is right.
        parts: ``(rows,)``, the part that a row belongs to, 0 to ``num_parts`` - 1.
        patients: ``(rows,)``, of all rows together, 0 to the number of patients - 1.
        num_parts: how many parts there are; one without rows has no share.
        num_resamples: how many times the patients are drawn again. All patients of the table are drawn; a resample
            in which a part has no row says nothing about it.
        seed: of the draws, the same patients as ``compute_level`` draws.

    Returns:
        For each part ``n`` rows, ``groups`` patients and the ``share`` as value, low and high. As everywhere there is
        no interval over a single patient, nor where a tenth of the resamples say nothing, as of a part of one or two.
    """
    num_patients = int(patients.max()) + 1
    rows = count_cells(parts, patients, (num_parts, num_patients))
    counted = count_cells(parts[is_counted], patients[is_counted], (num_parts, num_patients))
    largest = max(num_patients, num_parts)
    resampled = [
        divide(np.asarray(counted @ weights.T), np.asarray(rows @ weights.T))
        for weights in draw_weights(num_patients, num_resamples, seed, largest)
    ]
    shares = np.concatenate(resampled, axis=1) if num_patients > 1 else None
    num_rows = np.asarray(rows.sum(axis=1))
    values = divide(np.asarray(counted.sum(axis=1)), num_rows)
    num_groups = (rows > 0).sum(axis=1)
    return [
        {
            "n": int(num_rows[part]),
            "groups": int(num_groups[part]),
            "share": summarise(values[part], None if shares is None else shares[part]),
        }
        for part in range(num_parts)
    ]


def compute_share(is_counted: NDArray[np.bool_], patients: Indices, num_resamples: int, seed: int) -> Estimate:
    """Compute which share of all rows is counted: ``compute_shares`` of a table that is one part."""
    parts = np.zeros(len(is_counted), dtype=np.int64)
    share: Estimate = compute_shares(is_counted, parts, patients, 1, num_resamples, seed)[0]["share"]
    return share


def number_patients(group_ids: Iterable[str]) -> Indices:
    """Number the patients from 0 in the order of their ids, as ``compute_level`` does, ``(rows,)``."""
    _, numbers = np.unique(np.asarray(list(group_ids), dtype=str), return_inverse=True)
    return numbers.astype(np.int64)
