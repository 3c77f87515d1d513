"""Inputs of predict: one scan a volume, whatever the form."""

import numpy as np
import pytest
from PIL import Image

from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES, VOLUMES
from pipeline.core.errors import UserError
from pipeline.formats.dicom_sides import find_side
from pipeline.inference.inputs import find_scans, list_passed_over
from tests.builders.dicom import write_radiograph, write_series

AKOA = "OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz"


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)


def test_files_folders_and_tables_name_the_same_scans(tmp_path):
    for name in ("b/2.nii.gz", "b/1.nii", "a.nii", "b/pair.hdr", "b/pair.img", "b/notes.txt", "b/.hidden.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = [tmp_path / name for name in ("a.nii", "b/1.nii", "b/2.nii.gz", "b/pair.hdr")]
    (tmp_path / "table.csv").write_text("note,path\nx,a.nii\ny,b\n")
    for inputs in (files, [tmp_path], [tmp_path / "table.csv"], [tmp_path / "a.nii", tmp_path / "b"]):
        assert [scan.name for scan in find_scans(inputs, VOLUMES)[0]] == [str(path) for path in files]
    passed_over = list_passed_over([tmp_path], find_scans([tmp_path], VOLUMES)[0])
    assert passed_over == [tmp_path / "table.csv", tmp_path / "b" / "notes.txt"], "neither half of the pair"
    assert list_passed_over(files, find_scans(files, VOLUMES)[0]) == []


def test_a_file_that_is_not_there_is_refused_by_name_and_the_others_are_scored(tmp_path):
    (tmp_path / "knee-7.nii").touch()
    inputs = [tmp_path / name for name in ("Knee\u20137.nii", "knee-7.nii", f"{'x' * 300}.nii", "none.nii")]
    scans, _ = find_scans(inputs, VOLUMES)
    assert [bool(scan.refusal) for scan in scans] == [True, False, True, True]
    assert "no such file; 'knee-7.nii' is there, which differs only in" in scans[0].refusal
    assert scans[3].refusal.endswith("none.nii: no such file.")
    assert list_passed_over(inputs, scans) == []


@pytest.mark.parametrize(
    ("name", "content", "guessed"),
    [
        ("table.csv", b"sep=;\r\nPath;name\r\n kn\xe4h.nii ;M\xfcller\r\n", ["not UTF-8; read as Windows-1252"]),
        ("table.TSV", "\ufeffname\tPATH\nx\tknäh.nii\n".encode(), []),
        ("table.csv", "path|name\nknäh.nii|x\n".encode("utf-16"), ["read with vertical bars between cells"]),
    ],
    ids=["semicolon and Windows-1252", "tab and a mark of the byte order", "pipe and UTF-16"],
)
def test_a_table_may_have_any_dialect_that_a_table_of_labels_may_have(name, content, guessed, tmp_path):
    (tmp_path / "knäh.nii").touch()
    (tmp_path / name).write_bytes(content)
    scans, notes = find_scans([tmp_path / name], VOLUMES)
    assert [scan.name for scan in scans] == [str(tmp_path / "knäh.nii")]
    assert notes == tuple(note for note in notes for text in guessed if f": {text}, a guess." in note)
    assert len(notes) == len(guessed)


@pytest.mark.parametrize("header", ["Datei", "path"])
def test_the_column_of_paths_may_have_the_name_that_it_has_in_the_table_of_labels(header, tmp_path):
    (tmp_path / "table.csv").write_text(f"{header}\n1.nii\n")
    assert [scan.name for scan in find_scans([tmp_path / "table.csv"], VOLUMES, "Datei")[0]] == [
        str(tmp_path / "1.nii")
    ]


def test_a_table_may_be_a_workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["name", "path"], ["x", "b/2.nii"]):
        book.active.append(row)
    book.save(tmp_path / "table.xlsx")
    assert [scan.name for scan in find_scans([tmp_path / "table.xlsx"], VOLUMES)[0]] == [str(tmp_path / "b/2.nii")]


def test_slices_of_a_volume_are_one_scan_in_the_order_of_their_numbers(tmp_path):
    for slice_index in (0, 2, 10, 1, *range(3, 10)):
        write_image(tmp_path / f"{AKOA}_{slice_index}.png")
    write_image(tmp_path / "other" / f"{AKOA}_0.png")
    write_image(tmp_path / "contact_sheet.png")
    (first, second), _ = find_scans([tmp_path], VOLUMES)
    assert first.name == str(tmp_path / f"{AKOA}_*.png")
    assert [path.name for path in first.paths] == [f"{AKOA}_{number}.png" for number in range(11)]
    assert [path.parent.name for path in second.paths] == ["other"]
    named, _ = find_scans(sorted(tmp_path.glob("OAI*.png")), VOLUMES)
    assert named == [first], "a shell's pattern gives the same scan as the folder"


def test_images_that_are_no_slices_are_refused_where_they_are_named(tmp_path):
    write_image(tmp_path / "knee.png")
    write_image(tmp_path / f"{AKOA}_1.png")
    write_image(tmp_path / f"{AKOA.replace('RIGHT', 'R_I_G_H_T')}_1.png")
    scans, _ = find_scans(sorted(tmp_path.iterdir()), VOLUMES)
    assert ["volume and slice" in scan.refusal for scan in scans] == [True, False]
    assert "two files for one scan" in scans[1].refusal


def test_a_model_of_images_takes_each_image_by_itself(tmp_path):
    for slice_index in range(2):
        write_image(tmp_path / f"{AKOA}_{slice_index}.png")
    assert [len(scan.paths) for scan in find_scans([tmp_path], IMAGES)[0]] == [1, 1]


def test_a_model_of_images_takes_every_format_and_refuses_volumes_by_name(tmp_path):
    for name in ("a.jpg", "b.TIFF", "c.bmp", "knee.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    write_radiograph(tmp_path / "IM_0001", np.arange(6, dtype=np.uint16).reshape(2, 3))
    for inputs in ([tmp_path], sorted(path for path in tmp_path.iterdir() if path.name != "notes.txt")):
        scans, _ = find_scans(inputs, PATIENT_IMAGES)
        assert [scan.paths[0].name for scan in scans] == ["IM_0001", "a.jpg", "b.TIFF", "c.bmp", "knee.nii.gz"]
        assert [bool(scan.refusal) for scan in scans] == [False] * 4 + [True]
        assert "knee.nii.gz: one volume; the model was trained on images" in scans[-1].refusal
    (scan,), _ = find_scans([tmp_path / "c.bmp"], VOLUMES)
    assert "an image whose name does not hold its volume" in scan.refusal


def test_archives_and_folders_of_a_series_are_scans_of_volumes(tmp_path):
    write_series(tmp_path / "knee", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    (tmp_path / "other.tar.gz").touch()
    assert [scan.name for scan in find_scans([tmp_path], VOLUMES)[0]] == [
        str(tmp_path / "knee"),
        str(tmp_path / "other.tar.gz"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\na.nii\n", "columns path are missing"),
        ("note,path\nx,a.nii\ny, \n", "table.csv, line 3: path is empty"),
        ("path\n", "table.csv: no rows"),
    ],
)
def test_a_table_without_paths_is_refused(content, message, tmp_path):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        find_scans([tmp_path / "table.csv"], VOLUMES)


def test_nothing_to_score_is_refused(tmp_path):
    with pytest.raises(UserError, match="predict: no input"):
        find_scans([], VOLUMES)
    with pytest.raises(UserError, match=r"no file that the model reads .*DICOM"):
        find_scans([tmp_path], VOLUMES)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        (AKOA, "right"),
        ("9000099_20050712_SAG_3D_DESS_L_E_F_T_10424405_image.nii.gz", "left"),
        ("knee-Left.nii", "left"),
        ("right.nii.gz_*.png", "right"),
        ("bright.nii", ""),
        ("leftover.nii", ""),
        ("left_of_RIGHT.nii", ""),
        ("knee.nii", ""),
    ],
)
def test_a_name_tells_its_side_or_nothing(name, side):
    assert find_side(name) == side
