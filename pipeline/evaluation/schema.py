"""The content of metrics.json as types, and the values that are read from it everywhere.

Every number of a report stands in metrics.json, written once by the evaluate stage. The types below are its contract:
a key that is misspelt, absent or of another type is found before anything runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

from pipeline.core.errors import UserError
from pipeline.core.files import read_json

Item = TypeVar("Item")

TAIL = 0.025  # on either side of a 95 % interval
EXACT = "exact over groups"  # the method of a bound where all rows are alike


class Estimate(TypedDict):
    """A number with its 95 % interval; None where it is not defined, or where there is no interval.

    ``method`` is how the interval was computed: "beta-binomial", "exact over groups", "logit", "bootstrap" or
    "linearised"; None where there is no interval, with the ``reason``, which is empty otherwise.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str | None
    reason: str


def explain_missing_interval(value: float | None, reason: str) -> Estimate:
    """Return a value without an interval, and the reason."""
    return {"value": value, "low": None, "high": None, "method": None, "reason": reason}


Scores = dict[str, Estimate]  # the names of ``METRIC_NAMES``


class SampleSize(TypedDict):
    """The groups that an interval of the accuracy would need, were they like those of the table.

    ``correlation`` is the intraclass correlation of right and wrong rows within a patient; None where all rows are
    alike, and nothing shows it. ``five_points`` and ``two_points`` count the groups for an interval of plus and minus
    so many percentage points.
    """

    correlation: float | None
    five_points: int
    two_points: int


class Level(TypedDict):
    """The scores of one level, such as all slices: ``n`` rows of ``groups`` independent patients.

    ``groups_with_errors`` counts the patients with any wrong row, and ``mean_over_groups`` is the mean of the
    patients' own accuracies, in which each patient counts once however many rows it has.
    """

    n: int
    groups: int
    groups_with_errors: int
    metrics: Scores
    mean_over_groups: Estimate
    sample_size: SampleSize
    confusion: list[list[int]]
    support: dict[str, int]
    notes: list[str]


class ClassScores(TypedDict):
    """The scores of one class against the rest: ``n`` rows with the label, of ``groups`` patients.

    ``precision`` is the positive predictive value, ``npv`` the negative one, ``recall`` the sensitivity.
    """

    n: int
    groups: int
    precision: Estimate
    recall: Estimate
    specificity: Estimate
    npv: Estimate
    f1: Estimate
    average_precision: Estimate


class ClassTable(TypedDict):
    """The scores of each class of one level, and Cohen's kappa of all."""

    kappa: Estimate
    classes: dict[str, ClassScores]


class GradeScores(TypedDict):
    """The scores of grades: weighted kappas, the mean distance in grades, and the fraction at most one grade away."""

    quadratic_kappa: Estimate
    linear_kappa: Estimate
    mae: Estimate
    within_one: Estimate


class LevelGrades(TypedDict):
    """The scores of the most probable grades of one level, and those of the expected grade, cut into pieces.

    ``cut_points`` have the largest quadratic weighted kappa on the validation rows of ``fitted_on``, the places of the
    grades counted from 0; None where these rows have one grade only, or where validation has no rows at this level.
    """

    scores: GradeScores
    cut_points: list[float] | None
    fitted_on: "Fit"
    with_cut_points: GradeScores | None


class Grades(TypedDict):
    """The scores of grades by level, and those of the baselines at the first one."""

    levels: dict[str, LevelGrades]
    baselines: dict[str, GradeScores]


class Subgroup(TypedDict):
    """The accuracy in a part of the test rows: ``n`` rows of ``groups`` patients."""

    n: int
    groups: int
    accuracy: Estimate


class SubgroupPart(Subgroup):
    """The test rows with one value of a fact, or with numbers of one range.

    ``auroc`` is there for two classes, ``quadratic_kappa`` and ``mae`` for grades.
    """

    value: str
    auroc: NotRequired[Estimate]
    quadratic_kappa: NotRequired[Estimate]
    mae: NotRequired[Estimate]


class SubgroupTable(TypedDict):
    """The parts of one fact of the scans.

    ``gap`` is the largest difference of accuracy between parts that have enough patients, ``p_value`` that of a
    permutation test, ``p_corrected`` for the number of facts (Holm); None with the ``reason``. The test exchanges
    values within each patient who has several (``is_within_patients``: there are some), and between the others
    (``is_between_patients``).
    """

    fact: str
    parts: list[SubgroupPart]
    num_unknown: int
    is_within_patients: bool
    is_between_patients: bool
    gap: float | None
    p_value: float | None
    p_corrected: float | None
    reason: str


class SliceIndexSubgroup(Subgroup):
    """The test slices of one index."""

    slice_index: int


class VisitSubgroup(Subgroup):
    """The test slices of one visit."""

    visit: str


# "from" is a word of Python, so that this type cannot be written as a class.
Brightness = TypedDict("Brightness", {"quartile": int, "from": float, "to": float})


class QuartileSubgroup(Subgroup, Brightness):
    """The test images of one quartile of brightness, 1 the darkest."""


class MirrorCheck(TypedDict):
    """The fraction of predictions that change where a slice is mirrored."""

    flipped: Estimate
    is_by_construction: bool
    flipped_without_averaging: Estimate
    accuracy_without_averaging: Estimate


class WithinClassProbe(TypedDict):
    """The prediction of a fact of the scan, such as its site, from the model's features within one class.

    ``n`` scans of ``groups`` patients have one of the ``values`` of the ``covariate``. ``auroc`` is that of a logistic
    regression, each patient's scans scored by one that has not seen the patient; without a verdict it has no value,
    and its reason says why.
    """

    covariate: str
    label: str
    values: list[str]
    n: int
    groups: int
    chance: float
    auroc: Estimate


class Probes(TypedDict, total=False):
    """The shortcut probes that make sense for the data; the others are absent.

    ``border_is_background`` says whether the border of ``border_only`` is dark in most images, and so shows nothing of
    what was imaged.
    """

    slice_index: list[SliceIndexSubgroup]
    visit: list[VisitSubgroup]
    intensity_quartile: list[QuartileSubgroup]
    border_only: Scores
    border_is_background: bool
    index_only: Scores
    mirror: MirrorCheck
    within_class: list[WithinClassProbe]


class CoveragePoint(TypedDict):
    """Accuracy of the most confident rows, a fraction ``coverage`` of all."""

    coverage: float
    confidence: float
    accuracy: Estimate


class Threshold(TypedDict):
    """A confidence that a fraction ``wanted`` of the validation rows reaches, and its results on the test rows."""

    wanted: float
    threshold: float
    coverage: Estimate
    accuracy: Estimate


class Fit(TypedDict):
    """The size of what a fit or a choice rests on: ``num_rows`` validation rows, of ``num_groups`` patients."""

    num_rows: int
    num_groups: int


class Coverage(TypedDict):
    """Selective prediction at one level; its thresholds were chosen on as many rows as its temperature."""

    curve: list[CoveragePoint]
    area_under_risk: Estimate
    thresholds: list[Threshold]


class CalibrationBin(TypedDict):
    """Rows of neighbouring probabilities: their mean ``probability``, and the ``fraction`` in which it came true."""

    n: int
    groups: int
    lowest: float
    highest: float
    probability: float
    fraction: Estimate


class Recalibration(TypedDict):
    """The logistic recalibration of one class: log odds = ``intercept`` + ``slope`` x the model's.

    ``in_the_large`` is the intercept where the slope stays 1.
    """

    slope: Estimate
    intercept: Estimate
    in_the_large: Estimate


class CalibrationScores(TypedDict):
    """The fit of probabilities to what happened.

    ``scores`` holds ``CALIBRATION_METRICS``; ``recalibration`` has the last of two classes, or each of several.
    """

    scores: Scores
    debiased_error: Estimate
    recalibration: dict[str, Recalibration]
    bins: list[CalibrationBin]


class Rates(TypedDict):
    """The rates of two classes at one threshold."""

    sensitivity: Estimate
    specificity: Estimate


class OperatingPoint(TypedDict):
    """A threshold that reaches a ``rate`` of at least ``wanted`` on validation, and its rates on the test rows.

    ``chosen_on`` counts the validation rows, and their patients, that the rate is computed from; ``reached`` is the
    rate there. Without such rows there is neither a threshold nor a result.
    """

    rate: str
    wanted: float
    threshold: float | None
    chosen_on: Fit
    reached: float | None
    test: Rates | None


class NetBenefit(TypedDict):
    """The net benefit of acting at one threshold; acting on no row has 0."""

    threshold: float
    model: Estimate
    treat_all: float


class DecisionCurve(TypedDict):
    """Net benefit by threshold at a ``prevalence``, which is that of the test rows where ``is_observed``."""

    prevalence: float
    is_observed: bool
    curve: list[NetBenefit]


class Calibration(TypedDict):
    """The temperature of one level, and the calibration before and after scaling by it."""

    temperature: float
    temperature_is_at_bound: bool
    fitted_on: Fit
    before: CalibrationScores
    after: CalibrationScores


class Decision(TypedDict):
    """Calibration, selective prediction and, of two classes, operating points and net benefit, each by level."""

    num_zero_probabilities: int
    calibration: dict[str, Calibration]
    coverage: dict[str, Coverage]
    operating_points: dict[str, list[OperatingPoint]]
    net_benefit: dict[str, DecisionCurve]


class Quantiles(TypedDict):
    """Quantiles of a number over scans: 5, 50 and 95 %."""

    low: float
    median: float
    high: float


class LevelDrift(TypedDict):
    """A number of the grey levels of a scan, black 0 and white 1: ``mean`` over its pixels, or their ``std``.

    ``difference`` is that of the means over scans, external minus training, in standard deviations of the training
    scans; ``test_difference`` the same of the run's own test scans. ``outside`` is the fraction of external scans below
    the 5 % or above the 95 % quantile of training, 0.1 of scans that are like those. None where the training scans are
    all alike.
    """

    number: str
    training: Quantiles
    test: Quantiles
    external: Quantiles
    difference: float | None
    test_difference: float | None
    outside: float


class Drift(TypedDict):
    """The drift of grey levels from the training scans to the external ones.

    ``distance`` is that of the histograms of all pixels (the 1-Wasserstein distance): by how many of 255 grey levels
    the pixels would have to change on average. ``test_distance`` is the same of the run's own test scans. ``num_far``
    counts the external scans of which ``predict`` warns. Of more than ``num_scans`` scans in a part, so many were
    drawn. ``histograms`` hold the fraction of pixels in 32 equally wide ranges from black to white.
    """

    num_scans: dict[str, int]
    histograms: dict[str, list[float]]
    distance: float
    test_distance: float
    numbers: list[LevelDrift]
    num_far: int


class Participants(TypedDict):
    """The rows of a part: ``by_label`` counts scans."""

    groups: int
    sources: int
    examples: int
    by_label: dict[str, int]


class External(TypedDict):
    """The validation of a finished run on data of another site; nothing was refitted.

    ``decision`` holds the temperature, thresholds and operating points of the run's validation, and in ``test`` and
    other places of test rows what they give on the external ones. ``made_from`` changes with the weights and with the
    options that the numbers depend on. ``left_out`` counts the rows of the table that were not scored, by reason.
    """

    table: str
    sha256: str
    made_from: str
    participants: dict[str, Participants]
    left_out: dict[str, int]
    search: str
    levels: dict[str, Level]
    classes: dict[str, ClassTable]
    grades: NotRequired[Grades]
    decision: Decision
    drift: Drift
    subgroups: NotRequired[list[SubgroupTable]]
    missing: "list[NotEvaluated]"


class NotEvaluated(TypedDict):
    """A question that the test rows cannot answer, and the reason."""

    question: str
    reason: str


class EnsembleMember(TypedDict):
    """A model of an ensemble: its run, seed, the fold that it left out for a test, and the epoch of its weights."""

    name: str
    seed: int | None
    test_fold: int | None
    epoch: int


class EnsembleFacts(TypedDict):
    """The models that answered together; ``not_fitted`` is why nothing is fitted on validation, else empty."""

    members: list[EnsembleMember]
    not_fitted: str


class Scoring(TypedDict):
    """The machine that scored: the number format (never TF32), and its GPU, empty for a processor."""

    precision: str
    accelerator: str


class Metrics(TypedDict):
    """The whole of metrics.json; ``synthetic_note`` is empty for real data, only ordered classes have ``grades``.

    ``recipes_tried`` counts the recipes that were compared on validation before the model's was chosen; absent for 0.
    ``weights`` is the digest of the weights that were scored, empty for an ensemble, and ``store`` the fingerprint of
    the examples; files of older versions have neither.
    """

    split: str
    synthetic_note: str
    class_names: list[str]
    levels: dict[str, Level]
    classes: dict[str, ClassTable]
    grades: NotRequired[Grades]
    subgroups: NotRequired[list[SubgroupTable]]
    ensemble: NotRequired[EnsembleFacts]
    recipes_tried: NotRequired[int]
    scoring: NotRequired[Scoring]
    weights: NotRequired[str]
    store: NotRequired[str]
    baselines: dict[str, Scores]
    probes: Probes
    decision: Decision
    external: NotRequired[External]
    not_evaluated: list[NotEvaluated]


def read_metrics(path: Path) -> Metrics:
    """Read metrics.json.

    Raises:
        UserError: no JSON, or a part is missing, as in a file of an older version.
    """
    content: Any = read_json(path)
    missing = sorted(Metrics.__required_keys__ - set(content)) if isinstance(content, dict) else ["levels"]
    if missing:
        raise UserError(f"{path}: no {', '.join(missing)} in it. Run the evaluate stage again.")
    metrics: Metrics = content
    return metrics


def is_of_kept_weights(metrics: Metrics, training: Mapping[str, Any]) -> bool:
    """Return whether scores may stand next to a training: they are of the weights that it kept as its best.

    Args:
        metrics: The content of metrics.json.
        training: The content of training.json; files without a digest, as older versions wrote them, are believed.
    """
    scored, kept = metrics.get("weights"), training.get("weights")
    return scored is None or kept is None or scored == kept


def first_level(levels: Mapping[str, Item]) -> tuple[str, Item]:
    """Return name and content of the level that headlines name: a row of it is an example of the store."""
    return next(iter(levels.items()))


def read_value(estimate: Estimate) -> float:
    """Return the value of an estimate that is always defined, such as an accuracy."""
    value = estimate["value"]
    assert value is not None, "an accuracy of no rows"
    return value


def count_correct(confusion: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return how many rows a confusion matrix counts, and how many of them are on its diagonal."""
    return sum(map(sum, confusion)), sum(row[index] for index, row in enumerate(confusion))
