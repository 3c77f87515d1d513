"""The slices of a scan that carry its answer: what the answer loses without each, and what the latents attend to.

Leaving a slice out asks the model itself; attention does not explain an answer, and the two can disagree.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from perceiver import VolumePerceiver
from pipeline.config.data import Plane
from pipeline.core.array_types import Array
from pipeline.data.store import Store
from pipeline.formats.volume import Volume
from pipeline.models.classifier import Classifier
from pipeline.models.volumes import PooledSlices
from pipeline.preprocessing.slicing import find_slice_axis

# Scans that are scored at once; each is a copy that lacks one slice.
COPIES = 8


@dataclass(frozen=True)
class SliceWeights:
    """The weights of the slices of one scan.

    Args:
        example_id: The scan.
        label: Its label.
        probabilities: The model's answer, ``(classes,)``.
        places_mm: The places of its slices, ``(slices, 3)``, as in the store.
        lost: How much the probability of the predicted class falls where a slice is left out, ``(slices,)``; below 0
            where it rises. NaN for a scan of one slice.
        attention: The fraction of the attention that each input of each slice gets, ``(slices, rows, columns)``, which
            sums to 1; ``(slices, 1, 1)`` where slices are weighed as wholes; None where the network has no attention.
    """

    example_id: str
    label: str
    probabilities: Array
    places_mm: Array
    lost: Array
    attention: Array | None


def tabulate_slices(weights: SliceWeights) -> pd.DataFrame:
    """Return a table with a row for each slice of a scan."""
    num_slices = len(weights.lost)
    table = pd.DataFrame({"example_id": weights.example_id, "slice_index": range(num_slices)})
    table["position_mm"], table["lost"] = weights.places_mm[:, 0], weights.lost
    attention = weights.attention
    table["attention"] = np.full(num_slices, np.nan) if attention is None else attention.sum(axis=(1, 2))
    return table


@torch.no_grad()
def weigh_slices(classifier: Classifier, store: Store, row: int) -> SliceWeights:
    """Weigh the slices of one scan.

    Args:
        classifier: The classifier of whole scans, in evaluation mode, on any device.
        store: The scans.
        row: The row of the scan.
    """
    device = classifier.mean.device
    is_slice = ~np.isnan(store.places[row, :, 0])
    volume = torch.from_numpy(np.ascontiguousarray(store.examples[row][is_slice])).to(device)[None]
    places_mm = np.asarray(store.places[row][is_slice])
    places = torch.tensor(places_mm, device=device)[None]
    answer = classifier(volume, places)[0].exp()
    predicted, num_slices = int(answer.argmax()), len(places_mm)
    without = []
    for start in range(0, num_slices if num_slices > 1 else 0, COPIES):
        left_out = torch.arange(start, min(start + COPIES, num_slices), device=device)
        copies = places.repeat(len(left_out), 1, 1)
        copies[torch.arange(len(left_out)), left_out] = torch.nan
        without.append(classifier(volume.expand(len(left_out), -1, -1, -1), copies)[:, predicted].exp())
    lost = (answer[predicted] - torch.cat(without)).cpu().numpy() if without else np.full(num_slices, np.nan)
    return SliceWeights(
        example_id=str(store.index["example_id"].iloc[row]),
        label=str(store.index["label"].iloc[row]),
        probabilities=answer.cpu().numpy(),
        places_mm=places_mm,
        lost=lost,
        attention=_attend(classifier, volume, places),
    )


def _attend(classifier: Classifier, volume: torch.Tensor, places: torch.Tensor) -> Array | None:
    """Return the attention to the inputs of each slice of one scan, the mean over layers, heads and latents."""
    model = classifier.model
    seen, scaled = classifier.prepare(volume), places / model.place_unit
    if model.permutation is not None:
        seen = model.permutation(seen)
    if isinstance(model.network, PooledSlices) and model.network.pooling == "attention":
        weights: Array = model.network.weigh_slices(seen, scaled)[0, :, None, None].cpu().numpy()
        return weights
    if not isinstance(model.network, VolumePerceiver):
        return None
    layers = tuple(range(model.network.perceiver.config.num_cross_attends))
    maps = model.network.attention_maps(seen, scaled, layers=layers)
    mean = torch.stack([maps[layer][0] for layer in layers]).mean(dim=(0, 1, 2))
    joined = model.network.patch_slices
    # An input of several slices is shown on each of them, with its part of the weight.
    spread = (mean / joined).repeat_interleave(joined, dim=0)[: volume.shape[1]]
    attention: Array = (spread / spread.sum()).cpu().numpy()
    return attention


def spread_over_volume(volume: Volume, places_mm: Array, maps: Array, plane: Plane) -> Array:
    """Give each voxel of a scan the weight of the nearest slice and of the input that lies over it.

    Args:
        volume: The scan, with axes (right, anterior, superior).
        places_mm: The places of its slices, ``(slices, 3)``.
        maps: The weights, ``(slices, rows, columns)``, of slices as a radiologist sees them.
        plane: The plane along which it was cut.

    Returns:
        ``(right, anterior, superior)`` float32; 0 outside of the images, and where no slice is near.
    """
    shape = volume.voxels.shape
    axis = find_slice_axis(shape, plane)
    column_axis, row_axis = (other for other in range(3) if other != axis)
    along, across, down = (
        (np.arange(shape[each]) - (shape[each] - 1) / 2) * volume.spacing_mm[each]
        for each in (axis, column_axis, row_axis)
    )
    distance = np.abs(along[:, None] - places_mm[None, :, 0])
    step = np.diff(places_mm[:, 0]).max() if len(places_mm) > 1 else volume.spacing_mm[axis]
    slices = np.where(distance.min(axis=1) <= step / 2 + 1e-3, distance.argmin(axis=1), -1)
    # In an image, rows run from superior or anterior down, and columns from the right or from anterior on.
    rows, columns = (
        np.floor((0.5 - place / extent) * count).astype(int)
        for place, extent, count in zip((down, across), places_mm[0, 1:], maps.shape[1:], strict=True)
    )
    padded = np.pad(maps.astype(np.float32), 1)  # a border of zeros for what lies outside
    places = (np.clip(part, -1, count) + 1 for part, count in zip((slices, rows, columns), maps.shape, strict=True))
    spread = padded[np.ix_(*places)]
    moved: Array = np.ascontiguousarray(np.moveaxis(spread, (0, 1, 2), (axis, row_axis, column_axis)))
    return moved
