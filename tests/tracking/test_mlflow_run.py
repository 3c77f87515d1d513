import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pipeline import load_model
from pipeline.config.tracking import TrackingConfig
from pipeline.core.errors import UserError
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_database import resolve_uri
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import DatasetUse, RunFacts, write_record
from pipeline.training.checkpoint import compute_weights_digest, read_checkpoint, write_checkpoint
from pipeline.training.history import EpochResult
from tests.builders.checkpoints import make_checkpoint
from tests.builders.training_runs import HISTORY, keep_history


@pytest.fixture
def open_named(tracking_uri, tmp_path):
    def open_it(name, run=""):
        return open_run(TrackingConfig(uri=tracking_uri), Workspace(tmp_path, name, run))

    return open_it


def test_the_address_is_the_option_then_the_environment_then_the_workspace(monkeypatch, tmp_path):
    workspace = Workspace(tmp_path, "knees")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:1")
    assert resolve_uri(TrackingConfig(uri="sqlite:///other.db"), workspace) == "sqlite:///other.db"
    assert resolve_uri(TrackingConfig(), workspace) == "http://server:1"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_uri(TrackingConfig(), workspace) == f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.slow
def test_a_database_lies_in_its_workspace_however_that_is_named(empty_tracking_database, tmp_path, monkeypatch):
    folder = tmp_path / "place" / "My%20knees?#ü+&"
    folder.mkdir(parents=True)
    shutil.copyfile(empty_tracking_database, folder / "mlflow.db")
    (folder / "a%20table#1.csv").write_text("a")
    monkeypatch.chdir(tmp_path)
    with open_run(TrackingConfig(), Workspace(Path("place") / folder.name, "knees")) as tracked:
        tracked.keep(RunFacts(metrics={"best_epoch": 2}, files={"a%20table#1.csv": ""}))
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        assert database.execute("SELECT key, value FROM latest_metrics").fetchall() == [("best_epoch", 2.0)]
    assert [path.name for path in (folder / "mlartifacts").rglob("*.csv")] == ["a%20table#1.csv"]
    assert [path.name for path in (tmp_path / "place").iterdir()] == [folder.name]
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_database_that_cannot_be_opened_is_not_tried_for_minutes(tmp_path, caplog):
    (tmp_path / "mlflow.db").mkdir()
    with open_run(TrackingConfig(), Workspace(tmp_path, "knees")) as tracked:
        tracked.keep(RunFacts(metrics={"best_epoch": 2}))
        tracked.sync()
    assert "unable to open database file" in caplog.text


def test_a_run_has_what_was_kept_of_it(open_named, tmp_path):
    (tmp_path / "table.csv").write_text("a")
    (tmp_path / "maps" / "overlays").mkdir(parents=True)
    (tmp_path / "maps" / "overlays" / "knee.png").write_text("b")
    facts = RunFacts(
        settings={"train.epochs": 3, "long": "x" * 900} | {f"option.{number}": number for number in range(150)},
        tags={"commit": "abc"},
        datasets=(DatasetUse("kept", "0123", "/data", "training"),),
        metrics={"best_epoch": 2},
        files={"table.csv": "tables", "maps": "attention"},
    )
    with open_named("kept", run="seed-1") as tracked:
        tracked.keep(facts)
    run = tracked.client.get_run(tracked.run_id)
    assert len(run.data.params) == 152
    assert run.data.params["train.epochs"] == "3"
    assert run.data.tags["commit"] == "abc"
    assert run.data.metrics == {"best_epoch": 2.0}
    assert run.info.run_name == "seed-1"
    assert run.info.status == "FINISHED"
    assert run.inputs.dataset_inputs[0].dataset.digest == "0123"
    artifacts = next((tmp_path / "mlartifacts" / "kept").iterdir()) / "artifacts"
    files = {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*.*")}
    assert files == {"tables/table.csv", "attention/overlays/knee.png"}


def test_what_is_kept_after_a_started_sync_is_sent_too(open_named):
    with open_named("started", "first") as tracked:
        tracked.keep(RunFacts(settings={"a": 1}))
        tracked.start_sync()
        tracked.keep(RunFacts(metrics={"best_epoch": 2.0}))
        assert tracked.run_id != ""
        assert not tracked.is_syncing
        tracked.start_sync()
    found = tracked.client.get_run(tracked.run_id)
    assert (found.data.params, found.data.metrics) == ({"a": "1"}, {"best_epoch": 2.0})
    assert found.info.status == "FINISHED"
    assert len(tracked.client.search_runs([found.info.experiment_id])) == 1


def test_a_server_gets_what_it_lacks_and_nothing_twice(open_named, tmp_path):
    """A second sync sends what changed since the first: a file, a tag and a number."""
    (tmp_path / "same.csv").write_text("a")
    (tmp_path / "other.csv").write_text("a")
    uses = tuple(DatasetUse(f"data {role}", role, "/data", role) for role in ("train", "val"))
    first = open_named("twice")
    files = {"same.csv": "", "other.csv": "", "gone.csv": ""}
    first.keep(RunFacts({"a": 1}, {"x": "1", "y": "1"}, uses, {"m": 1.0, "n": 1.0}, files))
    first.close()
    (copy,) = (tmp_path / "mlartifacts" / "twice").rglob("same.csv")
    copy.unlink()  # a file that is sent again would be there again
    (tmp_path / "other.csv").write_text("bc")
    second = open_named("twice")
    second.keep(RunFacts({"a": 2}, {"x": "2"}, uses, {"m": 2.0, "n": 1.0}))
    second.close()
    run = second.client.get_run(first.run_id)
    assert second.run_id == first.run_id
    assert run.data.params == {"a": "1"}, "MLflow refuses to change an option"
    assert {name: run.data.tags[name] for name in "xy"} == {"x": "2", "y": "1"}
    points = {name: [item.value for item in second.client.get_metric_history(first.run_id, name)] for name in "mn"}
    assert points == {"m": [1.0, 2.0], "n": [1.0]}
    assert not copy.exists()
    assert copy.with_name("other.csv").read_text() == "bc"
    found = [
        (item.dataset.name, item.dataset.digest, item.tags[0].key, item.tags[0].value)
        for item in run.inputs.dataset_inputs
    ]
    assert sorted(found) == [
        ("data train", "train", "mlflow.data.context", "train"),
        ("data val", "val", "mlflow.data.context", "val"),
    ]


def test_the_place_of_a_dataset_is_json_whatever_its_name(open_named):
    sources = ['/data/"knees"', "/data/back\\slash", "/data/new\nline", "/data/Kniebänder"]
    with open_named("quoted") as tracked:
        uses = (DatasetUse("quoted train", str(number), source, "train") for number, source in enumerate(sources))
        tracked.keep(RunFacts(datasets=tuple(uses)))
    found = tracked.client.get_run(tracked.run_id).inputs.dataset_inputs
    places = {int(item.dataset.digest): json.loads(item.dataset.source) for item in found}
    assert places == {number: {"uri": source} for number, source in enumerate(sources)}


def test_a_run_is_nested_below_its_parent_also_when_it_is_resumed(open_named, tracking_uri, tmp_path):
    parent = open_named("family", run="folds")
    parent.sync()
    config = TrackingConfig(uri=tracking_uri, parent_run=parent.run_id)
    first = open_run(config, Workspace(tmp_path, "family", "fold-0"))
    grown = open_named("family", run="fold-1")
    grown.close()
    second = open_run(config, Workspace(tmp_path, "family", "fold-1"))
    for run in (first, second):
        run.close()
    experiment_id = first.client.get_experiment_by_name("family").experiment_id
    children = first.client.search_runs([experiment_id], f"tags.mlflow.parentRunId = '{parent.run_id}'")
    assert {run.info.run_id for run in children} == {first.run_id, grown.run_id}
    assert "mlflow.parentRunId" not in parent.client.get_run(parent.run_id).data.tags


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (KeyboardInterrupt, "KILLED"), (UserError("refused"), "FAILED")]
)
def test_the_records_hold_how_a_run_ended(open_named, error, status):
    with contextlib.suppress(KeyboardInterrupt, UserError), open_named("ends") as tracked:
        tracked.sync()
        assert tracked.client.get_run(tracked.run_id).info.status == "RUNNING"
        if error is not None:
            raise error
    assert tracked.client.get_run(tracked.run_id).info.status == status


def test_the_machines_load_goes_to_the_run_that_was_named_and_to_no_other(open_named, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    before = mlflow.get_tracking_uri()
    tracked, other = open_named("load", run="watched"), open_named("load", run="other")
    tracked.watch_system()
    for run in (tracked, other):
        run.sync()
    monitor = tracked.monitor
    while monitor._logging_step < 2 and monitor._process.is_alive():
        monitor._process.join(0.02)
    tracked.close()
    kept = tracked.client.get_run(tracked.run_id).data.metrics
    assert 0 <= kept["system/cpu_utilization_percentage"] <= 100
    assert kept["system/system_memory_usage_megabytes"] > 0
    assert other.client.get_run(other.run_id).data.metrics == {}
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


def test_a_resumed_run_has_each_epoch_once(open_named):
    first = open_named("curves")
    first.keep(RunFacts(settings={"train.devices": 1}))
    keep_history(first, HISTORY[:2])
    second = open_named("curves")
    second.keep(RunFacts(settings={"train.devices": 2, "new": 1}))
    keep_history(second, HISTORY)
    assert second.run_id == first.run_id
    losses = second.client.get_metric_history(second.run_id, "val_loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    assert second.client.get_run(second.run_id).data.params == {"train.devices": "1", "new": "1"}


def test_another_server_gets_the_whole_run(open_named, tmp_path):
    """A run that the server does not know is sent from its first fact on, files too."""
    (tmp_path / "table.csv").write_text("a")
    first = open_named("moved")
    first.keep(RunFacts(settings={"a": 1}, files={"table.csv": ""}))
    keep_history(first, HISTORY)
    write_record(first.path, dataclasses.replace(first.record, run_id="0" * 32))
    second = open_named("moved")
    second.close()
    assert second.run_id not in ("", "0" * 32, first.run_id)
    assert second.client.get_run(second.run_id).data.params == {"a": "1"}
    assert len(second.client.get_metric_history(second.run_id, "val_loss")) == 3
    assert [item.path for item in second.client.list_artifacts(second.run_id)] == ["table.csv"]


def test_a_deleted_run_is_left_alone(open_named):
    first = open_named("deleted")
    first.sync()
    first.client.delete_run(first.run_id)
    second = open_named("deleted")
    second.sync()
    assert second.run_id != first.run_id


def test_a_deleted_experiment_is_named(open_named):
    tracked = open_named("gone")
    tracked.sync()
    tracked.client.delete_experiment(tracked.client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(UserError, match="the experiment gone was deleted in MLflow"):
        open_named("gone").sync()


def test_without_tracking_nothing_is_kept(tmp_path):
    with open_run(TrackingConfig(enabled=False), Workspace(tmp_path / "new", "off")) as tracked:
        tracked.keep(RunFacts(settings={"a": 1}))
        tracked.sync()
    assert tracked.run_id == ""
    assert not (tmp_path / "new").exists()


def keep_ranked(tracking_uri, folder, name):
    """Keep an evaluated run whose last epoch is not its best."""
    paths = Workspace(folder, name, "seed-1")
    history = [
        EpochResult(step, 1.0, 0.5, 1 - value, value, 0.1, 1.0, 1.0) for step, value in ((1, 0.7), (2, 0.9), (3, 0.8))
    ]
    paths.run_folder.mkdir(parents=True)
    for path, epoch in ((paths.best_checkpoint, 2), (paths.last_checkpoint, 3)):
        weights = {key: value + epoch for key, value in make_checkpoint().weights.items()}
        write_checkpoint(path, make_checkpoint(weights=weights, history=tuple(history[:epoch]), epoch=epoch))
    facts = RunFacts(
        datasets=tuple(DatasetUse(f"{name} {role}", f"digest {role}", "/data", role) for role in ("val", "test")),
        metrics={"test_slice_accuracy": 0.7, "test_slice_accuracy_low": 0.5, "best_epoch": 2},
        checkpoint=paths.name_file(paths.best_checkpoint),
        last_checkpoint=paths.name_file(paths.last_checkpoint),
        evaluated=compute_weights_digest(read_checkpoint(paths.best_checkpoint).weights),
    )
    for _ in range(2):  # a stage that runs again sends nothing twice
        with open_run(TrackingConfig(uri=tracking_uri, register=False), paths) as tracked:
            tracked.keep(facts)
            keep_history(tracked, history)
    return tracked


@pytest.fixture(scope="module")
def ranked(tracking_uri, tmp_path_factory):
    return keep_ranked(tracking_uri, tmp_path_factory.mktemp("ranked"), "ranked")


@pytest.mark.slow
def test_the_lines_of_the_page_find_the_best_model_of_an_experiment(
    empty_tracking_database, tmp_path, monkeypatch, request
):
    page = (Path(__file__).parents[2] / "docs" / "export-and-serving.md").read_text("utf-8")
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "search_logged" in block)
    assert len(lines.strip().splitlines()[3:]) == 3, "import, empty line and address come first"
    shutil.copyfile(empty_tracking_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.MlflowClient(uri).create_experiment("another, so that phantom is not the first")
    keep_ranked(uri, tmp_path, "phantom")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # set_tracking_uri changes it, and it is set back
    request.addfinalizer(lambda: mlflow.set_tracking_uri(None))
    named = {}
    exec(lines, named)  # the page's own lines
    best = named["best"]
    assert (best.name, best.tags["run"], best.tags["epoch"]) == ("best", "seed-1", "2")
    assert mlflow.pyfunc.load_model(best.model_uri).metadata.model_id == best.model_id


@pytest.mark.slow
def test_logged_models_are_ranked_by_their_scores_on_the_same_data(ranked):
    found = ranked.client.search_logged_models(
        [ranked.client.get_experiment_by_name("ranked").experiment_id],
        order_by=[{"field_name": "metrics.val_accuracy", "ascending": False, "dataset_name": "ranked val"}],
    )
    assert [(model.name, model.tags["run"], model.tags["epoch"]) for model in found] == [
        ("best", "seed-1", "2"),
        ("last", "seed-1", "3"),
    ]
    bound = {(item.key, item.value, item.step, item.dataset_name, item.dataset_digest) for item in found[0].metrics}
    assert bound == {
        ("val_accuracy", 0.9, 2, "ranked val", "digest val"),
        ("val_loss", 1 - 0.9, 2, "ranked val", "digest val"),
        ("test_slice_accuracy", 0.7, 0, "ranked test", "digest test"),
    }
    assert {item.key for item in found[1].metrics} == {"val_accuracy", "val_loss"}
    assert [point.step for point in ranked.client.get_metric_history(ranked.run_id, "val_loss")] == [1, 2, 3]
    assert len(ranked.client.get_metric_history(ranked.run_id, "test_slice_accuracy")) == 1


def test_a_registered_run_is_found_by_the_alias(ranked, tracking_uri):
    for _ in range(2):
        assert ranked.register("best") == "models:/ranked@best"
    (version,) = ranked.client.search_model_versions("name = 'ranked'")
    assert ranked.client.get_model_version_by_alias("ranked", "best").version == version.version
    assert load_model("models:/ranked@best", tracking_uri=tracking_uri).checkpoint.epoch == 2
    with pytest.raises(UserError, match=r"tracking\.enabled"):
        open_run(TrackingConfig(enabled=False), ranked.workspace).register("best")
    with pytest.raises(UserError, match=r"best\.safetensors: no such checkpoint"):
        open_run(TrackingConfig(uri=tracking_uri), Workspace(ranked.workspace.root, "untrained")).register("best")


@pytest.mark.slow
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
open_run(TrackingConfig(), Workspace(Path("."), "knees")).sync()
"""
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment | {"PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    tracked = open_run(TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"), Workspace(tmp_path, "knees"))
    tracked.sync()
    assert tracked.client.get_run(tracked.run_id).info.status == "RUNNING"
