import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.tracking import TrackingConfig
from pipeline.core.errors import UserError
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_database import resolve_uri
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.tracker import finishing
from tests.builders.training_runs import HISTORY


@pytest.fixture
def open_named(tracking_uri, tmp_path):
    def open_it(name, run_id="", run=""):
        return open_run(TrackingConfig(uri=tracking_uri), Workspace(tmp_path, name, run), run_id)

    return open_it


def test_the_address_is_the_option_then_the_environment_then_the_workspace(monkeypatch, tmp_path):
    workspace = Workspace(tmp_path, "knees")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:1")
    assert resolve_uri(TrackingConfig(uri="sqlite:///other.db"), workspace) == "sqlite:///other.db"
    assert resolve_uri(TrackingConfig(), workspace) == "http://server:1"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_uri(TrackingConfig(), workspace) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_run_keeps_what_it_is_given(open_named, tmp_path):
    tracker = open_named("kept", run="seed-1")
    tracker.log_settings({"train.epochs": 3, "long": "x" * 900})
    tracker.set_tags({"commit": "abc"})
    tracker.log_text("name: kept", "config.yaml")
    (tmp_path / "table.csv").write_text("a")
    tracker.log_file(tmp_path / "table.csv", "tables")
    tracker.log_dataset("kept", "0123", "/data", "training")
    tracker.finish()
    run = tracker.inner.client.get_run(tracker.run_id)
    assert run.data.params["train.epochs"] == "3"
    assert run.data.tags["commit"] == "abc"
    assert run.info.run_name == "seed-1"
    assert run.info.status == "FINISHED"
    assert run.inputs.dataset_inputs[0].dataset.digest == "0123"
    files = list((tmp_path / "mlartifacts" / "kept").rglob("*.*"))
    assert {file.name for file in files} == {"config.yaml", "table.csv"}


def test_the_place_of_a_dataset_is_json_whatever_its_name(open_named):
    sources = ['/data/"knees"', "/data/back\\slash", "/data/new\nline", "/data/Kniebänder"]
    tracker = open_named("quoted")
    for number, source in enumerate(sources):
        tracker.log_dataset("quoted train", str(number), source, "train")
    tracker.finish()
    found = tracker.inner.client.get_run(tracker.run_id).inputs.dataset_inputs
    places = {int(item.dataset.digest): json.loads(item.dataset.source) for item in found}
    assert places == {number: {"uri": source} for number, source in enumerate(sources)}


def test_a_run_is_nested_below_its_parent_also_when_it_goes_on(open_named, tracking_uri, tmp_path):
    parent = open_named("family", run="folds")
    config = TrackingConfig(uri=tracking_uri, parent_run=parent.run_id)
    first = open_run(config, Workspace(tmp_path, "family", "fold-0"))
    grown = open_named("family", run="fold-1")
    open_run(config, Workspace(tmp_path, "family", "fold-1"), grown.run_id)
    experiment_id = first.inner.client.get_experiment_by_name("family").experiment_id
    children = first.inner.client.search_runs([experiment_id], f"tags.mlflow.parentRunId = '{parent.run_id}'")
    assert {run.info.run_id for run in children} == {first.run_id, grown.run_id}
    assert "mlflow.parentRunId" not in parent.inner.client.get_run(parent.run_id).data.tags


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (KeyboardInterrupt, "KILLED"), (UserError("refused"), "FAILED")]
)
def test_the_records_say_how_a_run_ended(open_named, error, status):
    tracker = open_named("ends")
    with contextlib.suppress(KeyboardInterrupt, UserError), finishing(tracker):
        if error is not None:
            raise error
    assert tracker.inner.client.get_run(tracker.run_id).info.status == status


def test_a_dataset_is_kept_once_in_each_role(open_named):
    tracker = open_named("data")
    for _ in range(2):
        tracker.log_dataset("data train", "0123", "/data", "train")
        tracker.log_dataset("data val", "4567", "/data", "val")
    found = [
        (item.dataset.name, item.dataset.digest, item.tags[0].key, item.tags[0].value)
        for item in tracker.inner.client.get_run(tracker.run_id).inputs.dataset_inputs
    ]
    assert sorted(found) == [
        ("data train", "0123", "mlflow.data.context", "train"),
        ("data val", "4567", "mlflow.data.context", "val"),
    ]


def test_the_machines_load_goes_to_the_run_that_was_named_and_to_no_other(open_named, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    before = mlflow.get_tracking_uri()
    tracker, other = open_named("load"), open_named("load")
    tracker.watch_system()
    monitor = tracker.inner.monitor
    while monitor._logging_step < 2 and monitor._process.is_alive():
        monitor._process.join(0.02)
    tracker.finish()
    kept = tracker.inner.client.get_run(tracker.run_id).data.metrics
    assert 0 <= kept["system/cpu_utilization_percentage"] <= 100
    assert kept["system/system_memory_usage_megabytes"] > 0
    assert other.inner.client.get_run(other.run_id).data.metrics == {}
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


def test_a_run_that_goes_on_has_each_epoch_once(open_named):
    first = open_named("curves")
    first.log_settings({"train.devices": 1})
    first.log_history(HISTORY[:2])
    second = open_named("curves", first.run_id)
    assert second.run_id == first.run_id
    second.log_settings({"train.devices": 2, "new": 1})
    second.log_history(HISTORY)
    losses = second.inner.client.get_metric_history(second.run_id, "val_loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    assert second.inner.client.get_run(second.run_id).data.params == {"train.devices": "1", "new": "1"}


def test_an_unknown_run_starts_anew(open_named):
    tracker = open_named("curves", "0" * 32)
    assert tracker.run_id not in ("", "0" * 32)


def test_a_deleted_experiment_is_named(open_named):
    tracker = open_named("gone")
    tracker.inner.client.delete_experiment(tracker.inner.client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(UserError, match="the experiment gone was deleted in MLflow"):
        open_named("gone")


def test_without_tracking_nothing_is_kept(tmp_path):
    tracker = open_run(TrackingConfig(enabled=False), Workspace(tmp_path / "new", "off"))
    tracker.log_settings({"a": 1})
    tracker.set_tags({"a": "b"})
    tracker.log_history(HISTORY)
    tracker.log_file(tmp_path)
    tracker.log_model(tmp_path, {})
    tracker.finish()
    assert tracker.run_id == ""
    assert not (tmp_path / "new").exists()


def test_a_kill_while_the_database_is_made_does_not_spoil_it(tmp_path):
    """The process kills itself at its third connection: by then MLflow has made some of its tables."""
    code = """
import os, signal, sys
from pathlib import Path
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.mlflow_run import open_run
from pipeline.core.workspace import Workspace

connections = []
def kill_at_the_third(event, arguments):
    if event == "sqlite3.connect":
        connections.append(arguments)
        if len(connections) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_at_the_third)
open_run(TrackingConfig(), Workspace(Path("."), "knees"))
"""
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment | {"PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    tracker = open_run(TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"), Workspace(tmp_path, "knees"))
    assert tracker.inner.client.get_run(tracker.run_id).info.status == "RUNNING"
