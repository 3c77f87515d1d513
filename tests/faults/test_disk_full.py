"""A full disk or a folder without permission is one clear line; what was there stays, and the next run completes."""

import os
import sys
from pathlib import Path

import pytest

from tests.faults.crash import STAGES, copy_workspace, describe, find_differences, make_words, run_stage

pytestmark = pytest.mark.slow


def list_sizes(stage: str, undisturbed) -> list[int]:
    """Return the sizes of the files that a stage wrote, without doubles, the largest first."""
    workspaces = [*undisturbed[0].values(), undisturbed[2]]
    before, after = workspaces[STAGES.index(stage) : STAGES.index(stage) + 2]
    known = {path.relative_to(before) for path in before.rglob("*")}
    new = [path for path in after.rglob("*") if path.is_file() and path.relative_to(after) not in known]
    return sorted({path.stat().st_size for path in new if path.stat().st_size > 1}, reverse=True)


def fill_disk_and_resume(stage: str, sizes: list[int], undisturbed, tmp_path: Path) -> None:
    before, _, whole = undisturbed
    # Scans are recognised by their times, so of raw data that are made again only they themselves are compared.
    expected = describe(before["preprocess"] if stage == "fetch" else whole)
    for size in sizes:
        workspace = copy_workspace(before[stage], tmp_path / str(size))
        earlier = describe(workspace)
        ended = run_stage(make_words(stage, workspace), max_file_bytes=size - 1)
        assert ended.code == 2, size
        assert ended.complaint.startswith("error: "), size
        assert ended.complaint.count("\n") == 1, ended.complaint
        assert str(workspace) in ended.complaint, ended.complaint
        found = describe(workspace)
        assert [name for name in earlier if found.get(name) != earlier[name]] == [], "earlier results are whole"
        assert not list(workspace.rglob(".*.tmp"))
        for later in [stage] if stage == "fetch" else STAGES[STAGES.index(stage) :]:
            assert run_stage(make_words(later, workspace)).code == 0, (size, later)
        assert find_differences(describe(workspace), expected) == [], size


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_the_next_run_completes(stage, undisturbed, tmp_path):
    sizes = list_sizes(stage, undisturbed)
    fill_disk_and_resume(stage, sizes[len(sizes) // 2 :][:1], undisturbed, tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_is_full_at_any_write_is_one_line_and_the_next_run_completes(stage, undisturbed, tmp_path):
    fill_disk_and_resume(stage, list_sizes(stage, undisturbed), undisturbed, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="the superuser may write everywhere")
@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_without_permission_is_one_line_and_the_next_run_completes(stage, undisturbed, tmp_path):
    before, after = [*undisturbed[0].values(), undisturbed[2]][STAGES.index(stage) :][:2]
    workspace = copy_workspace(before, tmp_path / "workspace")
    earlier = describe(workspace)
    folders = [workspace, *(path for path in workspace.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    ended = run_stage(make_words(stage, workspace), is_ordinary=True)
    for folder in folders:
        folder.chmod(0o755)
    assert ended.code == 2
    assert ended.complaint.startswith(f"error: {workspace}")
    assert "Permission denied" in ended.complaint
    assert ended.complaint.count("\n") == 1
    assert describe(workspace) == earlier
    assert run_stage(make_words(stage, workspace)).code == 0
    assert find_differences(describe(workspace), describe(after)) == []
