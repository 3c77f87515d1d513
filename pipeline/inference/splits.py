"""Probabilities of the validation and the test rows of a trained run.

Not in ``probabilities``, which a MONAI bundle carries: a bundle knows neither splits nor options.
"""

from pipeline.core.array_types import Array
from pipeline.core.predictions import Mirrored
from pipeline.inference.probabilities import compute_probabilities, score_with_mirrored
from pipeline.training.augmentation import shows_laterality
from pipeline.training.run_state import TrainedRun


def score_splits(run: TrainedRun, batch_size: int) -> tuple[dict[str, Array], Mirrored | None]:
    """Score the validation and the test rows.

    Args:
        run: The trained model and its data.
        batch_size: Examples scored at once.

    Returns:
        The probabilities ``(rows, classes)`` of "val" and "test"; the network's answers to the test rows and to their
        mirror images, where a mirror image is one of the other label, else None.
    """
    store, rows = run.data.store, run.data.rows
    arguments = (run.classifier, store.examples, store.index["slice_position"].to_numpy(), run.device, batch_size)
    val = compute_probabilities(*arguments, rows["val"])
    if not shows_laterality(store.kind, store.class_names, run.checkpoint.preprocess.plane):
        return {"val": val, "test": compute_probabilities(*arguments, rows["test"])}, None
    answers, mirrored = score_with_mirrored(*arguments, rows["test"])
    return {"val": val, "test": answers}, mirrored
