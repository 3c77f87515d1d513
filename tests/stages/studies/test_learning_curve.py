"""The learning curve from end to end, and after an interruption."""

import dataclasses
import io
import json
import re

import mlflow
import pandas as pd
import pytest
from rich.console import Console

from pipeline.config.model import CnnConfig
from pipeline.config.studies import LearningCurveConfig
from pipeline.config.tracking import TrackingConfig
from pipeline.core.errors import UserError
from pipeline.data.certified_data import load_certified_data
from pipeline.stages.studies.learning_curve import choose_folder, learning_curve
from pipeline.studies.learning_curve import plan_curve
from tests.builders.scan_runs import make_scans
from tests.builders.training_runs import Cut, make_experiment, with_train

OPTIONS = LearningCurveConfig(patients=(2, 4), draws=2, wanted=0.9)


def make_study(folder, **changes):
    experiment = make_experiment(folder, **changes)
    small = dataclasses.replace(experiment.model, cnn=CnnConfig(channels=(4,)))
    return with_train(dataclasses.replace(experiment, model=small), epochs=2)


def run(experiment, file=None):
    file = io.StringIO() if file is None else file
    learning_curve(experiment, Console(file=file, width=200))
    return file.getvalue()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A study that was interrupted after five of its twelve models, and then started again; and its second output."""
    folder = tmp_path_factory.mktemp("curve")
    experiment = make_study(folder, learning_curve=OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, Cut("logistic_regression-2-draw-1"))
    before = {path.name: path.stat().st_mtime_ns for path in choose_folder(experiment).glob("runs/*.json")}
    output = run(experiment)
    kept = {name: (choose_folder(experiment) / "runs" / name).stat().st_mtime_ns for name in before}
    return experiment, before, kept, output


def read_content(experiment):
    return json.loads((choose_folder(experiment) / "learning_curve.json").read_text())


def test_a_study_that_was_interrupted_trains_what_is_missing(interrupted):
    experiment, before, kept, output = interrupted
    assert len(before) == 6, "the one whose line was cut had been written"
    assert kept == before
    assert len([line for line in output.splitlines() if re.search(r"-draw-\d: accuracy", line)]) == 6
    assert "-draw-" not in run(experiment), "nothing is trained twice"


def test_numbers_are_those_of_the_predictions(interrupted):
    experiment, *_ = interrupted
    folder, content = choose_folder(experiment), read_content(experiment)
    table = pd.read_csv(folder / "learning_curve_draws.csv")
    assert len(table) == 12
    assert set(table.loc[table["model"] != "logistic_regression", "num_steps"]) == {2 * 3}
    for row in table.itertuples():
        predictions = pd.read_csv(folder / "runs" / f"{row.model}-{row.size}-draw-{row.draw}.csv", dtype=str)
        assert row.accuracy == pytest.approx((predictions["label"] == predictions["predicted"]).mean())
        assert row.n == len(predictions) == 16
    for point in content["points"]:
        drawn = table[(table["model"] == point["model"]) & (table["size"] == point["size"])]
        assert point["over_draws"]["value"] == pytest.approx(drawn["accuracy"].mean())
    for comparison in content["comparisons"]:
        found = table[table["size"] == comparison["size"]].pivot(index="draw", columns="model", values="accuracy")
        assert comparison["differences"] == pytest.approx((found["perceiver"] - found["cnn"]).tolist())
    page = (folder / "learning_curve.html").read_text()
    for sentence in content["sentences"]:
        assert sentence in page
    assert len([sentence for sentence in content["sentences"] if "power law" in sentence]) == 1, "not one a model"
    assert "Exponent" not in page, "two sizes are too few for a fit"
    assert (folder / "learning_curve.svg").read_bytes().startswith(b"<?xml")
    assert not (experiment.paths.run_folder).exists(), "no checkpoint is where other stages read"


@pytest.mark.slow
def test_another_seed_is_another_training_and_each_record_names_its_own(tmp_path):
    options = LearningCurveConfig(patients=(2,), draws=2, models=("cnn", "logistic_regression"), wanted=0.9)
    first = with_train(make_study(tmp_path / "twice", learning_curve=options), epochs=1)
    again = with_train(first, seed=700)
    alone = dataclasses.replace(again, workspace=make_study(tmp_path / "once").workspace)
    run(first)
    output = run(again)
    run(alone)
    assert re.findall(r"(\w+-2-draw-\d): accuracy", output) == ["cnn-2-draw-0", "cnn-2-draw-1"], "pixels have no seed"
    pixels = again.evaluate.seed
    assert [record["seed"] for record in read_content(again)["runs"]] == [700, pixels, 701, pixels]
    for number in range(2):
        found, wanted = (choose_folder(one) / "runs" / f"cnn-2-draw-{number}.csv" for one in (again, alone))
        assert found.read_bytes() == wanted.read_bytes()
    page = (choose_folder(again) / "learning_curve.html").read_text()
    assert re.search(r"seeds of training\W.*?700, 701<", page, re.DOTALL)


@pytest.mark.parametrize(
    ("model", "whose"), [("perceiver", ""), ("distilled", "of its teacher ")], ids=["by itself", "its teacher"]
)
def test_a_loss_that_is_nan_names_the_model_and_no_checkpoint(tmp_path, model, whose):
    options = LearningCurveConfig(patients=(2,), draws=1, models=("logistic_regression", model))
    experiment = with_train(make_study(tmp_path, learning_curve=options), learning_rate=1e30)
    with pytest.raises(UserError) as error:
        run(experiment)
    message = str(error.value)
    assert message.startswith(f"learning-curve, {model}-2-draw-0: {whose}the loss became ")
    assert ". Lower train.learning_rate (now 1e+30), " in message
    assert "checkpoint" not in message


@pytest.mark.slow
def test_mlflow_shows_the_models_below_one_parent(tmp_path):
    options = dataclasses.replace(OPTIONS, models=("perceiver", "logistic_regression"), draws=1)
    experiment = make_study(tmp_path, learning_curve=options, tracking=TrackingConfig(system_metrics=False))
    run(experiment)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = client.get_experiment_by_name("tiny").experiment_id
    (parent,) = client.search_runs([found], "attributes.run_name = 'learning_curve'")
    children = client.search_runs([found], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {child.info.run_name for child in children} == {
        f"learning_curve-{model}-{size}-draw-0" for model in options.models for size in (2, 4)
    }
    point = read_content(experiment)["points"][0]
    assert parent.data.metrics["perceiver_2_accuracy"] == pytest.approx(point["over_draws"]["value"])


def test_a_curve_of_whole_scans_has_every_model_and_refuses_features_of_their_teacher(tmp_path):
    models = ("perceiver", "distilled", "cnn", "logistic_regression")
    options = LearningCurveConfig(patients=(2,), draws=1, models=models)
    experiment = make_scans(tmp_path, epochs=1, guidance_weight=0.0)
    small = dataclasses.replace(experiment.model, cnn=CnnConfig(channels=(2, 3)))
    experiment = dataclasses.replace(experiment, model=small, learning_curve=options)
    lines = run(experiment).splitlines()
    assert all(any(f"{model}-2-draw-0: accuracy" in line for line in lines) for model in models)
    with pytest.raises(UserError, match=r"train\.guidance_weight: found 1\.0, allowed is 0"):
        run(with_train(experiment, guidance_weight=1.0))
    with pytest.raises(UserError, match=r"train\.compile: found 'graphs', allowed is default or none for a 3-D cnn"):
        plan_curve(load_certified_data(experiment), with_train(experiment, compile="graphs"))
