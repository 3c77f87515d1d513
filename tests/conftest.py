"""Tiny scans that every test can make, and the marks that skip what a machine lacks."""

import functools
import gc
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from pipeline.core.workspace import Workspace
from pipeline.formats.nifti import write_volume
from pipeline.tracking.mlflow_database import connect
from tests.builders.built_once import build_once
from tests.builders.field_cases import CASES
from tests.builders.published_sets import draw_digits, to_idx
from tests.builders.tiny_workspace import TINY_CONFIG

# Test processes share the cores; one thread each is quicker than many that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REAL_DATA = Path(os.environ.get("PERCEIVER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

# A process of tests holds the modules of all libraries: looking through them for garbage was a tenth of its time.
gc.set_threshold(20_000, 20, 20)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take seconds to minutes each")


def pytest_collection_modifyitems(config, items):
    reasons = {
        "slow": None if config.getoption("--slow") else "runs with --slow",
        "real_data": None if REAL_DATA.is_dir() else f"{REAL_DATA} is absent",
        "field_cases": None if CASES.is_dir() else f"{CASES} is absent",
        "browser": None if shutil.which("chromium") and shutil.which("chromedriver") else "Chromium is absent",
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason is not None and mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_data() -> Path:
    return REAL_DATA


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window, driven by selenium."""
    from selenium import webdriver  # only tests marked browser need it

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    profile = tmp_path_factory.mktemp("profile")
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", f"user-data-dir={profile}"):
        options.add_argument(f"--{word}")
    options.add_argument("--window-size=1600,1400")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
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
def write_mnist() -> Callable[..., Path]:
    """Write a part of a set in MNIST's format."""

    def write(folder: Path, num_train: int = 60, num_test: int = 20, compress: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for prefix, number, seed in (("train", num_train, 0), ("t10k", num_test, 1)):
            images, labels = draw_digits(number, seed)
            for name, values in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
                path = folder / (f"{name}.gz" if compress else name)
                path.write_bytes(gzip.compress(to_idx(values)) if compress else to_idx(values))
        return folder

    return write


@pytest.fixture(scope="session")
def write_cifar() -> Callable[..., Path]:
    """Write a part of a set in the format of CIFAR-10 or CIFAR-100, binary version."""

    def write(folder: Path, num_classes: int = 10, num_train: int = 60, num_test: int = 20) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(num_classes)
        is_small = num_classes == 10
        for split, number in (("train", num_train), ("test", num_test)):
            labels = np.arange(number) % num_classes
            images = generator.integers(0, 256, (number, 3 * 32 * 32))
            columns = (labels[:, None], images) if is_small else (labels[:, None] % 20, labels[:, None], images)
            records = np.concatenate(columns, axis=1).astype(np.uint8)
            names = {"train": [f"data_batch_{batch}.bin" for batch in range(1, 6)], "test": ["test_batch.bin"]}
            names = names if is_small else {"train": ["train.bin"], "test": ["test.bin"]}
            for name, part in zip(names[split], np.array_split(records, len(names[split])), strict=True):
                (folder / name).write_bytes(part.tobytes())
        meta = "batches.meta.txt" if is_small else "fine_label_names.txt"
        (folder / meta).write_text("".join(f"class_{label}\n" for label in range(num_classes)) + "\n")
        return folder

    return write


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, worker_id) -> Path:
    """The folder of this test run that all its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


def build_tiny_workspace(database: Path, folder: Path) -> None:
    shutil.copyfile(database, folder / "mlflow.db")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY_CONFIG))
    for stage in ("fetch", "preprocess", "split", "train", "evaluate"):
        assert main([stage, "--config", str(folder / "tiny.yaml"), "--workspace", str(folder)]) == 0, stage


@pytest.fixture(scope="session")
def tiny_workspace(shared_folder, empty_tracking_database, tmp_path_factory) -> Path:
    """A workspace in which all stages ran on a few tiny synthetic knees; tests read it and leave it as it is.

    Each process has its own copy: a stage that reads it may hold its locks.
    """
    build = functools.partial(build_tiny_workspace, empty_tracking_database)
    built = build_once(shared_folder / "built_tiny", build)
    return Path(shutil.copytree(built, tmp_path_factory.mktemp("tiny") / "workspace"))


def build_tracking_database(folder: Path) -> None:
    connect(f"sqlite:///{folder / 'mlflow.db'}", Workspace(folder, "none"))


@pytest.fixture(scope="session")
def empty_tracking_database(shared_folder) -> Path:
    """An MLflow database without a run, to be copied: making its tables takes three seconds."""
    return build_once(shared_folder / "built_tracking", build_tracking_database) / "mlflow.db"


@pytest.fixture(scope="session")
def tracking_uri(empty_tracking_database, tmp_path_factory) -> str:
    """An MLflow database that all tests of a process write into."""
    return f"sqlite:///{shutil.copy(empty_tracking_database, tmp_path_factory.mktemp('tracking') / 'mlflow.db')}"
