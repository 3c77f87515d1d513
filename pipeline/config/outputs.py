"""The options of the stages that use a trained model."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config.validation import require, require_at_least

ExportFormat = Literal["torch", "onnx", "bundle", "hub"]
# What the tables of predict say of a scan, apart from the probabilities.
PREDICTED_COLUMNS = ("path", "predicted", "num_slices", "slices", "slice_index", "abstained", "warnings", "reason")


@dataclass(frozen=True)
class EvaluateConfig:
    """The evaluation of the trained model on the test rows.

    Args:
        batch_size: The number of examples scored at once.
        num_bootstrap_resamples: The number of bootstrap resamples of the patients for the intervals of scores that are
            neither a proportion nor the AUROC of two classes.
        seed: The seed of the bootstrap.
        logistic_regression: Also fit the baseline on raw pixels; point clouds have none.
        logistic_regression_examples: The largest number of training examples that the baseline is fitted on; of more,
            so many are drawn at random.
        wanted_sensitivity: The sensitivity that a threshold is chosen for, on validation; of two classes.
        wanted_specificity: The specificity that another threshold is chosen for.
        prevalence: The fraction of the last of two classes where the model is to be used, for its net benefit; without
            it that of the test rows.
        subgroups: Facts of the scans whose values are scored apart: ``side``, ``visit``, ``site`` and the columns of
            ``data.covariates``; of numbers with the number of their quantiles, as ``age:4``.
        external: A table of labelled scans or images of another site (``path, patient, label``, as
            ``data.label_table``) that the run is validated on, with nothing refitted; paths are relative to its
            folder, and its split is not read.
        checkpoint: The weights to evaluate; without it the run's best.
        ensemble: The runs that are evaluated as one model, with the mean of their probabilities: names such as
            ``seed-1``, or with ``*`` all that fit, folders of runs, or checkpoints. None of them may have seen a test
            patient. The report goes to ``ensemble`` below the experiment's.
    """

    batch_size: int = 256
    num_bootstrap_resamples: int = 2000
    seed: int = 0
    logistic_regression: bool = True
    logistic_regression_examples: int = 10_000
    wanted_sensitivity: float = 0.95
    wanted_specificity: float = 0.95
    prevalence: float | None = None
    subgroups: tuple[str, ...] = ()
    external: Path | None = None
    checkpoint: Path | None = None
    ensemble: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_alone("evaluate", self.ensemble, self.checkpoint)
        require_at_least("evaluate", self, 1, "batch_size")
        require_at_least("evaluate", self, 2, "logistic_regression_examples")
        require_at_least("evaluate", self, 100, "num_bootstrap_resamples")
        for name in ("wanted_sensitivity", "wanted_specificity"):
            require(0 < getattr(self, name) <= 1, f"evaluate.{name}", getattr(self, name), "above 0, to 1")
        good = self.prevalence is None or 0 < self.prevalence < 1
        require(good, "evaluate.prevalence", self.prevalence, "between 0 and 1")
        names = [text.partition(":")[0] for text in self.subgroups]
        good_numbers = all(re.fullmatch(r"[^:]+(:([2-9]|10))?", text) for text in self.subgroups)
        allowed = "names of columns, each once, of numbers with 2 to 10 quantiles, such as [side, age:4]"
        require(good_numbers and len(set(names)) == len(names), "evaluate.subgroups", list(self.subgroups), allowed)


@dataclass(frozen=True)
class PredictConfig:
    """New scans to score.

    Args:
        inputs: The files, folders that are searched for them, or tables (CSV, TSV, XLSX) with a column of paths, which
            is called ``path`` or as ``data.columns.path`` says.
        checkpoint: The weights; without it the run's best.
        ensemble: The runs that answer as one model, with the mean of their probabilities: names such as ``seed-1``, or
            with ``*`` all that fit (``fold-*``), folders of runs, or checkpoints.
        output: The table to write, ``.csv`` or ``.json``; without it ``predictions_new.csv`` in the report folder.
        slice_output: A second table, ``.csv`` or ``.json``, with the probabilities of each slice of a volume; without
            it none is written.
        keep_columns: Columns of the tables among ``inputs`` that go into ``output`` as they are, such as ``patient``;
            all others are dropped.
        min_confidence: The least probability; where the highest is below it, the row is marked ``abstained``. 0 marks
            none.
    """

    inputs: tuple[Path, ...] = ()
    checkpoint: Path | None = None
    ensemble: tuple[str, ...] = ()
    output: Path | None = None
    slice_output: Path | None = None
    keep_columns: tuple[str, ...] = ()
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        require_alone("predict", self.ensemble, self.checkpoint)
        for name in ("output", "slice_output"):
            path = getattr(self, name)
            good_suffix = path is None or path.suffix.lower() in (".csv", ".json")
            require(good_suffix, f"predict.{name}", path, "a name that ends in .csv or .json")
        are_two = self.slice_output is None or self.slice_output != self.output
        require(are_two, "predict.slice_output", self.slice_output, "another file than predict.output")
        is_free = not any(name in PREDICTED_COLUMNS or name.startswith("probability_") for name in self.keep_columns)
        allowed = f"each once, none of {', '.join(PREDICTED_COLUMNS)}, probability_<class>: rename it in the table"
        is_once = len(set(self.keep_columns)) == len(self.keep_columns)
        require(is_free and is_once, "predict.keep_columns", list(self.keep_columns), allowed)
        require(0 <= self.min_confidence <= 1, "predict.min_confidence", self.min_confidence, "0 to 1")


@dataclass(frozen=True)
class ExportConfig:
    """The forms in which the trained model is exported.

    Args:
        formats: The forms. torch: a ``torch.export`` program. onnx: an ONNX model. bundle: a MONAI bundle, of scans
            and images. hub: a folder for model hubs, which ``load_model`` reads.
        checkpoint: The weights; without it the run's best.
        output: The folder to write; without it ``export`` in the run's folder.
        licence: The licence of the weights in the folder for hubs, as they write it, such as ``apache-2.0``; the data
            may not allow every one. ``other`` states none.
    """

    formats: tuple[ExportFormat, ...] = ("torch", "onnx", "bundle", "hub")
    checkpoint: Path | None = None
    output: Path | None = None
    licence: str = "other"

    def __post_init__(self) -> None:
        good = len(self.formats) >= 1 and len(set(self.formats)) == len(self.formats)
        require(good, "export.formats", self.formats, "one or more, each once")


@dataclass(frozen=True)
class AttentionConfig:
    """The attention that is drawn, and the inputs that it is drawn over.

    Args:
        num_examples: The number of examples, spread over classes and patients.
        split: The split that they are taken from; ``test`` is for after the model was chosen.
        examples: The ``example_id`` of examples to draw instead.
        kind: The kind of attention. cross: from latents to inputs. self: from latents to latents.
        layers: The attentions of this kind, counted from 0; none means all.
        heads: The heads; none means all.
        latents: The latents, each shown by itself; none means the mean over all.
        mirrored: Use mirror images, the second pass of ``model.mirror_tta``.
        native_resolution: Draw over the slices of the scans themselves, in their own pixels, instead of the stored
            slices; only for volumes whose files are still in the raw folder.
        interpolation: The interpolation of the weights in the large figures. nearest: a flat square for each input.
            smooth: linear between the centres of the inputs.
        epochs: The epochs to draw of the maps kept in training; none means up to six, evenly spread.
        checkpoint: The weights; without it the run's best.
    """

    num_examples: int = 6
    split: Literal["train", "val", "test"] = "val"
    examples: tuple[str, ...] = ()
    kind: Literal["cross", "self"] = "cross"
    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    latents: tuple[int, ...] = ()
    mirrored: bool = False
    native_resolution: bool = False
    interpolation: Literal["nearest", "smooth"] = "nearest"
    epochs: tuple[int, ...] = ()
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        require_at_least("attention", self, 1, "num_examples")
        for field in ("examples", "layers", "heads", "latents", "epochs"):
            values = getattr(self, field)
            require(len(set(values)) == len(values), f"attention.{field}", values, "each value once")


@dataclass(frozen=True)
class CasesConfig:
    """The single scans that are shown.

    Args:
        num_worst: The number of scans that were answered wrongly, those of the highest confidence.
        num_uncertain: The number of scans whose two most likely classes are closest.
        num_random: The number of scans drawn at random from the others.
        seed: The seed of this choice.
        max_voxels: The greatest length of an axis of a volume on the page; longer ones are reduced. Twenty volumes of
            96 make a page of 24 MB.
    """

    num_worst: int = 7
    num_uncertain: int = 7
    num_random: int = 6
    seed: int = 0
    max_voxels: int = 96

    def __post_init__(self) -> None:
        require_at_least("cases", self, 0, "num_worst", "num_uncertain", "num_random")
        require_at_least("cases", self, 8, "max_voxels")


@dataclass(frozen=True)
class CompareConfig:
    """The runs that are put side by side.

    Args:
        runs: The report folders, or names such as ``phantom/seed-1`` below the workspace's reports. The first is the
            one that the others are compared with. Without them all evaluated runs of the experiment are listed, the
            best on validation first, and no differences are tested.
        num_examples: The number of test inputs shown with their true and predicted classes.
        num_bootstrap_resamples: The number of bootstrap resamples of the patients for each interval of a difference.
        num_permutations: The number of exchanges of two runs' predictions for each p-value; of up to 12 patients all
            are computed.
        primary_level: The level, such as ``volume``, of the one comparison that is tested at 5 % by itself; without it
            that of the rows. All other comparisons are corrected for their number.
        primary_metric: The score of that comparison. Choose both before you see the results.
        seed: The seed of the bootstrap, of the exchanges and of the choice of examples.
        output: The page to write; without it ``comparison.html`` in the experiment's report folder.
        register: Give the run that is best on validation a version in MLflow's registry, with the alias ``best``.
    """

    runs: tuple[Path, ...] = ()
    num_examples: int = 24
    num_bootstrap_resamples: int = 2000
    num_permutations: int = 2000
    primary_level: str = ""
    primary_metric: Literal["accuracy", "balanced_accuracy", "auroc", "nll"] = "accuracy"
    seed: int = 0
    output: Path | None = None
    register: bool = False

    def __post_init__(self) -> None:
        require_at_least("compare", self, 0, "num_examples")
        require_at_least("compare", self, 100, "num_bootstrap_resamples", "num_permutations")


def require_alone(section: str, ensemble: tuple[str, ...], checkpoint: Path | None) -> None:
    """Refuse an ensemble next to a checkpoint, and a run that it has twice."""
    alone = not ensemble or checkpoint is None
    require(alone, f"{section}.checkpoint", checkpoint, f"null with {section}.ensemble, which can hold it")
    once = len(set(ensemble)) == len(ensemble)
    require(once, f"{section}.ensemble", list(ensemble), "names of runs, each once")
