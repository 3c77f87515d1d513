"""Every config is complete in itself: it parses, its model can be built, its header names its own command."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.cli import parse_experiment
from pipeline.core.data_kinds import POINTS
from pipeline.datasets import DATASETS
from pipeline.models.networks import build_model
from pipeline.stages import STAGES
from pipeline.training.augmentation.images import check_horizontal_flip, check_mirror_tta
from pipeline.training.augmentation.points import check_point_transforms
from tests.builders.models import build_config_spec

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_describes_an_experiment_that_can_be_run(path):
    experiment = parse_experiment("train", ["--config", str(path)])
    assert experiment.name == path.stem
    assert experiment.data.dataset in DATASETS
    spec = build_config_spec(experiment)
    build_model(experiment.model, spec, seed=0)
    if spec.kind is POINTS:
        check_point_transforms(experiment.augment)
        return
    plane = experiment.preprocess.plane
    check_horizontal_flip(experiment.augment, spec.class_names, plane, spec.kind)
    if experiment.model.mirror_tta:
        check_mirror_tta(experiment.augment, spec.class_names, plane, spec.kind)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_reads_the_same_config(stage):
    words = ["--config", str(ROOT / "configs" / "phantom.yaml")]
    assert parse_experiment(stage, words) == parse_experiment("train", words)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_names_the_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    command = next(line for line in header if "make preprocess train evaluate" in line)
    assert path.stem == "phantom" or f"CONFIG=configs/{path.name}" in command
    assert path.stem in ("akoa", "akoa_seed", "phantom") or all(
        any(line.startswith(f"# {word}: ") for line in header) for word in ("Time", "Result")
    )


def test_the_makefile_starts_the_default():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "CONFIG ?= configs/phantom.yaml" in makefile
    for stage in STAGES:
        assert f"$(STAGE) {stage} " in makefile, stage


def test_the_seeds_hyperparameters_are_those_that_it_published():
    seed = yaml.safe_load((Path(__file__).parents[2] / "configs" / "akoa_seed.yaml").read_text())
    model = seed["model"]["perceiver"]
    assert (model["num_latents"], model["latent_dim"], model["num_cross_attends"]) == (512, 512, 6)
    assert (model["num_bands"], model["max_freq"]) == (6, [10.0, 10.0])
    assert (seed["train"]["optimizer"], seed["train"]["learning_rate"], seed["train"]["lr_gamma"]) == (
        "adam",
        2e-4,
        0.995,
    )


def test_published_recipes_are_those_that_were_published():
    read = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS}
    for name, num_looks in (("cifar10_fourier", 4), ("cifar10_learned_permuted", 1)):
        model, train = read[name]["model"]["perceiver"], read[name]["train"]
        assert (model["num_latents"], model["latent_dim"], model["num_cross_attends"]) == (96, 384, num_looks)
        assert (model["self_attends_per_cross"], model["latent_heads"], model["dropout"]) == (4, 3, 0.2)
        assert (train["optimizer"], train["learning_rate"], train["schedule"]) == ("lamb", 4e-3, "multistep")
        assert (train["epochs"], train["batch_size"]) == (120, 64)
    assert read["cifar10_fourier"]["model"]["perceiver"]["num_bands"] == 64
    assert read["cifar10_fourier"]["model"]["perceiver"]["max_freq"] == [32.0, 32.0]
    assert read["cifar10_learned_permuted"]["model"]["pixel_permutation_seed"] == 42
    assert read["cifar10_learned_permuted"]["model"]["perceiver"]["positions"] == "learned"
    study, train = read["cifar10_study"]["model"]["perceiver"], read["cifar10_study"]["train"]
    assert (study["num_latents"], study["latent_dim"]) == (128, 256)
    assert (study["num_cross_attends"], study["self_attends_per_cross"]) == (1, 4)
    assert (train["optimizer"], train["learning_rate"], train["epochs"]) == ("adamw", 3e-4, 10)
    train = read["mnist_io"]["train"]
    assert (train["loss"], train["optimizer"], train["learning_rate"]) == ("mse", "adam", 1e-4)
    assert (train["schedule"], train["lr_gamma"], train["epochs"], train["batch_size"]) == ("exponential", 0.9, 50, 64)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("words", "config"),
    [
        (["mnist"], "mnist"),
        (["cifar10"], "cifar10_best"),
        (["cifar10", "CONFIG=configs/cifar10_study.yaml"], "cifar10_study"),
        (["cifar100"], "cifar100"),
        (["modelnet40"], "modelnet40"),
    ],
)
def test_a_set_of_its_own_has_one_target_for_all_stages(words, config):
    command = ["make", "--silent", "PYTHON=echo python", "DATA=/my data", "SET=--run mine", *words]
    # Options of a make that runs the tests are not this one's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
    ran = [line for line in shown.splitlines() if line.startswith("python -m pipeline")]
    stages = ("fetch", "preprocess", "split", "train", "evaluate")
    options = f"--config configs/{config}.yaml --data.raw_folder /my data --run mine"
    assert ran == [f"python -m pipeline {stage} {options}" for stage in stages]


def test_the_point_clouds_hyperparameters_are_those_that_were_published():
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "modelnet40.yaml").read_text())
    model, train = config["model"]["perceiver"], config["train"]
    assert (model["num_latents"], model["latent_dim"], model["latent_heads"], model["dropout"]) == (128, 512, 8, 0.1)
    assert (model["num_cross_attends"], model["self_attends_per_cross"], model["num_bands"]) == (2, 6, 64)
    assert model["max_freq"] == [2 * 1120.0] * 3  # published is the highest frequency itself
    assert (train["optimizer"], train["learning_rate"], train["schedule"], train["batch_size"]) == (
        "lamb",
        1e-3,
        "multistep",
        8,
    )
    assert config["augment"]["points"] == {"scale_fraction": 0.01}
