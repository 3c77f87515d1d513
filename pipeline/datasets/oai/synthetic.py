"""A synthetic delivery of the OAI: the phantom's knees as DICOM in archives, with their list and clinical tables.

Grades are drawn first and painted into the knees, so labels that are read from the tables can be compared with what was
drawn, and a model can learn them.
"""

import gzip
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import delayed
from rich.console import Console

from pipeline.config.phantom import PhantomConfig
from pipeline.core.files import write_bytes
from pipeline.core.serialization import flatten
from pipeline.datasets.phantom.painting import paint_knee
from pipeline.datasets.phantom.scans import SIDES, SYNTHETIC_NOTE, fill_folder, place_scan
from pipeline.formats.dicom_writing import SeriesFacts, encode_series

READ_VISITS = ("V00", "V01", "V03", "V05", "V06")
SCANNED_VISITS = ("V00", "V03", "V06")
RELEASES = {"V00": "0.C.2", "V03": "3.C.2", "V06": "6.C.1"}
BASELINE_FRACTIONS = (0.3, 0.2, 0.2, 0.2, 0.1)  # of the grades 0 to 4; more even than among people
ACCELERATED_FRACTION, SLOW_FRACTION = 0.3, 0.3
# Of the scans so many were repeated; of the readings of project 15 so many are missing, and project 37 has them.
REPEATED_FRACTION, MISSING_FRACTION = 0.05, 0.1
SIDE_CODES = {"right": "1: Right", "left": "2: Left"}
NOT_EXPECTED = ".A: Not Expected"
LIST_COLUMNS = (
    "collection_id", "image03_id", "src_subject_id", "interview_date", "sex", "visit", "image_description",
    "image_file",
)  # fmt: skip


@dataclass(frozen=True)
class SyntheticKnee:
    """One knee of a patient through all visits.

    Args:
        patient_index: 0 for the first patient.
        side: ``left`` or ``right``.
        grades: The Kellgren-Lawrence grade at each visit of ``READ_VISITS``.
        num_scans: The number of visits of ``SCANNED_VISITS`` at which it was scanned.
    """

    patient_index: int
    side: str
    grades: tuple[int, ...]
    num_scans: int

    @property
    def patient(self) -> str:
        """Seven digits that begin with zeros: real ones begin with 9."""
        return f"{self.patient_index + 1:07d}"

    @property
    def is_accelerated(self) -> bool:
        """True where its grade rises from 0 or 1 to 3 or 4."""
        return self.grades[0] <= 1 and max(self.grades) >= 3

    def grade_at(self, visit: str) -> int:
        """Return the grade at a visit."""
        return self.grades[READ_VISITS.index(visit)]


@dataclass(frozen=True)
class SyntheticSeries:
    """One series of a delivery.

    Args:
        knee: Its knee.
        visit: Its visit.
        attempt: 0 for the scan that counts, 1 for an earlier one of the same visit.
    """

    knee: SyntheticKnee
    visit: str
    attempt: int

    @property
    def description(self) -> str:
        return f"SAG_3D_DESS_{self.knee.side.upper()}"

    @property
    def path(self) -> str:
        """The place of its archive below the raw folder, as the archive of the OAI has it."""
        index, visit_index = self.knee.patient_index, SCANNED_VISITS.index(self.visit)
        date = f"{2004 + 2 * visit_index}{index % 12 + 1:02d}{index % 28 + 1:02d}"
        barcode = 10_000_000 + 100 * index + 10 * visit_index + 2 * SIDES.index(self.knee.side) + 1 - self.attempt
        return f"results/00m/{RELEASES[self.visit]}/{self.knee.patient}/{date}/{barcode}.tar.gz"


def draw_knees(config: PhantomConfig) -> list[SyntheticKnee]:
    """Draw the grades of all knees; those of a third of the early knees rise from 0 or 1 to 3 or 4."""
    generator = np.random.default_rng((config.seed, 0x0A1))
    knees = []
    for patient_index in range(config.num_patients):
        num_scans = int(generator.integers(1, config.max_visits + 1))
        for side in SIDES:
            first = int(generator.choice(5, p=BASELINE_FRACTIONS))
            fate, start, last = generator.uniform(), int(generator.integers(1, 4)), int(generator.integers(3, 5))
            grades = [first] * len(READ_VISITS)
            if first <= 1 and fate < ACCELERATED_FRACTION:
                grades[start:] = [2] * (len(grades) - start)
                grades[-1] = last
            elif fate > 1 - SLOW_FRACTION and first < 4 and first != 2:
                grades[start + 1 :] = [first + 1] * (len(grades) - start - 1)
            knees.append(SyntheticKnee(patient_index, side, tuple(grades), num_scans))
    return knees


def plan_series(config: PhantomConfig, knees: list[SyntheticKnee]) -> list[SyntheticSeries]:
    """List the series, some of which were repeated at the same visit."""
    generator = np.random.default_rng((config.seed, 0x0A2))
    planned = []
    for knee in knees:
        for visit in SCANNED_VISITS[: knee.num_scans]:
            attempts = (1, 0) if generator.uniform() < REPEATED_FRACTION else (0,)
            planned += [SyntheticSeries(knee, visit, attempt) for attempt in attempts]
    return planned


def make_delivery(folder: Path, config: PhantomConfig, num_workers: int, console: Console | None = None) -> None:
    """Fill a folder with a synthetic delivery; the same config gives the same bytes.

    Args:
        folder: A folder that holds nothing else; it is made where absent.
        config: The options of the knees.
        num_workers: The number of processes.
        console: The console that shows progress; without it, the standard output.

    Raises:
        UserError: the folder holds files that are no synthetic knees.
    """
    knees = draw_knees(config)
    series = plan_series(config, knees)
    tables = dict(_write_tables(config, knees, series))
    tasks = {name: delayed(write_bytes)(folder / name, content) for name, content in tables.items()}
    tasks |= {each.path: delayed(write_series)(folder, config, each) for each in series}
    record = {
        "note": SYNTHETIC_NOTE,
        "form": "oai",
        "num_patients": config.num_patients,
        "num_series": len(series),
        "config": {"form": "oai"} | flatten(config),
        "files": sorted(tasks),
    }
    fill_folder(folder, record, tasks, num_workers, console)


def write_series(folder: Path, config: PhantomConfig, series: SyntheticSeries) -> None:
    """Paint one scan and write its archive.

    Args:
        folder: The raw folder.
        config: The options of the knees.
        series: The series to write.
    """
    knee, visit_index = series.knee, SCANNED_VISITS.index(series.visit)
    seed = (config.seed, knee.patient_index, visit_index + 1, SIDES.index(knee.side) + 1, series.attempt + 1)
    scan_generator = np.random.default_rng(seed)
    patient_generator = np.random.default_rng((config.seed, knee.patient_index))
    grade = knee.grade_at(series.visit)
    intensity = paint_knee(config, patient_generator, scan_generator, knee.side, grade)
    affine = place_scan(config, knee.side, scan_generator)
    facts = SeriesFacts(knee.patient, series.description, series.path)
    files = encode_series(intensity, affine, facts)
    order = scan_generator.permutation(len(files))  # the order of files says nothing about the order of slices
    write_bytes(folder / series.path, pack_files([files[place] for place in order]))


def pack_files(files: list[bytes]) -> bytes:
    """Return a tar.gz of files that are named by numbers, without dates, so that the same files give the same bytes."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for number, content in enumerate(files, start=1):
            member = tarfile.TarInfo(f"{number:03d}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _write_tables(
    config: PhantomConfig, knees: list[SyntheticKnee], series: list[SyntheticSeries]
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the list of series and of each clinical table."""
    yield "image03.txt", _write_list(series)
    generator = np.random.default_rng((config.seed, 0x0A3))
    for visit in READ_VISITS:
        lines = [f"ID|SIDE|READPRJ|VERSION|{visit}XRKL"]
        for knee in knees:
            grade, start = str(knee.grade_at(visit)), f"{knee.patient}|{SIDE_CODES[knee.side]}"
            if generator.uniform() < MISSING_FRACTION:
                lines += [f"{start}|15|0.8|{NOT_EXPECTED}", f"{start}|37|1.1|{grade}"]
            else:
                lines.append(f"{start}|15|0.8|{grade}")
        yield f"clinical/kxr_sq_bu{visit[1:]}.txt", _join(lines)
    rows = {
        knee.patient: f"{knee.patient}|{1 + knee.patient_index % 2}|{'ABCDE'[knee.patient_index % 5]}" for knee in knees
    }
    yield "clinical/Enrollees.txt", _join(["ID|P02SEX|V00SITE", *rows.values()])


def _write_list(series: list[SyntheticSeries]) -> bytes:
    """Write ``image03.txt``; it names another series of each knee, which is not delivered."""
    lines = [LIST_COLUMNS, tuple(f"definition of {name}" for name in LIST_COLUMNS)]
    for each in series:
        patient, date = each.path.split("/")[3:5]
        sex = "MF"[each.knee.patient_index % 2]
        start = ("1", str(len(lines)), patient, f"{date[4:6]}/{date[6:]}/{date[:4]}", sex, each.visit)
        lines.append((*start, each.description, f"submission/{each.path}"))
        other = each.path.replace(".tar.gz", "9.tar.gz")
        lines.append((*start, f"COR_IW_TSE_{each.knee.side.upper()}", f"submission/{other}"))
    return _join(["\t".join(f'"{cell}"' for cell in line) for line in lines])


def _join(lines: list[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n").encode()
