"""Facts about a model and its training, from the checkpoint alone."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.model import ModelConfig
from pipeline.core.text import plural
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.history import find_best

AUGMENTATIONS = {
    "rotation_degrees": "rotation up to {} degrees",
    "zoom_fraction": "zoom by up to {}",
    "shift_fraction": "shift by up to {} of the side",
    "gamma": "gamma {}",
    "brightness_fraction": "brightness {}",
    "noise_std": "noise {}",
    "crop_padding": "crops after a border of {} pixels",
    "random_erasing_probability": "a box erased with probability {}",
    "mixup_alpha": "mixup, alpha {}",
    "cutmix_alpha": "cutmix, alpha {}",
}
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
    whole = f" A volume's prediction is the mean over its {plural(kind.example)}." if kind.has_patients else ""
    facts = {
        "method": f"Deep learning: {'a Perceiver' if is_perceiver else 'a small convolutional network'}.",
        "task": f"Each {kind.example} gets a probability for {classes}.{whole}",
        "model": f"{_describe_network(shape)} {num_parameters:,} parameters.",
        "software": (
            f"{', '.join(f'{name} {version}' for name, version in checkpoint.versions.items())}; "
            f"this project at commit {checkpoint.commit}."
        ),
        "initialisation": (
            f"Initial weights drawn at random with seed {settings.get('train.seed', 'unknown')}; nothing was "
            "pre-trained."
        ),
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


def _describe_network(shape: ModelConfig) -> str:
    if shape.architecture != "perceiver":
        return (
            f"A convolutional network, {shape.cnn.blocks} blocks of {', '.join(map(str, shape.cnn.channels))} channels."
        )
    stems = {
        "pixels": "Each pixel is an input.",
        "patches": f"Each square of {shape.patch_size} x {shape.patch_size} pixels is an input.",
        "conv": (
            f"{shape.num_conv_layers} convolutions of stride 2 end with {shape.conv_channels} channels; each position "
            "of their output is an input."
        ),
    }
    latents = shape.perceiver
    heads = f"{latents.cross_heads} and {latents.latent_heads} heads"
    return (
        f"A Perceiver: {latents.num_latents} latents of width {latents.latent_dim}; {latents.num_cross_attends} x (1 "
        f"cross-attention and {latents.self_attends_per_cross} self-attentions, of {heads}); {latents.positions} "
        f"positions. {stems[shape.stem]}"
    )


def _describe_choice(checkpoint: Checkpoint) -> str:
    how = "as named by the user"
    if checkpoint.history:
        select_by = checkpoint.settings["train.monitor"]
        if find_best(checkpoint.history, select_by).epoch == checkpoint.epoch:
            how = f"the best by {select_by.replace('val_', 'validation ')}"
    return f"Epoch {checkpoint.epoch}, {how}; test rows were read by the evaluation alone."


def _describe_training(settings: Mapping[str, Any]) -> str:
    names = {
        "epochs": "epochs",
        "batch_size": "batch size",
        "loss": "loss",
        "optimizer": "optimizer",
        "learning_rate": "highest learning rate",
        "schedule": "schedule",
        "warmup_epochs": "epochs of warm-up",
        "weight_decay": "weight decay",
        "label_smoothing": "label smoothing",
        "max_grad_norm": "largest gradient norm",
        "precision": "precision",
        "seed": "seed",
    }
    known = [
        f"{title} {show_value(settings[f'train.{name}'])}"
        for name, title in names.items()
        if f"train.{name}" in settings
    ]
    return f"{'; '.join(known)}.".capitalize() if known else ""


def _describe_augmentation(settings: Mapping[str, Any]) -> str:
    values = {name: settings.get(f"augment.{name}", 0) for name in AUGMENTATIONS}
    done = [text.format(show_value(values[name])) for name, text in AUGMENTATIONS.items() if values[name]]
    flip = HORIZONTAL_FLIPS.get(str(settings.get("augment.horizontal_flip")))
    done += [flip] if flip else []
    return f"Random changes of training images: {', '.join(done)}." if done else "Training images were not changed."


def show_value(value: Any) -> str:
    """Write an option's value for a reader: text as it is, None as "none", all else as JSON."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
