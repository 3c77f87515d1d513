"""Files that count as scans: one scan a source, nothing lost, nothing twice."""

import pytest

from pipeline.core.errors import UserError
from pipeline.data.sources import (
    find_files,
    find_written_file,
    list_named_sources,
    list_table_sources,
    read_label_table,
)
from pipeline.datasets.akoa import parse_name

RIGHT = "OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(folder, pattern="*"):
    return list_named_sources(folder, pattern, parse_name)


def test_folders_are_searched_and_hidden_files_passed_over(tmp_path):
    touch(tmp_path, f"a/b/{RIGHT}", ".DS_Store", f".hidden/{RIGHT}", f"a/.{RIGHT}")
    (source,) = listed(tmp_path)
    assert source.source_id == "9014797_3_right"
    assert source.paths[0].as_posix() == f"a/b/{RIGHT}"


def test_images_of_a_scan_are_one_source_in_slice_order(tmp_path):
    touch(tmp_path, *(f"{RIGHT}_{number}.png" for number in (10, 2, 0, 1)))
    (source,) = listed(tmp_path)
    assert [path.name.rsplit("_", 1)[1] for path in source.paths] == ["0.png", "1.png", "2.png", "10.png"]


@pytest.mark.parametrize(
    "others",
    [
        ["copy/" + RIGHT],
        ["OAI9014797_BaseLine_3de3d1_SAG_3D_DESS_WE_R_I_G_H_T.nii.gz"],
        [RIGHT + "_0.png"],
        [RIGHT.replace(".gz", "")],
    ],
)
def test_two_files_for_one_scan_are_refused_and_both_named(others, tmp_path):
    touch(tmp_path, RIGHT, *others)
    (source,) = listed(tmp_path)
    assert "two files for one scan" in source.refusal
    for name in (RIGHT, *others):
        assert name in source.refusal


def test_the_same_slice_twice_is_refused(tmp_path):
    touch(tmp_path, f"{RIGHT}_0.png", f"{RIGHT}_1.png", f"copy/{RIGHT}_1.png")
    (source,) = listed(tmp_path)
    assert "two files for one scan" in source.refusal


def test_a_name_that_tells_nothing_is_refused_by_its_path(tmp_path):
    touch(tmp_path, RIGHT, "deep/knee.nii.gz")
    refused = [source for source in listed(tmp_path) if source.refusal]
    assert [source.paths[0].as_posix() for source in refused] == ["deep/knee.nii.gz"]
    assert not refused[0].ignored


def test_other_files_are_ignored_with_a_reason(tmp_path):
    touch(tmp_path, RIGHT, "README.md", "scan.dcm", "lost.img")
    reasons = {source.source_id: source.refusal for source in listed(tmp_path) if source.ignored}
    assert "not named as an image" in reasons["README.md"]
    assert "dcm2niix" in reasons["scan.dcm"]
    assert "no .hdr file" in reasons["lost.img"]


def test_the_voxels_of_a_pair_are_no_scan_of_their_own(tmp_path):
    touch(tmp_path, RIGHT.replace(".nii.gz", ".hdr"), RIGHT.replace(".nii.gz", ".img"))
    (source,) = listed(tmp_path)
    assert not source.refusal


def test_an_empty_folder_and_a_pattern_that_matches_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no file matches '\*'"):
        find_files(tmp_path, "*")
    with pytest.raises(UserError, match="no such folder"):
        find_files(tmp_path / "absent", "*")
    touch(tmp_path, RIGHT)
    assert find_files(tmp_path, "*RIGHT*")
    with pytest.raises(UserError, match=r"--data.pattern"):
        find_files(tmp_path, "*LEFT*")


def table(folder, text):
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return list_table_sources(folder, read_label_table(path))


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
    assert "two files for one scan" in sources[0].refusal
    assert "no such file" in sources[1].refusal


def test_patients_that_look_the_same_are_one_and_it_is_said_once(tmp_path):
    """A blank, U+00A0, a letter as one character and as two: 6 rows, 2 patients, 2 labels."""
    rows = (
        "a,F\u00e4ll,left\nb,Fa\u0308ll,left \nc,Fa\u0308ll ,right\nd,007,\u00a0right\ne,007\u00a0,left\nf,007,right\n"
    )
    path = tmp_path / "table.csv"
    path.write_text("\u00a0path, patient,label \n" + rows, encoding="utf-8")
    given = read_label_table(path)
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


def test_a_file_is_found_in_either_unicode_form_and_with_blanks_around_its_name(tmp_path):
    touch(tmp_path, "Kno\u0308chel.nii", "\u00e4.nii", "b.nii")
    for text, name in (("Kn\u00f6chel.nii", "Kno\u0308chel.nii"), ("a\u0308.nii ", "\u00e4.nii"), (" b.nii", "b.nii")):
        assert find_written_file(tmp_path, text).as_posix() == name
    assert find_written_file(tmp_path, " none.nii ").as_posix() == "none.nii"


def test_one_file_in_both_unicode_forms_is_one_file_twice(tmp_path):
    touch(tmp_path, "\u00e4.nii")
    (source,) = table(tmp_path, "path,patient,label\n\u00e4.nii,1,left\na\u0308.nii,2,right\n")
    assert "two files for one scan" in source.refusal
