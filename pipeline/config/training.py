"""The options of training: augmentation, loss, optimizer and machine."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config.model import LossName
from pipeline.config.validation import require

SamplingName = Literal["once", "class", "patient", "class_and_patient"]
# The parts of a network that fine-tuning may leave as they are.
FreezeName = Literal["none", "backbone"]
CompileName = Literal["none", "default", "graphs"]


@dataclass(frozen=True)
class PointAugmentConfig:
    """Random changes of the training point clouds, drawn again for every cloud and epoch.

    Changes come in the order rotation, stretch, scale, jitter; then the cloud is normalised to mean 0 and the unit
    cube, and displaced. Each cloud's points are a random choice of those stored.

    Args:
        scale_fraction: The strength of scaling: each point's distance from the centre is multiplied by its own factor,
            uniform between 1 - scale_fraction and 1 + scale_fraction; one factor for the whole cloud would be undone by
            normalising.
        stretch_fraction: The strength of stretching: a factor on each axis, log-uniform between
            1 / (1 + stretch_fraction) and 1 + stretch_fraction.
        rotation_degrees: The largest angle of the rotation about the up axis, uniform between minus and plus.
        up_axis: The axis that points up; z in all clouds that the readers return, whatever the files have.
        jitter_std: The standard deviation of Gaussian noise on each coordinate; half the longest side of the object is
            1.
        shift: The largest displacement along each axis, uniform between minus and plus; half the side of the unit cube
            is 1.
        dropout_fraction: The largest fraction of a cloud that is dropped, and replaced by copies of points that stay.
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
    """Random changes of the training images, drawn again for every image and epoch.

    Args:
        rotation_degrees: The largest angle of the in-plane rotation, uniform between minus and plus.
        zoom_fraction: The strength of zooming: a relative size, uniform between 1 - zoom_fraction and
            1 + zoom_fraction.
        shift_fraction: The largest displacement as a fraction of the image's side, uniform between minus and plus.
        gamma: The strength of the gamma change: an exponent of the intensities, log-uniform between 1 / (1 + gamma) and
            1 + gamma.
        brightness_fraction: The strength of the brightness change: a factor on the intensities, uniform between
            1 - brightness_fraction and 1 + brightness_fraction.
        noise_std: The standard deviation of Gaussian noise; 1 is the range from black to white.
        bias_field: The strength of a bias field of MR images, a smooth factor with the mean 1: the largest coefficient
            of a polynomial of degree 3 in its logarithm, each uniform between minus and plus. 0.3 is much.
        transforms_per_image: The changes of an image. all: each of those above, and crops. one: one of those that are
            switched on, drawn with equal chances, so that they can be stronger; flips, erasing and mixing are not among
            them.
        horizontal_flip: The flip of left and right in half of the images. ``swap_label`` swaps the label as well
            (laterality only); ``keep_label`` keeps it (refused where the labels are left and right); ``none`` flips
            nothing.
        crop_padding: The padding of random crops: each image is padded with so many black pixels on every side and a
            window of its own size is cut out at a random place.
        random_erasing_probability: The fraction of the images that lose a random box, which is filled with the mean of
            the training images.
        random_erasing_area: The area of the box as a fraction of the image's, uniform between these two.
        mixup_alpha: The alpha of mixup, which averages each image, and its label, with another of the batch; the weight
            is drawn from Beta(alpha, alpha): small alphas hardly mix, 1 is uniform, 0 is off.
        cutmix_alpha: The alpha of cutmix, which pastes a box of another image of the batch, whose area is drawn from
            Beta(alpha, alpha), and mixes the labels by the areas; 0 is off. With mixup and cutmix, each batch gets one
            of the two.
        slice_dropping_fraction: The largest fraction of the slices of a scan that is left out, drawn for each scan
            uniformly from 0 on; read only where ``preprocess.unit`` is volume.
        points: The random changes of training point clouds; the other options are for images.
    """

    rotation_degrees: float = 10.0
    zoom_fraction: float = 0.1
    shift_fraction: float = 0.05
    gamma: float = 0.2
    brightness_fraction: float = 0.1
    noise_std: float = 0.02
    bias_field: float = 0.0
    transforms_per_image: Literal["all", "one"] = "all"
    horizontal_flip: Literal["none", "keep_label", "swap_label"] = "none"
    crop_padding: int = 0
    random_erasing_probability: float = 0.0
    random_erasing_area: tuple[float, float] = (0.02, 0.33)
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    slice_dropping_fraction: float = 0.0
    points: PointAugmentConfig = dataclasses.field(default_factory=PointAugmentConfig)

    def __post_init__(self) -> None:
        require(0 <= self.rotation_degrees <= 180, "augment.rotation_degrees", self.rotation_degrees, "0 to 180")
        for field in ("zoom_fraction", "shift_fraction", "brightness_fraction", "slice_dropping_fraction"):
            value = getattr(self, field)
            require(0 <= value < 1, f"augment.{field}", value, "0 to below 1")
        for field in ("gamma", "noise_std", "bias_field", "crop_padding", "mixup_alpha", "cutmix_alpha"):
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
    """The training of the model.

    Args:
        epochs: The number of passes over the training examples.
        batch_size: The number of examples a step, over all devices together.
        loss: The loss that is minimised. cross_entropy: of the softmax of the outputs. mse: the squared error between
            the outputs and the one-hot label, the mean over the classes; the outputs then serve as probabilities.
            corn: of grades (``data.label_type: ordinal``), the cross-entropy of reaching each grade once the one below
            it is reached, added up over the grades.
        class_weights: The weight of each class in the loss. equal: 1. balanced: in inverse proportion to its number of
            training examples, and 1 in the mean over them. The probabilities then are those for classes that are
            equally frequent.
        sampling: The choice of the examples of an epoch, which has as many as there are. once: each one once. class:
            drawn so that the classes are equally frequent. patient: so that the patients are. class_and_patient: so
            that the classes are, and within each of them its patients, for a rare label of few patients with many
            scans.
        accumulate_batches: The number of batches whose gradients make one step of the optimizer, for steps of more
            examples than fit into memory at once; batch norms see each batch alone.
        input_fraction: The fraction of the Perceiver's inputs (pixels, patches, places of the stem's output, points)
            that it reads of each example in a step of training, drawn again each time; elsewhere it reads all. Of
            whole scans it is the fraction of the slices, so that the stem reads fewer as well.
        optimizer: The update rule. muon: Muon for the matrices inside the network, adamw for the rest, with one
            learning rate and one weight decay.
        learning_rate: The highest learning rate, after warm-up.
        betas: The fractions of the mean gradient and of the mean squared gradient that a step keeps.
        weight_decay: The weight decay: adamw and muon subtract it from the weights next to the update, lamb adds it to
            the update before its trust ratio, adam adds it to the gradient; biases, norms and embeddings are left out.
        schedule: The learning-rate schedule: ``cosine`` falls by step; ``step``, ``multistep`` and ``exponential`` fall
            by epoch.
        warmup_epochs: The number of epochs (fractions allowed) of linear growth from zero before the schedule; at most
            ``epochs``.
        lr_gamma: The factor of step, multistep (each time) and exponential (each epoch).
        lr_step_epochs: The number of epochs between two falls of ``step``.
        lr_milestones: The epochs after which the learning rate falls, of ``multistep``.
        final_lr_fraction: The last learning rate of ``cosine`` as a fraction of the highest.
        max_grad_norm: The largest gradient norm; null leaves gradients as they are.
        average_decay: The fraction that an exponential moving average of the weights keeps in a step, such as 0.999; it
            grows to that value. The averaged weights are those that are validated, kept as the best and exported. 0
            keeps no average.
        label_smoothing: The fraction of the target that is spread over all classes.
        auxiliary_weight: The weight of the error in predicting hidden squares of the same images (``pretrain``), which
            is added to the loss; 0 hides nothing.
        teacher: A model whose answers are learned next to the labels: the path of a checkpoint of the same classes, or
            cnn for the convolutional network of ``model.cnn``, which then is trained first, on the same patients with
            the same options, as the run ``teacher``; null learns from labels alone.
        distillation_weight: The fraction of the loss that compares with the teacher's probabilities; the rest is that
            of the labels.
        distillation_temperature: The divisor of the logits of model and teacher before these are compared; above 1 the
            teacher's small probabilities count more.
        guidance_weight: The weight of the error in predicting the features of a convolutional teacher at each place
            from the latents, which teaches a Perceiver where local structure is; 0 leaves them out, as a frozen
            backbone needs.
        early_stopping_epochs: The number of epochs without a better validation after which training stops; 0 never
            stops.
        monitor: The number that decides which epoch is the best.
        keep_attention_every_epochs: The number of epochs from one set of attention maps that are kept to the next, of
            ``attention.num_examples`` validation examples (cross-attention, all layers and heads, mean over the
            latents); 0 keeps none.
        recipes_tried: The number of recipes that were compared on validation before this one was chosen, which ``tune``
            writes into the one that it finds; it is printed next to every result. The best of many looks better than it
            is.
        start_from: The path of a checkpoint whose weights training starts from: fine-tuning. Classes, image size and
            channels may differ; the architecture and its widths may not. Null draws all weights.
        freeze: The part of the network that keeps the weights of ``start_from``. backbone: all but the last layer, for
            a linear probe.
        seed: The seed of the initial weights, the order, the augmentation and dropout.
        precision: The number format; ``auto`` takes bf16 where the processor computes in it, else float32.
        accelerator: The kind of device; ``auto`` takes a GPU where there is one.
        devices: The number of devices on each machine.
        num_nodes: The number of machines.
        strategy: The part of the model that each of several devices holds. ddp: the whole model. fsdp: a shard of each
            weight and of the optimizer's state, for models that are too large for one device; with adam or adamw, not
            compiled.
        compile: The compilation of the model with ``torch.compile``, which pays on long GPU runs. none: not at all.
            default: for training alone. graphs: for training and validation, replayed as CUDA graphs, for small models
            on one GPU; all batches then have ``batch_size`` examples, and an epoch leaves out the end of its order.
        resume: Resume an interrupted run from its last checkpoint; false starts from scratch.
    """

    epochs: int = 20
    batch_size: int = 64
    accumulate_batches: int = 1
    input_fraction: float = 1.0
    loss: LossName = "cross_entropy"
    class_weights: Literal["equal", "balanced"] = "equal"
    sampling: SamplingName = "once"
    optimizer: Literal["adam", "adamw", "lamb", "muon"] = "adamw"
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
    average_decay: float = 0.0
    label_smoothing: float = 0.0
    auxiliary_weight: float = 0.0
    teacher: str | None = None
    distillation_weight: float = 0.5
    distillation_temperature: float = 3.0
    guidance_weight: float = 1.0
    early_stopping_epochs: int = 0
    monitor: Literal["val_loss", "val_accuracy"] = "val_loss"
    keep_attention_every_epochs: int = 0
    recipes_tried: int = 0
    start_from: str | None = None
    freeze: FreezeName = "none"
    seed: int = 0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    compile: CompileName = "none"
    resume: bool = True

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "accumulate_batches", "lr_step_epochs", "devices", "num_nodes"):
            value = getattr(self, field)
            require(value >= 1, f"train.{field}", value, "1 or more")
        require(0 < self.input_fraction <= 1, "train.input_fraction", self.input_fraction, "above 0, at most 1")
        require(0 <= self.average_decay < 1, "train.average_decay", self.average_decay, "0 to below 1")
        require(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        require(all(0 <= beta < 1 for beta in self.betas), "train.betas", self.betas, "two numbers, 0 to below 1")
        for field in (
            "weight_decay",
            "warmup_epochs",
            "early_stopping_epochs",
            "keep_attention_every_epochs",
            "recipes_tried",
        ):
            value = getattr(self, field)
            require(value >= 0, f"train.{field}", value, "0 or more")
        longest = f"0 to the {self.epochs} of train.epochs"
        require(self.warmup_epochs <= self.epochs, "train.warmup_epochs", self.warmup_epochs, longest)
        is_balanced_once = self.class_weights == "equal" or self.sampling in ("once", "patient")
        both = f"once or patient with train.class_weights {self.class_weights}: one of them balances the classes"
        require(is_balanced_once, "train.sampling", self.sampling, both)
        require(0 < self.lr_gamma <= 1, "train.lr_gamma", self.lr_gamma, "above 0, at most 1")
        require(0 <= self.final_lr_fraction <= 1, "train.final_lr_fraction", self.final_lr_fraction, "0 to 1")
        require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "0 to below 1")
        temperature = self.distillation_temperature
        require(0 <= self.distillation_weight <= 1, "train.distillation_weight", self.distillation_weight, "0 to 1")
        require(temperature > 0, "train.distillation_temperature", temperature, "above 0")
        require(self.auxiliary_weight >= 0, "train.auxiliary_weight", self.auxiliary_weight, "0 or more")
        require(self.guidance_weight >= 0, "train.guidance_weight", self.guidance_weight, "0 or more")
        good_clip = self.max_grad_norm is None or self.max_grad_norm > 0
        require(good_clip, "train.max_grad_norm", self.max_grad_norm, "above 0, or null")
        growing = list(self.lr_milestones) == sorted(set(self.lr_milestones)) and all(m > 0 for m in self.lr_milestones)
        require(growing, "train.lr_milestones", self.lr_milestones, "growing epochs above 0")
        require(self.start_from != "", "train.start_from", self.start_from, "the path of a checkpoint, or null")
        starts = self.freeze == "none" or self.start_from is not None
        require(starts, "train.freeze", self.freeze, "none without train.start_from: drawn weights would be kept")
        require(self.teacher != "", "train.teacher", self.teacher, "cnn, the path of a checkpoint, or null")
        can_follow = self.teacher is None or self.freeze == "none" or self.guidance_weight == 0
        allowed = "0 where train.freeze is backbone: frozen features do not come closer to a teacher's"
        require(can_follow, "train.guidance_weight", self.guidance_weight, allowed)
        if self.compile == "graphs":
            for field in ("devices", "num_nodes", "accumulate_batches"):
                require(
                    getattr(self, field) == 1, f"train.{field}", getattr(self, field), "1 with train.compile graphs"
                )
        cannot_be_sharded = {
            "optimizer": self.optimizer in ("lamb", "muon"),
            "precision": self.precision == "16-mixed",
            "compile": self.compile != "none",
            "average_decay": self.average_decay > 0,
        }
        for field, is_set in cannot_be_sharded.items():
            good = self.strategy == "ddp" or not is_set
            require(good, f"train.{field}", getattr(self, field), "another value, or train.strategy ddp")


@dataclass(frozen=True)
class PretrainConfig:
    """Masked autoencoding: squares of images are hidden, and predicted from those that are visible.

    Batch size, optimizer, schedule, augmentation and seed are those of ``train`` and ``augment``. Each batch is a step
    (``train.accumulate_batches`` is not read), no box is erased and no images are mixed.

    Args:
        epochs: The number of passes over the training examples before ``train``.
        learning_rate: The highest learning rate, after warm-up.
        mask_fraction: The fraction of the squares of an image that is hidden.
        patch_size: The side of a square in pixels, a multiple of that of an input; null takes the square that an input
            of the model represents, and 4 pixels where an input is a pixel.
        unlabelled_table: A table of further scans, in the form of ``data.label_table`` and with paths in the same
            folder, whose labels are not read. Scans of patients who validate or are tested, or copies of theirs, are
            refused.
    """

    epochs: int = 100
    learning_rate: float = 1e-3
    mask_fraction: float = 0.75
    patch_size: int | None = None
    unlabelled_table: Path | None = None

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "pretrain.epochs", self.epochs, "1 or more")
        require(self.learning_rate > 0, "pretrain.learning_rate", self.learning_rate, "above 0")
        require(0 < self.mask_fraction < 1, "pretrain.mask_fraction", self.mask_fraction, "between 0 and 1")
        good_size = self.patch_size is None or self.patch_size >= 1
        require(good_size, "pretrain.patch_size", self.patch_size, "1 or more, or null")
