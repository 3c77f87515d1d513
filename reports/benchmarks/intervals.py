"""Simulate how often the 95 % intervals of a report hold the true score.

    python reports/benchmarks/intervals.py [--parts proportions auroc bootstrap classes] [--repetitions 4000] [--jobs 1]

Tables of patients are drawn from a distribution whose true scores are known, and scored by the package itself. A
proportion: each patient has an accuracy of its own, beta-distributed with a given mean and intraclass correlation.
Other scores: each patient has a skill that is added to each row's score on the normal scale, so that the accuracy and
the correlation of right and wrong rows are those of the cell.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
from joblib import Parallel, delayed
from scipy import optimize, stats
from scipy.special import expit, logit

from pipeline.core.array_types import Floats, Indices
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.evaluation.auroc import MIN_EFFECTIVE_GROUPS, count_rows_by_rank, estimate_auroc
from pipeline.evaluation.bootstrap import (
    MIN_GROUPS,
    MIN_GROUPS_OF_EVENTS,
    MIN_GROUPS_WITH_ERRORS,
    MIN_GROUPS_WITH_EVENT,
    Bootstrap,
    Support,
    estimate_by_bootstrap,
    estimate_by_linearisation,
    find_percentiles,
    widen_tail,
)
from pipeline.evaluation.class_scores import count_groups_of_class, rank_rows
from pipeline.evaluation.decisions.thresholds import CURVE_THRESHOLDS, PositiveRows, count_calls
from pipeline.evaluation.metrics import count_correct_rows, count_with_errors
from pipeline.evaluation.proportions import PatientCounts, estimate_fraction
from pipeline.evaluation.schema import Estimate
from pipeline.evaluation.scores import PatientTotals, compute_scores, resample_scores, sum_over_patients

PARTS = ("proportions", "auroc", "bootstrap", "classes")
ROWS = 40  # of each patient, or the median where patients differ
ROWS_SPREAD = 0.9  # standard deviation of the logarithm, where patients differ
MAX_ROWS = 300
PATIENTS = (6, 16, 60)
ACCURACIES = (0.9, 0.95, 0.99, 0.995)
CORRELATIONS = (0.05, 0.1, 0.3)
REQUIRED = 0.93
NUM_OLD_RESAMPLES = 500  # of the plain bootstrap over patients, for comparison
OLD_FRACTION = 0.1  # of the repetitions, in which it is computed

SCORE_PATIENTS = (6, 16, 30, 60, 100, 200)
SCORE_ACCURACIES = (0.9, 0.99)
SCORE_CORRELATIONS = (0.1, 0.3)
SCORES = ("balanced_accuracy", "f1", "mcc", "nll", "brier")
ERROR_BINS = ((0, 10), (10, 20), (20, 30), (30, 1_000_000))
NUM_TRUTH_PATIENTS = 40_000

EVENT_PATIENTS = (60, 100, 200)
EVENT_KINDS = ((0.9, 0.1), (0.9, 0.3), (0.75, 0.3))  # accuracy and correlation
EVENT_FRACTIONS = (0.5, 0.1)  # of positive rows
SHOWN_THRESHOLDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
EVENT_BINS = ((0, 2), (2, 5), (5, 10), (10, 15), (15, 20), (20, 30), (30, 1_000_000))
MIN_TABLES = 100  # with an interval, for a coverage that is shown


@dataclass(frozen=True)
class Cell:
    """One kind of table.

    Args:
        patients: The number of patients.
        accuracy: The true accuracy.
        correlation: The intraclass correlation of right and wrong rows.
        is_equal: Whether all patients have equally many rows.
    """

    patients: int
    accuracy: float
    correlation: float
    is_equal: bool = True

    def seed(self, repetition: int) -> tuple[int, ...]:
        """Return the seed of a repetition."""
        return self.patients, round(1000 * self.accuracy), round(100 * self.correlation), self.is_equal, repetition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="the tables to measure")
    parser.add_argument("--repetitions", type=int, default=4000, help="tables of each cell; a quarter for bootstraps")
    parser.add_argument("--jobs", type=int, default=1, help="processes; the numbers do not depend on it")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    parallel = Parallel(n_jobs=arguments.jobs)
    started, lines = time.monotonic(), []
    if "proportions" in arguments.parts:
        cells = [Cell(*values) for values in product(PATIENTS, ACCURACIES, CORRELATIONS, (True, False))]
        lines += describe_proportions(parallel(delayed(cover_proportion)(c, arguments.repetitions) for c in cells))
    score_cells = [Cell(*values) for values in product(SCORE_PATIENTS, SCORE_ACCURACIES, SCORE_CORRELATIONS)]
    if "auroc" in arguments.parts:
        lines += describe_auroc(
            parallel(delayed(cover_auroc)(*kind, arguments.repetitions) for kind in list_auroc_cells())
        )
    if "bootstrap" in arguments.parts:
        lines += describe_scores(parallel(delayed(cover_scores)(c, arguments.repetitions // 4) for c in score_cells))
    if "classes" in arguments.parts:
        lines += describe_events(
            parallel(delayed(cover_events)(*kind, arguments.repetitions // 4) for kind in list_event_cells())
        )
    text = "\n".join([*describe_run(arguments, (time.monotonic() - started) / 60), *lines])
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


@dataclass(frozen=True)
class ProportionResult:
    """The intervals of the accuracy in one cell.

    Args:
        cell: The kind of table.
        repetitions: The number of tables.
        held: The number of intervals that held the true accuracy.
        width: The mean width.
        exact_width: The mean width of Clopper and Pearson's interval, as if each patient were one row.
        bootstrap: The fraction of plain bootstrap intervals that held it.
    """

    cell: Cell
    repetitions: int
    held: int
    width: float
    exact_width: float
    bootstrap: float

    @property
    def coverage(self) -> float:
        """The fraction of the intervals that hold."""
        return self.held / self.repetitions

    @property
    def p_value(self) -> float:
        """The chance of so few intervals that hold, if 93 % did."""
        return float(stats.binom.cdf(self.held, self.repetitions, REQUIRED))


def cover_proportion(cell: Cell, repetitions: int) -> ProportionResult:
    """Count how often the interval of the accuracy holds the true one."""
    held, widths, exact, old = 0, [], [], []
    for repetition in range(repetitions):
        generator = np.random.default_rng(cell.seed(repetition))
        counts = draw_counts(cell, generator)
        found = estimate_fraction(counts)
        held += is_held(found, cell.accuracy)
        widths.append(found["high"] - found["low"])
        exact.append(compute_exact_width(found["value"], cell.patients))
        if repetition < OLD_FRACTION * repetitions:
            weights = generator.multinomial(cell.patients, np.full(cell.patients, 1 / cell.patients), NUM_OLD_RESAMPLES)
            low, high = np.percentile((weights @ counts.counted) / (weights @ counts.rows), [2.5, 97.5])
            old.append(low <= cell.accuracy <= high)
    numbers = float(np.mean(widths)), float(np.mean(exact)), float(np.mean(old))
    return ProportionResult(cell, repetitions, held, *numbers)


def draw_counts(cell: Cell, generator: np.random.Generator) -> PatientCounts:
    """Draw the rows of each patient, and the right ones."""
    rows = draw_numbers_of_rows(cell, generator)
    precision = (1 - cell.correlation) / cell.correlation
    fractions = generator.beta(cell.accuracy * precision, (1 - cell.accuracy) * precision, cell.patients)
    return PatientCounts(generator.binomial(rows, fractions).astype(np.float64), rows.astype(np.float64))


def draw_numbers_of_rows(cell: Cell, generator: np.random.Generator) -> Indices:
    """Draw how many rows each patient has, ``(patients,)``."""
    if cell.is_equal:
        return np.full(cell.patients, ROWS)
    drawn = np.exp(generator.normal(np.log(ROWS), ROWS_SPREAD, cell.patients))
    return np.clip(np.rint(drawn), 1, MAX_ROWS).astype(np.int64)


def is_held(found: Estimate, truth: float) -> bool:
    """Return whether an interval holds the true score."""
    return found["low"] <= truth <= found["high"]


def compute_exact_width(fraction: float, num_patients: int) -> float:
    """Compute the width of Clopper and Pearson's interval of this fraction of so many patients."""
    right, wrong = fraction * num_patients, (1 - fraction) * num_patients
    low = stats.beta.ppf(0.025, right, wrong + 1) if right > 0 else 0.0
    high = stats.beta.ppf(0.975, right + 1, wrong) if wrong > 0 else 1.0
    return float(high - low)


@dataclass(frozen=True)
class ScoreResult:
    """The bootstrap's intervals in one cell.

    Args:
        cell: The kind of table.
        num_with_errors: ``(tables,)`` patients with an error.
        printed: ``(tables, scores)`` whether the package gives an interval.
        held: ``(tables, scores)`` whether that holds the true score.
        bootstrap_held: ``(tables, scores)`` whether the bootstrap's does, given or not.
    """

    cell: Cell
    num_with_errors: np.ndarray
    printed: np.ndarray
    held: np.ndarray
    bootstrap_held: np.ndarray


def cover_scores(cell: Cell, repetitions: int) -> ScoreResult:
    """Count how often a bootstrap's intervals hold the true scores, with and without the rule that withholds some."""
    skill = solve_skill(cell.accuracy, cell.correlation)
    truth = compute_truth(skill)
    records = []
    for repetition in range(repetitions):
        totals = draw_totals(cell.patients, skill, np.random.default_rng(cell.seed(repetition)))
        support = Support(cell.patients, count_with_errors(count_correct_rows(totals, np.ones(cell.patients))))
        values = compute_scores(totals, np.ones((1, cell.patients)))
        resampled = resample_scores(totals, Bootstrap(NUM_OLD_RESAMPLES, repetition))
        estimates = {name: estimate_by_bootstrap(values[name][0], resampled[name], support) for name in SCORES}
        printed = [estimate["low"] is not None for estimate in estimates.values()]
        held = [
            is_given and is_held(estimates[name], truth[name])
            for name, is_given in zip(estimates, printed, strict=True)
        ]
        ends = {name: find_percentiles(resampled[name], widen_tail(cell.patients)) for name in SCORES}
        plain = [end is not None and end[0] <= truth[name] <= end[1] for name, end in ends.items()]
        records.append((support.num_with_errors, printed, held, plain))
    columns = [np.array(column) for column in zip(*records, strict=True)]
    return ScoreResult(cell, *columns)


@dataclass(frozen=True)
class AurocResult:
    """The intervals of the AUROC in one cell.

    Args:
        cell: The kind of table.
        has_both: Whether each patient has rows of both classes.
        truth: The true AUROC.
        repetitions: The number of tables.
        given: The number of these that have an interval.
        held: The number of intervals that held it.
        width: The mean width.
        perfect: The fraction of tables without a wrong pair, which have the exact bound.
    """

    cell: Cell
    has_both: bool
    truth: float
    repetitions: int
    given: int
    held: int
    width: float
    perfect: float

    @property
    def coverage(self) -> float:
        """The fraction of the intervals that hold."""
        return self.held / self.given

    @property
    def p_value(self) -> float:
        """The chance of so few intervals that hold, if 93 % did."""
        return float(stats.binom.cdf(self.held, self.given, REQUIRED))


def list_auroc_cells() -> Iterator[tuple[Cell, bool]]:
    """List the kinds of tables, each with whether a patient has rows of both classes."""
    for is_equal, has_both in ((True, True), (False, True), (True, False)):
        for values in product(SCORE_PATIENTS, SCORE_ACCURACIES, SCORE_CORRELATIONS):
            yield Cell(*values, is_equal), has_both


def cover_auroc(cell: Cell, has_both: bool, repetitions: int) -> AurocResult:
    """Count how often the interval of the AUROC holds the true one."""
    skill = solve_skill(cell.accuracy, cell.correlation)
    truth = compute_true_auroc(skill)
    found = [
        estimate_auroc_of_drawn_rows(cell, has_both, skill, np.random.default_rng((*cell.seed(index), has_both)))
        for index in range(repetitions)
    ]
    given = [estimate for estimate in found if estimate["low"] is not None]
    held = sum(is_held(estimate, truth) for estimate in given)
    width = float(np.mean([estimate["high"] - estimate["low"] for estimate in given]))
    perfect = float(np.mean([estimate["value"] == 1 for estimate in found]))
    return AurocResult(cell, has_both, truth, repetitions, len(given), held, width, perfect)


def compute_true_auroc(skill: tuple[float, float]) -> float:
    """Compute how often a positive of one patient scores higher than a negative of another.

    The difference of the two scores is normal: twice the mean skill, with the variance of two skills and two rows.
    """
    mean, spread = skill
    return float(stats.norm.cdf(2 * mean / np.sqrt(2 * spread**2 + 2)))


def estimate_auroc_of_drawn_rows(
    cell: Cell, has_both: bool, skill: tuple[float, float], generator: np.random.Generator
) -> Estimate:
    """Draw the scores of patients, and return the AUROC with its interval as the package computes it."""
    mean, spread = skill
    rows = draw_numbers_of_rows(cell, generator)
    patients = np.arange(cell.patients).repeat(rows)
    # Every other row is positive, or every other patient.
    is_positive = (np.arange(len(patients)) if has_both else patients) % 2 == 0
    strength = (mean + spread * generator.normal(size=cell.patients))[patients] + generator.normal(size=len(patients))
    scores = np.where(is_positive, strength, -strength)
    return estimate_auroc(count_rows_by_rank(scores, is_positive, patients, cell.patients))


@dataclass(frozen=True)
class EventResult:
    """The intervals of average precision and net benefit in one cell.

    Its columns are the average precision of the positive class and of the other, and the net benefit at each threshold.

    Args:
        cell: The kind of table.
        fraction: The fraction of positive rows.
        has_both: Whether each patient has rows of both classes.
        has_errors: ``(tables,)`` whether enough patients have an error for a bootstrap.
        given: ``(tables, columns)`` whether the package gives an interval.
        held: ``(tables, columns)`` whether the interval holds the true value, given or not.
        num_groups: ``(tables, thresholds, outcomes)`` patients with each outcome.
    """

    cell: Cell
    fraction: float
    has_both: bool
    has_errors: np.ndarray
    given: np.ndarray
    held: np.ndarray
    num_groups: np.ndarray


def list_event_cells() -> Iterator[tuple[Cell, float, bool]]:
    """List the kinds of tables, each with its fraction of positive rows and whether a patient has both classes."""
    for patients, kind, fraction, has_both in product(EVENT_PATIENTS, EVENT_KINDS, EVENT_FRACTIONS, (True, False)):
        yield Cell(patients, *kind), fraction, has_both


def cover_events(cell: Cell, fraction: float, has_both: bool, repetitions: int) -> EventResult:
    """Count how often intervals of average precision and net benefit hold, with and without the rule on events."""
    skill = solve_skill(cell.accuracy, cell.correlation)
    fractions = fraction, 1 - fraction
    precisions = [compute_true_average_precision(skill, part) for part in fractions]
    benefits = compute_true_net_benefit(skill, fraction)
    records = []
    for repetition in range(repetitions):
        seed = (*cell.seed(repetition), round(100 * fraction), has_both)
        rows = draw_rows(cell, fraction, has_both, skill, np.random.default_rng(seed))
        is_wrong = (rows.probability >= 0.5) != rows.is_positive
        support = Support(cell.patients, len(np.unique(rows.patients[is_wrong])))
        given, held = [], []
        for scores, is_class, truth in zip(
            (rows.probability, 1 - rows.probability), (rows.is_positive, ~rows.is_positive), precisions, strict=True
        ):
            ranking = rank_rows(scores, is_class)
            influences = np.bincount(rows.patients, ranking.influences, cell.patients)
            counted = replace(support, with_event=count_groups_of_class(is_class, rows.patients))
            enough = Support(cell.patients, cell.patients)
            by_rule, plain = (
                estimate_by_linearisation(ranking.average_precision, influences, part, is_fraction=True)
                for part in (counted, enough)
            )
            given.append(by_rule["low"] is not None)
            held.append(plain["low"] is not None and is_held(plain, truth))
        calls = count_calls(rows)
        values = calls.compute_net_benefit(np.ones((1, cell.patients)), fraction)[0]
        draws = [
            calls.compute_net_benefit(weights, fraction)
            for weights in Bootstrap(NUM_OLD_RESAMPLES, repetition).draw(cell.patients, len(values))
        ]
        groups = calls.count_groups()
        for value, drawn, counts, truth in zip(values, np.concatenate(draws).T, groups, benefits, strict=True):
            found = estimate_by_bootstrap(value, drawn, replace(support, with_event=counts))
            ends = find_percentiles(drawn, widen_tail(cell.patients))
            given.append(found["low"] is not None)
            held.append(ends is not None and ends[0] <= truth <= ends[1])
        numbers = [list(counts.values()) for counts in groups]
        records.append((support.num_with_errors >= MIN_GROUPS_WITH_ERRORS, given, held, numbers))
    return EventResult(cell, fraction, has_both, *(np.array(column) for column in zip(*records, strict=True)))


def draw_rows(
    cell: Cell, fraction: float, has_both: bool, skill: tuple[float, float], generator: np.random.Generator
) -> PositiveRows:
    """Draw the rows of patients, with probabilities that are right as often as they say."""
    mean, spread = skill
    patients = np.arange(cell.patients).repeat(ROWS)
    if has_both:
        is_positive = np.tile(np.arange(ROWS) < round(ROWS * fraction), cell.patients)
    else:
        is_positive = patients < round(cell.patients * fraction)
    strength = (mean + spread * generator.normal(size=cell.patients))[patients] + generator.normal(size=len(patients))
    scores = np.where(is_positive, strength, -strength)
    probability = expit(logit(fraction) + 2 * mean / (1 + spread**2) * scores)
    return PositiveRows(probability, is_positive, patients)


def compute_true_net_benefit(skill: tuple[float, float], fraction: float) -> Floats:
    """Compute the net benefit of very many patients at each threshold, ``(thresholds,)``."""
    mean, std = skill[0], np.sqrt(1 + skill[1] ** 2)
    thresholds = np.asarray(CURVE_THRESHOLDS)
    least = (logit(thresholds) - logit(fraction)) * std**2 / (2 * mean)  # of the score, as in ``draw_rows``
    hits, alarms = stats.norm.sf((least - mean) / std), stats.norm.sf((least + mean) / std)
    return np.asarray(hits * fraction - alarms * (1 - fraction) * thresholds / (1 - thresholds))


def compute_true_average_precision(skill: tuple[float, float], fraction: float) -> float:
    """Compute the mean precision at the positive rows of very many patients."""
    mean, std = skill[0], np.sqrt(1 + skill[1] ** 2)
    places = np.linspace(-8, 8, 20_001)
    weights = stats.norm.pdf(places)
    hits = fraction * stats.norm.sf(places)
    alarms = (1 - fraction) * stats.norm.sf(places + 2 * mean / std)
    return float(weights @ (hits / (hits + alarms)) / weights.sum())


def solve_skill(accuracy: float, correlation: float) -> tuple[float, float]:
    """Find mean and standard deviation of the patients' skill that give an accuracy and a correlation."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def find_mean(spread: float) -> float:
        def excess(mean: float) -> float:
            return float(weights @ stats.norm.cdf(mean + spread * nodes)) - accuracy

        return float(optimize.brentq(excess, 0, 60))

    def compute_excess(spread: float) -> float:
        fractions = stats.norm.cdf(find_mean(spread) + spread * nodes)
        return float(weights @ (fractions - accuracy) ** 2) / (accuracy * (1 - accuracy)) - correlation

    spread = float(optimize.brentq(compute_excess, 0.01, 8))
    return find_mean(spread), spread


def draw_totals(num_patients: int, skill: tuple[float, float], generator: np.random.Generator) -> PatientTotals:
    """Draw the predictions of patients with equally many rows of two classes."""
    mean, spread = skill
    patients = np.arange(num_patients).repeat(ROWS)
    labels = np.tile(np.arange(ROWS) % 2, num_patients)
    strength = (mean + spread * generator.normal(size=num_patients))[patients] + generator.normal(size=len(patients))
    score = np.where(labels == 1, strength, -strength) * mean / np.sqrt(1 + spread**2)
    positive = 1 / (1 + np.exp(-score))
    probabilities = np.stack([1 - positive, positive], axis=1)
    return sum_over_patients(labels, (positive > 0.5).astype(int), probabilities, patients)


def compute_truth(skill: tuple[float, float]) -> dict[str, float]:
    """Compute the true scores from very many patients."""
    num_parts = 10
    parts = [
        compute_scores(totals, np.ones((1, totals.num_patients)))
        for totals in (
            draw_totals(NUM_TRUTH_PATIENTS // num_parts, skill, np.random.default_rng(part))
            for part in range(num_parts)
        )
    ]
    return {name: float(np.mean([part[name][0] for part in parts])) for name in SCORES}


def describe_run(arguments: argparse.Namespace, minutes: float) -> list[str]:
    versions = read_versions()
    listed = ", ".join(f"{name} {versions[name]}" for name in ("numpy", "scipy") if name in versions)
    return [
        "# Coverage of the intervals",
        "",
        f"    python reports/benchmarks/intervals.py --parts {' '.join(arguments.parts)} "
        f"--repetitions {arguments.repetitions} --jobs {arguments.jobs}",
        "",
        f"{minutes:.0f} minutes; {read_hardware()}; {listed}; commit {read_commit()}. The seed of a table is made of "
        "its cell and its number.",
        "",
    ]


Result = TypeVar("Result", ProportionResult, AurocResult)


def find_significant(results: list[Result]) -> list[Result]:
    """Return the cells below 93 %, at 5 % over all cells together (Holm's steps)."""
    ordered = sorted(results, key=lambda result: result.p_value)
    significant = []
    for place, result in enumerate(ordered):
        if result.p_value * (len(ordered) - place) > 0.05:
            break
        significant.append(result)
    return significant


def describe_coverage(results: list[Result]) -> str:
    """Say how low and high the coverage is, and in how many cells it is too low."""
    coverages = [result.coverage for result in results]
    return (
        f"Lowest coverage {min(coverages):.1%}, highest {max(coverages):.1%}. Cells significantly below {REQUIRED:.0%} "
        f"(one-sided binomial test, Holm over {len(results)} cells, 5 %): {len(find_significant(results))}."
    )


def describe_proportions(results: list[ProportionResult]) -> list[str]:
    wider = [result for result in results if result.width >= result.exact_width]
    return [
        "## Proportions",
        "",
        f"{results[0].repetitions:,} tables a cell, {ROWS} rows a patient, or a median of {ROWS} from 1 to {MAX_ROWS} "
        "where patients differ. Width in points, next to that of Clopper and Pearson's interval as if each patient "
        f"were one row. Bootstrap: the percentile interval over patients, {NUM_OLD_RESAMPLES} resamples, on a tenth of "
        "the tables.",
        "",
        f"{describe_coverage(results)} Cells in which the interval is on average wider than Clopper and Pearson's: "
        f"{len(wider)}.",
        "",
        "| patients | true accuracy | correlation | rows | coverage | width | Clopper-Pearson | bootstrap's coverage |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {item.cell.patients} | {item.cell.accuracy} | {item.cell.correlation} | "
            f"{'equal' if item.cell.is_equal else 'unequal'} | {item.held / item.repetitions:.1%} | "
            f"{100 * item.width:.1f} | {100 * item.exact_width:.1f} | {item.bootstrap:.0%} |"
            for item in results
        ),
        "",
    ]


def describe_auroc(results: list[AurocResult]) -> list[str]:
    return [
        "## AUROC of two classes",
        "",
        f"{results[0].repetitions:,} tables a cell, {ROWS} rows a patient, or a median of {ROWS} from 1 to {MAX_ROWS} "
        "where patients differ. Half of the rows of each patient are of each class, or all rows of half of the "
        "patients. Width in points. Tables without a wrong pair have the exact bound. Others have no interval where "
        f"the patients count like fewer than {MIN_EFFECTIVE_GROUPS:g} of equal size; coverage is that of the others.",
        "",
        describe_coverage(results),
        "",
        "| patients | accuracy | correlation | true AUROC | rows | classes of a patient | interval | coverage "
        "| width | without a wrong pair |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {item.cell.patients} | {item.cell.accuracy} | {item.cell.correlation} | {item.truth:.4f} | "
            f"{'equal' if item.cell.is_equal else 'unequal'} | {'both' if item.has_both else 'one'} | "
            f"{item.given / item.repetitions:.0%} | {item.coverage:.1%} | {100 * item.width:.1f} | {item.perfect:.0%} |"
            for item in results
        ),
        "",
    ]


def describe_scores(results: list[ScoreResult]) -> list[str]:
    return [
        "## Bootstrap",
        "",
        f"{len(results[0].printed):,} tables a cell, two classes, {ROWS} rows a patient, {NUM_OLD_RESAMPLES} "
        "resamples. Coverage where an interval is given, and in brackets the fraction of tables that get one: a "
        f"bootstrap needs {MIN_GROUPS} patients, and errors in {MIN_GROUPS_WITH_ERRORS}.",
        "",
        f"| patients | accuracy | correlation | {' | '.join(SCORES)} |",
        f"|---|---|---|{'---|' * len(SCORES)}",
        *(_list_score_row(result) for result in results),
        "",
        "The bootstrap's coverage without this rule, by the number of patients and of those with errors, over all "
        "cells; bins of at least 100 tables.",
        "",
        f"| patients | with errors | tables | {' | '.join(SCORES)} |",
        f"|---|---|---|{'---|' * len(SCORES)}",
        *_list_bins(results),
        "",
    ]


def describe_events(results: list[EventResult]) -> list[str]:
    measured = [
        (part.held[is_given, place].mean(), stats.binom.cdf(part.held[is_given, place].sum(), is_given.sum(), REQUIRED))
        for part in results
        for place, is_given in enumerate(part.given.T)
        if is_given.sum() >= MIN_TABLES
    ]
    coverages = [coverage for coverage, _ in measured] or [np.nan]
    steps = np.sort([p_value for _, p_value in measured]) * np.arange(len(measured), 0, -1)
    significant = int(np.logical_and.accumulate(steps <= 0.05).sum())
    header = [
        "| patients | accuracy | correlation | positives | classes of a patient | AP | AP of the rest "
        f"| {' | '.join(f'{threshold:.2f}' for threshold in SHOWN_THRESHOLDS)} |",
        f"|---|---|---|---|---|---|---|{'---|' * len(SHOWN_THRESHOLDS)}",
    ]
    return [
        "## Average precision and net benefit",
        "",
        f"{len(results[0].given):,} tables a cell, two classes, {ROWS} rows a patient, {NUM_OLD_RESAMPLES} resamples. "
        "The fraction of positives is that of the rows of each patient, or of patients with rows of one class. AP is "
        "the average precision, the other columns are net benefits at their thresholds. Coverage where an interval is "
        "given, and in brackets the fraction of tables that get one; a dash where fewer than "
        f"{MIN_TABLES} do. Both scores need {MIN_GROUPS_OF_EVENTS} patients, {MIN_GROUPS_WITH_ERRORS} with errors, and "
        f"{MIN_GROUPS_WITH_EVENT} with each event: the class and the rest; true and false positives and negatives.",
        "",
        f"Of {len(measured)} pairs of a cell and a score with so many intervals, over all thresholds: lowest coverage "
        f"{min(coverages):.1%}, mean {np.mean(coverages):.1%}; significantly below {REQUIRED:.0%} "
        f"(one-sided binomial test, Holm, 5 %): {significant}.",
        "",
        *header,
        *(_list_event_row(part, part.given) for part in results),
        "",
        f"Without this rule, where {MIN_GROUPS_WITH_ERRORS} patients have errors:",
        "",
        *header,
        *(_list_event_row(part, np.repeat(part.has_errors[:, None], part.held.shape[1], axis=1)) for part in results),
        "",
        "The net benefit's coverage by the patients with the rarest of the four outcomes, over all cells and "
        "thresholds:",
        "",
        "| patients | with the rarest outcome | intervals | coverage |",
        "|---|---|---|---|",
        *_list_event_bins(results),
        "",
    ]


def _list_event_row(result: EventResult, is_shown: np.ndarray) -> str:
    places = [0, 1, *(2 + CURVE_THRESHOLDS.index(threshold) for threshold in SHOWN_THRESHOLDS)]
    cells = []
    for place in places:
        shown = is_shown[:, place]
        text = f"{result.held[shown, place].mean():.0%} ({shown.mean():.0%})" if shown.sum() >= MIN_TABLES else "–"
        cells.append(text)
    cell = result.cell
    return (
        f"| {cell.patients} | {cell.accuracy} | {cell.correlation} | {result.fraction:.0%} | "
        f"{'both' if result.has_both else 'one'} | {' | '.join(cells)} |"
    )


def _list_event_bins(results: list[EventResult]) -> Iterator[str]:
    for patients, (start, end) in product(EVENT_PATIENTS, EVENT_BINS):
        parts = []
        for part in results:
            rarest = part.num_groups.min(axis=2)
            is_in = part.has_errors[:, None] & (rarest >= start) & (rarest < end)
            parts.append(part.held[:, 2:][is_in] if part.cell.patients == patients else np.zeros(0, bool))
        held = np.concatenate(parts)
        if len(held) >= MIN_TABLES:
            label = f"{start} to {end - 1}" if end <= 30 else f"{start} and more"
            yield f"| {patients} | {label} | {len(held):,} | {held.mean():.1%} |"


def _list_score_row(result: ScoreResult) -> str:
    cells = []
    for place in range(len(SCORES)):
        printed, held = result.printed[:, place], result.held[:, place]
        cells.append(f"{held.sum() / printed.sum():.1%} ({printed.mean():.0%})" if printed.any() else "none")
    cell = result.cell
    return f"| {cell.patients} | {cell.accuracy} | {cell.correlation} | {' | '.join(cells)} |"


def _list_bins(results: list[ScoreResult]) -> Iterator[str]:
    for patients, (start, end) in product(sorted({result.cell.patients for result in results}), ERROR_BINS):
        parts = [
            result.bootstrap_held[(result.num_with_errors >= start) & (result.num_with_errors < end)]
            for result in results
            if result.cell.patients == patients
        ]
        held: Floats = np.concatenate(parts).astype(np.float64)
        if len(held) >= 100:
            label = f"{start} to {end - 1}" if end <= 30 else f"{start} and more"
            coverages = " | ".join(f"{coverage:.1%}" for coverage in held.mean(axis=0))
            yield f"| {patients} | {label} | {len(held):,} | {coverages} |"


if __name__ == "__main__":
    main()
