"""On a GPU nothing waits for the processor and nothing is copied; fake tensors show it without a GPU."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.accelerators import CPUAccelerator
from lightning.fabric.strategies import SingleDeviceStrategy

from pipeline.cli import parse_experiment
from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import POINTS, SCANS, InputSpec
from pipeline.data.batches import Batch, Examples, read_batches
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.augmentation.mixing import draw_mixtures
from pipeline.training.devices.arithmetic import name_kernel
from pipeline.training.loop.batch_loss import EpochDraws, compute_batch_loss
from pipeline.training.loop.epochs import update_weights
from pipeline.training.loop.monitor import LossMonitor
from pipeline.training.loop.state import TrainingSetup, TrainingState
from pipeline.training.losses import count_correct
from pipeline.training.optimization.optimizers import build_optimizer, set_learning_rate
from pipeline.training.optimization.weight_average import WeightAverage
from tests.builders.fake_gpu import GPU, AttentionCall, Record, move_to_gpu, pretend_gpu
from tests.builders.models import build_config_spec

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
# One of slices and one of whole scans; those of other stems, of points and of mixtures run with --slow.
QUICK = ("akoa_seed", "phantom_volume")
MARKED = [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem not in QUICK)) for path in CONFIGS]
BATCH = 4
INDICES = torch.arange(BATCH)


def read_experiment(path: Path) -> Experiment:
    """Read a config, with at most two layers of each kind: more of them do the same."""
    experiment = parse_experiment("train", ["--config", str(path)])
    config = experiment.model.perceiver
    depths = {name: min(2, getattr(config, name)) for name in ("num_cross_attends", "self_attends_per_cross")}
    model = dataclasses.replace(experiment.model, perceiver=dataclasses.replace(config, **depths))
    return dataclasses.replace(experiment, model=model)


def build_classifier(experiment: Experiment, spec: InputSpec) -> Classifier:
    """Build the classifier of a config, on the processor."""
    statistics = () if spec.kind is POINTS else (0.5,) * spec.num_channels
    model = build_model(experiment.model, spec, seed=0)
    return Classifier(model, experiment.model, spec, statistics, statistics, experiment.train.loss)


def place_on_gpu(spec: InputSpec) -> Examples:
    """Place as many examples on the fake GPU as three batches have."""
    number, size = 3 * BATCH, spec.image_size
    shape = {POINTS: size, SCANS: (spec.num_slices, *size)}.get(spec.kind, (spec.num_channels, *size))
    images = torch.empty((number, *shape), dtype=torch.float32 if spec.kind is POINTS else torch.uint8, device=GPU)
    places = torch.empty((number, spec.num_slices, 3) if spec.kind is SCANS else number, device=GPU)
    labels = torch.empty(number, dtype=torch.int64, device=GPU)
    # The number of slices that are no padding stays unknown: NumPy counts them, which no fake tensor can enter.
    return Examples(np.empty(0), np.arange(number), labels, places, images)


def fake_fabric() -> Fabric:
    return Fabric(strategy=SingleDeviceStrategy(GPU, accelerator=CPUAccelerator()))


def take_step(experiment: Experiment, classifier: Classifier, record: Record) -> None:
    """Take the second step of an epoch; what the first one copies for the whole epoch does not count."""
    config, fabric, spec = experiment.train, fake_fabric(), classifier.spec
    examples = place_on_gpu(spec)
    move_to_gpu(classifier).train()
    setup = TrainingSetup(experiment, fabric, spec, examples, examples)
    optimizer = build_optimizer(classifier.model, config)
    state = TrainingState(classifier, classifier.model, optimizer, [])
    state.average = WeightAverage(classifier.model, 0.9)
    generators = [torch.Generator() for _ in range(3)]
    mixing = np.random.default_rng(0)
    mixtures = draw_mixtures(experiment.augment, [BATCH] * 2, spec.image_size, mixing, GPU)
    draws = EpochDraws(*generators, mixtures)
    monitor = LossMonitor(fabric, 1, 2)
    batches = read_batches(examples, [INDICES] * 2)
    for _ in range(2):
        for name in ("copies", "waits", "on_processor", "attentions"):
            getattr(record, name).clear()
        batch = next(batches)
        set_learning_rate(optimizer, 1e-3)
        loss_sum, outputs, targets = compute_batch_loss(setup, state, draws, batch, BATCH)
        with torch.no_grad():
            monitor.add(loss_sum.detach(), count_correct(outputs.detach(), targets, config.loss), BATCH)
            for parameter in classifier.parameters():
                parameter.grad = torch.empty_like(parameter)
            update_weights(fabric, state, config)
            state.average.update(1)


def score(classifier: Classifier, batch: Batch) -> None:
    with torch.inference_mode():
        classifier.eval()(batch.images, batch.slice_position)


@pytest.mark.parametrize("path", MARKED)
def test_a_step_of_training_leaves_a_gpu_alone(path):
    experiment = read_experiment(path)
    classifier = build_classifier(experiment, build_config_spec(experiment))
    with pretend_gpu(torch.bfloat16) as record:
        take_step(experiment, classifier, record)
    assert record.is_clean, record


@pytest.mark.parametrize("path", MARKED)
def test_scoring_leaves_a_gpu_alone(path):
    experiment = read_experiment(path)
    classifier = build_classifier(experiment, build_config_spec(experiment))
    with pretend_gpu() as record:
        batches = read_batches(place_on_gpu(classifier.spec), [INDICES] * 2)
        move_to_gpu(classifier)
        first = next(batches)
        for name in ("copies", "waits", "on_processor", "attentions"):
            getattr(record, name).clear()
        score(classifier, next(batches))
    assert record.is_clean, record
    assert first.images.device == GPU


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("path", MARKED)
def test_every_attention_meets_a_kernel_without_the_matrix_of_weights(path, dtype):
    experiment = read_experiment(path)
    classifier = build_classifier(experiment, build_config_spec(experiment))
    with pretend_gpu(dtype) as record:
        score(move_to_gpu(classifier), next(read_batches(place_on_gpu(classifier.spec), [INDICES])))
    kernels = {call: name_kernel(call.dtype, call.width, call.is_masked) for call in record.attentions}
    assert kernels
    assert "math" not in kernels.values(), kernels


def test_keys_and_values_in_input_space_are_one_tensor_of_padded_width():
    """The model of configs/akoa_seed.yaml has 27 channels."""
    experiment = read_experiment(next(path for path in CONFIGS if path.stem == "akoa_seed"))
    classifier = build_classifier(experiment, build_config_spec(experiment))
    with pretend_gpu(torch.bfloat16) as record:
        score(move_to_gpu(classifier), next(read_batches(place_on_gpu(classifier.spec), [INDICES])))
    shared = {call for call in record.attentions if call.is_shared}
    assert shared == {AttentionCall(torch.bfloat16, 32, is_masked=False, is_shared=True)}
