"""The page and the tables of the leak study, and the sentences that interpret its numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.experiment import Experiment
from pipeline.core.files import write_bytes, write_json
from pipeline.core.provenance import read_commit, read_versions
from pipeline.core.tables import write_table
from pipeline.core.text import plural
from pipeline.data.store import Store
from pipeline.datasets import DATASETS
from pipeline.evaluation.schema import Estimate
from pipeline.reporting.elements import Figure, Section, Table, tabulate_facts
from pipeline.reporting.figures.intervals import labelled_accuracies
from pipeline.reporting.formatting import show_percent_briefly
from pipeline.reporting.html import write_page
from pipeline.studies.leak_study import LeakOutcome, LeakStudy, list_rows
from pipeline.studies.leaky_splits import LABELLINGS

# The units that are split, in the plural; with left and right as labels a side of a patient is one knee.
UNITS = {
    "slice": "slices",
    "image": "images",
    "volume": "scans",
    "side": "patients and labels",
    "patient": "patients",
}

MEMORISATION = (
    "Everything that prevents memorisation is off: augmentation, dropout, weight decay, label smoothing. So are the "
    "flip that exchanges labels and test-time augmentation, because a flipped image has no other shuffled label. The "
    "weights after the last step are evaluated; nothing is selected on validation or test."
)

Accuracies = Mapping[str, Estimate]  # by the unit that was split


def name_units_in_words(unit: str, class_names: Sequence[str]) -> str:
    """Return the words for a unit that is split, in the plural."""
    return "knees" if unit == "side" and tuple(class_names) == ("left", "right") else UNITS[unit]


def describe_method(units: Sequence[str]) -> tuple[str, ...]:
    """Describe how the study was made.

    Args:
        units: The units that were split, from slices or images to patients.
    """
    example, examples = units[0], UNITS[units[0]]
    sources = "images" if example == "image" else "scans"
    ways = {"volume": "by scan", "side": f"by the {sources} of a patient that have the same label (one knee)"}
    listed = ", ".join([ways.get(example, "by " + example), *(ways[unit] for unit in units[1:-1])])
    number = {2: "two", 3: "three", 4: "four"}[len(units)]
    return (
        f"One model, one recipe and the same number of steps for all; {number} ways to split, by the same fractions: "
        f"{listed}, and by patient. With shuffled labels each patient has one label for all {examples}, drawn at "
        "random, independent of what they show: only a model that was trained on the patient can know it. The splits "
        "with patients on both sides exist for this study only; the train stage never reads them.",
        MEMORISATION,
    )


def list_split_units(outcomes: Sequence[LeakOutcome]) -> tuple[str, ...]:
    """Return the units that were split, from the one that leaks most to patients."""
    return tuple(dict.fromkeys(outcome.unit for outcome in outcomes))


def describe_outcomes(outcomes: Sequence[LeakOutcome], class_names: Sequence[str]) -> list[str]:
    """Describe the results of the study, and their limits.

    Args:
        outcomes: The accuracy for each way to split and each kind of labels.
        class_names: All classes.
    """
    chance = 1 / len(class_names)
    words = {unit: name_units_in_words(unit, class_names) for unit in list_split_units(outcomes)}
    true, shuffled = (
        {outcome.unit: outcome.accuracy for outcome in outcomes if outcome.labels == labelling}
        for labelling in LABELLINGS
    )
    return [
        _describe_shuffled(shuffled, words, chance),
        *_describe_leaks(shuffled, words, chance),
        _describe_patients(shuffled["patient"], chance),
        _describe_true(true, words),
    ]


def _describe_shuffled(shuffled: Accuracies, words: Mapping[str, str], chance: float) -> str:
    listed = [f"{show_percent_briefly(shuffled[unit])} where {words[unit]} were split" for unit in words]
    return (
        "With labels that were shuffled between patients, and so carry no information, the model is right for "
        f"{', '.join(listed[:-1])}, and {listed[-1]}; chance is {100 * chance:.0f}\u00a0%. In brackets are 95\u00a0% "
        "intervals over patients."
    )


def _describe_leaks(shuffled: Accuracies, words: Mapping[str, str], chance: float) -> list[str]:
    """Describe the splits with patients on both sides: those that score above chance, and those that do not."""
    lows = {unit: shuffled[unit]["low"] for unit in list(words)[:-1]}
    leaky = [words[unit] for unit, low in lows.items() if low is not None and low > chance]
    quiet = [words[unit] for unit in lows if words[unit] not in leaky]
    sentences = []
    if leaky:
        sentences.append(
            f"Where {_join(leaky)} were split, the model can only have recognised patients that it was trained on: a "
            "score from such a split also rewards memorisation."
        )
    if quiet:
        sentences.append(
            f"Where {_join(quiet)} were split, no score above chance is shown with this recipe; the split is not clean "
            "for that, because its patients are on both sides."
        )
    return sentences


def _describe_patients(shuffled: Estimate, chance: float) -> str:
    low, high = shuffled["low"], shuffled["high"]
    if low is None or high is None:
        return "There is no interval for the split of patients, so nothing is concluded about it."
    if low <= chance <= high:
        return "Where patients were split, chance lies in the interval: no help of memorisation is shown there."
    return (
        f"Where patients were split, the interval lies {'above' if low > chance else 'below'} chance, which happens by "
        "luck for one clean split in forty; with other seeds (leak_study.seeds) it should contain chance."
    )


def _describe_true(true: Accuracies, words: Mapping[str, str]) -> str:
    listed = ", ".join(f"{words[unit]} {show_percent_briefly(true[unit])}" for unit in words)
    finest = next(iter(words))
    by_example, by_patient = true[finest]["value"], true["patient"]["value"]
    assert by_example is not None
    assert by_patient is not None
    gap = f"{100 * (by_example - by_patient):+.1f}"
    relation = f"a score {gap[1:]} points {'above' if gap[0] == '+' else 'below'} that"
    if float(gap) == 0:
        relation = "the same score as that"
    return (
        f"With true labels and the same recipe: {listed}. A split of {words[finest]} gives {relation} of a "
        "split of patients."
    )


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def tabulate_outcomes(outcomes: Sequence[LeakOutcome], class_names: Sequence[str]) -> Table:
    """Return the table of the page: a row for each way to split, true labels next to shuffled ones."""
    by_key = {(outcome.unit, outcome.labels): outcome for outcome in outcomes}
    rows, units = [], list_split_units(outcomes)
    for unit in units:
        true, shuffled = (by_key[unit, labelling] for labelling in LABELLINGS)
        texts = [show_percent_briefly(outcome.accuracy) for outcome in (true, shuffled)]
        rows.append((name_units_in_words(unit, class_names), *texts, f"{true.n:,}", f"{true.groups:,}"))
    num_seeds = outcomes[0].seeds
    return Table(
        caption=f"Accuracy on test {UNITS[units[0]]}",
        columns=("Split by", "True labels", "Shuffled labels", f"Test {UNITS[units[0]]}", "Patients"),
        rows=tuple(rows),
        note="In brackets: 95\u00a0% intervals over patients."
        + (f" Over {num_seeds} {plural('seed', num_seeds)} together." if num_seeds > 1 else ""),
    )


def write_leak_study(folder: Path, experiment: Experiment, store: Store, study: LeakStudy) -> None:
    """Write ``leak_study.json``, ``.csv``, ``.svg`` and ``.html``.

    Args:
        folder: The folder to write to.
        experiment: All options.
        store: The slices or images.
        study: The results of the study.
    """
    names, outcomes = store.class_names, study.outcomes
    units = list_split_units(outcomes)
    sentences = describe_outcomes(outcomes, names)
    chance = 1 / len(names)
    by_key = {(outcome.unit, outcome.labels): outcome.accuracy for outcome in outcomes}
    drawn = [(name_units_in_words(name, names), by_key[name, "true"], by_key[name, "shuffled"]) for name in units]
    svg = labelled_accuracies(drawn, chance)
    note = DATASETS[experiment.data.dataset].synthetic_note
    content: dict[str, Any] = {"synthetic_note": note, "class_names": list(names)}
    content |= {"chance": chance, "seeds": experiment.leak_study.seeds}
    content |= {"outcomes": list_rows(outcomes), "sentences": sentences}
    content |= {"runs": study.records, "settings": study.settings}
    content |= {"commit": read_commit(), "hardware": _list_hardware(study), "versions": read_versions()}
    write_json(folder / "leak_study.json", content)
    flat = pd.json_normalize(list_rows(outcomes))
    flat = flat.rename(columns=lambda name: name.removeprefix("accuracy.")).rename(columns={"value": "accuracy"})
    write_table(folder / "leak_study.csv", flat, tuple(flat))
    write_bytes(folder / "leak_study.svg", svg)
    text = "Dots with their 95\u00a0% intervals over patients; the dashed line is chance."
    figure = Figure("leak_study", "Accuracy by way to split", text, svg)
    facts = _list_facts(experiment, store, study)
    write_page(
        folder / "leak_study.html",
        "study.html",
        title=f"{experiment.paths.title}: leak study",
        synthetic_note=note,
        sentences=sentences,
        sections=[
            Section("Results", tables=(tabulate_outcomes(outcomes, names),), figures=(figure,)),
            Section("Method", describe_method(units), (tabulate_facts("How to get these numbers again", facts),)),
        ],
    )


def _list_hardware(study: LeakStudy) -> str:
    """List the hardware of all models, each once; those that an earlier version trained have none in their records."""
    return "; ".join(dict.fromkeys(record.get("hardware", "hardware not recorded") for record in study.records))


def _list_facts(experiment: Experiment, store: Store, study: LeakStudy) -> dict[str, str]:
    first = study.records[0]
    seconds = sum(record["seconds"] for record in study.records)
    facts = {
        "models": len(study.records),
        f"training {plural(store.kind.example)} of each": f"{first['num_train']:,}",
        "steps of each": f"{first['num_steps']:,}",
        "seeds": ", ".join(map(str, experiment.leak_study.seeds)),
        "time of training and evaluation": f"{seconds / 60:.1f} minutes, {_list_hardware(study)}",
        "fingerprint of the store": store.fingerprint,
        "commit": read_commit(),
    }
    return {name: str(value) for name, value in (facts | study.settings).items()}
