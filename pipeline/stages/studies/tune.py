"""The tune stage: a search for a recipe in a declared space, on validation patients alone."""

from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment, dump_experiment
from pipeline.core.console import working
from pipeline.core.errors import UserError
from pipeline.core.files import write_bytes
from pipeline.core.serialization import flatten
from pipeline.core.text import count_words
from pipeline.core.workspace import Workspace, join_names
from pipeline.data.certified_data import load_certified_data
from pipeline.data.store import check_store
from pipeline.reporting.studies.tuning_page import describe_search, describe_trial, write_search
from pipeline.studies.tuning import SharedSearch, choose_recipe
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import RunFacts, name_files
from pipeline.training.fine_tuning import check_no_start
from pipeline.training.run_state import read_preprocess
from pipeline.training.setup import check_recipe


def choose_folder(experiment: Experiment) -> Path:
    """Return the folder of the search."""
    return experiment.paths.report_folder / "tune"


def tune(experiment: Experiment, console: Console) -> None:
    """Try recipes of ``tune.space`` until the budget is spent, and write the best one as a config.

    Test rows are not read. Several processes that are started with the same options share the search; one that is
    killed loses nothing but the trial that it was at, which another one, or its next start, tries again.

    Raises:
        UserError: A space that cannot be searched, several devices, a teacher, weights of another model, a recipe that
            the data do not allow, or no trial that was completed.
    """
    paths, data, folder = experiment.paths, load_certified_data(experiment), choose_folder(experiment)
    read_preprocess(experiment, data.store)
    num_devices = experiment.train.devices * experiment.train.num_nodes
    if num_devices > 1:
        raise UserError(f"tune: found {num_devices} devices, allowed is one. Start several processes instead.")
    if experiment.train.teacher is not None:
        raise UserError(
            f"tune: found train.teacher {experiment.train.teacher}; trials learn from labels alone. Set it to null, "
            "and give it to the run that is trained from the best recipe."
        )
    check_no_start("tune", experiment)
    is_fixed = experiment.train.input_fraction == 1 and "train.input_fraction" not in experiment.tune.space
    if experiment.model.architecture == "cnn" and not is_fixed:
        raise UserError("tune: train.input_fraction is of the Perceiver. Leave it at 1 for model.architecture cnn.")
    check_recipe(experiment, data.store)
    shared = SharedSearch(experiment, data, folder)
    found = shared.read()
    if found.num_tried > 0:
        console.print(f"{count_words(found.num_tried, 'recipe')} tried before; resuming.", highlight=False)
    search = shared.run(lambda trial: console.print(f"  {describe_trial(trial)}", highlight=False))
    check_store(paths.prepared, data.store.fingerprint)
    if search.best is None:
        reasons = [trial.reason for trial in search.trials if trial.state == "refused"]
        advice = f"The first that was refused: {reasons[0]}" if reasons else "Raise tune.minutes."
        raise UserError(f"tune: none of {count_words(len(search.trials), 'trial')} was completed. {advice}")
    recipe = choose_recipe(experiment, search)
    with shared.lock:
        write_bytes(folder / "best.yaml", dump_experiment(recipe).encode())
        write_search(folder, experiment, data, search)
        name = Workspace(paths.root, paths.name, join_names(paths.run, "tune"))
        sent = working("sending the records", console)
        with sent, open_run(experiment.tracking, name, folder / "mlflow.json") as tracked:
            numbers = {"recipes_tried": search.num_tried, "seconds": search.seconds}
            numbers |= {
                "best_val_loss": search.best.val_loss or 0.0,
                "best_val_accuracy": search.best.val_accuracy or 0.0,
            }
            files = [folder / "best.yaml", *folder.glob("tune.*")]
            tracked.keep(RunFacts(flatten(experiment.tune, "tune"), metrics=numbers, files=name_files(paths, files)))
    for sentence in describe_search(search, experiment, data):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {folder / 'tune.html'}, {folder / 'best.yaml'}")
