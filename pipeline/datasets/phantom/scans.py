"""Synthetic knees for trying everything without data: files named and laid out as AKOA's.

Geometry, not patients: both knees of each patient at one to three visits, in every
spelling that the real sets have and in several storage orientations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from rich.console import Console

from pipeline.config.phantom import PhantomConfig
from pipeline.core.array_types import Array
from pipeline.core.console import progress
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.serialization import flatten
from pipeline.datasets.phantom.lesions import TABLE_NAME, plan_lesions, write_lesion_table
from pipeline.datasets.phantom.painting import paint_knee
from pipeline.formats.nifti import write_volume

SYNTHETIC_NOTE = "These knees are synthetic: they were made from geometry and show no person."
COMPLETE_NAME = "phantom.json"
STARTED_NAME = "phantom.started.json"
SIDES = ("left", "right")
SIDE_SPELLINGS = {
    "left": ("LEFT", "LEFT", "LEFT", "Left", "L_E_F_T"),
    "right": ("RIGHT", "RIGHT", "RIGHT", "Right", "R_I_G_H_T"),
}
STORED_AXES = ("RAS", "PIR", "LAS", "LPS", "ASL", "PIL", "SRA")
# A knee's centre in the scanner, to its own side of the body's midline.
CENTRE_MM = (70.0, 95.0)
OBLIQUE_FRACTION = 0.3
OBLIQUE_DEGREES = 8.0


@dataclass(frozen=True)
class PlannedKnee:
    """One scan that is to be made.

    Args:
        patient_index: 0 for the first patient.
        visit_index: 0 for the patient's first visit.
        side: ``left`` or ``right``.
        file_name: The name of the file, in one of the spellings of the real sets.
    """

    patient_index: int
    visit_index: int
    side: str
    file_name: str


def make_phantom(folder: Path, config: PhantomConfig, num_workers: int, console: Console | None = None) -> None:
    """Fill a folder with synthetic knees.

    The same config gives the same bytes, whatever the number of workers. Started again after
    an interruption it keeps the files that are there; with another config it makes all from scratch.
    ``phantom.json`` is written last: where it is, the set is complete.

    Args:
        folder: A folder that holds nothing else; it is made where absent.
        config: The options of the knees.
        num_workers: The number of processes.
        console: The console that shows progress; without it, the standard output.

    Raises:
        UserError: the folder holds files that are no synthetic knees.
    """
    knees = plan_knees(config)
    record: dict[str, Any] = {
        "note": SYNTHETIC_NOTE,
        "num_patients": config.num_patients,
        "num_knees": len(knees),
        "config": flatten(config),
    }
    tasks = {knee.file_name: delayed(write_knee)(folder, config, knee) for knee in knees}
    if config.lesion_fraction > 0:
        tasks[TABLE_NAME] = delayed(write_lesions)(folder, config, knees)
    record["files"] = sorted(tasks)
    fill_folder(folder, record, tasks, num_workers, console)


def fill_folder(
    folder: Path,
    record: dict[str, Any],
    tasks: Mapping[str, Any],
    num_workers: int,
    console: Console | None = None,
) -> None:
    """Make the files of a synthetic set that are not there yet.

    Args:
        folder: A folder that holds nothing else; it is made where absent.
        record: What the set is: ``config``, and ``files``, the names of all files below the folder.
        tasks: The delayed call that writes each file.
        num_workers: The number of processes.
        console: The console that shows progress; without it, the standard output.

    Raises:
        UserError: the folder holds files that are no synthetic knees.
    """
    _clear_other(folder, record)
    missing = [task for name, task in tasks.items() if not (folder / name).exists()]
    if not missing and (folder / COMPLETE_NAME).exists():
        return
    write_json(folder / STARTED_NAME, record)
    (folder / COMPLETE_NAME).unlink(missing_ok=True)
    for half_written in folder.rglob(".*.tmp"):
        half_written.unlink()
    written = Parallel(n_jobs=num_workers, return_as="generator_unordered")(missing)
    for _ in progress(written, "making synthetic knees", len(missing), console or Console()):
        pass
    write_json(folder / COMPLETE_NAME, record)
    (folder / STARTED_NAME).unlink(missing_ok=True)


def plan_knees(config: PhantomConfig) -> list[PlannedKnee]:
    """List the scans, patient by patient; the names take turns in all the spellings."""
    generator = np.random.default_rng(config.seed)
    return [
        PlannedKnee(patient_index, visit_index, side, name_knee(patient_index, visit_index, side))
        for patient_index in range(config.num_patients)
        for visit_index in range(int(generator.integers(1, config.max_visits + 1)))
        for side in SIDES
    ]


def name_knee(patient_index: int, visit_index: int, side: str) -> str:
    """Name a scan as the real sets do: five patients in eight as AKOA, the others as two exports of the OAI.

    Seven digits that begin with zeros belong to no patient: real ones begin with 9.

    Args:
        patient_index: 0 for the first patient, below 99,999.
        visit_index: 0, 1 or 2.
        side: ``left`` or ``right``.
    """
    patient = f"{patient_index + 1:07d}"
    side_index = SIDES.index(side)
    spellings = SIDE_SPELLINGS[side]
    spelled = spellings[(patient_index + 2 * visit_index + side_index) % len(spellings)]
    if patient_index % 8 in (4, 6, 7):
        date = f"{2004 + visit_index}{patient_index % 12 + 1:02d}{patient_index % 28 + 1:02d}"
        bar_code = f"{patient_index + 1:05d}{visit_index}{side_index}"
        if patient_index % 8 == 4:
            return f"{patient}_{date}_SAG_3D_DESS_{side.upper()}_01661{bar_code}.nii.gz"
        suffix = "nii.gz" if patient_index % 8 == 6 else "nii"
        return f"{patient}_{date}_SAG_3D_DESS_{side.upper()}_1{bar_code}_image.{suffix}"
    visit = (("3", "100", "101") if patient_index % 3 == 0 else ("3", "4", "101"))[visit_index]
    gap = "" if (patient_index + visit_index + 2 * side_index) % 4 == 1 else "_"
    return f"OAI{patient}_BaseLine_{visit}{gap}de3d1_SAG_3D_DESS_WE_{spelled}.nii.gz"


def write_knee(folder: Path, config: PhantomConfig, knee: PlannedKnee) -> None:
    """Paint one scan and write it; its random numbers depend on nothing but the config's seed and its own place.

    Args:
        folder: The folder to write into.
        config: The options of the knees.
        knee: The scan to write.
    """
    patient_generator, scan_generator = build_generators(config, knee)
    lesion = plan_lesions(config).get((knee.patient_index, knee.side))
    intensity = paint_knee(config, patient_generator, scan_generator, knee.side, lesion=lesion)
    affine = place_scan(config, knee.side, scan_generator)
    stored_axes = STORED_AXES[scan_generator.integers(len(STORED_AXES))]
    write_volume(folder / knee.file_name, intensity, affine, stored_axes)


def build_generators(config: PhantomConfig, knee: PlannedKnee) -> tuple[np.random.Generator, np.random.Generator]:
    """Return the random number generators of a patient and of one scan, as painting begins with them."""
    # Numbers after the patient's start at 1: numpy takes [seed, patient] and [seed, patient, 0, 0] for one seed.
    scan_seed = (config.seed, knee.patient_index, knee.visit_index + 1, SIDES.index(knee.side) + 1)
    return np.random.default_rng((config.seed, knee.patient_index)), np.random.default_rng(scan_seed)


def write_lesions(folder: Path, config: PhantomConfig, knees: list[PlannedKnee]) -> None:
    """Write the table of the scans and their lesions."""
    scans = [(knee.file_name, knee.patient_index, knee.side, *build_generators(config, knee)) for knee in knees]
    write_lesion_table(folder / TABLE_NAME, config, scans)


def place_scan(config: PhantomConfig, side: str, generator: np.random.Generator) -> Array:
    """Draw the place of a scan in the scanner, some of them a little oblique.

    Args:
        config: The size and number of voxels.
        side: ``left`` or ``right``; a right knee's centre is at positive, a left one's at negative x.
        generator: The random number generator of the place.

    Returns:
        ``(4, 4)``, from voxel indices (right, anterior, superior) to world millimetres.
    """
    centre_mm = np.array([generator.uniform(*CENTRE_MM), generator.uniform(-20, 20), generator.uniform(-40, 40)])
    if side == "left":
        centre_mm[0] *= -1
    is_oblique = generator.uniform() < OBLIQUE_FRACTION
    angles = np.deg2rad(OBLIQUE_DEGREES * generator.uniform(-1, 1, 3)) * is_oblique
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        plane = np.eye(3)
        plane[first, first] = plane[second, second] = np.cos(angle)
        plane[first, second], plane[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ plane
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(config.spacing_mm)
    affine[:3, 3] = centre_mm - affine[:3, :3] @ (np.array(config.shape) - 1) / 2
    return affine


def _clear_other(folder: Path, record: dict[str, Any]) -> None:
    """Remove synthetic knees of another config; refuse a folder with anything else in it."""
    markers = [folder / COMPLETE_NAME, folder / STARTED_NAME]
    found = next((marker for marker in markers if marker.exists()), None)
    if found is None:
        others = sorted(path.name for path in folder.glob("[!.]*"))
        if others:
            raise UserError(
                f"{folder}: found {others[0]!r} and no {COMPLETE_NAME}; synthetic knees go into an empty folder, "
                "never among other data. Name another folder with --data.raw_folder (make: DATA=folder)."
            )
        return
    old = read_json(found)
    if not isinstance(old, dict) or not isinstance(old.get("files"), list):
        raise UserError(f"{found}: not a record of synthetic knees. Delete {folder} and run again.")
    if old.get("config") == record["config"]:
        return
    for name in map(str, old["files"]):
        if ".." not in Path(name).parts and not Path(name).is_absolute():
            (folder / name).unlink(missing_ok=True)
    for marker in markers:
        marker.unlink(missing_ok=True)
