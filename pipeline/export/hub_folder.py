"""A trained model as a folder for model hubs: weights, config, and a README with the front matter that hubs read.

``load_model`` reads the folder back.

Source:
    Model cards of the Hugging Face Hub, https://huggingface.co/docs/hub/model-cards.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.files import read_json, write_bytes, write_json
from pipeline.core.serialization import to_plain
from pipeline.core.text import count_words
from pipeline.core.workspace import Workspace
from pipeline.training.checkpoint import Checkpoint

WEIGHTS = "model.safetensors"
LIBRARY = "perceiver-knees"
NO_LICENCE = "other"  # the hubs' word for a licence that is none of theirs
METRICS = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "auroc": "AUROC"}


@dataclass(frozen=True)
class Handover:
    """The facts that are handed on with the weights.

    Args:
        name: The name of the experiment.
        licence: The licence of the weights, as hubs write it, such as ``apache-2.0``.
        metrics: The content of metrics.json; None where these weights were not evaluated.
        model_card: The model card as Markdown; empty where there is none.
    """

    name: str
    licence: str
    metrics: Mapping[str, Any] | None = None
    model_card: str = ""


def read_handover(paths: Workspace, licence: str, digest: str, is_best: bool) -> Handover:
    """Read what is known of a run's weights: the scores and the model card of their evaluation.

    Args:
        paths: The folders of the run.
        licence: The licence of the weights.
        digest: The digest of the weights; an evaluation of others says nothing of them.
        is_best: Whether the weights are the run's best. An evaluation by an older version, which kept no digest, is
            taken for theirs where it is later than the training.
    """
    card = paths.report_folder / "model_card.md"
    metrics = read_json(paths.metrics) if paths.metrics.is_file() else None
    if metrics is None or not _is_of(metrics, paths, digest, is_best):
        return Handover(paths.name, licence)
    text = card.read_text("utf-8") if card.is_file() else ""
    return Handover(paths.name, licence, metrics, text)


def _is_of(metrics: Mapping[str, Any], paths: Workspace, digest: str, is_best: bool) -> bool:
    if "weights" in metrics:
        return bool(metrics["weights"] == digest)
    record = paths.training_record
    return is_best and record.is_file() and paths.metrics.stat().st_mtime_ns >= record.stat().st_mtime_ns


def write_hub_folder(folder: Path, path: Path, checkpoint: Checkpoint, handover: Handover) -> None:
    """Write the folder.

    Args:
        folder: The folder to write; it must not exist.
        path: The file of the checkpoint.
        checkpoint: Its content.
        handover: What is handed on with the weights.
    """
    folder.mkdir()
    shutil.copyfile(path, folder / WEIGHTS)
    config = {
        "library_name": LIBRARY,
        "class_names": list(checkpoint.spec.class_names),
        "kind": checkpoint.spec.kind.name,
        "stored_shape": list(checkpoint.spec.stored_shape),
        "model": to_plain(checkpoint.model),
        "preprocess": to_plain(checkpoint.preprocess),
    }
    write_json(folder / "config.json", config)
    front = yaml.safe_dump(describe_front_matter(checkpoint, handover), sort_keys=False, allow_unicode=True)
    write_bytes(folder / "README.md", f"---\n{front}---\n\n{_describe_use(checkpoint, handover)}".encode())


def describe_front_matter(checkpoint: Checkpoint, handover: Handover) -> dict[str, Any]:
    """Return the fields that hubs read: library, task, licence, data sets and scores with their intervals.

    Args:
        checkpoint: The trained model.
        handover: What is handed on with the weights.
    """
    kind = checkpoint.spec.kind
    task = {"pipeline_tag": "image-classification"} if kind.is_image else {}
    tags = ["perceiver", *(["medical"] if kind.has_patients else []), *(["3d"] if kind.reads_scans else [])]
    front: dict[str, Any] = {"license": handover.licence, "library_name": LIBRARY, **task, "tags": tags}
    front["datasets"] = [handover.name]
    if handover.metrics is None:
        return front
    results = [
        {
            "task": {"type": task.get("pipeline_tag", "other")},
            "dataset": {
                "name": f"{handover.name}, {level}s",
                "type": handover.name,
                "split": handover.metrics["split"],
            },
            "metrics": [
                {"type": metric, "name": _name_metric(title, content["metrics"][metric]), "value": value}
                for metric, title in METRICS.items()
                if (value := content["metrics"][metric]["value"]) is not None
            ],
        }
        for level, content in handover.metrics["levels"].items()
    ]
    return front | {"model-index": [{"name": handover.name, "results": results}]}


def _name_metric(title: str, estimate: Mapping[str, Any]) -> str:
    """Return the title of a score with its interval, for which hubs have no field."""
    if estimate["low"] is None:
        return f"{title} (no interval: {estimate['reason']})" if estimate["reason"] else title
    return f"{title} (95 % interval {estimate['low']:.4f} to {estimate['high']:.4f})"


def _describe_use(checkpoint: Checkpoint, handover: Handover) -> str:
    names = ", ".join(checkpoint.spec.class_names)
    file = f"new{checkpoint.spec.kind.file_suffixes[0]}"
    lines = [
        f"# {handover.name}: {names}",
        "",
        f"A {checkpoint.model.architecture} that reads {checkpoint.spec.kind.file}s. Research software: it makes no "
        "diagnosis and is no medical device.",
        "",
        "```python",
        f"from pipeline import load_model  # pip install {LIBRARY}",
        "",
        'model = load_model("folder/of/this/README")',
        f'model.predict("{file}").probabilities',
        "```",
        "",
    ]
    if handover.licence == NO_LICENCE:
        lines += ["The licence of the weights is not stated; the code is under Apache-2.0.", ""]
    if handover.metrics is None:
        lines += ["These weights were not evaluated.", ""]
    else:
        level, content = next(iter(handover.metrics["levels"].items()))
        lines += [f"Scores on {count_words(content['n'], level)} that were not trained on:", ""]
        lines += ["| score | value |", "|---|---|"]
        for metric, title in METRICS.items():
            found = content["metrics"][metric]
            if found["value"] is not None:
                lines.append(f"| {_name_metric(title, found)} | {found['value']:.4f} |")
        lines.append("")
    card = handover.model_card.strip()
    return "\n".join([*lines, card, ""] if card else lines)
