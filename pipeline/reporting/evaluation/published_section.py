"""Published scores in a section of the report, next to those of the run."""

from pipeline.datasets.medmnist import Variant
from pipeline.datasets.published_scores import PUBLISHED_SCORES, SOURCE
from pipeline.evaluation.schema import Metrics, first_level
from pipeline.reporting.elements import Section, Table
from pipeline.reporting.formatting import show_fraction, show_number, show_score

COLUMNS = ("Model", "AUROC", "Accuracy")


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
    rows = [("This model", *(show_score(name, scores[name]) for name in ("auroc", "accuracy")))]
    rows += [(score.model, show_number(score.auc), show_fraction(score.accuracy)) for score in published]
    text = (
        f"From {SOURCE}, computed as here: of more than two classes the AUROC is the mean over one against the rest. "
        "In brackets: 95\u00a0% intervals, which were not published; a difference within the interval of this model "
        "shows nothing."
    )
    table = Table("This model and published ones", COLUMNS, tuple(rows), is_first_marked=True)
    return [Section("Compared with published scores", (text,), (table,))]
