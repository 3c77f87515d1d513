"""A run's records hold its own files and name its data by what is in it."""

from types import SimpleNamespace

from pipeline.config.experiment import Experiment
from pipeline.tracking.tracker import Tracker, list_own_files, log_split


class Listener(Tracker):
    """A tracker that remembers the data it is told of."""

    def log_dataset(self, name, fingerprint, source, role):
        self.heard = (name, fingerprint, source, role)


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


def test_a_splits_digest_changes_with_its_pictures_and_its_patients_alone(tmp_path):
    experiment = Experiment(name="knees", workspace=tmp_path)

    def digest(fingerprint, roles, role="val"):
        listener = Listener()
        log_split(listener, experiment, SimpleNamespace(fingerprint=fingerprint), roles, role)
        assert listener.heard[0] == f"knees {role}"
        assert listener.heard[2:] == (str(experiment.paths.prepared), role)
        return listener.heard[1]

    roles = {"a": "train", "b": "train", "c": "val", "d": "test"}
    kept = digest("f", roles)
    assert kept == digest("f", dict(reversed(roles.items())))
    assert kept == digest("f", roles | {"b": "test"}), "who is elsewhere does not matter"
    assert len({kept, digest("g", roles), digest("f", roles | {"b": "val"}), digest("f", roles, "test")}) == 4
