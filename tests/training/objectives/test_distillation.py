import math

import pytest
import torch

from pipeline.training.objectives.distillation import compute_distillation_loss_sum, compute_guidance_loss_sum


def test_the_distance_of_probabilities_is_t_squared_times_their_kullback_leibler_divergence():
    teacher = torch.tensor([[0.75, 0.25]]).log()
    even = torch.tensor([[0.5, 0.5]]).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert compute_distillation_loss_sum(even, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)
    # Softened with T = 2, 9/10 and 1/10 become 3/4 and 1/4.
    sharp = torch.tensor([[0.9, 0.1]]).log()
    assert compute_distillation_loss_sum(even, sharp, 2.0).item() == pytest.approx(4 * expected, abs=1e-5)


def test_the_distance_is_a_sum_over_examples_and_none_where_the_teacher_is_matched():
    teacher = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
    student = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).log_softmax(dim=-1)
    assert compute_distillation_loss_sum(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-5)
    each = [compute_distillation_loss_sum(student[k : k + 1], teacher[k : k + 1], 3.0) for k in range(5)]
    torch.testing.assert_close(compute_distillation_loss_sum(student, teacher, 3.0), sum(each))


def test_an_example_counts_by_its_weight():
    draws = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(4, 3, generator=draws).log_softmax(dim=-1) for _ in range(2))
    decoded, features = torch.randn(4, 20, 3, generator=draws), torch.randn(4, 3, 4, 5, generator=draws)
    weights = torch.tensor([0.0, 1.0, 0.5, 3.0])
    for loss, one, other in (
        (lambda *rows: compute_distillation_loss_sum(*rows[:2], 3.0, *rows[2:]), student, teacher),
        (compute_guidance_loss_sum, decoded, features),
    ):
        each = torch.stack([loss(one[row : row + 1], other[row : row + 1]) for row in range(4)])
        torch.testing.assert_close(loss(one, other, weights), (each * weights).sum())
        torch.testing.assert_close(loss(one, other, torch.ones(4)), loss(one, other))


def test_a_class_that_a_teacher_excludes_is_no_number_of_infinity():
    teacher = torch.tensor([[0.0, -math.inf]])
    loss = compute_distillation_loss_sum(torch.tensor([[0.5, 0.5]]).log(), teacher, 3.0)
    assert loss.item() == pytest.approx(9 * math.log(2), abs=1e-5)


def test_features_count_by_place_and_not_by_their_size():
    # One example, three channels, one row of two places: 1, 2, 3 and 10, 20, 30.
    features = torch.tensor([[[[1.0, 10.0]], [[2.0, 20.0]], [[3.0, 30.0]]]])
    unit = math.sqrt(1.5)  # of -1, 0, 1 after division by their standard deviation
    right = torch.tensor([[[-unit, 0.0, unit], [-unit, 0.0, unit]]])
    assert compute_guidance_loss_sum(right, features).item() == pytest.approx(0, abs=1e-4)
    assert compute_guidance_loss_sum(torch.zeros(1, 2, 3), features).item() == pytest.approx(1, abs=1e-4)


def test_places_are_compared_row_by_row():
    features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack(
        [
            torch.stack(
                [torch.nn.functional.layer_norm(image[:, row, column], (3,)) for row in range(4) for column in range(5)]
            )
            for image in features
        ]
    )
    assert compute_guidance_loss_sum(wanted, features).item() == pytest.approx(0, abs=1e-8)
