"""Copies of runs in MLflow, and in TensorBoard's event files where they are switched on.

All facts of a run are written to disk first: its files, its curves, and ``mlflow.json`` with the facts that have no
file of their own. A sync compares them with the server and sends those that the server lacks. Facts that a server
refuses stay on disk, and the next sync sends them, in this process or in that of a later stage.

A run is addressed by its id and nothing is kept in MLflow's process-wide state, so that a stage can re-open the run
of an earlier one.
"""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config.tracking import TrackingConfig
from pipeline.config.validation import require
from pipeline.core.errors import UserError
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.text import count_words
from pipeline.core.workspace import Workspace
from pipeline.export.mlflow_model import bind_metrics, find_model, log_last_model, log_model, register_model
from pipeline.tracking.mlflow_database import connect, resolve_uri
from pipeline.tracking.records import RunFacts, merge_facts, read_record, write_record
from pipeline.tracking.tensorboard import EventLog
from pipeline.training.history import EpochResult, list_numbers, read_history

logger = logging.getLogger(__name__)
MAX_VALUE_LENGTH = 500
EPOCHS_AT_ONCE = 100  # MLflow's client cuts longer lists of numbers anywhere, and would send a part of an epoch
PARENT_TAG = "mlflow.parentRunId"  # the tag by which MLflow's pages nest runs
SECONDS_BETWEEN_SAMPLES = 5.0  # of the machine's load; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it
FILE = "file"
MAX_REFUSED = 3  # a server that refuses more than these is not there


def open_run(config: TrackingConfig, workspace: Workspace, path: Path | None = None) -> "TrackedRun":
    """Open the MLflow run of a run's folder, or of a study or one training of it, which has no such folder.

    Args:
        config: Whether and where runs are kept, and the run that this one is nested below.
        workspace: The folders; names the experiment and the run.
        path: The file that keeps the records of a study, which has no event files.

    Raises:
        UserError: TensorBoard is switched on and not installed.
    """
    if path is not None:
        return TrackedRun(dataclasses.replace(config, tensorboard=False), workspace, path)
    return TrackedRun(config, workspace, workspace.tracking_record)


class TrackedRun:
    """A run whose facts are kept on disk and copied to MLflow; a context manager that closes the run at its end.

    Args:
        config: Whether and where runs are kept, and the run that this one is nested below.
        workspace: The folders; names the experiment and the run.
        path: The file that keeps the records.
    """

    def __init__(self, config: TrackingConfig, workspace: Workspace, path: Path) -> None:
        self.config = config
        self.workspace = workspace
        self.path = path
        parent = {PARENT_TAG: config.parent_run} if config.parent_run != "" else {}
        record = read_record(path)
        self.record = dataclasses.replace(record, facts=merge_facts(record.facts, RunFacts(tags=parent)))
        self.uri = resolve_uri(config, workspace)
        self.events = EventLog(workspace.event_folder) if config.tensorboard else None
        self.client: Any = None
        self.monitor: Any = None
        self.is_watched = False
        self.has_warned = False
        self.started: Future[None] | None = None

    @property
    def run_id(self) -> str:
        """The id in MLflow; empty without one."""
        self._wait()
        return self.record.run_id if self.config.enabled else ""

    @property
    def is_syncing(self) -> bool:
        """True while a thread sends facts."""
        return self.started is not None and not self.started.done()

    @property
    def is_reached(self) -> bool:
        """True once the server has answered."""
        return self.client is not None

    def __enter__(self) -> "TrackedRun":
        self.record = dataclasses.replace(self.record, status="RUNNING")
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        failed = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        self.close("FINISHED" if error is None else failed)

    def keep(self, facts: RunFacts) -> None:
        """Keep facts on disk, from where the next sync sends them."""
        self._wait()
        self._write(facts=merge_facts(self.record.facts, facts), is_sent=False)

    def watch_system(self) -> None:
        """Record the load of the machine in MLflow, from the next sync to the end."""
        self.is_watched = self.config.system_metrics

    def sync(self, is_last: bool = False) -> None:
        """Send the facts that MLflow and TensorBoard lack.

        Args:
            is_last: Whether the run ends. Then everything else is sent where the server refuses something, and a
                warning lists what it lacks.

        Raises:
            UserError: The server answers with an error that the user has to fix.
        """
        self._wait()
        self._sync(is_last)

    def start_sync(self) -> None:
        """Send the facts in a thread: MLflow's import and its first database take seconds, and training needs neither.

        What else this object is asked for waits until they are sent.
        """
        self._wait()
        executor = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self.started = executor.submit(self._sync, False)
        executor.shutdown(wait=False)

    def check_sync(self) -> None:
        """Look at the sync in a thread, and wait for nothing.

        Raises:
            UserError: The server answered with an error that the user has to fix.
        """
        if not self.is_syncing:
            self._wait()

    def _wait(self) -> None:
        """Wait for the sync in a thread, and raise its error; never called in that thread."""
        if self.started is not None:
            wait([self.started])  # an interrupt here leaves it to the next call
            started, self.started = self.started, None
            started.result()

    def _sync(self, is_last: bool) -> None:
        """Send what MLflow and TensorBoard lack, see :meth:`sync`."""
        facts = self.record.facts
        history_path = self.workspace.root / facts.history
        history = read_history(history_path) if history_path.is_file() else []
        if self.events is not None:
            state = compute_fingerprint(history, facts.metrics)
            if self.record.sent.get("tensorboard") != state:
                self.events.write(history, facts.metrics)
                self._write(sent=self.record.sent | {"tensorboard": state})
        if not self.config.enabled:
            return
        lacking = self._send(history, is_last)
        self._write(is_sent=not lacking)
        if lacking and is_last:
            words = "lacks %s of this run. They are kept in %s, and sent when its next stage runs."
            logger.warning("warning: tracking: %s " + words, self.uri, ", ".join(lacking), self.path.parent)

    def close(self, status: str = "FINISHED") -> None:
        """Send all that is left, and the status of the run: FINISHED, FAILED or KILLED."""
        self._wait()
        if self.monitor is not None:
            self.monitor.finish()
        self._write(status=status, is_sent=False)
        self.sync(is_last=True)
        if self.events is not None:
            self.events.close()

    def send_rest(self) -> None:
        """Send what an earlier process could not send, if there is anything."""
        if self.config.enabled and not self.record.is_sent:
            self.close()

    def _write(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        if self.config.enabled or self.config.tensorboard:
            write_record(self.path, self.record)

    def _send(self, history: list[EpochResult], is_last: bool) -> list[str]:
        """Send one part after the other; return the names of those that the server lacks."""
        parts: list[tuple[str, Callable[[], None]]] = []
        if not self._is_taken(lambda: parts.extend(self._list_parts(history))):
            return ["the records"]
        lacking: list[str] = []
        for name, send in parts:
            # At the end the others are sent too: one file may never be taken, and the run has to be closed.
            gives_up = lacking and (not is_last or (len(lacking) >= MAX_REFUSED and name != "status"))
            if gives_up or not self._is_taken(send):
                lacking.append(name)
        num_files = lacking.count(FILE)
        return [count_words(num_files, FILE) if name == FILE else name for name in dict.fromkeys(lacking)]

    def _is_taken(self, send: Callable[[], None]) -> bool:
        """Send something; warn the first time that the server does not take it."""
        try:
            send()
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 (a server's client raises what its own back end raises)
            if not self.has_warned:
                reason = str(error).strip().partition("\n")[0]
                words = "does not take records (%s). The stage continues, and they are sent later."
                logger.warning("warning: tracking: %s " + words, self.uri, reason)
            self.has_warned = True
            return False
        return True

    def _list_parts(self, history: list[EpochResult]) -> list[tuple[str, Callable[[], None]]]:
        """List the parts that the run in MLflow may lack, each with the function that sends it."""
        run, facts = self._reach(), self.record.facts
        parts: list[tuple[str, Callable[[], None]]] = [
            ("settings", partial(_send_values, self.client, run, facts)),
            ("data sets", partial(_send_datasets, self.client, run, facts)),
            ("curves", partial(_send_curves, self.client, run, history)),
        ]
        sent = self.record.sent
        for name in facts.files:
            path = self.workspace.root / name
            if path.exists() and sent.get(name) != _describe_file(path):
                parts.append((FILE, partial(self._send_file, name)))
        best = self.workspace.root / facts.checkpoint
        if facts.checkpoint and sent.get("model", "") != _describe_file(best):
            parts.append(("models", self._send_models))
        if facts.evaluated and sent.get("scores", "") != compute_fingerprint(facts.evaluated, facts.metrics):
            parts.append(("scores of the model", self._send_scores))
        if run.info.status != self.record.status:
            send = self.client.update_run if self.record.status == "RUNNING" else self.client.set_terminated
            parts.append(("status", partial(send, run.info.run_id, self.record.status)))
        if self.is_watched and self.monitor is None:
            parts.append(("system metrics", self._start_monitor))
        return parts

    def _reach(self) -> Any:
        """Return the run from the server; start one where there is none."""
        if self.client is not None:
            return self.client.get_run(self.record.run_id)
        _quieten()
        client, experiment_id = connect(self.uri, self.workspace)
        if not client.search_runs([experiment_id], f"attributes.run_id = '{self.record.run_id}'"):
            # The first time, or another server than the last time.
            run = client.create_run(experiment_id, run_name=self.workspace.run or self.workspace.name)
            self._write(run_id=run.info.run_id, sent={})
        self.client = client
        return client.get_run(self.record.run_id)

    def _send_file(self, name: str) -> None:
        path, folder = self.workspace.root / name, self.record.facts.files[name]
        state = _describe_file(path)
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(self.record.run_id, str(path), folder or None)
        self._write(sent=self.record.sent | {name: state})

    def _send_models(self) -> None:
        """Log the best epoch, and the last one where it is another, each with its scores on validation."""
        facts, root = self.record.facts, self.workspace.root
        best = root / facts.checkpoint
        logged = [log_model(self.client, self.record.run_id, best, self.workspace.name if self.config.register else "")]
        if facts.last_checkpoint and (root / facts.last_checkpoint).is_file():
            logged.append(log_last_model(self.client, self.record.run_id, root / facts.last_checkpoint))
        epochs = {result.epoch: result for result in read_history(root / facts.history)} if facts.history else {}
        for model in logged:
            result = epochs.get(int(model.tags["epoch"]))
            if result is not None:
                scores = {"val_loss": result.val_loss, "val_accuracy": result.val_accuracy}
                bind_metrics(self.client, model, scores, result.epoch, self._find_data("val"))
        self._write(sent=self.record.sent | {"model": _describe_file(best)})

    def _send_scores(self) -> None:
        """Bind the numbers of the test to the weights that they are of; the ends of intervals stay the run's."""
        facts = self.record.facts
        run = self.client.get_run(self.record.run_id)
        model = find_model(self.client, run, facts.evaluated, "best")
        scores = {
            name: value
            for name, value in facts.metrics.items()
            if name.startswith("test_") and not name.endswith(("_low", "_high"))
        }
        if model is not None:
            bind_metrics(self.client, model, scores, 0, self._find_data("test"))
        self._write(sent=self.record.sent | {"scores": compute_fingerprint(facts.evaluated, facts.metrics)})

    def _find_data(self, role: str) -> tuple[str, str] | None:
        """Return the name and the digest of the data that the run used last in a role."""
        found = [(use.name, use.digest) for use in self.record.facts.datasets if use.role == role]
        return found[-1] if found else None

    def register(self, alias: str) -> str:
        """Give the best checkpoint a version in the registry, under the experiment's name, and this an alias.

        Args:
            alias: The alias, which another version may have had.

        Returns:
            The address that ``load_model`` takes.

        Raises:
            UserError: Tracking is off, the run has no checkpoint, or the server does not take it.
        """
        require(self.config.enabled, "tracking.enabled", False, "true to register a model")
        if not self.workspace.best_checkpoint.is_file():
            raise UserError(f"{self.workspace.best_checkpoint}: no such checkpoint to register. Run the train stage.")
        self.sync(is_last=True)

        def send() -> None:
            logged = log_model(self.client, self.run_id, self.workspace.best_checkpoint)
            version = register_model(self.client, logged, self.workspace.name)
            self.client.set_registered_model_alias(self.workspace.name, alias, version)

        if not (self.is_reached and self._is_taken(send)):
            raise UserError(f"tracking: {self.uri} does not take the model. Check tracking.uri, or start the server.")
        return f"models:/{self.workspace.name}@{alias}"

    def _start_monitor(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # With the run and the database it needs none of MLflow's process-wide state.
        uri = self.client.tracking_uri
        self.monitor = SystemMetricsMonitor(
            self.record.run_id, SECONDS_BETWEEN_SAMPLES, resume_logging=True, tracking_uri=uri
        )
        self.monitor.start()


def _send_values(client: Any, run: Any, facts: RunFacts) -> None:
    """Send options, tags and numbers that the run lacks.

    MLflow refuses to change an option; a resumed run differs at most in options of its execution.
    """
    from mlflow.entities import Metric, Param, RunTag

    now, known = time.time_ns() // 1_000_000, run.data
    options = {name: str(value)[:MAX_VALUE_LENGTH] for name, value in facts.settings.items()}
    params = [Param(name, value) for name, value in options.items() if name not in known.params]
    tags = [RunTag(name, value) for name, value in facts.tags.items() if known.tags.get(name) != value]
    metrics = [Metric(name, value, now, 0) for name, value in facts.metrics.items() if known.metrics.get(name) != value]
    client.log_batch(run.info.run_id, metrics, params, tags)


def _send_datasets(client: Any, run: Any, facts: RunFacts) -> None:
    """Send the data that the run used, each once in each role."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    items = run.inputs.dataset_inputs if run.inputs is not None else []
    known = {(item.dataset.name, item.dataset.digest, *(tag.value for tag in item.tags)) for item in items}
    new = [
        DatasetInput(
            Dataset(use.name, use.digest, source_type="local", source=json.dumps({"uri": use.source})),
            [InputTag(key="mlflow.data.context", value=use.role)],
        )
        for use in facts.datasets
        if (use.name, use.digest, use.role) not in known
    ]
    if new:
        client.log_inputs(run.info.run_id, datasets=new)


def _send_curves(client: Any, run: Any, history: list[EpochResult]) -> None:
    """Send the epochs that the run lacks."""
    from mlflow.entities import Metric

    if not history:
        return
    now = time.time_ns() // 1_000_000
    known = {metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")}
    new = [result for result in history if result.epoch not in known]
    for start in range(0, len(new), EPOCHS_AT_ONCE):
        part = new[start : start + EPOCHS_AT_ONCE]
        metrics = [Metric(name, value, now, one.epoch) for one in part for name, value in list_numbers(one).items()]
        client.log_batch(run.info.run_id, metrics)


def _describe_file(path: Path) -> str:
    """Return a fingerprint of a file or folder: names, sizes and times of the last change."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    stats = [(file.relative_to(path), file.stat()) for file in files]
    return compute_fingerprint([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _quieten() -> None:
    """Switch off MLflow's and its database's start-up notes and usage reports; a user's own settings stay."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by default a server that is down takes minutes
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
