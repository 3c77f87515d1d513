"""The command line: every option is there, and a mistake is one clear line and exit code 2."""

import dataclasses
import subprocess
import sys

import pytest
import yaml

from pipeline.cli import main, parse_experiment
from pipeline.config.experiment import Experiment, dump_experiment
from pipeline.core.errors import UserError
from pipeline.core.serialization import flatten
from pipeline.stages import STAGES


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\nworkspace: " + str(tmp_path) + "\ntrain:\n  epochs: 3\npreprocess:\n  span: [0.2, 0.8]\n"
    )
    return path


def test_options_override_the_file_and_the_file_the_defaults(config):
    experiment = parse_experiment(
        "train", ["--config", str(config), "--train.learning_rate", "0.5", "--split.table", "null"]
    )
    assert (experiment.train.epochs, experiment.train.learning_rate) == (3, 0.5)
    assert experiment.preprocess.span == (0.2, 0.8)
    assert experiment.train.batch_size == 64


def test_every_field_is_an_option_with_its_meaning(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in flatten(Experiment("x")):
        assert f"--{name}" in text, name
    assert "bootstrap draws over patients behind each interval" in text


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--train.epoch", "3"], "train.epoch"),
        (["--train.epochs", "three"], "train.epochs"),
        (["--train.epochs", "0"], "train.epochs: found 0, allowed is 1 or more"),
        (["--preprocess.plane", "oblique"], "preprocess.plane"),
        (["--name", "../x"], "name: found '../x'"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_a_bad_option_is_one_line_that_names_it(words, match, config, capsys):
    assert main(["train", "--config", str(config), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert match in error
    assert error.count("\n") == 1


def test_an_unknown_key_in_the_file_is_refused(config, capsys):
    config.write_text("name: tiny\ntrain:\n  epoch: 3\n")
    assert main(["train", "--config", str(config)]) == 2
    assert "epoch" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["name: [", "name: !!python/object/apply:os.system ['true']", "- 1", "\0"])
def test_a_file_that_is_no_plain_yaml_is_refused(text, config, capsys):
    config.write_text(text)
    assert main(["train", "--config", str(config)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_an_unknown_stage_lists_the_known_ones(capsys):
    assert main(["trian"]) == 2
    assert f"allowed are {', '.join(STAGES)}" in capsys.readouterr().err
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(stage in shown for stage in STAGES)


def test_predict_takes_files_before_its_options(config):
    experiment = parse_experiment("predict", ["a.nii.gz", "b", "--config", str(config)])
    assert [str(path) for path in experiment.predict.inputs] == ["a.nii.gz", "b"]


def test_a_dumped_experiment_reads_back(config, tmp_path):
    experiment = parse_experiment("train", ["--config", str(config), "--train.milestones", "[3, 5]", "--run", "seed-1"])
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_experiment(experiment))
    assert parse_experiment("train", ["--config", str(path)]) == experiment
    assert yaml.safe_load(path.read_text())["train"]["milestones"] == [3, 5]


def test_folds_have_their_own_run_folder():
    folds = dataclasses.replace(Experiment("x").split, num_folds=5, test_fold=2)
    assert Experiment("x", split=folds).paths.run_folder.as_posix() == "runs/x/fold-2"
    assert Experiment("x", run="seed-1", split=folds).paths.report_folder.as_posix() == "reports/x/seed-1-fold-2"


def test_an_output_that_cannot_be_written_is_one_line(config, tmp_path, write_patients, capsys):
    write_patients(tmp_path / "raw", num_patients=1)
    (tmp_path / "data").write_text("a file where a folder should be")
    assert main(["preprocess", "--config", str(config), "--data.raw", str(tmp_path / "raw")]) == 2
    error = capsys.readouterr().err
    assert "Not a directory" in error or "File exists" in error
    assert "Traceback" not in error


def test_the_module_is_the_console_script(config):
    done = subprocess.run([sys.executable, "-m", "pipeline", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: stage: found 'trian'")


def test_bugs_keep_their_traceback(config, monkeypatch):
    def broken(experiment, console):
        """Break."""
        raise KeyError("a bug")

    monkeypatch.setitem(STAGES, "train", broken)
    with pytest.raises(KeyError):
        main(["train", "--config", str(config)])


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)
