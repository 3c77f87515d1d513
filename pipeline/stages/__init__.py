"""The stages: a function each, and one line in ``STAGES``, in the order of work."""

from collections.abc import Callable

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.stages.attention import attention
from pipeline.stages.compare import report
from pipeline.stages.cross_validate import folds
from pipeline.stages.evaluate import evaluate
from pipeline.stages.export import export
from pipeline.stages.fetch import fetch
from pipeline.stages.leak_study import audit
from pipeline.stages.predict import predict
from pipeline.stages.preprocess import preprocess
from pipeline.stages.split import split
from pipeline.stages.train import train

STAGES: dict[str, Callable[[Experiment, Console], None]] = {
    "fetch": fetch,
    "preprocess": preprocess,
    "split": split,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "attention": attention,
    "report": report,
    "audit": audit,
    "folds": folds,
}
