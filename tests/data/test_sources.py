"""Files that count as scans: one scan a source, nothing lost, nothing twice."""

import pytest

from pipeline.core.errors import UserError
from pipeline.data.sources import describe_missing, find_files, find_written_file, list_named_sources
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
    assert "in no folder of its own" in reasons["scan.dcm"]
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


def test_a_file_is_found_in_either_unicode_form_and_with_blanks_around_its_name(tmp_path):
    touch(tmp_path, "Kno\u0308chel.nii", "\u00e4.nii", "b.nii")
    for text, name in (("Kn\u00f6chel.nii", "Kno\u0308chel.nii"), ("a\u0308.nii ", "\u00e4.nii"), (" b.nii", "b.nii")):
        assert find_written_file(tmp_path, text).as_posix() == name
    assert find_written_file(tmp_path, " none.nii ").as_posix() == "none.nii"


def test_each_folder_on_the_way_to_a_file_may_have_either_unicode_form(tmp_path):
    touch(tmp_path, "a\u0308/\u00f6/u\u0308.nii")
    for text in ("\u00e4/\u00f6/\u00fc.nii", "a\u0308/o\u0308/u\u0308.nii", "\u00e4\\o\u0308\\\u00fc.nii "):
        assert find_written_file(tmp_path, text).as_posix() == "a\u0308/\u00f6/u\u0308.nii"
    assert find_written_file(tmp_path, "\u00e4/none.nii").as_posix() == "\u00e4/none.nii"


def test_a_file_that_is_not_there_names_the_one_whose_name_looks_the_same(tmp_path):
    touch(tmp_path, "Scans/knee-7.nii", "other.nii")
    for name, other, difference in (
        ("scans/knee-7.nii", "Scans", "upper and lower case"),
        ("Scans/knee\u20137.nii", "knee-7.nii", "digits, dashes or quotation marks"),
        ("Scans/knee-7.nii\u200b", "knee-7.nii", "invisible characters"),
    ):
        found = describe_missing(tmp_path / name)
        assert found.startswith(f"no such file; '{other}' is there, which differs only in {difference}")
    assert describe_missing(tmp_path / "Scans" / "third.nii") == "no such file"
    assert describe_missing(tmp_path / ("x" * 300)) == "no such file"
    touch(tmp_path, "THIRD.nii")  # the folder is listed again after a change
    assert "'THIRD.nii' is there" in describe_missing(tmp_path / "third.nii")
