import json
import warnings

import numpy as np
import pandas
import pytest
from sklearn import metrics as reference

from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES
from pipeline.core.errors import UserError
from pipeline.evaluation import auroc as ranking
from pipeline.evaluation.auroc import compute_roc_curves
from pipeline.evaluation.bootstrap import Bootstrap, Support, draw_patient_weights, estimate_by_bootstrap
from pipeline.evaluation.metrics import compute_level, compute_levels, list_levels, list_mistakes
from pipeline.evaluation.predictions import aggregate, check_predictions, has_level
from pipeline.evaluation.scores import assign_bins, compute_scores, resample_scores, sum_over_patients
from tests.builders.predictions import CLASSES, build_random_table, build_table


def compute_reference(table: pandas.DataFrame, class_names) -> dict[str, float]:
    """The scores of scikit-learn; specificity is the recall of the rest."""
    true, predicted = table["label"].to_numpy(), table["predicted"].to_numpy()
    probabilities = table[[f"probability_{name}" for name in class_names]].to_numpy()
    specificities = [reference.recall_score(true != name, predicted != name) for name in class_names]
    if len(class_names) == 2:
        options = {"average": "binary", "pos_label": class_names[1]}
        auroc = reference.roc_auc_score(true == class_names[1], probabilities[:, 1])
        brier = reference.brier_score_loss(true == class_names[1], probabilities[:, 1])
        specificity = specificities[1]
    else:
        options = {"average": "macro"}
        auroc = reference.roc_auc_score(true, probabilities, multi_class="ovr", labels=list(class_names))
        brier = ((probabilities - (true[:, None] == np.array(class_names))) ** 2).sum(axis=1).mean()
        specificity = np.mean(specificities)
    return {
        "accuracy": reference.accuracy_score(true, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(true, predicted),
        "auroc": auroc,
        "sensitivity": reference.recall_score(true, predicted, **options),
        "specificity": specificity,
        "mcc": reference.matthews_corrcoef(true, predicted),
        "f1": reference.f1_score(true, predicted, **options),
        "nll": reference.log_loss(true, probabilities, labels=list(class_names)),
        "brier": brier,
    }


def read_values(level: dict) -> dict[str, float]:
    return {name: metric["value"] for name, metric in level["metrics"].items()}


def to_sums(table, class_names):
    labels = pandas.Categorical(table["label"], categories=class_names).codes.astype(np.int64)
    predicted = pandas.Categorical(table["predicted"], categories=class_names).codes.astype(np.int64)
    patients = pandas.factorize(table["group_id"], sort=True)[0].astype(np.int64)
    columns = [f"probability_{name}" for name in class_names]
    return sum_over_patients(labels, predicted, table[columns].to_numpy(), patients)


@pytest.mark.parametrize("num_classes", [2, 3, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_values_are_those_of_scikit_learn(num_classes, seed):
    table = build_random_table(num_classes, seed=seed)
    values = read_values(compute_level(table, CLASSES[num_classes], Bootstrap(1)))
    expected = compute_reference(table, CLASSES[num_classes])
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("max_paired_patients", [0, 1000])
def test_a_weighted_score_is_the_score_of_the_repeated_patients(num_classes, max_paired_patients, monkeypatch):
    monkeypatch.setattr(ranking, "MAX_PAIRED_PATIENTS", max_paired_patients)
    table = build_random_table(num_classes, num_patients=8)
    weights = draw_patient_weights(8, 3, np.random.default_rng(5))
    scores = compute_scores(to_sums(table, CLASSES[num_classes]), weights)
    groups = table["group_id"].astype(int)
    for row in range(3):
        repeated = table.loc[table.index.repeat(weights[row, groups].astype(int))]
        expected = compute_reference(repeated, CLASSES[num_classes])
        assert {name: scores[name][row] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_scores_of_six_slices_by_hand():
    # right is positive: 2 hits, 1 miss; left: 2 hits, 1 false alarm.
    table = build_table([0.9, 0.8, 0.3, 0.6, 0.2, 0.1], ["right"] * 3 + ["left"] * 3, CLASSES[2])
    values = read_values(compute_level(table, CLASSES[2], Bootstrap(1)))
    squares = (0.1**2 + 0.2**2 + 0.7**2 + 0.6**2 + 0.2**2 + 0.1**2) / 6
    likelihood = 0.9 * 0.8 * 0.3 * 0.4 * 0.8 * 0.9
    # Confidences .9 .8 .7 .6 .8 .9 of rows right right wrong wrong right right, one bin a value.
    calibration = (abs(1.8 - 2) + abs(1.6 - 2) + abs(0.7 - 0) + abs(0.6 - 0)) / 6
    assert values == pytest.approx(
        {
            "accuracy": 4 / 6,
            "balanced_accuracy": 4 / 6,
            "auroc": 8 / 9,
            "sensitivity": 2 / 3,
            "specificity": 2 / 3,
            "mcc": (2 * 2 - 1 * 1) / 9,
            "f1": 2 / 3,
            "nll": -np.log(likelihood) / 6,
            "brier": squares,
            "ece": calibration,
        }
    )


def test_confusion_has_a_row_for_each_true_class():
    table = build_table([0.9, 0.1, 0.1, 0.2], ["right", "right", "right", "left"], CLASSES[2])
    level = compute_level(table, CLASSES[2], Bootstrap(1))
    assert level["confusion"] == [[1, 0], [2, 1]]
    assert level["support"] == {"left": 1, "right": 3}
    assert (level["n"], level["groups"]) == (4, 4)


def test_equal_scores_give_an_auroc_of_one_half():
    table = build_table([0.5] * 4, ["left", "right", "left", "right"], CLASSES[2])
    assert read_values(compute_level(table, CLASSES[2], Bootstrap(1)))["auroc"] == 0.5


def test_a_volume_is_the_mean_of_its_slices():
    table = build_table(
        [0.9, 0.2, 0.2, 0.6],
        ["right", "right", "right", "left"],
        CLASSES[2],
        ["p", "p", "p", "q"],
        ["v", "v", "v", "w"],
    )
    volumes = aggregate(table, "volume")
    assert volumes["source_id"].tolist() == ["v", "w"]
    assert volumes["group_id"].tolist() == ["p", "q"]
    assert volumes["num_slices"].tolist() == [3, 1]
    assert volumes["probability_right"].tolist() == pytest.approx([1.3 / 3, 0.6])
    # Two of three slices are predicted left, and so is their mean, against one slice of high confidence.
    assert volumes["predicted"].tolist() == ["left", "right"]


@pytest.mark.parametrize("scores", [[0.2, 0.8], [0.35, 0.56, 0.61, 0.58, 0.1, 0.8], [0.5]])
def test_a_tie_goes_to_the_first_class_in_any_order(scores):
    table = build_table(scores, ["left"] * len(scores), CLASSES[2], source_ids=["v"] * len(scores))
    assert np.mean(scores) == pytest.approx(0.5)
    assert aggregate(table, "volume")["predicted"].tolist() == ["left"]


def test_there_is_a_patient_level_only_where_labels_belong_to_patients():
    both_knees = build_table([0.1, 0.9], ["left", "right"], CLASSES[2], ["p", "p"])
    assert not has_level(both_knees, "patient")
    assert list(compute_levels(both_knees, CLASSES[2], Bootstrap(2))) == ["slice", "volume"]
    with pytest.raises(UserError, match="patient 'p' has 2 different labels"):
        aggregate(both_knees, "patient")
    diagnosis = build_table([0.1, 0.2, 0.9], ["left", "left", "right"], CLASSES[2], ["p", "p", "q"])
    levels = compute_levels(diagnosis, CLASSES[2], Bootstrap(2))
    assert [level["n"] for level in levels.values()] == [3, 3, 2]
    assert levels["patient"]["support"] == {"left": 1, "right": 1}


def test_a_knee_is_the_mean_of_all_visits_of_one_side():
    table = build_table(
        [0.9, 0.2, 0.4, 0.1],
        ["right", "right", "right", "left"],
        CLASSES[2],
        ["p", "p", "p", "p"],
        ["visit 1", "visit 2", "visit 2", "visit 1 left"],
    ).assign(side=["right", "right", "right", "left"])
    knees = aggregate(table, "knee")
    assert knees["example_id"].tolist() == ["p left", "p right"]
    assert knees["num_slices"].tolist() == [1, 3]
    assert knees["probability_right"].tolist() == pytest.approx([0.1, 0.5])
    levels = compute_levels(table, CLASSES[2], Bootstrap(2))
    assert {name: level["n"] for name, level in levels.items()} == {"slice": 4, "volume": 3, "knee": 2}


def test_there_is_a_knee_level_only_where_all_sides_are_known_and_each_knee_has_one_label():
    table = build_table([0.1, 0.9], ["left", "right"], CLASSES[2], ["p", "p"])
    assert not has_level(table, "knee")
    assert has_level(table.assign(side=["left", "right"]), "knee")
    assert not has_level(table.assign(side=["left", ""]), "knee")
    assert not has_level(table.assign(side=["left", "left"]), "knee"), "one knee, two labels"


def test_the_order_of_the_rows_changes_nothing():
    table = build_random_table(3)
    shuffled = table.sample(frac=1, random_state=1)
    first = compute_levels(table, CLASSES[3], Bootstrap(50))
    second = compute_levels(shuffled, CLASSES[3], Bootstrap(50))
    for level in first:
        for name, metric in first[level]["metrics"].items():
            # Sums in another order differ in the last digits.
            assert second[level]["metrics"][name] == pytest.approx(metric, abs=1e-12)


def test_a_seed_draws_the_same_patients_and_another_seed_others():
    table = build_random_table(2, num_patients=60)
    first, again, other = (
        compute_level(table, CLASSES[2], Bootstrap(50, seed))["metrics"]["mcc"] for seed in (0, 0, 1)
    )
    assert first == again
    assert first["method"] == "bootstrap"
    assert first["low"] != other["low"]


def test_a_resample_draws_as_many_patients_as_there_are():
    weights = draw_patient_weights(7, 4000, np.random.default_rng(0))
    assert (weights.sum(axis=1) == 7).all()
    # Each patient is drawn once on average; four standard errors of 4,000 draws are 0.06.
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert (weights == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.02)


@pytest.mark.parametrize("max_paired_patients", [0, 1000])
def test_the_size_of_the_chunks_changes_nothing(max_paired_patients, monkeypatch):
    monkeypatch.setattr(ranking, "MAX_PAIRED_PATIENTS", max_paired_patients)
    table = build_random_table(3)
    whole = resample_scores(to_sums(table, CLASSES[3]), Bootstrap(40))
    monkeypatch.setattr("pipeline.evaluation.bootstrap.MAX_CHUNK_NUMBERS", 90)
    monkeypatch.setattr(ranking, "MAX_CHUNK_NUMBERS", 90)
    chunked = resample_scores(to_sums(table, CLASSES[3]), Bootstrap(40))
    for name, scores in whole.items():
        np.testing.assert_allclose(chunked[name], scores, rtol=0, atol=1e-12)


def test_one_patient_gives_values_without_intervals():
    table = build_random_table(2, num_patients=1)
    level = compute_level(table, CLASSES[2], Bootstrap(20))
    assert all(metric["value"] is not None for metric in level["metrics"].values())
    assert all(metric["low"] is None and metric["high"] is None for metric in level["metrics"].values())
    assert level["notes"] == ["No intervals: there is one patient only."]


def test_no_interval_is_without_width():
    """A bootstrap of patients that are all alike has none, and the AUROC no variance; then there is no interval."""
    one = build_random_table(2, num_patients=1, slices=30)
    table = pandas.concat([one.assign(group_id=str(patient)) for patient in range(60)])
    table["example_id"] = np.arange(len(table)).astype(str)
    level = compute_level(table, CLASSES[2], Bootstrap(30))
    for name, metric in level["metrics"].items():
        if name in ("accuracy", "sensitivity", "specificity"):
            assert metric["low"] <= metric["value"] <= metric["high"]
            assert metric["low"] < metric["high"]
        else:
            assert (metric["low"], metric["high"], metric["method"]) == (None, None, None)
    names = "Balanced accuracy, Matthews correlation, F1, Negative log-likelihood, Brier score"
    assert f"No interval of {names}: all resamples are equal." in level["notes"]


@pytest.mark.parametrize(
    ("num_patients", "num_wrong", "reason"),
    [(59, 30, "fewer than 60 patients"), (60, 29, "errors in fewer than 30 patients"), (60, 30, None)],
)
def test_a_bootstrap_needs_so_many_patients_and_so_many_with_errors(num_patients, num_wrong, reason):
    labels = np.array(["left", "right"] * num_patients)
    scores = np.where(labels == "right", 0.9, 0.2)
    scores[: 2 * num_wrong : 2] = 0.6
    groups = np.arange(num_patients).repeat(2).astype(str)
    level = compute_level(build_table(scores, labels, CLASSES[2], groups), CLASSES[2], Bootstrap(100))
    assert level["groups_with_errors"] == num_wrong
    methods = {level["metrics"][name]["method"] for name in ("balanced_accuracy", "mcc", "f1", "nll", "brier")}
    assert methods == {None if reason else "bootstrap"}
    assert any(reason in note for note in level["notes"]) if reason else len(level["notes"]) == 2
    assert level["metrics"]["accuracy"]["method"] == "beta-binomial"


@pytest.mark.parametrize("num_classes", [2, 3])
def test_each_score_of_many_patients_has_the_method_that_holds_for_it(num_classes):
    level = compute_level(build_random_table(num_classes, num_patients=60), CLASSES[num_classes], Bootstrap(50))
    methods = {name: metric["method"] for name, metric in level["metrics"].items()}
    assert methods.pop("accuracy") == "beta-binomial"
    assert methods.pop("ece") is None
    if num_classes == 2:
        assert methods.pop("sensitivity") == methods.pop("specificity") == "beta-binomial"
        assert methods.pop("auroc") == "logit"
    assert set(methods.values()) == {"bootstrap"}


def test_seeds_that_repeat_the_rows_add_no_certainty():
    table = build_random_table(2)
    once, often = (compute_level(pandas.concat([table] * times), CLASSES[2], Bootstrap(50)) for times in (1, 5))
    assert often["n"] == 5 * once["n"]
    for name, metric in once["metrics"].items():
        assert often["metrics"][name] == pytest.approx(metric), name


def test_the_mean_over_patients_counts_each_once():
    table = build_table([0.9, 0.9, 0.9, 0.1], ["right"] * 4, CLASSES[2], ["a", "a", "a", "b"])
    level = compute_level(table, CLASSES[2], Bootstrap(10))
    assert level["metrics"]["accuracy"]["value"] == 0.75
    assert level["mean_over_groups"]["value"] == 0.5


def test_patients_that_differ_widen_the_interval_beyond_that_of_single_slices():
    table = build_random_table(2, num_patients=20, slices=40, patient_std=1.5)
    honest = compute_level(table, CLASSES[2], Bootstrap())["metrics"]["accuracy"]
    naive = compute_level(table.assign(group_id=table["example_id"]), CLASSES[2], Bootstrap())["metrics"]["accuracy"]
    assert honest["value"] == naive["value"]
    assert honest["high"] - honest["low"] > 2 * (naive["high"] - naive["low"])


def test_the_interval_of_independent_rows_is_the_normal_one():
    labels = np.array(["left", "right"] * 500)
    scores = np.where(labels == "right", 0.9, 0.1)
    scores[:200] = 1 - scores[:200]
    accuracy = compute_level(build_table(scores, labels, CLASSES[2]), CLASSES[2], Bootstrap())["metrics"]["accuracy"]
    half_width = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert accuracy["value"] == 0.8
    # The posterior is not quite symmetric.
    assert accuracy["low"] == pytest.approx(0.8 - half_width, abs=0.001)
    assert accuracy["high"] == pytest.approx(0.8 + half_width, abs=0.001)


def test_one_class_leaves_null_with_a_reason_and_strict_json():
    table = build_table([0.1, 0.6, 0.2], ["left"] * 3, CLASSES[2])
    level = compute_levels(table, CLASSES[2], Bootstrap(20))["slice"]
    undefined = {name for name, metric in level["metrics"].items() if metric["value"] is None}
    assert undefined == {"balanced_accuracy", "auroc", "sensitivity", "mcc"}
    for name in undefined:
        metric = level["metrics"][name]
        assert (metric["low"], metric["high"], metric["method"]) == (None, None, None)
        assert metric["reason"].startswith("not defined")
    assert "the labels hold only left" in level["notes"][0]
    assert json.loads(json.dumps(level, allow_nan=False)) == level


def test_an_interval_needs_nine_resamples_in_ten():
    # One patient in four has the only right knee: it is missing from (3/4)^4 = 32 % of the resamples.
    table = build_table([0.9, 0.1, 0.2, 0.6], ["right", "left", "left", "left"], CLASSES[2])
    level = compute_level(table, CLASSES[2], Bootstrap(200))
    assert level["metrics"]["auroc"]["value"] == 1.0
    assert level["metrics"]["auroc"]["low"] is None
    assert level["metrics"]["accuracy"]["low"] is not None
    assert "No interval of AUROC: a class has rows of one patient only." in level["notes"]
    estimate = estimate_by_bootstrap(0.5, np.array([0.4] * 89 + [np.nan] * 11), Support(60, 30))
    assert (estimate["value"], estimate["low"]) == (0.5, None)
    assert estimate["reason"] == "more than 10% of the resamples lack a class"


def test_a_class_without_rows_is_left_out_of_averages_and_named():
    table = build_table([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], ["cyst", "normal"], CLASSES[3])
    level = compute_level(table, CLASSES[3], Bootstrap(5))
    assert level["metrics"]["sensitivity"]["value"] == 1.0
    assert "No row has the label tear; averages leave it out." in level["notes"]


def test_a_perfect_score_has_an_exact_bound_and_a_note():
    labels = ["left", "right"] * 11
    table = build_table([0.1, 0.9] * 11, labels, CLASSES[2])
    level = compute_level(table, CLASSES[2], Bootstrap(20))
    # 0.025 ** (1 / 22) and (1 / 11): the exact limits of 22 patients, and of 11 of each class.
    for name, low in (("accuracy", 0.8456), ("sensitivity", 0.7151), ("specificity", 0.7151), ("auroc", 0.7151)):
        metric = level["metrics"][name]
        assert (metric["value"], metric["high"], metric["method"]) == (1.0, 1.0, "exact over groups")
        assert metric["low"] == pytest.approx(low, abs=1e-4)
    assert any(
        "Accuracy, AUROC, Sensitivity, Specificity: the interval is the exact bound" in n for n in level["notes"]
    )


def test_always_the_same_answer_has_a_matthews_correlation_of_zero():
    table = build_table([0.1, 0.2, 0.3], ["left", "right", "right"], CLASSES[2])
    assert read_values(compute_level(table, CLASSES[2], Bootstrap(1)))["mcc"] == 0.0


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_area_under_the_curve_is_the_auroc(num_classes):
    table = build_random_table(num_classes)
    curves = compute_roc_curves(table, CLASSES[num_classes])
    areas = [np.trapezoid(c.true_positive_rate, c.false_positive_rate) for c in curves.values()]
    assert len(areas) == (1 if num_classes == 2 else 3)
    values = read_values(compute_level(table, CLASSES[num_classes], Bootstrap(1)))
    assert np.mean(areas) == pytest.approx(values["auroc"], abs=1e-12)


def test_a_roc_curve_by_hand():
    table = build_table([0.9, 0.5, 0.5, 0.1], ["right", "left", "right", "left"], CLASSES[2])
    curve = compute_roc_curves(table, CLASSES[2])["right"]
    assert curve.false_positive_rate.tolist() == [0, 0, 0.5, 1]
    assert curve.true_positive_rate.tolist() == [0, 0.5, 1, 1]


def test_a_class_without_rows_has_no_roc_curve():
    table = build_table([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], ["cyst", "normal"], CLASSES[3])
    assert list(compute_roc_curves(table, CLASSES[3])) == ["cyst", "normal"]


def test_the_upper_edge_belongs_to_its_bin():
    assert assign_bins(np.array([0.0, 0.5, 0.51, 1.0]), 2).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="group_id"), r"columns \['group_id'\] are missing"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.assign(label="middle"), r"column label holds \['middle'\]"),
        (lambda t: t.assign(predicted="middle"), r"column predicted holds \['middle'\]"),
        (lambda t: t.assign(probability_left=np.nan), "first example_id '0', have probabilities"),
        (lambda t: t.assign(probability_left=-0.1, probability_right=1.1), "numbers from 0 to 1"),
        (lambda t: t.assign(probability_left=0.9, probability_right=0.9), "sum to 1"),
    ],
)
def test_a_table_that_cannot_be_scored_is_refused(change, message):
    table = build_table([0.1, 0.9], ["left", "right"], CLASSES[2])
    check_predictions(table, CLASSES[2])
    with pytest.raises(UserError, match=message):
        check_predictions(change(table), CLASSES[2])


def test_an_unknown_level_and_no_resamples_are_refused():
    table = build_table([0.1, 0.9], ["left", "right"], CLASSES[2])
    with pytest.raises(UserError, match="allowed are slice, image, object, volume, knee, patient"):
        aggregate(table, "study")
    with pytest.raises(UserError, match="num_resamples: found 0"):
        compute_level(table, CLASSES[2], Bootstrap(0))


def test_of_many_classes_the_most_frequent_mistakes_are_listed():
    names = [f"c{index:02d}" for index in range(13)]
    confusion = np.diag(np.full(13, 50))
    confusion[3, 7], confusion[7, 3], confusion[12, 0] = 2, 9, 9
    (note,) = list_mistakes(confusion, names)
    assert "c07 for c03 (9), c12 for c00 (9), c03 for c07 (2)." in note
    assert list_mistakes(np.diag(np.full(13, 50)), names) == []
    table = build_table(np.eye(13)[[1, 1]], ["c01", "c05"], names)
    assert compute_level(table, names, Bootstrap(1))["notes"][-1] == "Most often mistaken: c05 for c01 (1)."


def test_each_image_counts_as_independent_and_the_notes_count_images():
    table = build_table([0.9, 0.2, 0.8], ["right", "left", "right"], CLASSES[2])
    levels = compute_levels(table, CLASSES[2], Bootstrap(50), kind=IMAGES)
    assert list(levels) == ["image"]
    assert levels["image"]["n"] == levels["image"]["groups"] == 3
    assert any("exact bound over images" in note for note in levels["image"]["notes"])
    slices = compute_levels(table, CLASSES[2], Bootstrap(50))
    assert slices["slice"]["metrics"] == levels["image"]["metrics"], "the kind changes no number"


def build_extreme(name: str) -> pandas.DataFrame:
    """One of the tables that break formulas."""
    if name == "fifty thousand patients":
        return build_random_table(2, num_patients=50_000, slices=1, decimals=3)
    num_patients = 1 if name == "one patient" else 8
    labels = ["left"] * 48 if name == "one class" else ["left", "right"] * 24
    right = np.where(np.array(labels) == "right", 0.9, 0.1)
    scores = {"all right": right, "all wrong": 1 - right, "all equal": np.full(48, 0.7)}.get(
        name, np.clip(right + np.linspace(-0.5, 0.5, 48), 0, 1)
    )
    groups = np.arange(48) if name == "one slice each" else np.arange(48) * num_patients // 48
    return build_table(scores, labels, CLASSES[2], groups.astype(str))


@pytest.mark.parametrize(
    "name",
    ["one patient", "one class", "all right", "all wrong", "all equal", "one slice each", "fifty thousand patients"],
)
def test_no_table_gives_nan_or_an_interval_that_has_no_width_or_lacks_its_value(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's warning where it makes a NaN
        level = compute_level(build_extreme(name), CLASSES[2], Bootstrap(40))
    json.dumps(level, allow_nan=False)
    for metric, found in (*level["metrics"].items(), ("mean", level["mean_over_groups"])):
        if found["low"] is None:
            assert found["high"] is None
            assert found["method"] is None
            assert found["reason"], metric
        else:
            assert found["low"] < found["high"], metric
            assert found["low"] <= found["value"] <= found["high"], metric
            assert found["method"], metric
    assert (level["metrics"]["accuracy"]["low"] is None) == (name == "one patient")


def test_images_of_patients_have_the_levels_of_images_knees_and_patients():
    table = build_table([0.1, 0.9, 0.2, 0.8], ["left", "right", "left", "right"], CLASSES[2])
    table["group_id"], table["side"] = ["a", "a", "b", "b"], ["left", "right", "left", "right"]
    assert list_levels(table, PATIENT_IMAGES) == ["image", "knee"], "a patient with both knees has two labels"
    table["label"] = ["left", "left", "right", "right"]
    assert list_levels(table, PATIENT_IMAGES) == ["image", "knee", "patient"]
    assert list_levels(table, IMAGES) == ["image"]
    assert len(aggregate(table, "patient")) == 2
