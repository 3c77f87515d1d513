"""Trained models in Python: load one, ask it for the class of a file, or score arrays, without knowing the stages."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch

from pipeline.config.experiment import Experiment
from pipeline.config.outputs import EvaluateConfig, PredictConfig
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import UserError
from pipeline.core.predictions import probability_columns
from pipeline.core.text import count_words
from pipeline.export.hub_folder import WEIGHTS as HUB_WEIGHTS
from pipeline.export.mlflow_model import read_registered_checkpoint
from pipeline.inference.arrays import score_arrays
from pipeline.inference.inputs import find_scans
from pipeline.inference.predictions import score_examples, score_volumes
from pipeline.models.classifier import Classifier
from pipeline.training.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from pipeline.training.devices.selection import choose_accelerator

Accelerator = Literal["auto", "cpu", "cuda", "mps"]
REGISTRY = "models:/"
# The weights in the folder of a run, and in one for model hubs.
WEIGHTS = ("best.safetensors", HUB_WEIGHTS)


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one file.

    Args:
        path: The file, or the folder of a series.
        predicted: The class with the highest probability.
        probabilities: The probability of each class.
        abstained: Whether the answer is not to be used: its probability is below the least one that was asked for, or
            the file does not tell left from right.
        warnings: The reasons for which the answer is not to be trusted, in sentences; empty where there are none.
    """

    path: str
    predicted: str
    probabilities: dict[str, float]
    abstained: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TrainedModel:
    """A trained model that answers files and arrays; made by :func:`load_model`.

    Args:
        checkpoint: The weights and all that is known of them.
        classifier: The network with the statistics of its training images, in evaluation mode.
        device: The device that it computes on.
    """

    checkpoint: Checkpoint
    classifier: Classifier
    device: torch.device

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the columns of :meth:`predict_proba`."""
        return self.spec.class_names

    @property
    def spec(self) -> InputSpec:
        """The kind of data and the shape of the examples that the model reads."""
        return self.checkpoint.spec

    @overload
    def predict(  # type: ignore[overload-overlap]  # a text is also a sequence of texts, and means one file here
        self, inputs: str | os.PathLike[str], *, min_confidence: float = 0.0, batch_size: int = 256
    ) -> Prediction: ...
    @overload
    def predict(
        self, inputs: Iterable[str | os.PathLike[str]], *, min_confidence: float = 0.0, batch_size: int = 256
    ) -> list[Prediction]: ...
    def predict(
        self,
        inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        min_confidence: float = 0.0,
        batch_size: int = 256,
    ) -> Prediction | list[Prediction]:
        """Classify files, which are read, cut and scaled as those of the training were.

        The numbers are those of ``perceiver predict``.

        Args:
            inputs: A file (of scans NIfTI, an archive or the folder of a DICOM series; of images PNG, JPEG, TIFF, BMP
                or DICOM), or several of them, folders of them, and tables with a column ``path``.
            min_confidence: The least probability; an answer below it is marked ``abstained``.
            batch_size: The number of slices or images scored at once.

        Returns:
            A prediction; of several inputs a list, in the order of the files.

        Raises:
            UserError: A file that cannot be read; or a single folder or table that holds several scans.
        """
        options = PredictConfig(min_confidence=min_confidence)
        experiment = Experiment(evaluate=EvaluateConfig(batch_size=batch_size), predict=options)
        is_single = isinstance(inputs, str | os.PathLike)
        paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        scans, _ = find_scans([Path(path).expanduser() for path in paths], self.spec.kind)
        if is_single and len(scans) != 1:
            found = count_words(len(scans), self.spec.kind.file)
            raise UserError(f"{paths[0]}: holds {found}. Give it in a list, predict([path]), for an answer to each.")
        score = score_volumes if self.spec.kind.reads_scans else score_examples
        found_rows = list(score(scans, self.classifier, self.checkpoint, experiment, self.device))
        predictions = [self._describe(row) for row in found_rows]
        return predictions[0] if is_single else predictions

    def _describe(self, row: dict[str, Any]) -> Prediction:
        if "reason" in row:
            raise UserError(row["reason"])
        scores = zip(self.class_names, probability_columns(self.class_names), strict=True)
        probabilities = {name: float(row[column]) for name, column in scores}
        return Prediction(
            row["path"], row["predicted"], probabilities, bool(row["abstained"]), tuple(map(str, row["warnings"]))
        )

    def predict_proba(self, images: Any, slice_position: Any = None, *, batch_size: int = 256) -> Array:
        """Compute probabilities of files, or of arrays that are prepared already, as a store holds them.

        Args:
            images: Files, each as for ``predict``; or the images ``(examples, height, width)`` or ``(examples,
                channels, height, width)``, of whole scans ``(scans, slices, height, width)``, whole grey levels from 0
                to 255, of the size that the model was trained on; or point clouds ``(examples, points, 3)``, z up.
            slice_position: The place of each slice in its volume, -1 its left, posterior or inferior end and 1 the
                other; only for models of slices that read it. Of whole scans ``(scans, slices, 3)`` in mm: the place
                along the normal from the centre of the scan, and the height and width of the image; NaN for padding.
            batch_size: The number of examples scored at once.

        Returns:
            ``(examples, classes)`` float64, in the order of ``class_names``. Of the slices of one volume the mean is
            the volume's answer; of a file it is that of the volume.

        Raises:
            UserError: Another shape, values that are no grey levels, missing places, or a file that cannot be read.
        """
        given = [images] if isinstance(images, str | os.PathLike) else images
        if isinstance(given, list | tuple) and given and all(isinstance(item, str | os.PathLike) for item in given):
            answers = self.predict(list(given), batch_size=batch_size)
            assert isinstance(answers, list), "of a list the answers are a list"
            return np.array([[answer.probabilities[name] for name in self.class_names] for answer in answers])
        scores = score_arrays(self.classifier, images, slice_position, self.device, batch_size)
        return scores.astype(np.float64)


def load_model(
    address: str | os.PathLike[str], *, accelerator: Accelerator = "auto", tracking_uri: str | None = None
) -> TrainedModel:
    """Load a trained model.

    Args:
        address: A checkpoint (``runs/phantom/best.safetensors``), the folder of a run (``runs/phantom``) or for hubs
            (``runs/phantom/export/hub``), or a model in MLflow's registry (``models:/phantom/1`` or with an alias,
            ``models:/phantom@best``).
        accelerator: The hardware that it computes on; ``auto`` takes a GPU where there is one.
        tracking_uri: The address of MLflow's records, such as ``sqlite:///mlflow.db``; without it MLflow's own choice.

    Raises:
        UserError: There is no such model, or it is damaged.
    """
    text = os.fspath(address)
    if text.startswith(REGISTRY):
        checkpoint = read_registered_checkpoint(text, tracking_uri)
    else:
        checkpoint = read_checkpoint(_find_weights(Path(text).expanduser()))
    device = torch.device(choose_accelerator(accelerator))
    return TrainedModel(checkpoint, build_from_checkpoint(checkpoint, device), device)


def _find_weights(path: Path) -> Path:
    """Return a file of weights, or the one in a folder."""
    if not path.is_dir():
        return path
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    raise UserError(
        f"{path}: holds no {' or '.join(WEIGHTS)}. Give a checkpoint, or the folder of a trained run or for hubs."
    )
