"""Stages that are called too early name the stage to run, whatever of the work was done."""

import shutil

import pytest

from pipeline.cli import main
from pipeline.stages import STAGES

STORE, SPLIT, TRAIN, EVALUATE = (f"Run the {stage} stage" for stage in ("preprocess", "split", "train", "evaluate"))
COMPARE = "Run the train and evaluate stages"
STUDIES = ("leak-study", "cross-validate", "tune", "learning-curve")
# What was done, from nothing on, with the files that it left; and what each stage then names.
PREPARED, SPLITS = "data/tiny/prepared", ("data/tiny/splits.csv", "data/tiny/leak_certificate.json")
NEEDED = {
    (): {
        "preprocess": "Run the fetch stage",
        **dict.fromkeys(("split", "pretrain", "train", "evaluate", "attention", "cases", *STUDIES), STORE),
        **dict.fromkeys(("predict", "export"), TRAIN),
        "compare": COMPARE,
    },
    (PREPARED,): {
        **dict.fromkeys(("train", "evaluate", "attention"), SPLIT),
        **dict.fromkeys(("predict", "export"), TRAIN),
        "cases": EVALUATE,
        "compare": COMPARE,
    },
    (PREPARED, *SPLITS): {
        **dict.fromkeys(("evaluate", "attention", "predict", "export"), TRAIN),
        "cases": EVALUATE,
        "compare": COMPARE,
    },
    (PREPARED, *SPLITS, "runs/tiny"): {"cases": EVALUATE, "compare": COMPARE},
}


@pytest.mark.parametrize("done", NEEDED, ids=len)
def test_a_stage_that_is_called_too_early_names_the_one_to_run(done, tiny_workspace, tmp_path, capsys):
    for name in done:
        copy = shutil.copytree if (tiny_workspace / name).is_dir() else shutil.copyfile
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(tiny_workspace / name, tmp_path / name)
    words = ["--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tmp_path)]
    for stage, advice in NEEDED[done].items():
        inputs = [str(tmp_path)] if stage == "predict" else []
        assert main([stage, *inputs, *words]) == 2, stage
        (line,) = capsys.readouterr().err.splitlines()
        assert advice in line, stage


def test_every_stage_but_the_first_is_asked_in_an_empty_workspace():
    assert set(NEEDED[()]) == set(STAGES) - {"fetch"}


@pytest.mark.parametrize("dataset", ["akoa", "oai", "labelled"])
def test_fetch_makes_no_folder_and_finds_no_data_where_there_are_none(dataset, tmp_path, monkeypatch, capsys):
    """Data that nobody may pass on: the folder that was looked for was made by the look, and data "are there"."""
    monkeypatch.chdir(tmp_path)
    words = ["fetch", "--name", "x", "--data.dataset", dataset]
    for raw in ([], ["--data.raw_folder", "typo"]):
        assert main([*words, *raw]) == 2
        assert "no such folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "typo").mkdir()
    (tmp_path / "typo" / ".DS_Store").touch()
    assert main([*words, "--data.raw_folder", "typo"]) == 2
    assert "an empty folder" in capsys.readouterr().err
    (tmp_path / "typo" / "a.nii").touch()
    assert main([*words, "--data.raw_folder", "typo"]) == 0


def test_a_raw_folder_that_is_none_is_refused_before_its_table_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "scans.csv").write_text("path,patient,label\na.png,1,x\n")
    words = ["preprocess", "--name", "x", "--data.dataset", "labelled", "--data.label_table", "scans.csv"]
    for raw, message in (
        ("loop", "a link that leads nowhere"),
        ("none", "no such folder"),
        ("scans.csv", "a file and"),
    ):
        assert main([*words, "--data.raw_folder", raw]) == 2
        assert f"{raw}: {message}" in capsys.readouterr().err
