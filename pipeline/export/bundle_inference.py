"""Inference in a MONAI bundle: from volumes or images to a JSON file with the probabilities of each.

The export stage copies this file, and the modules that it imports, into the bundle's ``scripts`` folder, so that a
volume is cut, an image fitted, and both are scored by the same code there and here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config.data import PreprocessConfig
from pipeline.config.model import ModelConfig
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import IMAGE_SUFFIXES, InputSpec
from pipeline.core.errors import UserError
from pipeline.core.predictions import choose_class
from pipeline.core.serialization import build_record
from pipeline.formats.archives import SUFFIXES as ARCHIVE_SUFFIXES
from pipeline.formats.dicom import is_dicom, list_series
from pipeline.inference.probabilities import check_places, compute_probabilities, score_stack
from pipeline.models.classifier import Classifier, ProbabilityModel
from pipeline.models.networks import build_model
from pipeline.preprocessing.images import read_stored
from pipeline.preprocessing.slicing import read_stack

VOLUME_SUFFIXES = (".nii", ".nii.gz", *ARCHIVE_SUFFIXES)
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


def find_inputs(folder: Path, are_volumes: bool) -> list[Path]:
    """List the volumes or the images in a folder and below, sorted; hidden files are left out.

    Args:
        folder: The folder.
        are_volumes: Whether they are NIfTI files, archives, and folders with the files of a DICOM series in them; else
            image files and DICOM radiographs.
    """
    found = [path for path in folder.rglob("*") if not _is_hidden(path.relative_to(folder))]
    if are_volumes:
        series = [path for path in (folder, *found) if path.is_dir() and list_series(path)]
        return sorted([*(path for path in found if path.name.lower().endswith(VOLUME_SUFFIXES)), *series])
    files = (path for path in found if path.is_file())
    return sorted(path for path in files if path.name.lower().endswith(IMAGE_SUFFIXES) or is_dicom(path))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def score_files(
    network: ProbabilityModel, preprocess: dict[str, Any], dataset_dir: str, output: str, device: torch.device
) -> list[dict[str, Any]]:
    """Score volumes or images, whichever the model was trained on, and write the probabilities.

    Args:
        network: The network with its weights.
        preprocess: The fields of ``PreprocessConfig``, by which volumes are cut and images of patients fitted.
        dataset_dir: The path of a volume (a NIfTI file, or a DICOM series as a folder or an archive) or of an image
            (an image file or a DICOM radiograph), or of a folder of them.
        output: The path of the JSON file to write.
        device: The device that the network is on.

    Returns:
        For each file path, predicted class and probabilities; of a volume also the number of slices.

    Raises:
        UserError: A file that cannot be read, or no file.
    """
    options, classifier = build_record(PreprocessConfig, preprocess), network.classifier
    kind, given = classifier.spec.kind, Path(dataset_dir)
    paths = find_inputs(given, kind.reads_scans) if given.is_dir() else [given]
    if not paths:
        raise UserError(f"{given}: no {kind.file} in this folder. Name a file, or a folder of them.")
    score = _score_volumes if kind.reads_scans else _score_images
    rows = []
    for path, scores, counts in score(classifier, paths, options, device):
        names = classifier.spec.class_names
        probabilities = dict(zip(names, scores.tolist(), strict=True))
        row = {"path": str(path), "predicted": names[choose_class(scores)], "probabilities": probabilities}
        rows.append(row | counts)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return rows


def _score_volumes(
    classifier: Classifier, paths: list[Path], options: PreprocessConfig, device: torch.device
) -> Iterator[tuple[Path, Array, dict[str, int]]]:
    for path in paths:
        stack, _ = read_stack((path,), options)
        check_places(str(path), stack, classifier.spec)
        yield (
            path,
            score_stack(classifier, stack, classifier.spec, device, BATCH_SIZE),
            {"num_slices": len(stack.images)},
        )


def _score_images(
    classifier: Classifier, paths: list[Path], options: PreprocessConfig, device: torch.device
) -> Iterator[tuple[Path, Array, dict[str, int]]]:
    for start in range(0, len(paths), BATCH_SIZE):
        batch = paths[start : start + BATCH_SIZE]
        images = np.stack([read_stored(path, classifier.spec, options) for path in batch])
        scores = compute_probabilities(classifier, images, np.zeros(len(images)), device, BATCH_SIZE)
        for path, row in zip(batch, scores, strict=True):
            yield path, row, {}
