"""Which examples an epoch and its steps have, and in which order."""

import numpy as np
import pytest
import torch

from pipeline.data.batches import split_order
from pipeline.training.loop.epochs import draw_order, plan_batches
from pipeline.training.loop.state import derive_seed
from pipeline.training.setup import compute_sampling_weights


def test_balanced_epochs_have_classes_and_their_patients_equally_often():
    """Two labels, the rare one of 2 patients with 3 and 30 of 1,000 slices; the others of 5 patients."""
    generator = np.random.default_rng(0)
    patients = torch.from_numpy(np.concatenate([np.repeat([5, 6], [3, 30]), generator.integers(0, 5, 967)]))
    labels = (patients >= 5).long()
    weights = compute_sampling_weights(labels, patients, "class_and_patient")
    draws = torch.Generator().manual_seed(0)
    epochs = [draw_order(1000, weights, draws) for _ in range(20)]
    for order in epochs:
        assert len(order) == 1000
        for patient, expected in [(5, 250), (6, 250), *((patient, 100) for patient in range(5))]:
            # Each of a patient's slices comes as often as its weight says, rounded up or down.
            assert (patients[order] == patient).sum().item() == pytest.approx(expected, abs=35)
        counts = torch.bincount(order, minlength=1000)
        wanted = weights / weights.sum() * 1000
        assert ((counts - wanted).abs() < 1).all()
    seen = torch.bincount(torch.cat(epochs), minlength=1000)
    torch.testing.assert_close(seen / 20, wanted.float(), atol=0.5, rtol=0)  # no slice is always left out
    assert (seen > 0).all()


def test_equal_weights_draw_each_example_once_and_no_weights_the_order_of_before():
    order = draw_order(50, torch.full((50,), 0.3), torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(50))
    plain = draw_order(50, None, torch.Generator().manual_seed(1))
    assert torch.equal(plain, torch.randperm(50, generator=torch.Generator().manual_seed(1)))


def test_steps_of_several_batches_have_the_examples_of_large_batches():
    planned = plan_batches(torch.arange(10), 2, 3)
    assert [batch.indices.tolist() for batch in planned] == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]]
    assert [(batch.step, batch.step_size, batch.ends_step) for batch in planned] == [
        *((0, 5, ends) for ends in (False, False, True)),
        *((1, 5, ends) for ends in (False, False, True)),
    ]
    for number in (1, 7, 29, 30):
        order = torch.arange(number)
        planned = plan_batches(order, 4, 2)
        steps = [torch.cat([b.indices for b in planned if b.step == step]) for step in range(planned[-1].step + 1)]
        assert [step.tolist() for step in steps] == [part.tolist() for part in split_order(order, 8)]
        assert max(len(batch.indices) for batch in planned) <= 4


def test_seeds_differ_by_purpose_epoch_and_rank():
    seeds = {
        derive_seed(seed, purpose, epoch, rank)
        for seed in (0, 1)
        for purpose in ("order", "dropout")
        for epoch in (0, 1)
        for rank in (0, 1)
    }
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
