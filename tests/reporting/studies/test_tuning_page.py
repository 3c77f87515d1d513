"""The table of a search: the best trial first, and values as a config has them."""

from pipeline.reporting.studies.tuning_page import tabulate_trials
from pipeline.studies.tuning import Search, TrialResult

VALUES = (None, True, 0.1, "conv", 64)


def test_the_best_trial_is_first_and_its_values_are_those_of_a_config():
    trials = tuple(
        TrialResult(number, "complete", {"train.option": value}, 1.0 - number / 10, 0.5, 3, 2.0)
        for number, value in enumerate(VALUES)
    )
    rows = tabulate_trials(Search(trials, trials[-1]), "val_loss").rows
    assert [row[0] for row in rows] == ["4", "3", "2", "1", "0"]
    assert [row[2] for row in rows] == ["64", "conv", "0.1", "true", "null"]
