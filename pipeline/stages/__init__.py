"""The stages in the order of work, with a description and the options that each reads.

The code of a stage is imported when it runs.
"""

import gc
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.collector import pause_collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console

    from pipeline.config.experiment import Experiment

# The options that locate an experiment; every stage reads them.
PLACE = ("name", "run", "workspace", "split.num_folds", "split.test_fold")


def is_among(name: str, listed: "Iterable[str]") -> bool:
    """Return whether an option, such as ``train.epochs``, or its section is in a list."""
    return any(name == item or name.startswith(f"{item}.") for item in listed)


@dataclass(frozen=True)
class Stage:
    """A stage as the command line lists it; its module and its function have its name.

    Args:
        name: The name of the stage on the command line.
        description: The description of the stage, in one line.
        reads: Sections and single options that change what the stage does, without those of ``PLACE``.
        first: Those of them that its help begins with; empty where it shows all.
        inputs: The option that takes words without a name; empty where none is allowed.
        inputs_meaning: The description of those words.
        package: The package of its module.
    """

    name: str
    description: str
    reads: tuple[str, ...]
    first: tuple[str, ...] = ()
    inputs: str = ""
    inputs_meaning: str = ""
    package: str = "pipeline.stages"

    def reads_option(self, name: str) -> bool:
        """Return whether an option, such as ``train.epochs``, changes what the stage does."""
        return is_among(name, (*PLACE, *self.reads))

    def load(self) -> "Callable[[Experiment, Console], None]":
        """Import the module of the stage and return its function."""
        name = self.name.replace("-", "_")
        function: Callable[[Experiment, Console], None] = getattr(
            importlib.import_module(f"{self.package}.{name}"), name
        )
        return function

    def run(self, experiment: "Experiment", console: "Console", is_alone: bool = False) -> None:
        """Import the stage and run it.

        Args:
            experiment: The experiment.
            console: The console that the stage prints on.
            is_alone: Whether the process is there for this stage alone, so that all that is loaded by now stays.
        """
        from pipeline.core.console import working  # rich is not needed for help

        with working("loading the program", console), pause_collector():
            function = self.load()
        if is_alone:
            gc.freeze()  # half a second of the first search for garbage would look at modules
        function(experiment, console)


_STUDIES = "pipeline.stages.studies"
# Of the loss of hidden squares next to that of the labels.
_AUXILIARY = ("pretrain.mask_fraction", "pretrain.patch_size")
_TRAIN = (
    "data.label_type",
    "data.label_order",
    "preprocess.plane",
    "preprocess.num_slices",
    "model",
    "augment",
    "train",
    *_AUXILIARY,
    "attention.num_examples",
    "tracking",
)
# The options of a training that are set most often.
_RECIPE = (
    *("model.architecture", "model.stem", "model.perceiver.num_latents", "augment.horizontal_flip"),
    *("train.epochs", "train.batch_size", "train.learning_rate", "train.class_weights", "train.teacher"),
    *("train.early_stopping_epochs", "train.seed", "train.accelerator"),
)
# Of what finds the scans' own files again.
_SCANS = ("data.dataset", "data.raw_folder", "data.oai", "data.pattern", "data.label_table", "data.columns")
_EVALUATE = (
    *_SCANS,
    "data.variant",
    "data.label_type",
    "data.label_order",
    "data.covariates",
    "data.bins",
    "data.merge",
    "data.split_values",
    "preprocess.num_workers",
    "preprocess.skip_refused",
    "split",
    "train.accelerator",
    "evaluate",
    "attention.num_examples",
    "tracking",
)
STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "fetch",
            "Download or make the raw data, or check that they are there.",
            ("data.dataset", "data.variant", "data.raw_folder", "phantom", "preprocess.num_workers"),
        ),
        Stage(
            "preprocess",
            "Cut volumes into slices, fit images, or read a published set, and write the example store.",
            ("data", "preprocess"),
            (
                *("name", "workspace", "data.dataset", "data.raw_folder", "data.pattern", "data.label_table"),
                *("data.label_type", "data.columns", "preprocess.plane", "preprocess.num_slices"),
                *("preprocess.image_size", "preprocess.skip_refused", "preprocess.num_workers"),
            ),
        ),
        Stage(
            "split",
            "Split the patients, or the training rows of a published set; write the table and the leak certificate.",
            ("split",),
        ),
        Stage(
            "pretrain",
            "Learn from the training images without labels, and from further scans; an interrupted run is resumed.",
            ("data", "preprocess", "split.accept_copies", "model", "augment", "train", "pretrain"),
            ("name", "run", "workspace", "pretrain", *_RECIPE),
        ),
        Stage(
            "train",
            "Train the model; an interrupted run is resumed.",
            _TRAIN,
            ("name", "run", "workspace", *_RECIPE, "train.start_from", "tracking.enabled"),
        ),
        Stage(
            "evaluate",
            "Score the validation and the test examples; write predictions, metrics and the report.",
            _EVALUATE,
            ("name", "run", "workspace", "evaluate", "train.accelerator"),
        ),
        Stage(
            "predict",
            "Score new volumes, images, or meshes and point clouds; write a row for each.",
            ("data.columns.path", "train.accelerator", "evaluate.batch_size", "predict"),
            inputs="predict.inputs",
            inputs_meaning="Files (NIfTI, archives of a DICOM series; images, for models of images), folders of them "
            "or of a series, or a table (CSV, TSV, XLSX) with a column of paths.",
        ),
        Stage(
            "export",
            "Write the trained model as torch.export program, ONNX model, MONAI bundle and folder for model hubs.",
            ("export",),
        ),
        Stage(
            "attention",
            "Draw the attention of the trained model.",
            (
                *_SCANS,
                *("data.label_type", "data.label_order"),
                "train.accelerator",
                "attention",
                "tracking",
            ),
            ("name", "run", "workspace", "attention", "train.accelerator"),
        ),
        Stage(
            "cases",
            "Show single scans in three planes: the worst answers, the most uncertain ones and a random sample.",
            (
                *_SCANS,
                *("preprocess.intensity_percentiles", "preprocess.max_volume_gib", "cases"),
            ),
            ("name", "run", "workspace", "data.raw_folder", "cases"),
        ),
        Stage(
            "compare",
            "Compare evaluated runs on one page: scores, curves, confusion matrices, differences, examples, attention.",
            ("compare", "tracking.uri"),
            inputs="compare.runs",
            inputs_meaning="Report folders, or names such as phantom/seed-1; without them, all runs of the experiment.",
            package=_STUDIES,
        ),
        Stage(
            "leak-study",
            "Show what leaks do: several ways to split, true and shuffled labels.",
            (
                "data.dataset",
                "preprocess.num_slices",
                "split",
                "model",
                *(
                    "train.batch_size",
                    "train.optimizer",
                    "train.betas",
                    "train.final_lr_fraction",
                    "train.max_grad_norm",
                ),
                *("train.precision", "train.accelerator", "train.strategy"),
                "evaluate",
                "leak_study",
                "tracking",
            ),
            ("name", "workspace", "leak_study", "split.stratify", "train.batch_size", "train.accelerator"),
            package=_STUDIES,
        ),
        Stage(
            "cross-validate",
            "Train and evaluate every fold, or every seed, and pool the predictions.",
            (*_TRAIN, *_EVALUATE, "cross_validate"),
            ("name", "run", "workspace", "cross_validate", "split.num_folds", *_RECIPE),
            package=_STUDIES,
        ),
        Stage(
            "tune",
            "Search for a recipe in a declared space, on validation patients alone; several processes share it.",
            (
                *("data.dataset", "data.label_type", "data.label_order", "preprocess.plane", "preprocess.num_slices"),
                *("model", "augment", "train", *_AUXILIARY, "tune", "tracking"),
            ),
            ("name", "run", "workspace", "tune", *_RECIPE),
            package=_STUDIES,
        ),
        Stage(
            "learning-curve",
            "Draw the accuracy by the number of training patients: Perceiver, CNN and logistic regression.",
            (
                *("data.dataset", "data.label_type", "data.label_order", "preprocess.plane", "preprocess.num_slices"),
                *("model", "augment", "train", *_AUXILIARY, "evaluate", "learning_curve", "tracking"),
            ),
            ("name", "run", "workspace", "learning_curve", *_RECIPE),
            package=_STUDIES,
        ),
    )
}
# Commands that are not a single stage: one needs no config yet, the other is several stages.
COMMANDS = {
    "init": "Look at labelled files, a table or a folder, and write a commented config for them.",
    "run": "Run fetch, preprocess, split, train and evaluate; what is done already is not done again.",
}
RUN = ("fetch", "preprocess", "split", "train", "evaluate")
