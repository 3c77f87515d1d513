"""Subgroups: the scores for each value of a fact of the scans, and whether accuracies differ by more than chance.

Two classes also have the AUROC of each part, and grades quadratic kappa and mean absolute error.

The p-value is that of a permutation test over patients: if the fact has nothing to do with the answers, it is chance
which patient has which value. Where a fact differs within a patient, such as the side, its values are exchanged within
the patient, so that what makes a patient hard for both cancels. All patients count in the gap, so one permutation does
both: it exchanges values within each patient who has several, and between those who have one.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.core.errors import UserError
from pipeline.core.tables import MANIFEST_COLUMNS
from pipeline.evaluation.auroc import count_rows_by_rank, estimate_auroc
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.ordinal.grade_scores import score_grades
from pipeline.evaluation.paired_comparison import correct_for_many
from pipeline.evaluation.predictions import number_patients, read_probabilities
from pipeline.evaluation.proportions import compute_fractions
from pipeline.evaluation.schema import Estimate, SubgroupPart, SubgroupTable

NUM_PERMUTATIONS = 2000
# A part with fewer patients is shown, and takes no part in the gap.
MIN_PATIENTS = 10
MAX_VALUES = 12
FACTS = ("side", "visit", "site")  # of the manifest's own columns
ROUNDING = 1e-9


@dataclass(frozen=True)
class Fact:
    """One fact of the scans whose values make subgroups.

    Args:
        name: The column of the manifest.
        values: The text of each scan by its ``source_id``; empty where it is not known.
        num_quantiles: The number of parts that numbers are cut into; None takes each text as a part.
    """

    name: str
    values: "pandas.Series[str]"
    num_quantiles: int | None


def read_facts(scans: pandas.DataFrame, wanted: Sequence[str]) -> list[Fact]:
    """Read the facts that ``evaluate.subgroups`` names.

    Args:
        scans: The rows of the manifest by their ``source_id``.
        wanted: Names of columns, those of numbers with the number of their quantiles: ``age:4``.

    Raises:
        UserError: there is no such column, it is empty, or its values are not as the option says.
    """
    allowed = [name for name in scans.columns if name in FACTS or name not in MANIFEST_COLUMNS]
    facts = []
    for text in wanted:
        name, _, number = text.partition(":")
        if name not in allowed:
            raise UserError(
                f"evaluate.subgroups: {name!r} is no fact of the scans; known are {', '.join(allowed)}. Further "
                "columns of a table are kept where data.covariates names them."
            )
        values = scans[name].fillna("").astype(str).str.strip()
        known = values[values != ""]
        if known.empty:
            raise UserError(f"evaluate.subgroups: no scan has a {name}. Take it away.")
        wrong = known[pandas.to_numeric(known, errors="coerce").isna()]
        if number and len(wrong):
            raise UserError(
                f"evaluate.subgroups: {text} makes quantiles of numbers, and {name} of {wrong.index[0]} is "
                f"{wrong.iloc[0]!r}. Write {name} for a part of each value."
            )
        if not number and known.nunique() > MAX_VALUES:
            raise UserError(
                f"evaluate.subgroups: {name} has {known.nunique()} values; at most {MAX_VALUES} make parts. "
                f"Write {name}:4 for quarters of a number."
            )
        facts.append(Fact(name, values, int(number) if number else None))
    return facts


def compute_subgroups(
    test: pandas.DataFrame, facts: Sequence[Fact], class_names: Sequence[str], is_ordinal: bool, bootstrap: Bootstrap
) -> list[SubgroupTable]:
    """Score the parts of each fact, and test the gap of the accuracy between the best and the worst one.

    Args:
        test: The predictions of the test rows.
        facts: What :func:`read_facts` returned.
        class_names: All classes; of two, the AUROC is that of the last one.
        is_ordinal: Whether the classes are grades, in their order.
        bootstrap: The resamples of patients, for the scores of grades; its seed is that of the permutations.
    """
    tables = [_score_fact(test, fact, class_names, is_ordinal, bootstrap) for fact in facts]
    corrected = correct_for_many([table["p_value"] for table in tables])
    for table, p_value in zip(tables, corrected, strict=True):
        table["p_corrected"] = p_value
    return tables


def _score_fact(
    test: pandas.DataFrame, fact: Fact, class_names: Sequence[str], is_ordinal: bool, bootstrap: Bootstrap
) -> SubgroupTable:
    texts = test["source_id"].map(fact.values).fillna("").astype(str)
    is_known = (texts != "").to_numpy()
    num_unknown = int((~is_known).sum())
    table: SubgroupTable = {
        "fact": fact.name,
        "parts": [],
        "num_unknown": num_unknown,
        "is_within_patients": False,
        "is_between_patients": False,
        "gap": None,
        "p_value": None,
        "p_corrected": None,
        "reason": "no test row has a value",
    }
    if not is_known.any():
        return table
    rows = test[is_known]
    names, codes = _name_parts(texts[is_known].to_numpy(dtype=str), fact.num_quantiles)
    is_correct = (rows["label"] == rows["predicted"]).to_numpy()
    patients = number_patients(rows["group_id"])
    parts: list[SubgroupPart] = [
        {"value": name, "n": part.num_rows, "groups": part.num_patients, "accuracy": part.fraction}
        for name, part in zip(names, compute_fractions(is_correct, codes, patients, len(names)), strict=True)
    ]
    for place, part in enumerate(parts):
        chosen_rows = rows[codes == place]
        if len(class_names) == 2:
            part["auroc"] = _estimate_auroc(chosen_rows, class_names)
        if is_ordinal:
            grades = score_grades(chosen_rows, class_names, bootstrap)
            part["quadratic_kappa"], part["mae"] = grades["quadratic_kappa"], grades["mae"]
    large = [place for place, part in enumerate(parts) if part["groups"] >= MIN_PATIENTS]
    chosen = np.isin(codes, large)
    table["parts"] = parts
    if len(large) < 2:
        table["reason"] = f"fewer than two parts with {MIN_PATIENTS} patients or more"
        return table
    codes, patients, is_correct = np.searchsorted(large, codes[chosen]), patients[chosen], is_correct[chosen]
    is_varying = _find_varying(codes, patients)
    table["is_within_patients"] = bool(is_varying.any())
    table["is_between_patients"] = not is_varying.all()
    table["gap"] = float(_measure_gap(codes, is_correct, len(large)))
    table["reason"] = ""
    table["p_value"] = _test_gap(codes, patients, is_correct, bootstrap.seed)
    return table


def _find_varying(codes: Indices, patients: Indices) -> NDArray[np.bool_]:
    """Return which rows are of a patient whose rows have several codes, ``(rows,)``."""
    varying: NDArray[np.bool_] = (pandas.Series(codes).groupby(patients).transform("nunique") > 1).to_numpy()
    return varying


def _estimate_auroc(rows: pandas.DataFrame, class_names: Sequence[str]) -> Estimate:
    """Estimate the AUROC of the last of two classes, with the interval that all rows have."""
    patients = number_patients(rows["group_id"])
    is_positive = (rows["label"] == class_names[-1]).to_numpy()
    scores = read_probabilities(rows, class_names)[:, -1]
    return estimate_auroc(count_rows_by_rank(scores, is_positive, patients, int(patients.max()) + 1))


def _name_parts(texts: NDArray[np.str_], num_quantiles: int | None) -> tuple[list[str], Indices]:
    """Name the parts, and return the part of each row; numbers are cut at their quantiles over these rows."""
    if num_quantiles is None:
        names, codes = np.unique(texts, return_inverse=True)
        return [str(name) for name in names], codes
    numbers = texts.astype(np.float64)
    edges = np.unique(np.quantile(numbers, np.arange(1, num_quantiles) / num_quantiles))
    codes = np.searchsorted(edges, numbers, side="right")
    middles = [f"{low:g} to below {high:g}" for low, high in itertools.pairwise(edges)]
    names = np.array([f"below {edges[0]:g}", *middles, f"{edges[-1]:g} and above"])
    present, codes = np.unique(codes, return_inverse=True)
    return names[present].tolist(), codes


def _measure_gap(codes: Indices, is_correct: NDArray[np.bool_], num_parts: int) -> float:
    accuracies: Floats = np.bincount(codes, is_correct, num_parts) / np.bincount(codes, minlength=num_parts)
    return float(accuracies.max() - accuracies.min())


def _test_gap(codes: Indices, patients: Indices, is_correct: NDArray[np.bool_], seed: int) -> float:
    """Return the fraction of permutations with a gap as large as the one found, which counts as one of them.

    Rows of one scan have one value, and keep one together: what is exchanged is the value of a patient who has one, or
    within a patient who has several the values of the rows, in blocks of equal value.
    """
    generator = np.random.default_rng(seed)
    num_parts = int(codes.max()) + 1
    found = _measure_gap(codes, is_correct, num_parts)
    _, first, unit_of_row = np.unique(patients * num_parts + codes, return_index=True, return_inverse=True)
    unit_codes = codes[first]
    # Units are exchanged within a stratum: a patient of several values is one, all others together are another.
    strata = np.where(_find_varying(codes, patients), patients, -1)[first]
    places = strata.argsort(kind="stable")
    num_as_large = 0
    for _ in range(NUM_PERMUTATIONS):
        order = np.lexsort((generator.random(len(unit_codes)), strata))
        permuted = np.empty_like(unit_codes)
        permuted[order] = unit_codes[places]
        num_as_large += _measure_gap(permuted[unit_of_row], is_correct, num_parts) >= found - ROUNDING
    return (1 + num_as_large) / (1 + NUM_PERMUTATIONS)
