"""Two runs are compared on the same draws of patients, and only where they scored the same rows."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from pipeline.attention.storage import AttentionMaps, name_kept_epoch, write_maps
from pipeline.config.outputs import CompareConfig
from pipeline.core.errors import UserError
from pipeline.core.tables import INDEX_COLUMNS, prediction_columns, write_table
from pipeline.core.workspace import Workspace
from pipeline.data.store import write_store
from pipeline.evaluation.bootstrap import Bootstrap, widen_tail
from pipeline.evaluation.metrics import compute_levels
from pipeline.evaluation.paired_comparison import (
    COMPARED_METRICS,
    Difference,
    Permutations,
    compare_pair,
    correct_for_many,
    explain_mismatch,
)
from pipeline.evaluation.predictions import number_patients, read_class_indices, read_probabilities
from pipeline.evaluation.scores import resample_scores, sum_over_patients
from pipeline.reporting.comparison.page import (
    Compared,
    choose_primary,
    list_warnings,
    tabulate_differences,
    tabulate_settings,
    write_comparison,
)
from pipeline.reporting.comparison.runs import find_report_folders, locate, read_runs
from tests.builders.page_reader import PageReader
from tests.builders.predictions import build_table

CLASSES = ("left", "right")
HOSTILE = "<script>alert(1)</script>"


def make_predictions(skill: float, seed: int = 0, num_patients: int = 12) -> pd.DataFrame:
    """Patients with two knees of three slices; some patients are hard for everybody, by the same amount."""
    generator, hard = np.random.default_rng(seed), np.random.default_rng(99).normal(0, 2.0, num_patients)
    rows = []
    for patient in range(num_patients):
        for label in CLASSES:
            for index in range(3):
                sign = 1 if label == "right" else -1
                score = sign * (skill + hard[patient]) + generator.normal(0, 0.5)
                right = 1 / (1 + np.exp(-score))
                source = f"k{patient}{label}"
                predicted = "right" if right > 0.5 else "left"
                rows.append(
                    (f"{source}{index}", source, f"p{patient}", "test", index, label, predicted, 1 - right, right)
                )
    return pd.DataFrame(rows, columns=list(prediction_columns(CLASSES)))


def resample(table: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, np.ndarray]:
    """The scores of resamples of one table alone."""
    labels, predicted = (read_class_indices(table[name], CLASSES) for name in ("label", "predicted"))
    patients = number_patients(table["group_id"])
    return resample_scores(
        sum_over_patients(labels, predicted, read_probabilities(table, CLASSES), patients), bootstrap
    )


def test_a_difference_is_that_of_the_scores_and_its_draws_are_those_of_each_run_alone():
    first, second = make_predictions(0.5, 1), make_predictions(1.5, 2)
    found = compare_pair((first, second), CLASSES, "slice", Bootstrap(300, 4), Permutations())
    assert tuple(found) == COMPARED_METRICS
    alone = [compute_levels(table, CLASSES, Bootstrap(100))["slice"]["metrics"] for table in (first, second)]
    drawn = [resample(table, Bootstrap(300, 4)) for table in (first, second)]
    for name, difference in found.items():
        assert difference.value == pytest.approx(alone[1][name]["value"] - alone[0][name]["value"])
        tail = widen_tail(12)  # of so few patients resamples vary too little
        low, high = np.quantile(drawn[1][name] - drawn[0][name], [tail, 1 - tail])
        assert (difference.low, difference.high) == pytest.approx((low, high))


def test_what_is_hard_for_both_cancels():
    first, second = make_predictions(0.5, 1), make_predictions(1.5, 2)
    paired = compare_pair((first, second), CLASSES, "slice", Bootstrap(), Permutations())["accuracy"]
    alone = [resample(table, Bootstrap())["accuracy"] for table in (first, second)]
    tail = widen_tail(12)
    unpaired = np.hypot(*(np.ptp(np.quantile(accuracies, [tail, 1 - tail])) for accuracies in alone))
    assert paired.high - paired.low < 0.8 * unpaired


def test_exchanging_the_runs_turns_the_sign_and_a_run_does_not_differ_from_itself():
    first, second = make_predictions(-1.5, 1), make_predictions(6.0, 2)
    there, back = (
        compare_pair(pair, CLASSES, "slice", Bootstrap(), Permutations()) for pair in ((first, second), (second, first))
    )
    for name in COMPARED_METRICS:
        assert there[name].value == pytest.approx(-back[name].value)
        assert (there[name].low, there[name].high) == pytest.approx((-back[name].high, -back[name].low))
        assert there[name].p_value == pytest.approx(back[name].p_value)
    assert there["accuracy"].low > 0
    assert there["accuracy"].p_value < 0.05
    itself = compare_pair((first, first), CLASSES, "slice", Bootstrap(), Permutations())["accuracy"]
    assert dataclasses.astuple(itself) == (0.0, None, None, 1.0)


@pytest.mark.parametrize("level", ["slice", "volume"])
def test_neither_the_order_of_rows_nor_the_size_of_a_chunk_matters(level, monkeypatch):
    first, second = make_predictions(0.5, 1), make_predictions(1.5, 2)
    expected = compare_pair((first, second), CLASSES, level, Bootstrap(), Permutations())
    shuffled = second.sample(frac=1, random_state=3)
    assert compare_pair((first, shuffled), CLASSES, level, Bootstrap(), Permutations()) == expected
    monkeypatch.setattr("pipeline.evaluation.bootstrap.MAX_CHUNK_NUMBERS", 100)
    assert compare_pair((first, second), CLASSES, level, Bootstrap(), Permutations()) == expected


def sharpen(table: pd.DataFrame, patients: dict[str, float]) -> pd.DataFrame:
    """Return predictions that are right with the given probability of the true class, for each patient's rows."""
    sharp = table.copy()
    right = sharp["group_id"].map(patients).where(sharp["label"] == "right", 1 - sharp["group_id"].map(patients))
    sharp["probability_right"], sharp["probability_left"] = right, 1 - right
    sharp["predicted"] = np.where(right > 0.5, "right", "left")
    return sharp


def test_the_p_value_is_the_fraction_of_exchanges_with_as_large_a_difference():
    """Each of three patients has as many rows, so the difference of a mean is the sum of the patients' differences.

    With +1, +1 and +1 only the exchanges of nobody and of all reach 3: p is 2 / 8. With +1, +1 and -1, whose sum is 1,
    all 8 do: p is 1. With gains in log-likelihood of 3, 2 and 1 tenths again two of them do; with 3, 2 and -1 the sum
    is 4, which those to 6 and -6 exceed: p is 4 / 8.
    """
    table, names = make_predictions(0.0, 0, 3), ("p0", "p1", "p2")
    wrong, right = (sharpen(table, dict.fromkeys(names, skill)) for skill in (0.4, 0.9))
    assert one_p_value((wrong, right), "accuracy") == 2 / 8
    mixed = sharpen(table, {"p0": 0.4, "p1": 0.4, "p2": 0.9}), sharpen(table, {"p0": 0.9, "p1": 0.9, "p2": 0.4})
    assert one_p_value(mixed, "accuracy") == 1
    for gains, p_value in (((0.3, 0.2, 0.1), 2 / 8), ((0.3, 0.2, -0.1), 4 / 8)):
        better = sharpen(table, {name: 0.4 * np.exp(gain) for name, gain in zip(names, gains, strict=True)})
        assert one_p_value((wrong, better), "nll") == p_value


def one_p_value(tables, metric):
    return compare_pair(tables, CLASSES, "slice", Bootstrap(100), Permutations())[metric].p_value


def test_more_than_twelve_patients_are_exchanged_at_random_and_near_the_exact_value():
    first, second = make_predictions(0.5, 1, 12), make_predictions(0.9, 2, 12)
    exact = one_p_value((first, second), "nll")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.evaluation.paired_comparison.MAX_EXACT_PATIENTS", 11)
        drawn = one_p_value((first, second), "nll")
    assert 0.01 < exact < 0.99
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 2000))
    assert drawn != exact


def test_auroc_is_that_of_the_tables_whose_rows_were_exchanged():
    """The p-value of a score that is no mean, by brute force over the 16 tables of ranks of four patients."""
    tables = tuple(make_predictions(skill, seed, 4) for skill, seed in ((0.2, 1), (1.0, 2)))
    found = compare_pair(tables, CLASSES, "slice", Bootstrap(100), Permutations())["auroc"]

    def subtract(first, second):
        scores = [roc_auc_score(table["label"] == "right", table["probability_right"]) for table in (first, second)]
        return scores[1] - scores[0]

    assert found.value == pytest.approx(subtract(*tables))
    for table in tables:
        table["probability_right"] = table["probability_right"].rank()
    differences = []
    for chosen in itertools.product([False, True], repeat=4):
        exchanged = tables[0]["group_id"].map(dict(zip((f"p{number}" for number in range(4)), chosen, strict=True)))
        columns = ["probability_left", "probability_right"]
        first, second = tables[0].copy(), tables[1].copy()
        first.loc[exchanged, columns] = tables[1].loc[exchanged, columns]
        second.loc[exchanged, columns] = tables[0].loc[exchanged, columns]
        differences.append(subtract(first, second))
    assert found.p_value == np.mean(np.abs(differences) >= abs(found.value) - 1e-12)


def draw_pair(seed, num_patients, gains, shift):
    """One row a patient, with correlated logits of two runs; the second answers with ``shift`` more."""
    generator = np.random.default_rng(seed)
    is_right, common = np.arange(num_patients) % 2, generator.normal(size=num_patients)
    names, tables = np.arange(num_patients).astype(str), []
    for gain, added in zip(gains, (0, shift), strict=True):
        logits = gain * (is_right - 0.5) + 0.7 * common + 0.7 * generator.normal(size=num_patients)
        right = expit(logits + added)
        table = build_table(right, np.array(CLASSES)[is_right], CLASSES, names)
        tables.append(table.assign(predicted=np.where(logits > 0, "right", "left")))
    return tuple(tables)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_patients", [10, 40], ids=["all exchanges", "drawn exchanges"])
def test_the_scale_of_a_runs_probabilities_does_not_change_what_is_said_of_the_auroc(seed, num_patients):
    plain, shifted = (
        compare_pair(draw_pair(seed, num_patients, (2.0, 1.0), shift), CLASSES, "slice", Bootstrap(100), Permutations())
        for shift in (0, 3)
    )
    assert 0 < plain["auroc"].p_value < 1
    assert shifted["auroc"] == plain["auroc"]
    assert shifted["accuracy"] == plain["accuracy"]
    assert shifted["nll"].value > plain["nll"].value


@pytest.mark.slow
def test_runs_of_another_scale_are_found_to_differ_in_auroc_where_they_do_and_only_there():
    """Of 200 equally good pairs 5 % may be found to differ, up to three standard deviations more; of 20 others most."""

    def count(num_cases, gains):
        pairs = [draw_pair(seed, 60, gains, 3) for seed in range(num_cases)]
        found = [compare_pair(pair, CLASSES, "slice", Bootstrap(1), Permutations(199)) for pair in pairs]
        return sum(differences["auroc"].p_value <= 0.05 for differences in found)

    assert 2 <= count(200, (1.5, 1.5)) <= 10 + 3 * np.sqrt(200 * 0.05 * 0.95)
    assert count(20, (2.5, 0.5)) >= 15


def test_no_number_of_draws_makes_a_difference_certain():
    tables = make_predictions(-9.0, 1, 14), make_predictions(9.0, 1, 14)
    found = compare_pair(tables, CLASSES, "slice", Bootstrap(100), Permutations(500))["accuracy"]
    assert found.value == 1.0
    assert 1 / 501 <= found.p_value <= 3 / 501


@pytest.mark.slow
def test_a_true_null_hypothesis_is_rejected_in_five_of_a_hundred_cases():
    """Both runs draw the predictions of six patients from one distribution; up to three standard deviations above 5."""
    generator, rejected, names = np.random.default_rng(0), 0, [f"p{number}" for number in range(6)]
    table = make_predictions(0.0, 0, 6)
    for _ in range(100):
        skills = [dict(zip(names, generator.beta(8, 2, 6), strict=True)) for _ in range(2)]
        pair = sharpen(table, skills[0]), sharpen(table, skills[1])
        found = compare_pair(pair, CLASSES, "slice", Bootstrap(1), Permutations())
        rejected += found["nll"].p_value <= 0.05
    assert rejected <= 5 + 3 * np.sqrt(100 * 0.05 * 0.95)


def test_one_patient_gives_a_difference_without_an_interval():
    first, second = make_predictions(0.5, 1, 1), make_predictions(1.5, 2, 1)
    found = compare_pair((first, second), CLASSES, "slice", Bootstrap(), Permutations())["nll"]
    assert (found.low, found.high, found.p_value) == (None, None, None)


def test_other_rows_labels_or_patients_are_not_compared():
    table = make_predictions(1.0)
    assert explain_mismatch(table, table.iloc[::-1]) is None
    assert explain_mismatch(table, table.iloc[1:]) == "they scored other test rows (72 and 71, 71 of them the same)"
    for column, value in (("label", "right"), ("group_id", "p1")):
        changed = table.copy()
        changed.loc[0, column] = value
        assert explain_mismatch(table, changed) == "the same rows have other labels or patients"


def write_run(root: Path, experiment: str, run: str, table: pd.DataFrame, **settings) -> Workspace:
    """Write what the train and evaluate stages leave."""
    paths = Workspace(root, experiment, run)
    metrics = {"split": "test", "class_names": list(CLASSES), "synthetic_note": f"Made up {HOSTILE}"}
    metrics |= {"levels": compute_levels(table, CLASSES, Bootstrap(100))}
    metrics |= {"baselines": {}, "probes": {}, "decision": {}, "classes": {}, "not_evaluated": []}
    write_table(paths.predictions, table, prediction_columns(CLASSES))
    paths.metrics.write_text(json.dumps(metrics))
    paths.run_folder.mkdir(parents=True, exist_ok=True)
    index = pd.DataFrame(
        [(row.example_id, row.source_id, row.group_id, row.label, row.slice_index, 0.0) for row in table.itertuples()],
        columns=list(INDEX_COLUMNS),
    )
    images = np.random.default_rng(0).integers(0, 255, (len(index), 8, 8)).astype(np.uint8)
    fingerprint = write_store(paths.prepared, [images], index, {})
    training = {
        "num_parameters": 1234567,
        "best": {"epoch": 2, "val_accuracy": 0.9},
        "epochs": 3,
        "seconds": 90.0,
        "world_size": 1,
    }
    training |= {
        "device": "cpu",
        "precision": "32-true",
        "commit": "0123456789abcdef",
        "store_fingerprint": fingerprint,
    }
    paths.training_record.write_text(json.dumps(training))
    (paths.run_folder / "started.json").write_text(json.dumps({"settings": {"train.seed": 0, **settings}}))
    epochs = pd.DataFrame({"epoch": [1, 2, 3], "val_loss": [0.7, 0.5, 0.6], "val_accuracy": [0.5, 0.8, 0.7]})
    epochs.to_csv(paths.history, index=False)
    maps = AttentionMaps(
        "cross", (0,), (0,), (), False, None, 4, 1, CLASSES, ("a",), ("left",), images[:1, None],
        np.full((1, 2), 0.5, dtype=np.float32), np.full((1, 1, 1, 1, 2, 2), 0.25, dtype=np.float32),
    )  # fmt: skip
    write_maps(name_kept_epoch(paths.attention_maps, 1), maps)
    return paths


@pytest.fixture
def root(tmp_path):
    write_run(tmp_path, "knees", "", make_predictions(-1.5, 1))
    write_run(tmp_path, "knees", "wide", make_predictions(6.0, 2), **{"train.epochs": HOSTILE})
    write_run(tmp_path, "other", "seed-1", make_predictions(6.0, 2, 5))
    return tmp_path


def test_runs_are_found_by_experiment_name_folder_and_run_folder(root, tmp_path):
    paths, reports = Workspace(root, "knees"), root / "reports"
    both = [reports / "knees", reports / "knees" / "wide"]
    assert find_report_folders((), paths) == both
    assert find_report_folders((Path("knees/wide"), Path("knees"), Path("knees/wide")), paths) == both[::-1]
    assert find_report_folders((Path("other"),), paths) == [reports / "other" / "seed-1"]
    assert find_report_folders((root / "runs" / "knees" / "wide", root / "runs" / "knees"), paths) == both[::-1]
    assert locate(both[1]) == Workspace(root, "knees", "wide")
    with pytest.raises(UserError, match=r"absent: no evaluated run\. Name a report folder"):
        find_report_folders((Path("absent"),), paths)
    with pytest.raises(UserError, match=r"no evaluated run\. Run the train and evaluate stages first"):
        find_report_folders((), Workspace(root, "absent"))
    names = [run.name for run in read_runs([*both, reports / "other" / "seed-1"])]
    assert names == ["knees", "knees / wide", "other / seed-1"]
    assert [run.name for run in read_runs(both)] == ["knees", "wide"]


def write_page(root: Path, *names: str) -> str:
    options = CompareConfig(runs=tuple(map(Path, names)), num_bootstrap_resamples=200, num_examples=4)
    runs = read_runs(find_report_folders(options.runs, Workspace(root, "knees")))
    write_comparison(root / "page.html", runs, options)
    return (root / "page.html").read_text()


def test_the_page_holds_the_numbers_of_the_runs_and_needs_nothing_else(root):
    page = write_page(root, "knees", "knees/wide")
    metrics = json.loads((root / "reports" / "knees" / "wide" / "metrics.json").read_text())
    accuracy = metrics["levels"]["slice"]["metrics"]["accuracy"]
    value, low, high = (f"{100 * accuracy[name]:.1f}" for name in ("value", "low", "high"))
    assert f"{value}\u00a0% ({low} to {high}), 72 slices" in re.sub("<[^>]+>", "", page)
    for cell in ("1,234,567", "2 of 3", "1.5", "0123456789ab", "1 × cpu, 32-true"):
        assert f">{cell}<" in page, cell
    tables = [make_predictions(-1.5, 1), make_predictions(6.0, 2)]
    difference = compare_pair((tables[0], tables[1]), CLASSES, "slice", Bootstrap(200), Permutations())["accuracy"]
    assert f"{difference.value:+.4f}" in page
    assert f"{difference.low:+.4f} to {difference.high:+.4f}" in page
    assert ">better<" in page
    titles = re.findall(r"<figcaption><strong>(.*?)</strong>", page)
    assert titles == [
        "Curves", "Confusion matrices, slices", "Confusion matrices, volumes", "Test inputs",
        "Test inputs on which the runs differ", "Attention in training: knees", "Attention in training: wide",
    ]  # fmt: skip
    assert "Only 12 patients tested in knees" in page
    for outside in ("<script", "http://", "https://", "<link", 'src="/'):
        assert outside not in page
    assert "Made up &lt;script&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</td>" in page, "the value of an option"


def test_runs_on_other_test_rows_stand_side_by_side_without_a_difference(root):
    page = write_page(root, "knees", "other")
    assert (
        "other / seed-1 is not compared with knees: they scored other test rows (72 and 30, 30 of them the same)"
        in page
    )
    assert "paired bootstrap" not in page
    assert "Test inputs: knees" in page
    assert "Test inputs: other / seed-1" in page


def test_a_report_without_its_run_is_shown_with_dashes(root, tmp_path):
    alone = tmp_path / "elsewhere"
    (root / "reports" / "knees").rename(alone)
    page = write_page(root, str(alone))
    assert page.count(">\u2013<") == 6, "parameters, epochs, validation accuracy, minutes, device, commit"
    assert "Curves" not in page


def test_images_that_were_prepared_again_are_not_shown_as_those_that_were_scored(root):
    path = root / "runs" / "knees" / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store_fingerprint": "another"}))
    assert "Test inputs" not in write_page(root, "knees")
    assert "Test inputs" in write_page(root, "knees/wide")


def test_only_options_that_differ_are_listed(root):
    runs = read_runs(find_report_folders((), Workspace(root, "knees")))
    assert tabulate_settings(runs).rows == (("train.epochs", "\u2013", HOSTILE),)


def test_lower_is_better_where_it_is(root):
    rows = [
        [cell.read().strip() for cell in (*row.find("th"), *row.find("td"))]
        for row in PageReader(write_page(root, "knees/wide", "knees")).find("tr")
    ]
    head = next(row for row in rows if "Verdict" in row)
    differences = [dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head) and row[0] == "knees"]
    verdicts = {row["Score"]: (row["Difference"][0], row["Verdict"]) for row in differences if row["Level"] == "Volume"}
    assert verdicts["Accuracy"] == ("-", "worse")
    assert verdicts["Negative log-likelihood ↓"] == ("+", "worse")


@pytest.mark.parametrize(
    ("metric", "verdict"), [("auroc", "better"), ("nll", "worse"), ("brier", "worse"), ("ece", "worse")]
)
def test_more_of_an_error_is_worse_whichever_error_it_is(metric, verdict):
    (row,) = tabulate_differences(
        [Compared("a", "slice", metric, Difference(0.1, 0.05, 0.15, 0.01), 72, 12)], ("slice", "accuracy")
    ).rows
    assert row[-1] == verdict
    assert ("↓" in row[2]) == (verdict == "worse")


def test_a_file_of_an_older_version_is_refused(root):
    path = root / "reports" / "knees" / "metrics.json"
    path.write_text(json.dumps({"split": "test", "levels": {}}))
    with pytest.raises(UserError, match=r"metrics\.json: no baselines, class_names, .* Run the evaluate stage again"):
        read_runs([path.parent])


def test_p_values_are_raised_by_holms_steps():
    """.01 x 4, then .02 x 3, then .03 x 2 and .04 x 1, which may not fall below the one before."""
    found = correct_for_many([0.03, None, 0.01, 0.04, 0.02])
    assert found == [pytest.approx(0.06), None, pytest.approx(0.04), pytest.approx(0.06), pytest.approx(0.06)]
    assert correct_for_many([0.03]) == [0.03]
    assert correct_for_many([0.6, 0.7]) == [1.0, 1.0]
    assert correct_for_many([None]) == [None]


PRIMARY = ("slice", "accuracy")


def test_the_primary_comparison_is_corrected_for_the_runs_alone_and_all_others_for_their_number():
    """p = .03 holds for the primary score of one run; of two runs, or of two other scores, it is doubled."""
    difference = Difference(0.1, 0.01, 0.2, 0.03)
    one = Compared("a", "slice", "accuracy", difference, 72, 12)
    others = [dataclasses.replace(one, metric="auroc"), dataclasses.replace(one, level="volume")]
    found = tabulate_differences([one, *others], PRIMARY)
    assert [row[-3:] for row in found.rows] == [
        ("0.0300", "0.0300", "better"),
        ("0.0300", "0.0600", "not shown after correction"),
        ("0.0300", "0.0600", "not shown after correction"),
    ]
    assert [row[2] for row in found.rows] == ["Accuracy (primary)", "AUROC", "Accuracy"]
    assert found.rows[0][3] == "72 (12)"
    second = Compared("b", "slice", "accuracy", Difference(0.0, -0.1, 0.1, 0.9), 72, 12)
    assert [row[-2:] for row in tabulate_differences([one, second], PRIMARY).rows] == [
        ("0.0600", "not shown after correction"),
        ("0.9000", "no difference shown"),
    ]


@pytest.mark.parametrize(("num_groups", "verdict"), [(9, "too few for a verdict"), (10, "better")])
def test_fewer_than_ten_patients_get_no_verdict(num_groups, verdict):
    item = Compared("a", "slice", "accuracy", Difference(0.1, 0.05, 0.15, 0.001), 72, num_groups)
    (row,) = tabulate_differences([item], PRIMARY).rows
    assert row[-1] == verdict
    assert row[4] == "+0.1000"


def test_a_primary_level_that_no_run_has_is_refused(root):
    runs = read_runs(find_report_folders((), Workspace(root, "knees")))
    assert choose_primary(runs, CompareConfig()) == ("slice", "accuracy")
    assert choose_primary(runs, CompareConfig(primary_level="volume", primary_metric="auroc")) == ("volume", "auroc")
    with pytest.raises(UserError, match=r"compare\.primary_level: found 'scan'; allowed are slice, volume"):
        choose_primary(runs, CompareConfig(primary_level="scan"))


def test_a_warning_names_too_few_exchanges_for_many_comparisons(root):
    runs = read_runs(find_report_folders((), Workspace(root, "knees")))
    compared = [Compared(f"r{n}", "slice", "accuracy", Difference(0.1, 0.0, 0.2, 0.5), 72, 13) for n in range(6)]
    assert any("raise compare.num_permutations" in text for text in list_warnings(runs, compared, PRIMARY, 100))
    assert not any("raise compare.num_permutations" in text for text in list_warnings(runs, compared, PRIMARY, 2000))
    assert any("6 runs are compared with knees" in text for text in list_warnings(runs, compared, PRIMARY, 2000))
