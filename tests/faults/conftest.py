"""A small experiment that was run without any fault, for comparison."""

from pathlib import Path

import pytest
import yaml

from tests.builders.tiny_workspace import TINY_CONFIG
from tests.faults.crash import STAGES, Ended, copy_workspace, make_words, run_stage


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> tuple[dict[str, Path], dict[str, Ended], Path]:
    """Run all stages; give the workspace as it was before each, how each ended, and the last one's."""
    folder = tmp_path_factory.mktemp("undisturbed")
    workspace = folder / "now"
    workspace.mkdir()
    config = TINY_CONFIG | {"tracking": {"enabled": False}, "train": {**TINY_CONFIG["train"], "epochs": 3}}
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(config))
    before, ended = {}, {}
    for stage in STAGES:
        before[stage] = copy_workspace(workspace, folder / f"before_{stage}")
        ended[stage] = run_stage(make_words(stage, workspace))
        assert ended[stage].code == 0, stage
    return before, ended, workspace
