"""The model that MLflow serves: a checkpoint with its code.

MLflow copies this file into the folder of a logged model and runs it when the model is loaded, so that no object is
pickled. No other module imports it, and it is the only one that does something on import: its last line.
"""

import base64
import binascii
import tempfile
import zlib
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.formats.image_files import decode_pixels, match_channels
from pipeline.inference.arrays import score_arrays
from pipeline.inference.probabilities import check_places, score_stack
from pipeline.preprocessing.images import fit_pixels
from pipeline.preprocessing.slicing import read_stack
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint

BATCH_SIZE = 256
CPU = torch.device("cpu")


class ServedCheckpoint(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow has no types for it
    """A model from prepared examples, volumes or image files to probabilities; the only artifact is the checkpoint."""

    def load_context(self, context: Any) -> None:
        """Read the checkpoint that was logged with the model."""
        self.checkpoint = read_checkpoint(Path(context.artifacts["checkpoint"]))
        self.classifier = build_from_checkpoint(self.checkpoint)

    # From an annotation of the input MLflow would build a signature of another kind.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Score examples, or volumes.

        A volume is the content of a NIfTI file and never a path, so that a request cannot read the server's files.

        Args:
            context: Not used.
            model_input: ``images``, each (height, width) or (channels, height, width), 0 to 255, prepared with the
                options in the checkpoint, or a point cloud (points, 3), z up, and ``slice_position``, each in
                [-1, 1], where the model reads it (neither is taken of whole scans); or ``nifti``, each the base64 text
                of a ``.nii`` or ``.nii.gz`` file, or of a ``.tar.gz`` or ``.zip`` of a DICOM series; or, of images of
                patients, ``files``, each the base64 text of an image file of any size.
            params: Not used.

        Returns:
            Probabilities (rows, classes) float64, classes in the checkpoint's order.

        Raises:
            MlflowException: The input cannot be scored; the server answers 400 with the reason.
        """
        columns = {name: [item for item in model_input[name] if item is not None] for name in model_input}
        try:
            if columns.get("nifti"):
                return np.stack([self._score_file(text) for text in _flatten(columns["nifti"])])
            if columns.get("files"):
                images = [self._read_image(text) for text in _flatten(columns["files"])]
                return self._score_examples(images, [0.0] * len(images))
            return self._score_examples(columns.get("images", []), columns.get("slice_position", []))
        except UserError as error:
            raise mlflow.exceptions.MlflowException.invalid_parameter_value(str(error)) from error

    def _score_examples(self, images: list[Any], slice_position: list[Any]) -> Array:
        scores = score_arrays(self.classifier, images, slice_position or None, CPU, BATCH_SIZE)
        return scores.astype(np.float64)

    def _score_file(self, text: str | bytes) -> Array:
        if not self.checkpoint.spec.kind.reads_scans:
            raise UserError(f"nifti: this model takes {self.checkpoint.spec.kind.name}, no volumes. Send images.")
        content, options = _decode("nifti", text), self.checkpoint.preprocess
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"sent{_choose_suffix(content)}"
            path.write_bytes(content)
            try:
                stack, _ = read_stack((path,), options)
                check_places(str(path), stack, self.checkpoint.spec)
            except UserError as error:  # the path on the server is not shown to the client
                raise UserError(str(error).replace(str(path), "nifti")) from error
        return score_stack(self.classifier, stack, self.checkpoint.spec, CPU, BATCH_SIZE)

    def _read_image(self, text: str | bytes) -> Array:
        spec = self.checkpoint.spec
        if spec.kind.reads_scans or not spec.kind.has_patients:
            raise UserError(f"files: this model takes {spec.kind.name} of its own size. Send images or nifti.")
        fitted = fit_pixels("files", decode_pixels("files", _decode("files", text)), self.checkpoint.preprocess)
        return match_channels("files", fitted.values, spec.num_channels)


def _decode(column: str, text: str | bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{column}: no base64 text. Send the bytes of a file as base64.") from error


def _choose_suffix(content: bytes) -> str:
    """Return the ending of the name that a sent file must have had, by its first bytes."""
    if content.startswith(b"PK"):
        return ".zip"
    try:
        start = zlib.decompressobj(wbits=31).decompress(content, 512) if content.startswith(b"\x1f\x8b") else content
    except zlib.error:  # damaged, which its reader reports
        start = b""
    return ".tar.gz" if start[257:262] == b"ustar" else ".nii"


def _flatten(texts: list[Any]) -> list[Any]:
    """Flatten a list of texts, which MLflow passes as one row that holds them all."""
    return [text for item in texts for text in (item if isinstance(item, list | np.ndarray) else [item])]


mlflow.models.set_model(ServedCheckpoint())
