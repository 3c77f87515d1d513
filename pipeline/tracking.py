"""The one door to MLflow, with TensorBoard's event files beside it where they are asked for.

A run is addressed by its id and nothing is kept in MLflow's process-wide state, so that a stage can
re-open the run of an earlier one.
"""

import dataclasses
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import perceiver
from pipeline.config import TrackingConfig
from pipeline.event_log import EventLog, open_event_log
from pipeline.history import EpochResult
from pipeline.provenance import read_versions
from pipeline.tracking_database import connect, resolve_uri
from pipeline.workspace import Workspace

MAX_VALUE_LENGTH = 500
PARENT_TAG = "mlflow.parentRunId"  # what MLflow's pages nest runs by
SECONDS_BETWEEN_SAMPLES = 5.0  # of the machine's load; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it


class Tracker:
    """Records of one run that go nowhere but into event files: what is used where MLflow is off.

    Args:
        run_id: of the run in MLflow; empty without one.
        events: TensorBoard's files, which get curves and numbers; None where they are not asked for.
    """

    def __init__(self, run_id: str = "", events: EventLog | None = None) -> None:
        self.run_id = run_id
        self.events = events

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep the options, ``section.field`` -> value."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keep facts such as versions and fingerprints; later ones replace earlier ones."""

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as a file called ``name``."""

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, or of a folder with all that is in it."""

    def log_dataset(self, name: str, fingerprint: str, source: str, role: str) -> None:
        """Say which data the run used as what, such as ``train``; saying it again changes nothing."""

    def watch_system(self) -> None:
        """From now on until ``finish``, keep how busy the machine is."""

    def log_history(self, history: Sequence[EpochResult]) -> None:
        """Keep the curves; epochs that are there already are left as they are."""
        if self.events is not None:
            for result in history:
                self.events.write_scalars(_list_numbers(result), result.epoch)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Keep numbers."""
        if self.events is not None:
            self.events.write_scalars(metrics, step)

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

    def finish(self, status: str = "FINISHED") -> None:  # noqa: ARG002 (event files have no place for it)
        """Say how the run ended: FINISHED, FAILED or KILLED."""
        if self.events is not None:
            self.events.close()


class MlflowTracker(Tracker):
    """Records of one run in MLflow.

    Args:
        client: of ``MlflowClient``.
        run_id: of a run that exists.
        events: TensorBoard's files beside it, or None.
    """

    def __init__(self, client: Any, run_id: str, events: EventLog | None = None) -> None:
        super().__init__(run_id, events)
        self.client = client
        self.monitor: Any = None

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

        inputs = self.client.get_run(self.run_id).inputs
        known = inputs.dataset_inputs if inputs is not None else []
        if any((item.dataset.digest, item.tags[0].value) == (fingerprint, role) for item in known):
            return
        dataset = Dataset(name=name, digest=fingerprint, source_type="local", source=f'{{"uri": "{source}"}}')
        tag = InputTag(key="mlflow.data.context", value=role)
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [tag])])

    def watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # Told which run and which database, it needs nothing of MLflow's process-wide state.
        self.monitor = SystemMetricsMonitor(
            self.run_id, SECONDS_BETWEEN_SAMPLES, resume_logging=True, tracking_uri=self.client.tracking_uri
        )
        self.monitor.start()

    def log_history(self, history: Sequence[EpochResult]) -> None:
        super().log_history(history)
        known = {metric.step for metric in self.client.get_metric_history(self.run_id, "val_loss")}
        for result in history:
            if result.epoch not in known:
                self._log_batch(_list_numbers(result), result.epoch)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        super().log_metrics(metrics, step)
        self._log_batch(metrics, step)

    def _log_batch(self, metrics: Mapping[str, float], step: int) -> None:
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
        super().finish(status)
        if self.monitor is not None:
            self.monitor.finish()
            self.monitor = None
        self.client.set_terminated(self.run_id, status)


def open_run(config: TrackingConfig, workspace: Workspace, run_id: str = "") -> Tracker:
    """Start a run, or go on with one.

    Args:
        config: whether and where, and which run it is nested below.
        workspace: names the experiment and the run, and the folder of the default database.
        run_id: of a run to go on with; empty, or unknown to the server, starts a new one.

    Returns:
        Where to log; without tracking, one that keeps nothing.

    Raises:
        UserError: the experiment was deleted in MLflow, or TensorBoard is wanted and not installed.
    """
    events = open_event_log(workspace.event_folder) if config.tensorboard else None
    if not config.enabled:
        return Tracker(events=events)
    _quieten()
    from mlflow.exceptions import MlflowException

    client, experiment_id = connect(resolve_uri(config, workspace), workspace)
    parent = {PARENT_TAG: config.parent_run} if config.parent_run != "" else {}
    if run_id != "":
        try:
            client.update_run(run_id, status="RUNNING")
            tracker = MlflowTracker(client, run_id, events)
            if parent:
                tracker.set_tags(parent)
            return tracker
        except MlflowException:
            pass  # another database than the last time: the records start anew
    name = workspace.run if workspace.run != "" else workspace.name
    run = client.create_run(experiment_id, run_name=name, tags=parent)
    return MlflowTracker(client, run.info.run_id, events)


@contextmanager
def finishing(tracker: Tracker) -> Iterator[None]:
    """Say how a run ended when the block ends: FINISHED, KILLED by an interruption, or FAILED."""
    try:
        yield
    except KeyboardInterrupt:
        tracker.finish("KILLED")
        raise
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish()


def _list_numbers(result: EpochResult) -> dict[str, float]:
    """Return an epoch's numbers without the epoch's own."""
    return {name: value for name, value in dataclasses.asdict(result).items() if name != "epoch"}


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
