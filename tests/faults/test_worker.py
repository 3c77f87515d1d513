"""A worker process that dies is reported in one line, and its scan is made by the next run."""

import os
import subprocess
import sys

import pytest
import yaml

from pipeline.cli import main
from pipeline.data.store import read_store
from tests.builders.tiny_workspace import TINY_CONFIG

# Workers are new interpreters, so they import this; the one that first opens the victim dies there.
SITE = """
import os, signal, sys

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(VICTIM) and "loky" in " ".join(sys.orig_argv):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line_and_the_next_run_makes_the_rest(tmp_path):
    config = TINY_CONFIG | {"preprocess": {**TINY_CONFIG["preprocess"], "num_workers": 2}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    words = ["--config", str(tmp_path / "tiny.yaml"), "--workspace", str(tmp_path)]
    assert main(["fetch", *words]) == 0
    scans = sorted((tmp_path / "data" / "tiny" / "raw").rglob("*.nii*"))
    (tmp_path / "site").mkdir()
    victim = scans[len(scans) // 2].name
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE.replace("VICTIM", repr(victim)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}
    command = [sys.executable, "-m", "pipeline", "preprocess", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: preprocess: a worker process died while slicing")
    assert "Traceback" not in done.stderr
    parts = tmp_path / "data" / "tiny" / "prepared" / "parts"
    assert 0 < len(list(parts.glob("*.npz"))) < len(scans), "what was done is kept"
    assert main(["preprocess", *words]) == 0
    assert len(read_store(parts.parent, verify=True).examples) == 4 * len(scans)
