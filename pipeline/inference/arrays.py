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
        images: Arrays of the classifier's stored shape: images of whole grey levels from 0 to 255, or point clouds; of
            whole scans (scans, slices, height, width) with any number of slices.
        slice_position: The place of each slice in its volume, in [-1, 1]; None where the classifier reads none. Of
            whole scans the places (scans, slices, 3) in mm, as the store has them, NaN for padding.
        device: The device of the classifier.
        batch_size: The number of examples scored at once.

    Returns:
        Probabilities (examples, classes) float32.

    Raises:
        UserError: Another shape, other values, or places that are missing.
    """
    spec = classifier.spec
    try:
        values = np.stack([np.asarray(image) for image in images])
        is_number = values.dtype.kind in "biuf"
    except (ValueError, TypeError) as error:
        raise UserError("images: none given, or of several shapes. Give arrays of one shape, or files.") from error
    is_scan = spec.kind.reads_scans and spec.kind.has_places
    stored = ("slices", *spec.image_size) if is_scan else spec.stored_shape
    is_fitting = values.shape[1:] == stored or (is_scan and values.ndim == 4 and values.shape[2:] == spec.image_size)
    if not is_fitting or 0 in values.shape:
        shape = f"({', '.join(map(str, stored))})"
        raise UserError(f"images: found shape {values.shape[1:]}, allowed is {shape}. Prepare them as in training.")
    if not is_number or not np.isfinite(values).all():
        raise UserError("images: found values that are no finite numbers. Prepare them as in training.")
    if spec.kind.is_image and not ((values >= 0) & (values <= 255) & (values % 1 == 0)).all():
        raise UserError("images: found values that are no grey levels; allowed are whole numbers, 0 to 255.")
    if spec.kind.has_places:
        places = _check_scan_places(slice_position, values, spec) if is_scan else place_examples(spec, len(values))
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


def _check_scan_places(places_mm: Any, volumes: Array, spec: InputSpec) -> Array:
    """Return the places of the slices of whole scans in mm; refuse other shapes, and scans that are too large."""
    shape = (*volumes.shape[:2], 3)
    if places_mm is None:
        raise UserError(
            f"slice_position: none given, and this model takes whole scans. Give the places of their slices, {shape}, "
            "in mm from the centre of the scan along the normal, and the height and width of the image; or give files "
            "(NIfTI, DICOM)."
        )
    try:
        places = np.asarray(places_mm, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(f"slice_position: found no array of numbers, allowed is {shape}, in mm.") from error
    is_padding = np.isnan(places)
    if places.shape != shape or (is_padding.any(axis=-1) != is_padding.all(axis=-1)).any():
        raise UserError(
            f"slice_position: found shape {places.shape}, allowed is {shape}: three numbers in mm for each slice, all "
            "of them NaN where it is padding."
        )
    if is_padding.all(axis=(1, 2)).any():
        raise UserError("slice_position: a scan of padding alone. Leave it out.")
    reach_mm = 2 * float(np.nanmax(np.abs(places * (1.0, 0.5, 0.5))))
    if reach_mm > spec.field_of_view_mm:
        raise UserError(
            f"slice_position: a scan takes {reach_mm:.0f} mm along an axis, and the model's field of view is "
            f"{spec.field_of_view_mm:.0f} mm. Crop the scan, or train with such scans."
        )
    return places


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
