"""A volume that no training volume resembles is noticed; one like them is not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch

from pipeline.core.errors import UserError
from pipeline.core.serialization import build_record
from pipeline.data.batches import place_examples, read_batches
from pipeline.data.statistics import (
    IntensityReference,
    compute_reference,
    compute_statistics,
    describe_distance,
    measure,
)
from pipeline.training.checkpoint import HEADER_KEY, Checkpoint, read_checkpoint, write_checkpoint
from tests.builders.bright_halves import make_images, place
from tests.builders.checkpoints import make_checkpoint
from tests.builders.row_reads import RowReads

REFERENCE = IntensityReference(20, (0.1, 0.2, 0.25, 0.3, 0.4), (0.1, 0.1, 0.2, 0.3, 0.3))


def test_mean_and_std_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 9)).astype(np.uint8)
    assert measure(images) == pytest.approx(((images / 255).mean(), (images / 255).std()))


def test_quantiles_are_over_volumes_however_many_slices_each_has():
    volumes = [np.full((1 + level % 3, 2, 2), level, np.uint8) for level in range(0, 255, 51)]
    reference = compute_reference(iter(volumes))
    assert reference.num_volumes == 5
    assert reference.mean == pytest.approx((0, 0.04, 0.4, 0.76, 0.8))
    assert reference.std == pytest.approx((0,) * 5)


@pytest.mark.parametrize(("level", "is_far"), [(26, False), (101, False), (24, True), (103, True)])
def test_far_is_beyond_the_quantiles_by_more_than_their_distance(level, is_far):
    """Allowed is 0.2 - 0.1 to 0.3 + 0.1; two pixels as far above the level as below it have it as their mean."""
    images = np.array([[[level - 20, level + 20]]], np.uint8)
    reference = IntensityReference(20, REFERENCE.mean, (0.0, 0.0, 0.2, 0.5, 0.5))
    assert ("intensities far from training's: mean" in describe_distance(images, reference)) == is_far


def test_contrast_is_compared_too():
    flat = np.full((1, 2, 2), 64, np.uint8)
    reference = IntensityReference(20, REFERENCE.mean, (0.2, 0.2, 0.25, 0.25, 0.25))
    assert "standard deviation 0.000, there 0.200 to 0.250" in describe_distance(flat, reference)


def test_without_enough_training_volumes_nothing_is_said():
    black = np.zeros((1, 2, 2), np.uint8)
    few = IntensityReference(7, REFERENCE.mean, REFERENCE.std)
    assert describe_distance(black, few) == describe_distance(black, None) == ""
    assert describe_distance(black, REFERENCE) != ""


def test_a_checkpoint_keeps_the_reference_and_an_old_one_has_none(tmp_path):
    write_checkpoint(tmp_path / "new.safetensors", make_checkpoint(intensities=REFERENCE))
    assert read_checkpoint(tmp_path / "new.safetensors").intensities == REFERENCE
    with safetensors.safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        facts = json.loads(json.loads(file.metadata()[HEADER_KEY])["facts"])
    del facts["intensities"]  # as a version without it wrote them
    assert build_record(Checkpoint, facts | {"weights": {}}).intensities is None


def test_black_slices_that_fill_up_a_scan_count_neither_in_mean_nor_in_std():
    images = np.random.default_rng(0).integers(1, 256, (2, 3, 4, 4)).astype(np.uint8)
    images[1, 1:] = 0
    places = np.zeros((2, 3, 3), np.float32)
    places[1, 1:] = np.nan
    examples = place_examples(images, np.arange(2), np.zeros(2), places, torch.device("cpu"))
    there = np.concatenate([images[0], images[1, :1]]) / 255
    mean, std = compute_statistics(examples)
    assert mean == pytest.approx((there.mean(),))
    assert std == pytest.approx((there.std(),))


def test_of_whole_scans_no_more_slices_are_read_at_once_than_of_slices():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 4)).astype(np.uint8)
    examples = place_examples(images, np.arange(7), np.zeros(7), np.zeros((7, 5, 3)), torch.device("cpu"))
    counted = replace(examples, images=RowReads(images))
    assert compute_statistics(counted, chunk=10) == compute_statistics(examples)
    assert counted.images.counts == [2, 2, 2, 1]
    assert compute_statistics(counted, chunk=3) == compute_statistics(examples), "a scan at least"


def test_a_batch_has_as_many_slices_as_its_largest_scan():
    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 4, 1, 1)
    places = np.full((3, 4, 3), np.nan, np.float32)
    for row, count in enumerate((2, 4, 1)):
        places[row, :count] = 0
    examples = place_examples(images, np.arange(3), np.zeros(3), places, torch.device("cpu"))
    batches = list(read_batches(examples, [torch.tensor([0, 2]), torch.tensor([1])]))
    assert batches[0].images.flatten(1).tolist() == [[0, 1], [8, 9]]
    assert [batch.slice_position.shape for batch in batches] == [(2, 2, 3), (1, 4, 3)]


def test_statistics_are_those_of_the_split_alone_and_of_each_channel():
    images, labels = make_images(channels=2)
    rows = np.arange(5, 20)
    mean, std = compute_statistics(place(rows, images, labels), chunk=4)
    chosen = images[rows] / 255
    np.testing.assert_allclose(mean, chosen.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std(axis=(0, 2, 3)), rtol=1e-9)
    changed = images.copy()
    changed[20:] = 0
    assert compute_statistics(place(rows, changed, labels)) == (mean, std)


def test_images_without_contrast_are_refused():
    with pytest.raises(UserError, match="the same value in every pixel"):
        compute_statistics(place(np.arange(4), np.full((4, 6, 8), 9, np.uint8), np.zeros(4, int)))
