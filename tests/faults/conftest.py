"""A small experiment on slices, and one on whole scans, that were run without any fault, for comparison."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import yaml

from pipeline.core.files import read_json, write_json
from tests.builders.built_once import build_once
from tests.builders.tiny_workspace import TINY_CONFIG
from tests.faults.crash import STAGES, Ended, copy_workspace, make_words, run_stage


def build_undisturbed(folder: Path, unit: str) -> None:
    workspace = folder / "now"
    workspace.mkdir()
    config = TINY_CONFIG | {
        "tracking": {"enabled": False},
        "train": {**TINY_CONFIG["train"], "epochs": 3},
        "preprocess": {**TINY_CONFIG["preprocess"], "unit": unit},
    }
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(config))
    ended = {}
    for stage in STAGES:
        copy_workspace(workspace, folder / f"before_{stage}")
        ended[stage] = run_stage(make_words(stage, workspace))
        assert ended[stage].code == 0, stage
    write_json(folder / "ended.json", {stage: dataclasses.asdict(value) for stage, value in ended.items()})


def read_undisturbed(shared_folder: Path, unit: str) -> tuple[dict[str, Path], dict[str, Ended], Path]:
    """Run all stages; give the workspace as it was before each, how each ended, and the last one's."""
    folder = build_once(shared_folder / f"built_undisturbed_{unit}", partial(build_undisturbed, unit=unit))
    ended = {stage: Ended(**value) for stage, value in read_json(folder / "ended.json").items()}
    return {stage: folder / f"before_{stage}" for stage in STAGES}, ended, folder / "now"


@pytest.fixture(scope="session")
def undisturbed(shared_folder) -> tuple[dict[str, Path], dict[str, Ended], Path]:
    return read_undisturbed(shared_folder, "slice")


@pytest.fixture(scope="session")
def undisturbed_scans(shared_folder) -> tuple[dict[str, Path], dict[str, Ended], Path]:
    return read_undisturbed(shared_folder, "volume")
