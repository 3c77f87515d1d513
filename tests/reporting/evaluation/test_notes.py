import pytest

from pipeline.core.data_kinds import VOLUMES
from pipeline.reporting.evaluation.notes import (
    compare_with_baseline,
    describe_unknown_patients,
    summarise_scores,
)
from pipeline.training.seen_patients import KNOWN, START_PATIENTS, TEACHER_PATIENTS, UNKNOWN
from tests.builders.reports import build_metric, build_metrics


@pytest.mark.parametrize(
    ("reached", "word"),
    [
        (0.94, None),
        (0.95, "includes"),
        (0.97, "includes"),
        (0.99, "includes"),
        (0.991, "right more often"),
        (None, None),
    ],
)
def test_the_baseline_is_said_to_be_below_inside_or_above_the_interval(reached, word):
    found = compare_with_baseline(build_metric(0.97, 0.95, 0.99), reached)
    assert found == [] if word is None else word in found[0]
    assert compare_with_baseline(build_metric(0.97), reached) == [], "without an interval nothing is said"


def test_the_console_counts_patients_and_those_with_errors():
    lines = [line.replace("\u00a0", " ") for line in summarise_scores(build_metrics(), VOLUMES)]
    assert lines[0] == ("slice       960 of 20 patients, 6 with errors: accuracy 97.1 % (95 % interval 95.0 to 98.6 %)")


@pytest.mark.parametrize(
    ("name", "words"), [(START_PATIENTS, "started from the weights"), (TEACHER_PATIENTS, "teacher")]
)
def test_unknown_patients_are_warned_of_with_the_name_of_the_member(name, words):
    for member, model in (("", "The model "), ("seed-2", "Member seed-2 of the ensemble ")):
        (warning,) = describe_unknown_patients({name: UNKNOWN}, member)
        assert warning.startswith(model)
        assert words in warning
        assert describe_unknown_patients({name: KNOWN}, member) == []
