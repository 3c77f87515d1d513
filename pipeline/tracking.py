"""The one door to MLflow.

A run is addressed by its id and nothing is kept in MLflow's process-wide state, so that a stage can
re-open the run of an earlier one.
"""

import dataclasses
import logging
import os
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

import perceiver
from pipeline.config import TrackingConfig
from pipeline.errors import UserError
from pipeline.history import EpochResult
from pipeline.provenance import read_versions
from pipeline.workspace import Workspace

MAX_VALUE_LENGTH = 500


class Tracker:
    """Records of one run that go nowhere: what is used where tracking is off.

    Args:
        run_id: of the run in MLflow; empty without one.
    """

    def __init__(self, run_id: str = "") -> None:
        self.run_id = run_id

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep the options, ``section.field`` -> value."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keep facts such as versions and fingerprints; later ones replace earlier ones."""

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as a file called ``name``."""

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, or of a folder with all that is in it."""

    def log_dataset(self, name: str, fingerprint: str, source: str, role: str) -> None:
        """Say which data the run used as what."""

    def log_history(self, history: Sequence[EpochResult]) -> None:
        """Keep the curves; epochs that are there already are left as they are."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Keep numbers."""

    def log_model(
        self,
        checkpoint_path: Path,
        image_shape: tuple[int, ...],
        num_classes: int,
        tags: Mapping[str, str],
        dtype: str = "uint8",
    ) -> None:
        """Keep the model with its signature, ready to be served; one a run.

        Args:
            checkpoint_path: the weights.
            image_shape: of a picture, (height, width) or (channels, height, width); of a cloud, (points, 3).
            num_classes: probabilities a picture.
            tags: facts about the model.
            dtype: of the numbers in a picture or cloud.
        """

    def finish(self, status: str = "FINISHED") -> None:
        """Say how the run ended: FINISHED, FAILED or KILLED."""


class MlflowTracker(Tracker):
    """Records of one run in MLflow.

    Args:
        client: of ``MlflowClient``.
        run_id: of a run that exists.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        super().__init__(run_id)
        self.client = client

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:MAX_VALUE_LENGTH]) for name, value in settings.items()]
        known = self.client.get_run(self.run_id).data.params
        # MLflow refuses to change a parameter; a run that goes on differs at most in how it is executed.
        new = [param for param in params if param.key not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.run_id, params=new[start : start + 100])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_text(self, text: str, name: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(self.run_id, str(path), folder)

    def log_dataset(self, name: str, fingerprint: str, source: str, role: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=fingerprint, source_type="local", source=f'{{"uri": "{source}"}}')
        tag = InputTag(key="mlflow.data.context", value=role)
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [tag])])

    def log_history(self, history: Sequence[EpochResult]) -> None:
        known = {metric.step for metric in self.client.get_metric_history(self.run_id, "val_loss")}
        for result in history:
            if result.epoch not in known:
                numbers = dataclasses.asdict(result)
                numbers.pop("epoch")
                self.log_metrics(numbers, step=result.epoch)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def log_model(
        self,
        checkpoint_path: Path,
        image_shape: tuple[int, ...],
        num_classes: int,
        tags: Mapping[str, str],
        dtype: str = "uint8",
    ) -> None:
        import mlflow.pyfunc
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        signature = ModelSignature(
            inputs=Schema(
                [
                    TensorSpec(np.dtype(dtype), (-1, *image_shape), "images"),
                    TensorSpec(np.dtype("float32"), (-1,), "slice_position"),
                ]
            ),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, num_classes))]),
        )
        run = self.client.get_run(self.run_id)
        if run.outputs is not None and run.outputs.model_outputs:
            return  # it was kept before the run was cut off
        logged = self.client.create_logged_model(
            run.info.experiment_id, name="classifier", source_run_id=self.run_id, tags=dict(tags)
        )
        code = Path(__file__).resolve().parent
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True):
            # It advises type hints and an example of the input, and sets its own filters; the signature says it all.
            target = Path(folder) / "model"
            mlflow.pyfunc.save_model(
                target,
                mlflow_model=Model(
                    artifact_path=logged.artifact_location,
                    model_uuid=logged.model_id,
                    run_id=self.run_id,
                    model_id=logged.model_id,
                ),
                python_model=str(code / "serving.py"),
                code_paths=[str(code), str(Path(perceiver.__file__).resolve().parent)],
                artifacts={"checkpoint": str(checkpoint_path)},
                signature=signature,
                pip_requirements=_list_requirements(),
            )
            self.client.log_model_artifacts(logged.model_id, str(target))
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step=0)])

    def finish(self, status: str = "FINISHED") -> None:
        self.client.set_terminated(self.run_id, status)


def resolve_uri(config: TrackingConfig, workspace: Workspace) -> str:
    """Say where the records go: the option, else ``MLFLOW_TRACKING_URI``, else the workspace's database."""
    if config.uri is not None:
        return config.uri
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if from_environment != "":
        return from_environment
    return f"sqlite:///{workspace.tracking_database.resolve()}"


def open_run(config: TrackingConfig, workspace: Workspace, run_id: str = "") -> Tracker:
    """Start a run, or go on with one.

    Args:
        config: whether and where.
        workspace: names the experiment and the run, and the folder of the default database.
        run_id: of a run to go on with; empty, or unknown to the server, starts a new one.

    Returns:
        Where to log; without tracking, one that keeps nothing.

    Raises:
        UserError: the experiment was deleted in MLflow.
    """
    if not config.enabled:
        return Tracker()
    _quieten()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = resolve_uri(config, workspace)
    is_local = uri.startswith("sqlite:///")
    if is_local:
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    # Runs that start side by side must neither both make the database nor both make the experiment.
    database = Path(uri.removeprefix("sqlite:///"))
    with FileLock(f"{database}.lock") if is_local else nullcontext():
        if is_local and not database.exists():
            _make_database(database)
        client = MlflowClient(tracking_uri=uri)
        experiment_id = _find_experiment(client, uri, workspace, is_local)
    if run_id != "":
        try:
            client.update_run(run_id, status="RUNNING")
            return MlflowTracker(client, run_id)
        except MlflowException:
            pass  # another database than the last time: the records start anew
    run = client.create_run(experiment_id, run_name=workspace.run if workspace.run != "" else workspace.name)
    return MlflowTracker(client, run.info.run_id)


def _make_database(path: Path) -> None:
    """Make an empty database, whole or not at all.

    MLflow makes it in many steps; one that was cut off could never be opened again.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        begun, whole = Path(folder) / "begun.db", Path(folder) / "whole.db"
        MlflowClient(tracking_uri=f"sqlite:///{begun}").search_experiments()
        with closing(sqlite3.connect(begun)) as connection:
            connection.execute("VACUUM INTO ?", (str(whole),))
        whole.replace(path)


def _find_experiment(client: Any, uri: str, workspace: Workspace, is_local: bool) -> str:
    """Return the id of the workspace's experiment; make it where there is none."""
    experiment = client.get_experiment_by_name(workspace.name)
    if experiment is None:
        location = (workspace.tracking_artifacts.resolve() / workspace.name).as_uri() if is_local else None
        return str(client.create_experiment(workspace.name, artifact_location=location))
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking: the experiment {workspace.name} was deleted in MLflow ({uri}). Restore it with "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}, or choose another name."
        )
    return str(experiment.experiment_id)


def _quieten() -> None:
    """Keep MLflow's and its database's start-up notes and its usage reports away; a user's own choice stands."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _list_requirements() -> list[str]:
    """List what a server of the model needs beside this project's two packages."""
    versions = read_versions()
    return [
        f"{name}=={versions[name]}" for name in ("torch", "lightning", "numpy", "pandas", "einops", "monai", "mlflow")
    ]
