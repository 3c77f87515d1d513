"""Names of earlier versions: each is refused in one line with the new one."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from perceiver.config import PerceiverConfig
from pipeline.cli import main
from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.config.parsing import OPTIONS, SECTION_NAMES
from pipeline.config.renames import REMOVED_OPTIONS, RENAMED_OPTIONS, RENAMED_SECTIONS, RENAMED_STAGES, RENAMED_VALUES
from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.core.serialization import flatten
from pipeline.core.workspace import Workspace
from pipeline.data.store import read_store
from pipeline.stages import STAGES
from pipeline.training.checkpoint import read_checkpoint, write_checkpoint
from pipeline.training.run_state import check_same_settings
from tests.builders.checkpoints import make_checkpoint

ROOT = Path(__file__).parents[2]


def refuse(words, capsys):
    """Run a stage that is refused, and return its one line."""
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_old_names_are_gone_and_new_ones_are_there():
    assert not RENAMED_OPTIONS.keys() & OPTIONS.keys()
    assert set(RENAMED_OPTIONS.values()) <= OPTIONS.keys()
    assert not RENAMED_SECTIONS.keys() & SECTION_NAMES
    assert set(RENAMED_SECTIONS.values()) <= SECTION_NAMES
    assert not RENAMED_STAGES.keys() & STAGES.keys()
    assert set(RENAMED_STAGES.values()) <= STAGES.keys()
    assert all(set(values.values()) <= {*OPTIONS[name].choices} for name, values in RENAMED_VALUES.items())


@pytest.mark.parametrize("old", RENAMED_OPTIONS)
def test_an_old_option_names_the_new_one_on_the_command_line_and_in_a_file(old, tmp_path, capsys):
    assert f"called {RENAMED_OPTIONS[old]} now" in refuse(["train", f"--{old}", "1"], capsys)
    content: object = 1
    for key in reversed(old.split(".")):
        content = {key: content}
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(content))
    section = old.split(".")[0]
    new = RENAMED_SECTIONS.get(section, RENAMED_OPTIONS[old])
    assert f"error: {path}: " in (error := refuse(["train", "--config", str(path)], capsys))
    assert f"called {new} now" in error


@pytest.mark.parametrize("old", RENAMED_STAGES)
def test_an_old_stage_names_the_new_one(old, capsys):
    assert f"called {RENAMED_STAGES[old]} now" in refuse([old, "--config", "configs/phantom.yaml"], capsys)


@pytest.mark.parametrize("words", [["--augment.horizontal_flip", "swap"], ["--augment.horizontal_flip=swap"]])
def test_an_old_value_says_the_new_one(words, capsys):
    assert "found 'swap', allowed is none | keep_label | swap_label; it is called swap_label now" in refuse(
        ["train", *words], capsys
    )


def test_the_values_of_a_renamed_option_are_named_too(capsys):
    assert "swap is swap_label" in refuse(["train", "--augment.mirror", "swap"], capsys)
    assert "true is seeds" in refuse(["train", "--folds.keep_split", "true"], capsys)


def test_a_run_that_was_trained_under_old_names_is_refused(tmp_path):
    paths = Workspace(tmp_path, "knees")
    write_json(paths.run_folder / "started.json", {"settings": {"train.clip_norm": 1.0}})
    paths.last_checkpoint.touch()
    with pytest.raises(
        UserError, match=r"train\.clip_norm is called train\.max_grad_norm now\)\. Give the new run a name"
    ):
        check_same_settings(paths, {"train.max_grad_norm": 1.0})


def test_a_store_whose_settings_have_old_names_is_refused(tmp_path):
    write_json(tmp_path / "store.json", {"format": 3, "settings": {"span": [0.1, 0.9]}})
    with pytest.raises(UserError, match="Run the preprocess stage again"):
        read_store(tmp_path)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("old", RENAMED_STAGES)
def test_an_old_make_target_says_the_new_one(old):
    words = ["make", f"PYTHON={sys.executable}", old]
    shown = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env={"PATH": "/usr/bin:/bin"})
    assert shown.returncode != 0
    assert re.search(rf"called {RENAMED_STAGES[old]} now", shown.stderr)


def test_the_changelog_lists_every_new_name():
    text = (ROOT / "CHANGELOG.md").read_text()
    for old, new in RENAMED_OPTIONS.items():
        assert f"| `{old}` | `{new}` |" in text


def test_a_run_from_before_an_option_was_added_resumes_with_its_default_alone(tmp_path):
    experiment, paths = Experiment(), Workspace(tmp_path, "knees")
    now = flatten(experiment.model, "model") | flatten(experiment.augment, "augment")
    write_json(paths.run_folder / "started.json", {"settings": {}})
    paths.last_checkpoint.touch()
    check_same_settings(paths, now)
    with pytest.raises(UserError, match=r"model\.num_residual_blocks was 0, is 2\. Set them back"):
        check_same_settings(paths, now | {"model.num_residual_blocks": 2})


@pytest.mark.parametrize("old", REMOVED_OPTIONS)
def test_an_option_that_is_gone_is_refused_on_the_command_line(old, capsys):
    assert old not in OPTIONS
    assert f"{old}: this option is gone; leave it out" in refuse(["train", f"--{old}", "1"], capsys)


def test_a_checkpoint_with_an_option_that_is_gone_is_read_if_it_had_no_effect(tmp_path, monkeypatch):
    """An option of today is taken for one that is gone."""
    gone = "model.perceiver.dropout"
    paths = {}
    for dropout in (0.0, 0.1):
        model = ModelConfig(perceiver=PerceiverConfig(dropout=dropout))
        paths[dropout] = tmp_path / f"{dropout}.safetensors"
        checkpoint = make_checkpoint(model=model)
        settings = checkpoint.settings | flatten(model, "model")
        write_checkpoint(paths[dropout], dataclasses.replace(checkpoint, settings=settings))
    monkeypatch.setitem(REMOVED_OPTIONS, gone, 0.0)
    assert read_checkpoint(paths[0.0]).model.perceiver == PerceiverConfig()
    with pytest.raises(UserError, match=r"trained with model\.perceiver\.dropout: 0\.1, an option that is gone"):
        read_checkpoint(paths[0.1])


def test_a_run_with_an_option_that_is_gone_resumes_if_it_had_no_effect(tmp_path):
    paths = Workspace(tmp_path, "knees")
    paths.last_checkpoint.parent.mkdir(parents=True)
    paths.last_checkpoint.touch()
    for name, unused in REMOVED_OPTIONS.items():
        write_json(paths.run_folder / "started.json", {"settings": {name: unused}})
        check_same_settings(paths, {})
        write_json(paths.run_folder / "started.json", {"settings": {name: 0.1}})
        with pytest.raises(UserError, match=f"{re.escape(name)} is gone"):
            check_same_settings(paths, {})
