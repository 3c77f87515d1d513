"""The examples of a split are put where training reads them, within the memory that there is."""

import tracemalloc

import numpy as np
import pytest
import torch

from pipeline.data import batches
from pipeline.data.batches import compute_room, place_examples, read_free_memory

CPU = torch.device("cpu")


def test_processes_of_one_machine_split_the_room_for_images(monkeypatch):
    # What is free changes a little from one look to the next.
    assert compute_room(CPU, 4) == pytest.approx(compute_room(CPU, 1) / 4, rel=0.2)
    monkeypatch.setattr(batches, "FRACTION_OF_FREE_MEMORY", 2**20 / read_free_memory(CPU))
    images, rows, labels = np.zeros((2, 1, 2**18), np.uint8), np.arange(2), np.zeros(2)
    assert place_examples(images, rows, labels, labels, CPU, compute_room(CPU, 1)).placed is not None
    assert place_examples(images, rows, labels, labels, CPU, compute_room(CPU, 4)).placed is None


@pytest.mark.parametrize("shape", [(1024, 64), (2, 512, 64)], ids=["grey", "channels"])
def test_examples_go_to_the_device_without_a_copy_of_all_next_to_it(shape, monkeypatch):
    piece = 2**18
    monkeypatch.setattr(batches, "STAGING_BYTES", piece)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (64, *shape), np.uint8)
    rows = generator.permutation(64)[:50]
    tracemalloc.start()  # sees what numpy takes, not the tensor on the device
    placed = place_examples(images, rows, rows, rows, CPU, images.nbytes).placed
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(placed.reshape(50, *shape).numpy(), images[rows])
    assert placed.ndim == 4
    assert peak < 2 * piece < images.nbytes / 4
