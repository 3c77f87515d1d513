"""The shortcut probes in words: a section of the report, and warnings for its top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config.data import Plane
from pipeline.core.data_kinds import DataKind
from pipeline.core.text import plural
from pipeline.evaluation.schema import (
    Estimate,
    Metrics,
    Probes,
    Scores,
    SliceIndexSubgroup,
    Subgroup,
    WithinClassProbe,
    first_level,
    read_value,
)
from pipeline.evaluation.validity.within_class_probe import COVARIATES
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.figures.intervals import Panel, accuracy_of_parts, accuracy_over_index
from pipeline.reporting.formatting import show_fraction, show_interval, show_number, show_percent, show_score

# A model that sees no anatomy ranks a pair of rows of two classes correctly in five of ten cases, whatever the
# fractions of the classes. Six of ten, even at the lower end of the interval, are neither chance nor negligible.
ALARMING_AUROC = 0.6
# A subgroup whose whole interval lies ten points below the accuracy of all rows is neither chance nor negligible.
ALARMING_LOSS = 0.1
# Of a network that is right for a fraction a of the slices and as often for their mirror images, at least 2a - 1 of
# the predictions flip, even if its errors are on other slices there. Five points less, even at the upper end of the
# interval, are too few.
ALARMING_FLIP_GAP = 0.05

PART_TITLES = {"visit": "visit", "intensity_quartile": "intensity quartile"}
QUARTILE_NAMES = ("darkest", "2nd", "3rd", "brightest")


def build_probe_sections(probes: Probes, metrics: Metrics, kind: DataKind, plane: Plane) -> list[Section]:
    """Turn the probes into a section of the report.

    Args:
        probes: The result of ``compute_probes``.
        metrics: The content of metrics.json.
        kind: The kind of data, which names rows and groups.
        plane: The plane of the slices.

    Returns:
        One section with sentences, tables and figures; none where no probe makes sense.
    """
    if not probes:
        return []
    rows = plural(kind.example)
    overall = read_value(first_level(metrics["levels"])[1]["metrics"]["accuracy"])
    sentences = [
        f"A model can be right for the wrong reason: how, when and where in the scan the {rows} were made."
        if "slice_index" in probes
        else f"A model can be right for the wrong reason: how the {rows} were made."
    ]
    figures = []
    if "slice_index" in probes:
        sentences.append(f"By slice index, {_describe_extremes(probes['slice_index'])}.")
        indices = [part["slice_index"] for part in probes["slice_index"]]
        accuracies = [part["accuracy"] for part in probes["slice_index"]]
        figures.append(
            Figure(
                "accuracy_by_slice_index",
                "Accuracy by slice index",
                "The dashed line is the accuracy of all test slices. Slices at the ends show less of the joint; a fall "
                "there is no shortcut, but high accuracy where nothing can be seen would be one. "
                f"{_describe_extremes(probes['slice_index']).capitalize()}.",
                accuracy_over_index(indices, accuracies, overall, "Slices, test"),
            )
        )
    parts = list_parts(probes)
    if parts:
        figures.append(
            Figure(
                "accuracy_by_part",
                f"Accuracy by {' and by '.join(PART_TITLES[name] for name in parts)}",
                f"Each point is the accuracy of a subgroup of the test rows; the dashed line is that of all, "
                f"{show_fraction(overall)}. "
                f"{_read_out(parts)}",
                accuracy_of_parts([_build_panel(name, items) for name, items in parts.items()], overall),
            )
        )
    sentences += [
        *_describe_blind(probes, kind),
        *_describe_mirror(probes, kind, plane),
        *_describe_within_class(probes, kind),
    ]
    tables = [_tabulate_blind(probes, metrics, kind)] if "border_only" in probes else []
    tables += [_tabulate_parts(name, items, kind) for name, items in parts.items()]
    if probes.get("within_class"):
        tables.append(_tabulate_within_class(probes["within_class"], kind))
    return [Section("Shortcut probes", tuple(sentences), tuple(tables), tuple(figures), "looks")]


@dataclass(frozen=True)
class Part:
    """One row of a table of accuracies.

    Args:
        label: The visit, or the quartile of brightness.
        edges: The range of brightness of a quartile; empty for a visit.
        subgroup: Its counts and accuracy.
    """

    label: str
    edges: str
    subgroup: Subgroup

    @property
    def accuracy(self) -> Estimate:
        return self.subgroup["accuracy"]


def list_parts(probes: Probes) -> dict[str, list[Part]]:
    """Return the subgroups under the names of ``PART_TITLES``; a probe that makes no sense for the data has none."""
    parts: dict[str, list[Part]] = {}
    if "visit" in probes:
        parts["visit"] = [Part(visit["visit"], "", visit) for visit in probes["visit"]]
    if "intensity_quartile" in probes:
        parts["intensity_quartile"] = [
            Part(QUARTILE_NAMES[item["quartile"] - 1], f" ({item['from']:.3f} to {item['to']:.3f})", item)
            for item in probes["intensity_quartile"]
        ]
    return parts


def list_blind_models(probes: Probes) -> list[tuple[str, Scores]]:
    """Return title and scores of each model that sees a part of the images alone, or none of them."""
    models = []
    if "border_only" in probes:
        models.append(("Border of the images alone", probes["border_only"]))
    if "index_only" in probes:
        models.append(("Slice index alone", probes["index_only"]))
    return models


def list_probe_warnings(probes: Probes, metrics: Metrics, kind: DataKind) -> list[str]:
    """List warnings of the alarming probes; the constants of this module hold the limits and their reasons.

    Args:
        probes: The result of ``compute_probes``.
        metrics: The content of metrics.json.
        kind: The kind of data, which names rows and groups.
    """
    warnings = []
    for title, scores in list_blind_models(probes):
        auroc = scores["auroc"]
        if scores is probes.get("border_only") and not probes["border_is_background"]:
            continue  # it shows what the rest of the image shows
        if auroc["low"] is not None and auroc["low"] > ALARMING_AUROC:
            warnings.append(
                f"{title}, which shows {_name_unseen(kind)}, separates the classes "
                f"(AUROC {show_number(auroc['value'])}, 95\u00a0% interval {show_interval(auroc)}; "
                f"guessing has 0.5, a warning is given from {ALARMING_AUROC}). "
                "The model may use it too."
            )
    overall = read_value(first_level(metrics["levels"])[1]["metrics"]["accuracy"])
    for name, parts in list_parts(probes).items():
        for part in parts:
            high = part.accuracy["high"]
            if high is not None and high < overall - ALARMING_LOSS:
                warnings.append(
                    f"The model is right for only {show_percent(part.accuracy)} of the {plural(kind.example)} of "
                    f"{PART_TITLES[name]} {part.label}, and for {show_fraction(overall)} of all."
                )
    for found in probes.get("within_class", []):
        auroc = found["auroc"]
        if auroc["low"] is not None and auroc["low"] > ALARMING_AUROC:
            warnings.append(
                f"The model's features show the {found['covariate']} of a scan among those of class {found['label']} "
                f"(AUROC {show_number(auroc['value'])}, 95\u00a0% interval {show_interval(auroc)}; guessing has "
                f"{found['chance']}, a warning is given from {ALARMING_AUROC})."
            )
    mirror = probes.get("mirror")
    if mirror is not None:
        flipped, accuracy = mirror["flipped_without_averaging"], mirror["accuracy_without_averaging"]
        highest = read_value(flipped) if flipped["high"] is None else flipped["high"]
        if highest < 2 * read_value(accuracy) - 1 - ALARMING_FLIP_GAP:
            averaged = " without averaging" if mirror["is_by_construction"] else ""
            warnings.append(
                f"Mirrored, only {show_percent(flipped)} of the test {plural(kind.example)} flip their "
                f"prediction{averaged}: the "
                "network reads something that mirroring does not exchange."
            )
    return warnings


def _describe_extremes(parts: Sequence[SliceIndexSubgroup]) -> str:
    """Describe where accuracy is lowest and highest, of equal ones the first."""
    values = [read_value(part["accuracy"]) for part in parts]
    lowest, highest = (parts[values.index(pick(values))] for pick in (min, max))
    if lowest is highest:
        return f"accuracy is {show_percent(lowest['accuracy'])} everywhere"
    return (
        f"accuracy is lowest at {lowest['slice_index']} with {show_percent(lowest['accuracy'])} and highest at "
        f"{highest['slice_index']} with {show_percent(highest['accuracy'])}"
    )


def _read_out(parts_of: Mapping[str, Sequence[Part]]) -> str:
    """List the numbers of a figure of subgroups."""
    texts = []
    for name, parts in parts_of.items():
        fractions = ", ".join(f"{part.label} {show_fraction(read_value(part.accuracy))}" for part in parts)
        texts.append(f"{PART_TITLES[name].capitalize()}: {fractions}.")
    return " ".join(texts)


def _describe_blind(probes: Probes, kind: DataKind) -> list[str]:
    sentences = []
    if "border_only" in probes:
        sign = (
            f"A label that can be predicted from pixels that show {_name_unseen(kind)} is a warning sign."
            if probes["border_is_background"]
            else f"These {plural(kind.example)} fill their frame, so that their border too shows what was imaged."
        )
        sentences.append(
            f"{sign} A logistic regression that sees only a frame of a sixteenth of each side is right for "
            f"{show_percent(probes['border_only']['accuracy'])} of the test rows."
        )
    if "index_only" in probes:
        sentences.append(
            "A decision tree that sees only a slice's index and its position along the axis is right for "
            f"{show_percent(probes['index_only']['accuracy'])}."
        )
    return sentences


def _name_unseen(kind: DataKind) -> str:
    return "no anatomy" if kind.has_patients else "nothing of the object"


def _describe_mirror(probes: Probes, kind: DataKind, plane: Plane) -> list[str]:
    """Describe the result of the mirror check, or the reason why there is none."""
    if not kind.has_patients:
        return []
    if "mirror" not in probes:
        rows = plural(kind.example)
        why = f"the {rows} are sagittal" if plane == "sagittal" else "the labels are not left and right"
        return [f"There is no mirror check: {why}, so that a mirror image has the same label."]
    mirror = probes["mirror"]
    flipped, accuracy = mirror["flipped_without_averaging"], mirror["accuracy_without_averaging"]
    if not mirror["is_by_construction"]:
        return [
            f"Mirrored, a left knee looks like a right one. {show_percent(flipped)} of the test "
            f"{plural(kind.example)} flip their prediction."
        ]
    return [
        "Mirrored, a left knee looks like a right one. The model averages over an example and its mirror image, so "
        "that every prediction flips by construction. The network without averaging flips for "
        f"{show_percent(flipped)} of the test {plural(kind.example)} and is right for {show_percent(accuracy)}."
    ]


def _describe_within_class(probes: Probes, kind: DataKind) -> list[str]:
    """Describe what the model's features show of a scan's origin, or the reason why that could not be evaluated."""
    if not kind.has_patients:
        return []
    found = probes.get("within_class", [])
    known = list(dict.fromkeys(probe["covariate"] for probe in found))
    unknown = [name for name in COVARIATES if name not in known]
    sentences = []
    if found:
        sentences.append(
            f"Within one class the model has no need to know the {' or the '.join(known)} of a scan; that its features "
            "show it is no proof that its answers rest on it."
        )
    if any(probe["auroc"]["value"] is None for probe in found):
        reasons = dict.fromkeys(
            f"{probe['covariate']} in class {probe['label']}: {probe['auroc']['reason']}"
            for probe in found
            if probe["auroc"]["value"] is None
        )
        sentences.append(f"No verdict: {'; '.join(reasons)}.")
    if unknown:
        sentences.append(
            "Not evaluated, as the manifest does not name it: whether the features show "
            f"the {' or the '.join(unknown)}."
        )
    return sentences


def _tabulate_within_class(found: Sequence[WithinClassProbe], kind: DataKind) -> Table:
    return Table(
        "Predicted from the model's features within one class",
        ("Fact", "Class", "Values", "Scans", plural(kind.group).capitalize(), "AUROC", "Chance"),
        tuple(
            (
                probe["covariate"].capitalize(),
                probe["label"],
                ", ".join(probe["values"]) or "none",
                f"{probe['n']:,}",
                f"{probe['groups']:,}",
                show_score("auroc", probe["auroc"]),
                show_number(probe["chance"]),
            )
            for probe in found
        ),
        "With 95\u00a0% intervals. A logistic regression of what the last layer reads, the mean over a scan; each "
        "scored by a model that has not seen the patient. Test rows alone.",
    )


def _build_panel(name: str, parts: Sequence[Part]) -> Panel:
    return Panel(f"By {PART_TITLES[name]}", tuple(part.label for part in parts), [part.accuracy for part in parts])


def _tabulate_parts(name: str, parts: Sequence[Part], kind: DataKind) -> Table:
    note = "The visit as in the file's name; of a date the year alone."
    if name == "intensity_quartile":
        note = f"By the mean of a prepared {kind.example}'s pixels, black 0 and white 1; quartiles of the test rows."
    groups = (plural(kind.group).capitalize(),) if kind.has_patients else ()
    return Table(
        f"Accuracy by {PART_TITLES[name]}",
        (PART_TITLES[name].capitalize(), plural(kind.example).capitalize(), *groups, "Accuracy"),
        tuple(
            (
                f"{part.label}{part.edges}",
                f"{part.subgroup['n']:,}",
                *((f"{part.subgroup['groups']:,}",) if kind.has_patients else ()),
                show_score("accuracy", part.accuracy),
            )
            for part in parts
        ),
        f"With 95\u00a0% intervals. {note}",
    )


def _tabulate_blind(probes: Probes, metrics: Metrics, kind: DataKind) -> Table:
    model = first_level(metrics["levels"])[1]["metrics"]
    named = {"This model": model, "Most frequent class": metrics["baselines"]["majority"]}
    named |= dict(list_blind_models(probes))
    seen = _name_unseen(kind) if probes["border_is_background"] else "a part alone"
    return Table(
        f"Models that see {seen}",
        ("Model", "Accuracy", "AUROC"),
        tuple(
            (title, *(show_score(name, scores[name]) for name in ("accuracy", "auroc")))
            for title, scores in named.items()
        ),
        "With 95\u00a0% intervals; the same splits as the model."
        + (
            f" The top of the report has a warning where an AUROC's whole interval is above {ALARMING_AUROC}."
            if probes["border_is_background"]
            else ""
        ),
        is_first_marked=True,
    )
