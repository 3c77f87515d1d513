"""The wheel works from an empty folder, and the quickstart leads to a report."""

import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from tests.builders.page_reader import PageReader

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_runs_a_config_that_came_along_from_an_empty_folder(tmp_path):
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", str(tmp_path / "built"), str(ROOT)], check=True)
    (built,) = (tmp_path / "built").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(built)], check=True)
    # What it needs is there already; of this project nothing but the wheel is on the path.
    needed = next(path for path in map(Path, sys.path) if (path / "torch").is_dir())
    (tmp_path / "empty").mkdir()
    (tmp_path / "needed.pth").write_text(f"{needed}\n")
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "needed.pth").write_text(f"{needed}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for words in (["--version"], ["fetch", "--config", "phantom", "--phantom.num_patients", "2"]):
        command = [str(tmp_path / "venv" / "bin" / "perceiver"), *words]
        done = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    place = subprocess.run(
        [str(python), "-c", "import pipeline; print(pipeline.__file__)"],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(place.stdout.strip()).is_relative_to(tmp_path / "venv")
    assert list((tmp_path / "empty" / "data" / "phantom" / "raw").rglob("*.nii.gz"))


def write_labelled_images(folder):
    """200 images of 100 patients: a bright disc on the left or on the right."""
    rows = ["path,patient,label"]
    (folder / "images").mkdir(parents=True)
    for number in range(200):
        patient, label = number // 2, ("left", "right")[number % 2]
        values = np.random.default_rng(number).integers(0, 120, (24, 24), dtype=np.uint8)
        values[8:16, slice(2, 10) if label == "left" else slice(14, 22)] += 120
        Image.fromarray(values).save(folder / "images" / f"{patient:04d}_{label}.png")
        rows.append(f"images/{patient:04d}_{label}.png,{patient:04d},{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_the_quickstart_leads_from_200_images_to_a_report_in_three_commands(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    commands = re.findall(r"^    ((?:perceiver|xdg-open) .*)$", page, re.MULTILINE)[:3]
    write_labelled_images(tmp_path / "knees")
    monkeypatch.chdir(tmp_path)
    init, run, opened = map(shlex.split, commands)
    assert main(init[1:]) == 0
    shown = capsys.readouterr().out
    transcript = re.search(r"^    \$ perceiver init .*\n((?:    .*\n)+)", page, re.MULTILINE)[1]
    assert [line.strip() for line in transcript.splitlines()] == shown.splitlines()
    quick = ["--train.epochs", "2", "--evaluate.num_bootstrap_resamples", "100", "--tracking.enabled", "false"]
    assert main([*run[1:], *quick]) == 0
    assert opened[0] == "xdg-open"
    assert PageReader(Path(opened[1]).read_text("utf-8")).order
