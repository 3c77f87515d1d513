"""The evaluate stage: the scores of a trained model on rows that it was not trained on, and the report."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import warn, working, working_in_parts
from pipeline.core.workspace import join_names
from pipeline.data.batches import read_free_memory
from pipeline.data.certified_data import Answers, load_certified_data
from pipeline.data.store import check_store
from pipeline.datasets import DATASETS
from pipeline.evaluation.evaluation import NUM_PARTS, compute_evaluation
from pipeline.evaluation.schema import EnsembleMember
from pipeline.evaluation.validity.subgroups import read_facts
from pipeline.inference.ensembles import NAME, Member, average_answers, check_members, read_members
from pipeline.inference.splits import score_splits
from pipeline.reporting.comparison.index_page import write_index
from pipeline.reporting.evaluation.notes import describe_unknown_patients, list_console_warnings, summarise_scores
from pipeline.reporting.evaluation.origin_section import describe_ensemble, describe_recipes
from pipeline.reporting.evaluation.page import build_report, write_evaluation
from pipeline.stages.base import exclusive
from pipeline.stages.external import load_external, validate
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import (
    RunFacts,
    describe_external,
    describe_tested,
    flatten_metrics,
    list_own_files,
    name_files,
)
from pipeline.training.checkpoint import Checkpoint, compute_weights_digest
from pipeline.training.devices.arithmetic import SCORING_PRECISION, name_accelerator
from pipeline.training.devices.memory import check_memory, estimate_scoring
from pipeline.training.run_state import TrainedRun, load_trained_run, open_checkpoint


def name_ensemble(experiment: Experiment) -> Experiment:
    """Give an ensemble a report folder of its own; the experiment of a single model stays as it is."""
    if not experiment.evaluate.ensemble:
        return experiment
    return dataclasses.replace(experiment, run=join_names(experiment.run, NAME))


@exclusive(lambda experiment: name_ensemble(experiment).paths.report_folder)
def evaluate(experiment: Experiment, console: Console) -> None:
    """Score the validation and test rows, and those of another site; write predictions, metrics, figures, the report.

    Raises:
        UserError: No trained model, or one that was trained on another store or other splits; an ensemble of which a
            member has seen a test patient; or an external table that does not fit the run.
    """
    experiment = name_ensemble(experiment)
    paths, options = experiment.paths, experiment.evaluate
    with working("reading the store and the model", console):
        opened = _open(experiment)
    run = opened.run
    manifest = run.data.manifest
    scans = manifest[manifest["status"] == "accepted"].set_index("source_id")
    read_facts(scans, options.subgroups)  # what is wrong with the option is said before the rows are scored
    external = load_external(experiment, run, console)
    if run.device.type == "cuda":
        need = estimate_scoring(run.classifier.model, run.checkpoint.spec)
        words = check_memory(need, "evaluate.batch_size", options.batch_size, read_free_memory(run.device))
        console.print(f"memory of a batch: {words}", highlight=False)
    answers = _answer(opened, experiment, console)
    note = DATASETS[experiment.data.dataset].synthetic_note
    with working_in_parts("evaluating", NUM_PARTS, console) as move:
        evaluation = compute_evaluation(run.data, answers, scans, options, note, move)
    if not opened.members:
        with working("validating on the external table", console):
            evaluation = validate(experiment, run, external, evaluation, console)
    if opened.members:
        members = [_describe_member(member) for member in opened.members]
        evaluation.metrics["ensemble"] = {"members": members, "not_fitted": opened.not_fitted}
    num_tried = max(checkpoint.settings.get("train.recipes_tried", 0) for _, checkpoint in opened.models)
    unknown = [
        warning
        for name, checkpoint in opened.models
        for warning in describe_unknown_patients(checkpoint.settings, name)
    ]
    if num_tried > 0:
        evaluation.metrics["recipes_tried"] = num_tried
    digest = "" if opened.members else compute_weights_digest(run.checkpoint.weights)
    evaluation.metrics["weights"] = digest
    evaluation.metrics["store"] = run.data.store.fingerprint
    evaluation.metrics["scoring"] = {"precision": SCORING_PRECISION, "accelerator": name_accelerator(run.device)}
    with working("drawing the figures of the report", console):
        report = build_report(experiment, run, evaluation, manifest, unknown, opened.models)
    check_store(paths.prepared, run.data.store.fingerprint)  # since it was opened, its files did not change
    write_evaluation(paths, evaluation, report)
    write_index(paths.root / "reports")
    with working("sending the records", console), open_run(experiment.tracking, paths) as tracked:
        tracked.keep(
            RunFacts(
                tags=describe_external(evaluation.metrics),
                datasets=describe_tested(experiment, run.data, external),
                metrics=flatten_metrics(evaluation.metrics, run.data.store.kind),
                files=name_files(paths, list_own_files(paths.report_folder), "evaluation"),
                evaluated=digest,
            )
        )
    if "ensemble" in evaluation.metrics:
        console.print(f"  {describe_ensemble(evaluation.metrics['ensemble'])}", highlight=False)
    notes = (*report.baseline_notes, *describe_recipes(num_tried))
    for line in (*summarise_scores(evaluation.metrics, run.data.store.kind), *notes):
        console.print(f"  {line}", highlight=False)
    for warning in (*list_console_warnings(evaluation.metrics, run.data), *unknown):
        warn(console, warning)
    console.print(f"-> {paths.report_folder / 'report.html'}")


@dataclass(frozen=True)
class Opened:
    """The model that is evaluated, or the models of an ensemble.

    Args:
        run: The trained model, of an ensemble the first, and the data.
        members: The models of an ensemble; none for a single model.
        not_fitted: The reason why nothing is fitted on validation; empty where it is.
    """

    run: TrainedRun
    members: Sequence[Member] = ()
    not_fitted: str = ""

    @property
    def models(self) -> list[tuple[str, Checkpoint]]:
        """The name and the checkpoint of each model that answers; a single one has no name."""
        return [(member.name, member.checkpoint) for member in self.members] or [("", self.run.checkpoint)]


def _open(experiment: Experiment) -> Opened:
    """Load the model, or those of an ensemble, and refuse one that has seen a test patient."""
    options, option = experiment.evaluate, "evaluate.ensemble"
    if not options.ensemble:
        return Opened(load_trained_run(experiment, options.checkpoint))
    data = load_certified_data(experiment)
    members = read_members(options.ensemble, experiment.paths, option)
    not_fitted = check_members(members, experiment, data, option)
    first = open_checkpoint(members[0].path, members[0].checkpoint, data, experiment)
    return Opened(first, members, not_fitted)


def _answer(opened: Opened, experiment: Experiment, console: Console) -> Answers:
    """Score the validation and the test rows; members of an ensemble are scored one after the other."""
    batch_size, data = experiment.evaluate.batch_size, opened.run.data
    if not opened.members:
        return score_splits(opened.run, batch_size, console)
    runs = (open_checkpoint(member.path, member.checkpoint, data, experiment) for member in opened.members)
    return average_answers([score_splits(run, batch_size, console) for run in runs], has_val=not opened.not_fitted)


def _describe_member(member: Member) -> EnsembleMember:
    settings = member.checkpoint.settings
    fold = settings.get("split.test_fold") if settings.get("split.num_folds") else None
    return {
        "name": member.name,
        "seed": settings.get("train.seed"),
        "test_fold": fold,
        "epoch": member.checkpoint.epoch,
    }
