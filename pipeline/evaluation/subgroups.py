"""Fractions of rows in subgroups of a table, such as the accuracy at each visit, with intervals over patients.

The same patients are drawn as for the scores, and a subgroup's rows are drawn with them. The docstring of
``bootstrap`` explains why no library does this.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.bootstrap import Bootstrap, count_pairs, divide_or_nan, percentile_interval
from pipeline.evaluation.schema import Estimate


@dataclass(frozen=True)
class SubgroupFraction:
    """The fraction of a subgroup's rows that is counted.

    Args:
        num_rows: The rows of the subgroup.
        num_patients: The patients that they belong to.
        fraction: The fraction that is counted, with its interval.
    """

    num_rows: int
    num_patients: int
    fraction: Estimate


def compute_fractions(
    is_counted: NDArray[np.bool_], subgroups: Indices, patients: Indices, num_subgroups: int, bootstrap: Bootstrap
) -> list[SubgroupFraction]:
    """Compute, for each subgroup of a table, the fraction of its rows that is counted.

    Args:
        is_counted: ``(rows,)``, such as whether the prediction is correct.
        subgroups: ``(rows,)``, the subgroup of each row, 0 to ``num_subgroups`` - 1.
        patients: ``(rows,)``, the patient of each row, 0 to the number of patients - 1.
        num_subgroups: The number of subgroups; one without rows has no fraction.
        bootstrap: The resamples. All patients of the table are drawn; a resample in which a subgroup has no row
            leaves its fraction undefined.

    Returns:
        A record for each subgroup. As everywhere there is no interval over a single patient, nor where the fraction
        is undefined in more than a tenth of the resamples, as for a subgroup of one or two patients.
    """
    num_patients = int(patients.max()) + 1
    shape = (num_subgroups, num_patients)
    rows = count_pairs(subgroups, patients, shape)
    counted = count_pairs(subgroups[is_counted], patients[is_counted], shape)

    def compute(weights: Floats) -> Floats:
        return divide_or_nan(np.asarray(counted @ weights.T), np.asarray(rows @ weights.T)).T

    resampled = bootstrap.resample(compute, num_patients, num_subgroups)
    num_rows = np.asarray(rows.sum(axis=1))
    fractions = divide_or_nan(np.asarray(counted.sum(axis=1)), num_rows)
    num_groups = (rows > 0).sum(axis=1)
    return [
        SubgroupFraction(
            num_rows=int(num_rows[index]),
            num_patients=int(num_groups[index]),
            fraction=percentile_interval(fractions[index], None if resampled is None else resampled[:, index]),
        )
        for index in range(num_subgroups)
    ]


def compute_fraction(is_counted: NDArray[np.bool_], patients: Indices, bootstrap: Bootstrap) -> Estimate:
    """Compute the fraction of all rows that is counted: ``compute_fractions`` of a table that is one subgroup.

    Args:
        is_counted: ``(rows,)``, such as whether the prediction is correct.
        patients: ``(rows,)``, the patient of each row, 0 to the number of patients - 1.
        bootstrap: The resamples of patients.
    """
    everyone = np.zeros(len(is_counted), dtype=np.int64)
    return compute_fractions(is_counted, everyone, patients, 1, bootstrap)[0].fraction
