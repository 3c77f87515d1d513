"""The examples of a split are put where training reads them, within the memory that there is."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import batches
from pipeline.data.batches import compute_room, place_examples, read_batches, read_free_memory, split_order
from tests.builders.bright_halves import make_images, place

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


def test_every_example_is_seen_once_in_batches_of_even_size():
    batches = split_order(torch.randperm(65), 32)
    assert sorted(len(batch) for batch in batches) == [21, 22, 22]
    assert sorted(torch.cat(batches).tolist()) == list(range(65))


def test_batches_hold_the_right_images_in_both_places():
    images, labels = make_images(channels=3)
    rows = np.array([7, 3, 30, 11, 2])
    for room_bytes in (0, None):
        places = [torch.tensor([4, 0]), torch.tensor([2, 1, 3])]
        found = list(read_batches(place(rows, images, labels, room_bytes), places))
        assert [len(batch.labels) for batch in found] == [2, 3]
        for batch, chosen in zip(found, places, strict=True):
            np.testing.assert_array_equal(batch.images.numpy(), images[rows[chosen.numpy()]])
            np.testing.assert_array_equal(batch.labels.numpy(), labels[rows[chosen.numpy()]])


@pytest.mark.parametrize("shape", [(300, 2, 5, 7), (40, 64, 64), (3, 130, 130)])
def test_images_of_a_mapped_file_are_those_of_memory_at_every_place_of_a_page(shape, tmp_path):
    """Rows start and end anywhere in a page; the file's last page is not full."""
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "examples.npy", images)
    mapped = np.load(tmp_path / "examples.npy", mmap_mode="r")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    labels = np.zeros(len(images), np.int64)
    found = read_batches(place(np.arange(len(images)), mapped, labels, 0), split_order(order, 8))
    found_images = torch.cat([batch.images for batch in found]).numpy()
    np.testing.assert_array_equal(found_images.reshape(shape), images[order.numpy()])


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="counts what Linux reads from the disk")
def test_a_batch_does_not_read_its_neighbourhood_from_the_disk(tmp_path):
    """Of 64 MiB sixteen images of 4 KiB are needed: with read-ahead, megabytes came along with each."""
    path = tmp_path / "examples.npy"
    np.save(path, np.zeros((16_384, 64, 64), np.uint8))
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = np.load(path, mmap_mode="r")
    examples = place(np.arange(16_384), mapped, np.zeros(16_384, np.int64), 0)

    def count_read() -> int:
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(lines["read_bytes"])

    before = count_read()
    list(read_batches(examples, [torch.arange(500, 16_384, 1_000)]))
    # Nothing at all is read where the folder lies in memory.
    assert count_read() - before <= 4 * 16 * 4096
