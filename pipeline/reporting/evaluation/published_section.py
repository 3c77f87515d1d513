"""Published scores in a section of the report, next to those of the run."""

from pipeline.datasets.medmnist import Variant
from pipeline.datasets.published_scores import PUBLISHED_SCORES, SOURCE
from pipeline.evaluation.schema import Metrics, first_level
from pipeline.reporting.elements import Section, Table
from pipeline.reporting.formatting import show_estimate, show_number

COLUMNS = ("Model", "AUC", "95\u00a0% interval", "Accuracy", "95\u00a0% interval")


def build_published_section(metrics: Metrics, variant: Variant | None) -> list[Section]:
    """Put the published scores on a set next to those of the run; nothing where none are known.

    Args:
        metrics: The content of metrics.json.
        variant: The set and its size; None for data that are no set of a collection.
    """
    published = () if variant is None else PUBLISHED_SCORES.get(variant.file_name.removesuffix(".npz"), ())
    if not published:
        return []
    scores = first_level(metrics["levels"])[1]["metrics"]
    rows = [("This model", *show_estimate(scores["auroc"]), *show_estimate(scores["accuracy"]))]
    rows += [(score.model, show_number(score.auc), "", show_number(score.accuracy), "") for score in published]
    text = (
        f"From {SOURCE}, computed as here: of more than two classes the AUC is the mean over one against the rest. "
        "Published without intervals; a difference within the interval of this model shows nothing."
    )
    table = Table("This model and published ones", COLUMNS, tuple(rows), is_first_marked=True)
    return [Section("Compared with published scores", (text,), (table,))]
