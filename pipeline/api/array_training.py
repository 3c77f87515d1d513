"""Training on arrays: images and labels in memory become a store and splits, and the training loop reads these."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.config.parsing import OPTIONS, find_nearest, read_experiment
from pipeline.config.validation import require
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES
from pipeline.core.errors import UserError
from pipeline.core.provenance import compute_fingerprint, read_commit, read_versions
from pipeline.data.certified_data import SplitData
from pipeline.data.splits import draw_validation
from pipeline.data.store import Store
from pipeline.studies.kept_models import train_checkpoint
from pipeline.training.checkpoint import Checkpoint, Origin
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.history import EpochResult, find_best
from pipeline.training.objectives.teacher import build_teacher_recipe
from pipeline.training.progress import TrainingDisplay
from pipeline.training.run_state import describe_settings
from pipeline.training.setup import check_recipe, prepare_training

# The sections of the options that shape a model of arrays.
SECTIONS = ("model", "augment", "train")
# Options of files, devices and the command line, which an array or an argument takes the place of.
REFUSED = {
    "train.seed": "random_state",
    "train.start_from": "the train stage",
    "train.freeze": "the train stage",
    "train.devices": "the train stage",
    "train.num_nodes": "the train stage",
    "train.strategy": "the train stage",
    "train.keep_attention_every_epochs": "the train stage",
    "train.resume": "the train stage",
}
HIGHEST_LEVEL = 255


@dataclass(frozen=True)
class ImageForm:
    """The form of the images of a training, which those of a prediction are brought into.

    Args:
        shape: ``(height, width)`` or ``(channels, height, width)``.
        black: The number that became black.
        white: The number that became white.
    """

    shape: tuple[int, ...]
    black: float
    white: float

    def to_levels(self, arrays: Array) -> Array:
        """Return images as a store holds them, ``(images, *shape)`` uint8.

        What is below black becomes black, and what is above white becomes white.

        Args:
            arrays: Finite numbers in the layout of the training, or in rows of as many numbers.

        Raises:
            UserError: Images of another shape.
        """
        if arrays[0].size != int(np.prod(self.shape)) or arrays.ndim not in (2, len(self.shape) + 1, 4):
            raise UserError(f"images: found shape {arrays.shape[1:]}, allowed is {self.shape}, as in training.")
        images = arrays.reshape(len(arrays), *self.shape)
        if images.dtype == np.uint8 and (self.black, self.white) == (0, HIGHEST_LEVEL):
            return images
        range_of_training = max(self.white - self.black, np.finfo(np.float64).tiny)
        levels = (images.astype(np.float64) - self.black) / range_of_training * HIGHEST_LEVEL
        return np.clip(np.rint(levels), 0, HIGHEST_LEVEL).astype(np.uint8)


def find_form(arrays: Array, image_size: tuple[int, int] | None) -> ImageForm:
    """Find the form of training images.

    Images of bytes keep their grey levels; of other numbers the lowest becomes black and the highest white.

    Args:
        arrays: Finite numbers, (images, height, width), (images, channels, height, width) or in rows (images, numbers).
        image_size: Height and width of images in rows, of one channel after the other; None takes a row as an image
            that is one pixel high.

    Raises:
        UserError: Rows that are no images of this size.
    """
    shape = tuple(arrays.shape[1:])
    if arrays.ndim == 2:
        height, width = image_size or (1, arrays.shape[1])
        num_channels, rest = divmod(arrays.shape[1], height * width)
        if rest or num_channels == 0:
            raise UserError(
                f"image_size: found {(height, width)} for rows of {arrays.shape[1]} numbers, allowed are sizes of one "
                "or several whole channels."
            )
        shape = (num_channels, height, width)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if arrays.dtype == np.uint8:
        return ImageForm(shape, 0, HIGHEST_LEVEL)
    return ImageForm(shape, float(arrays.min()), float(arrays.max()))


def build_recipe(config: str | None, options: Mapping[str, Any]) -> Experiment:
    """Build the options of a training.

    Args:
        config: A YAML file, or the name of a config that comes along; None for the defaults.
        options: Values that replace those of the config, by their full names, such as ``train.epochs``.

    Raises:
        UserError: An option that there is not, that a training on arrays does not read, or a bad value.
    """
    words = [] if config is None else ["--config", config]
    known = [name for name in OPTIONS if name.startswith(tuple(f"{section}." for section in SECTIONS))]
    for name, value in options.items():
        if name in REFUSED:
            raise UserError(f"{name}: not read here; it is for {REFUSED[name]}.")
        if name not in known:
            raise UserError(f"{name}: no option of {', '.join(SECTIONS)}; the nearest is {find_nearest(name, known)}.")
        words.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    recipe = read_experiment(words)
    for name in REFUSED:
        found, lone = getattr(recipe.train, name.removeprefix("train.")), OPTIONS[name].default
        require(found == lone, name, found, f"{lone}; it is for {REFUSED[name]}")
    teacher = recipe.train.teacher
    require(teacher in (None, "cnn"), "train.teacher", teacher, "cnn or null; a checkpoint is for the train stage")
    return recipe


def build_data(
    images: Array, codes: Array, class_names: tuple[str, ...], groups: Any, is_ordinal: bool = False
) -> Store:
    """Put images and labels into a store in memory.

    Args:
        images: ``(images, [channels,] height, width)`` uint8.
        codes: The number of the class of each image.
        class_names: The classes.
        groups: The patient of each image; None where each is a patient of its own.
        is_ordinal: Whether the classes are grades, from the lowest to the highest.

    Raises:
        UserError: Another number of patients than of images.
    """
    patients = np.arange(len(images)) if groups is None else pd.factorize(np.asarray(groups))[0]
    if patients.shape != (len(images),) or (patients < 0).any():
        raise UserError(f"groups: found {patients.shape} for {len(images)} images. Give the patient of each.")
    ids = [str(place) for place in range(len(images))]
    index = pd.DataFrame(
        {
            "example_id": ids,
            "source_id": ids,
            "group_id": [str(patient) for patient in patients],
            "label": [class_names[code] for code in codes],
            "slice_index": 0,
            "slice_position": np.zeros(len(images), dtype=np.float32),
        }
    )
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(compute_fingerprint(class_names, codes.tolist(), patients.tolist()).encode())
    kind = IMAGES if groups is None else PATIENT_IMAGES
    return Store(images, index, class_names, {}, digest.hexdigest()[:16], kind, is_ordinal=is_ordinal)


def train_arrays(recipe: Experiment, store: Store, val_fraction: float, form: ImageForm, verbose: int) -> Checkpoint:
    """Train on the images of a store, and return the epoch that is best on the patients drawn for validation.

    Args:
        recipe: The options, with ``train.seed``, from which the patients for validation are drawn too.
        store: The images, their labels and patients.
        val_fraction: The fraction of the patients for validation.
        form: The form of the images, which the checkpoint records.
        verbose: 0 prints nothing; otherwise a line an epoch is printed, and on a terminal a bar.

    Raises:
        UserError: Options that the data do not allow, too few patients, or a loss that becomes NaN or infinite.
    """
    check_recipe(recipe, store)
    require(0 < val_fraction < 1, "val_fraction", val_fraction, "between 0 and 1")
    data = SplitData(store, draw_validation(store.index, val_fraction, recipe.train.seed))
    preprocess = replace(recipe.preprocess, image_size=store.input_spec(1).image_size)
    recipe = replace(recipe, preprocess=replace(preprocess, dask_scheduler=None))
    teacher = None
    if recipe.train.teacher == "cnn":
        teacher = _train(build_teacher_recipe(recipe), data, form, verbose)
    return _train(recipe, data, form, verbose, teacher)


def _train(
    recipe: Experiment, data: SplitData, form: ImageForm, verbose: int, teacher: Checkpoint | None = None
) -> Checkpoint:
    """Train one network."""
    split_fingerprint = compute_fingerprint(sorted(data.roles.items()))
    settings = describe_settings(recipe, data.store, split_fingerprint)
    origin = Origin(
        model=recipe.model,
        spec=data.store.input_spec(1),
        preprocess=recipe.preprocess,
        store_fingerprint=data.store.fingerprint,
        split_fingerprint=split_fingerprint,
        settings=settings | {"images.black": form.black, "images.white": form.white},
        versions=read_versions(),
        commit=read_commit(),
    )
    setup = prepare_training(recipe, build_fabric(recipe.train), data, teacher)
    if not verbose:
        return train_checkpoint(setup, origin, lambda _: None)
    history: list[EpochResult] = []
    with TrainingDisplay(Console(), recipe.train.epochs, 0) as display:

        def show(result: EpochResult) -> None:
            history.append(result)
            display.show_epoch(result, find_best(history, recipe.train.monitor) is result)

        return train_checkpoint(setup, origin, show, display.show_step if display.console.is_terminal else None)
