"""Copies between patients stop the split stage, and a person's word overrules."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.cli import main
from pipeline.core.files import read_checksummed_json, write_checksummed_json
from pipeline.core.workspace import Workspace
from pipeline.data.store import read_store, write_store
from pipeline.training.run_state import list_finished_runs


@pytest.fixture
def workspace(tmp_path):
    """Nine patients with a scan of one slice each; the last one is the first one mirrored and inverted."""
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32), dtype=np.uint8)
    images[8] = 255 - images[0][:, ::-1]
    names = [f"scan{number}" for number in range(9)]
    index = pd.DataFrame({"example_id": names, "source_id": names, "group_id": [f"p{number}" for number in range(9)]})
    index = index.assign(label=["left", "right", "left"] * 3, slice_index=0, slice_position=0.0)
    write_store(tmp_path / "data" / "tiny" / "prepared", [images], index, {})
    splits = pd.DataFrame({"group_id": index["group_id"], "split": ["train"] * 5 + ["val"] * 2 + ["test"] * 2})
    splits.to_csv(tmp_path / "splits.csv", index=False)
    content = {"name": "tiny", "split": {"split_table": str(tmp_path / "splits.csv")}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def run(workspace, *words):
    return main(["split", "--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace), *words])


def test_a_copy_stops_the_stage_which_names_both_scans_and_draws_them(workspace, capsys):
    page = workspace / "data" / "tiny" / "copies.html"
    for _ in range(2):  # the second time from the certificate
        assert run(workspace) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert "scan scan0 of patient p0 (train) shows the same as scan scan8 of patient p8 (test)" in error.lower()
        assert "mirrored, inverted" in error
        assert "copies.html" in error
        assert "split.accept_copies" in error
        assert "data:image/png" in page.read_text()
    page.unlink()
    assert run(workspace) == 2
    assert page.is_file(), "a page that is gone is drawn again"


def test_an_accepted_copy_is_reported_and_stops_nothing(workspace, capsys):
    assert run(workspace, "--split.accept_copies", "[[scan8, scan0]]") == 0
    assert "1 pair of copied scans across splits were accepted" in " ".join(capsys.readouterr().out.split())
    assert run(workspace, "--split.accept_copies", "[[scan8, scan0]]") == 0
    assert "nothing to do" in capsys.readouterr().out
    certificate = json.loads((workspace / "data" / "tiny" / "leak_certificate.json").read_text())
    assert certificate["copies"]["accept"] == [["scan8", "scan0"]]
    assert certificate["page"] == "copies.html"
    assert run(workspace) == 2, "without the word it stops again"
    assert run(workspace, "--split.accept_copies", "[[elsewhere, nowhere]]") == 2
    assert "found 'elsewhere', and neither it nor another scan" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[scan0, elsewhere]", "1 scan is not in this data: elsewhere. Such"),
        ("[b, a], [c, d]", "4 scans are not in this data: b, a, c, …. Such"),
    ],
)
def test_accepted_scans_of_which_some_are_not_there_are_a_warning(workspace, capsys, more, words):
    for _ in range(2):  # the second time from the certificate
        assert run(workspace, "--split.accept_copies", f"[[scan8, scan0], {more}]") == 0
        assert words in " ".join(capsys.readouterr().out.split())


def test_a_page_of_an_earlier_split_is_removed_where_no_copy_is_left(workspace):
    assert run(workspace) == 2
    table = pd.read_csv(workspace / "splits.csv")
    folder = workspace / "data" / "tiny"
    index = pd.read_csv(folder / "prepared" / "index.csv")
    images = np.random.default_rng(1).integers(0, 256, (9, 32, 32), dtype=np.uint8)
    write_store(folder / "prepared", [images], index, {})
    assert run(workspace) == 0
    assert len(table) == 9
    assert not (folder / "copies.html").exists()


def test_a_certificate_of_an_earlier_rule_is_made_again(workspace, capsys):
    words = ("--split.accept_copies", "[[scan8, scan0]]")
    path = workspace / "data" / "tiny" / "leak_certificate.json"
    assert run(workspace, *words) == 0
    now = read_checksummed_json(path)
    write_checksummed_json(path, {**now, "format": 2})
    capsys.readouterr()
    assert run(workspace, *words) == 0
    assert "nothing to do" not in capsys.readouterr().out
    assert read_checksummed_json(path) == now


def test_other_splits_do_not_replace_those_that_a_finished_run_was_trained_on(tiny_workspace, capsys):
    paths = Workspace(tiny_workspace, "tiny")
    written = (paths.splits, paths.certificate)
    before = [path.read_bytes() for path in written]
    words = ["--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace)]
    assert main(["split", *words, "--split.seed", "5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "give other splits than those of tiny, which would be replaced, and it could not be evaluated again" in line
    assert [path.read_bytes() for path in written] == before
    assert main(["split", *words]) == 0, "the same options as before"
    store = read_store(paths.prepared).fingerprint
    assert list_finished_runs(paths, store, json.loads(before[1])["splits_fingerprint"]) == ["tiny"]
    assert list_finished_runs(paths, store, "other splits") == []


def test_splits_that_no_finished_run_was_trained_on_are_replaced(workspace, tmp_path):
    words = ("--split.accept_copies", "[[scan8, scan0]]")
    assert run(workspace, *words) == 0
    folder = workspace / "data" / "tiny"
    before = (folder / "splits.csv").read_bytes()
    table = pd.read_csv(workspace / "splits.csv")
    table.assign(split=["train"] * 6 + ["val"] + ["test"] * 2).to_csv(workspace / "splits.csv", index=False)
    assert run(workspace, *words) == 0
    assert (folder / "splits.csv").read_bytes() != before
