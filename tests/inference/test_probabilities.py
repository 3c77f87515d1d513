import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config.model import ModelConfig
from pipeline.core.data_kinds import IMAGES, POINTS, VOLUMES
from pipeline.evaluation.validity.shortcut_probes import check_mirrored
from pipeline.inference.probabilities import RowBuffer, compute_probabilities, score_with_mirrored
from pipeline.models.classifier import Classifier
from pipeline.models.networks import SliceModel
from pipeline.training.augmentation.images import shows_laterality
from tests.builders.models import build_spec, wrap_network
from tests.builders.predictions import build_table
from tests.builders.row_reads import RowReads

NAMES = ("left", "right")
DEVICE = torch.device("cpu")


class Halves(nn.Module):
    """Logits from the sums of an image's left and right half, without any weight.

    Args:
        kind: antisymmetric: which half is brighter. symmetric: whether the whole is brighter than on average.
            mixed: whether the left half is, whatever the other.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left, right = images.chunk(2, dim=-1)
        left, right = left.mean(dim=(1, 2, 3)), right.mean(dim=(1, 2, 3))
        score = {"antisymmetric": left - right, "symmetric": left + right, "mixed": left}[self.kind]
        return torch.stack([score, -score], dim=-1)


def build_classifier(kind: str, mirror_tta: bool = False) -> Classifier:
    return wrap_network(SliceModel(Halves(kind), False), mirror_tta=mirror_tta)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 6, 8), dtype=np.uint8)


def check(classifier: Classifier, images: np.ndarray, batch_size: int = 7):
    answers, scores = score_with_mirrored(classifier, images, np.zeros(len(images)), DEVICE, batch_size)
    labels = np.asarray(NAMES)[scores.straight.argmax(axis=1)]
    table = build_table(answers.astype(np.float64), labels, NAMES)
    return scores, check_mirrored(scores, table, NAMES)


@pytest.mark.parametrize(("kind", "fraction"), [("antisymmetric", 1.0), ("symmetric", 0.0)])
def test_the_fraction_that_flips_is_1_of_an_antisymmetric_and_0_of_a_symmetric_network(kind, fraction, images):
    _, result = check(build_classifier(kind), images)
    assert result["flipped"]["value"] == fraction
    assert result["flipped"]["method"] == "exact over groups"
    assert result["flipped_without_averaging"] == result["flipped"]
    assert not result["is_by_construction"]


def test_the_fraction_that_flips_is_counted(images):
    """A network that looks at one half flips where the two halves are on different sides of its threshold."""
    _, result = check(build_classifier("mixed"), images)
    left, right = images[..., :4].mean(axis=(1, 2)) / 255, images[..., 4:].mean(axis=(1, 2)) / 255
    expected = ((left > 0.5) != (right > 0.5)).mean()
    assert 0.2 < expected < 0.8
    assert result["flipped"]["value"] == pytest.approx(expected)


def test_averaging_flips_by_construction_and_the_network_itself_is_reported(images):
    _, result = check(build_classifier("symmetric", mirror_tta=True), images)
    assert result["is_by_construction"]
    assert result["flipped"]["value"] == 1.0
    assert result["flipped_without_averaging"]["value"] == 0.0


def test_averaged_answers_do_flip_when_the_images_are_mirrored(images):
    classifier = build_classifier("mixed", mirror_tta=True)
    straight = compute_probabilities(classifier, images, np.zeros(50), DEVICE, 16)
    mirrored = compute_probabilities(classifier, images[..., ::-1], np.zeros(50), DEVICE, 16)
    np.testing.assert_allclose(mirrored, straight[:, ::-1], atol=1e-6)


def test_averaging_keeps_the_labels_of_other_classes(images):
    """The mean of the two probabilities, and the same one for the mirror images."""
    spec = dataclasses.replace(build_spec(), class_names=("healthy", "ill"))
    config = ModelConfig(mirror_tta=True)
    classifier = Classifier(SliceModel(Halves("mixed"), False), config, spec, (0.5,), (0.25,))
    answers, scores = score_with_mirrored(classifier, images, np.zeros(50), DEVICE, 16)
    np.testing.assert_allclose(answers, (scores.straight + scores.mirrored) / 2, atol=1e-6)
    mirrored = compute_probabilities(classifier, images[..., ::-1], np.zeros(50), DEVICE, 16)
    np.testing.assert_allclose(mirrored, answers, atol=1e-6)


@pytest.mark.parametrize("mirror_tta", [False, True])
def test_the_answers_are_those_of_the_classifier_bit_for_bit(mirror_tta, images):
    classifier = build_classifier("mixed", mirror_tta)
    answers, _ = score_with_mirrored(classifier, images, np.zeros(50), DEVICE, 7)
    expected = compute_probabilities(classifier, images, np.zeros(50), DEVICE, 7)
    np.testing.assert_array_equal(answers, expected)


def test_mirrored_scores_are_those_of_mirrored_images(images):
    classifier = build_classifier("mixed")
    scores, _ = check(classifier, images)
    again, _ = check(classifier, images[..., ::-1])
    np.testing.assert_allclose(scores.mirrored, again.straight, atol=1e-6)


def test_accuracy_without_averaging_is_that_of_the_network(images):
    classifier = build_classifier("mixed", mirror_tta=True)
    answers, scores = score_with_mirrored(classifier, images, np.zeros(50), DEVICE, 50)
    labels = np.array(NAMES)[np.arange(50) % 2]
    result = check_mirrored(scores, build_table(answers.astype(np.float64), labels, NAMES), NAMES)
    is_left = images[..., :4].mean(axis=(1, 2)) / 255 > 0.5
    assert result["accuracy_without_averaging"]["value"] == ((labels == "left") == is_left).mean()


@pytest.mark.parametrize(
    ("kind", "names", "plane", "expected"),
    [
        (VOLUMES, NAMES, "axial", True),
        (VOLUMES, NAMES, "coronal", True),
        (VOLUMES, NAMES, "sagittal", False),
        (VOLUMES, ("healthy", "torn"), "axial", False),
        (IMAGES, NAMES, "axial", False),
        (POINTS, NAMES, "axial", False),
    ],
)
def test_a_mirror_turns_sides_where_labels_are_sides_and_columns_run_across_the_body(kind, names, plane, expected):
    assert shows_laterality(kind, names, plane) is expected


@pytest.mark.parametrize("score", [compute_probabilities, score_with_mirrored])
def test_of_a_split_a_batch_at_a_time_is_read_and_no_row_of_another(score, images):
    """A split may be larger than memory: what is scored is read from the store batch by batch."""
    rows, places = np.arange(3, 48, 2), np.zeros(len(images))
    classifier, reads = build_classifier("mixed", mirror_tta=True), RowReads(images)
    found = score(classifier, reads, places, DEVICE, 7, rows)
    expected = score(classifier, images[rows], places[rows], DEVICE, 7)
    assert reads.counts == [7, 7, 7, 2]
    if score is score_with_mirrored:
        found, expected = found[0], expected[0]
    np.testing.assert_array_equal(found, expected)


def test_rows_that_arrive_in_batches_are_written_where_they_stay():
    expected = torch.arange(35.0).reshape(7, 5)
    buffer = RowBuffer(7)
    places = []
    for part in expected.split(3):
        buffer.add(part)
        places.append(buffer.values.data_ptr())
    np.testing.assert_array_equal(buffer.read(), expected.numpy())
    assert len(set(places)) == 1
    assert buffer.read().ctypes.data == places[0]


def test_rows_that_never_came_are_not_read():
    buffer = RowBuffer(7)
    buffer.add(torch.zeros(6, 2))
    with pytest.raises(AssertionError):
        buffer.read()
