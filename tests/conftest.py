"""Tiny scans that every test can make, and the marks that skip what a machine lacks."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from pipeline.volumes import write_volume

# Test processes share the cores; one thread each is quicker than many that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REAL_DATA = Path(os.environ.get("PERCEIVER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


TINY_CONFIG = {
    "name": "tiny",
    "data": {"dataset": "phantom"},
    "phantom": {"num_patients": 10, "max_visits": 1, "shape": [24, 24, 20], "spacing_mm": [6.0, 6.0, 6.0]},
    "preprocess": {"num_slices": 4, "size": [16, 16], "spacing_mm": 9.0, "num_workers": 1},
    "split": {"val_fraction": 0.2, "test_fraction": 0.3},
    "model": {
        "stem": "patches",
        "patch_size": 4,
        "perceiver": {"num_latents": 4, "latent_dim": 16, "num_cross_attends": 1, "self_attends_per_cross": 1},
    },
    "augment": {"mirror": "swap"},
    "train": {"epochs": 2, "batch_size": 16, "precision": "32-true"},
    "evaluate": {"num_resamples": 200},
}


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    reasons = {
        "slow": None if config.getoption("--slow") else "runs with --slow",
        "real_data": None if REAL_DATA.is_dir() else f"{REAL_DATA} is absent",
        "browser": None if shutil.which("chromium") and shutil.which("chromedriver") else "Chromium is absent",
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


@pytest.fixture(scope="session")
def tiny_workspace(tmp_path_factory) -> Path:
    """A workspace in which all stages ran on a few tiny synthetic knees; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY_CONFIG))
    for stage in ("fetch", "preprocess", "split", "train", "evaluate"):
        assert main([stage, "--config", str(folder / "tiny.yaml"), "--workspace", str(folder)]) == 0, stage
    return folder
