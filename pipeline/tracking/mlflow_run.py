"""The door to MLflow's runs, with TensorBoard's event files beside them where they are asked for.

A run is addressed by its id and nothing is kept in MLflow's process-wide state, so that a stage can
re-open the run of an earlier one.
"""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.tracking import TrackingConfig
from pipeline.core.workspace import Workspace
from pipeline.export.mlflow_model import log_model
from pipeline.tracking.mlflow_database import connect, resolve_uri
from pipeline.tracking.offline_buffer import GuardedTracker
from pipeline.tracking.tensorboard import open_event_log
from pipeline.tracking.tracker import Tracker, list_numbers
from pipeline.training.history import EpochResult

MAX_VALUE_LENGTH = 500
PARENT_TAG = "mlflow.parentRunId"  # what MLflow's pages nest runs by
SECONDS_BETWEEN_SAMPLES = 5.0  # of the machine's load; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it


class MlflowTracker(Tracker):
    """Records of one run in MLflow.

    Args:
        client: of ``MlflowClient``.
        run_id: of a run that exists.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        super().__init__(run_id)
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

        dataset = Dataset(name=name, digest=fingerprint, source_type="local", source=json.dumps({"uri": source}))
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
        known = {metric.step for metric in self.client.get_metric_history(self.run_id, "val_loss")}
        for result in history:
            if result.epoch not in known:
                self._log_batch(list_numbers(result), result.epoch)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self._log_batch(metrics, step)

    def _log_batch(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def log_model(self, checkpoint_path: Path, tags: Mapping[str, str], registered_name: str = "") -> None:
        log_model(self.client, self.run_id, checkpoint_path, tags, registered_name)

    def finish(self, status: str = "FINISHED") -> None:
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
        Where to log; without tracking, one that keeps nothing. Where MLflow does not answer, records wait.

    Raises:
        UserError: the experiment was deleted in MLflow, or TensorBoard is wanted and not installed.
    """
    events = open_event_log(workspace.event_folder) if config.tensorboard else None
    if not config.enabled:
        return Tracker(events=events)
    _quieten()
    uri = resolve_uri(config, workspace)
    tracker = GuardedTracker(lambda: _reach_run(uri, config, workspace, run_id), uri, workspace.run_folder, events)
    tracker.deliver()
    return tracker


def _reach_run(uri: str, config: TrackingConfig, workspace: Workspace, run_id: str) -> MlflowTracker:
    from mlflow.exceptions import MlflowException

    client, experiment_id = connect(uri, workspace)
    parent = {PARENT_TAG: config.parent_run} if config.parent_run != "" else {}
    if run_id != "":
        try:
            client.update_run(run_id, status="RUNNING")
            tracker = MlflowTracker(client, run_id)
            if parent:
                tracker.set_tags(parent)
            return tracker
        except MlflowException:
            pass  # another database than the last time: the records start anew
    name = workspace.run if workspace.run != "" else workspace.name
    run = client.create_run(experiment_id, run_name=name, tags=parent)
    return MlflowTracker(client, run.info.run_id)


def _quieten() -> None:
    """Keep MLflow's and its database's start-up notes and its usage reports away; a user's own choice stands."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by default a server that is down takes minutes
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
