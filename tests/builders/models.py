"""Specifications of small inputs, classifiers around any network, and trainings of them."""

from lightning.fabric import Fabric

from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.data_kinds import VOLUMES, DataKind, InputSpec
from pipeline.data.batches import Examples
from pipeline.models.classifier import Classifier
from pipeline.models.networks import SliceModel
from pipeline.training.loop import TrainingSetup


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
    return TrainingSetup(Experiment(train=config, augment=augment), fabric, build_spec(), train_examples, val_examples)
