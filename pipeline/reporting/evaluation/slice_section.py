"""The slices that carry the answers of whole scans in the report: filmstrips of wrong and uncertain ones."""

import numpy as np
import pandas as pd

from pipeline.attention.native_slices import read_native
from pipeline.attention.slices import weigh_slices
from pipeline.config.experiment import Experiment
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.core.text import make_printable
from pipeline.data.store import Store
from pipeline.datasets import find_raw_folder, list_sources
from pipeline.reporting.attention.filmstrips import NUM_MARKED, choose_marked, draw_filmstrip
from pipeline.reporting.elements import Figure, Section
from pipeline.reporting.formatting import show_goal
from pipeline.training.run_state import TrainedRun

# Scans of each sort. Each is scored once for each of its slices.
NUM_SHOWN = 2
WRONG, UNCERTAIN = "Wrong with the highest confidence", "Most uncertain"


def choose_scans(test: pd.DataFrame, class_names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Choose the wrong answers of the highest confidence, and of the others those of the lowest.

    Args:
        test: The predictions of the test rows.
        class_names: The names of the classes.

    Returns:
        For each the title and the example, at most ``NUM_SHOWN`` of a title.
    """
    confidence = test[[f"probability_{name}" for name in class_names]].max(axis=1)
    order = test.assign(confidence=confidence).sort_values(["confidence", "example_id"], ascending=[False, True])
    wrong = order.loc[order["label"] != order["predicted"], "example_id"].head(NUM_SHOWN)
    others = order.loc[~order["example_id"].isin(wrong), "example_id"].iloc[::-1].head(NUM_SHOWN)
    return [*((WRONG, name) for name in wrong), *((UNCERTAIN, name) for name in others)]


def build_slice_section(
    experiment: Experiment, run: TrainedRun, test: pd.DataFrame, manifest: pd.DataFrame
) -> list[Section]:
    """Weigh the slices of uncertain and of wrong scans, and draw them.

    Args:
        experiment: All options.
        run: The model that answered, and the data.
        test: The predictions of the test rows.
        manifest: A row a scan.

    Returns:
        One section; none where an example is no whole scan, or an ensemble answered.
    """
    store = run.data.store
    if not store.kind.has_places or experiment.evaluate.ensemble:
        return []
    chosen = choose_scans(test, store.class_names)
    rows = pd.Series(np.arange(len(store.index)), index=store.index["example_id"])[[name for _, name in chosen]]
    native = _read_own_pixels(experiment, run, rows.tolist(), manifest)
    figures, counts = [], dict.fromkeys((WRONG, UNCERTAIN), 0)
    for place, ((title, name), row) in enumerate(zip(chosen, rows.tolist(), strict=True)):
        weights = weigh_slices(run.classifier, store, row)
        images = np.asarray(store.examples[row][: len(weights.lost)]) if native is None else native[place]
        strip = draw_filmstrip(images, weights, "mm" if store.kind.reads_scans else "voxels")
        counts[title] += 1
        scores = weights.probabilities
        carried = ", ".join(map(str, choose_marked(weights)))
        text = (
            f"{make_printable(name)}: true {weights.label}, predicted {store.class_names[int(scores.argmax())]} "
            f"({show_goal(scores.max())} confident). "
            + (f"Slices that carry it: {carried}." if carried else "No slice by itself carries it.")
        )
        figures.append(Figure(f"slices_{place + 1}", f"{title} {counts[title]}", text, strip, is_sheet=True))
    sentences = (
        "Each slice of a scan is left out in turn. Below it is what the probability of the predicted class then loses, "
        f"in percentage points, and the fraction of the attention that it gets; the {NUM_MARKED} slices without which "
        "the answer loses most have a border, where it loses anything: a certain answer may not, and of two slices "
        "that show the same each can be left out. Attention explains no answer.",
        "Slices are drawn in "
        + ("the stored pixels." if native is None else "the scans' own pixels.")
        + " The stage attention shows more scans, and writes the weights of all their slices.",
    )
    return [Section("The slices that carry an answer", sentences, figures=tuple(figures), part="looks")]


def _read_own_pixels(
    experiment: Experiment, run: TrainedRun, rows: list[int], manifest: pd.DataFrame
) -> list[Array] | None:
    """Read the slices of scans in the scans' own pixels; None where a scan is away, or none was cut."""
    store: Store = run.data.store
    if not store.kind.reads_scans:
        return None
    digests = manifest.set_index("source_id")["sha256"]
    chosen = store.index["source_id"].iloc[rows]
    try:
        raw = find_raw_folder(experiment)
        sources = {source.source_id: source for source in list_sources(experiment).sources}
        options = run.checkpoint.preprocess
        if not sources.keys() >= set(chosen):
            return None
        return [read_native(raw, sources[name], options, str(digests[name]))[0] for name in chosen]
    except UserError:  # the report needs the store alone
        return None
