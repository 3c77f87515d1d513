"""Folders, tables and configs from elsewhere: nothing in them leads out of the folder or runs."""

import json
import os

import pandas as pd
import pytest

from pipeline.cli import main
from pipeline.config.sources import DataConfig
from pipeline.core.errors import UserError
from pipeline.core.tables import SPLIT_COLUMNS, find_formula, read_table, write_table
from pipeline.core.text import make_printable
from pipeline.data.label_tables import list_table_sources, read_label_table
from pipeline.data.sources import list_named_sources
from pipeline.datasets.akoa import parse_name
from pipeline.inference.resumable_table import RowWriter

NAME = "OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_{}.nii.gz"


IDS = ("NA", "007", "../x", "a\rb", "a\r\nb", "a\nb", "=1+1", "Ω", '"', " a ", "1e5", "'x")


@pytest.mark.parametrize("group_id", IDS)
def test_ids_come_back_from_a_table_as_they_went_in(group_id, tmp_path):
    table = read_table(_write(tmp_path / "a.csv", "group_id,split\nx,train\n"), SPLIT_COLUMNS)
    table.loc[0, "group_id"] = group_id
    write_table(tmp_path / "b.csv", table, SPLIT_COLUMNS)
    assert read_table(tmp_path / "b.csv", SPLIT_COLUMNS).to_numpy().tolist() == [[group_id, "train"]]


def test_cells_that_a_spreadsheet_would_run_are_reported():
    table = pd.DataFrame({name: ["a", "007"] for name in ("group_id", "source_id", "label", "path")})
    assert find_formula(table) == ""
    for text in ("=1+1", "+1", "-1", "@A1", "\t=1"):
        assert find_formula(table.assign(label=["a", text])) == text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.nii,1,left,more", "line 2: more cells than the header"),
        (".,1,left", "the raw folder itself"),
        ("a/..,1,left", "the raw folder itself"),
        ("../a.nii,1,left", "is outside"),
        (f"{'x' * 300},1,left", "no such file"),
    ],
)
def test_a_row_that_names_no_file_in_the_folder_is_refused(row, message, tmp_path):
    table = _write(tmp_path / "table.csv", f"path,patient,label\n{row}\n")
    if message in ("no such file", "the raw folder itself"):
        assert message in list_table_sources(tmp_path, read_label_table(DataConfig(label_table=table)))[0].refusal
    else:
        with pytest.raises(UserError, match=message):
            list_table_sources(tmp_path, read_label_table(DataConfig(label_table=table)))


def test_links_that_lead_out_of_the_raw_folder_are_refused(tmp_path, write_knee):
    private, raw = tmp_path / "private", tmp_path / "raw"
    write_knee(private / "knee.nii.gz")
    raw.mkdir()
    (raw / NAME.format("RIGHT")).symlink_to(private / "knee.nii.gz")
    write_knee(raw / "inside" / "knee.nii.gz")
    (raw / NAME.format("LEFT")).symlink_to("inside/knee.nii.gz")
    (raw / "elsewhere").symlink_to(private)
    header = NAME.format("L_E_F_T").replace(".nii.gz", ".hdr").replace("_3_", "_4_")
    (raw / header).write_bytes(b"x")
    (raw / header.replace(".hdr", ".img")).symlink_to(private / "knee.nii.gz")
    (tmp_path / "linked").symlink_to(raw)  # the folder itself may be a link
    for folder in (raw, tmp_path / "linked"):
        found = {source.paths[0].name: source for source in list_named_sources(folder, "*", parse_name)}
        assert "leads out of the raw folder" in found[NAME.format("RIGHT")].refusal
        assert "leads out of the raw folder" in found[header].refusal
        assert found[NAME.format("LEFT")].refusal == ""
        assert found["elsewhere"].ignored
        assert "linked folder" in found["elsewhere"].refusal
    table = _write(tmp_path / "table.csv", "path,patient,label\nelsewhere/knee.nii.gz,1,left\n")
    (source,) = list_table_sources(raw, read_label_table(DataConfig(label_table=table)))
    assert "leads out of the raw folder" in source.refusal


def test_a_name_that_is_no_unicode_text_is_refused(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff_" + NAME.format("LEFT").encode()
    with open(path, "wb") as file:  # noqa: PTH123 (its name is bytes)
        file.write(b"x")
    (source,) = list_named_sources(tmp_path, "*", parse_name)
    assert "no Unicode text" in source.refusal


def test_messages_are_one_line_without_commands_to_a_terminal():
    assert str(UserError("a\nb\x1b[31m\udcff: ok, Ω ü 日本")) == "a\\nb\\x1b[31m\\udcff: ok, Ω ü 日本"
    assert make_printable("\u202egnp.exe") == "\\u202egnp.exe"


def test_a_file_named_like_markup_is_listed_as_it_is(tmp_path, write_knee, capsys):
    raw = tmp_path / "raw"
    write_knee(raw / NAME.format("LEFT"))
    write_knee(raw / NAME.format("RIGHT"), seed=1)
    _write(raw / "a[" / "b]:smile:.txt", "x")
    words = ["--data.raw_folder", str(raw), "--workspace", str(tmp_path), "--preprocess.num_workers", "1"]
    assert main(["preprocess", *words, "--preprocess.num_slices", "2"]) == 0
    assert "such as a[/b]:smile:.txt: not named as an image" in capsys.readouterr().out


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.mkdir [trapped]", "!!python/name:os.system", "!!python/object/new:dict {}"],
)
def test_tags_in_a_config_are_refused(tag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "a.yaml", f"name: {tag}\n")
    assert main(["split", "--config", "a.yaml"]) == 2
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "-x", "a\nb"])
def test_an_experiment_is_never_named_like_a_path(name, tmp_path, capsys):
    _write(tmp_path / "a.yaml", json.dumps({"name": name}))
    assert main(["split", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "name: found" in capsys.readouterr().err


@pytest.mark.parametrize("name", IDS)
def test_rows_of_predictions_come_back_as_they_went_in(name, tmp_path):
    with RowWriter(tmp_path / "a.csv", "1") as writer:
        writer.write({"path": name, "predicted": "left"})
        writer.finish(("path", "predicted"))
    assert read_table(tmp_path / "a.csv", ("path",)).to_numpy().tolist() == [[name, "left"]]


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
