"""Sentences that state a relation say it where it holds, and its opposite where that does."""

import pytest

from pipeline.core.data_kinds import VOLUMES
from pipeline.evaluation.paired_comparison import Difference
from pipeline.reporting.comparison.page import Compared, _give_verdict
from pipeline.reporting.evaluation.decision_section import (
    describe_constant,
    describe_net_benefit,
    describe_slope,
    describe_temperature,
)
from pipeline.reporting.evaluation.notes import compare_with_baseline
from pipeline.reporting.evaluation.scores import describe_errors, describe_few_groups
from pipeline.reporting.evaluation.shortcut_section import _describe_extremes, list_probe_warnings
from pipeline.reporting.studies.leak_study_page import _describe_leaks, _describe_patients, _describe_true
from pipeline.studies.leaky_splits import SPLIT_UNITS
from tests.builders.reports import build_metric, build_metrics

WORDS = {"slice": "slices", "volume": "scans", "side": "knees", "patient": "patients"}


def describe_split(slices, patients):
    true = dict.fromkeys(SPLIT_UNITS, build_metric(0.9, 0.8, 0.95))
    return _describe_true(true | {"slice": build_metric(slices), "patient": build_metric(patients)}, WORDS)


def describe_leaks(low):
    return " ".join(_describe_leaks(dict.fromkeys(SPLIT_UNITS, build_metric(0.6, low, 0.9)), WORDS, 0.5))


def describe_benefit(*values, treat_all=0.1):
    points = [
        {"threshold": (place + 1) / 10, "model": build_metric(value), "treat_all": treat_all}
        for place, value in enumerate(values)
    ]
    return describe_net_benefit({"prevalence": 0.2, "is_observed": False, "curve": points}, "volume")


def give_verdict(value, metric="accuracy", corrected=0.01, num_groups=30, p_value=0.01):
    return _give_verdict(
        Compared("run", "slice", metric, Difference(value, -1.0, 1.0, p_value), 100, num_groups), corrected
    )


def describe_indices(*accuracies):
    return _describe_extremes(
        [
            {"slice_index": place, "n": 9, "groups": 9, "accuracy": build_metric(at)}
            for place, at in enumerate(accuracies)
        ]
    )


def warn_of_visit(low, high):
    part = {"visit": "1", "n": 10, "groups": 5, "accuracy": build_metric((low + high) / 2, low, high)}
    return " ".join(list_probe_warnings({"visit": [part]}, build_metrics(), VOLUMES))


def warn_of_mirror(high, accuracy=0.97):
    flipped = build_metric(high - 0.01, high - 0.02, high)
    mirror = {
        "flipped": flipped,
        "is_by_construction": False,
        "flipped_without_averaging": flipped,
        "accuracy_without_averaging": build_metric(accuracy),
    }
    return " ".join(list_probe_warnings({"mirror": mirror}, build_metrics(), VOLUMES))


RELATIONS = {
    "baseline inside": (compare_with_baseline(build_metric(0.9, 0.8, 0.95), 0.8), "includes", "more often"),
    "baseline above": (compare_with_baseline(build_metric(0.9, 0.8, 0.95), 0.951), "right more often", "includes"),
    "baseline below": (compare_with_baseline(build_metric(0.9, 0.8, 0.95), 0.799), "", "regression"),
    "slope below": (describe_slope(build_metric(0.8, 0.7, 0.999), "slice"), "below 1", "includes"),
    "slope above": (describe_slope(build_metric(1.3, 1.001, 1.6), "slice"), "above 1", "below"),
    "slope at 1": (describe_slope(build_metric(0.9, 0.7, 1.0), "slice"), "includes 1", "below"),
    "slope alone": (describe_slope(build_metric(0.5), "slice"), "", "below"),
    "constant below": (describe_constant(build_metric(-0.5, -0.9, -0.01), "slice", "a"), "“a” is rarer", "includes"),
    "constant above": (describe_constant(build_metric(0.5, 0.01, 0.9), "slice", "a"), "more frequent", "rarer"),
    "constant at 0": (describe_constant(build_metric(0.1, 0.0, 0.2), "slice", "a"), "includes 0", "more frequent"),
    "hot": (describe_temperature(1.01, "10 slices"), "overconfident", "underconfident"),
    "cold": (describe_temperature(0.99, "10 slices"), "underconfident", "overconfident"),
    "lukewarm": (describe_temperature(1.0004, "10 slices"), "No temperature", "confident"),
    "benefit everywhere": (
        describe_benefit(0.2, 0.11),
        "above that of acting on all and on none at all",
        "no threshold",
    ),
    "benefit somewhere": (describe_benefit(0.2, 0.1), "at 1 of 2 thresholds: 0.1.", "all thresholds"),
    "benefit below none": (describe_benefit(-0.1, 0.0, treat_all=-0.5), "at no threshold above", "all thresholds"),
    "verdict up": (give_verdict(0.1), "better", "worse"),
    "verdict down": (give_verdict(-0.1), "worse", "better"),
    "loss up": (give_verdict(0.1, "nll"), "worse", "better"),
    "loss down": (give_verdict(-0.1, "nll"), "better", "worse"),
    "verdict of few": (give_verdict(0.1, num_groups=9), "too few", "better"),
    "verdict lost": (give_verdict(0.1, corrected=0.06), "not shown after correction", "better"),
    "no verdict": (give_verdict(0.1, corrected=1.0, p_value=0.4), "no difference shown", "correction"),
    "index": (describe_indices(0.9, 0.7, 0.8), "lowest at 1 with 70.0\u00a0% and highest at 0", "everywhere"),
    "even index": (describe_indices(0.9, 0.9), "everywhere", "lowest"),
    "visit far below": (warn_of_visit(0.6, 0.87), "right for only", "Mirrored"),
    "visit near": (warn_of_visit(0.6, 0.88), "", "only"),
    "few flips": (warn_of_mirror(0.88), "Mirrored, only", "for all"),
    "enough flips": (warn_of_mirror(0.9), "", "Mirrored"),
    "leak": (describe_leaks(0.501), "can only have recognised", "no score above chance"),
    "no leak": (describe_leaks(0.5), "no score above chance", "recognised"),
    "patients at chance": (_describe_patients(build_metric(0.6, 0.5, 0.7), 0.5), "chance lies in", "above"),
    "patients above": (_describe_patients(build_metric(0.6, 0.51, 0.7), 0.5), "lies above chance", "below"),
    "patients below": (_describe_patients(build_metric(0.4, 0.3, 0.49), 0.5), "lies below chance", "above"),
    "slices above": (describe_split(0.99, 0.9), "9.0 points above", "below"),
    "slices below": (describe_split(0.8, 0.9), "10.0 points below", "above"),
    "slices equal": (describe_split(0.9, 0.9), "the same score", "points"),
    "few patients": (describe_few_groups(build_metrics()["levels"]["slice"] | {"groups": 19}, VOLUMES), "wide", "many"),
    "more patients": (describe_few_groups(build_metrics()["levels"]["slice"], VOLUMES), "", "wide"),
    "errors": (describe_errors(build_metrics()["levels"]["slice"], VOLUMES), "6 patients with errors", "no patient"),
    "no error": (
        describe_errors(build_metrics()["levels"]["slice"] | {"groups_with_errors": 0}, VOLUMES),
        "no patient with errors",
        "6",
    ),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_a_relation_is_stated_where_it_holds_and_only_there(name):
    found, present, absent = RELATIONS[name]
    text = " ".join(found) if isinstance(found, list) else found
    assert present in text
    assert absent not in text
    assert present or not text, "nothing is said"
