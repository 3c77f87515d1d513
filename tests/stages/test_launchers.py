"""Training on two processes, started as a user starts it: by the stage itself, torchrun and srun's variables."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml

from pipeline.cli import main
from pipeline.core.files import read_json
from pipeline.core.locks import lock_folder
from tests.builders.tiny_workspace import TINY_CONFIG

STEM = {"stem": "conv", "num_conv_layers": 2, "conv_channels": 8, "perceiver": TINY_CONFIG["model"]["perceiver"]}


def make_words(workspace: Path, *options: str) -> list[str]:
    return [
        "--config",
        str(workspace / "tiny.yaml"),
        "--workspace",
        str(workspace),
        "--train.accelerator",
        "cpu",
        *options,
    ]


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("divided")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY_CONFIG | {"model": STEM}))
    for stage in ("fetch", "preprocess", "split"):
        assert main([stage, "--config", str(folder / "tiny.yaml"), "--workspace", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def alone(divided) -> Path:
    workspace = Path(shutil.copytree(divided, divided.with_name("alone")))
    assert main(["train", *make_words(workspace)]) == 0
    return workspace


def read_numbers(workspace: Path) -> pd.DataFrame:
    return pd.read_csv(workspace / "runs/tiny/history.csv").drop(columns=["images_per_second", "seconds"])


def find_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(words: list[str], workspace: Path, **variables: str) -> subprocess.Popen:
    repository = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(
        [sys.executable, "-m", *words], cwd=workspace, env=environment, stdout=subprocess.PIPE, text=True
    )


def launch(launcher: str, workspace: Path) -> list[subprocess.Popen]:
    stage = ["pipeline", "train"]
    two_here = make_words(workspace, "--train.devices", "2")
    one_each = make_words(workspace, "--train.num_nodes", "2")
    if launcher == "stage":
        return [start([*stage, *two_here], workspace)]
    if launcher == "torchrun":
        return [start(["torch.distributed.run", "--nproc_per_node", "2", "-m", *stage, *two_here], workspace)]
    port = find_port()
    if launcher == "torchrun on two machines":
        words = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1"]
        return [
            start([*words, "--master_port", port, "--node_rank", node, "-m", *stage, *one_each], workspace)
            for node in "01"
        ]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "knees", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"}
    slurm |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start([*stage, *one_each], workspace, **slurm, SLURM_PROCID=task, SLURM_NODEID=task) for task in "01"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["stage", "torchrun", "torchrun on two machines", "srun"])
def test_two_processes_train_as_one_however_they_are_started(launcher, divided, alone, tmp_path):
    workspace = Path(shutil.copytree(divided, tmp_path / "here"))
    processes = launch(launcher, workspace)
    printed = "".join(process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [0] * len(processes)
    assert "2 x cpu" in printed
    assert printed.count("epoch 2/2") == 1, "one process speaks"
    # float32 sums in another order
    pd.testing.assert_frame_equal(read_numbers(workspace), read_numbers(alone), rtol=1e-4, atol=1e-6)
    record = read_json(workspace / "runs/tiny/training.json")
    assert record["world_size"] == 2

    client = mlflow.MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    runs = [run.info.run_id for run in client.search_runs(["1"])]
    assert runs == [record["tracking_run"]], "one process talks to MLflow"
    assert len(client.get_metric_history(runs[0], "val_loss")) == 2


@pytest.mark.slow
def test_a_folder_in_use_ends_both_processes_with_one_exit_code(divided, tmp_path):
    workspace = Path(shutil.copytree(divided, tmp_path / "here"))
    with lock_folder(workspace / "runs/tiny"):
        (process,) = launch("stage", workspace)
        process.communicate(timeout=300)
    assert process.returncode == 2
