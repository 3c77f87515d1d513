"""An experiment: its name and the sections of its YAML file."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipeline.config.data import PreprocessConfig
from pipeline.config.model import ModelConfig
from pipeline.config.outputs import (
    AttentionConfig,
    CasesConfig,
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
)
from pipeline.config.phantom import PhantomConfig
from pipeline.config.sources import DataConfig, SplitConfig
from pipeline.config.studies import CrossValidateConfig, LeakStudyConfig, LearningCurveConfig, TuneConfig
from pipeline.config.tracking import TrackingConfig
from pipeline.config.training import AugmentConfig, PretrainConfig, TrainConfig
from pipeline.config.validation import require
from pipeline.core.serialization import to_plain
from pipeline.core.workspace import Workspace, join_names


@dataclass(frozen=True)
class Experiment:
    """All options of an experiment.

    Args:
        name: The name of the experiment and of its folders under data, runs and reports.
        run: The name of a run among others on the same data, such as ``seed-1``; folds add ``fold-N``.
        workspace: The folder that everything is written to.
        data: The files that are read.
        phantom: The synthetic knees that are made where ``data.dataset`` is ``phantom``.
        preprocess: The slices that a volume is cut into.
        split: The split of the patients into train, validation and test.
        model: The network.
        augment: The random changes of the training examples.
        pretrain: Learning from images without labels before training, and next to it.
        train: The training of the model.
        evaluate: The evaluation of the model on the test rows.
        predict: The new scans to score.
        export: The forms in which the model is exported.
        attention: The attention that is drawn, and the inputs that it is drawn over.
        cases: The single scans that are shown.
        compare: The runs that are put side by side.
        leak_study: The leak demonstration.
        cross_validate: Training and evaluating every fold or seed.
        learning_curve: The accuracy by the number of training patients.
        tune: The search for a recipe.
        tracking: The records in MLflow and TensorBoard.
    """

    name: str = "akoa"
    run: str = ""
    workspace: Path = Path()
    data: DataConfig = field(default_factory=DataConfig)
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    cases: CasesConfig = field(default_factory=CasesConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    leak_study: LeakStudyConfig = field(default_factory=LeakStudyConfig)
    cross_validate: CrossValidateConfig = field(default_factory=CrossValidateConfig)
    learning_curve: LearningCurveConfig = field(default_factory=LearningCurveConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        word = r"[A-Za-z0-9][A-Za-z0-9._-]*"
        require(re.fullmatch(word, self.name) is not None, "name", self.name, "letters, digits, '.', '_' and '-'")
        good_run = re.fullmatch(f"({word})?", self.run) is not None
        require(good_run, "run", self.run, "letters, digits, '.', '_' and '-', or nothing")

    @property
    def run_name(self) -> str:
        """The run's folder below the experiment's: the given name, and the fold where there are folds."""
        fold = f"fold-{self.split.test_fold}" if self.split.num_folds else ""
        return join_names(self.run, fold)

    @property
    def paths(self) -> Workspace:
        return Workspace(self.workspace, self.name, self.run_name, self.split.num_folds)


def dump_experiment(experiment: Experiment) -> str:
    """Return all options as YAML, in the order of their sections; ``--config`` reads it back."""
    return yaml.safe_dump(to_plain(experiment), sort_keys=False, allow_unicode=True)
