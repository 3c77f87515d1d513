"""The same scans stored otherwise are the same data: the store, the split and what a model reads do not change.

A draw renames, moves and rewrites all scans, the table and the folders at random. A test that fails names its seed.
"""

import itertools
import locale
import time
from dataclasses import dataclass

import nibabel
import numpy as np
import openpyxl
import pytest
from rich.console import Console

from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig, SplitConfig
from pipeline.core.tables import SPLIT_COLUMNS, read_table
from pipeline.data.store import read_store
from pipeline.stages.split import split
from tests.builders.dicom import write_series
from tests.builders.preprocessing import run

SHAPE, SPACING_MM = (6, 7, 8), (4.0, 5.0, 6.0)
PATIENTS = ("007", "NA", "Fäll 3", "1e3", "=4", "12")
AXES = ["".join(axes) for order in itertools.permutations(("RL", "AP", "SI")) for axes in itertools.product(*order)]
FORMS = ("nii", "nii.gz", "pair", "nifti2", "big-endian", "float32", "float64", "uint16", "scaled", "dicom")
LETTERS = "abcXYZ019 äß健%#'&-_ "
# A latin-1 locale, where the machine has one, says something else about letters and decimal points.
LOCALES = ("C", "C.UTF-8", "de_DE.ISO-8859-1", "tr_TR.UTF-8")


@dataclass(frozen=True)
class Content:
    """The data, whatever it is called: slices and label of each patient, and the split of each."""

    slices: dict[tuple[str, str, str], bytes]
    splits: dict[str, str]


def compute_voxels(number):
    return np.random.default_rng(number).integers(0, 1000, SHAPE).astype(np.int16)


def draw_name(generator):
    """Draw a name without blanks or points at its ends, which a table does not keep."""
    letters = "".join(generator.choice(list(LETTERS), generator.integers(1, 9)))
    return f"n{letters}{generator.integers(1_000_000)}"


def write_scan(folder, name, number, form, axes):
    """Write a scan in a form and with its axes stored in an order; return the name for the table."""
    voxels = compute_voxels(number)
    if form == "dicom":
        write_series(folder / name, voxels, centre=(0, 0, 0))
        return name
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
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, folder / f"{name}{suffix}")
    return f"{name}{suffix}"


def write_table(folder, rows, generator):
    """Write the rows in a random order and form; return the file."""
    cells = [("path", "patient", "label"), *(rows[place] for place in generator.permutation(len(rows)))]
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


def read_content(folder, generator, num_workers=1):
    """Store the scans as the draw says, prepare and split them, and return what was made of them."""
    raw = folder / draw_name(generator)
    rows = []
    for number, patient in enumerate(PATIENTS):
        name = "/".join(draw_name(generator) for _ in range(generator.integers(1, 3)))
        written = write_scan(raw, name, number, str(generator.choice(FORMS)), str(generator.choice(AXES)))
        rows.append((written, patient, "ab"[number % 2]))
    experiment = Experiment(
        "knees",
        workspace=folder / draw_name(generator),
        data=DataConfig(raw_folder=raw, label_table=write_table(folder, rows, generator)),
        preprocess=PreprocessConfig(num_slices=3, image_size=(8, 8), num_workers=num_workers),
        split=SplitConfig(val_fraction=0.3, test_fraction=0.3, stratify=False),
    )
    run(experiment)
    return prepare_split(experiment)


def prepare_split(experiment):
    split(experiment, Console(quiet=True))
    store = read_store(experiment.paths.prepared, verify=True)
    keys = store.index[["group_id", "label", "slice_index"]].itertuples(index=False, name=None)
    slices = {key: example.tobytes() for key, example in zip(keys, store.examples, strict=True)}
    splits = read_table(experiment.paths.splits, SPLIT_COLUMNS)
    return Content(slices, dict(zip(splits["group_id"], splits["split"], strict=True)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The content of scans that are stored in the plainest way."""
    folder = tmp_path_factory.mktemp("plain")
    rows = [
        (write_scan(folder / "raw", f"{number}", number, "nii", "RAS"), patient, "ab"[number % 2])
        for number, patient in enumerate(PATIENTS)
    ]
    (folder / "scans.csv").write_text("\n".join(map(",".join, [("path", "patient", "label"), *rows])))
    experiment = Experiment(
        "knees",
        workspace=folder / "work",
        data=DataConfig(raw_folder=folder / "raw", label_table=folder / "scans.csv"),
        preprocess=PreprocessConfig(num_slices=3, image_size=(8, 8), num_workers=1),
        split=SplitConfig(val_fraction=0.3, test_fraction=0.3, stratify=False),
    )
    run(experiment)
    content = prepare_split(experiment)
    assert len(content.slices) == 3 * len(PATIENTS)
    assert set(content.splits.values()) == {"train", "val", "test"}
    return content


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


def check(seed, folder, plain, world, num_workers=1):
    generator = np.random.default_rng(seed)
    world(str(generator.choice(["UTC", "Asia/Kolkata", "Pacific/Chatham"])), str(generator.choice(LOCALES)))
    folder.mkdir()
    assert read_content(folder, generator, num_workers) == plain, f"seed {seed}"


@pytest.mark.parametrize("seed", range(2))
def test_the_same_scans_stored_otherwise_give_the_same_store_and_split(seed, plain, world, tmp_path):
    check(seed, tmp_path / "draw", plain, world)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_draws_give_the_same_store_and_split(part, plain, world, tmp_path):
    for seed in range(100 + 100 * part, 200 + 100 * part):
        check(seed, tmp_path / str(seed), plain, world, num_workers=2 if seed % 100 == 0 else 1)
