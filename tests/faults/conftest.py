"""A small experiment that was run without any fault, for comparison."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from pipeline.core.files import read_json, write_json
from tests.builders.built_once import build_once
from tests.builders.tiny_workspace import TINY_CONFIG
from tests.faults.crash import STAGES, Ended, copy_workspace, make_words, run_stage


def build_undisturbed(folder: Path) -> None:
    workspace = folder / "now"
    workspace.mkdir()
    config = TINY_CONFIG | {"tracking": {"enabled": False}, "train": {**TINY_CONFIG["train"], "epochs": 3}}
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(config))
    ended = {}
    for stage in STAGES:
        copy_workspace(workspace, folder / f"before_{stage}")
        ended[stage] = run_stage(make_words(stage, workspace))
        assert ended[stage].code == 0, stage
    write_json(folder / "ended.json", {stage: dataclasses.asdict(value) for stage, value in ended.items()})


@pytest.fixture(scope="session")
def undisturbed(shared_folder) -> tuple[dict[str, Path], dict[str, Ended], Path]:
    """Run all stages; give the workspace as it was before each, how each ended, and the last one's."""
    folder = build_once(shared_folder / "built_undisturbed", build_undisturbed)
    ended = {stage: Ended(**value) for stage, value in read_json(folder / "ended.json").items()}
    return {stage: folder / f"before_{stage}" for stage in STAGES}, ended, folder / "now"
