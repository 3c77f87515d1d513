"""Scans cut by a cluster's workers are those that this machine cuts, or one line has the reason."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig
from pipeline.core.errors import UserError
from pipeline.data.store import read_store
from pipeline.preprocessing import dask_jobs as cluster
from pipeline.preprocessing.dask_jobs import describe_program, refuse_differences
from pipeline.preprocessing.parts import check_written
from pipeline.stages.preprocess import preprocess
from pipeline.training.run_state import read_preprocess
from tests.faults.cluster import ROOT, find_address, start_cluster

# In a worker's Python: notes who opens a scan; at the victim it dies, once or always, or ends the scheduler.
SITE = """
import os, signal, sys

def watch(event, arguments):
    name = str(arguments[0]) if event == "open" else ""
    if not name.endswith(".nii.gz"):
        return
    with open(FOLDER + "/opened", "a") as file:
        file.write(f"{os.getpid()}\\n")
    if VICTIM in name and os.path.exists(FOLDER + "/once"):
        os.unlink(FOLDER + "/once")
        os.kill(os.getpid(), signal.SIGKILL)
    if VICTIM in name and os.path.exists(FOLDER + "/always"):
        os.kill(os.getpid(), signal.SIGKILL)
    if VICTIM in name and os.path.exists(FOLDER + "/scheduler"):
        os.kill(int(open(FOLDER + "/scheduler").read()), signal.SIGKILL)

sys.addaudithook(watch)
"""
VICTIM = "OAI9000001_BaseLine_3_de3d1_SAG_3D_DESS_WE_LEFT"


def make_experiment(workspace: Path, scheduler: str | None, **options) -> Experiment:
    options = {"num_slices": 5, "image_size": (16, 16), "num_workers": 1, "dask_scheduler": scheduler} | options
    return Experiment(
        "knees",
        workspace=workspace,
        data=DataConfig(raw_folder=workspace / "raw"),
        preprocess=PreprocessConfig(**options),
    )


def run(experiment: Experiment) -> str:
    console = Console(width=200, record=True, quiet=False, file=Path(os.devnull).open("w"))  # noqa: SIM115
    preprocess(experiment, console)
    return console.export_text()


def describe(experiment: Experiment) -> dict[str, object]:
    """All files and their bytes."""
    found: dict[str, object] = {}
    for path in experiment.paths.prepared.rglob("*"):
        if path.is_file() and path.name != ".lock":
            found[path.relative_to(experiment.paths.prepared).as_posix()] = path.read_bytes()
    return found


@pytest.fixture
def alone(write_patients, tmp_path, monkeypatch):
    """The parts that this machine makes of six scans and a broken one, and the jobs for others; paths are relative."""
    monkeypatch.chdir(tmp_path)
    workspace = Path("work")
    write_patients(workspace / "raw", num_patients=3)
    (workspace / "raw" / "OAI9000009_BaseLine_3_de3d1_SAG_3D_DESS_WE_LEFT.nii.gz").write_bytes(b"no")
    options = {"skip_refused": True, "export_png": True}
    experiment = make_experiment(workspace, None, **options)
    run(experiment)
    expected = describe(experiment)
    shutil.rmtree(workspace / "data")
    return expected, lambda address: make_experiment(workspace, address, **options)


def put_site(folder: Path) -> Path:
    (folder / "site").mkdir()
    text = SITE.replace("VICTIM", repr(VICTIM)).replace("FOLDER", repr(str(folder)))
    (folder / "site" / "sitecustomize.py").write_text(text)
    return folder / "site"


@pytest.mark.slow
def test_two_workers_make_the_bytes_of_this_machine_though_one_is_killed_on_the_way(alone, tmp_path):
    expected, make = alone
    (tmp_path / "once").touch()
    with start_cluster(tmp_path.parent, 2, (put_site(tmp_path), ROOT)) as two:
        assert "6 scans of 3 patients" in run(make(two.address))
        assert [process.poll() for process in two.processes].count(-9) == 1, "one worker died"
    assert describe(make(None)) == expected
    assert "nothing to do" in run(make(None)), "where the work ran changes nothing"
    store = read_store(make(None).paths.prepared, verify=True)
    assert read_preprocess(make(two.address), store) == make(None).preprocess, "nor a checkpoint"


@pytest.mark.slow
def test_two_workers_divide_the_work_and_make_the_bytes_of_this_machine(alone, tmp_path):
    expected, make = alone
    with start_cluster(tmp_path.parent, 2, (put_site(tmp_path), ROOT)) as two:
        run(make(two.address))
        workers = {str(process.pid) for process in two.processes[1:]}
    assert set((tmp_path / "opened").read_text().split()) == workers
    assert describe(make(None)) == expected


@pytest.mark.slow
def test_a_scan_that_ends_every_worker_is_named(alone, tmp_path):
    _, make = alone
    (tmp_path / "always").touch()
    with start_cluster(tmp_path, 5, (put_site(tmp_path), ROOT)) as five:
        with pytest.raises(UserError, match=rf"{VICTIM}\.nii\.gz ended every worker that took it"):
            run(make(five.address))
        (tmp_path / "always").unlink()
        assert "need no work" in run(make(five.address)), "what was done is kept"


@pytest.mark.slow
def test_a_cluster_whose_last_worker_died_and_one_without_any_are_not_waited_for(alone, tmp_path, monkeypatch):
    _, make = alone
    monkeypatch.setattr(cluster, "PATIENCE_S", 3)
    (tmp_path / "once").touch()
    with start_cluster(tmp_path, 1, (put_site(tmp_path), ROOT)) as one:
        for _ in range(2):
            with pytest.raises(UserError, match=f"the dask scheduler at {one.address} has no worker"):
                run(make(one.address))


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_line_and_what_was_done_is_kept(alone, tmp_path):
    _, make = alone
    with start_cluster(tmp_path, 1, (put_site(tmp_path), ROOT)) as one:
        (tmp_path / "scheduler").write_text(str(one.processes[0].pid))
        with pytest.raises(UserError, match=f"the dask scheduler at {one.address} went away"):
            run(make(one.address))
    assert "need no work" in run(make(None))


@pytest.mark.slow
def test_a_worker_without_this_program_or_with_another_version_is_refused(alone, tmp_path):
    _, make = alone
    shutil.copytree(ROOT / "pipeline", tmp_path / "changed" / "pipeline")
    with (tmp_path / "changed" / "pipeline" / "preprocessing" / "slicing.py").open("a") as file:
        file.write("# changed\n")
    for path, complaint in (((), "a worker lacks this program"), ((tmp_path / "changed",), "has this program")):
        with start_cluster(tmp_path, 1, path) as one, pytest.raises(UserError, match=complaint):
            run(make(one.address))


def test_what_differs_between_two_machines_is_named(tmp_path):
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(b"1234")
    refuse_differences("tcp://a:1", describe_program(), {str(file): 4})
    for name in describe_program():
        with pytest.raises(UserError, match=f"the worker tcp://a:1 has {name} .*, the stage 0.1. Install the same"):
            refuse_differences("tcp://a:1", describe_program() | {name: "0.1"}, {})
    for size, path in ((5, file), (4, tmp_path / "absent")):
        with pytest.raises(UserError, match=f"does not see the stage's files in {tmp_path}. Share the folder"):
            refuse_differences("tcp://a:1", describe_program(), {str(path): size})


def test_a_part_that_is_not_seen_here_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", 1)
    check_written([tmp_path / "a.npz"])
    with pytest.raises(UserError, match=r"b\.npz: written by a worker, but not seen here"):
        check_written([tmp_path / "a.npz", tmp_path / "b.npz"])


def test_a_scheduler_that_does_not_answer_is_one_line(alone, monkeypatch):
    _, make = alone
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT_S", 1)
    address = find_address()
    with pytest.raises(UserError, match=f"no dask scheduler answers at {address}"):
        run(make(address))
    with pytest.raises(UserError, match="no complete example store"):
        read_store(make(None).paths.prepared)


def test_a_machine_without_dask_is_refused_with_the_package_to_install(alone, monkeypatch):
    _, make = alone
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package dask, .*pip install 'dask\[distributed\]'"):
        run(make("tcp://127.0.0.1:8786"))


@pytest.mark.parametrize("address", ["host:8786", "http://host:8786", "tcp://host"])
def test_an_address_without_its_parts_is_refused(address):
    with pytest.raises(UserError, match=r"preprocess\.dask_scheduler: .*tcp://host:8786"):
        PreprocessConfig(dask_scheduler=address)
