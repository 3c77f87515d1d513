"""A file that changes or goes away while a stage runs: a clear line, nothing else lost, and the next run completes."""

import gzip
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

import pipeline.data.batches
from pipeline.cli import main
from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.outputs import PredictConfig
from pipeline.core.errors import UserError
from pipeline.core.tables import MANIFEST_COLUMNS, SPLIT_COLUMNS, read_table, write_table
from pipeline.data.leak_certificate import check_certificate
from pipeline.data.splits import read_splits
from pipeline.data.store import read_store
from pipeline.preprocessing.parts import compute_part_key
from pipeline.stages.predict import _identify
from pipeline.training.checkpoint import read_checkpoint
from tests.builders import preprocessing as scans
from tests.builders import training_runs as training
from tests.faults.bits import draw_bits, flip

# What happens when a path is opened for the first time from now on; a hook of the interpreter cannot be taken away.
ON_OPEN: dict[str, Callable[[], object]] = {}


def watch(event, arguments):
    if event == "open" and ON_OPEN:
        action = ON_OPEN.pop(str(arguments[0]), None)
        if action is not None:
            action()


sys.addaudithook(watch)


class At(io.StringIO):
    """A place to print to where something happens once, at a word."""

    def __init__(self, word: str, action: Callable[[], object]) -> None:
        super().__init__()
        self.word, self.action = word, action

    def write(self, text: str) -> int:
        if self.word in text and self.action is not None:
            action, self.action = self.action, None
            action()
        return super().write(text)


@pytest.mark.parametrize("skip_refused", [False, True])
@pytest.mark.parametrize("fate", ["replaced", "gone"])
def test_a_scan_that_changes_or_goes_away_between_listing_and_reading_is_refused_and_read_by_the_next_run(
    fate, skip_refused, write_patients, write_knee, tmp_path
):
    raw = write_patients(tmp_path / "raw", num_patients=3)
    victim = sorted(raw.iterdir())[2]
    other = write_knee(tmp_path / "other.nii.gz", seed=77)
    content = victim.read_bytes()
    options = PreprocessConfig(num_slices=5, image_size=(16, 16), num_workers=1, skip_refused=skip_refused)
    experiment = scans.make_experiment(tmp_path, options)
    ON_OPEN[str(victim)] = victim.unlink if fate == "gone" else lambda: other.replace(victim)
    if skip_refused:
        scans.run(experiment)
    else:
        with pytest.raises(UserError, match="1 of 6 scans was refused"):
            scans.run(experiment)
    assert ON_OPEN == {}
    row = read_table(experiment.paths.manifest, MANIFEST_COLUMNS).set_index("path").loc[victim.name]
    assert row["status"] == "refused"
    assert row["reason"] == f"{victim}: changed or went away while it was read. Run preprocess again."
    assert len(list((experiment.paths.prepared / "parts").iterdir())) == 5, "no part under the old file's name"
    if fate == "gone":
        victim.write_bytes(content)
    assert "5 of 6 scans need no work" in scans.run(experiment)
    whole = Experiment("whole", workspace=tmp_path, data=experiment.data, preprocess=options)
    scans.run(whole)
    assert scans.snapshot(experiment) == scans.snapshot(whole)


def test_a_scan_that_may_not_be_read_is_refused_and_tried_again(write_patients, tmp_path, monkeypatch):
    raw = write_patients(tmp_path / "raw", num_patients=2)
    victim = sorted(raw.iterdir())[1]

    def refuse():
        raise PermissionError(13, "Permission denied", str(victim))

    ON_OPEN[str(victim)] = refuse
    experiment = scans.make_experiment(tmp_path)
    with pytest.raises(UserError, match="1 of 4 scans was refused"):
        scans.run(experiment)
    reasons = read_table(experiment.paths.manifest, MANIFEST_COLUMNS).set_index("path")["reason"]
    assert reasons[victim.name] == f"{victim}: Permission denied. Fix its permissions, or copy it."
    assert "3 of 4 scans need no work" in scans.run(experiment)


@pytest.mark.parametrize("suffix", [".img", ".img.gz"])
def test_other_voxels_next_to_the_same_header_are_another_scan(suffix, tmp_path):
    """Analyze and NIfTI pairs: preprocess and predict recognise the scan by both files."""
    from pipeline.data.sources import Source
    from pipeline.inference.inputs import Scan

    header, voxels = tmp_path / "knee.hdr", tmp_path / f"knee{suffix}"
    image = nibabel.Nifti1Pair(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    nibabel.save(image, tmp_path / "knee.img")
    if suffix == ".img.gz":
        voxels.write_bytes(gzip.compress((tmp_path / "knee.img").read_bytes()))
        (tmp_path / "knee.img").unlink()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(b"")
    source, scan = Source("knee", "1", "left", (Path("knee.hdr"),)), Scan("knee", (header,))

    def identify() -> tuple[str, str]:
        return compute_part_key(tmp_path, [source], scans.OPTIONS), _identify([checkpoint], [scan], PredictConfig())

    before = identify()
    assert identify() == before
    voxels.write_bytes(voxels.read_bytes() + b"more")
    assert all(now != then for now, then in zip(identify(), before, strict=True))
    voxels.unlink()
    assert all(now != then for now, then in zip(identify(), before, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    experiment = training.make_experiment(tmp_path_factory.mktemp("whole"))
    training.run(experiment)
    return experiment


@pytest.fixture
def read_from_disk(monkeypatch):
    """No room for images in memory."""
    monkeypatch.setattr(pipeline.data.batches, "FRACTION_OF_FREE_MEMORY", 0.0)


def assert_same_result(experiment, whole):
    for name in ("best_checkpoint", "last_checkpoint"):
        assert training.read_weights(getattr(experiment.paths, name)) == training.read_weights(
            getattr(whole.paths, name)
        )


@pytest.mark.slow
def test_a_bit_that_flips_while_images_are_read_from_disk_spoils_no_checkpoint(
    read_from_disk,
    whole,
    tmp_path,
):
    experiment = training.make_experiment(tmp_path)
    path = experiment.paths.prepared / "examples.npy"
    bit = draw_bits(path, 1)[0]
    with pytest.raises(UserError, match=r"examples\.npy: the store's files changed since they were written"):
        training.run(experiment, At("epoch 2/4", lambda: flip(path, bit)))
    assert read_checkpoint(experiment.paths.last_checkpoint).epoch == 2
    flip(path, bit)
    assert "after epoch 2" in training.run(experiment)
    assert_same_result(experiment, whole)


def test_a_store_that_is_removed_while_it_is_read_is_reported_and_nothing_else_is_lost(
    read_from_disk,
    whole,
    tmp_path,
):
    experiment = training.make_experiment(tmp_path)
    prepared, aside = experiment.paths.prepared, tmp_path / "aside"
    with pytest.raises(UserError, match=r"no complete example store"):
        training.run(experiment, At("epoch 2/4", lambda: prepared.rename(aside)))
    aside.rename(prepared)
    assert "after epoch 2" in training.run(experiment)
    assert_same_result(experiment, whole)


def test_a_store_that_is_removed_does_not_disturb_training_from_memory(whole, tmp_path):
    experiment = training.make_experiment(tmp_path)
    training.run(experiment, At("epoch 2/4", lambda: shutil.rmtree(experiment.paths.prepared)))
    assert_same_result(experiment, whole)


def test_a_run_folder_that_is_removed_is_reported_and_not_half_made_again(whole, tmp_path):
    experiment = training.make_experiment(tmp_path)
    folder = experiment.paths.run_folder
    data = read_store(experiment.paths.prepared).fingerprint
    with pytest.raises(UserError, match=r"runs/tiny: it was removed while training ran\. Run the train stage again"):
        training.run(experiment, At("epoch 2/4", lambda: shutil.rmtree(folder)))
    assert not folder.exists() or not any(folder.glob("*.safetensors"))
    assert read_store(experiment.paths.prepared, verify=True).fingerprint == data
    training.run(experiment)
    assert_same_result(experiment, whole)


def test_splits_that_are_replaced_while_training_runs_change_nothing_and_are_refused_afterwards(
    whole,
    tmp_path,
):
    experiment = training.make_experiment(tmp_path)
    paths = experiment.paths
    table = read_table(paths.splits, SPLIT_COLUMNS)
    exchanged = table.assign(split=table["split"].map({"train": "test", "test": "train", "val": "val"}))
    training.run(experiment, At("epoch 2/4", lambda: write_table(paths.splits, exchanged, SPLIT_COLUMNS)))
    assert_same_result(experiment, whole)
    with pytest.raises(UserError, match="made for other images"):
        check_certificate(paths.certificate, read_store(paths.prepared), read_splits(paths.splits, experiment.split))


def test_a_damaged_last_checkpoint_is_refused_and_nothing_is_overwritten(whole, tmp_path):
    experiment = training.make_experiment(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        training.run(experiment, training.Cut("epoch 2/4"))
    path = experiment.paths.last_checkpoint
    flip(path, draw_bits(path, 1)[0])
    content = path.read_bytes()
    with pytest.raises(UserError, match=r"last\.safetensors: .*--train\.resume false"):
        training.run(experiment)
    assert path.read_bytes() == content
    training.run(training.with_train(experiment, resume=False))
    assert_same_result(experiment, whole)


def test_a_checkpoint_that_is_overwritten_after_it_was_read_changes_nothing(tiny_workspace, tmp_path):
    path = Path(shutil.copy(tiny_workspace / "runs" / "tiny" / "best.safetensors", tmp_path))
    checkpoint = read_checkpoint(path)
    before = {name: value.clone() for name, value in checkpoint.weights.items()}
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert all(bool((before[name] == value).all()) for name, value in checkpoint.weights.items())


@pytest.mark.slow
def test_a_store_that_changes_while_evaluate_runs_is_reported_before_results_are_written(
    tiny_workspace, tmp_path, capsys
):
    workspace = Path(shutil.copytree(tiny_workspace, tmp_path / "work"))
    path, metrics = workspace / "data/tiny/prepared/examples.npy", workspace / "reports/tiny/metrics.json"
    before = metrics.stat().st_mtime_ns
    bit = draw_bits(path, 1)[0]
    ON_OPEN[str(workspace / "runs/tiny/history.csv")] = lambda: flip(path, bit)
    words = ["evaluate", "--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace)]
    assert main([*words, "--tracking.enabled", "false"]) == 2
    assert ON_OPEN == {}
    assert "examples.npy: the store's files changed since they were written" in capsys.readouterr().err
    assert metrics.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_file_that_goes_away_in_any_stage_is_one_line(tiny_workspace, tmp_path, capsys):
    workspace = Path(shutil.copytree(tiny_workspace, tmp_path / "work"))
    path = workspace / "runs/tiny/history.csv"
    ON_OPEN[str(path)] = path.unlink
    words = ["evaluate", "--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace)]
    assert main([*words, "--tracking.enabled", "false"]) == 2
    line = capsys.readouterr().err
    assert line == (
        f"error: {path}: No such file or directory. Bring it back and run the stage again; work done so far is kept.\n"
    )
