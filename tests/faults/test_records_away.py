"""An MLflow that is down at the start, goes away in between or comes back costs no training and hides no loss."""

import contextlib
import dataclasses
import logging
import random
import shutil
import socket
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipeline.cli import main
from pipeline.config.tracking import TrackingConfig
from pipeline.core.errors import UserError
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import RunFacts, read_record
from pipeline.training.loop import monitor
from tests.builders.tiny_workspace import TINY_CONFIG
from tests.builders.training_runs import HISTORY, keep_history, make_experiment, run, with_train


@pytest.fixture
def closed_port():
    """An address where no server answers: it was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("stages", [("train",), ("train", "evaluate")])
def test_training_continues_without_a_server_and_prints_what_is_lost(
    stages, tiny_workspace, tmp_path, monkeypatch, caplog, closed_port
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    workspace = tmp_path / "workspace"
    shutil.copytree(tiny_workspace / "data", workspace / "data")
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(TINY_CONFIG))
    words = ["--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace)]
    uri = f"http://127.0.0.1:{closed_port}"
    with caplog.at_level(logging.WARNING):
        for stage in stages:
            assert main([stage, *words, "--tracking.uri", uri]) == 0
    expected = pd.read_csv(tiny_workspace / "runs" / "tiny" / "history.csv")
    found = pd.read_csv(workspace / "runs" / "tiny" / "history.csv")
    assert found["val_loss"].tolist() == expected["val_loss"].tolist()
    assert f"{uri} does not take records" in caplog.text
    assert f"{uri} lacks the records of this run. They are kept in {workspace / 'runs' / 'tiny'}" in caplog.text
    assert "\n" not in caplog.records[-1].getMessage()

    # The server is there again: the next stage sends what training could not.
    words += ["--tracking.uri", f"sqlite:///{workspace / 'mlflow.db'}"]
    assert main(["train", *words]) == 0
    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "2"
    assert ("test_slice_accuracy" in run.data.metrics) == ("evaluate" in stages)
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")] == [1, 2]
    expected = {"config.yaml", *(["evaluation"] if "evaluate" in stages else [])}
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= expected
    assert len(client.search_model_versions("name = 'tiny'")) == 1
    assert read_record(workspace / "runs" / "tiny" / "mlflow.json").is_sent


class Away:
    """A local database that can be taken away, and what is there then cannot be opened."""

    def __init__(self, workspace):
        self.database, self.place = workspace.tracking_database, workspace.root / "away.db"

    def __enter__(self):
        self.database.rename(self.place)
        self.database.mkdir()

    def __exit__(self, *_):
        self.database.rmdir()
        self.place.rename(self.database)


@pytest.fixture
def workspace(empty_tracking_database, tmp_path):
    """A workspace with a database in which there is no run of another test."""
    folder = Workspace(tmp_path, "tiny")
    shutil.copyfile(empty_tracking_database, folder.tracking_database)
    return folder


def test_records_that_waited_are_all_there_when_the_database_is_back(workspace, caplog):
    tracked = open_run(TrackingConfig(), workspace)
    tracked.keep(RunFacts(settings={"train.epochs": 2}))
    keep_history(tracked, HISTORY[:1])
    (workspace.root / "config.yaml").write_text("name: tiny")
    with caplog.at_level(logging.WARNING), Away(workspace):
        tracked.keep(RunFacts(tags={"hardware": "a machine"}, files={"config.yaml": ""}))
        keep_history(tracked, HISTORY[:2])
        keep_history(tracked, HISTORY)
    assert caplog.text.count("does not take records") == 1, "once, not for every record"
    assert not read_record(tracked.path).is_sent
    tracked.close()
    run = tracked.client.get_run(tracked.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["hardware"] == "a machine"
    assert [metric.step for metric in tracked.client.get_metric_history(tracked.run_id, "val_loss")] == [1, 2, 3]
    assert [item.path for item in tracked.client.list_artifacts(tracked.run_id)] == ["config.yaml"]
    assert " lacks " not in caplog.text
    assert read_record(tracked.path).is_sent


@pytest.mark.slow
def test_thirty_epochs_of_a_run_that_was_killed_and_of_a_database_that_went_away_are_there_once(workspace):
    history = [dataclasses.replace(HISTORY[0], epoch=epoch, val_loss=1 / epoch) for epoch in range(1, 31)]
    generator = random.Random(0)
    for epoch in range(1, 31):
        if epoch == 1 or generator.random() < 0.3:  # a new process, which reads what is on disk
            tracked = open_run(TrackingConfig(), workspace)
        with Away(workspace) if generator.random() < 0.3 else contextlib.nullcontext():
            keep_history(tracked, history[:epoch])
    tracked.close()
    losses = tracked.client.get_metric_history(tracked.run_id, "val_loss")
    assert [(metric.step, metric.value) for metric in losses] == [(epoch, 1 / epoch) for epoch in range(1, 31)]
    assert len(tracked.client.search_runs([tracked.client.get_experiment_by_name("tiny").experiment_id])) == 1


def test_a_server_that_is_broken_is_asked_once_a_sync(workspace, monkeypatch):
    """No stage waits for a server longer than one request takes, at the start, at each epoch and at the end."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    requested = []

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            self.send_error(503)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with open_run(TrackingConfig(uri=f"http://127.0.0.1:{server.server_port}"), workspace) as tracked:
                tracked.keep(RunFacts(settings={"a": 1}, tags={"b": "2"}, files={"tiny.yaml": ""}))
                for number in (1, 2, 3):
                    keep_history(tracked, HISTORY[:number])
                    assert len(requested) == number
            assert len(requested) == 4
        finally:
            server.shutdown()


def test_the_first_step_waits_for_no_answer_of_mlflow(tmp_path, monkeypatch):
    """MLflow's import, and its first database, take longer than all else that is done before the first step."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    stepped, was_first = threading.Event(), []

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            was_first.append(stepped.wait(20))
            self.send_error(503)

        def log_message(self, *_):
            pass

    hook = register_optimizer_step_post_hook(lambda *_: stepped.set())
    with HTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            tracking = TrackingConfig(uri=f"http://127.0.0.1:{server.server_port}")
            run(with_train(make_experiment(tmp_path, tracking=tracking), epochs=1))
        finally:
            server.shutdown()
            hook.remove()
    assert was_first
    assert all(was_first)


def test_one_file_that_is_never_taken_does_not_hold_up_the_end(workspace, caplog):
    for name in ("refused.csv", "taken.csv"):
        (workspace.root / name).write_text("a")
    with open_run(TrackingConfig(), workspace) as tracked:
        tracked.sync()
        artifacts = Path(tracked.client.get_run(tracked.run_id).info.artifact_uri.removeprefix("file://"))
        artifacts.mkdir(parents=True)
        (artifacts / "tables").write_text("no folder")
        tracked.keep(RunFacts(files={"refused.csv": "tables", "taken.csv": ""}))
        tracked.sync()
        assert not (artifacts / "taken.csv").exists(), "in between nothing more is tried"
    assert (artifacts / "taken.csv").read_text() == "a"
    assert tracked.client.get_run(tracked.run_id).info.status == "FINISHED"
    assert f"lacks 1 file of this run. They are kept in {workspace.run_folder}" in caplog.text


def test_a_server_that_refuses_files_is_asked_for_a_few_and_the_run_is_closed(workspace, caplog):
    names = [f"{number}.csv" for number in range(9)]
    for name in names:
        (workspace.root / name).write_text("a")
    with open_run(TrackingConfig(), workspace) as tracked:
        tracked.sync()
        artifacts = Path(tracked.client.get_run(tracked.run_id).info.artifact_uri.removeprefix("file://"))
        artifacts.mkdir(parents=True)
        (artifacts / "tables").write_text("no folder")
        tracked.keep(RunFacts(files=dict.fromkeys(names[:8], "tables") | {names[8]: ""}))
    assert not (artifacts / names[8]).exists()
    assert tracked.client.get_run(tracked.run_id).info.status == "FINISHED"
    assert "lacks 9 files of this run" in caplog.text


@pytest.fixture
def deleted(workspace):
    """A workspace whose experiment somebody deleted in MLflow."""
    open_run(TrackingConfig(), workspace).sync()
    client = MlflowClient(f"sqlite:///{workspace.tracking_database}")
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    return workspace


def test_what_the_user_has_to_fix_is_reported_at_once(deleted):
    tracked = open_run(TrackingConfig(), Workspace(deleted.root, "tiny", "next"))
    with pytest.raises(UserError, match="was deleted"):
        tracked.sync()


ASKED = {
    "check_sync": lambda tracked: tracked.check_sync(),
    "run_id": lambda tracked: tracked.run_id,
    "keep": lambda tracked: tracked.keep(RunFacts()),
    "sync": lambda tracked: tracked.sync(),
    "close": lambda tracked: tracked.close(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_the_user_has_to_fix_is_reported_by_whatever_follows_a_started_sync(deleted, asked):
    tracked = open_run(TrackingConfig(), Workspace(deleted.root, "tiny", "next"))
    tracked.start_sync()
    futures.wait([tracked.started])
    with pytest.raises(UserError, match="was deleted"):
        ASKED[asked](tracked)
    assert tracked.started is None


def test_training_ends_within_its_first_epoch_where_the_user_has_to_fix_something(deleted, monkeypatch):
    monkeypatch.setattr(monitor, "SECONDS_BETWEEN_REPORTS", 0.0)
    steps = []

    def wait_for_mlflow(*_):
        steps.append(1)
        for thread in threading.enumerate():
            if thread.name.startswith("tracking"):
                thread.join()

    experiment = with_train(make_experiment(deleted.root, tracking=TrackingConfig()), batch_size=8)
    hook = register_optimizer_step_post_hook(wait_for_mlflow)
    try:
        with pytest.raises(UserError, match="was deleted"):
            run(experiment)
    finally:
        hook.remove()
    assert len(steps) == 1
