"""The table of labels: any dialect, any names of columns, one line for whatever is wrong with it."""

import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config.sources import ColumnsConfig, DataConfig
from pipeline.core.errors import UserError
from pipeline.core.tables import MANIFEST_COLUMNS, write_table
from pipeline.data.label_tables import (
    describe_class_folders,
    lies_in_class_folder,
    list_table_sources,
    read_class_folder,
    read_label_table,
)
from pipeline.data.sources import list_named_sources
from pipeline.datasets import DATASETS


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def read_labels(path, **options):
    return read_label_table(DataConfig(label_table=path, **options))


def list_class_folders(folder):
    return DATASETS["labelled"].list_sources(folder, DataConfig(dataset="labelled"))


def table(folder, text):
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return list_table_sources(folder, read_labels(path))


def test_a_table_gives_any_labels_and_keeps_ids_as_text(tmp_path):
    touch(tmp_path, "a.nii.gz", "sub/b.nii")
    first, second = table(tmp_path, "path,patient,label,age\nsub/b.nii,007,arthritis,50\na.nii.gz,NA,healthy,60\n")
    assert (first.source_id, first.group_id, first.label) == ("a.nii.gz", "NA", "healthy")
    assert (second.source_id, second.group_id, second.label) == ("sub/b.nii", "007", "arthritis")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("path,patient\na.nii,1\n", "columns label are missing"),
        ("path,patient,label\n", "no rows"),
        ("path,patient,label\na.nii,,left\n", "line 2: patient is empty"),
        ("path,patient,label\na.nii,1,\u00a0\u200b\n", "line 2: label is empty"),
        ("path,patient,label\n../a.nii,1,left\n", "line 2: ../a.nii is outside"),
        ("path,patient,label\n/etc/passwd,1,left\n", "line 2: /etc/passwd is outside"),
        ("", "not readable as CSV"),
    ],
)
def test_bad_tables_are_refused_by_line(text, match, tmp_path):
    touch(tmp_path, "a.nii")
    with pytest.raises(UserError, match=match):
        table(tmp_path, text)


def test_a_table_row_without_a_file_or_with_one_twice_is_refused(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    sources = table(tmp_path, "path,patient,label\na.nii,1,left\n./a.nii,2,left\nc.nii,3,left\n")
    assert sources[0].refusal == "lines 2 and 3 of table.csv name this one file. Keep one row."
    assert sources[1].refusal == "no such file (table.csv, line 4)"


def test_patients_that_look_the_same_are_one_and_it_is_said_once(tmp_path):
    """A blank, U+00A0, a letter as one character and as two: 6 rows, 2 patients, 2 labels."""
    rows = (
        "a,F\u00e4ll,left\nb,Fa\u0308ll,left \nc,Fa\u0308ll ,right\nd,007,\u00a0right\ne,007\u00a0,left\nf,007,right\n"
    )
    path = tmp_path / "table.csv"
    path.write_text("\u00a0path, patient,label \n" + rows, encoding="utf-8")
    given = read_labels(path)
    sources = list_table_sources(tmp_path, given)
    assert [source.group_id for source in sources] == ["F\u00e4ll"] * 3 + ["007"] * 3
    assert [source.label for source in sources] == ["left", "left", "right", "right", "left", "right"]
    patients, labels = given.notes
    assert "3 of 6 cells of patient, first in line 3" in patients
    assert "2 of 6 cells of label, first in line 3" in labels


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ("9014797,left", "OAI9014797,left", r"patients '9014797' \(line 2\) and 'OAI9014797' \(line 4\).* prefix OAI"),
        ("p1,Left", "p2,left", r"labels 'Left' \(line 2\) and 'left' \(line 4\) differ only in upper and lower case"),
        ("7,left", "007,left", "leading zeros"),
        ("7,left", "7.0,left", "a decimal .0"),
        ("p1,left", "p1\u200b,left", r"'p1\\u200b' \(line 4\) differ only in invisible characters"),
        ("p1,left", "p\uff11,left", "the width or form of characters"),
        ("p 1,left", "p\u00a01,left", "only in blanks"),
        ("p 1,left", "p  1,left", "only in blanks"),
        ("p1,left", "P01,left", "upper and lower case and leading zeros"),
    ],
)
def test_two_spellings_that_may_be_one_are_refused_with_their_lines(first, second, match, tmp_path):
    touch(tmp_path, "a", "b", "c")
    with pytest.raises(UserError, match=match):
        table(tmp_path, f"path,patient,label\na,{first}\nb,other,right\nc,{second}\n")


def test_one_file_in_both_unicode_forms_is_one_file_twice(tmp_path):
    touch(tmp_path, "\u00e4.nii")
    (source,) = table(tmp_path, "path,patient,label\n\u00e4.nii,1,left\na\u0308.nii,2,right\n")
    assert "lines 2 and 3" in source.refusal


def test_columns_are_mapped_and_patients_may_be_called_group_id(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    path = tmp_path / "mine.csv"
    path.write_text(
        "File;ID;KL_Grade;side;Published_Split;when\na.png;007;3;R_I_G_H_T;train;v1\nb.png;8;0;l;val;v2\n",
        encoding="utf-8",
    )
    columns = ColumnsConfig(path="file", patient="id", label="kl_grade", split="published_split", visit="when")
    first, second = list_table_sources(tmp_path, read_labels(path, columns=columns))
    assert (first.group_id, first.label, first.side, first.published_split, first.visit) == (
        *("007", "3", "right", "train"),
        "v1",
    )
    assert (second.side, second.weight, second.covariates) == ("left", "", ())
    path.write_text("path,group_id,label\na.png,007,3\n")
    assert read_labels(path).table["patient"].tolist() == ["007"]
    with pytest.raises(UserError, match="columns id, kl_grade, when are missing; found path, group_id, label"):
        read_labels(path, columns=ColumnsConfig(patient="id", label="kl_grade", visit="when"))


SECRETS = "Zyxwv Quetzal,1902-03-04"


def test_covariates_are_kept_and_all_other_columns_are_dropped(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    path = tmp_path / "mine.csv"
    path.write_text(f"path,patient,label,Name,born,age,Sex\na.png,1,0,{SECRETS},50,F\nb.png,2,1,{SECRETS},60,M\n")
    given = read_labels(path, covariates=("Age", "sex"))
    sources = list_table_sources(tmp_path, given)
    assert [source.covariates for source in sources] == [(("Age", "50"), ("sex", "F")), (("Age", "60"), ("sex", "M"))]
    assert "Quetzal" not in repr((sources, given.notes)) + given.table.to_csv() + given.covariates.to_csv()
    for name, message in (("status", "name of a column of the manifest"), ("weigth", "columns weigth are missing")):
        with pytest.raises(UserError, match=message):
            read_labels(path, covariates=(name,))
    with pytest.raises(UserError, match=r"side is what data\.columns\.side reads"):
        read_labels(path, covariates=("side",), columns=ColumnsConfig(side="label"))


ROWS = "path,patient,label,split\na,1,0,train\nb,2,1,train\nc,3,2,val\nd,4,9,hold\n"


def test_labels_are_merged_and_left_out_and_splits_renamed(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(ROWS)
    given = read_labels(path, merge={0: "none", 1: "none", "9": None}, split_values={"val": "test"})
    assert given.table["label"].to_dict() == {2: "none", 3: "none", 4: "2"}
    assert given.table["split"].tolist() == ["train", "train", "test"]
    assert given.notes == (f"{path}: 1 rows are left out by data.merge or data.split_values.",)
    assert read_labels(path, split_values={"hold": None}).table["label"].tolist() == ["0", "1", "2"]
    path.write_text(ROWS.replace("d,4,9,hold", "d,4,,val"))
    assert read_labels(path, merge={"": None}).table["label"].tolist() == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": {5: "x"}}, r"data\.merge: no row has the label '5'; found '0', '1', '2', '9'\."),
        ({"merge": {0: "Low", 1: "low"}}, r"labels 'Low' \(line 2\) and 'low' \(line 3\) differ only in upper"),
        ({"split_values": {"dev": "val"}}, "data.split_values: no row has the split 'dev'"),
        ({}, r"line 5: the published split is 'hold'; allowed are train, val, test\. .*{hold: test}"),
        ({"merge": dict.fromkeys("0129")}, "leave no row"),
        ({"bins": (1.0,), "columns": ColumnsConfig(label="split")}, "line 2: label 'train' is no number"),
    ],
)
def test_names_that_do_not_fit_the_table_are_refused(options, message, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(ROWS)
    if "split_values" not in options and options:
        options |= {"split_values": {"hold": "val"}}
    if "columns" in options:
        options |= {"columns": ColumnsConfig(label="split", split=None), "split_values": {}}
    with pytest.raises(UserError, match=message):
        read_labels(path, **options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1,x,train\nb,2,y,val\nc,1,x,val\n", "line 4: patient 1 is in val, and in line 2 in train"),
        ("a,1,x,train\nb,2,y,\n", "line 3: the published split is empty"),
    ],
)
def test_a_patient_has_one_published_split(rows, message, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("path,patient,label,split\n" + rows)
    with pytest.raises(UserError, match=message):
        read_labels(path)
    assert (read_labels(path, columns=ColumnsConfig(split=None)).table["split"] == "").all()


def test_a_quantity_is_refused_and_bins_make_classes_whose_names_sort(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("path;patient;label\n" + "".join(f"{n}.png;p{n};{50 + n},5\n" for n in range(24)))
    with pytest.raises(UserError, match=r"24 numbers \(line 2: 50\.5, line 3: 51\.5, .*regression is not built"):
        read_labels(path)
    labels = read_labels(path, bins=(51.5, 60.0)).table["label"]
    assert labels.value_counts().to_dict() == {"1: below 51.5": 1, "2: 51.5 to below 60": 9, "3: 60 and above": 14}
    for numbers, is_refused in ((range(20), False), (range(21), True), ([0.5, *range(9)], False)):
        path.write_text("path,patient,label\n" + "".join(f"{n}.png,p{n},{n}\n" for n in numbers))
        if is_refused:
            with pytest.raises(UserError, match="21 numbers"):
                read_labels(path)
        else:
            read_labels(path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (("1", "-2"), "line 3: weight '-2'; allowed are numbers of 0 and more"),
        (("1", ""), "line 3: weight ''"),
        (("1", "inf"), "line 3: weight 'inf'"),
        (("52", "110"), "weights from 52 to 110; .* weights of bodies"),
        (("0", "0"), "weights from 0 to 0"),
    ],
)
def test_weights_that_cannot_weigh_a_loss_are_refused(weights, message, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("path,patient,label,weight\na,1,x,{}\nb,2,y,{}\n".format(*weights))
    with pytest.raises(UserError, match=message):
        read_labels(path)
    assert (read_labels(path, columns=ColumnsConfig(weight=None)).table["weight"] == "").all()


def test_weights_are_read_with_decimal_commas_and_announced(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("path;patient;label;Weight\na;1;x;0,5\nb;2;y;2\n")
    given = read_labels(path)
    assert given.table["weight"].tolist() == ["0.5", "2.0"]
    assert "multiplies the loss of its row in training (0.5 to 2)" in given.notes[-1]


def test_a_side_that_is_none_is_refused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("path,patient,label,side\na,1,x,\nb,2,y,both\n")
    with pytest.raises(UserError, match="line 3: side 'both'; allowed are left, right, L, R or nothing"):
        read_labels(path)


def test_paths_are_found_from_the_raw_folder_from_the_table_and_absolute_inside(tmp_path):
    raw = tmp_path / "data" / "raw"
    touch(raw, "a.png", "sub/b.png", "sub/c.png", "d.png", "e.png")
    (raw / "series").mkdir()
    (tmp_path / "link").symlink_to(raw)
    path = tmp_path / "data" / "mine.csv"
    texts = ("a.png", r"sub\b.png", "raw/sub/c.png", f"{raw}/d.png", f"{tmp_path}/link/e.png", "series", "f.png")
    path.write_text("path,patient,label\n" + "".join(f"{text},{n},x{n}\n" for n, text in enumerate(texts)))
    for folder in (raw, tmp_path / "link"):
        sources = list_table_sources(folder, read_labels(path))
        assert {source.source_id: source.label for source in sources} == {
            "a.png": "x0",
            "sub/b.png": "x1",
            "sub/c.png": "x2",
            "d.png": "x3",
            "e.png": "x4",
            "series": "x5",
            "f.png": "x6",
        }
        assert [source.source_id for source in sources if source.refusal] == ["f.png"]
    (tmp_path / "data" / "outside.png").write_bytes(b"x")
    for text in ("../outside.png", "/d.png"):
        path.write_text(f"path,patient,label\n{text},1,x\n")
        with pytest.raises(UserError, match=f"line 2: {re.escape(text)} is outside"):
            list_table_sources(raw, read_labels(path))


def test_dicom_files_in_the_folder_of_a_class_are_radiographs_and_those_of_a_folder_below_one_series(tmp_path):
    for name in (
        "left/1.dcm",
        "left/2.dcm",
        "train/right/3",
        "right/scan/1.dcm",
        "right/scan/2.dcm",
        "train/right/4.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    sources = list_named_sources(tmp_path, "*", read_class_folder, lies_in_class_folder)
    found = {source.paths[0].as_posix(): (source.label, source.published_split, source.is_image) for source in sources}
    assert found == {
        "left/1.dcm": ("left", "", True),
        "left/2.dcm": ("left", "", True),
        "train/right/3": ("right", "train", True),
        "train/right/4.png": ("right", "train", True),
        "right/scan": ("right", "", False),
    }


def test_that_patients_are_unknown_is_read_from_the_manifest(tmp_path):
    path = tmp_path / "manifest.csv"
    assert describe_class_folders(path) == "", "not every store has one"
    rows = pd.DataFrame({name: ["", ""] for name in MANIFEST_COLUMNS})
    rows["status"], rows["spelling"] = ["accepted", "refused"], ["table", "<class>/<file>"]
    write_table(path, rows, MANIFEST_COLUMNS)
    assert describe_class_folders(path) == "", "a file that is not used says nothing of the others"
    rows["spelling"] = rows["spelling"].tolist()[::-1]
    write_table(path, rows, MANIFEST_COLUMNS)
    assert "Patients are unknown" in describe_class_folders(path)


def test_a_folder_is_a_class_and_every_file_a_patient_of_its_own(tmp_path):
    touch(tmp_path, "Left/a.png", "right/b.png", "right/deep/b.png", "c.png", "right/notes.txt")
    sources = list_named_sources(tmp_path, "*", read_class_folder)
    used = [(source.group_id, source.label, source.side) for source in sources if not source.refusal]
    assert used == [
        ("Left/a.png", "Left", "left"),
        ("right/b.png", "right", "right"),
        ("right/deep/b.png", "right", "right"),
    ]
    refused = {source.source_id: source.refusal for source in sources if source.refusal}
    assert "in no folder of a class" in refused["c.png"]
    assert "not named as an image" in refused["right/notes.txt"]
    source, _ = read_class_folder(Path("train/cat/a.png"))
    assert (source.label, source.published_split) == ("cat", "train")
    source, _ = read_class_folder(Path("train/a.png"))
    assert (source.label, source.published_split) == ("train", "")


@pytest.mark.parametrize(
    ("folder", "split"),
    [("Train", "train"), ("TEST", "test"), ("Validation", "val"), ("valid", "val"), ("Training", "train"), ("b", "")],
)
def test_a_folder_of_a_published_split_is_no_class_however_it_is_spelled(folder, split):
    path = Path(folder, "cat", "a.png")
    source, _ = read_class_folder(path)
    assert (source.label, source.published_split) == ("cat" if split else folder, split)
    assert lies_in_class_folder(path) == bool(split)


def test_two_folders_of_classes_that_may_be_one_are_refused(tmp_path):
    touch(tmp_path, "left/a.png", "right/b.png", "train/left/c.png")
    assert len(list_class_folders(tmp_path).sources) == 3
    touch(tmp_path, "Left/d.png")
    with pytest.raises(UserError, match=r"'Left' \(Left\) and 'left' \(left\) differ only in upper and lower case"):
        list_class_folders(tmp_path)


@pytest.mark.parametrize("text", ["nan", "NaN", "#N/A", "null"])
def test_a_cell_that_programs_write_for_an_empty_one_is_a_name_with_a_warning(text, tmp_path):
    touch(tmp_path, "a", "b", "c")
    path = tmp_path / "table.csv"
    path.write_text(f"path,patient,label\na,1,left\nb,{text},right\nc,{text},left\n")
    given = read_labels(path)
    assert list(given.table["patient"]) == ["1", text, text]
    assert [note for note in given.notes if f"2 rows have the patient '{text}' (line 3)" in note]
    path.write_text("path,patient,label\na,NA,none\nb,2,mild\n")
    assert not read_labels(path).notes


def test_values_of_a_fact_that_may_be_one_are_named_in_a_warning(tmp_path):
    touch(tmp_path, "a", "b")
    path = tmp_path / "table.csv"
    path.write_text("path,patient,label,visit,sex\na,1,left,V00,m\nb,2,right,v00,M\n")
    notes = read_labels(path, covariates=("sex",)).notes
    assert "'V00' (line 2) and 'v00' (line 3) of visit differ only in upper and lower case" in notes[0]
    assert "'m' (line 2) and 'M' (line 3) of sex" in notes[1]
    path.write_text("path,patient,label,visit,sex\na,1,left,V00,m\nb,2,right,V06,f\n")
    assert not read_labels(path, covariates=("sex",)).notes
