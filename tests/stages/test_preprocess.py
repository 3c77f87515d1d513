"""The preprocess stage: resumed parts, changed scans and options, refused files."""

import gzip
import shutil
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.sources import ColumnsConfig, DataConfig
from pipeline.core.data_kinds import PATIENT_IMAGES
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.tables import MANIFEST_COLUMNS, read_table
from pipeline.core.workspace import Workspace
from pipeline.data.store import read_store
from pipeline.preprocessing import volumes
from pipeline.preprocessing.parts import prepare_part
from pipeline.training.run_state import list_finished_runs
from tests.builders.preprocessing import OPTIONS, make_experiment, run, snapshot


def times(experiment):
    parts = experiment.paths.prepared / "parts"
    return {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}


def test_scans_become_store_manifest_coverage_and_contact_sheet(write_patients, tmp_path):
    write_patients(tmp_path / "raw", num_patients=3, visits=(3, 100))
    experiment = make_experiment(tmp_path)
    text = run(experiment)
    assert "12 scans of 3 patients (6 left, 6 right)" in text
    store = read_store(experiment.paths.prepared, verify=True)
    assert store.examples.shape == (60, 16, 16)
    assert store.index["example_id"].is_unique
    assert set(store.index["group_id"]) == {"9000000", "9000001", "9000002"}
    manifest = read_table(experiment.paths.manifest, MANIFEST_COLUMNS)
    assert (manifest["status"] == "accepted").all()
    assert (manifest["side"] == manifest["side_by_position"]).all()
    assert set(manifest["shape"]) == {"12x14x16"}
    assert (manifest["intensity_low"].astype(float) < manifest["intensity_high"].astype(float)).all()
    coverage = read_json(experiment.paths.prepared / "coverage.json")
    assert sum(coverage["files_by_spelling"].values()) == 12
    with Image.open(experiment.paths.prepared / "contact_sheet.png") as sheet:
        assert sheet.width > 100


def test_voxel_sizes_that_a_header_states_in_two_ways_are_a_warning_of_a_scan_that_is_used(write_patients, tmp_path):
    first = min(write_patients(tmp_path / "raw", num_patients=1).iterdir())
    content = bytearray(gzip.decompress(first.read_bytes()))
    content[80:84] = struct.pack("<f", 1.0)  # pixdim of the first axis
    first.write_bytes(gzip.compress(content))
    experiment = make_experiment(tmp_path)
    text = run(experiment)
    assert f"warning: {first.name}: voxels are 4x5x6 by the sform and 1x5x6 by pixdim; the sform is taken" in text
    assert text.count("warning") == 1
    assert "2 scans of 1 patient" in text


def test_a_second_run_does_nothing_and_reports_it(write_patients, tmp_path):
    write_patients(tmp_path / "raw", num_patients=2)
    experiment = make_experiment(tmp_path)
    run(experiment)
    before = {path: path.stat().st_mtime_ns for path in experiment.paths.prepared.rglob("*")}
    assert "nothing to do" in run(experiment)
    assert {path: path.stat().st_mtime_ns for path in experiment.paths.prepared.rglob("*")} == before


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_interrupted_run_resumes_and_ends_with_the_same_bytes(num_workers, write_patients, tmp_path):
    write_patients(tmp_path / "raw", num_patients=3)
    whole = make_experiment(tmp_path)
    run(whole)
    expected = snapshot(whole)
    kept = sorted((whole.paths.prepared / "parts").iterdir())
    shutil.move(whole.paths.prepared, tmp_path / "before")
    # The files after a kill: some parts, half of a file under a temporary name, no store.
    parts = whole.paths.prepared / "parts"
    parts.mkdir(parents=True)
    for part in kept[:2]:
        shutil.copy2(tmp_path / "before" / "parts" / part.name, parts / part.name)
    (parts / f".{kept[3].name}.1.tmp").write_bytes(b"half")
    again = make_experiment(tmp_path, PreprocessConfig(num_slices=5, image_size=(16, 16), num_workers=num_workers))
    assert "2 of 6 scans need no work" in run(again)
    assert snapshot(again) == expected
    assert not list(parts.glob(".*"))


def test_a_part_is_read_once_for_its_pixels_and_once_more_where_an_earlier_run_left_it(
    write_patients, tmp_path, monkeypatch
):
    reads = Counter()
    read_bytes = Path.read_bytes

    def count(path):
        reads[path.name] += path.suffix == ".npz"
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", count)
    write_patients(tmp_path / "raw", num_patients=2)
    experiment = make_experiment(tmp_path)
    run(experiment)
    parts = {path.name for path in (experiment.paths.prepared / "parts").iterdir()}
    assert len(parts) == 4
    assert {name: reads[name] for name in parts} == dict.fromkeys(parts, 1)
    reads.clear()
    (experiment.paths.prepared / "complete.json").unlink()
    assert "4 of 4 scans need no work" in run(experiment)
    assert {name: reads[name] for name in parts} == dict.fromkeys(parts, 2)


def test_only_a_changed_scan_is_cut_again(write_patients, write_knee, tmp_path):
    write_patients(tmp_path / "raw", num_patients=3)
    experiment = make_experiment(tmp_path)
    run(experiment)
    before, fingerprint = times(experiment), read_store(experiment.paths.prepared).fingerprint
    changed = next((tmp_path / "raw").iterdir())
    write_knee(changed, seed=99, shape=(12, 14, 17))
    assert "5 of 6 scans need no work" in run(experiment)
    after = times(experiment)
    assert len(after) == 6
    assert len(set(before.items()) & set(after.items())) == 5
    assert read_store(experiment.paths.prepared).fingerprint != fingerprint


def test_a_changed_option_redoes_all_and_a_scan_that_went_is_left_out(write_patients, tmp_path):
    write_patients(tmp_path / "raw", num_patients=3)
    run(make_experiment(tmp_path))
    experiment = make_experiment(
        tmp_path, PreprocessConfig(plane="coronal", num_slices=4, image_size=(16, 16), num_workers=1)
    )
    assert "need no work" not in run(experiment)
    assert len(read_store(experiment.paths.prepared).examples) == 24
    next((tmp_path / "raw").iterdir()).unlink()
    run(experiment)
    assert len(read_store(experiment.paths.prepared).examples) == 20


def test_refused_scans_are_all_listed_and_the_others_kept(write_patients, tmp_path, capsys):
    raw = write_patients(tmp_path / "raw", num_patients=3)
    (raw / "OAI9000000_BaseLine_3_de3d1_SAG_3D_DESS_WE_LEFT.nii.gz").write_bytes(b"no")
    (raw / "knee.nii.gz").write_bytes(b"no")
    (raw / "notes.txt").write_bytes(b"hello")
    experiment = make_experiment(tmp_path)
    with pytest.raises(UserError, match=r"2 of 8 scans were refused; .*skip_refused"):
        run(experiment)
    listed = capsys.readouterr().err
    assert "OAI9000000_BaseLine_3_de3d1_SAG_3D_DESS_WE_LEFT.nii.gz: not a NIfTI file" in listed
    assert "neither patient nor side" in listed
    manifest = read_table(experiment.paths.manifest, MANIFEST_COLUMNS)
    assert manifest["status"].tolist().count("accepted") == 5
    assert manifest.set_index("path").loc["notes.txt", "status"] == "ignored"
    with pytest.raises(UserError, match="2 of 8 scans were refused"):
        run(experiment)
    skipping = make_experiment(
        tmp_path, PreprocessConfig(num_slices=5, image_size=(16, 16), num_workers=1, skip_refused=True)
    )
    assert "nothing to do" in run(skipping)


def test_where_nothing_can_be_used_no_store_is_left(write_patients, tmp_path):
    raw = write_patients(tmp_path / "raw", num_patients=1)
    experiment = make_experiment(tmp_path)
    run(experiment)
    for path in raw.iterdir():
        path.write_bytes(b"no")
    with pytest.raises(UserError, match="none of 2 scans can be used"):
        run(experiment)
    with pytest.raises(UserError, match="no complete example store"):
        read_store(experiment.paths.prepared)


def test_a_name_that_contradicts_the_affine_is_listed(write_patients, write_knee, tmp_path):
    raw = write_patients(tmp_path / "raw", num_patients=2)
    name = "OAI9000001_BaseLine_3_de3d1_SAG_3D_DESS_WE_LEFT.nii.gz"
    write_knee(raw / name, "right")
    experiment = make_experiment(tmp_path)
    assert f"{name}: the named side and the knee's place in the scanner disagree (name or table left" in run(experiment)
    coverage = read_json(experiment.paths.prepared / "coverage.json")
    assert coverage["side_disagreements"] == [name]
    found = "name or table left (99.9%), place in the scanner right (98.5%); together left, 93.8%"
    assert coverage["side_evidence"] == {name: found}


def test_exported_slices_read_back_to_the_same_store(write_patients, tmp_path):
    write_patients(tmp_path / "raw", num_patients=2)
    options = PreprocessConfig(num_slices=5, image_size=(16, 16), num_workers=1, export_png=True)
    experiment = make_experiment(tmp_path, options)
    run(experiment)
    png = experiment.paths.prepared / "png"
    assert (png / "OAI9000000_BaseLine_3_de3d1_SAG_3D_DESS_WE_LEFT.nii.gz_0.png").is_file()
    from_png = Experiment("from_png", workspace=tmp_path, data=DataConfig(raw_folder=png), preprocess=OPTIONS)
    run(from_png)
    first, second = read_store(experiment.paths.prepared), read_store(from_png.paths.prepared)
    np.testing.assert_array_equal(first.examples, second.examples)
    assert first.index["label"].tolist() == second.index["label"].tolist()


def test_a_table_of_any_labels_is_followed(write_knee, tmp_path):
    rows = []
    for patient in range(4):
        write_knee(tmp_path / "raw" / f"scan{patient}.nii.gz", seed=patient)
        rows.append(f"scan{patient}.nii.gz,00{patient},{'healthy' if patient % 2 else 'arthritis'}")
    (tmp_path / "table.csv").write_text("path,patient,label\n" + "\n".join(rows))
    experiment = make_experiment(tmp_path, label_table=tmp_path / "table.csv")
    run(experiment)
    store = read_store(experiment.paths.prepared)
    assert store.class_names == ("arthritis", "healthy")
    assert set(store.index["group_id"]) == {"000", "001", "002", "003"}


def test_a_volume_one_voxel_thick_is_its_own_slice(write_knee, tmp_path):
    for side in ("LEFT", "RIGHT"):
        path = tmp_path / "raw" / f"9003406_20041118_SAG_3D_DESS_{side}_0166_label_all.Label1.sliced.nii.gz"
        write_knee(path, side.lower(), shape=(12, 14, 1))
    experiment = make_experiment(tmp_path, PreprocessConfig(image_size=(16, 16), num_workers=1))
    run(experiment)
    store = read_store(experiment.paths.prepared)
    assert store.index["slice_index"].tolist() == [0, 0]
    assert store.index["slice_position"].tolist() == [0, 0]


def test_a_bug_in_a_worker_is_not_swallowed(tmp_path):
    with pytest.raises(AttributeError):
        prepare_part(Path(), [None], OPTIONS, tmp_path / "part.npz", "raw")


KNEES = [
    # path, patient, side, kl_grade, published_split, age, the patient's name
    ("images/M\u00fcller_left.png", "0071", "left", "0", "train", "50.5", "Zyxwv Quetzal"),
    ("images/M\u00fcller_right.png", "0071", "right", "2", "train", "50.5", "Zyxwv Quetzal"),
    ("images/b_left.png", "0072", "left", "0", "val", "61", "Zyxwv Quetzal"),
    ("images/c_right.png", "0073", "right", "2", "train", "70.25", "Zyxwv Quetzal"),
]
NAMES = ("path", "patient", "side", "kl_grade", "published_split", "age", "name")


def write_workbook(path, rows):
    book = openpyxl.Workbook()
    book.active.append(NAMES)
    for row in rows:
        book.active.append([*row[:5], float(row[5]), row[6]])
    book.save(path)


def test_a_table_from_any_program_is_the_same_store_and_what_was_not_asked_for_is_in_no_file(tmp_path):
    """As published, by Excel in English and in German, with pipes in Windows-1252, and as a workbook."""
    for number, row in enumerate(KNEES):
        path = tmp_path / "raw" / row[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20), dtype=np.uint8)).save(path)
    german = [[*row[:5], row[5].replace(".", ","), row[6]] for row in KNEES]
    texts = {
        "plain": ",".join(NAMES) + "\n" + "\n".join(map(",".join, KNEES)) + "\n",
        "english": "\ufeff" + "\r\n".join(map(",".join, [[name.title() for name in NAMES], *KNEES])) + "\r\n",
        "german": "\ufeff" + "\r\n".join(map(";".join, [NAMES, *german, [""] * 7])) + "\r\n",
        "pipes": " | ".join(NAMES) + "\r\n" + "\r\n".join(map(" | ".join, german)) + "\r\n",
    }
    stores, manifests = set(), set()
    for name in (*texts, "workbook"):
        table = tmp_path / f"{name}.csv"
        if name == "workbook":
            write_workbook(table, KNEES)
        else:
            table.write_bytes(texts[name].encode("cp1252" if name == "pipes" else "utf-8"))
        columns = ColumnsConfig(label="kl_grade", split="published_split")
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        experiment = make_experiment(tmp_path, label_table=table, columns=columns, covariates=("age",))
        text = run(experiment)
        assert ("Windows-1252, a guess" in text) == (name == "pipes")
        assert ("and decimal commas in age, a guess" in text) == (name in ("german", "pipes"))
        store = read_store(experiment.paths.prepared)
        assert store.class_names == ("0", "2")
        stores.add(store.fingerprint)
        manifests.add(experiment.paths.manifest.read_bytes())
        everything = b"".join(path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file())
        assert b"Quetzal" not in everything
    assert len(stores) == len(manifests) == 1
    manifest = read_table(experiment.paths.manifest, (*MANIFEST_COLUMNS, "age"))
    assert manifest["age"].tolist() == ["50.5", "50.5", "61", "70.25"]
    assert manifest["published_split"].tolist() == ["train", "train", "val", "train"]
    assert manifest["side"].tolist() == ["left", "right", "left", "right"]


def test_folders_of_classes_become_a_store_with_a_warning_and_a_table_may_lie_in_the_raw_folder(tmp_path):
    for number, name in enumerate(("cat/a.png", "dog/b.png")):
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20), dtype=np.uint8)).save(path)
    experiment = make_experiment(tmp_path, dataset="labelled")
    assert "Patients are unknown, so each file counts as one" in " ".join(run(experiment).split())
    assert read_store(experiment.paths.prepared).class_names == ("cat", "dog")
    (tmp_path / "raw" / "mine.csv").write_text("path,patient,label\ncat/a.png,1,x\ndog/b.png,2,y\n")
    experiment = make_experiment(tmp_path, dataset="labelled", label_table=Path("mine.csv"))
    assert "unknown" not in run(experiment)
    assert read_store(experiment.paths.prepared).class_names == ("x", "y")


def write_images(folder, num_patients=4, colour=()):
    """Write two images of each patient, left and right; those of the numbers in ``colour`` are not grey."""
    folder.mkdir(parents=True)
    rows = ["path,patient,label"]
    for number in range(2 * num_patients):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
        image = Image.fromarray(pixels if number not in colour else np.stack([pixels, pixels, pixels // 2], axis=-1))
        suffix = ("png", "jpg", "bmp", "tif")[number % 4]
        image.save(folder / f"{number}.{suffix}")
        rows.append(f"{number}.{suffix},p{number // 2},{('left', 'right')[number % 2]}")
    (folder.parent / "images.csv").write_text("\n".join(rows))
    return folder.parent / "images.csv"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_table_of_images_becomes_a_store_of_images_of_patients(num_workers, tmp_path):
    table = write_images(tmp_path / "raw")
    experiment = make_experiment(
        tmp_path, PreprocessConfig(image_size=(16, 16), num_workers=num_workers), label_table=table
    )
    assert "8 images of 4 patients (4 left, 4 right)" in run(experiment)
    store = read_store(experiment.paths.prepared, verify=True)
    assert (store.kind, store.examples.shape) == (PATIENT_IMAGES, (8, 16, 16))
    assert store.index["example_id"].tolist() == store.index["source_id"].tolist()
    assert set(store.index["slice_index"]) == {0}
    for row, name in enumerate(store.index["source_id"]):
        np.testing.assert_array_equal(store.examples[row], np.asarray(Image.open(tmp_path / "raw" / name)))
    manifest = read_table(experiment.paths.manifest, MANIFEST_COLUMNS).set_index("source_id")
    assert manifest.loc["0.png", ["shape", "side", "status"]].tolist() == ["16x16", "left", "accepted"]
    assert len(list((experiment.paths.prepared / "parts").iterdir())) == 1
    assert "nothing to do" in run(experiment)


def test_images_that_are_called_otherwise_become_the_same_examples_in_the_same_order(tmp_path, monkeypatch):
    """Of each patient there is a pair that nothing but its pixels tells apart, in one part and in two."""
    monkeypatch.setattr(volumes, "IMAGES_A_PART", 3)
    found = []
    for names in ("abcdefgh", "hgfedcba", "dbhcgfae"):
        folder = tmp_path / names
        table = write_images(folder / "raw", colour=(4,))
        rows = table.read_text().splitlines()
        for place, name in enumerate(names):
            path, patient, _ = rows[place + 1].split(",")
            shutil.move(folder / "raw" / path, folder / "raw" / f"{name}.{path.split('.')[1]}")
            rows[place + 1] = f"{name}.{path.split('.')[1]},{patient},{'xy'[int(patient[1]) % 2]}"
        table.write_text("\n".join(rows))
        run(make_experiment(folder, PreprocessConfig(image_size=(16, 16), num_workers=1), label_table=table))
        store = read_store(Workspace(folder / "work", "knees").prepared)
        found.append((store.index["group_id"].tolist(), store.examples.tobytes()))
    assert found[0] == found[1] == found[2]
    assert found[0][0] == ["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3"]


def test_one_image_in_colour_makes_all_of_three_channels_unless_they_are_turned_grey(tmp_path):
    table = write_images(tmp_path / "raw", colour=(4,))
    experiment = make_experiment(tmp_path, PreprocessConfig(image_size=(16, 16), num_workers=1), label_table=table)
    run(experiment)
    examples = read_store(experiment.paths.prepared).examples
    assert examples.shape == (8, 3, 16, 16)
    assert ((examples != examples[:, :1]).any(axis=(1, 2, 3))).sum() == 1
    options = PreprocessConfig(image_size=(16, 16), num_workers=1, colour="grey")
    run(make_experiment(tmp_path, options, label_table=table))
    assert read_store(experiment.paths.prepared).examples.shape == (8, 16, 16)


def test_images_that_cannot_be_used_are_refused_and_the_others_of_their_part_kept(tmp_path, capsys):
    table = write_images(tmp_path / "raw")
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "raw" / "0.png")
    (tmp_path / "raw" / "2.bmp").write_bytes(b"no")
    (tmp_path / "raw" / "3.tif").unlink()
    options = PreprocessConfig(image_size=(16, 16), num_workers=1, skip_refused=True, export_png=True)
    experiment = make_experiment(tmp_path, options, label_table=table)
    assert "5 images of 3 patients (2 left, 3 right)" in run(experiment)
    listed = capsys.readouterr().err
    for message in ("0.png: one grey level", "2.bmp: not readable as an image", "3.tif: no such file"):
        assert message in listed
    store = read_store(experiment.paths.prepared)
    exported = np.asarray(Image.open(experiment.paths.prepared / "png" / "7.png"))
    np.testing.assert_array_equal(exported, store.examples[store.index["source_id"].tolist().index("7.tif")])


def test_an_image_that_may_not_be_read_costs_the_others_of_its_part_nothing(tmp_path, monkeypatch):
    table = write_images(tmp_path / "raw")
    experiment = make_experiment(
        tmp_path, PreprocessConfig(image_size=(16, 16), num_workers=1, skip_refused=True), label_table=table
    )
    read_bytes = Path.read_bytes

    def refuse(path):
        if path.name == "3.tif":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        assert "7 images of 4 patients" in run(experiment)
    manifest = read_table(experiment.paths.manifest, MANIFEST_COLUMNS).set_index("path")
    assert "3.tif: Permission denied" in manifest.loc["3.tif", "reason"]
    assert "8 images of 4 patients" in run(experiment), "it is tried again"


def test_images_and_volumes_in_one_table_are_refused(write_knee, tmp_path):
    table = write_images(tmp_path / "raw")
    write_knee(tmp_path / "raw" / "knee.nii.gz")
    table.write_text(table.read_text() + "\nknee.nii.gz,p9,left\n")
    with pytest.raises(UserError, match=r"0.png is an image and knee.nii.gz a volume.*8 images or the 1 volumes"):
        run(make_experiment(tmp_path, label_table=table))


def test_a_gap_in_a_stack_of_images_is_refused(tmp_path):
    name = "OAI9000000_BaseLine_3_de3d1_SAG_3D_DESS_WE_{}.nii.gz_{}.png"
    (tmp_path / "raw").mkdir()
    for side, slices in (("LEFT", range(4)), ("RIGHT", (0, 2, 3))):
        for number in slices:
            pixels = np.random.default_rng(number).integers(0, 256, (20, 24), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "raw" / name.format(side, number))
    with pytest.raises(UserError, match="1 of 2 scans was refused"):
        run(make_experiment(tmp_path))
    manifest = read_table(make_experiment(tmp_path).paths.manifest, MANIFEST_COLUMNS).set_index("label")
    assert "slice 1 of this scan is missing" in manifest.loc["right", "reason"]


def test_other_options_do_not_replace_the_store_that_a_finished_run_was_trained_on(tiny_workspace, capsys):
    paths = Workspace(tiny_workspace, "tiny")
    before = {path.name: path.read_bytes() for path in paths.prepared.iterdir() if path.is_file()}
    words = ["--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace)]
    assert main(["preprocess", *words, "--preprocess.num_slices", "5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "preprocess.num_slices: was 4, is 5; the store of tiny would be replaced" in line
    assert {path.name: path.read_bytes() for path in paths.prepared.iterdir() if path.is_file()} == before
    assert main(["preprocess", *words]) == 0, "the same options as before"
    assert list_finished_runs(paths, read_store(paths.prepared).fingerprint) == ["tiny"]
    assert list_finished_runs(paths, "another store") == []


def test_other_data_replace_the_store_of_a_finished_run_and_name_the_run(write_patients, tmp_path):
    write_patients(tmp_path / "raw", 3)
    experiment = make_experiment(tmp_path)
    assert "trained on" not in run(experiment)
    fingerprint = read_store(experiment.paths.prepared).fingerprint
    experiment.paths.best_checkpoint.parent.mkdir(parents=True)
    for path in (experiment.paths.best_checkpoint, experiment.paths.training_record):
        path.write_bytes(b"{}")
    settings = {"store fingerprint": fingerprint}
    write_json(experiment.paths.run_folder / "started.json", {"settings": settings})
    assert "trained on" not in run(experiment)
    next((tmp_path / "raw").iterdir()).unlink()
    assert "the data are not those that knees was trained on, and the store was replaced" in run(experiment)


@pytest.mark.parametrize(("size", "is_warned"), [(12, True), (13, False)])
def test_images_that_shrink_by_more_than_a_quarter_are_warned_of(size, is_warned, tmp_path):
    table = write_images(tmp_path / "raw")
    options = PreprocessConfig(image_size=(size, size), num_workers=1)
    printed = run(make_experiment(tmp_path, options, label_table=table))
    assert ("images shrink 1.3 times, and details of fewer than 2 pixels are lost" in printed) == is_warned


def test_the_bytes_of_the_phantoms_store_are_what_they_were(tiny_workspace):
    """A changed fingerprint would ask every user to train again: it needs a reason and a line in CHANGELOG.md."""
    assert read_store(Workspace(tiny_workspace, "tiny").prepared).fingerprint == "c444b55382c18cac"
