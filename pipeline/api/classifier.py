"""A classifier of images for scikit-learn: ``fit`` trains by the project's own loop, validated on whole patients."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.api.array_training import build_data, build_recipe, find_form, train_arrays
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.classifier import Classifier
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint, write_checkpoint
from pipeline.training.devices.selection import choose_device

BATCH_SIZE = 256


class PerceiverClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A Perceiver, or another network of this project, that is trained on arrays.

    Images are ``(images, height, width)``, ``(images, channels, height, width)``, or in rows ``(images, numbers)``.
    Bytes (uint8) are grey levels. Of other numbers the lowest of the training becomes black and the highest white, in
    256 levels, and what is beyond them later becomes one of the two; remove outliers first.

    A part of the training patients is drawn for validation, which chooses the epoch and stops training early. Without
    ``groups`` each image counts as a patient.

    Args:
        config: The config whose sections ``model``, ``augment`` and ``train`` are read: a YAML file, or the name of one
            that comes along, such as ``medmnist``. None takes the default of each option.
        epochs: The largest number of passes over the training images; None takes that of the config.
        batch_size: The number of images of a step; None takes that of the config.
        learning_rate: The highest learning rate; None takes that of the config.
        early_stopping_epochs: The number of epochs without a better validation after which training stops; 0 never
            stops, None takes that of the config.
        val_fraction: The fraction of the patients for validation.
        options: Other options, by their full names: ``{"model.perceiver.num_latents": 32}``.
        image_size: Height and width of images that come in rows, one channel after the other; None takes a row as an
            image that is one pixel high.
        accelerator: The hardware, ``auto``, ``cpu``, ``cuda`` or ``mps``.
        random_state: The seed of first weights, order, augmentation and validation: a number, a ``RandomState``, or
            None for another one at each call of ``fit``.
        verbose: 0 prints nothing, 1 a line an epoch, and on a terminal a bar with the time left.

    Attributes:
        classes_: The labels, sorted; the columns of ``predict_proba``.
        n_features_in_: The length of the second axis of the training images.
        form_: The shape of the images, and the numbers that are black and white.
        checkpoint_: The weights of the best epoch, their origin, and the history of the training.
    """

    def __init__(
        self,
        config: str | None = None,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        early_stopping_epochs: int | None = None,
        val_fraction: float = 0.15,
        options: Mapping[str, Any] | None = None,
        image_size: tuple[int, int] | None = None,
        accelerator: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.config = config
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.early_stopping_epochs = early_stopping_epochs
        self.val_fraction = val_fraction
        self.options = options
        self.image_size = image_size
        self.accelerator = accelerator
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, groups: Any = None) -> "PerceiverClassifier":
        """Train.

        Args:
            X: The images.
            y: The label of each: texts or whole numbers.
            groups: The patient of each image; those for validation are drawn as a whole.

        Raises:
            UserError: Options that do not exist or do not fit the images, or too few patients.
        """
        arrays, labels = validate_data(self, X, y, allow_nd=True, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        recipe = build_recipe(self.config, self._collect_options())
        recipe = replace(recipe, train=replace(recipe.train, seed=self._choose_seed()))
        self.form_ = find_form(_check_layout(arrays), self.image_size)
        class_names = tuple(map(str, self.classes_.tolist()))
        is_ordinal = recipe.train.loss == "corn"
        if is_ordinal and self.classes_.dtype.kind not in "iuf":
            raise UserError(f"train.loss: found corn for labels such as {class_names[0]}; grades are numbers here.")
        store = build_data(self.form_.to_levels(arrays), codes, class_names, groups, is_ordinal)
        self.checkpoint_ = train_arrays(recipe, store, self.val_fraction, self.form_, self.verbose)
        self._build()
        return self

    def predict(self, X: Any) -> Array:
        """Return the most probable label of each image, of the type of the training labels, ``(images,)``."""
        # Checked first: scikit-learn's error for a model that is not trained.
        check_is_fitted(self)
        answers: Array = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return answers

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, ``(images, classes)`` float64, in the order of ``classes_``.

        Raises:
            UserError: Images of another shape than those of the training.
        """
        check_is_fitted(self)
        arrays = _check_layout(validate_data(self, X, reset=False, allow_nd=True))
        images = self.form_.to_levels(arrays)
        places = np.zeros(len(images))
        scores = compute_probabilities(self._model, images, places, self._device, BATCH_SIZE).astype(np.float64)
        probabilities: Array = scores / scores.sum(axis=1, keepdims=True)
        return probabilities

    def save(self, path: str | Path) -> None:
        """Write the model as a checkpoint, which ``load_model`` reads.

        Args:
            path: The file to write; its name ends with ``.safetensors``.
        """
        check_is_fitted(self)
        write_checkpoint(Path(path), self.checkpoint_)

    def _collect_options(self) -> dict[str, Any]:
        """Return all options that were given, by their full names."""
        names = ("epochs", "batch_size", "learning_rate", "early_stopping_epochs", "accelerator")
        given = {f"train.{name}": getattr(self, name) for name in names if getattr(self, name) is not None}
        given = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        return {**(self.options or {}), **given}

    def _choose_seed(self) -> int:
        """Return a number that was given, as ``train.seed`` would be; draw another one otherwise."""
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _build(self) -> None:
        self._device: torch.device = choose_device(self.accelerator)
        self._model: Classifier = build_from_checkpoint(self.checkpoint_, self._device)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__().copy()
        for name in ("_device", "_model"):
            state.pop(name, None)
        if "checkpoint_" in state:
            with tempfile.TemporaryDirectory() as folder:
                self.save(Path(folder, "model.safetensors"))
                state["checkpoint_"] = Path(folder, "model.safetensors").read_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "checkpoint_" in state:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "model.safetensors").write_bytes(state["checkpoint_"])
                self.checkpoint_ = read_checkpoint(Path(folder, "model.safetensors"))
            self._build()

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _check_layout(arrays: Array) -> Array:
    """Refuse arrays that are neither images nor rows.

    Raises:
        UserError: They have five axes or more.
    """
    if arrays.ndim > 4:
        raise UserError(
            f"images: found {arrays.ndim} axes; allowed are (images, height, width), (images, channels, height, width) "
            "and rows (images, numbers)."
        )
    return arrays
