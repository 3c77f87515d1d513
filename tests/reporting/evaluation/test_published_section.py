"""Published scores stand next to the run's where they were looked up, and nowhere else."""

import pytest

from pipeline.datasets.medmnist import SETS, Variant
from pipeline.datasets.published_scores import PUBLISHED_SCORES
from pipeline.reporting.evaluation.published_section import build_published_section

ACCURACY = {"value": 0.84, "low": 0.776, "high": 0.891, "method": "beta-binomial", "reason": ""}
AUROC = {"value": 0.889, "low": 0.83, "high": 0.93, "method": "logit", "reason": ""}
METRICS = {"levels": {"image": {"metrics": {"auroc": AUROC, "accuracy": ACCURACY}}}}


def test_the_run_is_the_first_row_of_the_published_table():
    (section,) = build_published_section(METRICS, Variant("breastmnist", 28))
    (table,) = section.tables
    assert table.rows[0] == ("This model", "0.889 (0.830 to 0.930)", "84.0\u00a0% (77.6 to 89.1)")
    assert ("ResNet-18", "0.901", "86.3\u00a0%") in table.rows
    assert len(table.rows) == 6


@pytest.mark.parametrize("variant", [None, Variant("breastmnist", 64), Variant("bloodmnist", 28)])
def test_there_is_no_section_without_published_scores(variant):
    assert build_published_section(METRICS, variant) == []


def test_scores_are_of_known_sets():
    assert set(PUBLISHED_SCORES) <= set(SETS)
    assert all(0.5 < score.auc < 1 and 0.5 < score.accuracy < 1 for row in PUBLISHED_SCORES.values() for score in row)
