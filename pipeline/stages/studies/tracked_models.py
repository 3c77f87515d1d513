"""The models of a study with a run of MLflow each, below that of the study."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import working, working_in_parts
from pipeline.core.errors import UserError
from pipeline.core.text import count_words
from pipeline.core.workspace import Workspace
from pipeline.data.store import Store
from pipeline.studies.kept_models import OnEpoch, Outcome, is_complete, measure, write_run
from pipeline.tracking.mlflow_run import TrackedRun, open_run
from pipeline.tracking.records import DatasetUse, RunFacts, name_files
from pipeline.training.history import write_history
from pipeline.training.loop.epochs import DivergenceError


@dataclass(frozen=True)
class StudyModel:
    """A model of a study.

    Args:
        study: The name of the study.
        path: The path of its record, which has its name; its predictions are next to it.
        settings: All that shapes it, but its seed where its name has that; a record with others is of another study.
        seed: Its seed.
        epochs: The number of epochs of its training; 0 where it has none.
        use: The data that it is trained on.
        advice: What to do where its loss is no number; empty for what training says.
    """

    study: str
    path: Path
    settings: dict[str, Any]
    seed: int
    epochs: int
    use: DatasetUse
    advice: str = ""


@dataclass(frozen=True)
class OpenStudy:
    """A study that is under way.

    Args:
        experiment: All options.
        store: The examples, with the names of rows, groups and classes.
        parent: The MLflow run of the study.
        console: The console to print on.
    """

    experiment: Experiment
    store: Store
    parent: TrackedRun
    console: Console

    def complete(self, model: StudyModel, train: Callable[[OnEpoch], Outcome]) -> None:
        """Train and score a model, unless its record says that this was done.

        Args:
            model: The model.
            train: The function that trains and scores it, and calls another one after each epoch.

        Raises:
            UserError: Its loss becomes NaN or infinite; the message names it.
        """
        if not is_complete(model.path, model.settings):
            self._train(model, train)
        elif self.parent.is_reached:
            self._track(model).send_rest()

    def _track(self, model: StudyModel) -> TrackedRun:
        """Open the MLflow run of one training, below that of the study."""
        tracking = dataclasses.replace(self.experiment.tracking, parent_run=self.parent.run_id)
        name = Workspace(self.experiment.workspace, self.experiment.name, f"{model.study}-{model.path.stem}")
        return open_run(tracking, name, name_tracking_record(model.path))

    def _train(self, model: StudyModel, train: Callable[[OnEpoch], Outcome]) -> None:
        """Train and score one model; write its predictions, then its record, and keep an MLflow run of it."""
        paths, name, settings = self.experiment.paths, model.path.stem, model.settings
        # An existing record belongs to an interrupted training, or to other settings.
        name_tracking_record(model.path).unlink(missing_ok=True)
        with self._track(model) as tracked:
            tracked.keep(RunFacts(settings=settings | {"train.seed": model.seed}, datasets=(model.use,)))
            with working(name, self.console):
                tracked.sync()
            with working_in_parts(name, model.epochs, self.console) as move:
                try:
                    outcome, facts = measure(
                        lambda: train(lambda result: move(f"{result.epoch} of {model.epochs} epochs", 1.0))
                    )
                except DivergenceError as error:
                    study = model.study.replace("_", "-")
                    raise UserError(f"{study}, {name}: {error.found} {model.advice or error.advice}") from error
            record = {"settings": settings, "facts": facts | {"tracking_run": tracked.run_id}}
            history = model.path.with_name(f"{name}-history.csv")
            if outcome.history:
                write_history(history, outcome.history)
            write_run(model.path, outcome.predictions, self.store.class_names, record)
            tracked.keep(
                RunFacts(
                    metrics={f"test_{self.store.kind.example}_accuracy": facts["accuracy"]},
                    files=name_files(paths, [model.path.with_suffix(".csv")]),
                    history=paths.name_file(history) if outcome.history else "",
                )
            )
        self._print(name, facts)

    def _print(self, name: str, facts: dict[str, Any]) -> None:
        kind = self.store.kind
        groups = f" of {count_words(facts['groups'], kind.group)}" if kind.has_patients else ""
        self.console.print(
            f"  {name}: accuracy {100 * facts['accuracy']:.1f} % on {count_words(facts['n'], kind.example)}{groups}, "
            f"{facts['seconds']:.0f} s",
            highlight=False,
        )


def name_tracking_record(path: Path) -> Path:
    """Return the file that keeps what MLflow is sent of a model."""
    return path.parent / "mlflow" / path.name
