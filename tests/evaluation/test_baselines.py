import dataclasses
import tracemalloc

import numpy as np
import pandas
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.core.errors import UserError
from pipeline.data.store import Store
from pipeline.evaluation import baselines
from pipeline.evaluation import baselines as pooling
from pipeline.evaluation.baselines import logistic_regression, majority, pool_images, score_baseline
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.predictions import build_predictions
from tests.builders.row_reads import RowReads

CLASSES = ("left", "right")


def build_images(num_rows: int, strength: float, seed: int, size: int = 16):
    """Smooth noise, brighter on the left for left and on the right for right."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, num_rows)
    noise = gaussian_filter(generator.normal(size=(num_rows, size, size)), (0, 2, 2)) * 8
    slope = np.linspace(-1, 1, size) * strength * (2 * labels - 1)[:, None]
    images = np.clip(128 + 30 * (noise + slope[:, None, :]), 0, 255).astype(np.uint8)
    return images, np.array(CLASSES)[labels]


def build_store(parts, class_names=CLASSES) -> tuple[Store, dict[str, np.ndarray]]:
    """Put (images, labels) of training, validation and test into one store."""
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([np.asarray(labels, dtype=str) for _, labels in parts])
    ends = np.cumsum([len(images) for images, _ in parts])
    rows = dict(zip(("train", "val", "test"), np.split(np.arange(len(images)), ends[:-1]), strict=True))
    return Store(images, build_index(labels), tuple(class_names), {}, ""), rows


def fit_parts(parts, class_names=CLASSES, **options) -> np.ndarray:
    return logistic_regression(*build_store(parts, class_names), **options)


def fit(strength: float, **options) -> tuple[np.ndarray, np.ndarray]:
    parts = [build_images(n, strength, seed) for n, seed in ((200, 0), (60, 1), (100, 2))]
    return fit_parts(parts, **options), parts[2][1]


def accuracy_of(probabilities, labels) -> float:
    return float((np.array(CLASSES)[probabilities.argmax(axis=1)] == labels).mean())


def test_a_linear_difference_is_found_and_noise_is_not():
    assert accuracy_of(*fit(strength=2.0)) > 0.95
    # Four standard errors of 100 fair coins are 0.2.
    assert accuracy_of(*fit(strength=0.0)) == pytest.approx(0.5, abs=0.2)


def test_rows_sum_to_one_and_the_same_data_give_the_same_numbers():
    first, _ = fit(strength=0.5)
    second, _ = fit(strength=0.5)
    np.testing.assert_allclose(first.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(first, second)


def test_test_images_do_not_influence_each_other():
    train, val, test = (build_images(n, 0.5, seed) for n, seed in ((200, 0), (60, 1), (20, 2)))
    together = fit_parts((train, val, test))
    alone = fit_parts((train, val, (test[0][:1], test[1][:1])))
    # Products of matrices of another size round differently, in float32.
    np.testing.assert_allclose(alone, together[:1], atol=1e-5)


def test_brightness_and_contrast_of_the_whole_set_change_nothing():
    parts = [build_images(n, 0.5, seed) for n, seed in ((200, 0), (60, 1), (20, 2))]
    parts = [((images // 4).astype(np.uint8), labels) for images, labels in parts]
    plain = fit_parts(parts)
    parts = [((2 * images + 50).astype(np.uint8), labels) for images, labels in parts]
    changed = fit_parts(parts)
    # The solver stops within its tolerance, and the statistics are float32.
    np.testing.assert_allclose(changed, plain, atol=1e-3)


def test_channels_are_pixels_too():
    parts = [build_images(n, 2.0, seed) for n, seed in ((200, 0), (60, 1), (50, 2))]
    colour = [(np.stack([np.zeros_like(images), images], axis=1), labels) for images, labels in parts]
    grey = fit_parts(parts)
    # A channel that never changes has no information; its standard deviation of 0 divides nothing.
    np.testing.assert_allclose(fit_parts(colour), grey, atol=1e-5)


def test_validation_chooses_the_penalty(monkeypatch):
    expected, _ = fit(strength=0.3)
    train, val, test = (build_images(n, 0.3, seed) for n, seed in ((200, 0), (60, 1), (100, 2)))
    losses, answers = [], []
    for inverse_regularisation in baselines.INVERSE_REGULARISATIONS:
        monkeypatch.setattr(baselines, "INVERSE_REGULARISATIONS", (inverse_regularisation,))
        on_val = fit_parts((train, val, val))
        losses.append(-np.log(on_val[np.arange(60), (val[1] == "right").astype(int)]).mean())
        answers.append(fit_parts((train, val, test)))
    distances = [np.abs(answer - expected).max() for answer in answers]
    assert np.argmin(distances) == np.argmin(losses)
    # A warm start ends within the solver's tolerance of a cold one.
    assert min(distances) < 0.01 < np.sort(distances)[1]


def test_a_class_that_training_lacks_has_probability_zero():
    train, val, test = (build_images(n, 2.0, seed) for n, seed in ((100, 0), (30, 1), (20, 2)))
    probabilities = fit_parts((train, val, test), ("bottom", "left", "right"))
    assert (probabilities[:, 0] == 0).all()
    assert accuracy_of(probabilities[:, 1:], test[1]) > 0.9


def test_class_names_may_stand_in_any_order():
    train, val, test = (build_images(n, 0.5, seed) for n, seed in ((100, 0), (30, 1), (20, 2)))
    sorted_names = fit_parts((train, val, test))
    reversed_names = fit_parts((train, val, test), CLASSES[::-1])
    np.testing.assert_array_equal(reversed_names[:, ::-1], sorted_names)


def test_without_validation_rows_a_penalty_is_given():
    train, test = build_images(100, 2.0, 0), build_images(20, 2.0, 2)
    nothing = (np.empty((0, 16, 16), dtype=np.uint8), [])
    assert accuracy_of(fit_parts((train, nothing, test)), test[1]) > 0.9


def test_rows_above_the_cap_are_drawn_by_the_seed():
    whole, _ = fit(strength=0.3)
    first, _ = fit(strength=0.3, seed=0, max_rows=80)
    again, _ = fit(strength=0.3, seed=0, max_rows=80)
    other, _ = fit(strength=0.3, seed=1, max_rows=80)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, whole)


def test_drawn_rows_are_distinct_and_rising():
    rows = baselines.choose_rows(100, 30, seed=0)
    assert len(rows) == 30
    assert (np.diff(rows) > 0).all()


def test_pooling_averages_blocks_and_cuts_what_is_left_evenly(monkeypatch):
    monkeypatch.setattr(pooling, "MAX_POOLED_SIZE", 2)
    image = np.arange(5 * 4, dtype=np.uint8).reshape(1, 5, 4)
    # Factor 3: one block of rows 1 to 3 and columns 0 to 2 of a 5 x 4 image.
    np.testing.assert_array_equal(pool_images(image), [[image[0, 1:4, 0:3].mean()]])


@pytest.mark.parametrize(("size", "pooled"), [(28, 28), (64, 64), (65, 32), (128, 64), (130, 43)])
def test_images_are_pooled_to_at_most_64_pixels(size, pooled):
    images = np.full((2, size, size), 7, dtype=np.uint8)
    result = pool_images(images)
    assert result.shape == (2, pooled * pooled)
    assert (result == 7).all()


def test_majority_predicts_the_fractions_of_training():
    probabilities = majority(["left", "right", "right", "right"], 2, CLASSES)
    np.testing.assert_array_equal(probabilities, [[0.25, 0.75]] * 2)


@pytest.mark.parametrize(("labels", "found"), [([], "no rows"), (["left", "middle"], "middle")])
def test_majority_refuses_labels_it_cannot_count(labels, found):
    with pytest.raises(UserError, match=found):
        majority(labels, 2, CLASSES)


def test_a_regression_needs_two_classes():
    images, labels = build_images(10, 1.0, 0)
    with pytest.raises(UserError, match="all training labels are equal"):
        fit_parts([(images, ["left"] * 10), (images, labels), (images, labels)])
    with pytest.raises(UserError, match="1 rows drawn from training all have the label"):
        fit_parts([(images, labels)] * 3, max_rows=1)


def build_index(labels) -> pandas.DataFrame:
    ids = [str(number) for number in range(len(labels))]
    return pandas.DataFrame({"example_id": ids, "source_id": ids, "group_id": ids, "label": labels, "slice_index": 0})


def test_a_baseline_is_scored_as_the_model_is():
    metrics = score_baseline(
        build_index(["left", "right", "right"]),
        majority(["left", "right", "right"], 3, CLASSES),
        CLASSES,
        Bootstrap(20),
    )
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 3)
    assert metrics["auroc"]["value"] == 0.5
    assert metrics["accuracy"]["low"] < 2 / 3 < metrics["accuracy"]["high"]


def test_probabilities_keep_the_order_of_the_index_whatever_its_row_names():
    index = build_index(["left", "right"]).iloc[::-1]
    table = build_predictions(index, np.array([[0.2, 0.8], [0.5, 0.5]]), CLASSES, split="val")
    assert table["example_id"].tolist() == ["1", "0"]
    assert table.index.tolist() == [0, 1]
    assert table["predicted"].tolist() == ["right", "left"]
    assert table["probability_right"].tolist() == [0.8, 0.5]
    assert set(table["split"]) == {"val"}
    with pytest.raises(UserError, match="1 rows of probabilities for 2 rows"):
        build_predictions(index, np.array([[0.2, 0.8]]), CLASSES)


def test_weaker_penalties_than_the_first_worse_one_are_not_tried(monkeypatch):
    """The fourth is worse than the third, so what the fifth would give does not matter."""
    losses = iter([3.0, 2.0, 1.0, 1.5, 0.1])
    monkeypatch.setattr(baselines, "validation_loss", lambda *_: next(losses))
    found, _ = fit(strength=0.3)
    assert next(losses) == 0.1
    monkeypatch.setattr(baselines, "validation_loss", lambda *_: 1.0)
    monkeypatch.setattr(baselines, "INVERSE_REGULARISATIONS", baselines.INVERSE_REGULARISATIONS[2:3])
    third, _ = fit(strength=0.3)
    # A warm start ends within the solver's tolerance of a cold one.
    np.testing.assert_allclose(found, third, atol=0.01)


@pytest.mark.slow
def test_a_test_row_costs_its_probabilities_and_not_its_pixels():
    """Of a million slices of 64 x 64 pixels the pixels alone are 16 GB. Here an image has 4 KiB of them as float32."""

    def measure_peak(num_tested: int) -> int:
        parts = [build_images(n, 0.5, seed, size=32) for n, seed in ((60, 0), (20, 1), (num_tested, 2))]
        store, rows = build_store(parts)
        tracemalloc.start()
        try:
            logistic_regression(store, rows)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    measure_peak(20)  # what is imported and cached with the first call is no row's
    few, many = 2048, 6144  # whole blocks of rows
    assert (measure_peak(many) - measure_peak(few)) / (many - few) < 256


def test_of_a_large_training_set_only_the_drawn_rows_are_read_and_a_thousand_at_once():
    parts = [build_images(n, 0.5, seed) for n, seed in ((3000, 0), (60, 1), (100, 2))]
    store, rows = build_store(parts)
    reads = RowReads(store.examples)
    probabilities = logistic_regression(dataclasses.replace(store, examples=reads), rows, max_rows=1500)
    np.testing.assert_array_equal(probabilities, logistic_regression(store, rows, max_rows=1500))
    # Those of validation are read for each penalty.
    assert (sum(reads.counts) - 1500 - 100) / 60 in range(1, len(baselines.INVERSE_REGULARISATIONS) + 1)
    assert max(reads.counts) <= pooling.ROWS_AT_ONCE
