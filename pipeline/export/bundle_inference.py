"""Inference in a MONAI bundle: from NIfTI files or DICOM series to a JSON file with the probabilities of each volume.

The export stage copies this file, and the modules that it imports, into the bundle's ``scripts`` folder, so that a
volume is cut and scored by the same code there and here.
"""

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.config.data import PreprocessConfig
from pipeline.config.model import ModelConfig
from pipeline.core.data_kinds import InputSpec
from pipeline.core.predictions import choose_class
from pipeline.core.serialization import build_record
from pipeline.formats.archives import SUFFIXES as ARCHIVE_SUFFIXES
from pipeline.formats.dicom import list_series
from pipeline.inference.probabilities import score_stack
from pipeline.models.classifier import Classifier, ProbabilityModel
from pipeline.models.networks import build_model
from pipeline.preprocessing.slicing import read_stack

SUFFIXES = (".nii", ".nii.gz", *ARCHIVE_SUFFIXES)
BATCH_SIZE = 256


def build_network(model: dict[str, Any], facts: dict[str, Any]) -> ProbabilityModel:
    """Build the network with new random weights.

    Args:
        model: The fields of ``ModelConfig``.
        facts: The fields of ``InputSpec``, with the statistics and the loss of the training.

    Returns:
        A module from prepared slices (batch, channels, height, width), 0 to 255, to probabilities (batch, classes).
    """
    config, spec = build_record(ModelConfig, model), build_record(InputSpec, facts["spec"])
    network = build_model(config, spec, seed=0)
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    return ProbabilityModel(Classifier(network, config, spec, mean, std, facts["loss"]))


def load_network(network: ProbabilityModel, weights: str, device: torch.device) -> ProbabilityModel:
    """Load weights without running any code of the file, and switch the network to evaluation.

    Args:
        network: The network, as :func:`build_network` returns it.
        weights: The path of the file with its weights.
        device: The device that it runs on.
    """
    network.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    return network.to(device).eval()


def find_volumes(folder: Path) -> list[Path]:
    """List the volumes in a folder and below, sorted; a folder with DICOM files in it is a volume.

    Args:
        folder: The folder.
    """
    found = sorted(folder.rglob("*"))
    series = [path for path in (folder, *found) if path.is_dir() and list_series(path)]
    return sorted([*(path for path in found if path.name.lower().endswith(SUFFIXES)), *series])


def score_volumes(
    network: ProbabilityModel,
    preprocess: dict[str, Any],
    class_names: list[str],
    dataset_dir: str,
    output: str,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Score volumes and write the probabilities.

    Args:
        network: The network with its weights.
        preprocess: The fields of ``PreprocessConfig``, by which volumes are cut.
        class_names: The class names, in the order of the probabilities.
        dataset_dir: The path of a NIfTI file, of a DICOM series (a folder or an archive), or of a folder of them.
        output: The path of the JSON file to write.
        device: The device that the network is on.

    Returns:
        For each volume path, predicted class, probabilities and number of slices.

    Raises:
        UserError: A file that cannot be read, or no file.
    """
    options = build_record(PreprocessConfig, preprocess)
    given, rows = Path(dataset_dir), []
    for path in find_volumes(given) if given.is_dir() else [given]:
        stack, _ = read_stack((path,), options)
        scores = score_stack(network.classifier, stack, device, BATCH_SIZE)
        probabilities = dict(zip(class_names, scores.tolist(), strict=True))
        predicted = class_names[choose_class(scores)]
        row = {"path": str(path), "predicted": predicted, "probabilities": probabilities}
        rows.append(row | {"num_slices": len(stack.images)})
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return rows
