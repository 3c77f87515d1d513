"""External validation in a section of the report: the run on data of another site, next to its own test rows."""

import dataclasses
from collections.abc import Sequence

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.metrics import MAX_READABLE_CLASSES
from pipeline.evaluation.schema import Drift, Estimate, External, LevelDrift, Metrics, Quantiles, first_level
from pipeline.evaluation.scores import METRIC_NAMES, METRIC_TITLES
from pipeline.evaluation.validity.grey_levels import MAX_SCANS
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.evaluation.decision_section import describe_constant, describe_slope
from pipeline.reporting.evaluation.grade_section import build_grade_section
from pipeline.reporting.evaluation.scores import build_classes, describe_errors, distinct_levels, name_groups
from pipeline.reporting.evaluation.subgroup_section import build_subgroup_section
from pipeline.reporting.figures.classification import confusion_matrix
from pipeline.reporting.figures.decision import Reliability, reliability_diagram
from pipeline.reporting.figures.grey_levels import draw_histograms
from pipeline.reporting.formatting import (
    DASH,
    LEVEL_TITLES,
    LOWER_IS_BETTER,
    humanise,
    show_goal,
    show_number,
    show_number_briefly,
    show_percent,
    show_percent_briefly,
    show_score,
)

TITLE = "External validation"
LEVEL_NUMBERS = {"mean": "Mean", "std": "Standard deviation"}
WHITE = 255
UNCHANGED = (
    "Nothing was refitted: weights, classes and preprocessing are those of the checkpoint, and temperature, thresholds "
    "and operating points those that were chosen on the validation rows of the run."
)


def build_external_section(metrics: Metrics, kind: DataKind) -> list[Section]:
    """Put an external validation into a section; none where there was none.

    Args:
        metrics: The content of metrics.json.
        kind: The kind of data, which names rows and groups.
    """
    if "external" not in metrics:
        return []
    external = metrics["external"]
    view = take_place(metrics, external)
    levels = list(distinct_levels(external["levels"]))
    tables = [_tabulate_participants(external, kind)]
    tables += [_tabulate_scores(metrics, external, level, kind) for level in levels]
    tables += [_mark(table) for table in build_classes(view, kind)]
    tables += [_mark(table) for section in build_grade_section(view, kind) for table in section.tables]
    tables += _tabulate_calibration(metrics, external, levels, kind)
    tables += _tabulate_operating_points(metrics, external, levels)
    tables.append(_tabulate_drift(external["drift"], kind))
    subgroups = build_subgroup_section(view, kind)
    tables += [_mark(table) for section in subgroups for table in section.tables]
    missing = tuple((item["question"], item["reason"]) for item in external["missing"])
    tables.append(Table("Questions that the external data leave open", ("Question", "Reason"), missing))
    sentences = (
        *summarise_external(metrics, kind),
        f"{UNCHANGED} {external['search']}",
        *describe_external_calibration(external, metrics["class_names"]),
        *describe_drift(external["drift"], kind),
        *(f"External subgroups. {sentence}" for section in subgroups for sentence in section.sentences),
    )
    return [Section(TITLE, sentences, tuple(tables), tuple(_draw(metrics, external, levels[0], kind)))]


def take_place(metrics: Metrics, external: External) -> Metrics:
    """Return metrics whose test rows are the external ones, for parts of a report that are written for test rows."""
    view: Metrics = {
        **metrics,
        "split": "external",
        "levels": external["levels"],
        "classes": external["classes"],
        "decision": external["decision"],
        "subgroups": external.get("subgroups", []),
    }
    if "grades" in external:
        view["grades"] = external["grades"]
    return view


def summarise_external(metrics: Metrics, kind: DataKind) -> list[str]:
    """Write what the model reaches on the external rows, next to its test rows; nothing where there are none."""
    if "external" not in metrics:
        return []
    external, sentences = metrics["external"], []
    for place, (name, level) in enumerate(distinct_levels(external["levels"]).items()):
        rows = f"{level['n']:,} external {plural(name, level['n'])}"
        rows += f" of {count_words(level['groups'], kind.group)} ({external['table']})" if place == 0 else ""
        found = f"On {rows}, the model is right for {show_percent(level['metrics']['accuracy'])}"
        errors = describe_errors(level, kind) if place == 0 else ""
        own = metrics["levels"].get(name)
        compared = "" if own is None else f"; in the test split for {show_percent_briefly(own['metrics']['accuracy'])}"
        sentences.append(f"{found}{errors}{compared}.")
    return sentences


def describe_drift(drift: Drift, kind: DataKind) -> list[str]:
    """Write how far the grey levels of the external scans are from those of training."""
    scans = plural(kind.source)
    sentences = [
        f"Grey levels: the histogram of the external {scans} is {drift['distance']:.1f} of 255 levels away from that "
        f"of training, that of the test {scans} {drift['test_distance']:.1f} (the mean change of a pixel that would "
        "make the one the other)."
    ]
    mean = next(number for number in drift["numbers"] if number["number"] == "mean")
    if mean["difference"] is not None and mean["test_difference"] is not None:
        direction = "brighter" if mean["difference"] > 0 else "darker"
        sentences.append(
            f"In the mean the external {scans} are {direction} than training's by {abs(mean['difference']):.2f} "
            f"standard deviations of its {scans} (the test {scans} differ by {abs(mean['test_difference']):.2f}), and "
            f"{drift['num_far']:,} of {count_words(drift['num_scans']['external'], kind.source)} "
            f"{'is' if drift['num_far'] == 1 else 'are'} so far from all of training that predict would warn."
        )
    return sentences


def _mark(table: Table) -> Table:
    return dataclasses.replace(table, caption=f"External {table.caption[0].lower()}{table.caption[1:]}")


def _tabulate_participants(external: External, kind: DataKind) -> Table:
    labels = list(next(iter(external["participants"].values()))["by_label"])
    shown = labels if len(labels) <= MAX_READABLE_CLASSES else []
    examples = (plural(kind.example).capitalize(),) if kind.has_slices else ()
    rows = []
    for part, found in external["participants"].items():
        counts = [found["groups"], found["sources"], *([found["examples"]] if kind.has_slices else [])]
        rows.append((humanise(part), *(f"{count:,}" for count in (*counts, *(found["by_label"][n] for n in shown)))))
    left_out = "; ".join(f"{reason}: {number:,}" for reason, number in external["left_out"].items())
    return Table(
        "Who was validated",
        (
            *("Part", plural(kind.group).capitalize(), plural(kind.source).capitalize(), *examples),
            *(f"{plural(kind.source).capitalize()}: {name}" for name in shown),
        ),
        tuple(rows),
        f"Left out of the table: {left_out or 'no row'}. SHA-256 of the table: {external['sha256'][:16]}…",
    )


def _tabulate_scores(metrics: Metrics, external: External, name: str, kind: DataKind) -> Table:
    level, own = external["levels"][name], metrics["levels"].get(name)
    rows = tuple(
        (
            METRIC_TITLES[metric] + (" ↓" if metric in LOWER_IS_BETTER else ""),
            show_score(metric, level["metrics"][metric]),
            DASH if own is None else show_score(metric, own["metrics"][metric]),
        )
        for metric in METRIC_NAMES
    )
    tested = f", test {own['n']:,} of {own['groups']:,}" if own is not None else ""
    return Table(
        f"External and test: {LEVEL_TITLES.get(name, humanise(name)).lower()}",
        ("Score", "External", "Test"),
        rows,
        f"External {level['n']:,} rows of {count_words(level['groups'], kind.group)}{tested}; 95\u00a0% intervals "
        f"over {plural(kind.group)}, by the methods of the scores above. {' '.join(level['notes'])}".strip(),
    )


def describe_external_calibration(external: External, class_names: Sequence[str]) -> list[str]:
    """Write what calibration in the large and slope of two classes show; nothing of several, which have one of each."""
    if len(class_names) > 2:
        return []
    sentences = []
    for level in distinct_levels(external["levels"]):
        if level in external["decision"]["calibration"]:
            found = external["decision"]["calibration"][level]["before"]["recalibration"][class_names[-1]]
            sentences.append(describe_constant(found["in_the_large"], f"external {level}", class_names[-1]))
            sentences.append(describe_slope(found["slope"], f"external {level}"))
    return [sentence for sentence in sentences if sentence]


def _tabulate_calibration(metrics: Metrics, external: External, levels: Sequence[str], kind: DataKind) -> list[Table]:
    names = metrics["class_names"]
    if len(names) > MAX_READABLE_CLASSES:
        return []
    rows, reasons = [], set()
    shown = levels if len(names) == 2 else levels[:1]
    for level in shown:
        for part, decision in (("external", external["decision"]), ("test", metrics["decision"])):
            if level not in decision["calibration"]:
                continue
            fitted = decision["calibration"][level]
            scaled = f"scaled by {fitted['temperature']:.3g}"
            for title, scores in (("as they are", fitted["before"]), (scaled, fitted["after"])):
                for name, found in scores["recalibration"].items():
                    estimates = (found["in_the_large"], found["intercept"], found["slope"])
                    of_class = "" if len(names) == 2 else f", “{name}”"
                    rows.append((f"{part.capitalize()} {plural(level)} {title}{of_class}", *map(_show, estimates)))
                    reasons |= {name_groups(each["reason"], kind) for each in estimates if each["reason"]}
    against = f"of “{names[-1]}”" if len(names) == 2 else "of each class against the rest"
    missing = f" No interval, or no value: {'; '.join(sorted(reasons))}." if reasons else ""
    return [
        Table(
            "Calibration of the external rows and of the test rows",
            ("Probabilities", "In the large", "Intercept", "Slope"),
            tuple(rows),
            f"Logistic regression of what happened on the log odds {against}: without need of correction the slope is "
            "1 and the others are 0. Scaled are probabilities by the temperature that was fitted on the run's "
            f"validation.{missing}",
        )
    ]


def _show(estimate: Estimate) -> str:
    return DASH if estimate["value"] is None else show_number_briefly(estimate)


def _tabulate_operating_points(metrics: Metrics, external: External, levels: Sequence[str]) -> list[Table]:
    """Tabulate what the thresholds of the run's validation give: of confidence, and of two classes of probability."""
    confidences, points = [], []
    for level in levels:
        own = metrics["decision"]
        if level not in external["decision"]["coverage"]:
            continue
        tested = own["coverage"][level]["thresholds"] if level in own["coverage"] else []
        for place, row in enumerate(external["decision"]["coverage"][level]["thresholds"]):
            cells = [row["coverage"], row["accuracy"]]
            cells += [tested[place]["coverage"], tested[place]["accuracy"]] if tested else []
            title = f"{plural(level).capitalize()}: {show_goal(row['wanted'])}"
            shown = [DASH if cell["value"] is None else show_percent_briefly(cell) for cell in cells]
            confidences.append((title, show_number(row["threshold"]), *shown, *[DASH] * (4 - len(shown))))
        tested_points = own["operating_points"].get(level, [])
        for place, point in enumerate(external["decision"]["operating_points"].get(level, [])):
            wanted = f"{plural(level).capitalize()}: {point['rate']} of at least {show_goal(point['wanted'])}"
            both = (point["test"], tested_points[place]["test"] if tested_points else None)
            shown = [
                DASH if rates is None or rates[rate]["value"] is None else show_percent_briefly(rates[rate])
                for rate in ("sensitivity", "specificity")
                for rates in both
            ]
            points.append((wanted, show_number(point["threshold"]), *shown))
    tables = []
    if points:
        tables.append(
            Table(
                "Operating points of the run on the external rows",
                (
                    *("Chosen on validation for", "Threshold", "Sensitivity, external", "Sensitivity, test"),
                    *("Specificity, external", "Specificity, test"),
                ),
                tuple(points),
                "With 95\u00a0% intervals. The thresholds are those of the run; none was moved.",
            )
        )
    if confidences:
        tables.append(
            Table(
                "Thresholds of confidence of the run on the external rows",
                (
                    *("Answered on validation", "Threshold", "Answered, external", "Accuracy of these, external"),
                    *("Answered, test", "Accuracy of these, test"),
                ),
                tuple(confidences),
                "With 95\u00a0% intervals. Where fewer external rows than test rows reach a threshold, the model is "
                "less confident there.",
            )
        )
    return tables


def _tabulate_drift(drift: Drift, kind: DataKind) -> Table:
    scans = plural(kind.source)
    drawn = [part for part, number in drift["num_scans"].items() if number == MAX_SCANS]
    sampled = f" Of many {scans} {MAX_SCANS:,} were drawn ({', '.join(drawn)})." if drawn else ""
    return Table(
        "Drift of grey levels",
        (
            *("Number of a scan" if kind.has_slices else "Number of an image", "Training", "Test", "External"),
            *("Difference, external", "Difference, test", "Outside training"),
        ),
        tuple(
            (
                LEVEL_NUMBERS[number["number"]],
                *(_show_quantiles(number[part]) for part in ("training", "test", "external")),
                *_show_differences(number),
                f"{100 * number['outside']:.1f}\u00a0%",
            )
            for number in drift["numbers"]
        ),
        f"Medians over {scans}, with the 5 and 95\u00a0% quantiles; black is 0 and white {WHITE}, as the model sees "
        f"them. "
        f"Differences from training of the means, in standard deviations of the training {scans}. Outside are external "
        f"{scans} beyond these quantiles of training: a tenth of {scans} that are like those. No label is "
        f"used.{sampled}",
    )


def _show_quantiles(found: Quantiles) -> str:
    """Write grey levels of 0 to 255, as the distances of histograms are."""
    median, low, high = (f"{WHITE * value:.0f}" for value in (found["median"], found["low"], found["high"]))
    return f"{median} ({low} to {high})"


def _show_differences(number: LevelDrift) -> tuple[str, str]:
    external, test = (
        DASH if value is None else f"{value:+.2f}" for value in (number["difference"], number["test_difference"])
    )
    return external, test


def _draw(metrics: Metrics, external: External, level: str, kind: DataKind) -> list[Figure]:
    names, title = metrics["class_names"], f"{plural(level).capitalize()}, external"
    distance = f"{external['drift']['distance']:.1f} of 255 levels"
    figures = [
        Figure(
            f"external_confusion_{level}",
            f"Confusion matrix of the external {plural(level)}",
            f"Rows are the true class. {first_level(external['levels'])[1]['n']:,} rows.",
            confusion_matrix(external["levels"][level]["confusion"], names, title),
        ),
        Figure(
            "external_grey_levels",
            "Grey levels of training, test and external data",
            f"External data are {distance} away from training in the mean; the axis of the fractions is logarithmic.",
            draw_histograms(external["drift"]["histograms"], f"Pixels of the {plural(kind.source)}"),
        ),
    ]
    lines = {"external": external["decision"], "test": metrics["decision"]}
    found = [
        Reliability(name, decision["calibration"][level]["before"]["bins"])
        for name, decision in lines.items()
        if level in decision["calibration"]
    ]
    if found:
        event = names[-1] if len(names) == 2 else ""
        figures.append(
            Figure(
                "external_reliability",
                "Reliability on external and on test data",
                "On the dashed line probabilities are right as often as they say; as the model gave them.",
                reliability_diagram(found, event, f"{plural(level).capitalize()}, as they are"),
            )
        )
    return figures
