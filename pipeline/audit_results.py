"""What the leak demonstration found: numbers, and the sentences that say what they mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.audit_divisions import DIVISIONS, LABELLINGS
from pipeline.kinds import plural
from pipeline.metrics import compute_level
from pipeline.sections import Table
from pipeline.wording import show_share

# What is divided, in the plural; with left and right as labels a side of a patient is one knee.
UNITS = {"slice": "slices", "volume": "scans", "side": "patients and labels", "patient": "patients"}


def name_units_in_words(division: str, class_names: Sequence[str]) -> str:
    """Return what a division deals out, in the plural."""
    return "knees" if division == "side" and tuple(class_names) == ("left", "right") else UNITS[division]


def summarise_outcomes(
    predictions: Mapping[tuple[str, str], Sequence[pd.DataFrame]],
    class_names: Sequence[str],
    num_resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Score each division and labelling over all seeds together.

    A patient who was tested with several seeds is drawn with all its rows, so that intervals stay over patients.

    Args:
        predictions: of the test pictures, for each (division, labelling) a table a seed.
        class_names: all classes.
        num_resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        A row for each, with ``division``, ``labels``, ``seeds``, ``n``, ``groups`` and ``accuracy`` (value, low, high).
    """
    rows = []
    for division in DIVISIONS:
        for labelling in LABELLINGS:
            tables = predictions[division, labelling]
            level = compute_level(pd.concat(tables, ignore_index=True), class_names, num_resamples, seed)
            facts = {"division": division, "labels": labelling, "seeds": len(tables)}
            rows.append(facts | {name: level[name] for name in ("n", "groups")} | level["metrics"]["accuracy"])
    return [
        {name: row[name] for name in ("division", "labels", "seeds", "n", "groups")}
        | {"accuracy": {end: row[end] for end in ("value", "low", "high")}}
        for row in rows
    ]


def describe_outcomes(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[str]:
    """Say what the demonstration shows, and what it does not.

    Args:
        rows: of ``summarise_outcomes``.
        class_names: all classes.
    """
    chance = 1 / len(class_names)
    found = {(row["division"], row["labels"]): row["accuracy"] for row in rows}
    shuffled = {division: found[division, "shuffled"] for division in DIVISIONS}
    units = {division: name_units_in_words(division, class_names) for division in DIVISIONS}
    listed = [f"{show_share(shuffled[division])} where {units[division]} were divided" for division in DIVISIONS]
    sentences = [
        "With labels that were shuffled between patients, and so mean nothing, the model is right for "
        f"{', '.join(listed[:-1])}, and {listed[-1]}; chance is {100 * chance:.0f}\u00a0%. In brackets are 95\u00a0% "
        "intervals over patients."
    ]
    leaky = [d for d in DIVISIONS[:-1] if shuffled[d]["low"] is not None and shuffled[d]["low"] > chance]
    if leaky:
        sentences.append(
            f"Where {_join([units[division] for division in leaky])} were divided it can only have recognised patients "
            "that it was trained on: a score from such a split also counts what was learned by heart."
        )
    quiet = [division for division in DIVISIONS[:-1] if division not in leaky]
    if quiet:
        sentences.append(
            f"Where {_join([units[division] for division in quiet])} were divided no score above chance is shown with "
            "this recipe; that does not make the split a clean one, because its patients are on both sides."
        )
    clean = shuffled["patient"]
    if clean["low"] is None:
        sentences.append("There is no interval for divided patients, so nothing can be said about them.")
    elif clean["low"] <= chance <= clean["high"]:
        sentences.append(
            "Where patients were divided, chance lies in the interval: what was learned by heart does not help there."
        )
    else:
        sentences.append(
            "Where patients were divided the interval leaves chance out, which a clean split does once in twenty "
            "times by luck; with other seeds (audit.seeds) it should come back."
        )
    true = {division: found[division, "true"] for division in DIVISIONS}
    listed = [f"{units[division]} {show_share(true[division])}" for division in DIVISIONS]
    gap = 100 * (true["slice"]["value"] - true["patient"]["value"])
    compared = f"{abs(gap):.1f} points {'above' if gap >= 0 else 'below'}"
    sentences.append(
        f"With true labels and the same recipe: {', '.join(listed)}. Dividing slices gives a score {compared} that of "
        "dividing patients."
    )
    return sentences


def tabulate_outcomes(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Table:
    """Return the table of the page: a row a division, true labels beside shuffled ones."""
    cells = []
    for division in DIVISIONS:
        true, shuffled = (
            next(row for row in rows if (row["division"], row["labels"]) == (division, labelling))
            for labelling in LABELLINGS
        )
        units = name_units_in_words(division, class_names)
        texts = [show_share(row["accuracy"]) for row in (true, shuffled)]
        cells.append((units, *texts, f"{true['n']:,}", f"{true['groups']:,}"))
    num_seeds = rows[0]["seeds"]
    return Table(
        caption="Accuracy on test slices",
        columns=("Divided are", "True labels", "Shuffled labels", "Test slices", "Patients"),
        rows=tuple(cells),
        note="In brackets: 95\u00a0% intervals from a bootstrap over patients."
        + (f" Over {num_seeds} {plural('seed', num_seeds)} together." if num_seeds > 1 else ""),
    )


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
