"""Both sides of messages: what states a relation is said where the relation holds, and not right next to it."""

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from pipeline.attention.maps import choose_examples
from pipeline.config.data import PreprocessConfig
from pipeline.config.outputs import AttentionConfig
from pipeline.config.parsing import read_experiment
from pipeline.config.sources import DataConfig, SplitConfig
from pipeline.copies.certificate import certify
from pipeline.core.data_kinds import PATIENT_IMAGES, VOLUMES
from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.core.locks import lock_output
from pipeline.core.tables import refuse_alike
from pipeline.core.workspace import Workspace
from pipeline.data.label_tables import list_table_sources, read_label_table
from pipeline.data.sources import Source, describe_link, find_files, join_files, refuse_closed
from pipeline.data.splits import assign_splits, check_splits
from pipeline.datasets.base import find_raw_file
from pipeline.formats.archives import read_files
from pipeline.formats.hdf5 import read_hdf5_points
from pipeline.formats.image_files import read_pixels
from pipeline.formats.nifti import read_volume
from pipeline.formats.spreadsheets import read_cells
from pipeline.inference.inputs import find_scans
from pipeline.preprocessing.volumes import describe_shrinking, find_kind
from pipeline.stages.export import _check_folder
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.run_state import check_same_settings
from tests.builders.stores import build_store


@dataclass(frozen=True)
class Rows:
    """A table of labels, as lines after its header, and files that are there."""

    lines: tuple[str, ...]
    files: tuple[str, ...] = ("a.png", "in/b.png")

    def __call__(self, folder):
        raw = folder / "raw"
        for name in (*self.files, "../next.png"):
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(b"x")
        lines = ("path,patient,label", *self.lines)
        (folder / "t.csv").write_text("\n".join(lines).replace("RAW", str(raw)))
        given = read_label_table(DataConfig(label_table=folder / "t.csv", raw_folder=raw))
        return " ".join(source.refusal for source in list_table_sources(raw, given))


@dataclass(frozen=True)
class Read:
    """A reader of a path: a file that is there, a folder, a link that leads nowhere, or nothing."""

    read: object
    what: str

    def __call__(self, folder):
        path = folder / "x.png"
        if self.what == "folder":
            path.mkdir()
        elif self.what == "link":
            path.symlink_to(folder / "gone")
        elif self.what == "file":
            path.write_bytes(b"something else")
        self.read(path)


def read_archive(path):
    return list(read_files(path, 100))


def read_scan(path):
    return read_volume(path, 100)


def read_points(path):
    return read_hdf5_points(path, 1)


def read_text(path):
    return read_cells(path, ())


def list_folder(path):
    return find_files(path, "*")


@dataclass(frozen=True)
class Files:
    """The sources of files of one scan, by their slice index; -1 is a volume."""

    places: tuple[int, ...]

    def __call__(self, _):
        sources = [(place, Source("s", "p", "a", (Path(f"{n}.png"),))) for n, place in enumerate(self.places)]
        return join_files(sources).refusal


@dataclass(frozen=True)
class Patients:
    """A split table of patients, for the patients p0 to p5."""

    rows: tuple[tuple[str, str], ...]
    num_folds: int = 0

    def __call__(self, folder):
        (folder / "split.csv").write_text("\n".join(["patient,split", *(",".join(row) for row in self.rows)]))
        groups = [f"p{number}" for number in range(6)]
        index = pd.DataFrame({"group_id": groups, "label": list("ababab"), "source_id": groups})
        assign_splits(index, SplitConfig(split_table=folder / "split.csv", num_folds=self.num_folds), {})


GOOD_SPLIT = (("p0", "train"), ("p1", "train"), ("p2", "val"), ("p3", "val"), ("p4", "test"), ("p5", "test"))


@dataclass(frozen=True)
class Resumed:
    """A run that is resumed with settings that differ from those of before."""

    before: dict
    now: dict

    def __call__(self, folder):
        paths = Workspace(folder, "knees")
        write_json(paths.run_folder / "started.json", {"settings": self.before})
        paths.last_checkpoint.write_bytes(b"x")
        check_same_settings(paths, self.now)


def find_two(names):
    def find(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
        find_raw_file(folder, ("labels",))

    return find


def link(target):
    def describe(folder):
        (folder / "raw").mkdir()
        (folder / "raw" / "there.nii").write_bytes(b"x")
        (folder / "out.nii").write_bytes(b"x")
        (folder / "raw" / "a.nii").symlink_to(folder / target)
        return describe_link(folder / "raw", Path("a.nii"))

    return describe


def accept(*names):
    def check(_):
        store = build_store(num_rows=12)
        splits = pd.DataFrame({"group_id": sorted(set(store.index["group_id"])), "split": "train"})
        known = {"KNOWN": store.index["source_id"].iloc[0], "OTHER": store.index["source_id"].iloc[-1]}
        certify(store, splits, [tuple(known.get(name, name) for name in names)], has_published_test=False)

    return check


def choose(split, num_examples=1, example=""):
    """Choose examples where validation has those of the second class alone."""

    def call(_):
        store = build_store(num_rows=12)
        second = store.class_names[1]
        roles = {row.group_id: "val" for row in store.index.itertuples() if row.label == second}
        roles = {group: roles.get(group, "test") for group in store.index["group_id"]}
        tested = next(row.example_id for row in store.index.itertuples() if roles[row.group_id] == "test")
        names = {"": (), "TESTED": (tested,), "ABSENT": ("absent",)}[example]
        choose_examples(store, roles, AttentionConfig(split=split, num_examples=num_examples, examples=names))

    return call


def hold(name):
    def call(folder):
        with lock_output(folder / "a.csv"), lock_output(folder / name):
            pass

    return call


def configure(text):
    def call(folder):
        (folder / "c.yaml").write_text(text)
        read_experiment(["--config", str(folder / "c.yaml")])

    return call


def kinds(*are_images):
    def call(_):
        sources = [
            Source(str(n), "p", "a", (Path(f"{n}"),), is_image=is_image) for n, is_image in enumerate(are_images)
        ]
        find_kind(sources, "slice")

    return call


def holds(*names):
    def call(folder):
        (folder / "export").mkdir()
        for name in names:
            (folder / "export" / name).write_text("x")
        _check_folder(folder / "export")

    return call


def give(name, kind):
    def call(folder):
        (folder / name).write_bytes(b"x")
        return find_scans((folder / name,), kind, "path")[0][0].refusal

    return call


def walk(what):
    def call(folder):
        (folder / "x").mkdir() if what == "folder" else (folder / "x").write_text("no folder")
        list(os.walk(folder / "x", onerror=refuse_closed))

    return call


def turn(code):
    """Read a scan whose qform is that of its sform, or one that turns it around."""

    def call(folder):
        image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
        image.set_sform(np.eye(4), 1)
        image.set_qform(np.diag([code, 1, code, 1]), 1)
        nibabel.save(image, folder / "a.nii")
        read_volume(folder / "a.nii", PreprocessConfig().max_volume_bytes)

    return call


RELATIONS = {
    # a table of labels
    "outside the raw folder": ("is outside", Rows(("../next.png,1,a",)), Rows(("in/../a.png,1,a",))),
    "outside, with the whole path": ("is outside", Rows(("RAW/../next.png,1,a",)), Rows(("RAW/in/b.png,1,a",))),
    "a row twice": ("name this one file", Rows(("a.png,1,a", "./a.png,1,a")), Rows(("a.png,1,a", "in/b.png,1,a"))),
    "no such file of a row": ("no such file", Rows(("c.png,1,a",)), Rows(("in,1,a",))),
    "the raw folder as a row": ("no such file", Rows(("c.png,1,a",)), Rows((".,1,a",))),
    "a patient in two splits": ("more than one row", Patients((*GOOD_SPLIT, ("p0", "val"))), Patients(GOOD_SPLIT)),
    "patients without a row": ("have no row", Patients(GOOD_SPLIT[:4]), Patients((*GOOD_SPLIT, ("p9", "val")))),
    "one patient without a row": ("1 patient has no row", Patients(GOOD_SPLIT[1:]), Patients(GOOD_SPLIT[2:])),
    "a split without patients": (
        "no patient of the data is in val",
        Patients((*GOOD_SPLIT[:2], ("p2", "test"), ("p3", "test"), *GOOD_SPLIT[4:])),
        Patients(GOOD_SPLIT),
    ),
    "advice on a table of the user": (
        "Correct the table",
        Patients((*GOOD_SPLIT[:5], ("p5", "x"))),
        Patients(GOOD_SPLIT),
    ),
    "advice on a table of the split stage": (
        "Run the split stage again",
        lambda folder: check_splits(pd.DataFrame({"group_id": ["a"], "split": ["x"]}), folder / "s", SplitConfig()),
        Patients((*GOOD_SPLIT[:5], ("p5", "x"))),
    ),
    # files and folders
    "no such image": ("no such file", Read(read_pixels, ""), Read(read_pixels, "link")),
    "a link to nowhere": ("link that leads nowhere", Read(read_pixels, "link"), Read(read_pixels, "")),
    "no such scan": ("no such file", Read(read_scan, ""), Read(read_scan, "link")),
    "no such archive": ("no such file", Read(read_archive, ""), Read(read_archive, "link")),
    "no such clouds": ("no such file", Read(read_points, ""), Read(read_points, "folder")),
    "no such table": ("no such table", Read(read_text, ""), Read(read_text, "folder")),
    "no such checkpoint": ("no such checkpoint", Read(read_checkpoint, ""), Read(read_checkpoint, "folder")),
    "no such folder": ("no such folder", Read(list_folder, ""), Read(list_folder, "file")),
    "a file for a folder": ("a file and no folder", Read(list_folder, "file"), Read(list_folder, "")),
    "no file in a folder": ("no file matches", Read(list_folder, "folder"), Read(list_folder, "file")),
    "a folder that is closed": ("not readable", walk("file"), walk("folder")),
    "a link out of the folder": ("leads out of", link("out.nii"), link("raw/there.nii")),
    "two files of a name": ("two files named", find_two(("a/labels", "b/labels")), find_two(("a/labels", "b/labels2"))),
    "one file that is used by two": ("in use by another process", hold("a.csv"), hold("b.csv")),
    "what is no part of an export": ("no part of an export", holds("mine.txt"), holds("model.onnx")),
    # scans
    "two files of a scan": ("two files for one scan", Files((0, 0)), Files((0, 1))),
    "a volume and its slices": ("two files for one scan", Files((-1, 0)), Files((-1,))),
    "a missing slice": ("is missing", Files((0, 2)), Files((1, 2))),
    "images and volumes": ("a model takes one kind", kinds(True, False), kinds(True, True)),
    "sides that differ": ("name different sides", turn(-1), turn(1)),
    "a file of another kind": ("the model was trained on", give("a.nii", PATIENT_IMAGES), give("a.nii", VOLUMES)),
    "images that shrink": ("images shrink", lambda _: describe_shrinking(1.26), lambda _: describe_shrinking(1.25)),
    # ids and options
    "names that look alike": (
        "differ only in",
        lambda _: refuse_alike("t", "patients", {"a": "line 1", "a ": "line 2"}),
        lambda _: refuse_alike("t", "patients", {"a": "line 1", "b": "line 2"}),
    ),
    "an option twice": (
        "twice",
        configure("train:\n  epochs: 2\ntrain.epochs: 3\n"),
        configure("train:\n  epochs: 2\ntrain.batch_size: 3\n"),
    ),
    "an unknown option": ("unknown option", configure("train:\n  epoch: 2\n"), configure("train:\n  epochs: 2\n")),
    "accepted copies that are absent": ("is in the store", accept("absent", "gone"), accept("KNOWN", "gone")),
    "no example in a split": ("no example is in", choose("train"), choose("val")),
    "an example that is tested": ("belongs to the test split", choose("val", 1, "TESTED"), choose("test", 1, "TESTED")),
    "an example that is nowhere": ("no example is called", choose("val", 1, "ABSENT"), choose("test", 1, "TESTED")),
    # a run that is resumed
    "options that changed": (
        "Set them back",
        Resumed({"train.seed": 1}, {"train.seed": 2}),
        Resumed({"train.seed": 1}, {"train.seed": 1}),
    ),
    "data that changed cannot be set back": (
        "trained on other examples",
        Resumed({"store fingerprint": "a"}, {"store fingerprint": "b"}),
        Resumed({"store fingerprint": "a", "train.seed": 1}, {"store fingerprint": "a", "train.seed": 2}),
    ),
    "a fingerprint is nothing that is set": (
        "another split",
        Resumed({"split fingerprint": "a"}, {"split fingerprint": "b"}),
        Resumed({"store fingerprint": "a"}, {"store fingerprint": "b"}),
    ),
}


def read_message(call, folder):
    folder.mkdir()
    try:
        return str(call(folder) or "")
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", RELATIONS)
def test_a_message_states_what_is_so_and_not_what_is_next_to_it(name, tmp_path):
    words, wrong, right = RELATIONS[name]
    assert words in read_message(wrong, tmp_path / "wrong")
    assert words not in read_message(right, tmp_path / "right")


def test_a_fingerprint_is_never_asked_to_be_set_back(tmp_path):
    before, now = {"store fingerprint": "aaa", "train.seed": 1}, {"store fingerprint": "bbb", "train.seed": 2}
    message = read_message(Resumed(before, now), tmp_path / "run")
    assert "aaa" not in message
    assert "Set them back" not in message
    assert "train.seed was 1, is 2" in message
