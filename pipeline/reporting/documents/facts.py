"""Facts of a run, in sentences, for the model card and the CLAIM checklist.

A fact that no file of the run holds is absent; the forms then mark the entry as open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import DataKind
from pipeline.core.files import write_bytes
from pipeline.core.text import count_words, plural
from pipeline.evaluation.metrics import list_mistakes
from pipeline.evaluation.schema import Level, Metrics, count_correct, first_level
from pipeline.evaluation.scores import METRIC_NAMES, METRIC_TITLES
from pipeline.evaluation.validity.limitations import describe_not_evaluated
from pipeline.reporting.documents.data_facts import DataEvidence, describe_data
from pipeline.reporting.documents.forms import Document, fill_form, read_form, render_markdown
from pipeline.reporting.documents.model_facts import describe_members, describe_model
from pipeline.reporting.evaluation.external_section import (
    UNCHANGED,
    describe_drift,
    describe_external_calibration,
    summarise_external,
)
from pipeline.reporting.evaluation.flow_diagram import describe_flow
from pipeline.reporting.evaluation.origin_section import describe_ensemble
from pipeline.reporting.evaluation.scores import (
    describe_few_groups,
    describe_sample_size,
    distinct_levels,
    summarise_in_words,
)
from pipeline.reporting.evaluation.shortcut_section import PART_TITLES, list_parts
from pipeline.reporting.formatting import (
    BASELINE_TITLES,
    LEVEL_TITLES,
    humanise,
    show_number_with_interval,
    show_percent,
)
from pipeline.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Evidence:
    """The records that the facts of a document are taken from.

    Args:
        experiment: All options.
        checkpoint: The weights that were evaluated.
        num_parameters: The number of parameters of the network.
        data: The tables about the data and their split.
        metrics: The content of metrics.json.
        models: Of an ensemble the name and the checkpoint of each model.
    """

    experiment: Experiment
    checkpoint: Checkpoint
    num_parameters: int
    data: DataEvidence
    metrics: Metrics
    models: Sequence[tuple[str, Checkpoint]] = ()


def fill_documents(
    evidence: Evidence, has_attention: bool = False, section_titles: Sequence[str] = ()
) -> dict[str, Document]:
    """Fill in the forms: a model card for every data set, CLAIM where it is made of patients.

    Args:
        evidence: The records that the facts are taken from.
        has_attention: Whether attention is drawn in the report.
        section_titles: The titles of the report's sections on conditions that may change the accuracy.

    Returns:
        The filled forms, under the names of their files without ``.md``.
    """
    experiment, checkpoint, metrics = evidence.experiment, evidence.checkpoint, evidence.metrics
    facts = describe_data(experiment, checkpoint, evidence.data)
    facts |= describe_model(checkpoint, evidence.num_parameters)
    facts |= describe_results(
        metrics, checkpoint.spec.kind, experiment.evaluate.num_bootstrap_resamples, experiment.evaluate.seed
    )
    if "ensemble" in metrics:
        facts["ensemble"] = describe_ensemble(metrics["ensemble"])
        of_members = describe_members(evidence.models)
        facts["model"] += of_members.pop("other networks", "")
        facts |= of_members
    facts |= {"flow": " ".join(describe_flow(evidence.data.flow))}
    if has_attention:
        facts["explanation"] = (
            "Cross-attention by layer and head is drawn over validation examples. It shows where the model looks; it "
            "was not validated against anything."
        )
    if section_titles:
        facts["robustness"] += f" Examined in this report: {'; '.join(section_titles)}."
    if "external" in metrics:
        facts["external"] = describe_external(metrics, checkpoint.spec.kind)
    names = ("model_card", "claim_checklist") if checkpoint.spec.kind.has_patients else ("model_card",)
    return {name: fill_form(read_form(name), facts) for name in names}


def write_documents(folder: Path, documents: Mapping[str, Document]) -> None:
    """Write each filled form as Markdown, under its name."""
    for name, document in documents.items():
        write_bytes(folder / f"{name}.md", render_markdown(document).encode())


def describe_results(metrics: Metrics, kind: DataKind, num_resamples: int, seed: int) -> dict[str, str]:
    """Describe the scores, how they were computed, and their values.

    Args:
        metrics: The content of metrics.json.
        kind: The kind of data, which names rows and groups.
        num_resamples: The number of resamples of the bootstrap.
        seed: The seed of the bootstrap's random number generator.
    """
    level_name, level = first_level(metrics["levels"])
    names = list(level["support"])
    facts = {
        "measures": f"{'; '.join(METRIC_TITLES[name] for name in METRIC_NAMES)}.",
        "intervals": (
            f"95 % intervals over {plural(kind.group)}: for proportions of a beta-binomial model, or the exact bound "
            "where all rows are alike; for the AUROC of two classes of Obuchowski's clustered variance; for other "
            f"scores of {num_resamples:,} bootstrap resamples (seed {seed}), where {plural(kind.group)} are enough. "
            "Average precision, calibration slope and intercept have intervals of the influence of each "
            f"{kind.group}, under the same condition; average precision and net benefit also need enough "
            f"{plural(kind.group)} with each event that they count. No hypothesis was tested."
        ),
        "test_size": (
            f"{count_words(level['n'], level_name)}"
            + (f" of {count_words(level['groups'], kind.group)}" if kind.has_patients else "")
            + f" were tested; no number was planned. {describe_sample_size(level_name, level, kind)}"
        ),
        "internal": f"The {metrics['split']} split, of the same source as the training rows.",
        "results": " ".join(summarise_in_words({**metrics, "baselines": {}}, kind)),
        "baselines": "; ".join(
            f"{BASELINE_TITLES.get(name, humanise(name)).lower()} {show_percent(scores['accuracy'])}"
            for name, scores in metrics["baselines"].items()
        ),
        "failures": _describe_failures(metrics, kind),
        "robustness": _describe_robustness(metrics),
        "limits": _describe_limits(metrics, level, kind),
    }
    if len(names) == 2:
        facts["diagnostic"] = " ".join(
            f"{LEVEL_TITLES.get(name, humanise(name))}, positive class {list(content['support'])[-1]}: "
            + ", ".join(_show_score(content, metric) for metric in ("sensitivity", "specificity", "auroc"))
            + "."
            for name, content in distinct_levels(metrics["levels"]).items()
            if len(content["support"]) == 2
        )
    facts["details"] = (
        "metrics.json and predictions.csv are in the folder of the report; the configuration, fingerprints, versions "
        "and the leak certificate are in the report."
    )
    return facts


def _show_score(level: Level, metric: str) -> str:
    score = level["metrics"][metric]
    return f"{METRIC_TITLES[metric]} {show_number_with_interval(score)}"


def describe_external(metrics: Metrics, kind: DataKind) -> str:
    """Describe an external validation: whose data, what they gave, and how they differ from training.

    Args:
        metrics: The content of metrics.json, with ``external``.
        kind: The kind of data, which names rows and groups.
    """
    external = metrics["external"]
    left_out = "; ".join(f"{reason} ({number:,})" for reason, number in external["left_out"].items())
    return " ".join(
        [
            *summarise_external(metrics, kind),
            f"Left out of the table: {left_out or 'no row'}. {UNCHANGED}",
            f"Tables with a {kind.group} of the run are refused. {external['search']}",
            *describe_external_calibration(external, metrics["class_names"]),
            *describe_drift(external["drift"], kind),
        ]
    )


def _describe_failures(metrics: Metrics, kind: DataKind) -> str:
    """Count the wrong rows and what they have in common: patients, classes, and the subgroup with most of them."""
    level_name, level = first_level(metrics["levels"])
    total, correct = count_correct(level["confusion"])
    wrong = total - correct
    if wrong == 0:
        return f"None of {count_words(total, level_name)} was predicted wrongly."
    patients = f", of {level['groups_with_errors']:,} of {count_words(level['groups'], kind.group)}"
    mistakes = list_mistakes(np.array(level["confusion"]), list(level["support"]))
    return " ".join(
        [
            f"{wrong:,} of {count_words(total, level_name)} {'was' if wrong == 1 else 'were'} predicted wrongly"
            f"{patients if kind.has_patients else ''}; the report shows the most confident of them.",
            *mistakes,
            *_describe_worst_subgroup(metrics, kind),
        ]
    )


def _describe_worst_subgroup(metrics: Metrics, kind: DataKind) -> list[str]:
    """Name the visit or quartile of brightness with the lowest accuracy; nothing where all are alike."""
    parts = [(title, part) for title, found in list_parts(metrics["probes"]).items() for part in found]
    accuracies = [part.accuracy["value"] for _, part in parts if part.accuracy["value"] is not None]
    if len(set(accuracies)) < 2:
        return []
    title, worst = next(item for item in parts if item[1].accuracy["value"] == min(accuracies))
    patients = f" of {count_words(worst.subgroup['groups'], kind.group)}" if kind.has_patients else ""
    size = f"{count_words(worst.subgroup['n'], kind.example)}{patients}"
    return [
        f"The lowest accuracy by {PART_TITLES[title]} is {show_percent(worst.accuracy)}, in {worst.label} ({size})."
    ]


def _describe_robustness(metrics: Metrics) -> str:
    """Give the range of accuracies over each kind of subgroup, and the fraction of flipped predictions."""
    sentences = []
    for title, found in list_parts(metrics["probes"]).items():
        accuracies = [part.accuracy["value"] for part in found if part.accuracy["value"] is not None]
        if len(accuracies) > 1:
            sentences.append(
                f"Accuracy by {PART_TITLES[title]} ({len(accuracies)}): {min(accuracies):.1%} to {max(accuracies):.1%}."
            )
    if "mirror" in metrics["probes"]:
        flipped = metrics["probes"]["mirror"]["flipped_without_averaging"]
        sentences.append(f"Mirrored, {show_percent(flipped)} of the predictions change.")
    if not sentences:
        return "No condition of acquisition was compared."
    return " ".join(sentences)


def _describe_limits(metrics: Metrics, level: Level, kind: DataKind) -> str:
    limits = [str(metrics["synthetic_note"])] if metrics["synthetic_note"] else []
    limits += describe_few_groups(level, kind) if kind.has_patients else []
    external = " and one table of another site" if "external" in metrics else ""
    return " ".join(
        [
            *limits,
            f"One split of one data set{external}; the intervals do not include the variation between training seeds.",
            describe_not_evaluated(metrics["not_evaluated"]),
        ]
    )
