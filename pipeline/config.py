"""The options of an experiment, one frozen dataclass a section.

Each field is a line of the YAML file and an option of the command line
(``--section.field``); its description below is the text of ``--help``.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError

Plane = Literal["axial", "coronal", "sagittal"]
LossName = Literal["cross_entropy", "mse"]


def require(condition: bool, field: str, found: object, allowed: str) -> None:
    """Refuse an option's value.

    Raises:
        UserError: ``condition`` does not hold; the message names the field, the value and what is allowed.
    """
    if not condition:
        raise UserError(f"{field}: found {found!r}, allowed is {allowed}.")


@dataclass(frozen=True)
class DataConfig:
    """Which files are read.

    Args:
        dataset: the reader, a key of ``pipeline.datasets.DATASETS``.
        raw: the folder with the files as they came; without it ``data/NAME/raw`` of the workspace, and for a
            published set ``data/DATASET/raw``, which all experiments on it share.
        pattern: only file names that match are read, e.g. ``*Label1*``.
        table: a CSV with columns ``path, patient, label`` (paths relative to the raw folder), for names
            that carry no label or for other labels than the side.
        allow_partial: take a published set of which a part is missing; the report then says so.
    """

    dataset: str = "akoa"
    raw: Path | None = None
    pattern: str = "*"
    table: Path | None = None
    allow_partial: bool = False


@dataclass(frozen=True)
class PreprocessConfig:
    """How a volume becomes pictures.

    Args:
        plane: the anatomical plane of the pictures, found from the affine and never from the array's order.
        num_slices: pictures taken from a volume, evenly spaced.
        span: the part of the slicing axis that they span, as fractions of its length counted
            from the left, the posterior or the inferior end.
        spacing_mm: the size of an output pixel; without it the whole slice is fitted into ``size``.
        size: output height and width in pixels.
        percentiles: the intensities (in percent of the sliced voxels) that become black and white.
        max_volume_gib: a header that claims more than this is refused before anything is read.
        export_png: also write the pictures as PNG files under AKOA's own names.
        skip_refused: go on without the files that were refused, instead of ending with exit code 2.
        num_workers: processes; 0 means one a core.
    """

    plane: Plane = "axial"
    num_slices: int = 40
    span: tuple[float, float] = (0.1, 0.9)
    spacing_mm: float | None = None
    size: tuple[int, int] = (64, 64)
    percentiles: tuple[float, float] = (1.0, 99.0)
    max_volume_gib: float = 4.0
    export_png: bool = False
    skip_refused: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        require(self.num_slices >= 1, "preprocess.num_slices", self.num_slices, "1 or more")
        start, end = self.span
        require(0 <= start < end <= 1, "preprocess.span", self.span, "two growing fractions between 0 and 1")
        low, high = self.percentiles
        require(0 <= low < high <= 100, "preprocess.percentiles", self.percentiles, "two growing numbers, 0 to 100")
        require(min(self.size) >= 1, "preprocess.size", self.size, "two numbers of pixels, 1 or more")
        good_spacing = self.spacing_mm is None or self.spacing_mm > 0
        require(good_spacing, "preprocess.spacing_mm", self.spacing_mm, "a length above 0 mm, or null")
        require(self.max_volume_gib > 0, "preprocess.max_volume_gib", self.max_volume_gib, "above 0")
        require(self.num_workers >= 0, "preprocess.num_workers", self.num_workers, "0 (one a core) or more")


@dataclass(frozen=True)
class SplitConfig:
    """How patients are divided.

    A published set keeps its own test rows; only validation is drawn, from its training rows, image by image.

    Args:
        val_fraction: share of the patients for validation; of a published set, share of its training rows.
        val_count: of a published set, the number of rows for validation; null takes ``val_fraction``.
        test_fraction: share of the patients for the test; not read where the set has published test rows.
        num_folds: 0 for one split by fractions; k for k folds.
        test_fold: with folds, the one that is the test; the next one is validation.
        table: a CSV with columns ``group_id, split`` that is taken as it is.
        stratify: keep the mix of the patients' sets of labels in every split.
        seed: the draw.
        near_identical_bits: pictures of two splits whose 256-bit perceptual hashes differ
            in at most so many bits, and whose pixels correlate, are listed as near-identical.
    """

    val_fraction: float = 0.15
    val_count: int | None = None
    test_fraction: float = 0.25
    num_folds: int = 0
    test_fold: int = 0
    table: Path | None = None
    stratify: bool = True
    seed: int = 0
    near_identical_bits: int = 6

    def __post_init__(self) -> None:
        require(0 < self.val_fraction < 1, "split.val_fraction", self.val_fraction, "between 0 and 1")
        require(0 < self.test_fraction < 1, "split.test_fraction", self.test_fraction, "between 0 and 1")
        good_count = self.val_count is None or self.val_count >= 1
        require(good_count, "split.val_count", self.val_count, "1 or more, or null")
        total = self.val_fraction + self.test_fraction
        require(total < 1, "split.val_fraction + split.test_fraction", total, "below 1, or nothing is left to train")
        require(self.num_folds == 0 or self.num_folds >= 3, "split.num_folds", self.num_folds, "0, or 3 and more")
        good_fold = 0 <= self.test_fold < max(1, self.num_folds)
        require(good_fold, "split.test_fold", self.test_fold, f"0 to {max(1, self.num_folds) - 1}")
        require(0 <= self.near_identical_bits <= 255, "split.near_identical_bits", self.near_identical_bits, "0 to 255")


@dataclass(frozen=True)
class PointAugmentConfig:
    """Random changes of the training point clouds, drawn anew for every cloud and epoch.

    Changes come in the order rotation, stretch, scale, jitter; then the cloud is normalised to mean 0 and the unit
    cube, and displaced. Each cloud's points are a random choice of those stored.

    Args:
        scale: each point's distance from the centre is multiplied by its own factor, uniform between 1 - scale and
            1 + scale; one factor for the whole cloud would be undone by normalising.
        stretch: factor on each axis, log-uniform between 1 / (1 + stretch) and 1 + stretch.
        rotation_degrees: about the up axis, uniform between minus and plus this angle.
        up_axis: the axis that points up; z in all that our readers give, whatever the files have.
        jitter: standard deviation of Gaussian noise on each coordinate; half the longest side of the object is 1.
        shift: displacement along each axis, uniform between minus and plus; half the side of the unit cube is 1.
        dropout: the largest part of a cloud that is dropped, and filled up with copies of points that stay.
    """

    scale: float = 0.01
    stretch: float = 0.0
    rotation_degrees: float = 0.0
    up_axis: Literal["x", "y", "z"] = "z"
    jitter: float = 0.0
    shift: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in ("scale", "dropout"):
            value = getattr(self, field)
            require(0 <= value < 1, f"augment.points.{field}", value, "0 to below 1")
        for field in ("stretch", "jitter", "shift"):
            value = getattr(self, field)
            require(value >= 0, f"augment.points.{field}", value, "0 or more")
        degrees = self.rotation_degrees
        require(0 <= degrees <= 180, "augment.points.rotation_degrees", degrees, "0 to 180")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training pictures, drawn anew for every picture and epoch.

    Args:
        rotation_degrees: in-plane rotation, uniform between minus and plus this angle.
        zoom: relative size, uniform between 1 - zoom and 1 + zoom.
        shift: displacement as a fraction of the picture's side, uniform between minus and plus.
        contrast: exponent of the intensities (gamma), log-uniform between 1 / (1 + contrast) and 1 + contrast.
        brightness: factor on the intensities, uniform between 1 - brightness and 1 + brightness.
        noise: standard deviation of Gaussian noise; 1 is the range from black to white.
        mirror: ``swap`` mirrors left and right in half of the pictures and swaps the label (laterality only);
            ``keep`` mirrors and keeps the label (refused where the labels are left and right); ``none``.
        crop_padding: random crops: each picture is padded with so many black pixels on every side and a window of
            its own size is cut out at a random place.
        erase_probability: share of the pictures that lose a random box, which takes the training pictures' mean.
        erase_area: the box's area as a fraction of the picture's, uniform between these two.
        mixup_alpha: average each picture, and its label, with another of the batch; its share is drawn from
            Beta(alpha, alpha): small alphas hardly mix, 1 is uniform, 0 is off.
        cutmix_alpha: paste a box of another picture of the batch, whose area is drawn from Beta(alpha, alpha), and mix
            the labels by the areas; 0 is off. With both, each batch gets one of the two.
        points: changes of point clouds; the others are changes of pictures.
    """

    rotation_degrees: float = 10.0
    zoom: float = 0.1
    shift: float = 0.05
    contrast: float = 0.2
    brightness: float = 0.1
    noise: float = 0.02
    mirror: Literal["none", "keep", "swap"] = "none"
    crop_padding: int = 0
    erase_probability: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.33)
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    points: PointAugmentConfig = dataclasses.field(default_factory=PointAugmentConfig)

    def __post_init__(self) -> None:
        require(0 <= self.rotation_degrees <= 180, "augment.rotation_degrees", self.rotation_degrees, "0 to 180")
        for field in ("zoom", "shift", "brightness"):
            value = getattr(self, field)
            require(0 <= value < 1, f"augment.{field}", value, "0 to below 1")
        for field in ("contrast", "noise", "crop_padding", "mixup_alpha", "cutmix_alpha"):
            value = getattr(self, field)
            require(value >= 0, f"augment.{field}", value, "0 or more")
        require(0 <= self.erase_probability <= 1, "augment.erase_probability", self.erase_probability, "0 to 1")
        low, high = self.erase_area
        require(0 < low <= high < 1, "augment.erase_area", self.erase_area, "two growing fractions between 0 and 1")


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
        gamma: the factor of step, multistep (each time) and exponential (each epoch).
        step_epochs: with ``step``, the epochs between two falls.
        milestones: with ``multistep``, the epochs after which the rate falls.
        final_fraction: with ``cosine``, the last rate as a fraction of the highest.
        clip_norm: largest gradient norm; null leaves gradients as they are.
        label_smoothing: share of the target that is spread over all classes.
        early_stopping_epochs: stop after so many epochs without a better validation; 0 never stops.
        select_by: what makes an epoch the best.
        seed: of the initial weights, the order, the augmentation and dropout.
        precision: ``auto`` takes bf16 where the processor computes in it, else float32.
        accelerator: where training runs; ``auto`` takes a GPU where there is one.
        devices: devices on each machine.
        num_nodes: machines.
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
    gamma: float = 0.1
    step_epochs: int = 10
    milestones: tuple[int, ...] = ()
    final_fraction: float = 0.01
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    early_stopping_epochs: int = 0
    select_by: Literal["val_loss", "val_accuracy"] = "val_loss"
    seed: int = 0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    compile: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "step_epochs", "devices", "num_nodes"):
            value = getattr(self, field)
            require(value >= 1, f"train.{field}", value, "1 or more")
        require(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        require(all(0 <= beta < 1 for beta in self.betas), "train.betas", self.betas, "two numbers, 0 to below 1")
        for field in ("weight_decay", "warmup_epochs", "early_stopping_epochs"):
            value = getattr(self, field)
            require(value >= 0, f"train.{field}", value, "0 or more")
        require(0 < self.gamma <= 1, "train.gamma", self.gamma, "above 0, at most 1")
        require(0 <= self.final_fraction <= 1, "train.final_fraction", self.final_fraction, "0 to 1")
        require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "0 to below 1")
        good_clip = self.clip_norm is None or self.clip_norm > 0
        require(good_clip, "train.clip_norm", self.clip_norm, "above 0, or null")
        growing = list(self.milestones) == sorted(set(self.milestones)) and all(m > 0 for m in self.milestones)
        require(growing, "train.milestones", self.milestones, "growing epochs above 0")


@dataclass(frozen=True)
class EvaluateConfig:
    """How the trained model is judged.

    Args:
        batch_size: examples scored at once.
        num_resamples: bootstrap draws over patients behind each interval.
        seed: of the bootstrap.
        logistic_regression: also fit the baseline on raw pixels; point clouds have none.
        logistic_regression_examples: training examples that it is fitted on; of more, so many are drawn at random.
        checkpoint: the weights to judge; without it the run's best.
    """

    batch_size: int = 256
    num_resamples: int = 2000
    seed: int = 0
    logistic_regression: bool = True
    logistic_regression_examples: int = 10_000
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "evaluate.batch_size", self.batch_size, "1 or more")
        num_fitted = self.logistic_regression_examples
        require(num_fitted >= 2, "evaluate.logistic_regression_examples", num_fitted, "2 or more")
        require(self.num_resamples >= 100, "evaluate.num_resamples", self.num_resamples, "100 or more")


@dataclass(frozen=True)
class PredictConfig:
    """New scans to score.

    Args:
        inputs: files, or folders that are searched for them.
        checkpoint: the weights; without it the run's best.
        output: the CSV to write; without it ``predictions_new.csv`` in the report folder.
    """

    inputs: tuple[Path, ...] = ()
    checkpoint: Path | None = None
    output: Path | None = None


@dataclass(frozen=True)
class AttentionConfig:
    """Which attention is drawn over which inputs.

    Args:
        every_epochs: in training, keep the maps of some validation examples after every so many epochs
            (cross-attention, all layers and heads, mean over the latents); 0 keeps none.
        num_examples: how many examples, spread over classes and patients.
        split: where they are taken from; ``test`` is for after the model was chosen.
        examples: these ``example_id`` instead.
        kind: cross: what latents read of the inputs. self: what latents read of latents.
        layers: which attentions of this kind, counted from 0; none means all.
        heads: which heads; none means all.
        latents: which latents, each shown by itself; none means the mean over all.
        mirrored: look at mirror images, the second pass of ``model.mirror_average``.
        epochs: of the maps kept in training those to draw; none means up to six, evenly spread.
        checkpoint: the weights; without it the run's best.
    """

    every_epochs: int = 0
    num_examples: int = 6
    split: Literal["train", "val", "test"] = "val"
    examples: tuple[str, ...] = ()
    kind: Literal["cross", "self"] = "cross"
    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    latents: tuple[int, ...] = ()
    mirrored: bool = False
    epochs: tuple[int, ...] = ()
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        require(self.every_epochs >= 0, "attention.every_epochs", self.every_epochs, "0 (never) or more")
        require(self.num_examples >= 1, "attention.num_examples", self.num_examples, "1 or more")
        for field in ("examples", "layers", "heads", "latents", "epochs"):
            values = getattr(self, field)
            require(len(set(values)) == len(values), f"attention.{field}", values, "each value once")


@dataclass(frozen=True)
class ReportConfig:
    """Which runs are put side by side.

    Args:
        runs: report folders, or names such as ``phantom/seed-1`` below the workspace's reports; without them, all
            evaluated runs of the experiment. The first is the one that the others are compared with.
        num_examples: test inputs shown with their true and predicted classes.
        num_resamples: bootstrap draws over patients behind each interval of a difference.
        seed: of the bootstrap and of the choice of examples.
        output: the page to write; without it ``comparison.html`` in the experiment's report folder.
    """

    runs: tuple[Path, ...] = ()
    num_examples: int = 24
    num_resamples: int = 2000
    seed: int = 0
    output: Path | None = None

    def __post_init__(self) -> None:
        require(self.num_examples >= 0, "report.num_examples", self.num_examples, "0 or more")
        require(self.num_resamples >= 100, "report.num_resamples", self.num_resamples, "100 or more")


@dataclass(frozen=True)
class TrackingConfig:
    """Where MLflow keeps the records.

    Args:
        enabled: false keeps no records in MLflow.
        uri: a tracking server or database; without it ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` here.
    """

    enabled: bool = True
    uri: str | None = None
