"""The registered stages: their functions are there, and they read the options that their help lists, and no others."""

import contextlib
import dataclasses
import gc
import sys
import typing

import pytest
import yaml

from pipeline.cli import parse_experiment
from pipeline.config.experiment import Experiment
from pipeline.config.parsing import OPTIONS, SECTION_NAMES
from pipeline.core.console import StageConsole
from pipeline.stages import PLACE, STAGES, Stage
from tests.builders.tiny_workspace import TINY_CONFIG

EXTRA = {
    "attention": ["--attention.native_resolution", "true"],
    "export": ["--export.formats", "[torch]"],
    "leak-study": ["--leak_study.num_steps", "2", "--leak_study.num_slices", "2"],
    "cross-validate": ["--cross_validate.vary", "seeds", "--cross_validate.seeds", "[1]"],
    "tune": ["--tune.space", "{train.weight_decay: [0.0, 0.1]}", "--tune.trials", "1"],
    "learning-curve": [
        "--learning_curve.patients",
        "[2]",
        "--learning_curve.draws",
        "1",
        "--learning_curve.models",
        "[perceiver]",
    ],
}


class Recorder:
    """The names of the options that are read from an experiment, or from a copy of it with other values.

    Reads by code that treats all options alike (settings that are kept in a file, copies, comparisons) do not count,
    nor do those of a value that a stage itself has set.
    """

    def __init__(self, monkeypatch):
        self.names = set()
        self._known = {}  # id -> the record (kept alive), its section's name, and the fields that a stage set
        replace = dataclasses.replace

        def replace_and_follow(record, **changes):
            copy = replace(record, **changes)
            if id(record) in self._known:
                _, prefix, changed = self._known[id(record)]
                self._known[id(copy)] = copy, prefix, changed | changes.keys()
            return copy

        monkeypatch.setattr(dataclasses, "replace", replace_and_follow)
        self._patch(Experiment, monkeypatch)

    def follow(self, record, prefix=""):
        self._known[id(record)] = record, prefix, set()
        for field in dataclasses.fields(record):
            value = object.__getattribute__(record, field.name)
            if dataclasses.is_dataclass(value):
                self.follow(value, f"{prefix}{field.name}.")

    def _patch(self, kind, monkeypatch):
        hints = typing.get_type_hints(kind)
        fields = {field.name for field in dataclasses.fields(kind)}

        def read(record, name):
            if name in fields and id(record) in self._known:
                _, prefix, changed = self._known[id(record)]
                code = sys._getframe(1).f_code
                is_general = code.co_filename.endswith(("dataclasses.py", "serialization.py"))
                if not is_general and name not in changed and code.co_name not in ("__post_init__", "__eq__"):
                    self.names.add(f"{prefix}{name}")
            return object.__getattribute__(record, name)

        monkeypatch.setattr(kind, "__getattribute__", read)
        for name in fields:
            if dataclasses.is_dataclass(hints[name]):
                self._patch(hints[name], monkeypatch)


# Options of grades, of images and of scans without labels, which the tiny knees are not; and the records of a run that
# compare registers, which these have not.
READ_FOR_OTHER_DATA = (
    *("data.label_order", "data.raw_folder", "data.oai", "data.columns"),
    *("split.accept_copies", "preprocess.fit", "preprocess.colour", "tracking.uri"),
)


@pytest.fixture(scope="module")
def names_read(tmp_path_factory, write_knee):
    """The options that each stage reads when all run on a few tiny knees."""
    folder = tmp_path_factory.mktemp("recorded")
    config = TINY_CONFIG | {
        "tracking": {"enabled": False, "tensorboard": True},
        "train": TINY_CONFIG["train"] | {"epochs": 1, "keep_attention_every_epochs": 1, "auxiliary_weight": 0.1},
        "pretrain": {"epochs": 1},
        "attention": {"num_examples": 2},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    found = {}
    rows = ["path,patient,label"]
    for side in ("left", "right"):
        rows.append(f"{write_knee(folder / 'site' / f'{side}.nii.gz', side, seed=len(side)).name},site2-1,{side}")
    (folder / "site" / "knees.csv").write_text("\n".join(rows))
    external = ["--evaluate.external", str(folder / "site" / "knees.csv")]
    for name, stage in STAGES.items():
        words = ["--config", str(folder / "tiny.yaml"), "--workspace", str(folder), *EXTRA.get(name, [])]
        words += external if name in ("evaluate", "cross-validate") else []
        scans = sorted((folder / "data" / "tiny" / "raw").glob("*.nii.gz"))[:1] if name == "predict" else []
        experiment = parse_experiment(name, [*map(str, scans), *words])
        with pytest.MonkeyPatch.context() as monkeypatch:
            recorder = Recorder(monkeypatch)
            recorder.follow(experiment)
            with contextlib.redirect_stdout(None):
                stage.run(experiment, StageConsole())
            found[name] = recorder.names & OPTIONS.keys()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_help_lists_what_the_stage_reads(stage, names_read):
    read = names_read[stage.name]
    assert sorted(name for name in read if not stage.reads_option(name)) == [], "read and not listed"
    unread = [listed for listed in stage.reads if not any(f"{name}.".startswith(f"{listed}.") for name in read)]
    alone = [listed for listed in unread if listed not in READ_FOR_OTHER_DATA]
    assert alone == [], "listed and not read"


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_a_registered_stage_is_a_documented_function_and_its_options_exist(stage):
    assert stage.load().__doc__
    assert {*stage.reads, *PLACE} <= OPTIONS.keys() | SECTION_NAMES
    assert stage.inputs == "" or stage.inputs in OPTIONS


def test_a_stage_is_loaded_without_a_search_for_garbage_and_run_with_it(tmp_path, monkeypatch):
    (tmp_path / "stages_of_a_test").mkdir()
    (tmp_path / "stages_of_a_test" / "one.py").write_text(
        "import gc\nfound = [gc.isenabled()]\n"
        "def one(experiment, console):\n    found.extend([gc.isenabled(), gc.get_freeze_count()])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stage = Stage("one", "", (), package="stages_of_a_test")
    for is_alone in (False, True):
        stage.run(Experiment("x"), StageConsole(is_silent=True), is_alone)
    gc.unfreeze()
    loaded, run, kept, run_alone, kept_alone = sys.modules["stages_of_a_test.one"].found
    assert (loaded, run, kept, run_alone) == (False, True, 0, True)
    assert kept_alone > 100_000
