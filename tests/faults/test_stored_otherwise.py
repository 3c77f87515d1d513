"""The same scans stored otherwise are the same data: the store, the split and what a model reads do not change.

A draw renames, moves and rewrites all scans, the table and the folders at random. A test that fails names its seed.
The rows of a store follow what the table says of the scans and then their images, whatever the files are called, so
that a training sees its examples in the same order, and its model and predictions are the same bit for bit.
"""

import functools
import itertools
import locale
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import openpyxl
import pytest
from rich.console import Console

from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.config.outputs import PredictConfig
from pipeline.config.sources import DataConfig, SplitConfig
from pipeline.config.tracking import TrackingConfig
from pipeline.config.training import TrainConfig
from pipeline.core.tables import SPLIT_COLUMNS, read_table
from pipeline.data.label_tables import list_table_sources, read_label_table
from pipeline.data.store import read_store
from pipeline.preprocessing.volumes import plan_volumes
from pipeline.stages.predict import choose_output, predict
from pipeline.stages.split import split
from pipeline.stages.train import train
from tests.builders.dicom import write_series
from tests.builders.preprocessing import run
from tests.builders.training_runs import TINY

SHAPE, SPACING_MM = (6, 7, 8), (4.0, 5.0, 6.0)
# The patient and the visit of each scan; one visit has two scans, which nothing but their images tells apart.
SCANS = (("007", ""), ("NA", ""), ("Fäll 3", "2"), ("1e3", "b"), ("=4", ""), ("12", ""), ("Fäll 3", "10"), ("1e3", "b"))
PATIENTS = sorted({patient for patient, _ in SCANS})
# A handful with two scans of one visit: what most draws take up to the store, in a quarter of the time to the split.
FEW_SCANS = SCANS[3:]
COLUMNS = ("path", "patient", "visit", "label")
AXES = ["".join(axes) for order in itertools.permutations(("RL", "AP", "SI")) for axes in itertools.product(*order)]
FORMS = ("nii", "nii.gz", "pair", "nifti2", "big-endian", "float32", "float64", "uint16", "scaled", "dicom")
LETTERS = "abcXYZ019 äß健%#'&-_ "
# A latin-1 locale, where the machine has one, says something else about letters and decimal points.
LOCALES = ("C", "C.UTF-8", "de_DE.ISO-8859-1", "tr_TR.UTF-8")


# Patient, label, place and pixels of a slice.
Slice = tuple[str, str, int, bytes]


@dataclass(frozen=True)
class Content:
    """The data: the slices in their order, and the split of each patient."""

    slices: tuple[Slice, ...]
    splits: dict[str, str]


def compute_voxels(number):
    return np.random.default_rng(number).integers(0, 1000, SHAPE).astype(np.int16)


def draw_name(generator):
    """Draw a name without blanks or points at its ends, which a table does not keep."""
    letters = "".join(generator.choice(list(LETTERS), generator.integers(1, 9)))
    return f"n{letters}{generator.integers(1_000_000)}"


@functools.cache
def compute_files(number, form, axes):
    """Return a scan in a form, its axes stored in an order: the suffix of its name, and each file by what follows it.

    Most draws use files that an earlier one made: a form and an order of axes have no more than one.
    """
    with tempfile.TemporaryDirectory() as folder:
        scan = write_form(Path(folder) / "scan", compute_voxels(number), form, axes)
        files = scan.iterdir() if scan.is_dir() else scan.parent.iterdir()
        named = {str(path.relative_to(folder)).removeprefix("scan"): path.read_bytes() for path in files}
        return scan.name.removeprefix("scan"), named


def write_form(path, voxels, form, axes):
    """Write voxels to a path without its suffix, which the form adds."""
    if form == "dicom":
        return write_series(path, voxels, centre=(0, 0, 0))
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    kind, suffix = {"nifti2": (nibabel.Nifti2Image, ".nii"), "pair": (nibabel.Nifti1Pair, ".hdr")}.get(
        form, (nibabel.Nifti1Image, ".nii.gz" if form == "nii.gz" else ".nii")
    )
    header = kind.header_class(endianness=">" if form == "big-endian" else "<")
    header.set_data_dtype(form if form in ("float32", "float64", "uint16") else "int16")
    image = kind(voxels, affine, header)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    image = image.as_reoriented(turn)
    if form == "scaled":
        image.header.set_slope_inter(0.5, -3.0)
    nibabel.save(image, path.with_suffix(suffix))
    return path.with_suffix(suffix)


def write_scan(folder, name, number, form, axes):
    """Write a scan in a form and with its axes stored in an order; return the name for the table."""
    suffix, files = compute_files(number, form, axes)
    for rest, content in files.items():
        path = folder / f"{name}{rest}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return f"{name}{suffix}"


def write_table(folder, rows, generator):
    """Write the rows in a random order and form; return the file."""
    cells = [COLUMNS, *(rows[place] for place in generator.permutation(len(rows)))]
    form = generator.choice([",", ";", "\t", "xlsx"])
    if form == "xlsx":
        book = openpyxl.Workbook()
        for row in cells:
            book.active.append(row)
            for cell in book.active[book.active.max_row]:
                cell.data_type = "s"  # a patient "=4" is no formula
        book.save(folder / "scans.xlsx")
        return folder / "scans.xlsx"
    quoted = "\n".join(form.join(f'"{cell}"' for cell in row) for row in cells)
    (folder / "scans.csv").write_bytes(quoted.encode(generator.choice(["utf-8", "utf-8-sig", "utf-16"])))
    return folder / "scans.csv"


def make_experiment(raw, table, workspace, num_workers):
    return Experiment(
        "knees",
        workspace=workspace,
        data=DataConfig(raw_folder=raw, label_table=table),
        preprocess=PreprocessConfig(num_slices=3, image_size=(8, 8), num_workers=num_workers),
        split=SplitConfig(val_fraction=0.3, test_fraction=0.3, stratify=False),
        model=ModelConfig(num_conv_layers=1, conv_channels=4, perceiver=TINY),
        train=TrainConfig(epochs=1, batch_size=4, precision="32-true", accelerator="cpu"),
        tracking=TrackingConfig(enabled=False),
    )


def find_label(patient):
    return "ab"[PATIENTS.index(patient) % 2]


def store_otherwise(folder, generator, num_workers=1, scans=SCANS):
    """Store the scans as the draw says."""
    raw = folder / draw_name(generator)
    rows = []
    for number, (patient, visit) in enumerate(scans):
        name = "/".join(draw_name(generator) for _ in range(generator.integers(1, 3)))
        written = write_scan(raw, name, number, str(generator.choice(FORMS)), str(generator.choice(AXES)))
        rows.append((written, patient, visit, find_label(patient)))
    workspace = folder / draw_name(generator)
    return make_experiment(raw, write_table(folder, rows, generator), workspace, num_workers)


def read_slices(experiment):
    """Return the slices of the store of an experiment."""
    store = read_store(experiment.paths.prepared, verify=True)
    keys = store.index[["group_id", "label", "slice_index"]].itertuples(index=False, name=None)
    return tuple((*key, example.tobytes()) for key, example in zip(keys, store.examples, strict=True))


def read_content(experiment):
    """Prepare and split the scans, and return what was made of them."""
    run(experiment)
    split(experiment, Console(quiet=True))
    splits = read_table(experiment.paths.splits, SPLIT_COLUMNS)
    return Content(read_slices(experiment), dict(zip(splits["group_id"], splits["split"], strict=True)))


def read_predictions(experiment):
    """Train a tiny model, score all scans with it, and return the rows of each patient but for their paths."""
    train(experiment, Console(quiet=True))
    root = experiment.data.raw_folder
    given = list_table_sources(root, read_label_table(experiment.data))
    patients = {str(root / source.paths[0]): source.group_id for source in given}
    predict(replace(experiment, predict=PredictConfig(inputs=tuple(map(Path, patients)))), Console(quiet=True))
    rows = read_table(choose_output(experiment), ("path", "predicted"))
    columns = [name for name in rows.columns if name != "path"]
    return sorted((patients[path], *row) for path, row in zip(rows["path"], rows[columns].to_numpy(), strict=True))


def store_plainly(folder, scans):
    """Store the scans in the plainest way."""
    rows = [
        (write_scan(folder / "raw", f"{number}", number, "nii", "RAS"), patient, visit, find_label(patient))
        for number, (patient, visit) in enumerate(scans)
    ]
    (folder / "scans.csv").write_text("\n".join(map(",".join, [COLUMNS, *rows])))
    return make_experiment(folder / "raw", folder / "scans.csv", folder / "work", 1)


@pytest.fixture(scope="module")
def plain_experiment(tmp_path_factory):
    return store_plainly(tmp_path_factory.mktemp("plain"), SCANS)


@pytest.fixture(scope="module")
def plain(plain_experiment):
    content = read_content(plain_experiment)
    assert len(content.slices) == 3 * len(SCANS)
    assert set(content.splits.values()) == {"train", "val", "test"}
    return content


@pytest.fixture(scope="module")
def plain_predictions(plain, plain_experiment):
    rows = read_predictions(plain_experiment)
    assert {patient for patient, *_ in rows} == set(PATIENTS)
    assert len(set(rows)) == len(SCANS)
    return rows


@pytest.fixture(scope="module")
def few_slices(tmp_path_factory):
    experiment = store_plainly(tmp_path_factory.mktemp("few"), FEW_SCANS)
    plan_volumes(experiment).build(Console(quiet=True))
    slices = read_slices(experiment)
    assert len(set(slices)) == 3 * len(FEW_SCANS)
    return slices


@pytest.fixture
def world(monkeypatch):
    """Set the time zone and the locale of this process; both are as before afterwards."""
    before = locale.setlocale(locale.LC_ALL)

    def change(zone, name):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            return

    yield change
    monkeypatch.undo()
    time.tzset()
    locale.setlocale(locale.LC_ALL, before)


def draw_world(generator, world):
    world(str(generator.choice(["UTC", "Asia/Kolkata", "Pacific/Chatham"])), str(generator.choice(LOCALES)))


def check(seed, folder, plain, world, num_workers=1, predictions=None):
    generator = np.random.default_rng(seed)
    draw_world(generator, world)
    folder.mkdir()
    experiment = store_otherwise(folder, generator, num_workers)
    assert read_content(experiment) == plain, f"seed {seed}"
    if predictions is not None:
        assert read_predictions(experiment) == predictions, f"seed {seed}"


def check_stores(seeds, folder, few_slices, world):
    """Check that draws give the same store, in a folder that each draw leaves empty."""
    for seed in seeds:
        generator = np.random.default_rng(seed)
        draw_world(generator, world)
        experiment = store_otherwise(folder / "draw", generator, scans=FEW_SCANS)
        plan_volumes(experiment).build(Console(quiet=True))
        assert read_slices(experiment) == few_slices, f"seed {seed}"
        shutil.rmtree(folder / "draw")


@pytest.mark.parametrize("seed", range(2))
def test_the_same_scans_stored_otherwise_give_the_same_store_and_split(seed, plain, world, tmp_path):
    check(seed, tmp_path / "draw", plain, world)


def test_a_handful_of_scans_stored_otherwise_gives_the_same_store(few_slices, world, tmp_path):
    check_stores(range(20_000, 20_005), tmp_path, few_slices, world)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_twenty_thousand_draws_give_the_same_store(part, few_slices, world, tmp_path):
    check_stores(range(100_000 + 1000 * part, 101_000 + 1000 * part), tmp_path, few_slices, world)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_draws_give_the_same_store_and_split(part, plain, world, tmp_path):
    for seed in range(100 + 100 * part, 200 + 100 * part):
        check(seed, tmp_path / str(seed), plain, world, num_workers=2 if seed % 100 == 0 else 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10_000, 10_100))
def test_a_hundred_draws_give_the_same_model_and_predictions(seed, plain, plain_predictions, world, tmp_path):
    check(seed, tmp_path / "draw", plain, world, num_workers=1 + (seed % 10 == 0), predictions=plain_predictions)
