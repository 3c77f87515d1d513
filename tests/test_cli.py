"""The command line: every option is there, and a mistake is one clear line and exit code 2."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.cli import Output, choose_matplotlib_folder, main, parse_experiment
from pipeline.config.experiment import Experiment, dump_experiment
from pipeline.config.parsing import OPTIONS
from pipeline.core.console import warn
from pipeline.core.errors import UserError
from pipeline.stages import COMMANDS, RUN, STAGES, is_among


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\nworkspace: " + str(tmp_path) + "\ntrain:\n  epochs: 3\npreprocess:\n  slice_range: [0.2, 0.8]\n"
    )
    return path


def test_options_override_the_file_and_the_file_the_defaults(config):
    experiment = parse_experiment(
        "train", ["--config", str(config), "--train.learning_rate", "0.5", "--split.split_table", "null"]
    )
    assert (experiment.train.epochs, experiment.train.learning_rate) == (3, 0.5)
    assert experiment.preprocess.slice_range == (0.2, 0.8)
    assert experiment.train.batch_size == 64


def show_help(stage, capsys, *topic):
    assert main([stage, "--help", *topic]) == 0
    return capsys.readouterr().out


def test_help_lists_the_options_that_the_stage_reads_with_type_default_and_meaning(capsys):
    text = show_help("predict", capsys)
    assert len(text.splitlines()) <= 80
    assert "--predict.min_confidence  number, default 0.0\n      The least probability" in text
    assert "--train.accelerator  auto | cpu | cuda | mps, default auto" in text
    assert "INPUT ..." in text
    assert "train.epochs" not in text
    texts = [show_help(stage, capsys, "all") for stage in STAGES]
    listed = [name for name in OPTIONS if any(f"--{name}  " in text for text in texts)]
    assert OPTIONS.keys() - {*listed} == {"data.allow_partial"} - {*listed}


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_help_begins_with_what_is_set_most_often_and_names_the_sections_of_the_rest(stage, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    short, whole = show_help(stage.name, capsys), show_help(stage.name, capsys, "all")
    assert len(short.splitlines()) <= 105
    assert short == whole or stage.first
    shown = re.findall(r"^  --([a-z_.]+)  ", short, re.MULTILINE)
    listed = re.findall(r"^  --([a-z_.]+)  ", whole, re.MULTILINE)
    if not stage.first:
        assert shown == listed
        return
    assert [name for name in shown if not is_among(name, stage.first)] == []
    assert [name for name in stage.first if not any(is_among(found, [name]) for found in shown)] == []
    counts = dict(re.findall(r"^  ([a-z_.]+) +(\d+)  ", short, re.MULTILINE))
    assert counts == {section: str(sum(name.rpartition(".")[0] == section for name in listed)) for section in counts}
    assert sum(map(int, counts.values())) == sum("." in name for name in listed)


def test_help_shows_a_section_or_an_option_alone(capsys):
    text = show_help("train", capsys, "augment.points")
    assert text.startswith("augment.points: The random changes of training point clouds")
    assert set(re.findall(r"^  --([a-z_]+\.[a-z_]+)\.", text, re.MULTILINE)) == {"augment.points"}
    assert "--train.lr_gamma  number, default 0.1\n" in show_help("train", capsys, "train.lr_gamma")
    assert main(["train", "--help", "cases"]) == 2
    assert "train reads no such option; its sections are data," in capsys.readouterr().err


def test_the_version_is_that_of_the_project(capsys):
    assert main(["--version"]) == 0
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    assert capsys.readouterr().out == f"perceiver {project['version']}\n"


@pytest.mark.slow
def test_help_and_the_stages_that_read_tables_load_nothing_slow():
    """Help takes a moment; torch alone takes seconds."""
    slow = {"torch", "monai", "mlflow", "sklearn", "lightning"}
    code = "import sys, pipeline.cli as cli"
    # One process does all of it, and what a step loads stays: each forbids what the ones below it forbid.
    for step, more in (
        ("cli.main(['--help'])", {"numpy", "pandas", "jsonargparse", "yaml", "rich", "matplotlib"}),
        ("[cli.main([stage, '--help']) for stage in cli.STAGES]", {"numpy", "pandas", "matplotlib"}),
        ("import pipeline.stages.split", {"matplotlib"}),
        ("import pipeline.stages.studies.compare", set()),
    ):
        code += f"\n{step}; print('loaded', sorted({slow | more} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("loaded")] == ["loaded []"] * 4


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--train.epoch", "3"], "--train.epoch: unknown option; the nearest is train.epochs"),
        (["--learning_rat=3"], "--learning_rat: unknown option; the nearest is train.learning_rate"),
        (["--num_latents", "3"], "--num_latents: unknown option; the nearest is model.perceiver.num_latents"),
        (["--train.lr", "3"], "--train.lr: unknown option; the nearest is train.learning_rate."),
        (["--zzz", "3"], "--zzz: unknown option; perceiver STAGE --help"),
        (["--train.epochs", "three"], "train.epochs: found 'three', allowed is whole number"),
        (["--train.epochs", "3", "4"], "4: no option; a YAML file is given as --config FILE"),
        (["--model.perceiver.num_latents", "0"], "model.perceiver.num_latents: found 0"),
        (["--train", "{epoch: 3}"], "epoch"),
        (["--train.epochs", "0"], "train.epochs: found 0, allowed is 1 or more"),
        (
            ["--preprocess.plane", "axail"],
            "preprocess.plane: found 'axail', allowed is axial | coronal | sagittal; the",
        ),
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


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("train:\n  epoch: 3\n", "train.epoch: unknown option; the nearest is train.epochs."),
        ("trian: {}\n", "trian: unknown option; the nearest is train."),
        ("train: 3\n", "train: found 3, allowed are the options of this section"),
        ("train:\n", "train: found None"),
        ("train:\n  epochs: three\n", "train.epochs: found 'three', allowed is whole number."),
        ("train:\n  epochs: 0\n", "train.epochs: found 0, allowed is 1 or more."),
        ("preprocess: {plane: axail}", "preprocess.plane: found 'axail', allowed is axial | coronal | sagittal; the"),
        ("split: {val_fraction: 0.5, test_fraction: 0.6}", "split.val_fraction + split.test_fraction: found 1.1"),
    ],
)
def test_an_error_in_a_file_is_one_line_with_the_files_name(text, match, config, capsys):
    config.write_text(text)
    assert main(["train", "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {config}: ")
    assert match in error
    assert error.count("\n") == 1


def test_an_error_on_the_command_line_is_not_blamed_on_the_file(config, capsys):
    assert main(["train", f"--config={config}", "--train.epochs", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: train.epochs: found 0")


@pytest.mark.parametrize("text", ["name: [", "name: !!python/object/apply:os.system ['true']", "- 1", "\0"])
def test_a_file_that_is_no_plain_yaml_is_refused(text, config, capsys):
    config.write_text(text)
    assert main(["train", "--config", str(config)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_stage_with_a_typo_gets_the_nearest_one(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.endswith("The nearest is train.\n")


def test_an_unknown_stage_lists_the_known_ones(capsys):
    assert main(["trian"]) == 2
    assert f"allowed are {', '.join((*COMMANDS, *STAGES))}" in capsys.readouterr().err
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(stage in shown for stage in (*STAGES, "init", "run"))


def test_a_config_that_comes_along_is_named_without_its_path(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--config", "xray_kl"], ["--config=xray_kl"]):
        assert parse_experiment("train", [*words, "--train.epochs", "1"]).data.label_type == "ordinal"
    assert main(["train", "--config", "xray_ki"]) == 2
    assert "found xray_ki, which is no file and no config that comes along; the nearest is xray_kl" in (
        capsys.readouterr().err
    )
    (tmp_path / "akoa").write_text("name: own\n")
    assert parse_experiment("train", ["--config", "akoa"]).name == "own", "a file of this name comes first"


@pytest.mark.slow
def test_scripts_read_one_object_or_warnings_and_errors_alone(tiny_workspace, config, capsys):
    words = ["split", "--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace)]
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["--json", *words]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["stage"], shown["exit_code"], shown["error"]) == ("split", 0, None)
    assert {*shown["messages"], *(f"warning: {text}" for text in shown["warnings"])} == set(printed)
    assert main(["split", "--config", str(config), "--train.epochs", "0", "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"] == shown.err.strip()
    assert "train.epochs" in shown.err


def test_a_quiet_stage_still_warns(capsys):
    output = Output(is_quiet=True, is_json=False)
    console = output.open()
    console.print("done")
    warn(console, "Too few patients.")
    output.finish("evaluate", 0, 1.0)
    assert capsys.readouterr() == ("", "warning: Too few patients.\n")


def test_run_does_the_stages_in_their_order_and_nothing_twice(tiny_workspace, capsys):
    assert main(["run", "--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace)]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^\[\d of 5\] (\w+)$", shown, re.MULTILINE) == list(RUN)
    assert "up to date" in shown
    assert main(["run", "--help"]) == main(["init", "--help"]) == 0


def test_predict_takes_files_before_its_options(config):
    experiment = parse_experiment("predict", ["a.nii.gz", "b", "--config", str(config)])
    assert [str(path) for path in experiment.predict.inputs] == ["a.nii.gz", "b"]


def test_a_dumped_experiment_reads_back(config, tmp_path):
    experiment = parse_experiment(
        "train", ["--config", str(config), "--train.lr_milestones", "[3, 5]", "--run", "seed-1"]
    )
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_experiment(experiment))
    assert parse_experiment("train", ["--config", str(path)]) == experiment
    assert yaml.safe_load(path.read_text())["train"]["lr_milestones"] == [3, 5]


def test_folds_have_their_own_run_folder():
    folds = dataclasses.replace(Experiment("x").split, num_folds=5, test_fold=2)
    assert Experiment("x", split=folds).paths.run_folder.as_posix() == "runs/x/fold-2"
    assert Experiment("x", run="seed-1", split=folds).paths.report_folder.as_posix() == "reports/x/seed-1-fold-2"


def test_an_output_that_cannot_be_written_is_one_line(config, tmp_path, write_patients, capsys):
    write_patients(tmp_path / "raw", num_patients=1)
    (tmp_path / "data").write_text("a file where a folder should be")
    assert main(["preprocess", "--config", str(config), "--data.raw_folder", str(tmp_path / "raw")]) == 2
    error = capsys.readouterr().err
    assert "Not a directory" in error or "File exists" in error
    assert "Traceback" not in error


def test_the_module_is_the_console_script(config):
    done = subprocess.run([sys.executable, "-m", "pipeline", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: stage: found 'trian'")


def test_letters_that_the_terminal_lacks_are_shown_by_their_codes(tmp_path):
    words = ["split", "--config", str(tmp_path / "健常.yaml")]
    code = f"import pipeline.cli as cli; code = cli.main({words!r}); print('健常'); raise SystemExit(code)"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout.split()) == (2, [rb"\u5065\u5e38"])
    assert rb"\u5065\u5e38.yaml: No such file" in done.stderr


@pytest.mark.parametrize("words", [["train", "--help"], ["--help"]])
def test_a_reader_that_closes_the_pipe_gets_no_traceback(words):
    command = [sys.executable, "-m", "pipeline", *words]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_bugs_keep_their_traceback(config, monkeypatch):
    def broken(experiment, console):
        raise KeyError("a bug")

    monkeypatch.setattr("pipeline.stages.train.train", broken)
    with pytest.raises(KeyError):
        main(["train", "--config", str(config)])


@pytest.mark.parametrize("home", ["/dev/null/home", None])
def test_matplotlib_gets_a_folder_of_this_user_where_the_home_folder_takes_none(home, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPLCONFIGDIR", "kept")
    choose_matplotlib_folder()
    assert os.environ["MPLCONFIGDIR"] == "kept"
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    choose_matplotlib_folder()
    assert "MPLCONFIGDIR" not in os.environ, "this home folder takes one"
    if home is None:  # a user without an entry in the list of users
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda text: text)
    else:
        monkeypatch.setenv("HOME", home)
    choose_matplotlib_folder()
    folder = Path(os.environ.pop("MPLCONFIGDIR"))
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    choose_matplotlib_folder()
    assert "MPLCONFIGDIR" not in os.environ, "anybody could write here"


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize(("words", "code"), [(["split", "--help"], 0), (["nothing"], 2)])
def test_closed_streams_change_no_exit_code(words, code, monkeypatch):
    """Python sets a stream to None where the caller closed it, as ``perceiver split >&-`` does."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(words) == code
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [["--help"], ["split", "--help"], ["--version"]])
def test_an_output_that_is_full_ends_in_one_line(words):
    with Path("/dev/full").open("w") as full:
        call = [sys.executable, "-m", "pipeline", *words]
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device." in done.stderr
