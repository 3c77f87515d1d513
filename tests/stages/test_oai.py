"""Deliveries of the OAI through the stages: a synthetic one to the report, one with all known traps to the store."""

import gzip
import io
import json
import tarfile

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.cli import main
from pipeline.data.store import read_store
from tests.builders.dicom import write_series

CONFIG = {
    "name": "tiny",
    "data": {
        "dataset": "oai_phantom",
        "merge": {0: "none", 1: "none", 2: "some", 3: "some", 4: "some"},
        "covariates": ["P02SEX"],
        "oai": {"label": "XRKL", "visits": ["V00"]},
    },
    "phantom": {"num_patients": 12, "max_visits": 1, "shape": [10, 24, 20], "spacing_mm": [14.0, 6.0, 6.0]},
    "preprocess": {"num_slices": 4, "image_size": [16, 16], "spacing_mm": 9.0, "num_workers": 1, "plane": "coronal"},
    "split": {"val_fraction": 0.2, "test_fraction": 0.3, "stratify": False},
    "model": {
        "stem": "patches",
        "patch_size": 4,
        "perceiver": {"num_latents": 4, "latent_dim": 16, "num_cross_attends": 1, "self_attends_per_cross": 1},
    },
    "train": {"epochs": 1, "batch_size": 16, "precision": "32-true"},
    "evaluate": {"num_bootstrap_resamples": 200},
    "tracking": {"enabled": False},
}


def run(folder, stage, config):
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return main([stage, "--config", str(folder / "config.yaml"), "--workspace", str(folder)])


def test_a_synthetic_delivery_is_read_from_its_archives(tmp_path):
    for stage in ("fetch", "preprocess", "split"):
        assert run(tmp_path, stage, CONFIG) == 0, stage
    manifest = pd.read_csv(tmp_path / "data" / "tiny" / "prepared" / "manifest.csv", dtype=str)
    accepted = manifest[manifest["status"] == "accepted"]
    assert len(accepted) == 24
    assert (accepted["side"] == accepted["side_by_position"]).all()
    assert set(accepted["site"]) == set("ABCDE")


@pytest.mark.slow
def test_a_synthetic_delivery_runs_from_its_archives_to_a_report(tmp_path):
    for stage in ("fetch", "preprocess", "split", "train", "evaluate"):
        assert run(tmp_path, stage, CONFIG) == 0, stage
    predictions = pd.read_csv(tmp_path / "reports" / "tiny" / "predictions.csv", dtype=str)
    assert set(predictions["label"]) == {"none", "some"}
    assert "XRKL of the clinical tables" in (tmp_path / "reports" / "tiny" / "model_card.md").read_text()


def pack(folder, archive):
    """Pack the files of a series under numbers, as the archive has them, and remove the folder."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(archive, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for number, path in enumerate(sorted(folder.iterdir()), start=1):
            content = path.read_bytes()
            member = tarfile.TarInfo(f"{number:03d}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            path.unlink()


class Delivery:
    """A delivery made by hand; of a series the list, the archive and the pixels are given."""

    def __init__(self, raw):
        self.raw, self.lines = raw, ["src_subject_id\timage_description\timage_file", "Subject\tDescription\tFile"]

    def add(self, patient, barcode, description, shape=(8, 10, 12), seed=0, change_folder=None, **headers):
        intensity = np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)
        place = f"0.C.2/{patient}/20040801/{barcode}.tar.gz"
        folder = self.raw / "unpacked" / str(barcode)
        centre = (-80.0 if "LEFT" in description else 80.0, 0.0, 0.0)
        write_series(folder, intensity, centre=centre, SeriesDescription=description, PatientBirthDate="19020304",
                     **headers)  # fmt: skip
        if change_folder is not None:
            change_folder(folder)
        pack(folder, self.raw / "00m" / place)
        folder.rmdir()
        self.lines.append(f"{patient}\t{description}\ts3://bucket/00m/{place}")

    def write_list(self):
        (self.raw / "unpacked").rmdir()
        (self.raw / "image03.txt").write_text("\n".join(self.lines) + "\n")


def add_reference(folder):
    """Add an image of another orientation, as reformatted series start with."""
    other = write_series(
        folder / "other", np.ones((3, 9, 9), np.int16), plane="axial", SeriesDescription="COR_MPR_LEFT"
    )
    path = sorted(other.iterdir())[0]
    path.rename(folder / "000reference.dcm")
    for left in other.iterdir():
        left.unlink()
    other.rmdir()
    adopt_series(folder)


def adopt_series(folder):
    """Give all files of a folder one series."""
    import pydicom

    series = None
    for path in sorted(folder.iterdir(), reverse=True):  # the reference image is the first
        header = pydicom.dcmread(path)
        series = series or header.SeriesInstanceUID
        header.SeriesInstanceUID = series
        header.save_as(path, enforce_file_format=True)


def add_echoes(folder):
    """Add a second and a third echo of every slice."""
    import pydicom

    for path in sorted(folder.iterdir()):
        for echo in (10.0, 20.0):
            header = pydicom.dcmread(path)
            header.EchoTime = echo
            header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = (
                f"1.2.{path.stem.lstrip('0') or 0}.{int(echo)}"
            )
            header.save_as(folder / f"{path.stem}_{int(echo)}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    """A delivery with the traps of the real one."""
    folder = tmp_path_factory.mktemp("trapped")
    delivery = Delivery(folder / "raw")
    delivery.add(9000001, 1001, "SAG_3D_DESS_RIGHT", seed=1)
    delivery.add(9000001, 999, "SAG_3D_DESS_RIGHT", seed=2)
    delivery.add(9000001, 1002, "SAG_3D_DESS_LEFT", seed=3, shape=(3, 10, 12))
    delivery.add(9000002, 1003, "sag_3d_dess_Right", seed=4)
    delivery.add(9000003, 1004, "SAG_3D_DESS_RIGHT", seed=5)
    delivery.add(9000001, 1005, "COR_MPR_LEFT", seed=6, plane="coronal", change_folder=add_reference)
    delivery.add(9000001, 1006, "SAG_T2_MAP_RIGHT", seed=7, change_folder=add_echoes)
    delivery.write_list()
    lines = [
        "id|SIDE|ReadPrj|Version|v00XRKL",
        "9000001|1: Right|37|1|4",
        "9000001|1: Right|15|1|2",
        "9000001|2: Left|15|1|0",
        "9000002|1: Right|15|1|.: Missing Form/Incomplete Workbook",
        "9000002|1: Right|42|1|3",
        "9000003|1: Right|15|1|.A: Not Expected",
    ]
    (delivery.raw / "kXR_SQ_Bu00.TXT").write_text("\n".join(lines) + "\n")
    return folder


def preprocess(folder, **oai):
    name = oai.get("series", "SAG_3D_DESS").lower()
    oai = {"min_extent_mm": 0.0} | oai
    config = {"name": name, "data": {"dataset": "oai", "raw_folder": str(folder / "raw"), "oai": oai}}
    config["preprocess"] = CONFIG["preprocess"] | {"plane": "axial"}
    code = run(folder, "preprocess", config)
    return code, folder / "data" / name / "prepared"


def test_each_knee_is_taken_once_with_the_grade_of_its_own_row(trapped):
    code, prepared = preprocess(trapped, label="XRKL")
    assert code == 0
    manifest = pd.read_csv(prepared / "manifest.csv", dtype=str, keep_default_na=False)
    accepted = manifest[manifest["status"] == "accepted"].set_index("source_id")
    assert accepted["label"].to_dict() == {"9000001_V00_left": "0", "9000001_V00_right": "2", "9000002_V00_right": "3"}
    assert accepted.loc["9000001_V00_right", "path"] == "00m/0.C.2/9000001/20040801/1001.tar.gz"
    assert accepted["shape"].to_dict()["9000001_V00_left"] == "10x12x3"
    ignored = manifest[manifest["status"] == "ignored"]
    assert ignored[["path", "reason"]].to_numpy().tolist() == [["00m/0.C.2/9000003/20040801/1004.tar.gz", "no V00XRKL"]]
    counted = pd.read_csv(prepared / "delivery.csv")
    assert counted["num_series"].sum() == 7
    assert counted.loc[counted["outcome"] == "used", "num_series"].sum() == 3


def test_a_scan_of_a_few_slices_shows_no_knee(trapped, capsys):
    code, prepared = preprocess(trapped, min_extent_mm=20.0, sides=["left"])  # 3 slices of 4 mm
    assert code == 2
    assert "12 mm long along its shortest side" in capsys.readouterr().err.replace("\n", " ")
    assert "refused when it was read" in (prepared / "delivery.csv").read_text()


def test_a_reference_image_is_no_slice_of_its_series(trapped):
    code, prepared = preprocess(trapped, series="COR_MPR")
    assert code == 0
    manifest = pd.read_csv(prepared / "manifest.csv", dtype=str)
    assert manifest["shape"].tolist() == ["8x12x10"]
    assert len(read_store(prepared).examples) == 4


def test_echoes_are_no_stack(trapped, capsys):
    code, _ = preprocess(trapped, series="SAG_T2_MAP")
    assert code == 2
    assert "3 echoes of each slice" in capsys.readouterr().err.replace("\n", " ")


def test_nothing_of_a_header_is_written(trapped):
    preprocess(trapped, label="XRKL")
    for path in (trapped / "data").rglob("*"):
        if path.is_file():
            assert b"Secret^Person" not in path.read_bytes(), path
            assert b"19020304" not in path.read_bytes(), path


def test_the_page_of_the_delivery_counts_what_was_left_out(trapped):
    _, prepared = preprocess(trapped, label="XRKL")
    page = (prepared / "delivery.html").read_text()
    assert "scanned again" in page
    assert "COR_MPR" in page
    assert json.loads((prepared / "coverage.json").read_text())["scans_by_label"] == {"0": 1, "2": 1, "3": 1}
