import dataclasses
import json
from pathlib import Path

from perceiver import PerceiverConfig
from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.config.sources import SplitConfig
from pipeline.config.training import TrainConfig
from pipeline.core.serialization import build_record, flatten


def make_experiment() -> Experiment:
    return Experiment(
        name="all",
        workspace=Path("here"),
        preprocess=PreprocessConfig(image_size=(3, 4), spacing_mm=None),
        split=SplitConfig(split_table=Path("splits.csv")),
        model=ModelConfig(perceiver=PerceiverConfig(max_freq=(3.0, 5.0))),
        train=TrainConfig(lr_milestones=(1, 2), max_grad_norm=None),
    )


def test_an_experiment_comes_back_from_json_as_it_was():
    text = json.dumps(dataclasses.asdict(make_experiment()), default=str)
    assert build_record(Experiment, json.loads(text)) == make_experiment()


def test_flat_names_hold_what_json_can():
    flat = flatten(make_experiment())
    assert flat["preprocess.image_size"] == [3, 4]
    assert flat["split.split_table"] == "splits.csv"
    assert flat["model.perceiver.max_freq"] == [3.0, 5.0]
    assert flat["train.max_grad_norm"] is None
    assert json.loads(json.dumps(flat)) == flat
