"""The split stage: the assignment of patients to splits, and the leak certificate."""

from pathlib import Path

import pandas as pd
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.copies.certificate import certify, list_absent
from pipeline.core.console import warn, warn_all, working
from pipeline.core.errors import UserError
from pipeline.core.files import write_checksummed_json
from pipeline.core.tables import MANIFEST_COLUMNS, OFFICIAL_SPLIT_COLUMNS, SPLIT_COLUMNS, read_table, write_table
from pipeline.core.text import count_labels, count_words, make_printable, plural
from pipeline.data.label_tables import describe_class_folders
from pipeline.data.leak_certificate import (
    check_certificate,
    describe_findings,
    fingerprint_splits,
    has_pairs,
    read_certificate,
)
from pipeline.data.splits import assign_official_splits, assign_splits, read_given_splits
from pipeline.data.store import Store, read_store
from pipeline.stages.base import exclusive

# More labels than these are counted, not listed.
MAX_LISTED_LABELS = 12


@exclusive(lambda experiment: experiment.paths.data)
def split(experiment: Experiment, console: Console) -> None:
    """Split the patients, or the training rows of a published set; write the table and its certificate.

    Raises:
        UserError: Too few patients, a table that does not fit, a leak, or other splits than finished runs were
            trained on.
    """
    paths = experiment.paths
    store = read_store(paths.prepared, verify=True)
    has_published_test = not store.kind.has_patients
    if has_published_test:
        official = read_table(paths.official_splits, OFFICIAL_SPLIT_COLUMNS)
        splits = assign_official_splits(store.index, official, experiment.split)
    else:
        published = read_published_splits(paths.manifest)
        splits = assign_splits(store.index, experiment.split, published)
    if experiment.split.split_table is not None:
        warn_all(console, read_given_splits(experiment.split.split_table).notes)
    absent = list_absent(store, experiment.split.accept_copies)
    if absent:
        warn(
            console,
            f"split.accept_copies: {count_words(len(absent), store.kind.source)} "
            f"{'is' if len(absent) == 1 else 'are'} not in this data: {make_printable(', '.join(absent[:3]))}"
            f"{', …' if len(absent) > 3 else ''}. Such pairs accept nothing.",
        )
    if _is_done(experiment, store, splits):
        check_certificate(paths.certificate, store, splits)
        console.print(f"{paths.splits} and its certificate are up to date; nothing to do.")
        return
    _keep_trained_splits(experiment, store, splits)
    with working("searching for copies", console):
        certificate = certify(store, splits, experiment.split.accept_copies, has_published_test)
    paths.copies_page.unlink(missing_ok=True)
    if has_pairs(certificate):
        # Drawing loads matplotlib, which takes a second that most runs need not wait.
        from pipeline.reporting.copies_page import write_copies

        certificate["page"] = paths.copies_page.name
        write_copies(paths.copies_page, store.as_slices(), certificate)
    write_table(paths.splits, splits, SPLIT_COLUMNS)
    write_checksummed_json(paths.certificate, dict(certificate))
    kind = store.kind
    for name, count in certificate["splits"].items():
        labels = count_labels(count["sources_by_label"])
        if len(count["sources_by_label"]) > MAX_LISTED_LABELS:
            labels = f"{len(count['sources_by_label'])} labels"
        patients, scans, examples = count["patients"], count["sources"], count["examples"]
        if not kind.has_patients:
            console.print(f"  {name:5s} {count_words(examples, kind.example)} ({labels})", highlight=False)
        else:
            console.print(
                f"  {name:5s} {patients:5d} patients {scans:5d} {plural(kind.source)} ({labels})"
                + (f" {examples:6d} {plural(kind.example)}" if kind.has_slices else ""),
                highlight=False,
            )
    unknown = describe_class_folders(paths.manifest)
    if unknown:
        warn(console, unknown)
    for warning in describe_findings(certificate):
        warn(console, f"{warning} Listed in {paths.certificate}.")
    if certificate["page"]:
        console.print(f"Pairs of {plural(kind.source)}, side by side -> {paths.copies_page}", highlight=False)
    check_certificate(paths.certificate, store, splits)
    kept_apart = f"No {kind.group} and no {kind.example}" if kind.has_patients else f"No {kind.group}"
    console.print(f"{kept_apart} is in two splits -> {paths.splits}, {paths.certificate.name}")


def read_published_splits(manifest: Path) -> dict[str, str]:
    """Return the published split of each patient, as the table of labels had it; nothing where it had none."""
    if not manifest.is_file():  # not every store has one
        return {}
    rows = read_table(manifest, MANIFEST_COLUMNS)
    rows = rows[(rows["status"] == "accepted") & (rows["published_split"] != "")]
    return dict(zip(rows["group_id"], rows["published_split"], strict=True))


def _keep_trained_splits(experiment: Experiment, store: Store, splits: pd.DataFrame) -> None:
    """Refuse to replace splits that finished runs were trained on: they could not be evaluated any more."""
    paths = experiment.paths
    if not paths.splits.is_file():
        return
    try:
        before = fingerprint_splits(read_table(paths.splits, SPLIT_COLUMNS))
    except UserError:  # damaged: no run can use it
        return
    if before == fingerprint_splits(splits):
        return
    # It loads torch, which splitting does without.
    from pipeline.training.run_state import list_finished_runs

    runs = list_finished_runs(paths, store.fingerprint, before)
    if runs:
        some = ", ".join(runs[:3]) + (", …" if len(runs) > 3 else "")
        raise UserError(
            f"{paths.splits}: the options give other splits than those of {some}, which would be replaced, and "
            f"{'it' if len(runs) == 1 else 'they'} could not be evaluated again. Give the experiment another name "
            f"(--name), set the options back, or delete {paths.run_folder}."
        )


def _is_done(experiment: Experiment, store: Store, splits: pd.DataFrame) -> bool:
    """Return whether the table and a certificate for it, made with these options, are there already."""
    paths = experiment.paths
    if not (paths.splits.is_file() and paths.certificate.is_file()):
        return False
    try:
        certificate = read_certificate(paths.certificate)
        found = fingerprint_splits(read_table(paths.splits, SPLIT_COLUMNS))
    except UserError:  # damaged, or of an earlier version: both are made again
        return False
    page = certificate["page"]
    made_for = (
        certificate["store_fingerprint"],
        certificate["splits_fingerprint"],
        certificate["copies"]["accept"],
        not page or paths.copies_page.with_name(page).is_file(),
    )
    fingerprint = fingerprint_splits(splits)
    accept = [list(pair) for pair in experiment.split.accept_copies]
    return made_for == (store.fingerprint, fingerprint, accept, True) and found == fingerprint
