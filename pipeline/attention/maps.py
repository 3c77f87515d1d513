"""Attention maps of a trained model: chosen examples, layers, heads and latents.

A map shows the inputs that the model attends to. It does not explain the answer: weights of one layer pass
through many others, and other weights can give the same answer (Jain and Wallace, "Attention is not
explanation", 2019).
"""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from perceiver import ImagePerceiver, PerceiverConfig, PointPerceiver
from pipeline.attention.storage import AttentionMaps
from pipeline.config.outputs import AttentionConfig
from pipeline.core.errors import UserError
from pipeline.data.batches import read_images
from pipeline.data.certified_data import CertifiedData
from pipeline.data.store import Store
from pipeline.models.classifier import Classifier
from pipeline.models.networks import SliceModel

# Matrices between latents grow fast: 48 layers of 8 heads and 512 latents are 400 MB an example.
MAX_BYTES = 1 << 30
# The maps that training keeps: of the inputs, with the mean over the latents, small enough for every few epochs.
KEPT = AttentionConfig()


def choose_examples(store: Store, roles: dict[str, str], options: AttentionConfig) -> NDArray[np.int64]:
    """Choose rows of the store: those that are named, or some that are spread over classes and patients.

    The choice depends on the store, the splits and the options alone, so every epoch and every run on the same
    data shows the same examples.

    Args:
        store: The examples.
        roles: The split of each patient.
        options: The options of attention: the split and the number, or the examples' names.

    Returns:
        Places in the store's index.

    Raises:
        UserError: an example is not there, or in the test split although the options name another.
    """
    split_of = store.index["group_id"].map(roles).to_numpy(dtype=str)
    if options.examples:
        place_of = {name: place for place, name in enumerate(store.index["example_id"])}
        for name in options.examples:
            if name not in place_of:
                raise UserError(f"attention.examples: no example is called {name!r}; index.csv of the store lists all.")
            split = split_of[place_of[name]]
            if split == "test" and options.split != "test":
                raise UserError(
                    f"attention.examples: {name!r} belongs to the test split, which is not to be looked at while a "
                    "model is chosen; set attention.split: test if the choice is made."
                )
        return np.array([place_of[name] for name in options.examples])
    labels = store.index["label"].to_numpy(dtype=str)
    chosen: list[int] = []
    present = set(labels[split_of == options.split])
    names = [name for name in store.class_names if name in present]
    for class_index, name in enumerate(names):
        rows = np.flatnonzero((split_of == options.split) & (labels == name))
        count = len(range(class_index, options.num_examples, len(names)))
        # The middle of each of ``count`` equal parts: rows follow each other by patient and by slice.
        places = (np.arange(count) + 0.5) * len(rows) / max(1, count)
        chosen += rows[np.unique(places.astype(np.int64))].tolist() if len(rows) else []
    if not chosen:
        raise UserError(f"attention.split: no example is in {options.split}. Choose another split.")
    return np.array(chosen)


def count_attentions(shape: PerceiverConfig, kind: str) -> dict[str, int]:
    """Return how many ``layers``, ``heads`` and ``latents`` a Perceiver has for attention of this kind."""
    if kind == "cross":
        return {"layers": shape.num_cross_attends, "heads": shape.cross_heads, "latents": shape.num_latents}
    num_layers = shape.num_cross_attends * shape.self_attends_per_cross
    return {"layers": num_layers, "heads": shape.latent_heads, "latents": shape.num_latents}


def has_attention(model: SliceModel) -> bool:
    """Return whether a model has latents that attend to something."""
    return isinstance(model.network, ImagePerceiver | PointPerceiver)


def check_attention(model: SliceModel, options: AttentionConfig) -> ImagePerceiver | PointPerceiver:
    """Refuse layers, heads and latents that a model does not have.

    Args:
        model: The model that ``build_model`` returned.
        options: The options of attention.

    Returns:
        The network that computes the maps.

    Raises:
        UserError: the network has no attention, or not these layers, heads or latents.
    """
    network = model.network
    if not isinstance(network, ImagePerceiver | PointPerceiver):
        raise UserError("attention: this network has none. Choose a run of model.architecture: perceiver.")
    if options.mirrored and isinstance(network, PointPerceiver):
        raise UserError("attention.mirrored: found True, but point clouds are not mirrored; allowed is False.")
    for name, count in count_attentions(network.perceiver.config, options.kind).items():
        found: tuple[int, ...] = getattr(options, name)
        if found and (min(found) < 0 or max(found) >= count):
            raise UserError(
                f"attention.{name}: found {list(found)}, but the model has {count} for kind {options.kind}; "
                f"allowed are 0 to {count - 1}, or none for all."
            )
    return network


@torch.no_grad()
def compute_maps(
    classifier: Classifier, store: Store, rows: NDArray[np.int64], options: AttentionConfig, epoch: int
) -> AttentionMaps:
    """Compute maps in float32 and without dropout, and leave the model as it was.

    Args:
        classifier: The classifier, on any device, in any mode; its mode is left as it was.
        store: The examples.
        rows: The rows of the examples to compute maps of.
        options: The options of attention: layers, heads, latents, the pass.
        epoch: The number of epochs that the weights were trained.

    Raises:
        UserError: the network has no such attention, or the maps are too many to hold.
    """
    network = check_attention(classifier.model, options)
    device = classifier.mean.device
    was_training = classifier.training
    classifier.eval()
    examples = read_images(store.examples, rows).to(device)
    places = torch.tensor(store.index["slice_position"].to_numpy(dtype=np.float32)[rows], device=device)
    seen = classifier.prepare(examples.flip(-1) if options.mirrored else examples)
    permutation = classifier.model.permutation
    if permutation is not None:
        seen = permutation(seen)
    counts = count_attentions(network.perceiver.config, options.kind)
    layers = options.layers or tuple(range(counts["layers"]))
    heads = options.heads or tuple(range(counts["heads"]))
    parts, probabilities = [], []
    for place in range(len(rows)):
        one = slice(place, place + 1)
        place_of_slice = places[one] if classifier.model.reads_slice_position else None
        maps = network.attention_maps(seen[one], place_of_slice, kind=options.kind, layers=layers, heads=heads)
        weights = torch.stack([_reduce(maps[layer][0], options) for layer in layers])
        if weights.numel() * 4 * len(rows) > MAX_BYTES:
            raise UserError(
                f"attention: {len(rows)} examples, {len(layers)} layers and {len(heads)} heads make maps of "
                f"{weights.numel() * 4 * len(rows) / 2**30:.1f} GiB. Choose fewer examples, layers, heads or latents."
            )
        parts.append(weights)
        probabilities.append(classifier(examples[one], places[one])[0].exp())
    classifier.train(was_training)
    return AttentionMaps(
        kind=options.kind,
        layers=layers,
        heads=heads,
        latents=options.latents,
        mirrored=options.mirrored,
        permute_seed=None if permutation is None else permutation.seed,
        cell_pixels=network.cell_pixels if isinstance(network, ImagePerceiver) else 0,
        epoch=epoch,
        class_names=store.class_names,
        example_ids=tuple(store.index["example_id"].iloc[rows]),
        labels=tuple(store.index["label"].iloc[rows]),
        examples=(examples if examples.ndim == 4 else examples[:, : classifier.num_points]).cpu().numpy(),
        probabilities=torch.stack(probabilities).cpu().numpy(),
        weights=torch.stack(parts).cpu().numpy(),
    )


def _reduce(weights: torch.Tensor, options: AttentionConfig) -> torch.Tensor:
    """Take the chosen latents of (heads, latents, ...), or the mean over all of cross-attention."""
    if options.latents:
        return weights[:, list(options.latents)]
    return weights.mean(dim=1, keepdim=True) if options.kind == "cross" else weights


def compute_kept_maps(classifier: Classifier, data: CertifiedData, num_examples: int, epoch: int) -> AttentionMaps:
    """Compute the maps that training keeps and the report shows, of validation examples.

    Args:
        classifier: The classifier after the epoch.
        data: The examples and their splits.
        num_examples: The number of examples.
        epoch: The number of epochs done.

    Raises:
        UserError: the network has no attention.
    """
    kept = dataclasses.replace(KEPT, num_examples=num_examples)
    return compute_maps(classifier, data.store, choose_examples(data.store, data.roles, kept), kept, epoch)
