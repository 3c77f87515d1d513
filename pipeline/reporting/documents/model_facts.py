"""Facts about a model and its training, from the checkpoint alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from perceiver.config import PerceiverConfig
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.data_kinds import InputSpec
from pipeline.core.text import count_words, plural
from pipeline.reporting.evaluation.origin_section import describe_recipes
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.history import find_best
from pipeline.training.run_state import describe_extensions
from pipeline.training.seen_patients import START_PATIENTS

# Options that need no mention where they have these values.
OFF: dict[str, float] = {"accumulate_batches": 1, "input_fraction": 1.0, "average_decay": 0.0}

AUGMENTATIONS = {
    "rotation_degrees": "rotation up to {} degrees",
    "zoom_fraction": "zoom by up to {}",
    "shift_fraction": "shift by up to {} of the side",
    "gamma": "gamma {}",
    "brightness_fraction": "brightness {}",
    "noise_std": "noise {}",
    "bias_field": "a bias field with coefficients up to {}",
    "crop_padding": "crops after a border of {} pixels",
    "random_erasing_probability": "a box erased with probability {}",
    "mixup_alpha": "mixup, alpha {}",
    "cutmix_alpha": "cutmix, alpha {}",
}
OF_EACH_MEMBER = ("software", "initialisation", "weights", "training", "augmentation", "choice", "availability")
HORIZONTAL_FLIPS = {
    "keep_label": "horizontal flips with the same label",
    "swap_label": "horizontal flips with left and right exchanged",
}


def describe_model(checkpoint: Checkpoint, num_parameters: int) -> dict[str, str]:
    """Describe the network, its training and its software.

    Args:
        checkpoint: The weights that were evaluated.
        num_parameters: The number of parameters of the network.
    """
    settings, shape, kind = checkpoint.settings, checkpoint.model, checkpoint.spec.kind
    is_perceiver = shape.architecture == "perceiver"
    classes = ", ".join(checkpoint.spec.class_names)
    if len(checkpoint.spec.class_names) > 12:
        classes = f"{len(checkpoint.spec.class_names)} classes"
    whole = f" A volume's prediction is the mean over its {plural(kind.example)}." if kind.has_slices else ""
    facts = {
        "method": f"Deep learning: {'a Perceiver' if is_perceiver else 'a small convolutional network'}.",
        "task": f"Each {kind.example} gets a probability for {classes}.{whole}",
        "model": f"{_describe_network(shape, checkpoint.spec)} {num_parameters:,} parameters.",
        "software": (
            f"{', '.join(f'{name} {version}' for name, version in checkpoint.versions.items())}; "
            f"this project at commit {checkpoint.commit}."
        ),
        "initialisation": _describe_initialisation(settings),
        "weights": (
            f"Epoch {checkpoint.epoch}; fingerprints: store {checkpoint.store_fingerprint}, splits "
            f"{checkpoint.split_fingerprint}."
        ),
        "training": _describe_training(settings),
        "augmentation": _describe_augmentation(settings) if kind.is_image else "",
        "choice": _describe_choice(checkpoint),
        "ensemble": "None: one set of weights is used.",
        "availability": f"The software is this project at commit {checkpoint.commit}.",
    }
    if shape.mirror_tta:
        facts["ensemble"] = (
            "One set of weights with test-time augmentation: the mean of the predictions of the image and its mirror "
            "image."
        )
    if kind.has_patients:
        facts["status"] = "Research software; not for diagnosis, and not approved by any authority."
        facts["not_for"] = "Decisions on the care of a patient."
    return facts


def describe_members(members: Sequence[tuple[str, Checkpoint]]) -> dict[str, str]:
    """Describe what the models of an ensemble do not have in common.

    Args:
        members: The name and the checkpoint of each.

    Returns:
        Those of the facts of :func:`describe_model` in which they differ, each with the text of every member. Of the
        networks the first is described elsewhere; ``other networks`` names the members that have another.
    """
    facts = {name: describe_model(checkpoint, num_parameters=0) for name, checkpoint in members}
    found = {}
    for fact in OF_EACH_MEMBER:
        texts = {name: of_member[fact] for name, of_member in facts.items()}
        if len(set(texts.values())) > 1:
            found[fact] = " ".join(f"{name}: {text}" for name, text in texts.items())
    first, network = members[0][0], facts[members[0][0]]["model"]
    others = [name for name, of_member in facts.items() if of_member["model"] != network]
    if others:
        found["other networks"] = f" This is the network of {first}; others have {', '.join(others)}."
    return found


def _describe_network(shape: ModelConfig, spec: InputSpec) -> str:
    """Describe all that the options change in the network, so that a reader could build it again."""
    shuffled = ""
    if shape.pixel_permutation_seed is not None:
        shuffled = f" The pixels of all images are permuted alike (seed {shape.pixel_permutation_seed})."
    scans = f" {_describe_slices(shape, spec)}" if spec.kind.has_places else ""
    if shape.architecture != "perceiver":
        num_axes = 3 if spec.kind.has_places and shape.slices == "joint" else 2
        return f"{_describe_cnn(shape.cnn, num_axes)}{scans}{shuffled}"
    if not spec.kind.is_image:
        read = "Each point" if shape.num_points is None else f"Each of {shape.num_points} points of a cloud"
        return f"{_describe_perceiver(shape.perceiver)} {read} is an input."
    stems = {
        "pixels": "Each pixel is an input",
        "patches": f"Each square of {shape.patch_size} x {shape.patch_size} pixels is an input",
        "conv": _describe_conv_stem(shape),
    }
    place = ", with the place of its slice in the volume as a third axis." if shape.slice_position else "."
    return f"{_describe_perceiver(shape.perceiver)} {stems[shape.stem]}{place}{scans}{shuffled}"


def _describe_slices(shape: ModelConfig, spec: InputSpec) -> str:
    """Describe how the slices of a scan become one answer."""
    if shape.slices == "joint" and shape.architecture == "cnn":
        return "All slices of a scan are read at once, as if they had equal distances."
    if shape.slices == "joint":
        joined = "" if shape.patch_slices == 1 else f"; {shape.patch_slices} neighbouring slices are joined to one"
        unit, short = ("millimetres", "mm") if spec.kind.reads_scans else ("voxels", "voxels")
        return (
            f"All slices of a scan are read at once: positions have three axes, in {unit} from the centre of the "
            f"volume over half the field of view of {spec.field_of_view_mm:g} {short}{joined}."
        )
    if shape.slices == "attention":
        return "Each slice becomes an embedding; their mean, weighted by a learned attention, becomes the answer."
    pooled = {"mean": "mean", "max": "maximum", "top3": "mean of the three largest"}[shape.slices]
    return f"Each slice gets logits; a scan's logit is the {pooled} over its slices."


def _describe_cnn(config: CnnConfig, num_axes: int = 2) -> str:
    channels = ", ".join(map(str, config.channels))
    norm = "batch" if num_axes == 2 else "group"
    if config.blocks == "plain":
        threes, twos = " x ".join("3" * num_axes), " x ".join("2" * num_axes)
        layer = f"a {threes} convolution, {norm} normalisation, ReLU and {twos} max pooling"
        what = "image" if num_axes == 2 else "volume"
        return f"A convolutional network: stages of {channels} channels, each {layer}; then the mean over the {what}."
    network = f"MONAI's ResNet in {num_axes} dimensions with {norm} normalisation"
    return f"A residual network ({network}) with one block in each of its stages of {channels} channels."


def _describe_conv_stem(shape: ModelConfig) -> str:
    layers, last = shape.num_conv_layers, shape.conv_channels
    widths = ", ".join(str(max(1, last // 2 ** (layers - 1 - index))) for index in range(layers))
    blocks = count_words(shape.num_residual_blocks, "residual block") + " of two such convolutions"
    more = f", then {blocks}" if shape.num_residual_blocks > 0 else ""
    return (
        f"{count_words(layers, 'layer')} of {widths} channels come first, each a 3 x 3 convolution of stride 1, 2 x 2 "
        f"max pooling, batch normalisation and ReLU{more}; each position of their output is an input"
    )


def _describe_perceiver(config: PerceiverConfig) -> str:
    cross = f"{count_words(config.cross_heads, 'head')} of width {config.cross_head_dim}"
    latent = f"{count_words(config.latent_heads, 'head')} of width {config.latent_head_dim}"
    pooling = {
        "mean": "the mean of the latents",
        "cls": "the first latent",
        "query": (
            f"a learned query, which attends to the latents with {count_words(config.decoder_heads, 'head')} of width "
            f"{config.decoder_head_dim}, {'is' if config.decoder_residual else 'is not'} added to the result, and "
            f"gives {config.latent_dim if config.decoder_dim is None else config.decoder_dim} channels"
        ),
    }
    sharing = {
        "none": "every layer has weights of its own",
        "all": "all repetitions share their weights",
        "all_but_first": "the repetitions share their weights, except the first cross-attention",
        "all_but_first_block": "all repetitions except the first share their weights",
    }
    highest = "the resolution" if config.max_freq is None else ", ".join(f"{number:g}" for number in config.max_freq)
    positions = {
        "fourier": f"Fourier features of positions, {config.num_bands} frequencies an axis up to half of {highest}",
        "learned": (
            f"learned vectors of width {config.learned_position_dim} as positions, drawn with a standard deviation of "
            f"{config.learned_position_init_std:g}"
        ),
        "none": "no positions",
    }
    return (
        f"A Perceiver: {config.num_latents} latents of width {config.latent_dim}, drawn with a standard deviation of "
        f"{config.latent_init_std:g}, initial weights of queries times {config.query_init_gain:g}; "
        f"{config.num_cross_attends} x (1 cross-attention of {cross} and "
        f"{count_words(config.self_attends_per_cross, 'self-attention')} of {latent}), each followed by a feed-forward "
        f"layer ({config.activation.upper()}, widened {config.feedforward_widening} times); "
        f"{sharing[config.weight_sharing]}; {positions[config.positions]}; dropout {config.dropout:g}, of attention "
        f"weights {config.attention_dropout:g}; classified from "
        f"{pooling[config.pooling]}."
    )


def _describe_initialisation(settings: Mapping[str, Any]) -> str:
    seed = f"drawn at random with seed {settings.get('train.seed', 'unknown')}"
    if "start" not in settings:
        return f"Initial weights {seed}; nothing was pre-trained."
    frozen = " All but the last layer kept them." if settings.get("train.freeze") == "backbone" else ""
    return (
        f"Initial weights of another model ({settings['train.start_from']}; {settings['start']}; its training "
        f"patients: {settings[START_PATIENTS]}), others {seed}.{frozen}"
    )


def _describe_choice(checkpoint: Checkpoint) -> str:
    how = "as named by the user"
    if checkpoint.history:
        select_by = checkpoint.settings["train.monitor"]
        if find_best(checkpoint.history, select_by).epoch == checkpoint.epoch:
            how = f"the best by {select_by.replace('val_', 'validation ')}"
    recipes = describe_recipes(checkpoint.settings.get("train.recipes_tried", 0))
    return " ".join((f"Epoch {checkpoint.epoch}, {how}; test rows were read by the evaluation alone.", *recipes))


def _describe_training(settings: Mapping[str, Any]) -> str:
    names = {
        "epochs": "epochs",
        "batch_size": "batch size",
        "accumulate_batches": "batches a step",
        "input_fraction": "fraction of the inputs read in training",
        "loss": "loss",
        "class_weights": "class weights",
        "sampling": "examples of an epoch drawn by",
        "optimizer": "optimizer",
        "learning_rate": "highest learning rate",
        "schedule": "schedule",
        "warmup_epochs": "epochs of warm-up",
        "weight_decay": "weight decay",
        "label_smoothing": "label smoothing",
        "auxiliary_weight": "weight of the error in predicting hidden squares",
        "teacher": "teacher",
        "distillation_weight": "fraction of the loss that compares with the teacher's probabilities",
        "distillation_temperature": "their temperature",
        "guidance_weight": "weight of the teacher's features",
        "average_decay": "decay of the average of the weights",
        "max_grad_norm": "largest gradient norm",
        "precision": "precision",
        "seed": "seed",
    }
    known = [
        f"{title} {show_value(settings[f'train.{name}'])}"
        for name, title in names.items()
        if f"train.{name}" in settings and settings[f"train.{name}"] != OFF.get(name)
    ]
    known += describe_extensions(settings)
    return f"{'; '.join(known)}.".capitalize() if known else ""


def _describe_augmentation(settings: Mapping[str, Any]) -> str:
    values = {name: settings.get(f"augment.{name}", 0) for name in AUGMENTATIONS}
    done = [text.format(show_value(values[name])) for name, text in AUGMENTATIONS.items() if values[name]]
    flip = HORIZONTAL_FLIPS.get(str(settings.get("augment.horizontal_flip")))
    done += [flip] if flip else []
    is_one = settings.get("augment.transforms_per_image") == "one"
    one = " Of these but flips, boxes and mixing each image gets one." if is_one else ""
    return (
        f"Random changes of training images: {', '.join(done)}.{one}" if done else "Training images were not changed."
    )


def show_value(value: Any) -> str:
    """Write an option's value for a reader: text as it is, None as "none", all else as JSON."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
