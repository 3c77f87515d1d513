"""An MLflow that is down at the start, goes away in between or comes back costs no training and hides no loss."""

import logging
import shutil
import socket

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from pipeline.cli import main
from pipeline.config.tracking import TrackingConfig
from pipeline.core.errors import UserError
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.offline_buffer import GuardedTracker
from pipeline.tracking.tracker import Tracker
from tests.builders.tiny_workspace import TINY_CONFIG
from tests.builders.training_runs import HISTORY


@pytest.fixture
def closed_port():
    """An address where nobody answers: it was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_training_goes_on_without_a_server_and_says_what_is_lost(
    tiny_workspace, tmp_path, monkeypatch, caplog, closed_port
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    workspace = tmp_path / "workspace"
    shutil.copytree(tiny_workspace / "data", workspace / "data")
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(TINY_CONFIG))
    words = ["--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace)]
    uri = f"http://127.0.0.1:{closed_port}"
    with caplog.at_level(logging.WARNING):
        for stage in ("train", "evaluate"):
            assert main([stage, *words, "--tracking.uri", uri]) == 0
    expected = pd.read_csv(tiny_workspace / "runs" / "tiny" / "history.csv")
    found = pd.read_csv(workspace / "runs" / "tiny" / "history.csv")
    assert found["val_loss"].tolist() == expected["val_loss"].tolist()
    assert f"{uri} does not take records" in caplog.text
    assert f"records did not reach {uri}. What they say is kept in {workspace / 'runs' / 'tiny'}." in caplog.text


def test_records_that_waited_are_all_there_when_the_database_is_back(tmp_path, caplog):
    workspace = Workspace(tmp_path, "tiny")
    tracker = open_run(TrackingConfig(), workspace)
    tracker.log_settings({"train.epochs": 2})
    tracker.log_history(HISTORY[:1])
    database = workspace.tracking_database
    database.rename(tmp_path / "away.db")
    database.mkdir()  # what is there now cannot be opened
    with caplog.at_level(logging.WARNING):
        tracker.log_history(HISTORY[1:2])
        tracker.set_tags({"hardware": "a machine"})
        tracker.log_text("name: tiny", "config.yaml")
    assert caplog.text.count("does not take records") == 1, "once, not for every record"
    database.rmdir()
    (tmp_path / "away.db").rename(database)
    tracker.finish()
    client = MlflowClient(f"sqlite:///{database}")
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["hardware"] == "a machine"
    assert [metric.step for metric in client.get_metric_history(tracker.run_id, "val_loss")] == [1, 2]
    assert [item.path for item in client.list_artifacts(tracker.run_id)] == ["config.yaml"]
    assert "did not reach" not in caplog.text


class Notes(Tracker):
    """A store that can be switched off."""

    def __init__(self) -> None:
        super().__init__("run 1")
        self.taken = []
        self.is_down = False

    def set_tags(self, tags):
        if self.is_down:
            raise ConnectionError("nobody answers")
        self.taken.append(tags)

    def log_file(self, path, folder=None):
        path.read_bytes()

    def finish(self, status="FINISHED"):
        self.taken.append(status)


def test_records_arrive_once_and_in_order(tmp_path):
    notes = Notes()
    tracker = GuardedTracker(lambda: notes, "notes", tmp_path)
    for number in range(8):
        notes.is_down = 2 <= number < 5
        if number == 6:
            tracker.log_history([])  # an epoch ends: it asks again
        tracker.set_tags({"number": str(number)})
    assert [tags["number"] for tags in notes.taken] == [str(number) for number in range(8)]


def test_one_record_that_is_never_taken_does_not_hold_up_the_end(tmp_path, caplog):
    notes = Notes()
    tracker = GuardedTracker(lambda: notes, "notes", tmp_path)
    tracker.log_file(tmp_path / "not_there.csv")
    tracker.set_tags({"number": "1"})
    assert notes.taken == []
    tracker.finish()
    assert notes.taken == [{"number": "1"}, "FINISHED"]
    assert f"1 record did not reach notes. What they say is kept in {tmp_path}." in caplog.text


def test_what_the_user_has_to_mend_is_said_at_once(tmp_path):
    def refuse():
        raise UserError("tracking: the experiment was deleted")

    with pytest.raises(UserError, match="was deleted"):
        GuardedTracker(refuse, "notes", tmp_path).deliver()
