"""Specifications of small inputs and of the configs', classifiers around any network, and trainings of them."""

import dataclasses

from lightning.fabric import Fabric

from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.data_kinds import POINTS, SCANS, VOLUMES, DataKind, InputSpec
from pipeline.data.batches import Examples
from pipeline.datasets import DATASETS
from pipeline.models.classifier import Classifier
from pipeline.models.networks import SliceModel
from pipeline.training.loop.state import TrainingSetup

# Channels, height and width, and classes of the images of a published set.
IMAGE_SHAPES = {
    "mnist": (1, (28, 28), 10),
    "cifar10": (3, (32, 32), 10),
    "cifar100": (3, (32, 32), 100),
    "medmnist": (1, (28, 28), 2),
    "medmnist3d": (28, (28, 28), 2),
}


def build_spec(
    num_channels: int = 1,
    image_size: tuple[int, int] = (8, 8),
    num_classes: int = 2,
    num_slices: int = 5,
    kind: DataKind = VOLUMES,
) -> InputSpec:
    """Describe small examples; two classes are left and right."""
    names = ("left", "right") if num_classes == 2 else tuple(map(str, range(num_classes)))
    return InputSpec(kind, num_channels, image_size, num_slices, names)


def build_config_spec(experiment: Experiment) -> InputSpec:
    """Describe the examples that a file of ``configs/`` is for."""
    if DATASETS[experiment.data.dataset].kind is POINTS:
        return build_spec(1, (2048, 3), 40, kind=POINTS)
    size = experiment.preprocess.image_size
    num_grades = 5 if experiment.data.label_type == "ordinal" else 2
    num_channels, image_size, num_classes = IMAGE_SHAPES.get(experiment.data.dataset, (1, size, num_grades))
    kind, num_slices = VOLUMES, experiment.preprocess.num_slices
    if experiment.preprocess.unit == "volume":  # the slices are no channels then
        kind, num_slices, num_channels = SCANS, max(num_slices, num_channels), 1
    spec = build_spec(num_channels, image_size, num_classes, num_slices, kind)
    names = spec.class_names
    if experiment.data.merge:
        names = tuple(sorted({str(name) for name in experiment.data.merge.values()}))
    if experiment.phantom.lesion_fraction > 0:
        names = ("lesion", "none")
    return dataclasses.replace(
        spec,
        class_names=names,
        field_of_view_mm=200.0,
        is_sagittal=kind is SCANS and experiment.preprocess.plane == "sagittal",
    )


def wrap_network(
    model: SliceModel, mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.25,), **options: object
) -> Classifier:
    """Put a classifier around a network of small volumes; ``options`` are the loss and fields of the model's config."""
    loss = options.pop("loss", "cross_entropy")
    return Classifier(model, ModelConfig(**options), build_spec(), mean, std, loss)


def build_setup(
    fabric: Fabric, train_examples: Examples, val_examples: Examples, config: TrainConfig, augment: AugmentConfig
) -> TrainingSetup:
    """Put together what the training loop works with."""
    height, width = train_examples.images.shape[-2:]
    spec = build_spec(image_size=(height, width))
    return TrainingSetup(Experiment(train=config, augment=augment), fabric, spec, train_examples, val_examples)
