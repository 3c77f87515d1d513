"""External validation in the evaluate stage: a finished run on labelled data of another site, nothing refitted.

The result stays in metrics.json until it no longer belongs to the run: an evaluation without the option keeps it where
weights and options are those that it was made with, and removes it, with a warning, where they are not.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import pandas as pd
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.copies.external import refuse_shared_scans
from pipeline.core.console import warn, warn_all, working
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.tables import MANIFEST_COLUMNS, read_table
from pipeline.data.external_data import ExternalData, match_classes, read_external_table
from pipeline.data.store import check_field_of_view, read_store
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.schema import External, NotEvaluated
from pipeline.evaluation.validity.external import (
    add_external,
    compute_external,
    fingerprint_validation,
    read_external_facts,
    tabulate_predictions,
)
from pipeline.inference.splits import score_external
from pipeline.preprocessing.preparation import Preparation
from pipeline.preprocessing.volumes import plan_listing
from pipeline.training.run_state import TrainedRun
from pipeline.training.seen_patients import SAME, START_PATIENTS, TEACHER_PATIENTS


def load_external(experiment: Experiment, run: TrainedRun, console: Console) -> ExternalData | None:
    """Read the table of another site and cut its scans as those of training were; None without such a table.

    Raises:
        UserError: an ensemble is evaluated, the table does not fit the run, a patient or a scan of it is in the run, a
            whole scan reaches beyond the model's field of view, or a file is refused and ``preprocess.skip_refused`` is
            false.
    """
    path = experiment.evaluate.external
    if path is None:
        return None
    if experiment.evaluate.ensemble:
        raise UserError(
            "evaluate.external: an ensemble is not validated on data of another site. Validate its members one by one, "
            "without evaluate.ensemble."
        )
    table = read_external_table(path, experiment.data, run.data.store, run.data.roles)
    here = experiment.preprocess
    options = dataclasses.replace(
        run.checkpoint.preprocess, num_workers=here.num_workers, skip_refused=here.skip_refused, export_png=False
    )
    console.print(f"external validation on {path}", highlight=False)
    preparation = plan_listing(table.listing, table.folder, experiment.paths.external, options)
    warn_all(console, preparation.notes)
    _prepare(preparation, console)
    preparation.report(console)
    store = match_classes(read_store(preparation.folder, verify=True), run.data.store, path)
    if store.places_mm is not None:
        check_field_of_view(str(path), store, run.checkpoint.spec.field_of_view_mm)
    manifest = read_table(preparation.folder / "manifest.csv", MANIFEST_COLUMNS)
    external = ExternalData(table, store, manifest)
    read_external_facts(external, experiment.evaluate)  # what is wrong with the option is said before rows are scored
    with working("searching scans of the run among the external ones", console):
        return dataclasses.replace(external, search=refuse_shared_scans(run.data, external))


def _prepare(preparation: Preparation, console: Console) -> None:
    """Write the store of the external scans, unless it is there from an earlier evaluation."""
    record = preparation.folder / "complete.json"
    if record.is_file() and read_json(record).get("plan") == preparation.plan:
        return
    record.unlink(missing_ok=True)
    (preparation.folder / "store.json").unlink(missing_ok=True)
    if preparation.build(console):
        write_json(record, {"plan": preparation.plan})


def validate(
    experiment: Experiment, run: TrainedRun, external: ExternalData | None, evaluation: Evaluation, console: Console
) -> Evaluation:
    """Add the external validation to an evaluation: of the table, or the earlier one where it still belongs to the run.

    Args:
        experiment: All options.
        run: The trained model and its data.
        external: The data of the other site; None without the option.
        evaluation: The evaluation of the test rows.
        console: The place of warnings.
    """
    paths, options = experiment.paths, experiment.evaluate
    made_from = fingerprint_validation(options.checkpoint or paths.best_checkpoint, options)
    if external is None:
        return _keep_earlier(experiment, made_from, evaluation, console)
    rows = tabulate_predictions(external, score_external(run, external.store, options.batch_size))
    predictions = pd.concat([evaluation.predictions, rows], ignore_index=True)
    not_compared = list_not_compared(run.checkpoint.settings)
    content = compute_external(run.data, external, predictions, options, made_from, not_compared)
    return add_external(evaluation, content, rows)


def list_not_compared(settings: Mapping[str, Any]) -> list[NotEvaluated]:
    """List whom a model learned from beyond its own splits: no patient of them can be looked for in a table.

    Args:
        settings: The settings of its training.
    """
    reason = "a checkpoint has no names of patients, and these are not, or not all, in the splits of this run"
    return [
        NotEvaluated(question=f"Patients of this table among those whom {weights} learned from", reason=reason)
        for name, weights in ((TEACHER_PATIENTS, "the teacher"), (START_PATIENTS, "the initial weights"))
        if settings.get(name, SAME) != SAME
    ]


def _keep_earlier(experiment: Experiment, made_from: str, evaluation: Evaluation, console: Console) -> Evaluation:
    paths = experiment.paths
    content = read_json(paths.metrics) if paths.metrics.is_file() else None
    earlier = content.get("external") if isinstance(content, dict) else None
    if not isinstance(earlier, dict):
        return evaluation
    if earlier.get("made_from") == made_from and paths.external_predictions.is_file():
        console.print(f"The external validation on {earlier['table']} is kept.", highlight=False)
        return add_external(evaluation, cast(External, earlier))
    warn(
        console,
        f"the external validation on {earlier.get('table')} was made with other weights or options of evaluate, and is "
        "removed. --evaluate.external TABLE makes it again.",
    )
    return evaluation
