"""What a YAML file or a command line says reaches the options unchanged, or is refused."""

import contextlib
import functools
import json
from pathlib import Path

import pytest

from pipeline.config.experiment import Experiment
from pipeline.config.parsing import OPTIONS, read_experiment
from pipeline.core.errors import UserError


@pytest.fixture
def write_config(tmp_path):
    def write(text, encoding="utf-8"):
        (tmp_path / "knees.yaml").write_bytes(text.encode(encoding))
        return ["--config", str(tmp_path / "knees.yaml")]

    return write


@pytest.mark.parametrize(
    ("text", "name", "lines"),
    [
        ("train:\n  epochs: 3\nname: a\ntrain:\n  batch_size: 2\n", "train", "lines 1 and 4"),
        ("train:\n  epochs: 3\n  epochs: 4\n", "epochs", "lines 2 and 3"),
        ("model:\n  perceiver: {num_latents: 4, num_latents: 4}\n", "num_latents", "line 2"),
        ('data:\n  merge: {1: a, "1": b}\n', "1", "line 2"),
        ("data:\n  merge:\n    1: a\n    1: b\n", "1", "lines 3 and 4"),
        ("train.epochs: 3\ntrain: {epochs: 4}\n", "train.epochs", "its section and with its full name"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_both_places(write_config, text, name, lines):
    with pytest.raises(UserError, match=f"knees.yaml: {name} is there twice, in {lines}"):
        read_experiment(write_config(text))


@pytest.mark.parametrize("text", ["name: null\n", "name:\n", "train:\n  resume: ~\n", "train: {epochs: }\n"])
def test_null_is_refused_where_there_must_be_a_value(write_config, text):
    with pytest.raises(UserError, match=r"knees.yaml: (name|train\.\w+): found null, allowed is (text|true|whole)"):
        read_experiment(write_config(text))
    assert read_experiment(write_config("predict: {checkpoint: null}\n")).predict.checkpoint is None


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_an_infinite_number_is_refused(write_config, number):
    with pytest.raises(UserError, match=r"knees.yaml: train.learning_rate: found -?(inf|nan), allowed are finite"):
        read_experiment(write_config(f"train: {{learning_rate: {number}}}\n"))


def test_a_word_that_is_no_option_is_refused_and_a_config_needs_no_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "phantom.yaml").write_text("name: a\n")
    with pytest.raises(UserError, match=r"^phantom: no option; a YAML file is given as --config FILE"):
        read_experiment(["phantom"])
    assert read_experiment(["--config", "phantom"]).name == "a", "the own one comes before the one that comes along"
    with pytest.raises(UserError, match=r"^--config: found knees, which is no file and no config that comes along"):
        read_experiment(["--config", "knees"])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_a_file_in_another_encoding_is_refused(write_config, encoding):
    with pytest.raises(UserError, match=r"knees.yaml: .* Save the file as UTF-8"):
        read_experiment(write_config("name: Prüfung\n", encoding))


def test_a_byte_order_mark_changes_nothing(write_config):
    assert read_experiment(write_config("name: knees\n", "utf-8-sig")).name == "knees"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "- a\n", "knees\n"])
def test_a_file_without_options_is_refused(write_config, text):
    with pytest.raises(UserError, match="allowed are sections with options"):
        read_experiment(write_config(text))


def test_numbers_and_switches_are_read_in_every_spelling_of_yaml(write_config):
    text = "train: {learning_rate: 1e-3, weight_decay: 1.e-2, epochs: 0x10}\npreprocess: {export_png: yes}\n"
    experiment = read_experiment(write_config(f"{text}tracking: {{enabled: off}}\n"))
    assert experiment.train.learning_rate == 0.001
    assert experiment.train.weight_decay == 0.01
    assert experiment.train.epochs == 16
    assert experiment.preprocess.export_png is True
    assert experiment.tracking.enabled is False


@pytest.mark.parametrize(("text", "number"), [("013", 11), ("-010", -8), ("1:30", 90), ("00", 0), ("1:30.5", 90.5)])
def test_a_number_that_yaml_takes_for_another_one_is_refused(write_config, text, number):
    with pytest.raises(UserError, match=rf"knees.yaml: line 2: YAML takes {text} for the number {number}\. Write"):
        read_experiment(write_config(f"train:\n  epochs: {text}\n"))
    with pytest.raises(UserError, match=f"YAML takes {text} for"):
        read_experiment(write_config(f"name: a\ndata: {{merge: {{{text}: none}}}}\n"))
    assert read_experiment(write_config(f'data: {{merge: {{"{text}": none}}}}\n')).data.merge == {text: "none"}


@pytest.mark.parametrize("word", ["off", "no", "yes", "12", "1e3"])
def test_a_name_that_yaml_takes_for_something_else_needs_quotes(write_config, word):
    assert read_experiment(write_config(f'name: "{word}"\n')).name == word
    with pytest.raises(UserError, match=r"knees.yaml: name: found .*, allowed is text; put it into quotes"):
        read_experiment(write_config(f"name: {word}\n"))


def test_the_home_folder_is_written_as_a_tilde_in_every_path(write_config, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = write_config("workspace: ~/knees\ndata: {raw_folder: ~}\npredict: {inputs: [~/a.nii, b.nii]}\n")
    experiment = read_experiment([*words, "--data.label_table", "~/table.csv", "--data.raw_folder", "~/raw~1"])
    assert experiment.workspace == tmp_path / "knees"
    assert experiment.data.label_table == tmp_path / "table.csv"
    assert experiment.data.raw_folder == tmp_path / "raw~1"
    assert experiment.predict.inputs == (tmp_path / "a.nii", Path("b.nii"))
    assert read_experiment([f"--config=~/{Path(words[1]).relative_to(tmp_path)}"]).workspace == tmp_path / "knees"


def test_no_option_that_takes_a_path_or_a_text_keeps_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "50% home"))
    kept, taken = [], set()
    for name, option in OPTIONS.items():
        kind = str(option.annotation)
        if "Path" not in kind and ("str" not in kind or kind.startswith("dict") or option.choices):
            continue
        given = "~/a b.csv"
        with contextlib.suppress(UserError):  # of names and the like
            read = get_value(read_experiment([f"--{name}", f"[{given}]" if kind.startswith("tuple") else given]), name)
            taken.add(name)
            kept += [] if str(tmp_path / "50% home" / "a b.csv") in str(read) else [name]
    assert kept == []
    paths = {name for name, option in OPTIONS.items() if "Path" in str(option.annotation)}
    texts = {"train.teacher", "train.start_from", "evaluate.ensemble", "predict.ensemble", "tracking.uri"}
    assert paths | texts <= taken
    uri = read_experiment(["--tracking.uri", "sqlite:///~/records.db"]).tracking.uri
    assert uri == f"sqlite:///{tmp_path}/50%25 home/records.db"


def get_value(experiment, name):
    return functools.reduce(getattr, name.split("."), experiment)


def test_the_home_of_nobody_is_refused():
    with pytest.raises(UserError, match="~nobody-of-this-name/x"):
        read_experiment(["--workspace", "~nobody-of-this-name/x"])


ELSEWHERE = [
    ("$HOME/x", "a variable of a shell"),
    ("${DATA}", "a variable of a shell"),
    ("%USERPROFILE%/x", "a variable of a shell"),
    ("file:///x/y", "an address"),
    ("s3://bucket/x", "an address"),
    ("https://example.org/x", "an address"),
    ("C:\\knees", "a path of Windows"),
    ("d:/knees", "a path of Windows"),
    ("\\\\server\\x", "a path of Windows"),
    ("knees ", "a blank at an end"),
    ("\u00a0knees", "a blank at an end"),
    ("a\tb", "another control character"),
]


@pytest.mark.parametrize(("text", "meaning"), ELSEWHERE)
def test_a_path_that_means_something_elsewhere_is_refused_by_every_option_unless_it_is_there(
    text, meaning, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    paths = [option for option in OPTIONS.values() if "Path" in str(option.annotation)]
    paths = [option for option in paths if not option.name.endswith("output")]  # its ending is checked first
    given = {
        name: json.dumps([text]) if "tuple" in str(kind) else text
        for name, kind in ((option.name, option.annotation) for option in paths)
    }
    for name, words in given.items():
        with pytest.raises(UserError, match=rf"^{name}: found .*{meaning}"):
            read_experiment([f"--{name}={words}"])
    place = tmp_path / text
    place.mkdir(parents=True)
    for name, words in given.items():
        read = get_value(read_experiment([f"--{name}={words}"]), name)
        assert read in (Path(text), (Path(text),))


@pytest.mark.parametrize("text", ["a$b", "%20a%20b", "%BD%41", "a:b/c", "50%", "knees (old)", "#1", "a?b", "x;y"])
def test_a_folder_of_any_other_name_is_taken_whether_it_is_there_or_not(text):
    assert read_experiment([f"--workspace={text}"]).workspace == Path(text)


@pytest.mark.slow
def test_lists_in_one_another_and_a_nul_character_are_refused_in_one_line(write_config):
    with pytest.raises(UserError, match="too deep to be read"):
        read_experiment(write_config("name: " + "[" * 3000 + "]" * 3000 + "\n"))
    for words in (["--config", "a\0b"], ["--workspace", "a\0b"], ["--name=a\0"]):
        with pytest.raises(UserError, match="a NUL character"):
            read_experiment(words)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("data: {covariates: age}", r"write \[age\]\.$"),
        ("data: {covariates: [1]}", "put it into quotes"),
        ("name: [a]", r"allowed is text\.$"),
        ("name: off", "put it into quotes"),
        ("on: 1", "YAML reads yes, no, on and off as true and false"),
        ("data: {merge: {~: a}}", "null as nothing"),
        ("name: \tt", "cannot start any token in line 1"),
        ("# nothing", "found nothing, or comments alone"),
    ],
)
def test_the_advice_fits_what_was_written(write_config, text, advice):
    with pytest.raises(UserError, match=advice):
        read_experiment(write_config(text + "\n"))


def test_what_one_command_gives_is_not_left_to_the_next():
    given = ["--name", "x", "--train.epochs", "7", "--tune.space", "{train.dropout: [0.1]}"]
    assert read_experiment(given).train.epochs == 7
    assert read_experiment(["--name", "x"]) == Experiment("x")
