"""The examples of one split, served in batches on the device."""

import mmap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from einops import rearrange

# Room for weights, gradients and activations: examples may take this part of the free memory.
FRACTION_OF_FREE_MEMORY = 0.4
# Examples go to the device in pieces of this size: each process of a machine holds one piece, not a copy of the split.
STAGING_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Batch:
    """Some examples on the device.

    Args:
        images: (batch, channels, height, width) uint8, of whole scans (batch, slices, height, width), or point clouds
            (batch, points, 3) float32.
        labels: (batch,) class indices.
        slice_position: (batch,) float32 in [-1, 1], the slice's place along its axis; of whole scans
            (batch, slices, 3), as the store has their places.
        weights: (batch,) float32, the weight of each example in the loss; None for 1.
    """

    images: torch.Tensor
    labels: torch.Tensor
    slice_position: torch.Tensor
    weights: torch.Tensor | None = None


@dataclass(frozen=True)
class Examples:
    """The examples of one split.

    Args:
        images: All examples of the store, (all examples, height, width) or
            (all examples, channels, height, width) uint8, or (all examples, points, 3) float32; memory-mapped.
        rows: (examples,) int64, the rows of the store that belong to this split.
        labels: (examples,) class indices on the device.
        slice_position: (examples,) float32 on the device, of whole scans (examples, slices, 3).
        placed: The split's examples on the device, or None where they are read from ``images``
            batch by batch.
        weights: (examples,) float32 on the device; None where each weighs 1.
        num_slices: Of whole scans the slices that are no padding, (examples,); None elsewhere.
    """

    images: np.ndarray[Any, Any]
    rows: np.ndarray[Any, Any]
    labels: torch.Tensor
    slice_position: torch.Tensor
    placed: torch.Tensor | None
    weights: torch.Tensor | None = None
    num_slices: np.ndarray[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def make_batch(self, images: torch.Tensor, chosen: torch.Tensor, indices: torch.Tensor) -> Batch:
        """Join images with what else is known of their examples.

        Of whole scans the slices are dropped that are padding in the whole batch.

        Args:
            images: The images, on the device.
            chosen: The places of the examples within the split, (batch,) on the device.
            indices: The same places on the processor.
        """
        weights = None if self.weights is None else self.weights[chosen]
        slice_position = self.slice_position[chosen]
        if self.num_slices is not None:
            most = int(self.num_slices[indices.numpy()].max())
            images, slice_position = images[:, :most], slice_position[:, :most]
        return Batch(images, self.labels[chosen], slice_position, weights)


def place_examples(
    images: np.ndarray[Any, Any],
    rows: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    slice_position: np.ndarray[Any, Any],
    device: torch.device,
    room_bytes: int | None = None,
) -> Examples:
    """Put a split's examples where training reads them fastest.

    Args:
        images: All examples of the store.
        rows: (examples,) int64, the rows of this split.
        labels: (examples,) class indices.
        slice_position: (examples,) float32 in [-1, 1], of whole scans (examples, slices, 3).
        device: The device that training runs on.
        room_bytes: Examples that need more stay on disk; without it, what ``compute_room`` allows one process.

    Returns:
        Examples that lie on the device if they fit, else in the memory-mapped file.
    """
    room_bytes = compute_room(device) if room_bytes is None else room_bytes
    num_bytes = len(rows) * int(np.prod(images.shape[1:])) * images.itemsize
    placed = _copy_to_device(images, rows, device) if num_bytes <= room_bytes else None
    places = np.array(slice_position, dtype=np.float32)
    return Examples(
        images=images,
        rows=np.asarray(rows, dtype=np.int64),
        labels=torch.tensor(np.array(labels, dtype=np.int64), device=device),
        slice_position=torch.tensor(places, device=device),
        placed=placed,
        num_slices=(~np.isnan(places[..., 0])).sum(axis=1) if places.ndim == 3 else None,
    )


def _copy_to_device(images: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    empty = read_images(images, rows[:0])
    placed = torch.empty((len(rows), *empty.shape[1:]), dtype=empty.dtype, device=device)
    step = max(1, STAGING_BYTES // max(1, images[0].nbytes))
    for start in range(0, len(rows), step):
        placed[start : start + step] = read_images(images, rows[start : start + step])
    return placed


def compute_room(device: torch.device, num_sharing: int = 1) -> int:
    """Return the bytes that a split's examples may take; several processes on one device get equal parts."""
    return int(FRACTION_OF_FREE_MEMORY * read_free_memory(device)) // num_sharing


def read_free_memory(device: torch.device) -> int:
    """Return the bytes that the device has left; for the processor, within the limit of its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return int(max(0, free))


def read_images(images: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> torch.Tensor:
    """Copy examples into memory: (rows, channels, height, width) uint8, or (rows, points, 3) float32 of clouds."""
    chosen = torch.from_numpy(np.ascontiguousarray(images[rows]))
    is_grey = chosen.ndim == 3 and chosen.dtype == torch.uint8
    return rearrange(chosen, "n h w -> n 1 h w") if is_grey else chosen


def read_batches(examples: Examples, places: list[torch.Tensor]) -> Iterator[Batch]:
    """Serve batches in order.

    Examples that are not on the device are read by a thread, one batch ahead, into pinned memory and
    copied while the device computes.

    Args:
        examples: The examples of one split.
        places: For each batch, (batch,) positions within the split.

    Yields:
        The batches.
    """
    device = examples.labels.device
    # One copy for all batches: a copy from memory that is not pinned can make the processor wait for the device.
    chosen_of = torch.split(torch.cat(places).to(device), list(map(len, places))) if places else ()
    if examples.placed is not None:
        for indices, chosen in zip(places, chosen_of, strict=True):
            yield examples.make_batch(examples.placed[chosen], chosen, indices)
        return

    def read(indices: torch.Tensor) -> torch.Tensor:
        images = _fetch_images(examples.images, examples.rows[indices.numpy()])
        return images.pin_memory() if device.type == "cuda" else images

    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead: Future[torch.Tensor] | None = reader.submit(read, places[0]) if places else None
        for number, (indices, chosen) in enumerate(zip(places, chosen_of, strict=True)):
            assert ahead is not None
            images = ahead.result()
            ahead = reader.submit(read, places[number + 1]) if number + 1 < len(places) else None
            yield examples.make_batch(images.to(device, non_blocking=True), chosen, indices)


def _fetch_images(images: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> torch.Tensor:
    """Copy examples into memory; of a memory-mapped array the rows are requested at once, and none of their neighbours.

    Otherwise each row waits for the one before, and megabytes around it are read that the batch does not need.
    """
    mapped = getattr(images, "_mmap", None)
    if mapped is None or not hasattr(mmap, "MADV_WILLNEED"):
        return read_images(images, rows)
    mapped.madvise(mmap.MADV_RANDOM)
    num_bytes = images[0].nbytes
    for row in np.sort(rows).tolist():
        start = images.offset % mmap.ALLOCATIONGRANULARITY + row * num_bytes  # type: ignore[attr-defined]
        page = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, start + num_bytes - page)
    chosen = read_images(images, rows)
    mapped.madvise(mmap.MADV_NORMAL)
    return chosen


def split_order(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Divide an epoch's order into as few batches as ``batch_size`` allows, of sizes that differ by one at most.

    A remainder would make a last batch of a few examples, whose noisy gradient counts as much as any.
    """
    num_batches = -(-len(order) // batch_size)
    return list(torch.tensor_split(order, num_batches))
