"""TensorBoard reads back what a run wrote, once each, however often the run was interrupted."""

import dataclasses
import sys

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from pipeline.config.tracking import TrackingConfig
from pipeline.core.errors import UserError
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import RunFacts
from pipeline.tracking.tensorboard import EventLog
from tests.builders.training_runs import HISTORY, Cut, keep_history, make_experiment, run, with_train

BOTH_OFF = TrackingConfig(enabled=False)
EVENTS = dataclasses.replace(BOTH_OFF, tensorboard=True)


@pytest.fixture(autouse=True)
def _files_in_the_order_of_their_writing(monkeypatch):
    # TensorBoard orders the files of one second by the digits of a counter in their names, 10 before 9. Stages are
    # processes of their own, which take longer than a second to start; tests open several runs in one process.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def read(folder):
    """The curves in TensorBoard: name -> steps and values, in the order of steps."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: sorted((item.step, item.value) for item in events.Scalars(name)) for name in events.Tags()["scalars"]}


def test_an_interrupted_run_has_each_epoch_once_with_the_values_of_its_history(tmp_path):
    experiment = make_experiment(tmp_path, tracking=EVENTS)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, Cut("epoch 2/4"))
    folder = tmp_path / "runs" / "tiny" / "tensorboard"
    assert [step for step, _ in read(folder)["val_loss"]] == [1, 2]
    run(experiment)
    found, history = read(folder), pd.read_csv(experiment.paths.history)
    for name in history.columns.drop("epoch"):
        assert [step for step, _ in found[name]] == [1, 2, 3, 4], name
        # Event files hold float32.
        assert [value for _, value in found[name]] == pytest.approx(history[name].tolist(), rel=1e-6), name
    assert found["best_epoch"] == [(0, history["epoch"][history["val_loss"].argmin()])]


def test_a_run_that_starts_from_scratch_forgets_the_old_curves(tmp_path):
    experiment = with_train(make_experiment(tmp_path, tracking=EVENTS), epochs=2)
    run(experiment)
    run(with_train(experiment, epochs=1, resume=False))
    assert [step for step, _ in read(experiment.paths.event_folder)["val_loss"]] == [1]


def test_epochs_lost_with_the_end_of_a_file_are_written_again(tmp_path):
    workspace = Workspace(tmp_path, "knees")
    with open_run(EVENTS, workspace) as tracked:
        keep_history(tracked, HISTORY[:2])
    (file,) = workspace.event_folder.iterdir()
    file.write_bytes(file.read_bytes()[:-20])  # as a machine that loses its power leaves it
    before = read(workspace.event_folder)
    assert min(len(items) for items in before.values()) < 2
    with open_run(EVENTS, workspace) as tracked:
        keep_history(tracked, HISTORY)
    for name, items in read(workspace.event_folder).items():
        assert [step for step, _ in items] == [1, 2, 3], name


def test_the_last_evaluation_stands_and_the_same_one_is_not_written_again(tmp_path):
    workspace = Workspace(tmp_path, "knees", "seed-1")
    with open_run(EVENTS, workspace) as tracked:
        keep_history(tracked, HISTORY)
    for accuracy in (0.9, 0.9, 0.8):
        with open_run(EVENTS, workspace) as tracked:
            tracked.keep(RunFacts(metrics={"test_slice_accuracy": accuracy}))
    found = read(tmp_path / "runs" / "knees" / "seed-1" / "tensorboard")
    assert found["test_slice_accuracy"] == [(0, pytest.approx(0.8))]
    assert [step for step, _ in found["val_loss"]] == [1, 2, 3]
    assert len(list(workspace.event_folder.iterdir())) == 3, "a stage that writes nothing leaves no file"


def test_numbers_go_to_mlflow_and_to_tensorboard_alike(tracking_uri, tmp_path):
    config = TrackingConfig(uri=tracking_uri, tensorboard=True)
    workspace = Workspace(tmp_path, "both")
    with open_run(config, workspace) as tracked:
        tracked.keep(RunFacts(metrics={"best_epoch": 2.0}))
        keep_history(tracked, HISTORY)
    assert tracked.client.get_run(tracked.run_id).info.status == "FINISHED"
    found = read(workspace.event_folder)
    assert "epoch" not in found
    for name in ("val_loss", "learning_rate", "best_epoch"):
        kept = [(item.step, item.value) for item in tracked.client.get_metric_history(tracked.run_id, name)]
        assert [step for step, _ in found[name]] == [step for step, _ in kept]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in kept], rel=1e-6)


def test_switched_off_it_writes_nothing(tmp_path):
    with open_run(BOTH_OFF, Workspace(tmp_path / "new", "off")) as tracked:
        tracked.keep(RunFacts(metrics={"best_epoch": 2.0}))
    assert not (tmp_path / "new").exists()


def test_an_absent_package_is_named_before_anything_is_trained(monkeypatch, tmp_path):
    experiment = make_experiment(tmp_path, tracking=EVENTS)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # what Python then finds is as good as nothing
    with pytest.raises(UserError, match=r"tracking\.tensorboard: true needs the package tensorboard, which is not"):
        run(experiment)
    assert not experiment.paths.last_checkpoint.is_file()
    with pytest.raises(UserError, match=r"Install it \(pip install tensorboard\), or set the option to false"):
        EventLog(tmp_path)
    assert "best epoch" in run(with_train(dataclasses.replace(experiment, tracking=BOTH_OFF), epochs=1))
