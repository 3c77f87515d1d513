"""Prepared arrays: their shapes and values are checked, then they are scored.

Not in ``predictions``, because a served model takes arrays and must not need what reads every kind of file.
"""

from typing import Any

import numpy as np
import torch

from pipeline.core.array_types import Array
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import UserError
from pipeline.data.store import place_voxels
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.classifier import Classifier


def score_arrays(
    classifier: Classifier, images: Any, slice_position: Any, device: torch.device, batch_size: int
) -> Array:
    """Score examples that are prepared already, after a check of their shapes and values.

    Args:
        classifier: The classifier, on the device.
        images: Arrays of the classifier's stored shape: images of whole grey levels from 0 to 255, or point clouds.
        slice_position: The place of each slice in its volume, in [-1, 1]; None where the classifier reads none.
        device: The device of the classifier.
        batch_size: The number of examples scored at once.

    Returns:
        Probabilities (examples, classes) float32.

    Raises:
        UserError: Another shape, other values, or places that are missing.
    """
    spec = classifier.spec
    if spec.kind.reads_scans and spec.kind.has_places:
        raise UserError("images: this model takes whole scans, whose slices have places. Give it files (NIfTI, DICOM).")
    try:
        values = np.stack([np.asarray(image) for image in images])
        is_number = values.dtype.kind in "biuf"
    except (ValueError, TypeError) as error:
        raise UserError("images: none given, or of several shapes. Give arrays of one shape, or files.") from error
    if values.shape[1:] != spec.stored_shape:
        raise UserError(
            f"images: found shape {values.shape[1:]}, allowed is {spec.stored_shape}. Prepare them as in training."
        )
    if not is_number or not np.isfinite(values).all():
        raise UserError("images: found values that are no finite numbers. Prepare them as in training.")
    if spec.kind.is_image and not ((values >= 0) & (values <= 255) & (values % 1 == 0)).all():
        raise UserError("images: found values that are no grey levels; allowed are whole numbers, 0 to 255.")
    if spec.kind.has_places:
        places = place_examples(spec, len(values))
        return compute_probabilities(classifier, values.astype(np.uint8, copy=False), places, device, batch_size)
    if slice_position is None and classifier.model.reads_slice_position:
        raise UserError(f"slice_position: none given for {len(values)} images. Give one for each, in [-1, 1].")
    places = np.zeros(len(values)) if slice_position is None else np.asarray(slice_position, dtype=np.float32)
    if places.shape != (len(values),) or not (np.abs(places) <= 1).all():
        raise UserError(
            f"slice_position: found shape {places.shape} for {len(values)} images. Give one number for each, in "
            "[-1, 1]."
        )
    dtype = np.uint8 if spec.kind.is_image else np.float32
    return compute_probabilities(classifier, values.astype(dtype, copy=False), places, device, batch_size)


def place_examples(spec: InputSpec, number: int) -> Array:
    """Return the places of examples that are read from files without places: of volumes in voxels, of others 0.

    Args:
        spec: The examples that the classifier reads.
        number: The number of examples.
    """
    if not spec.kind.has_places:
        return np.zeros(number, np.float32)
    volume = place_voxels(*spec.stored_shape)
    return np.broadcast_to(volume, (number, *volume.shape))
