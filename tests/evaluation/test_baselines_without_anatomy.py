import numpy as np
import pytest

from pipeline.evaluation.baselines import border_only, index_only, take_border
from tests.builders.stores import NAMES, ROWS, build_store


def accuracy_of(probabilities, store) -> float:
    predicted = np.asarray(NAMES)[probabilities.argmax(axis=1)]
    return float((predicted == store.index["label"].to_numpy()[ROWS["test"]]).mean())


@pytest.mark.parametrize(
    ("shape", "frame"),
    [((32, 48), (2, 3)), ((28, 28), (1, 1)), ((3, 32, 32), (2, 2)), ((8, 8), (1, 1))],
)
def test_the_border_is_a_frame_of_a_sixteenth_and_at_least_a_pixel(shape, frame):
    image = np.zeros((1, *shape), dtype=np.uint8)
    image[..., frame[0] : -frame[0], frame[1] : -frame[1]] = 255
    border = take_border(image, np.array([0]))
    height, width = shape[-2:]
    num_channels = 1 if len(shape) == 2 else shape[0]
    inside = (height - 2 * frame[0]) * (width - 2 * frame[1])
    assert border.shape == (1, num_channels * (height * width - inside))
    assert (border == 0).all(), "nothing of the inside is seen"


@pytest.mark.parametrize("shape", [(32, 32), (130, 200)])
def test_what_is_inside_changes_no_answer_of_the_border_model(shape):
    store = build_store(np.random.default_rng(1).integers(0, 256, (400, *shape), dtype=np.uint8))
    first = border_only(store, ROWS, 0, 10_000)
    depth = 1 + max(shape) // 10  # more than the frame with its blocks
    changed = store.examples.copy()
    changed[:, depth:-depth, depth:-depth] = 255 - changed[:, depth:-depth, depth:-depth]
    again = border_only(build_store(changed), ROWS, 0, 10_000)
    np.testing.assert_array_equal(first, again)


def test_the_border_model_reads_a_mark_in_a_corner_and_nothing_from_noise():
    store = build_store()
    assert 0.35 < accuracy_of(border_only(store, ROWS, 0, 10_000), store) < 0.65
    marked = store.examples.copy()
    marked[:, :2, :2] = np.where(store.index["label"] == "left", 200, 50)[:, None, None]
    assert accuracy_of(border_only(build_store(marked), ROWS, 0, 10_000), store) > 0.9


def test_the_index_model_finds_a_planted_leak_that_no_linear_model_finds():
    slice_index = np.random.default_rng(3).integers(0, 10, 400)
    store = build_store(labels=np.where(slice_index % 2 == 0, "left", "right"), slice_index=slice_index)
    assert accuracy_of(index_only(store, ROWS, 0), store) == 1.0


def test_the_index_model_sees_no_images_and_learns_from_training_alone():
    store = build_store()
    first = index_only(store, ROWS, 0)
    assert 0.35 < accuracy_of(first, store) < 0.65
    changed = build_store(images=np.zeros_like(store.examples))
    np.testing.assert_array_equal(index_only(changed, ROWS, 0), first)
    labels = store.index["label"].to_numpy().copy()
    labels[ROWS["test"]] = "left"
    np.testing.assert_array_equal(index_only(build_store(labels=labels), ROWS, 0), first)


def test_training_rows_of_one_class_make_both_predict_it():
    labels = np.where(np.arange(400) < 200, "left", "right")
    store = build_store(labels=labels)
    for probabilities in (border_only(store, ROWS, 0, 10_000), index_only(store, ROWS, 0)):
        np.testing.assert_array_equal(probabilities, np.tile([1.0, 0.0], (140, 1)))
