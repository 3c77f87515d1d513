"""Probabilities of examples of a store, and of their mirror images: a left knee in the mirror is a right one."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from pipeline.core.array_types import Array
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import VolumeError
from pipeline.core.predictions import Mirrored
from pipeline.data.batches import read_images
from pipeline.models.classifier import Classifier, average_mirrored
from pipeline.preprocessing.slicing import Stack


class RowBuffer:
    """Rows that arrive batch by batch, written where they will stay.

    In a list each small part would lie between what two passes of a network took from memory, and hold both: 1.7 KiB
    a slice were lost so.

    Args:
        num_rows: The number of all rows.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.num_filled = 0
        self.values: torch.Tensor | None = None

    def add(self, part: torch.Tensor) -> None:
        """Add the next rows, ``(batch, ...)``; all parts are of one shape, type and device."""
        if self.values is None:
            self.values = part.new_empty((self.num_rows, *part.shape[1:]))
        self.values[self.num_filled : self.num_filled + len(part)] = part
        self.num_filled += len(part)

    def read(self) -> Array:
        """Return all rows, in host memory."""
        assert self.values is not None, "no batch was added"
        assert self.num_filled == self.num_rows, (self.num_filled, self.num_rows)
        rows: Array = self.values.cpu().numpy()
        return rows


@torch.inference_mode()
def score_with_mirrored(
    classifier: Classifier,
    images: Array,
    slice_position: Array,
    device: torch.device,
    batch_size: int,
    rows: Array | None = None,
) -> tuple[Array, Mirrored]:
    """Score images and their mirror images.

    A classifier with test-time augmentation scores an image and its mirror image anyway, so the network's two answers
    cost nothing more. Of another classifier they cost a pass over the mirror images.

    Args:
        classifier: The classifier, on ``device``.
        images: The grey images of the store.
        slice_position: The places of the slices, ``(examples,)``.
        device: The device of the classifier.
        batch_size: The number of images scored at once.
        rows: The rows of the images that are scored, in this order; None for all.

    Returns:
        The classifier's probabilities (rows, classes), as of ``compute_probabilities``, averaged or not; and the
        network's probabilities of the images and of their mirror images.
    """
    buffers = [RowBuffer(len(images) if rows is None else len(rows)) for _ in range(3)]
    for batch in _read_batches(images, slice_position, device, batch_size, rows):
        straight, mirrored = classifier.score_both(*batch)
        answers = (
            average_mirrored(straight, mirrored, classifier.swaps_sides) if classifier.mirror_average else straight
        )
        for buffer, part in zip(buffers, (answers, straight, mirrored), strict=True):
            buffer.add(part.exp())
    probabilities = [buffer.read() for buffer in buffers]
    return probabilities[0], Mirrored(probabilities[1], probabilities[2], classifier.mirror_average)


@torch.inference_mode()
def compute_probabilities(
    classifier: nn.Module,
    images: Array,
    slice_position: Array,
    device: torch.device,
    batch_size: int,
    rows: Array | None = None,
) -> Array:
    """Score examples as the store holds them, of which a batch at a time is read.

    Args:
        classifier: The classifier of ``build_from_checkpoint`` or an ensemble of them, on ``device``.
        images: The images (examples, height, width) or (examples, channels, height, width) uint8, of whole scans
            (examples, slices, height, width); may be memory-mapped.
        slice_position: The places of the slices, (examples,) in [-1, 1], of whole scans (examples, slices, 3) in mm.
        device: The device of the classifier.
        batch_size: The number of examples scored at once.
        rows: The rows of the examples that are scored, in this order; None for all.

    Returns:
        Probabilities (rows, classes) float32.
    """
    buffer = RowBuffer(len(images) if rows is None else len(rows))
    for batch in _read_batches(images, slice_position, device, batch_size, rows):
        buffer.add(classifier(*batch).exp())
    return buffer.read()


def _read_batches(
    images: Array,
    slice_position: Array,
    device: torch.device,
    batch_size: int,
    rows: Array | None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the examples of each batch with the places of their slices, on the device."""
    rows = np.arange(len(images)) if rows is None else rows
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        places = torch.tensor(np.array(slice_position[batch], dtype=np.float32), device=device)
        yield read_images(images, batch).to(device), places


def score_slices(classifier: nn.Module, stack: Stack, spec: InputSpec, device: torch.device, batch_size: int) -> Array:
    """Score the slices of a volume, or where the classifier reads whole scans the volume at once.

    Args:
        classifier: The classifier of ``build_from_checkpoint``, on ``device``.
        stack: The slices of the volume.
        spec: The examples that the classifier reads.
        device: The device of the classifier.
        batch_size: The number of slices scored at once.

    Returns:
        Probabilities (slices, classes) float64; of a whole scan (1, classes).
    """
    images, places = stack.images, stack.positions
    if spec.kind.has_places:
        images, places = images[None], stack.places_mm[None]
    return compute_probabilities(classifier, images, places, device, batch_size).astype(np.float64)


def score_stack(classifier: nn.Module, stack: Stack, spec: InputSpec, device: torch.device, batch_size: int) -> Array:
    """Return the mean of :func:`score_slices` over the rows, the answer for the volume: (classes,) float64."""
    probabilities: Array = score_slices(classifier, stack, spec, device, batch_size).mean(axis=0)
    return probabilities


def check_places(name: str, stack: Stack, spec: InputSpec) -> None:
    """Refuse a scan that a classifier of whole scans cannot read as it lies; others read every scan.

    Args:
        name: The name of the scan, for messages.
        stack: The slices of the scan.
        spec: The examples that the classifier reads.

    Raises:
        VolumeError: its slices have no places, or reach beyond the field of view.
    """
    if not spec.kind.has_places:
        return
    if np.isnan(stack.places_mm).any():
        raise VolumeError(
            f"{name}: slices that came as images have no positions in millimetres, which the model reads. Give the "
            "scan as NIfTI or DICOM."
        )
    reach_mm = 2 * float(np.abs(stack.places_mm * (1.0, 0.5, 0.5)).max())
    if reach_mm > spec.field_of_view_mm:
        raise VolumeError(
            f"{name}: takes {reach_mm:.0f} mm along an axis, and the model's field of view is "
            f"{spec.field_of_view_mm:.0f} mm. Crop the scan, or train with such scans."
        )
