"""Tiny scans that every test can make, and the marks that skip what a machine lacks."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.volumes import write_volume

# Test processes share the cores; one thread each is quicker than many that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REAL_DATA = Path(os.environ.get("PERCEIVER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    reasons = {
        "slow": None if config.getoption("--slow") else "runs with --slow",
        "real_data": None if REAL_DATA.is_dir() else f"{REAL_DATA} is absent",
        "browser": None if shutil.which("chromium") else "Chromium is absent",
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason is not None and mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_data() -> Path:
    return REAL_DATA


@pytest.fixture
def write_knee() -> Callable[..., Path]:
    """Write a small random knee: no two voxels need be equal, and the affine puts it on its side."""

    def write(
        path: Path,
        side: str = "right",
        seed: int = 0,
        shape: tuple[int, int, int] = (12, 14, 16),
        spacing_mm: tuple[float, float, float] = (4.0, 5.0, 6.0),
        stored_axes: str = "RAS",
        intensity: np.ndarray | None = None,
    ) -> Path:
        if intensity is None:
            intensity = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)
        affine = np.diag([*spacing_mm, 1.0])
        centre = np.array([80.0 if side == "right" else -80.0, 0.0, 0.0])
        affine[:3, 3] = centre - affine[:3, :3] @ (np.array(intensity.shape) - 1) / 2
        write_volume(path, intensity, affine, stored_axes)
        return path

    return write


@pytest.fixture
def write_patients(write_knee) -> Callable[..., Path]:
    """Write a folder of patients with both knees, named as AKOA is."""

    def write(folder: Path, num_patients: int = 8, visits: tuple[int, ...] = (3,)) -> Path:
        for patient in range(num_patients):
            for visit in visits:
                for side in ("LEFT", "RIGHT"):
                    name = f"OAI90000{patient:02d}_BaseLine_{visit}_de3d1_SAG_3D_DESS_WE_{side}.nii.gz"
                    write_knee(folder / name, side.lower(), seed=1000 * patient + 10 * visit + (side == "LEFT"))
        return folder

    return write
