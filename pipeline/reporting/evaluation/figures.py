"""The figures of one evaluation, from predictions, metrics and history."""

import numpy as np
import pandas as pd

from pipeline.attention.maps import compute_kept_maps, has_attention
from pipeline.data.certified_data import CertifiedData
from pipeline.data.store import Store
from pipeline.evaluation.auroc import compute_roc_curves
from pipeline.evaluation.class_scores import compute_precision_recall_curves
from pipeline.evaluation.schema import Metrics, first_level
from pipeline.models.classifier import Classifier
from pipeline.reporting.attention.sheets import choose_maps, draw_maps
from pipeline.reporting.evaluation.scores import distinct_levels
from pipeline.reporting.figures.classification import confusion_matrix, precision_recall_curve, roc_curve
from pipeline.reporting.figures.decision import Reliability, reliability_diagram
from pipeline.reporting.figures.image_grid import contact_sheet
from pipeline.reporting.figures.intervals import model_and_baselines
from pipeline.reporting.figures.runs import training_curves
from pipeline.reporting.formatting import BASELINE_TITLES, humanise, show_number_with_interval, show_percent
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.history import find_best

NUM_MISTAKES = 24


def draw_figures(store: Store, test: pd.DataFrame, metrics: Metrics) -> dict[str, bytes]:
    """Draw the results on the test rows.

    Args:
        store: The examples.
        test: The predictions table of the test rows.
        metrics: The content of metrics.json.

    Returns:
        Files, SVG or PNG, under their names.
    """
    names = store.class_names
    level_name, level = first_level(metrics["levels"])
    title = f"{level_name.capitalize()}s, test"
    baselines = {
        BASELINE_TITLES.get(name, humanise(name)): scores["accuracy"] for name, scores in metrics["baselines"].items()
    }
    chance = BASELINE_TITLES["majority"]
    figures = {
        "answer": model_and_baselines(level["metrics"]["accuracy"], baselines, chance, f"Accuracy, {title.lower()}")
    }
    figures |= {
        f"confusion_{level}": confusion_matrix(content["confusion"], names, f"{level.capitalize()}s, test")
        for level, content in distinct_levels(metrics["levels"]).items()
    }
    auroc = level["metrics"]["auroc"]
    auroc_text = f"AUROC {show_number_with_interval(auroc)}" if auroc["value"] is not None else ""
    figures["roc"] = roc_curve(compute_roc_curves(test, names), title, auroc_text)
    positive = metrics["classes"][level_name]["classes"][names[-1]]["average_precision"]
    has_one = len(names) == 2 and positive["value"] is not None
    precision_text = f"Average precision {show_percent(positive)}" if has_one else ""
    figures["precision_recall"] = precision_recall_curve(
        compute_precision_recall_curves(test, names), title, precision_text
    )
    calibration = metrics["decision"]["calibration"].get(level_name)
    if calibration is not None:
        figures["calibration"] = reliability_diagram(
            [Reliability("model", calibration["before"]["bins"])], names[-1] if len(names) == 2 else "", title
        )
    mistakes = draw_mistakes(store, test)
    if mistakes is not None:
        figures["worst_mistakes"] = mistakes
    return figures


def draw_attention(classifier: Classifier, data: CertifiedData, num_examples: int, epoch: int) -> dict[str, bytes]:
    """Draw the attention maps of a few validation examples.

    Args:
        classifier: The trained model.
        data: The examples and their splits.
        num_examples: The number of examples.
        epoch: The number of epochs that the weights were trained for.

    Returns:
        A figure of each example, ``attention_1`` and so on; none for a network without attention.
    """
    if not has_attention(classifier.model):
        return {}
    maps = compute_kept_maps(classifier, data, num_examples, epoch)
    places = range(len(maps.example_ids))  # of a small split fewer than were wanted
    return {f"attention_{place + 1}": draw_maps(choose_maps(maps, place), "validation") for place in places}


def draw_curves(checkpoint: Checkpoint, history: pd.DataFrame | None = None) -> bytes:
    """Draw the epochs of a run.

    Args:
        checkpoint: The weights that were evaluated; their epoch is marked.
        history: All epochs of the run; without it, as for a checkpoint from elsewhere, those up to its own.
    """
    if history is None:
        history = pd.DataFrame([vars(result) for result in checkpoint.history])
    best = find_best(checkpoint.history, checkpoint.settings["train.monitor"]).epoch
    return training_curves(history, best)


def draw_mistakes(store: Store, test: pd.DataFrame) -> bytes | None:
    """Draw the wrong predictions of the highest confidence; None where there are none."""
    wrong = test[test["label"] != test["predicted"]].copy()
    if wrong.empty:
        return None
    columns = [f"probability_{name}" for name in store.class_names]
    wrong["confidence"] = wrong[columns].max(axis=1)
    worst = wrong.sort_values(["confidence", "example_id"], ascending=[False, True]).head(NUM_MISTAKES)
    place_of = pd.Series(np.arange(len(store.index)), index=store.index["example_id"])
    images = [store.draw(place_of[name]) for name in worst["example_id"]]
    captions = [
        f"{row.group_id}\ntrue: {row.label}\nanswer: {row.predicted}\n({row.confidence:.0%} confident)"
        for row in worst.itertuples()
    ]
    return contact_sheet(images, captions)
