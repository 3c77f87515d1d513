"""The Osteoarthritis Initiative as it is delivered: which series are taken, and the label of each."""

import pandas as pd
import pytest

from pipeline.config.sources import DataConfig, OaiConfig
from pipeline.core.errors import UserError
from pipeline.data.sources import find_files
from pipeline.datasets.oai.clinical_tables import clean_code, find_clinical_tables, look_up, read_side
from pipeline.datasets.oai.delivery import split_description
from pipeline.datasets.oai.labels import label_accelerated
from pipeline.datasets.oai.scans import list_scans
from pipeline.reporting.coverage_page import tabulate_coverage

DESS, TURBO = "SAG_3D_DESS", "COR_IW_TSE"
# Release, patient, date, bar code, description.
SERIES = [
    ("0.C.2", "9000001", "20040801", "10000001", "SAG_3D_DESS_LEFT"),
    ("0.C.2", "9000001", "20040801", "10000002", "SAG_3D_DESS_RIGHT"),
    ("0.C.2", "9000001", "20040801", "9999999", "SAG_3D_DESS_RIGHT"),  # the same knee, earlier
    ("0.C.2", "9000001", "20040801", "10000003", "COR_IW_TSE_RIGHT"),
    ("0.E.1", "9000002", "20040901", "10000004", "SAG_3D_DESS_R_I_G_H_T"),
    ("3.C.2", "9000001", "20060801", "10000005", "SAG_3D_DESS_RIGHT"),
    ("0.C.2", "9000003", "20041001", "10000006", "SAG_3D_DESS"),
    ("0.C.2", "9000004", "20041002", "10000007", "SAG_3D_DESS_LEFT"),  # not in the folder
]
HEADER = "collection_id\timage03_id\tsrc_subject_id\tinterview_date\tsex\tvisit\timage_description\timage_file"
DEFINITIONS = "id\tid\tSubject ID how it's defined in lab\tDate\tSex\tVisit\tImage description\tFile"


def write_package(raw, rows=SERIES, absent=("10000007",)):
    """Write image03.txt as the archive has it, all cells in quotation marks, and an empty archive a series."""
    lines = [HEADER, DEFINITIONS]
    for release, patient, date, barcode, description in rows:
        file = f"s3://NDAR_Central_1/submission_1/00m/{release}/{patient}/{date}/{barcode}.tar.gz"
        lines.append("\t".join(["1", "2", patient, "08/01/2004", "F", "Visit", description, file]))
        path = raw / "results" / "00m" / release / patient / date / f"{barcode}.tar.gz"
        if barcode not in absent:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    raw.mkdir(exist_ok=True)
    quoted = ["\t".join(f'"{cell}"' for cell in line.split("\t")) for line in lines]
    (raw / "image03.txt").write_text("\r\n".join(quoted) + "\r\n")


def write_grades(folder, rows, visit="00", header="ID|SIDE|READPRJ|VERSION|V{visit}XRKL|V{visit}XRJSM"):
    folder.mkdir(exist_ok=True)
    lines = [header.format(visit=visit), *("|".join(row) for row in rows)]
    (folder / f"kXR_SQ_BU{visit}.txt").write_text("\n".join(lines) + "\n")


def options(label="side", **oai):
    return DataConfig("oai", oai=OaiConfig(label=label, **oai))


def list_by_id(raw, config):
    sources = list_scans(raw, config).sources
    return {source.source_id: source for source in sources if not source.ignored}


def test_series_of_a_package_are_taken_by_description_with_patient_visit_and_side(tmp_path):
    write_package(tmp_path)
    found = list_by_id(tmp_path, options())
    assert {name: (source.group_id, source.visit, source.side, source.label) for name, source in found.items()} == {
        "9000001_V00_left": ("9000001", "V00", "left", "left"),
        "9000001_V00_right": ("9000001", "V00", "right", "right"),
        "9000002_V00_right": ("9000002", "V00", "right", "right"),
        "9000001_V03_right": ("9000001", "V03", "right", "right"),
    }
    place = "results/00m/0.C.2/9000001/20040801/10000002.tar.gz"
    assert [path.as_posix() for path in found["9000001_V00_right"].paths] == [place]  # 10000002 is later than 9999999


def test_visits_sides_and_another_series_are_chosen_by_options(tmp_path):
    write_package(tmp_path)
    assert set(list_by_id(tmp_path, options(visits=("V03",)))) == {"9000001_V03_right"}
    assert set(list_by_id(tmp_path, options(sides=("left",)))) == {"9000001_V00_left"}
    found = list_by_id(tmp_path, options(series="cor_iw_tse"))
    assert [source.paths[0].name for source in found.values()] == ["10000003.tar.gz"]
    with pytest.raises(UserError, match="COR_IW_TSE, SAG_3D_DESS"):
        list_scans(tmp_path, options(series="AX_MPR"))


def test_folders_of_a_release_with_contents_give_the_same_scans(tmp_path):
    package, drive = tmp_path / "package", tmp_path / "drive"
    write_package(package)
    lines = {}
    for release, patient, date, barcode, description in SERIES:
        if barcode != "10000007":
            folder = drive / release / patient / date / barcode
            folder.mkdir(parents=True)
            (folder / "001").touch()
        row = f"{patient}/{date}/{barcode},{patient},{date},01661{barcode},OAI MR,{description}"
        lines.setdefault(release, []).append(row)
    for release, rows in lines.items():
        header = "Folder,ParticipantID,StudyDate,Barcode,StudyDescription,SeriesDescription"
        (drive / release / "contents.csv").write_text("\n".join([header, *rows]) + "\n")
    first, second = list_by_id(package, options()), list_by_id(drive, options())
    assert first.keys() == second.keys()
    assert second["9000001_V03_right"].paths[0].as_posix() == "3.C.2/9000001/20060801/10000005"


def test_names_of_akoa_are_read_where_there_is_no_list(tmp_path):
    (tmp_path / "OAI9000001_BaseLine_3de3d1_SAG_3D_DESS_WE_Left.nii.gz").touch()
    for number in range(2):
        (tmp_path / f"OAI9000002_BaseLine_4_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz_{number}.png").touch()
    write_grades(tmp_path / "tables", [("9000001", "2: Left", "15", "1", "2", "0")])
    found = list_by_id(tmp_path, options("XRKL"))
    assert {name: (source.label, source.side, len(source.paths)) for name, source in found.items()} == {
        "9000001_3_left": ("2", "left", 1)
    }
    assert [len(source.paths) for source in list_by_id(tmp_path, options()).values()] == [1, 2]


def test_the_grade_is_that_of_project_15_then_37_then_42_at_the_scans_own_visit(tmp_path):
    write_package(tmp_path)
    rows = [
        ("9000001", "1: Right", "42", "1", "4", "0"),
        ("9000001", "1: Right", "37", "1", "1: Possible", "0"),
        ("9000001", "1: Right", "15", "1", ".A: Not Expected", "0"),
        ("9000001", "2", "15", "1", "3.0", "0"),
        ("9000001", "2", "37", "1", "0", "0"),
        ("9000002", "1", "15", "1", ".: Missing Form/Incomplete Workbook", "0"),
        ("9000002", "1", "99", "1", "4", "0"),  # a project whose grades do not count
    ]
    write_grades(tmp_path / "tables", rows)
    write_grades(tmp_path / "tables", [("9000001", "1", "15", "1", "2", "0")], "03", "id|side|readprj|x|v{visit}xrkl|y")
    listing = list_scans(tmp_path, options("XRKL"))
    labels = {source.source_id: source.label for source in listing.sources if not source.ignored}
    assert labels == {"9000001_V00_right": "1", "9000001_V00_left": "3", "9000001_V03_right": "2"}
    ignored = {source.source_id: source.refusal for source in listing.sources if source.ignored}
    assert ignored == {"9000002_V00_right": "no V00XRKL"}


def test_two_grades_of_one_project_are_contradicted_and_none_is_taken(tmp_path):
    write_package(tmp_path)
    rows = [("9000001", "1", "15", "1", grade, "0") for grade in ("1", "2")]
    write_grades(tmp_path, [*rows, ("9000001", "2", "15", "1", "0", "0"), ("9000001", "2", "15", "2", "0", "0")])
    sources = list_scans(tmp_path, options("XRKL", visits=("V00",))).sources
    assert {source.source_id: source.label for source in sources if not source.ignored} == {"9000001_V00_left": "0"}
    assert "two values of V00XRKL" in {source.refusal for source in sources}


def test_a_variable_of_patients_or_with_the_side_in_its_name_is_found(tmp_path):
    (tmp_path / "AllClinical00.txt").write_text("ID|V00AGE|V00WOMKPR|V00WOMKPL|P02SEX|V00SITE\n9000001|61|5|7|2: F|B\n")
    tables = find_clinical_tables(tmp_path)
    scans = pd.DataFrame({"patient": ["9000001"] * 2, "visit": ["V00"] * 2, "side": ["left", "right"]})
    assert look_up(tables, "WOMKP{side}", scans)[0].tolist() == ["7", "5"]
    assert look_up(tables, "v00age", scans)[0].tolist() == ["61", "61"]
    assert look_up(tables, "P02SEX", scans)[0].tolist() == ["2", "2"]
    with pytest.raises(UserError, match=r"none of 1 clinical tables has WOMKP .*found V00WOMKPL, V00WOMKPR"):
        look_up(tables, "WOMKP", scans)


def test_accelerated_osteoarthritis_is_a_grade_that_rises_from_1_to_3_within_48_months(tmp_path):
    grades = {  # at V00, V01, V03, V06, V08
        "9000001": ("0", "1", "3", ".", "."),
        "9000002": ("1", "1", "1", "2", "."),
        "9000003": ("2", "3", "3", "4", "4"),
        "9000004": ("0", "0", ".", ".", "3"),
        "9000005": ("0", ".", "1", ".", "1"),
        "9000006": (".A: Not Expected", "3", "3", "3", "3"),
    }
    for place, visit in enumerate(("00", "01", "03", "06", "08")):
        rows = [(patient, "1", "15", "1", found[place], "0") for patient, found in grades.items()]
        write_grades(tmp_path, rows, visit)
    scans = pd.DataFrame({"patient": list(grades), "visit": "V00", "side": "right"})
    labels, reasons = label_accelerated(find_clinical_tables(tmp_path), scans)
    assert labels.tolist() == ["accelerated", "not accelerated", "", "", "not accelerated", ""]
    assert reasons.tolist() == [
        *("", "", "grade 2 at baseline", "no grade at 48 months or later that decides", "", "no V00XRKL"),
    ]


def test_labels_are_merged_and_covariates_and_site_kept(tmp_path):
    write_package(tmp_path)
    write_grades(tmp_path, [("9000001", "1", "15", "1", "3", "0"), ("9000001", "2", "15", "1", "0", "0")])
    (tmp_path / "Enrollees.txt").write_text("ID|P02SEX|V00SITE|NAME\n9000001|2: Female|C|Zyxwv\n")
    config = DataConfig(
        "oai", merge={0: "none", 3: "some"}, covariates=("P02SEX",), oai=OaiConfig(label="XRKL", visits=("V00",))
    )
    found = list_by_id(tmp_path, config)
    assert {name: (source.label, source.site, source.covariates) for name, source in found.items()} == {
        "9000001_V00_left": ("none", "C", (("P02SEX", "2"),)),
        "9000001_V00_right": ("some", "C", (("P02SEX", "2"),)),
    }
    with pytest.raises(UserError, match="no row has the label '4'"):
        list_scans(tmp_path, DataConfig("oai", merge={4: None}, oai=OaiConfig(label="XRKL", visits=("V00",))))
    with pytest.raises(UserError, match="none of 2 clinical tables has XRJSL"):
        list_scans(tmp_path, options("XRJSL"))


def test_the_coverage_counts_every_series_once_with_what_became_of_it(tmp_path):
    write_package(tmp_path)
    stray = tmp_path / "more" / "9000009" / "20050101"
    stray.mkdir(parents=True)
    (stray / "1.tar.gz").touch()
    listing = list_scans(tmp_path, options(visits=("V00",)))
    accepted = [source.paths[0].as_posix() for source in listing.sources if not source.ignored]
    manifest = pd.DataFrame({"path": accepted, "status": ["accepted"] * 2 + ["refused"]})
    counted = tabulate_coverage(listing.coverage, manifest)
    assert counted["num_series"].sum() == len(SERIES) + 1
    assert counted.groupby("outcome")["num_series"].sum().to_dict() == {
        "another series": 1,
        "another visit (data.oai.visits)": 1,
        "in no list": 1,
        "listed, not in the folder": 1,
        "no side in its description": 1,
        "refused when it was read; see manifest.csv": 1,
        "the knee was scanned again, and the later archive counts": 1,
        "used": 2,
    }


def test_a_path_that_names_another_patient_is_left_out(tmp_path):
    write_package(tmp_path)
    text = (tmp_path / "image03.txt").read_text().replace('"9000002"', '"9000005"')
    (tmp_path / "image03.txt").write_text(text)
    reasons = list_scans(tmp_path, options()).coverage["reason"]
    assert (reasons == "path and src_subject_id name two patients").sum() == 1


def test_a_folder_without_any_delivery_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list_scans(tmp_path / "none", options())
    (tmp_path / "notes.md").touch()
    assert find_files(tmp_path, "*")
    with pytest.raises(UserError, match="no scan of SAG_3D_DESS"):
        list_scans(tmp_path, options())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1: Right", "1"),
        ("2.0", "2"),
        (".: Missing Form/Incomplete Workbook", ""),
        (".A: Not Expected", ""),
        (".", ""),
        (".5", ".5"),
        ("", ""),
        (" Caucasian ", "Caucasian"),
        ("12: a\nb", "12"),
    ],
)
def test_a_cell_is_its_code(text, code):
    assert clean_code(text) == code


def test_side_1_is_right_and_a_word_that_contradicts_its_number_is_no_side():
    assert [read_side(text) for text in ("1", "2", "1: Right", "2: Left", "Right", "1.0")] == [
        *("right", "left", "right", "left", "right", "right"),
    ]
    assert [read_side(text) for text in ("1: Left", "3", "", "both")] == ["", "", "", ""]


def test_a_description_is_series_and_side():
    assert split_description("sag_3d_dess_Left") == (DESS, "left")
    assert split_description("COR IW TSE RIGHT") == ("COR IW TSE", "right")
    assert split_description("SAG_3D_DESS_L_E_F_T") == (DESS, "left")
    assert split_description("COR_IW_TSE") == (TURBO, "")
    assert split_description("BRIGHT") == ("BRIGHT", "")
