"""Personal data of a scan's header stay in the scan: every byte that the stages write is searched."""

import base64
import contextlib
import gzip
import io
import re
import shutil
import sqlite3
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from pipeline.cli import main
from tests.builders.dicom import write_radiograph, write_series
from tests.builders.tiny_workspace import TINY_CONFIG

SECRET = "Zyxwv^Quetzal"
BIRTH_DATE = "19020304"
ROOT = Path(__file__).parents[2]
# A text in a table of 16-bit characters, or in base64 inside of a page, is the same text.
FORMS = (SECRET.encode(), SECRET.encode("utf-16-le"), SECRET.encode("utf-16-be"), BIRTH_DATE.encode())
STAGES = ("fetch", "preprocess", "split", "train", "evaluate")
# Names, free text and numbers that DICOM has for persons; a birth date has a form of its own.
PERSONAL = (
    *("PatientName", "PatientID", "OtherPatientNames", "PatientAddress", "PatientComments", "PatientMotherBirthName"),
    *("InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "OperatorsName", "PhysiciansOfRecord"),
    *("StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "AccessionNumber", "StudyID"),
    *("RequestedProcedureDescription", "AdditionalPatientHistory", "DeviceSerialNumber", "StationName"),
)
MORE_STAGES = ("attention", "export", "compare", "leak-study", "cross-validate")


def plant(path: Path) -> None:
    """Write the secret into every field of free text that a NIfTI header has."""
    image = nibabel.load(path)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        size = image.header[field].dtype.itemsize
        image.header[field] = SECRET.encode()[:size]
    for code in ("comment", "afni", "xcede"):
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, f"<name>{SECRET}</name>".encode()))
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header), path)


def unpack(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """Yield a content and, over and over, what is packed in it: gzip, zip, zlib in PNG, base64 in pages."""
    yield content
    if depth == 3:
        return
    if content.startswith(b"\x1f\x8b"):
        yield from unpack(gzip.decompress(content), depth + 1)
    elif content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from unpack(archive.read(name), depth + 1)
    elif content.startswith(b"\x89PNG"):
        for match in re.finditer(rb"zTXt|iTXt|iCCP|IDAT", content):
            start = match.start()
            size = int.from_bytes(content[start - 4 : start], "big")
            data = content[start + 4 : start + 4 + size]
            at = data.find(b"\x78") if match[0] != b"IDAT" else 0
            try:
                yield zlib.decompressobj().decompress(data[max(at, 0) :])
            except zlib.error:
                continue
    elif re.match(rb"\s*(<!|\{|\[)", content):
        for match in re.finditer(rb"[A-Za-z0-9+/]{16,}={0,2}", content):
            text = match[0][: len(match[0]) // 4 * 4]
            yield from unpack(base64.b64decode(text), depth + 1)


def find_secret(folder: Path, passed_over: Path) -> list[str]:
    """Return the files below a folder whose name or content, packed or not, holds the secret."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_relative_to(passed_over):
            continue
        contents = [path.name.encode(), *unpack(path.read_bytes())]
        if path.suffix == ".db":
            with sqlite3.connect(path) as database:
                contents += [line.encode() for line in database.iterdump()]
        if any(form in content for content in contents for form in FORMS):
            found.append(path.relative_to(folder).as_posix())
    return found


def run_planted(workspace: Path, new: Path, stages: tuple[str, ...]) -> None:
    """Run stages on knees whose headers hold the secret, and score new ones and DICOM series; keep all output."""
    config = TINY_CONFIG | {"export": {"formats": ["torch", "onnx", "bundle"]}, "leak_study": {"num_steps": 2}}
    config |= {"attention": {"num_examples": 2, "native_resolution": True}}
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(config))
    words = ["--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("always")
        for stage in stages:
            assert main([stage, *words]) == 0, stage
            if stage == "fetch":
                for path in (workspace / "data" / "tiny" / "raw").glob("*.nii.gz"):
                    plant(path)
        write_new(sorted((workspace / "data" / "tiny" / "raw").glob("*.nii.gz"))[0], new)
        for name in ("new.csv", "new.json"):
            assert main(["predict", str(new), *words, "--predict.output", str(workspace / name)]) == 2
    (workspace / "printed.txt").write_text(printed.getvalue())


def write_new(knee: Path, folder: Path) -> None:
    """Write scans to score, good ones and damaged ones: errors are printed, and so could be the text next to them."""
    (folder / "good.nii.gz").write_bytes(knee.read_bytes())
    (folder / "cut.nii.gz").write_bytes(gzip.compress(gzip.decompress(knee.read_bytes())[:700]))
    named = dict.fromkeys(("PatientName", "InstitutionName", "StudyDescription", "PatientID", "OperatorsName"), SECRET)
    intensity = np.random.default_rng(0).integers(0, 1000, (12, 14, 16)).astype(np.int16)
    spoilt = {"PhotometricInterpretation": SECRET, "ImageComments": SECRET}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of these values
        write_series(folder / "series", intensity, PatientBirthDate=BIRTH_DATE, **named)
        write_series(folder / "spoilt", intensity, **named | spoilt)
    (folder / "broken").mkdir()
    for path in sorted((folder / "series").iterdir())[:3]:
        content = path.read_bytes()
        (folder / "broken" / path.name).write_bytes(content[: content.index(b"Zyxwv") + 40])


def test_servers_listen_to_this_machine_alone():
    """Servers of the Makefile and the pages; without the option MLflow would do so today, but may not tomorrow."""
    pages = (ROOT / "Makefile", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    text = "\n".join(path.read_text() for path in pages)
    commands = re.findall(r"^.*mlflow (?:ui --|server|models serve -).*$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert re.search(r"(--host|-h) 127\.0\.0\.1\b", command), command
    assert "0.0.0.0" not in text


@pytest.mark.parametrize("stages", [STAGES, pytest.param((*STAGES, *MORE_STAGES), marks=pytest.mark.slow)])
def test_no_output_holds_the_free_text_of_a_header(stages, empty_tracking_database, tmp_path):
    workspace, new = tmp_path / "workspace", tmp_path / "new"
    workspace.mkdir()
    shutil.copyfile(empty_tracking_database, workspace / "mlflow.db")
    new.mkdir()
    run_planted(workspace, new, stages)
    raw = workspace / "data" / "tiny" / "raw"
    assert len(find_secret(raw, raw / "none")) == len(list(raw.glob("*.nii.gz")))  # the search finds what is there
    assert find_secret(workspace, raw) == []
    assert (workspace / "mlflow.db").stat().st_mtime > empty_tracking_database.stat().st_mtime, "it was written into"


@pytest.mark.slow
def test_no_output_holds_what_headers_of_radiographs_and_dropped_columns_say_of_persons(tmp_path):
    """From the images of training on: splits, predictions, metrics, report, MLflow, bundle and all that is printed."""
    workspace, raw = tmp_path / "workspace", tmp_path / "raw"
    workspace.mkdir()
    raw.mkdir()
    rows = ["path,patient,label,name,born"]
    for number in range(24):
        levels = np.random.default_rng(number).integers(0, 2000, (20, 20)) + 2000 * (number % 2)
        name, born = f"{number}.dcm", {"PatientBirthDate": BIRTH_DATE}
        write_radiograph(raw / name, levels, **born, **dict.fromkeys(PERSONAL, SECRET))
        rows.append(f"{name},p{number // 2},{('left', 'right')[number % 2]},{SECRET},{BIRTH_DATE}")
    content = (raw / "0.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[: content.index(b"Zyxwv") + 40])
    (tmp_path / "table.csv").write_text("\n".join(rows))
    config = TINY_CONFIG | {"data": {"dataset": "labelled", "raw_folder": str(raw)}, "export": {"formats": ["bundle"]}}
    config["data"] |= {"label_table": str(tmp_path / "table.csv")}
    config |= {"preprocess": {"image_size": [16, 16], "num_workers": 1}, "attention": {"num_examples": 2}}
    config |= {"train": TINY_CONFIG["train"] | {"epochs": 1}}
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(config))
    words = ["--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("always")
        for stage in ("preprocess", "split", "train", "evaluate", "export"):
            assert main([stage, *words]) == 0, (stage, printed.getvalue())
        given = [str(raw), str(tmp_path / "cut.dcm")]
        assert main(["predict", *given, *words, "--predict.output", str(workspace / "new.csv")]) == 2
    (workspace / "printed.txt").write_text(printed.getvalue())
    assert len(find_secret(raw, raw / "none")) == 24, "the search finds what is there"
    assert find_secret(workspace, raw) == []
    for name in ("mlflow.db", "new.csv", "runs/tiny/export/bundle", "reports/tiny/report.html", "data/tiny/splits.csv"):
        assert (workspace / name).exists(), name
