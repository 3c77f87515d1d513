"""The scores of metrics.json in a report: sentences, tables, and the order and texts of figures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.core.data_kinds import VOLUMES, DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.metrics import MAX_READABLE_CLASSES
from pipeline.evaluation.schema import ClassTable, Level, Metrics, count_correct, first_level
from pipeline.evaluation.scores import METRIC_NAMES, METRIC_TITLES
from pipeline.evaluation.validity.shortcut_probes import UNKNOWN_VISIT, name_visits, order_visit
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.evaluation.origin_section import describe_recipes
from pipeline.reporting.figures.classification import MAX_CURVES
from pipeline.reporting.formatting import (
    BASELINE_TITLES,
    DASH,
    LEVEL_TITLES,
    LOWER_IS_BETTER,
    humanise,
    show_labels,
    show_number,
    show_number_with_interval,
    show_percent,
    show_percent_briefly,
    show_score,
)

# The order of the page. Figures with other names follow at the end.
FIGURE_TEXTS = {
    "answer": ("The answer", "Accuracy of the model and of the baselines on the same rows, with 95 % intervals."),
    "confusion_slice": ("Confusion matrix of the slices", "Rows are the true class."),
    "confusion_volume": (
        "Confusion matrix of the volumes",
        "A volume's probabilities are the means over its slices.",
    ),
    "confusion_knee": (
        "Confusion matrix of the knees",
        "A knee's probabilities are the means over all examples of one side of a patient.",
    ),
    "confusion_patient": (
        "Confusion matrix of the patients",
        "A patient's probabilities are the means over all examples.",
    ),
    "confusion_image": ("Confusion matrix of the images", "Rows are the true class."),
    "confusion_object": ("Confusion matrix of the objects", "Rows are the true class."),
    "roc": ("ROC curve", "Sensitivity against false positive rate over all thresholds."),
    "precision_recall": (
        "Precision-recall curve",
        "Precision against recall over all thresholds; the dashed line is the fraction of rows with the class.",
    ),
    "calibration": (
        "Reliability diagram",
        "On the dashed line probabilities are right as often as they say. Each point is a bin of about a tenth of the "
        "rows, at least five of them independent, and its interval.",
    ),
    "worst_mistakes": (
        "Worst mistakes",
        "The wrong predictions of the highest confidence, each with its true and its predicted class.",
    ),
    "attention": ("Example", "A validation example, and what the latents read of it in each layer and head."),
    "training_curves": ("Training curves", "Loss, accuracy and learning rate over the epochs."),
}
ATTENTION_TEXT = (
    "Cross-attention by layer and head, the mean over the latents, in validation examples that are spread evenly over "
    "the list. It shows where the model looks, not why it answers. Below each map are the weight of the part that is "
    "read most, as a multiple of the mean weight, and the number of parts that the attention is spread over."
)
# Which figures stand together, by the first word of their names; those that are not here come after the training.
FIGURE_GROUPS = {
    "answer": "answer",
    "confusion": "errors",
    "worst": "errors",
    "roc": "curves",
    "precision": "curves",
    "calibration": "curves",
    "attention": "attention",
    "training": "training",
}
# With fewer groups, the intervals are wide, and a report says so at its top.
FEW_GROUPS = 20


def distinct_levels(levels: Mapping[str, Level]) -> dict[str, Level]:
    """Leave out a level that has as many rows as the one before: there was nothing to average."""
    kept: dict[str, Level] = {}
    for name, level in levels.items():
        if not kept or level["n"] != list(kept.values())[-1]["n"]:
            kept[name] = level
    return kept


def summarise_in_words(metrics: Metrics, kind: DataKind = VOLUMES) -> list[str]:
    """Summarise the results: accuracy with its interval, patients and those with errors, and the baselines."""
    levels = distinct_levels(metrics["levels"])
    first_name, first = first_level(levels)
    accuracy = first["metrics"]["accuracy"]
    patients = f" of {first['groups']:,} independent {plural(kind.group, first['groups'])}"
    sentences = [
        f"On {first['n']:,} {plural(first_name, first['n'])}{'' if not kind.has_patients else patients} in the "
        f"{metrics['split']} split, the model is right for {show_percent(accuracy)}{describe_errors(first, kind)}."
    ]
    over_groups = show_percent(first["mean_over_groups"])
    if kind.has_patients and first["mean_over_groups"]["low"] is not None and over_groups != show_percent(accuracy):
        sentences.append(f"Where each {kind.group} counts once, it is right for {over_groups}.")
    for name, level in list(levels.items())[1:]:
        averaged = show_percent(level["metrics"]["accuracy"])
        sentences.append(f"Averaged per {name} ({level['n']:,}), it is right for {averaged}.")
    if accuracy["low"] is None:
        sentences.append(
            f"There is no interval ({name_groups(accuracy['reason'], kind)}), so the result does not extend to other "
            f"{plural(kind.group)}."
        )
    baselines = [
        f"{BASELINE_TITLES.get(name, humanise(name)).lower()} {show_percent(scores['accuracy'])}"
        for name, scores in metrics["baselines"].items()
    ]
    sentences.append(describe_sample_size(first_name, first, kind))
    if baselines:
        sentences.append(f"Baselines on the same {plural(first_name, 2)}: {'; '.join(baselines)}.")
    return sentences + describe_recipes(metrics.get("recipes_tried", 0))


def describe_question(metrics: Metrics, kind: DataKind, data: str, num_groups: int) -> list[str]:
    """Describe what was asked, and of whom, in sentences.

    Args:
        metrics: The content of metrics.json.
        kind: The kind of data, which names rows and groups.
        data: The source of the data in words.
        num_groups: The number of patients, or examples, of all splits.
    """
    names = metrics["class_names"]
    shown = f"“{'”, “'.join(names[:-1])}” or “{names[-1]}”"
    shown = shown if len(names) <= MAX_READABLE_CLASSES else f"{len(names)} classes"
    _, level = first_level(metrics["levels"])
    tested = count_words(level["groups"], kind.group)
    return [
        f"Asked: which of {shown} does {'an' if kind.example[0] in 'aeiou' else 'a'} {kind.example} show? "
        f"{'Of whom' if kind.has_patients else 'Of what'}: {tested} that the model was not trained on, of "
        f"{num_groups:,} in {data}."
    ]


def describe_visits(visits: pd.Series, kind: DataKind) -> list[str]:
    """Describe when the scans were made, in a sentence: their visits, of dates the years alone.

    Args:
        visits: The visit of each scan that was used; empty where it is not known.
        kind: The kind of data; what has no patients has no visits, and no sentence.
    """
    if not kind.has_patients:
        return []
    values = name_visits(visits)
    names = sorted(set(values.tolist()) - {UNKNOWN_VISIT}, key=order_visit)
    if not names:
        return ["Neither dates nor visits are known."]
    num_unknown = int((values == UNKNOWN_VISIT).sum())
    unknown = f"; not known of {count_words(num_unknown, kind.source)}" if num_unknown else ""
    years = [name for name in names if re.fullmatch(r"(19|20)[0-9]{2}", name)]
    others = [name for name in names if name not in years]
    parts = [" to ".join(dict.fromkeys((years[0], years[-1])))] if years else []
    parts += [f"{plural('visit', len(others))} {', '.join(others)}"] if others else []
    return [f"When: {'; '.join(parts)}{unknown}."]


def describe_errors(level: Level, kind: DataKind) -> str:
    """Continue a sentence with the number of patients with errors; empty where each row is a group of its own."""
    if not kind.has_patients:
        return ""
    num_wrong = level["groups_with_errors"]
    return f"; {count_words(num_wrong, kind.group) if num_wrong else f'no {kind.group}'} with errors"


def describe_sample_size(name: str, level: Level, kind: DataKind) -> str:
    """Describe how many patients a narrower interval of the accuracy would need.

    Args:
        name: The name of the level.
        level: Its scores and counts.
        kind: The kind of data, which names rows and groups.
    """
    size = level["sample_size"]
    needed = (
        f"A 95\u00a0% interval of \u00b15 points would need {count_words(size['five_points'], kind.group)}, one of "
        f"\u00b12 points {size['two_points']:,}, if they were like these"
    )
    if not kind.has_patients:
        return f"{needed}."
    if size["correlation"] is None:
        return f"{needed} and as free of mistakes, or as full of them."
    return f"{needed} (intraclass correlation of the {plural(name)}' errors {show_number(size['correlation'])})."


def name_groups(reason: str, kind: DataKind) -> str:
    """Write the reason of a missing interval, or the name of a method, with the kind's word for groups."""
    return reason.replace("group", kind.group)


def describe_few_groups(level: Level, kind: DataKind) -> list[str]:
    """Warn of wide intervals where few patients were tested."""
    if level["groups"] >= FEW_GROUPS:
        return []
    tested = count_words(level["groups"], kind.group)
    return [f"Only {tested} were tested: the intervals are wide, and some scores have none."]


def build_level(name: str, level: Level, kind: DataKind) -> dict[str, Any]:
    """Turn one level of metrics.json into a heading, a line on its rows, its table and its notes.

    Args:
        name: The name of the level.
        level: Its scores and counts.
        kind: The kind of data, which names rows and groups.
    """
    title = LEVEL_TITLES.get(name, humanise(name))
    rows = tuple(
        (
            METRIC_TITLES[metric] + (" ↓" if metric in LOWER_IS_BETTER else ""),
            show_score(metric, level["metrics"][metric]),
            name_groups(level["metrics"][metric]["method"] or DASH, kind),
        )
        for metric in METRIC_NAMES
    )
    counts = level["support"]
    support = show_labels(counts)
    if len(counts) > MAX_READABLE_CLASSES:
        support = f"{len(counts)} classes, {min(counts.values()):,} to {max(counts.values()):,} a class"
    errors = f"{level['groups_with_errors']:,} of them with errors"
    groups = f"rows, {level['groups']:,} independent {plural(kind.group)}, {errors}"
    return {
        "title": title,
        "line": f"{level['n']:,} {groups if kind.has_patients else plural(kind.group)}"
        + (f"; {support}." if support else "."),
        "table": Table(f"Scores: {title}", ("Score", "Value", "Method of the interval"), rows),
        "notes": level["notes"],
    }


def build_classes(metrics: Metrics, kind: DataKind) -> list[Table]:
    """Tabulate the scores of each class against the rest, a table a level; nothing of many classes.

    Args:
        metrics: The content of metrics.json.
        kind: The kind of data, which names rows and groups.
    """
    if len(metrics["class_names"]) > MAX_READABLE_CLASSES:
        return []
    tables = []
    for level in distinct_levels(metrics["levels"]):
        found = metrics["classes"][level]
        rows = []
        for name, scores in found["classes"].items():
            estimates = [
                scores[key] for key in ("precision", "recall", "specificity", "npv", "f1", "average_precision")
            ]
            counted = (f"{scores['groups']:,}",) if kind.has_patients else ()
            cells = (show_percent_briefly(part) if part["value"] is not None else DASH for part in estimates)
            rows.append((name, f"{scores['n']:,}", *counted, *cells))
        tables.append(
            Table(
                f"Classes, each against the rest: {LEVEL_TITLES.get(level, humanise(level)).lower()}",
                (
                    *("Class", plural(level).capitalize(), *([plural(kind.group).capitalize()] * kind.has_patients)),
                    *("Precision (PPV)", "Recall (sensitivity)", "Specificity", "NPV", "F1", "Average precision"),
                ),
                tuple(rows),
                "With 95\u00a0% intervals. Precision is the positive predictive value, NPV the negative one, both "
                "at the class fractions of these rows. Cohen's kappa of all classes: "
                f"{show_number_with_interval(found['kappa'])}.{_list_reasons(found, kind)}",
            )
        )
    return tables


def _list_reasons(found: ClassTable, kind: DataKind) -> str:
    """Write why scores of classes have no interval or no value; empty where all have both."""
    estimates = [found["kappa"]]
    for scores in found["classes"].values():
        estimates += [scores["precision"], scores["recall"], scores["specificity"], scores["npv"]]
        estimates += [scores["f1"], scores["average_precision"]]
    reasons = sorted({name_groups(part["reason"], kind) for part in estimates if part["reason"]})
    return f" Without an interval or a value: {'; '.join(reasons)}." if reasons else ""


def build_limits_section(metrics: Metrics) -> Section:
    """List the questions that the test rows cannot answer, as a section of the report."""
    rows = tuple((item["question"], item["reason"]) for item in metrics["not_evaluated"])
    return Section(
        "What could not be evaluated",
        ("The rows of this evaluation do not answer the questions below.",),
        (Table("Questions that stay open", ("Question", "Reason"), rows),),
        part="data",
    )


def tabulate_baselines(metrics: Metrics) -> Table:
    """Put the model and its baselines side by side, at the first level."""
    model = first_level(metrics["levels"])[1]["metrics"]
    named = {"This model": model}
    named |= {BASELINE_TITLES.get(name, humanise(name)): scores for name, scores in metrics["baselines"].items()}
    rows = tuple(
        (
            title,
            show_score("accuracy", scores["accuracy"]),
            show_number(scores["auroc"]["value"]),
            show_number(scores["nll"]["value"]),
        )
        for title, scores in named.items()
    )
    columns = ("Model", "Accuracy", "AUROC", "Negative log-likelihood")
    return Table("Model and baselines", columns, rows, is_first_marked=True)


def order_figures(figures: Mapping[str, bytes], metrics: Metrics) -> list[Figure]:
    """Give each figure its title and text, with the numbers that it shows; known ones first.

    Args:
        figures: Files, SVG or PNG, under their names.
        metrics: The content of metrics.json.
    """
    ordered = []
    for name, content in sorted(figures.items(), key=lambda item: _find_place(item[0])):
        base, _, number = name.rpartition("_")
        is_map = base == "attention" and number.isdigit()
        if is_map:
            title, text = FIGURE_TEXTS[base]
            title = f"{title} {number}"
        else:
            title, text = FIGURE_TEXTS.get(name, (humanise(name), ""))
        if name == "confusion_volume" and "slice" not in metrics["levels"]:
            text = ""  # volumes that are scored whole
        if name == "precision_recall" and len(metrics["class_names"]) > MAX_CURVES:
            text = "Precision against recall over all thresholds, a line for each class."
        text = f"{text} {describe_finding(name, metrics)}".strip()
        ordered.append(Figure(name, title, text, content, is_sheet=is_map or name == "worst_mistakes"))
    return ordered


def group_figures(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Put figures into the parts of the page that they belong to, each in its order.

    Args:
        figures: The figures, as :func:`order_figures` returns them.

    Returns:
        The figures of every part of ``FIGURE_GROUPS``, and the ``others``.
    """
    groups: dict[str, list[Figure]] = {group: [] for group in (*FIGURE_GROUPS.values(), "others")}
    for figure in figures:
        groups[FIGURE_GROUPS.get(figure.name.split("_")[0], "others")].append(figure)
    return groups


def _find_place(name: str) -> int:
    """Return a figure's place on the page; the unknown ones come last, in the order in which they came."""
    known = list(FIGURE_TEXTS)
    key = name if name in known else name.rpartition("_")[0]
    return known.index(key) if key in known else len(known)


def describe_finding(name: str, metrics: Metrics) -> str:
    """Describe a figure in numbers; empty where they are not known.

    Args:
        name: The name of the figure.
        metrics: The content of metrics.json.
    """
    levels = metrics["levels"]
    first_name, first = first_level(levels)
    kind, _, level_name = name.partition("_")
    if kind == "confusion" and level_name in levels:
        return _describe_confusion(levels[level_name])
    if name == "roc":
        return f"AUROC {show_number_with_interval(first['metrics']['auroc'])}."
    if name == "precision_recall":
        classes = metrics["classes"][first_name]["classes"]
        named = list(classes)[1:] if len(classes) == 2 else list(classes)
        if len(named) > MAX_READABLE_CLASSES:
            return ""
        found = (f"“{key}” {show_percent_briefly(classes[key]['average_precision'])}" for key in named)
        return f"Average precision: {'; '.join(found)}."
    if name == "calibration":
        error = first["metrics"]["ece"]
        return f"Expected calibration error {show_number(error['value'])}."
    if name == "worst_mistakes":
        total, correct = count_correct(first["confusion"])
        return f"{total - correct:,} of {total:,} predictions were wrong."
    return ""


def _describe_confusion(level: Level) -> str:
    matrix, names = level["confusion"], list(level["support"])
    total, correct = count_correct(matrix)
    if len(names) != len(matrix) or len(names) > MAX_READABLE_CLASSES:
        return f"{correct:,} of {total:,} predicted correctly."
    counts = (
        f"{row[place]:,} of {sum(row):,} “{name}”" for place, (name, row) in enumerate(zip(names, matrix, strict=True))
    )
    return f"Predicted correctly: {'; '.join(counts)}."
