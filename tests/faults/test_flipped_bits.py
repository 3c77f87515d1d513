"""One flipped bit in any file that a stage reads is found before the stage does anything, or does no harm."""

import functools
import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.cli import parse_experiment
from pipeline.core.errors import UserError
from pipeline.data.store import read_store
from pipeline.preprocessing.parts import read_images, read_summary
from pipeline.stages import STAGES
from tests.builders.preprocessing import make_experiment, run, snapshot
from tests.faults.bits import draw_bits, flip
from tests.faults.crash import describe, find_differences

STORE = ["prepared/examples.npy", "prepared/index.csv", "prepared/manifest.csv", "prepared/store.json"]
SPLITS = ["splits.csv", "leak_certificate.json"]
READ = {
    "split": STORE,
    "train": STORE + SPLITS,
    "evaluate": [*STORE, *SPLITS, "best.safetensors"],
    "attention": [*STORE, *SPLITS, "best.safetensors"],
    "leak-study": STORE,
    "cross-validate": STORE,
    "predict": ["best.safetensors"],
    "export": ["best.safetensors"],
}
PLACES = 2


@pytest.fixture(scope="module")
def workspace(tiny_workspace, tmp_path_factory) -> Path:
    return Path(shutil.copytree(tiny_workspace, tmp_path_factory.mktemp("flips") / "work"))


@functools.cache
def parse(stage: str, workspace: Path):
    scan = next((workspace / "data" / "tiny" / "raw").rglob("*.nii.gz"))
    words = [str(scan)] if stage == "predict" else []
    words += ["--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace), "--tracking.enabled", "false"]
    return parse_experiment(stage, [*words, *(["--train.resume", "false"] if stage == "train" else [])])


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in READ.items() for name in names])
def test_a_flipped_bit_is_refused_before_anything_is_written(stage, name, workspace):
    path = workspace / ("runs/tiny" if name.endswith(".safetensors") else "data/tiny") / name
    before = describe_times(workspace)
    for bit in draw_bits(path, PLACES):
        flip(path, bit)
        with pytest.raises(UserError) as refusal:
            STAGES[stage].run(parse(stage, workspace), Console(file=io.StringIO()))
        flip(path, bit)
        assert str(path) in str(refusal.value) or str(path.parent) in str(refusal.value), bit
    changed = {other for other, time in describe_times(workspace).items() if before.get(other) != time}
    assert changed <= {path}


def describe_times(workspace: Path) -> dict[Path, int]:
    """Return when each file was written; locks come and go."""
    files = (
        path
        for path in workspace.rglob("*")
        if path.is_file() and ".lock" not in path.suffixes and not path.name.startswith(".lock")
    )
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_damaged_splits_are_made_again_by_their_own_stage(workspace):
    before = describe(workspace)
    for name in SPLITS:
        path = workspace / "data" / "tiny" / name
        for bit in draw_bits(path, PLACES):
            flip(path, bit)
            STAGES["split"].run(parse("split", workspace), Console(file=io.StringIO()))
            assert find_differences(describe(workspace), before) == [], (name, bit)


def test_a_flipped_bit_in_a_part_is_found_and_the_part_made_again(write_patients, tmp_path):
    write_patients(tmp_path / "raw", num_patients=2)
    experiment = make_experiment(tmp_path)
    run(experiment)
    expected = snapshot(experiment)
    parts = sorted((experiment.paths.prepared / "parts").iterdir())
    for bit in [*range(64), *draw_bits(parts[0], 300)]:
        flip(parts[0], bit)
        assert not read_summary(parts[0])
        with pytest.raises(UserError, match=r"npz: damaged, .* Run preprocess again"):
            read_images(parts[0])
        flip(parts[0], bit)
    # As an interrupted run leaves it, and then a disk.
    for bit in draw_bits(parts[0], 3):
        flip(parts[0], bit)
        (experiment.paths.prepared / "complete.json").unlink()
        assert "3 of 4 scans need no work" in run(experiment)
        assert snapshot(experiment) == expected
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    (experiment.paths.prepared / "complete.json").unlink()
    assert "3 of 4 scans need no work" in run(experiment)
    assert snapshot(experiment) == expected
    read_store(experiment.paths.prepared, verify=True)
