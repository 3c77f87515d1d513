"""kill -9 at any moment loses nothing: the same command resumes, and ends with the same bytes."""

import random
import signal
from pathlib import Path

import pytest

from tests.faults.crash import STAGES, Ended, Moment, copy_workspace, describe, find_differences, make_words, run_stage

KILLED = ("preprocess", "train", "evaluate")
# The slow run has the other stages.
SOME_KILLED = ["train", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("preprocess", "evaluate"))]
NUM_FAST, NUM_SLOW = 2, 20


def choose_moments(ended: Ended, number: int, seed: str) -> list[Moment]:
    """Draw moments: about half of them right before a change of a file, the others anywhere."""
    generator = random.Random(seed)
    changes = generator.sample(range(1, ended.num_changes + 1), min((number + 1) // 2, ended.num_changes))
    others = number - len(changes)
    # One in each of equal parts of the work; the last tenth may not be reached again.
    cpu = [0.9 * ended.cpu_s * (place + generator.random()) / others for place in range(others)]
    return [*(Moment(change=change) for change in changes), *(Moment(cpu_s=value) for value in cpu)]


def kill_and_resume(stage: str, moments: list[Moment], undisturbed, tmp_path: Path) -> int:
    """Kill the stage at each moment and run it again; return how many processes really died."""
    before, _, whole = undisturbed
    following = STAGES[STAGES.index(stage) + 1 :]
    num_killed = 0
    expected = describe(whole)
    for place, moment in enumerate(moments):
        workspace = copy_workspace(before[stage], tmp_path / str(place))
        killed = run_stage(make_words(stage, workspace), moment)
        assert killed.code in (0, -signal.SIGKILL, -signal.SIGPROF), moment
        num_killed += killed.code != 0
        assert run_stage(make_words(stage, workspace)).code == 0, moment
        for later in following:
            assert run_stage(make_words(later, workspace)).code == 0, (moment, later)
        assert find_differences(describe(workspace), expected) == [], moment
    return num_killed


@pytest.mark.parametrize("stage", SOME_KILLED)
def test_a_stage_that_was_killed_ends_with_the_same_bytes(stage, undisturbed, tmp_path):
    moments = choose_moments(undisturbed[1][stage], NUM_FAST, f"fast {stage}")
    assert kill_and_resume(stage, moments, undisturbed, tmp_path) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", KILLED)
def test_a_stage_on_whole_scans_that_was_killed_ends_with_the_same_bytes(stage, undisturbed_scans, tmp_path):
    moments = choose_moments(undisturbed_scans[1][stage], NUM_FAST, f"scans {stage}")
    assert kill_and_resume(stage, moments, undisturbed_scans, tmp_path) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", KILLED)
def test_a_stage_that_was_killed_often_ends_with_the_same_bytes(stage, undisturbed, tmp_path):
    moments = choose_moments(undisturbed[1][stage], NUM_SLOW, f"slow {stage}")
    assert kill_and_resume(stage, moments, undisturbed, tmp_path) >= NUM_SLOW * 3 // 4


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_that_was_killed_before_each_change_of_a_file_ends_with_the_same_bytes(stage, undisturbed, tmp_path):
    moments = [Moment(change=change) for change in range(1, undisturbed[1][stage].num_changes + 1)]
    step = max(1, len(moments) // 40)
    assert kill_and_resume(stage, moments[::step], undisturbed, tmp_path) == len(moments[::step])


@pytest.mark.slow
def test_a_pretraining_that_was_killed_ends_with_the_same_bytes(undisturbed, tmp_path):
    before = undisturbed[0]["train"]
    options = ["--pretrain.epochs", "3"]
    whole = copy_workspace(before, tmp_path / "whole")
    ended = run_stage(make_words("pretrain", whole) + options)
    assert ended.code == 0
    expected, num_killed = describe(whole), 0
    assert any(name.endswith("best.safetensors") for name in expected)
    for place, moment in enumerate(choose_moments(ended, 8, "pretrain")):
        workspace = copy_workspace(before, tmp_path / str(place))
        num_killed += run_stage(make_words("pretrain", workspace) + options, moment).code != 0
        assert run_stage(make_words("pretrain", workspace) + options).code == 0, moment
        assert find_differences(describe(workspace), expected) == [], moment
    assert num_killed >= 6


def test_a_training_that_was_killed_before_its_last_line_of_history_writes_it(undisturbed, tmp_path):
    _, _, whole = undisturbed
    workspace = copy_workspace(whole, tmp_path / "workspace")
    run = workspace / "runs" / "tiny"
    (run / "training.json").unlink()
    lines = (run / "history.csv").read_text().splitlines(keepends=True)
    (run / "history.csv").write_text("".join(lines[:-1]))
    assert run_stage(make_words("train", workspace)).code == 0
    assert find_differences(describe(workspace), describe(whole)) == []
