"""One self-contained page that says what a model is worth: no network, no script, all text escaped."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from pipeline.bootstrap import METRIC_NAMES
from pipeline.files import write_bytes
from pipeline.kinds import WORDS, Words, plural
from pipeline.metrics import MAX_READABLE_CLASSES
from pipeline.pages import build_figure, render_page

TEMPLATE = "report.html"
METRIC_TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "mcc": "Matthews correlation",
    "f1": "F1",
    "nll": "Negative log-likelihood",
    "brier": "Brier score",
    "ece": "Expected calibration error",
}
LOWER_IS_BETTER = ("nll", "brier", "ece")
BASELINE_TITLES = {"majority": "Commonest class", "logistic_regression": "Logistic regression on pixels"}
MAX_FINDINGS = 50  # the certificate itself holds them all
LEVEL_TITLES = {
    "slice": "Slices",
    "volume": "Volumes",
    "patient": "Patients",
    "image": "Images",
    "object": "Objects",
}

# The order of the page; {level} stands for each level. Pictures with other names follow at the end.
FIGURE_TEXTS = {
    "confusion_slice": ("Confusion matrix of the slices", "Rows are the true class."),
    "confusion_volume": (
        "Confusion matrix of the volumes",
        "A volume's probabilities are the means over its slices.",
    ),
    "confusion_patient": (
        "Confusion matrix of the patients",
        "A patient's probabilities are the means over all slices.",
    ),
    "confusion_image": ("Confusion matrix of the images", "Rows are the true class."),
    "confusion_object": ("Confusion matrix of the objects", "Rows are the true class."),
    "roc": ("ROC curve", "Sensitivity against false positive rate over all thresholds."),
    "calibration": (
        "Calibration curve",
        "On the dashed line the model is right as often as it claims; orange is the gap. "
        "Below, how many rows have that confidence.",
    ),
    "worst_mistakes": (
        "Worst mistakes",
        "Wrong answers that the model was surest of, each with its true class and what was said.",
    ),
    "attention": (
        "Where the model looks",
        "Cross-attention by layer and head, the mean over the latents, in validation examples chosen by their place in "
        "the list. It says where the model looks, not why it answers. Below each map: how many times its even share "
        "the most-read part gets, and over how many parts the reading is spread.",
    ),
    "training_curves": ("Training curves", "Loss, accuracy and learning rate over the epochs."),
}


def write_report(
    path: Path,
    *,
    title: str,
    synthetic_note: str | None,
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    figures: Mapping[str, bytes],
    split_counts: pandas.DataFrame,
    certificate: Mapping[str, Any],
    provenance: Mapping[str, Any],
    config_text: str,
    warnings: Sequence[str],
    words: Words = WORDS["volumes"],
    baseline_notes: Sequence[str] = (),
) -> None:
    """Write report.html, whole or not at all.

    Args:
        path: the file to write.
        title: the experiment's name.
        synthetic_note: shown on top where the data are not of people; None for real data.
        metrics: the content of metrics.json.
        class_names: all classes; of two, the last one is the positive class.
        figures: PNG bytes under "confusion_slice", "confusion_volume", "confusion_patient",
            "confusion_image", "confusion_object", "roc", "calibration", "worst_mistakes" and
            "training_curves"; those that are absent are left out, and those with other names follow at the end.
        split_counts: a row a split, any columns.
        certificate: "passed", "counts" and "findings", what ``summarise_certificate`` returns.
        provenance: versions, commit, fingerprints, hardware; may be nested.
        config_text: the configuration as YAML.
        warnings: what a reader has to know before believing the numbers.
        words: what a row and a group are called.
        baseline_notes: what a reader has to know of the baselines.
    """
    findings = list(certificate.get("findings", []))
    page = render_page(
        TEMPLATE,
        title=title,
        synthetic_note=synthetic_note,
        sentences=summarise_in_words(metrics, words),
        words=words,
        baseline_notes=list(baseline_notes),
        split=metrics["split"],
        positive_class=class_names[-1] if len(class_names) == 2 else None,
        levels=[build_level(name, level) for name, level in distinct_levels(metrics["levels"]).items()],
        baseline_rows=build_baseline_rows(metrics),
        figures=build_figures(figures),
        split_columns=[humanise(column) for column in split_counts.columns],
        split_rows=[[show(cell) for cell in row] for row in split_counts.itertuples(index=False)],
        certificate_passed=bool(certificate["passed"]),
        certificate_counts=[(humanise(name), value) for name, value in flatten(certificate.get("counts", {}))],
        findings=[show(finding) for finding in findings[:MAX_FINDINGS]],
        num_more_findings=max(0, len(findings) - MAX_FINDINGS),
        provenance_rows=flatten(provenance),
        config_text=config_text,
        warnings=list(warnings),
    )
    write_bytes(path, page)


def summarise_certificate(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the leak certificate of the split stage into what ``write_report`` shows.

    Returns:
        ``passed``, ``counts`` of what was looked for across splits, and ``findings`` in words.
    """
    words = WORDS[certificate.get("kind", "volumes")]
    identical, near = certificate["identical_images"], certificate["near_identical_images"]
    doubles = certificate.get("published_doubles", {"count": 0, "pairs": []})
    what = "objects" if words.example == "object" else "images"
    pairs = [("identical", pair) for pair in (*identical["pairs"], *doubles["pairs"])]
    pairs += [(f"near-identical, {pair['bits']} bits apart", pair) for pair in near["pairs"]]
    return {
        "passed": certificate["passed"],
        "counts": {
            f"{plural(words.group)}_in_two_splits": len(certificate["patients_in_two_splits"]),
            f"{plural(words.group)}_without_a_split": len(certificate["patients_without_split"]),
            f"identical_{what}_across_splits": identical["count"],
            **({f"identical_{what}_across_the_published_test_split": doubles["count"]} if words.is_single else {}),
            **({f"near_identical_{what}_across_splits": near["count"]} if what == "images" else {}),
        },
        "findings": [
            *(f"{words.group.capitalize()} {name} is in two splits." for name in certificate["patients_in_two_splits"]),
            *(f"{words.group.capitalize()} {name} has no split." for name in certificate["patients_without_split"]),
            *(f"{pair['first']} and {pair['second']} are {kind}." for kind, pair in pairs),
        ],
    }


def distinct_levels(levels: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out a level that has as many rows as the one before: there was nothing to average."""
    kept: dict[str, Any] = {}
    for name, level in levels.items():
        if not kept or level["n"] != list(kept.values())[-1]["n"]:
            kept[name] = level
    return kept


def summarise_in_words(metrics: Mapping[str, Any], words: Words = WORDS["volumes"]) -> list[str]:
    """Say what was found: accuracy with its interval, on how many patients, and what it has to beat."""
    levels = distinct_levels(metrics["levels"])
    first_name, first = next(iter(levels.items()))
    accuracy = first["metrics"]["accuracy"]
    patients = f" of {first['groups']:,} independent {plural(words.group, first['groups'])}"
    sentences = [
        f"On {first['n']:,} {plural(first_name, first['n'])}{'' if words.is_single else patients} in the "
        f"{metrics['split']} split, the model is right for {show_percent(accuracy)}."
    ]
    for name, level in list(levels.items())[1:]:
        share = show_percent(level["metrics"]["accuracy"])
        sentences.append(f"Averaged per {name} ({level['n']:,}), it is right for {share}.")
    if accuracy["low"] is None:
        sentences.append(f"There is no interval, so nothing can be said about other {plural(words.group)}.")
    beside = [
        f"{BASELINE_TITLES.get(name, humanise(name)).lower()} {show_percent(scores['accuracy'])}"
        for name, scores in metrics.get("baselines", {}).items()
    ]
    if beside:
        sentences.append(f"Baselines on the same {plural(first_name, 2)}: {'; '.join(beside)}.")
    return sentences


def show_percent(metric: Mapping[str, float | None]) -> str:
    """Write a share as "97.1 % (95 % interval 95.0 to 98.6 %)", no line break before a %."""
    if metric["value"] is None:
        return "not defined"
    text = f"{round_below_one(100 * metric['value'], 1, 100)}\u00a0%"
    if metric["low"] is None or metric["high"] is None:
        return text
    low, high = (round_below_one(100 * value, 1, 100) for value in (metric["low"], metric["high"]))
    return f"{text} (95\u00a0% interval {low} to {high}\u00a0%)"


def show_number(value: float | None) -> str:
    """Write a score with three decimals; a dash where there is none."""
    return "\u2013" if value is None else round_below_one(value, 3, 1)


def round_below_one(value: float, num_decimals: int, perfect: int) -> str:
    """Round, but give a score that is not perfect as many decimals as it takes not to look perfect."""
    text = f"{value:.{num_decimals}f}"
    if value < perfect and float(text) == perfect and num_decimals < 6:
        return round_below_one(value, num_decimals + 1, perfect)
    return text


def show_interval(metric: Mapping[str, float | None]) -> str:
    """Write "0.950 to 0.986", or a dash where there is no interval."""
    if metric["low"] is None:
        return "\u2013"
    return f"{show_number(metric['low'])} to {show_number(metric['high'])}"


def build_level(name: str, level: Mapping[str, Any]) -> dict[str, Any]:
    """Turn one level of metrics.json into the rows of its table."""
    rows = [
        {
            "title": METRIC_TITLES[metric] + (" ↓" if metric in LOWER_IS_BETTER else ""),
            "value": show_number(level["metrics"][metric]["value"]),
            "interval": show_interval(level["metrics"][metric]),
        }
        for metric in METRIC_NAMES
    ]
    counts = level.get("support", {})
    support = ", ".join(f"{label} {count:,}" for label, count in counts.items())
    if len(counts) > MAX_READABLE_CLASSES:
        support = f"{len(counts)} classes, {min(counts.values()):,} to {max(counts.values()):,} a class"
    return {
        "title": LEVEL_TITLES.get(name, humanise(name)),
        "n": f"{level['n']:,}",
        "groups": f"{level['groups']:,}",
        "support": support,
        "rows": rows,
        "notes": level.get("notes", []),
    }


def build_baseline_rows(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Put the model and its baselines side by side, at the first level."""
    model = next(iter(metrics["levels"].values()))["metrics"]
    named = {
        "This model": model,
        **{BASELINE_TITLES.get(k, humanise(k)): v for k, v in metrics.get("baselines", {}).items()},
    }
    return [
        {
            "title": title,
            **{key: show_number(scores[key]["value"]) for key in ("accuracy", "auroc", "nll")},
            "interval": show_interval(scores["accuracy"]),
        }
        for title, scores in named.items()
    ]


def build_figures(figures: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Turn PNG bytes into data URIs, known pictures first, each with a title and a text."""
    names = [
        *(name for name in FIGURE_TEXTS if name in figures),
        *(n for n in figures if n not in FIGURE_TEXTS),
    ]
    return [build_figure(*FIGURE_TEXTS.get(name, (humanise(name), "")), figures[name]) for name in names]


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Turn nested mappings into (name, value) rows; names are joined by a dot."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows.extend(flatten(value, f"{prefix}{name}."))
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, default=str)))
    return rows


def show(value: Any) -> str:
    """Write a cell: text as it is, whole numbers with commas, anything nested as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def humanise(name: object) -> str:
    """Turn a column's name into a heading: ``num_slices`` becomes "Num slices"."""
    text = str(name).replace("_", " ").strip()
    return text[:1].upper() + text[1:]
