"""The origin of the answers: the members of an ensemble in a section of the report, and a search in a sentence."""

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words
from pipeline.evaluation.schema import EnsembleFacts, Metrics
from pipeline.reporting.elements import Section, Table
from pipeline.reporting.formatting import DASH


def describe_recipes(num_tried: int) -> list[str]:
    """Write how many recipes were compared before that of a model was chosen; nothing for 0.

    Args:
        num_tried: The number of recipes.
    """
    if num_tried == 0:
        return []
    return [
        f"The recipe is the best of {count_words(num_tried, 'recipe')} that were compared on validation, so that its "
        "scores on validation look better than they are."
    ]


def describe_ensemble(facts: EnsembleFacts) -> str:
    """Describe an ensemble in a sentence or two.

    Args:
        facts: Its members, and what was not fitted.
    """
    names = ", ".join(member["name"] for member in facts["members"])
    text = f"The mean of the probabilities of {count_words(len(facts['members']), 'model')}: {names}."
    if facts["not_fitted"]:
        text += f" Nothing is fitted on validation, neither temperature nor thresholds: {facts['not_fitted']}."
    return text


def build_ensemble_section(metrics: Metrics, kind: DataKind) -> list[Section]:
    """List the members of an ensemble; nothing for a single model.

    Args:
        metrics: The content of metrics.json.
        kind: The kind of data, which names the groups.
    """
    if "ensemble" not in metrics:
        return []
    facts = metrics["ensemble"]
    rows = [
        (
            member["name"],
            DASH if member["seed"] is None else str(member["seed"]),
            DASH if member["test_fold"] is None else str(member["test_fold"]),
            str(member["epoch"]),
        )
        for member in facts["members"]
    ]
    table = Table("Members of the ensemble", ("Run", "Seed", "Test fold", "Epoch of its weights"), tuple(rows))
    sentences = (
        describe_ensemble(facts),
        f"In its own run no member was trained on a test {kind.group}, or chosen on one. Attention, the curves of "
        f"training and the facts of the network are those of {facts['members'][0]['name']}.",
    )
    return [Section("Ensemble", sentences, (table,))]
