"""Every config is complete in itself: it parses, its model can be built, its header names its own command."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline.augment import check_mirror, check_swap
from pipeline.cli import parse_experiment
from pipeline.datasets import DATASETS
from pipeline.models import build_model
from pipeline.stages import STAGES

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_describes_an_experiment_that_can_be_run(path):
    for stage in STAGES:
        experiment = parse_experiment(stage, ["--config", str(path)])
    assert experiment.name == path.stem
    assert experiment.data.dataset in DATASETS
    classes = ("left", "right")
    check_mirror(experiment.augment, classes, experiment.preprocess.plane)
    if experiment.model.mirror_average:
        check_swap("model.mirror_average", "false", classes, experiment.preprocess.plane)
    build_model(
        experiment.model,
        num_channels=1,
        image_size=experiment.preprocess.size,
        num_classes=2,
        num_slices=experiment.preprocess.num_slices,
        seed=0,
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_names_the_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    command = next(line for line in header if "make preprocess train evaluate" in line)
    assert path.stem == "phantom" or f"CONFIG=configs/{path.name}" in command


def test_the_makefile_starts_the_default():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    assert "CONFIG ?= configs/phantom.yaml" in makefile
    for stage in STAGES:
        assert f"$(STAGE) {stage} " in makefile, stage


def test_the_seeds_hyperparameters_are_those_that_it_published():
    seed = yaml.safe_load((Path(__file__).parents[1] / "configs" / "akoa_seed.yaml").read_text())
    model = seed["model"]["perceiver"]
    assert (model["num_latents"], model["latent_dim"], model["num_cross_attends"]) == (512, 512, 6)
    assert (model["num_bands"], model["max_freq"]) == (6, [10.0, 10.0])
    assert (seed["train"]["optimizer"], seed["train"]["learning_rate"], seed["train"]["gamma"]) == ("adam", 2e-4, 0.995)


def test_the_readme_names_only_targets_and_configs_that_exist():
    root = Path(__file__).parents[1]
    readme, makefile = (root / "README.md").read_text(), (root / "Makefile").read_text()
    targets = {line.split(":")[0] for line in makefile.splitlines() if ":" in line and " ## " in line}
    for line in readme.splitlines():
        for command in re.findall(r"(?:^    |`)make ([^`]*)", line):
            bare = re.sub(r'"[^"]*"', "", command.split("#")[0])
            words = [word for word in bare.split() if re.fullmatch("[a-z]+", word)]
            assert set(words) <= targets, line
    for name in re.findall(r"configs/(\w+)\.yaml", readme):
        assert name == "mine" or (root / "configs" / f"{name}.yaml").is_file(), name
