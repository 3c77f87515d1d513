"""The search for a recipe: a declared space, shared by processes, in which no trial is lost or repeated."""

import dataclasses
import io
import json
import multiprocessing
import signal
import typing

import pytest
from rich.console import Console

from pipeline.cli import parse_experiment
from pipeline.config.experiment import Experiment
from pipeline.config.options import describe_type
from pipeline.config.parsing import OPTIONS
from pipeline.config.studies import TuneConfig
from pipeline.config.training import PretrainConfig
from pipeline.core.errors import UserError
from pipeline.data.certified_data import load_certified_data
from pipeline.reporting.evaluation.origin_section import describe_recipes
from pipeline.stages.studies.tune import choose_folder, tune
from pipeline.studies import tuning
from pipeline.studies.tuning import Choices, Range, SharedSearch, apply_params, read_space
from tests.builders.training_runs import make_experiment, with_train

SPACE = {"train.learning_rate": (1e-4, 1e-1, "log"), "model.perceiver.num_latents": (2, 4)}
FINISHED = ("complete", "ended", "diverged")


def with_tune(experiment, **options):
    return dataclasses.replace(experiment, tune=TuneConfig(**({"space": SPACE, "trials": 3} | options)))


@pytest.fixture
def experiment(tmp_path):
    return with_train(make_experiment(tmp_path), epochs=2)


def test_a_space_has_choices_and_ranges():
    space = {
        "train.learning_rate": ("1e-4", 0.1, "log"),
        "train.batch_size": (4, 32, "linear"),
        "model.stem": ("pixels", "conv"),
    }
    assert read_space(with_tune(Experiment(), space=space)) == {
        "train.learning_rate": Range(1e-4, 0.1, is_log=True, is_whole=False),
        "train.batch_size": Range(4, 32, is_log=False, is_whole=True),
        "model.stem": Choices(("pixels", "conv")),
    }


@pytest.mark.parametrize(
    ("space", "match"),
    [
        ({}, "found {}, allowed are options"),
        ({"train.learning_rat": (1, 2)}, "unknown option; the nearest is train.learning_rate"),
        ({"split.seed": (1, 2)}, "split.seed is not searched"),
        ({"train.seed": (1, 2)}, "train.seed is not searched"),
        ({"train.learning_rate": (0.1, 0.01, "log")}, "a lower and a higher number"),
        ({"train.learning_rate": (0.0, 0.01, "log")}, "above 0 where the scale is log"),
        ({"train.learning_rate": ("low", 0.01, "log")}, r"allowed is \[LOW, HIGH, log\]"),
        ({"train.batch_size": (4,)}, "two choices or more"),
        ({"train.batch_size": (4, 4)}, "each once"),
        ({"train.batch_size": (4, 8.5)}, "allowed is a whole number"),
        ({"model.stem": ("pixels", "pixel")}, r"allowed is pixels \| patches \| conv"),
        ({"train.learning_rate": (-1.0, 0.1, "linear")}, "train.learning_rate: found -1.0"),
        ({"train.learning_rate": ("nan", 0.1)}, "found 'nan', allowed is a finite number"),
        ({"train.learning_rate": (0.1, "inf", "log")}, r"found \[0.1, 'inf', 'log'\], allowed is \[LOW, HIGH, log\]"),
        ({"train.learning_rate": (True, 0.1)}, "found True, allowed is a finite number"),
        ({"train.batch_size": (4.5, 8.7, "linear")}, r"allowed is \[LOW, HIGH, linear\].*whole numbers"),
        ({"train.max_grad_norm": ("none", 1.0)}, "found 'none', allowed is a finite number"),
        ({"model.pixel_permutation_seed": ("a", "b")}, "found 'a', allowed is a whole number"),
        ({"train.max_grad_norm": (None, 1.0, "log")}, r"allowed is \[LOW, HIGH, log\]"),
        ({"train.batch_size": (None, 4)}, "found None, allowed is a whole number"),
        ({"model.slice_position": ("yes", "no")}, "found 'yes', allowed is true or false"),
        ({"model.stem": (1, 2, "log")}, "allowed are choices; it is no number"),
        ({"model.stem": (1, 2)}, r"found 1, allowed is pixels \| patches \| conv"),
        ({"train.betas": (0.9, 0.95)}, r"train.betas is not searched: its value is \[number, number\]"),
        ({"train.lr_milestones": (5, 10)}, r"train.lr_milestones is not searched: its value is \[whole number, ...\]"),
        ({"augment.random_erasing_area": (0.1, 0.2)}, "augment.random_erasing_area is not searched"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space, match):
    with pytest.raises(UserError, match=match):
        read_space(with_tune(Experiment(), space=space))


def test_a_number_that_may_be_null_is_searched_as_a_number():
    space = {"train.max_grad_norm": ("1e-1", 1.0), "model.pixel_permutation_seed": (1, 2)}
    assert read_space(with_tune(Experiment(), space=space)) == {
        "train.max_grad_norm": Choices((0.1, 1.0)),
        "model.pixel_permutation_seed": Choices((1, 2)),
    }
    space = {"train.max_grad_norm": (None, "1e-1")}
    assert read_space(with_tune(Experiment(), space=space)) == {"train.max_grad_norm": Choices((None, 0.1))}
    space = {"train.max_grad_norm": ("1e-1", 1, "log"), "model.perceiver.decoder_dim": (8, 32, "linear")}
    assert read_space(with_tune(Experiment(), space=space)) == {
        "train.max_grad_norm": Range(0.1, 1.0, is_log=True, is_whole=False),
        "model.perceiver.decoder_dim": Range(8, 32, is_log=False, is_whole=True),
    }


SEARCHED = [name for name in OPTIONS if name.startswith(tuning.SECTIONS) and name not in tuning.FIXED]
LISTS = ((0.1, 0.2), (1, 2), ("1e-1", 0.5), ("a", "b"), (True, False), (None, 1), ((1, 2), (3, 4)), ({}, 1), (0.1, 1))


@pytest.mark.parametrize("name", SEARCHED)
def test_values_of_every_option_are_of_its_type_or_refused_in_one_line(name):
    num_taken, hint = 0, OPTIONS[name].annotation
    for values in (
        *LISTS,
        *((*values, scale) for values in LISTS for scale in ("log", "linear")),
        OPTIONS[name].choices,
    ):
        found = read_or_refuse(name, values)
        if isinstance(found, str):
            assert name.rpartition(".")[2] in found
            assert "\n" not in found
            continue
        num_taken += 1
        if isinstance(found, Choices):
            assert all(is_of_type(hint, value) for value in found.values), (values, found)
    is_list = "[" in describe_type(hint)
    assert (num_taken == 0) == is_list, "only lists are not searched"


def read_or_refuse(name, values):
    """Return what is searched of an option, or the message that refuses the values."""
    try:
        return read_space(with_tune(Experiment(), space={name: values}))[name]
    except UserError as error:
        return str(error)


def is_of_type(hint, value) -> bool:
    """Return whether a value is one of a type, without a change."""
    arguments = typing.get_args(hint) or (hint,)
    return value in arguments if isinstance(value, str) else value is None or type(value) in arguments


def test_options_of_nested_sections_are_replaced():
    experiment = Experiment()
    changed = apply_params(experiment, {"model.perceiver.num_latents": 7, "train.learning_rate": 0.5})
    assert (changed.model.perceiver.num_latents, changed.train.learning_rate) == (7, 0.5)
    assert changed.augment == experiment.augment


@pytest.mark.parametrize("weights", [(0.0, 0.5), (0.0, 0.5, "linear"), (0.5, 0.0)])
def test_what_some_trials_alone_read_makes_another_search(experiment, weights):
    data, folder = load_certified_data(experiment), choose_folder(experiment)

    def name_search(space, **changes):
        return SharedSearch(dataclasses.replace(with_tune(experiment, space=space), **changes), data, folder).name

    others = (PretrainConfig(mask_fraction=0.25), PretrainConfig(patch_size=2), PretrainConfig())
    for space in ({"train.auxiliary_weight": weights}, SPACE | {"train.auxiliary_weight": weights}):
        names = [name_search(space, pretrain=options) for options in others]
        assert len(set(names)) == 3
        assert name_search(space, train=with_train(experiment, auxiliary_weight=0.5).train) == names[2]
    assert len({name_search(SPACE, pretrain=options) for options in others}) == 1, "no trial reads them"


def test_another_seed_is_another_search_and_a_larger_budget_is_not(experiment):
    data, folder = load_certified_data(experiment), choose_folder(experiment)
    changes = ({}, {"trials": 9}, {"minutes": 1.0}, {"seed": 1})
    names = [SharedSearch(with_tune(experiment, **change), data, folder).name for change in changes]
    assert names[0] == names[1] == names[2] != names[3]


def search(experiment):
    console = Console(file=io.StringIO(), width=200)
    tune(experiment, console)
    return console.file.getvalue(), json.loads((choose_folder(experiment) / "tune.json").read_text())


def test_the_best_recipe_is_a_config_that_states_how_many_were_tried(experiment):
    data = load_certified_data(experiment)
    experiment = with_tune(experiment)
    output, content = search(experiment)
    assert "3 recipes tried" in output
    finished = [trial for trial in content["trials"] if trial["state"] in FINISHED]
    best = min((trial for trial in finished if trial["state"] == "complete"), key=lambda trial: trial["val_loss"])
    recipe = parse_experiment("train", ["--config", str(choose_folder(experiment) / "best.yaml")])
    assert recipe.train.recipes_tried == 3
    assert recipe.train.learning_rate == best["params"]["train.learning_rate"]
    assert recipe.model.perceiver.num_latents == best["params"]["model.perceiver.num_latents"]
    assert "3 recipes" in describe_recipes(recipe.train.recipes_tried)[0]
    assert describe_recipes(0) == []
    # Started again, nothing is tried again; with a larger budget the search resumes.
    assert search(experiment)[1]["trials"] == content["trials"]
    more = search(with_tune(experiment, trials=4))[1]
    assert more["trials"][: len(content["trials"])] == content["trials"]
    assert more["recipes_tried"] == 4
    assert data.roles == load_certified_data(experiment).roles


@pytest.mark.parametrize(
    ("name", "values"), [("model.perceiver.num_latents", (2, 4)), ("train.max_grad_norm", (None, 1.0))]
)
def test_a_small_space_is_tried_once_and_then_the_search_ends(experiment, name, values):
    content = search(with_tune(experiment, space={name: values}, trials=9))[1]
    tried = [trial["params"][name] for trial in content["trials"] if trial["state"] in FINISHED]
    assert sorted(tried, key=str) == sorted(values, key=str)


def test_no_trial_of_a_killed_process_is_lost_or_repeated(experiment):
    """A process is killed in the middle of a trial; the next start tries this recipe again, and no other."""
    experiment = with_tune(experiment, trials=1000)
    data, folder = load_certified_data(experiment), choose_folder(experiment)

    context = multiprocessing.get_context("fork")
    has_ended = context.Event()

    def work():
        SharedSearch(experiment, data, folder).run(lambda trial: has_ended.set())

    process = context.Process(target=work)
    process.start()
    assert has_ended.wait(60), "the first trial"
    watcher = SharedSearch(experiment, data, folder)
    while not any(trial.state == "running" and trial.number > 0 for trial in watcher.read().trials):
        assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = watcher.read()
    (killed,) = (trial for trial in before.trials if trial.state == "running")
    shared = SharedSearch(with_tune(experiment, trials=before.num_tried + 2), data, folder)
    after = shared.run(lambda trial: None)
    assert after.num_tried == before.num_tried + 2
    assert after.trials[killed.number].state == "failed"
    assert after.trials[: killed.number] == before.trials[: killed.number]
    recipes = [tuple(sorted(trial.params.items())) for trial in after.trials if trial.state in FINISHED]
    assert len(set(recipes)) == len(recipes)
    assert recipes.count(tuple(sorted(killed.params.items()))) == (1 if killed.params else 0)


def test_a_living_process_keeps_its_trial(experiment):
    data, folder = load_certified_data(experiment), choose_folder(experiment)
    first, second = (SharedSearch(with_tune(experiment), data, folder) for _ in range(2))
    with first.join():
        trial = first._ask()
        assert second._ask().params != trial.params
        assert second.read().trials[trial.number].state == "running"
    assert second._ask().params == trial.params, "its lock is gone, so that its recipe comes next"
    assert second.read().trials[trial.number].state == "failed"


# The crops of one of these cannot be made of images of 8 pixels.
WITH_REFUSED = {"augment.crop_padding": (0, 8), "train.learning_rate": (1e-3, 1e-2)}


def test_a_refused_trial_is_kept_with_its_reason_and_the_search_continues(experiment):
    experiment = with_tune(experiment, space=WITH_REFUSED, trials=4)
    output, content = search(experiment)
    by_state = {}
    for trial in content["trials"]:
        by_state.setdefault(trial["state"], []).append(trial)
    assert {trial["params"]["augment.crop_padding"] for trial in by_state["refused"]} == {8}
    reasons = {trial["reason"] for trial in by_state["refused"]}
    assert len(reasons) == 1
    assert next(iter(reasons)).startswith("augment.crop_padding: found 8, but images of 8 x 8 pixels")
    tried = [trial for trial in content["trials"] if trial["state"] in FINISHED]
    assert [trial["params"]["augment.crop_padding"] for trial in tried] == [0, 0], "the space has no other"
    assert content["recipes_tried"] == 2, "a refused recipe was not compared"
    assert all(trial["reason"] == "" for trial in tried)
    assert f"refused: {reasons.pop()}" in output
    assert f"Not counted: {len(by_state['refused'])} refused recipe" in output
    page = (choose_folder(experiment) / "tune.html").read_text()
    assert "refused: augment.crop_padding: found 8" in page
    recipes = [tuple(trial["params"].items()) for trial in (*tried, *by_state["refused"])]
    assert len(set(recipes)) == len(recipes) > 2, "none is tried twice, refused or not"
    again = [trial for trial in search(experiment)[1]["trials"] if trial["state"] != "repeated"]
    assert again == [trial for trial in content["trials"] if trial["state"] != "repeated"]


def test_a_search_in_which_every_trial_is_refused_ends_with_the_reason(experiment):
    space = {"augment.crop_padding": (8, 9), "train.learning_rate": (1e-4, 1e-1, "log")}
    experiment = with_tune(experiment, space=space, trials=1000)
    for _ in range(2):  # started again, it ends likewise
        with pytest.raises(UserError, match=r"none of 30 trials was completed.*augment\.crop_padding: found [89], but"):
            search(experiment)


@pytest.mark.parametrize("word", ["refused", "diverged"])
def test_a_process_that_dies_while_it_writes_how_a_trial_ended_leaves_the_recipe_to_be_tried(experiment, word):
    data, folder = load_certified_data(experiment), choose_folder(experiment)
    first, second = (SharedSearch(with_tune(experiment), data, folder) for _ in range(2))
    with first.join():
        trial = first._ask()
        trial.set_user_attr("reason", "no crops")
        trial.set_user_attr("state", word)
        assert second.read().trials[trial.number].state == "running"
    assert second._ask().params == trial.params
    killed = second.read().trials[trial.number]
    assert (killed.state, killed.reason, second.read().num_tried) == ("failed", "", 0)


def test_devices_that_are_not_there_are_no_fault_of_a_recipe(experiment, monkeypatch):
    def refuse(config):
        raise UserError("train.accelerator: found gpu, but there is none")

    shared = SharedSearch(with_tune(experiment), load_certified_data(experiment), choose_folder(experiment))
    monkeypatch.setattr("pipeline.studies.tuning.build_fabric", refuse)
    with pytest.raises(UserError, match="there is none"):
        shared.run(lambda trial: None)
    assert shared.read().trials == ()
