"""The options of training: augmentation, loss, optimiser and machine."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from pipeline.config.validation import require

LossName = Literal["cross_entropy", "mse"]


@dataclass(frozen=True)
class PointAugmentConfig:
    """Random changes of the training point clouds, drawn anew for every cloud and epoch.

    Changes come in the order rotation, stretch, scale, jitter; then the cloud is normalised to mean 0 and the unit
    cube, and displaced. Each cloud's points are a random choice of those stored.

    Args:
        scale_fraction: each point's distance from the centre is multiplied by its own factor, uniform between
            1 - scale_fraction and 1 + scale_fraction; one factor for the whole cloud would be undone by normalising.
        stretch_fraction: factor on each axis, log-uniform between 1 / (1 + stretch_fraction) and
            1 + stretch_fraction.
        rotation_degrees: about the up axis, uniform between minus and plus this angle.
        up_axis: the axis that points up; z in all that our readers give, whatever the files have.
        jitter_std: standard deviation of Gaussian noise on each coordinate; half the longest side of the object is 1.
        shift: displacement along each axis, uniform between minus and plus; half the side of the unit cube is 1.
        dropout_fraction: the largest part of a cloud that is dropped, and filled up with copies of points that stay.
    """

    scale_fraction: float = 0.01
    stretch_fraction: float = 0.0
    rotation_degrees: float = 0.0
    up_axis: Literal["x", "y", "z"] = "z"
    jitter_std: float = 0.0
    shift: float = 0.0
    dropout_fraction: float = 0.0

    def __post_init__(self) -> None:
        for field in ("scale_fraction", "dropout_fraction"):
            value = getattr(self, field)
            require(0 <= value < 1, f"augment.points.{field}", value, "0 to below 1")
        for field in ("stretch_fraction", "jitter_std", "shift"):
            value = getattr(self, field)
            require(value >= 0, f"augment.points.{field}", value, "0 or more")
        degrees = self.rotation_degrees
        require(0 <= degrees <= 180, "augment.points.rotation_degrees", degrees, "0 to 180")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training pictures, drawn anew for every picture and epoch.

    Args:
        rotation_degrees: in-plane rotation, uniform between minus and plus this angle.
        zoom_fraction: relative size, uniform between 1 - zoom_fraction and 1 + zoom_fraction.
        shift_fraction: displacement as a fraction of the picture's side, uniform between minus and plus.
        gamma: exponent of the intensities (gamma), log-uniform between 1 / (1 + gamma) and 1 + gamma.
        brightness_fraction: factor on the intensities, uniform between 1 - brightness_fraction and 1 +
            brightness_fraction.
        noise_std: standard deviation of Gaussian noise; 1 is the range from black to white.
        horizontal_flip: ``swap_label`` mirrors left and right in half of the pictures and swaps the label
            (laterality only); ``keep_label`` mirrors and keeps the label (refused where the labels are left and right);
            ``none``.
        crop_padding: random crops: each picture is padded with so many black pixels on every side and a window of
            its own size is cut out at a random place.
        random_erasing_probability: share of the pictures that lose a random box, which takes the training pictures'
            mean.
        random_erasing_area: the box's area as a fraction of the picture's, uniform between these two.
        mixup_alpha: average each picture, and its label, with another of the batch; its share is drawn from
            Beta(alpha, alpha): small alphas hardly mix, 1 is uniform, 0 is off.
        cutmix_alpha: paste a box of another picture of the batch, whose area is drawn from Beta(alpha, alpha), and mix
            the labels by the areas; 0 is off. With both, each batch gets one of the two.
        points: changes of point clouds; the others are changes of pictures.
    """

    rotation_degrees: float = 10.0
    zoom_fraction: float = 0.1
    shift_fraction: float = 0.05
    gamma: float = 0.2
    brightness_fraction: float = 0.1
    noise_std: float = 0.02
    horizontal_flip: Literal["none", "keep_label", "swap_label"] = "none"
    crop_padding: int = 0
    random_erasing_probability: float = 0.0
    random_erasing_area: tuple[float, float] = (0.02, 0.33)
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    points: PointAugmentConfig = dataclasses.field(default_factory=PointAugmentConfig)

    def __post_init__(self) -> None:
        require(0 <= self.rotation_degrees <= 180, "augment.rotation_degrees", self.rotation_degrees, "0 to 180")
        for field in ("zoom_fraction", "shift_fraction", "brightness_fraction"):
            value = getattr(self, field)
            require(0 <= value < 1, f"augment.{field}", value, "0 to below 1")
        for field in ("gamma", "noise_std", "crop_padding", "mixup_alpha", "cutmix_alpha"):
            value = getattr(self, field)
            require(value >= 0, f"augment.{field}", value, "0 or more")
        require(
            0 <= self.random_erasing_probability <= 1,
            "augment.random_erasing_probability",
            self.random_erasing_probability,
            "0 to 1",
        )
        low, high = self.random_erasing_area
        require(
            0 < low <= high < 1,
            "augment.random_erasing_area",
            self.random_erasing_area,
            "two growing fractions between 0 and 1",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained.

    Args:
        epochs: passes over the training examples.
        batch_size: examples a step, over all devices together.
        loss: what is minimised. cross_entropy: of the softmax of the outputs. mse: the squared error between the
            outputs and the one-hot label, the mean over the classes; the outputs are then taken for probabilities.
        optimizer: the update rule.
        learning_rate: its highest value, after warm-up.
        betas: how much of the mean gradient and of the mean squared gradient a step keeps.
        weight_decay: adamw subtracts it from the weights beside the update, lamb adds it to the update before its trust
            ratio, adam adds it to the gradient; biases, norms and embeddings are left out.
        schedule: how the rate falls: ``cosine`` by step; ``step``, ``multistep`` and ``exponential`` by epoch.
        warmup_epochs: epochs (fractions allowed) of linear growth from zero before the schedule.
        lr_gamma: the factor of step, multistep (each time) and exponential (each epoch).
        lr_step_epochs: with ``step``, the epochs between two falls.
        lr_milestones: with ``multistep``, the epochs after which the rate falls.
        final_lr_fraction: with ``cosine``, the last rate as a fraction of the highest.
        max_grad_norm: largest gradient norm; null leaves gradients as they are.
        label_smoothing: share of the target that is spread over all classes.
        early_stopping_epochs: stop after so many epochs without a better validation; 0 never stops.
        monitor: what makes an epoch the best.
        keep_attention_every_epochs: keep the attention maps of ``attention.num_examples`` validation examples after
            every so many epochs (cross-attention, all layers and heads, mean over the latents); 0 keeps none.
        seed: of the initial weights, the order, the augmentation and dropout.
        precision: ``auto`` takes bf16 where the processor computes in it, else float32.
        accelerator: where training runs; ``auto`` takes a GPU where there is one.
        devices: devices on each machine.
        num_nodes: machines.
        strategy: what each of several devices keeps. ddp: the whole model. fsdp: a part of each weight and of the
            optimizer's state, for models that are too large for one device; with adam or adamw, not compiled.
        compile: compile the model with ``torch.compile``; pays on long GPU runs.
        resume: go on from the last checkpoint of a run that was cut off; false starts afresh.
    """

    epochs: int = 20
    batch_size: int = 64
    loss: LossName = "cross_entropy"
    optimizer: Literal["adam", "adamw", "lamb"] = "adamw"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    schedule: Literal["constant", "step", "multistep", "cosine", "exponential"] = "cosine"
    warmup_epochs: float = 1.0
    lr_gamma: float = 0.1
    lr_step_epochs: int = 10
    lr_milestones: tuple[int, ...] = ()
    final_lr_fraction: float = 0.01
    max_grad_norm: float | None = 1.0
    label_smoothing: float = 0.0
    early_stopping_epochs: int = 0
    monitor: Literal["val_loss", "val_accuracy"] = "val_loss"
    keep_attention_every_epochs: int = 0
    seed: int = 0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "lr_step_epochs", "devices", "num_nodes"):
            value = getattr(self, field)
            require(value >= 1, f"train.{field}", value, "1 or more")
        require(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        require(all(0 <= beta < 1 for beta in self.betas), "train.betas", self.betas, "two numbers, 0 to below 1")
        for field in ("weight_decay", "warmup_epochs", "early_stopping_epochs", "keep_attention_every_epochs"):
            value = getattr(self, field)
            require(value >= 0, f"train.{field}", value, "0 or more")
        require(0 < self.lr_gamma <= 1, "train.lr_gamma", self.lr_gamma, "above 0, at most 1")
        require(0 <= self.final_lr_fraction <= 1, "train.final_lr_fraction", self.final_lr_fraction, "0 to 1")
        require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "0 to below 1")
        good_clip = self.max_grad_norm is None or self.max_grad_norm > 0
        require(good_clip, "train.max_grad_norm", self.max_grad_norm, "above 0, or null")
        growing = list(self.lr_milestones) == sorted(set(self.lr_milestones)) and all(m > 0 for m in self.lr_milestones)
        require(growing, "train.lr_milestones", self.lr_milestones, "growing epochs above 0")
        for field, refused in (("optimizer", "lamb"), ("precision", "16-mixed"), ("compile", True)):
            value = getattr(self, field)
            good = self.strategy == "ddp" or value != refused
            require(good, f"train.{field}", value, "another value, or train.strategy ddp")
