"""How MLflow serves a checkpoint.

MLflow copies this file beside a logged model and runs it when the model is loaded, so that no object
is pickled. Nothing else imports it; that is why it alone does something on import: its last line.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from pipeline.checkpoint import build_from_checkpoint, read_checkpoint
from pipeline.scoring import compute_probabilities


class ServedCheckpoint(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow has no types for it
    """Pictures in, probabilities out; the only artifact is the checkpoint."""

    def load_context(self, context: Any) -> None:
        """Read the checkpoint that was logged with the model."""
        self.checkpoint = read_checkpoint(Path(context.artifacts["checkpoint"]))
        self.classifier = build_from_checkpoint(self.checkpoint)

    # MLflow reads an annotation of the input as a wish for a signature of another kind.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Score pictures.

        Args:
            context: not used.
            model_input: ``images`` (batch, height, width) or (batch, channels, height, width) uint8, prepared
                as the checkpoint says, or point clouds (batch, points, 3) float32, z up; and ``slice_position``
                (batch,) float32 in [-1, 1].
            params: not used.

        Returns:
            Probabilities (batch, classes), classes in the checkpoint's order.
        """
        dtype = np.float32 if self.checkpoint.kind == "points" else np.uint8
        images = np.asarray(model_input["images"], dtype=dtype)
        slice_position = np.asarray(model_input["slice_position"], dtype=np.float32)
        return compute_probabilities(self.classifier, images, slice_position, torch.device("cpu"), batch_size=256)


mlflow.models.set_model(ServedCheckpoint())
