"""Losses by hand, and probabilities that follow from what a loss makes of the outputs."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from pipeline.config.training import TrainConfig
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.classifier import compute_log_probabilities, project_to_simplex
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint, write_checkpoint
from pipeline.training.losses import balance_classes, compute_answer_loss_sum, compute_loss_sum, count_correct
from tests.builders.checkpoints import draw_images, make_checkpoint
from tests.builders.models import wrap_network

MSE = TrainConfig(loss="mse")
CORN = TrainConfig(loss="corn")
OUTPUTS = torch.tensor([[0.5, 0.2, -0.1], [0.0, 1.0, 0.0]])
LABELS = torch.tensor([1, 1])


def random_outputs(num_examples=200, num_classes=5, scale=1.0):
    return torch.randn(num_examples, num_classes, generator=torch.Generator().manual_seed(0)) * scale


def test_the_squared_error_is_the_mean_over_classes_and_the_sum_over_examples():
    """(0.5^2 + 0.8^2 + 0.1^2) / 3 for the first, nothing for the second, which is perfect."""
    assert compute_loss_sum(OUTPUTS, LABELS, MSE).item() == pytest.approx(0.9 / 3)


def test_label_smoothing_moves_the_targets_of_the_squared_error():
    """Targets 0.1, 0.8, 0.1: 0.16 + 0.36 + 0.04 of the first, 0.01 + 0.04 + 0.01 of the second."""
    config = dataclasses.replace(MSE, label_smoothing=0.3)
    assert compute_loss_sum(OUTPUTS, LABELS, config).item() == pytest.approx(0.62 / 3)


def test_cross_entropy_of_soft_and_smoothed_targets_by_hand():
    """Outputs 0 and log 3 are probabilities 1/4 and 3/4; targets 1/4 and 3/4 are smoothed to 0.3 and 0.7."""
    outputs, targets = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.25, 0.75]])
    loss = compute_loss_sum(outputs, targets, TrainConfig(label_smoothing=0.2)).item()
    assert loss == pytest.approx(-0.3 * math.log(0.25) - 0.7 * math.log(0.75))


def test_the_squared_error_of_soft_targets_by_hand():
    """Outputs 0.5 and 0 against 0.25 and 0.75."""
    loss = compute_loss_sum(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.25, 0.75]]), MSE).item()
    assert loss == pytest.approx((0.25**2 + 0.75**2) / 2)


# Output 0 is not read; grade 1 is reached with 3/4, and then grade 2 with 1/2.
GRADE_OUTPUTS = torch.tensor([[9.0, math.log(3), 0.0]])


def test_grades_have_the_probabilities_of_reaching_them_and_not_the_next_by_hand():
    found = compute_log_probabilities(GRADE_OUTPUTS, "corn").exp()
    torch.testing.assert_close(found, torch.tensor([[1 / 4, 3 / 8, 3 / 8]]))


def test_the_loss_of_grades_is_the_cross_entropy_of_the_steps_that_a_label_answers_by_hand():
    """Grade 0 answers the first step alone, with no; grade 1 both, with yes and no; grade 2 both, with yes."""
    losses = [compute_loss_sum(GRADE_OUTPUTS, torch.tensor([label]), CORN).item() for label in range(3)]
    yes, no, half = -math.log(3 / 4), -math.log(1 / 4), math.log(2)
    assert losses == pytest.approx([no, yes + half, yes + half])


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_probabilities_of_grades_add_up_to_one_and_a_higher_grade_is_never_reached_more_often(scale):
    scores = compute_log_probabilities(random_outputs(scale=scale).double(), "corn")
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.exp().sum(dim=-1), torch.ones(200, dtype=torch.float64))
    reached = scores.exp().flip(-1).cumsum(dim=-1).flip(-1)
    assert (reached.diff(dim=-1) <= 0).all()


def test_the_right_grade_is_the_most_probable_one_and_not_the_largest_output():
    assert count_correct(torch.tensor([[9.0, 2.0, 1.0]]), torch.tensor([2]), "corn").item() == 1
    assert count_correct(torch.tensor([[9.0, -2.0, 3.0]]), torch.tensor([0]), "corn").item() == 1


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "corn"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_hot_targets_are_as_good_as_labels(loss, label_smoothing):
    config = TrainConfig(loss=loss, label_smoothing=label_smoothing)
    one_hot = functional.one_hot(LABELS, 3).float()
    torch.testing.assert_close(compute_loss_sum(OUTPUTS, LABELS, config), compute_loss_sum(OUTPUTS, one_hot, config))


def test_the_best_outputs_under_a_squared_error_are_the_smoothed_targets():
    config = dataclasses.replace(MSE, label_smoothing=0.3)
    outputs = torch.tensor([[0.1, 0.8, 0.1]], requires_grad=True)
    compute_loss_sum(outputs, LABELS[:1], config).backward()
    assert outputs.grad.abs().max() < 1e-7  # 0.8 and 1 * 0.7 + 0.1 differ in the last bit


def test_the_nearest_probabilities_by_hand():
    """From 1.2 and 0.4 the same 0.3 is taken, and -0.3 becomes 0."""
    outputs = torch.tensor([[1.2, 0.4, -0.3], [0.2, 0.3, 0.5], [-9.0, -9.0, -9.5], [7.0, 1.0, 2.0]])
    expected = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(project_to_simplex(outputs), expected, atol=1e-6, rtol=0)  # differences near 9


def test_outputs_that_are_not_numbers_stay_so_and_spoil_no_others():
    found = project_to_simplex(torch.tensor([[math.nan, 1.0], [1.0, 0.0]]))
    assert found[0].isnan().any()
    assert found[1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_no_other_probabilities_are_nearer_to_the_outputs(scale):
    outputs = random_outputs(scale=scale)
    found = project_to_simplex(outputs)
    assert found.min() >= 0
    # Sums of five numbers, taken from outputs of up to 100.
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(len(found)), atol=2e-5, rtol=0)
    generator = torch.Generator().manual_seed(1)
    distance = (outputs - found).norm(dim=-1)
    for step in (1.0, 0.1, 0.01):
        other = torch.rand(found.shape, generator=generator)
        other = found + step * (other / other.sum(dim=-1, keepdim=True) - found)
        assert ((outputs - other).norm(dim=-1) >= distance - 1e-4).all()
    assert torch.equal(found.argmax(dim=-1), outputs.argmax(dim=-1))


def test_probabilities_are_never_further_from_the_label_than_the_outputs_were():
    outputs = random_outputs()
    for label in range(5):
        labels = torch.full((200,), label)
        scores = compute_log_probabilities(outputs, "mse")
        for row in range(200):
            answer = compute_answer_loss_sum(scores[row : row + 1], labels[:1], "mse")
            assert answer <= compute_loss_sum(outputs[row : row + 1], labels[:1], MSE) + 1e-6


def test_the_loss_of_an_answer_by_hand():
    """Probabilities 0.9, 0.1, 0 for the second class: -log 0.1, or (0.81 + 0.81 + 0) / 3."""
    scores = torch.tensor([[0.9, 0.1, 0.0]]).log()
    assert compute_answer_loss_sum(scores, LABELS[:1], "cross_entropy").item() == pytest.approx(-math.log(0.1))
    assert compute_answer_loss_sum(scores, LABELS[:1], "mse").item() == pytest.approx(1.62 / 3)


def test_right_answers_are_counted_by_the_larger_fraction():
    targets = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.3, 0.7]])
    assert count_correct(OUTPUTS, targets).item() == 1
    assert count_correct(OUTPUTS, LABELS).item() == 1
    assert count_correct(OUTPUTS, torch.tensor([0, 1])).item() == 2


def test_a_classifier_answers_as_its_loss_means_its_outputs():
    checkpoint = make_checkpoint()
    model = build_from_checkpoint(checkpoint).model
    with torch.no_grad():
        model.network.perceiver.head.bias.copy_(torch.tensor([1.4, -0.2]))  # outputs outside [0, 1]
    stored, places = draw_images()
    stored, places = torch.from_numpy(stored)[:, None], torch.from_numpy(places).float()
    for mirror_tta in (False, True):
        classifier = wrap_network(model, checkpoint.mean, checkpoint.std, mirror_tta=mirror_tta, loss="mse").eval()
        normal = classifier.normalise(stored.float() / 255)
        expected = project_to_simplex(model(normal, places))
        if mirror_tta:
            expected = (expected + project_to_simplex(model(normal.flip(-1), places)).flip(-1)) / 2
        # A probability's logarithm and back: the last digits.
        torch.testing.assert_close(classifier(stored, places).exp(), expected, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_remembers_what_its_outputs_mean(tmp_path):
    stored, places = draw_images()
    answers = {}
    for loss in ("cross_entropy", "mse", "corn"):
        checkpoint = make_checkpoint(settings={"train.loss": loss})
        write_checkpoint(tmp_path / "a.safetensors", checkpoint)
        classifier = build_from_checkpoint(read_checkpoint(tmp_path / "a.safetensors"))
        answers[loss] = compute_probabilities(classifier, stored, places, torch.device("cpu"), batch_size=2)
        outputs = classifier.model(
            classifier.normalise(torch.from_numpy(stored)[:, None].float() / 255), torch.from_numpy(places).float()
        )
        expected = compute_log_probabilities(outputs, loss).exp()
        torch.testing.assert_close(torch.from_numpy(answers[loss]), expected, atol=1e-6, rtol=1e-5)
    for loss in ("mse", "corn"):
        assert abs(answers[loss] - answers["cross_entropy"]).max() > 1e-3


def test_balanced_weights_give_each_class_the_same_sum_and_the_examples_the_mean_one():
    labels = torch.tensor([0, 0, 1, 0, 0, 0, 1, 0])
    weights = balance_classes(labels, 2)
    assert weights.tolist() == pytest.approx([2 / 3, 2])
    assert weights[labels].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "corn"])
def test_an_example_counts_by_the_weight_of_its_class_and_a_mixed_one_by_the_mean(loss):
    config = TrainConfig(loss=loss, label_smoothing=0.2)
    outputs, weights = random_outputs(4, 3), torch.tensor([0.5, 2.0, 4.0])
    labels = torch.tensor([0, 2, 1, 0])
    each = [compute_loss_sum(outputs[row : row + 1], labels[row : row + 1], config) for row in range(4)]
    expected = 0.5 * each[0] + 4 * each[1] + 2 * each[2] + 0.5 * each[3]
    torch.testing.assert_close(compute_loss_sum(outputs, labels, config, weights), expected)
    mixed = torch.tensor([[0.25, 0.75, 0.0]])
    plain = compute_loss_sum(outputs[:1], mixed, config)
    torch.testing.assert_close(compute_loss_sum(outputs[:1], mixed, config, weights), plain * (0.125 + 1.5))
    torch.testing.assert_close(compute_loss_sum(outputs, labels, config, torch.ones(3)), sum(each))
