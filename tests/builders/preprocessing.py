"""Experiments that preprocess a few scans."""

from pathlib import Path

from rich.console import Console

from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig
from pipeline.stages.preprocess import preprocess

OPTIONS = PreprocessConfig(num_slices=5, image_size=(16, 16), num_workers=1)


def make_experiment(tmp_path, options=OPTIONS, **data):
    return Experiment(
        "knees",
        workspace=tmp_path / "work",
        data=DataConfig(**({"raw_folder": tmp_path / "raw"} | data)),
        preprocess=options,
    )


def run(experiment):
    nowhere = Path("/dev/null").open("w", encoding="utf-8")  # noqa: SIM115
    console = Console(width=200, force_terminal=False, record=True, quiet=False, file=nowhere)
    preprocess(experiment, console)
    return console.export_text()


def snapshot(experiment):
    folder = experiment.paths.prepared
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
