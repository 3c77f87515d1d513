"""A run's records hold its own files, name its data by what is in it, and are read as they were written."""

from types import SimpleNamespace

from pipeline.config.experiment import Experiment
from pipeline.core.workspace import Workspace
from pipeline.tracking.records import (
    DatasetUse,
    RunFacts,
    RunRecord,
    describe_split,
    list_own_files,
    merge_facts,
    name_files,
    read_record,
    write_record,
)


def test_files_of_other_runs_and_other_stages_are_not_a_runs_own(tmp_path):
    for name in (
        "report.html",
        "metrics.json",
        "seed-1/metrics.json",
        "attention/maps.npz",
        "comparison.html",
        "predictions_new.csv",
        ".metrics.json.1.tmp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [path.name for path in list_own_files(tmp_path)] == ["metrics.json", "report.html"]


def test_a_splits_digest_changes_with_its_examples_and_its_patients_alone(tmp_path):
    experiment = Experiment(name="knees", workspace=tmp_path)

    def digest(fingerprint, roles, role="val"):
        data = SimpleNamespace(store=SimpleNamespace(fingerprint=fingerprint), roles=roles)
        use = describe_split(experiment, data, role)
        assert (use.name, use.source, use.role) == (f"knees {role}", str(experiment.paths.prepared), role)
        return use.digest

    roles = {"a": "train", "b": "train", "c": "val", "d": "test"}
    kept = digest("f", roles)
    assert kept == digest("f", dict(reversed(roles.items())))
    assert kept == digest("f", roles | {"b": "test"}), "who is elsewhere does not matter"
    assert len({kept, digest("g", roles), digest("f", roles | {"b": "val"}), digest("f", roles, "test")}) == 4


def test_a_record_is_read_as_it_was_written(tmp_path):
    facts = RunFacts(
        settings={"train.epochs": 3, "preprocess.image_size": [8, 8], "data.label_table": None},
        tags={"commit": "abc"},
        datasets=(DatasetUse("knees train", "0123", "/data", "train"),),
        metrics={"accuracy": 2 / 3},
        files={"data/knees/splits.csv": ""},
        history="runs/knees/history.csv",
        checkpoint="runs/knees/best.safetensors",
    )
    record = RunRecord("run 1", "KILLED", facts, {"data/knees/splits.csv": "17 3"}, is_sent=False)
    write_record(tmp_path / "mlflow.json", record)
    assert read_record(tmp_path / "mlflow.json") == record
    assert read_record(tmp_path / "nothing.json") == RunRecord()


def test_later_facts_join_those_that_are_there(tmp_path):
    use, other = DatasetUse("knees train", "0", "/data", "train"), DatasetUse("knees test", "1", "/data", "test")
    first = RunFacts({"a": 1}, {"x": "1", "y": "1"}, (use,), {"m": 1.0}, {"file": ""}, "history.csv", "best")
    later = RunFacts(tags={"y": "2"}, datasets=(use, other), metrics={"m": 2.0}, files={"page": "evaluation"})
    expected = RunFacts(
        {"a": 1},
        {"x": "1", "y": "2"},
        (use, other),
        {"m": 2.0},
        {"file": "", "page": "evaluation"},
        "history.csv",
        "best",
    )
    assert merge_facts(first, later) == expected


def test_files_are_named_so_that_a_workspace_can_be_moved(tmp_path):
    paths = Workspace(tmp_path, "knees", "seed-1")
    named = name_files(paths, [paths.history, paths.splits], "tables")
    assert named == {"runs/knees/seed-1/history.csv": "tables", "data/knees/splits.csv": "tables"}
