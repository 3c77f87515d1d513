"""The setup of a training: the examples, the origin of the model, the network and its optimizer."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.fabric import Fabric

from pipeline.config.experiment import Experiment
from pipeline.config.training import SamplingName
from pipeline.config.validation import require
from pipeline.core.data_kinds import WHOLE_VOLUMES
from pipeline.core.errors import UserError
from pipeline.core.provenance import read_commit, read_versions
from pipeline.data.batches import Examples, compute_room, place_examples
from pipeline.data.certified_data import CertifiedData, SplitData
from pipeline.data.statistics import IntensityReference, compute_reference, compute_statistics
from pipeline.data.store import Store
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.augmentation.images import check_crop_padding, check_horizontal_flip, check_mirror_tta
from pipeline.training.augmentation.points import check_point_transforms
from pipeline.training.checkpoint import Checkpoint, Origin, load_weights, read_checkpoint
from pipeline.training.devices.compilation import compile_model, has_static_batches
from pipeline.training.devices.sync_batch_norm import synchronise_batch_norms
from pipeline.training.fine_tuning import Start, freeze_backbone
from pipeline.training.loop.state import TrainingSetup, TrainingState, derive_seed
from pipeline.training.losses import balance_classes
from pipeline.training.objectives.heads import build_headed_model
from pipeline.training.objectives.masking import plan_masking
from pipeline.training.objectives.teacher import check_teacher_options, place_teacher
from pipeline.training.optimization.optimizers import build_optimizer, restore_optimizer
from pipeline.training.optimization.weight_average import WeightAverage
from pipeline.training.run_state import describe_settings, read_preprocess


def describe_origin(
    experiment: Experiment, data: CertifiedData, more_settings: Mapping[str, Any] | None = None
) -> Origin:
    """Collect what is known of a model before its training.

    Args:
        experiment: All options.
        data: All examples and their splits.
        more_settings: Settings that the options do not hold, such as the digest of a teacher.
    """
    store, split_fingerprint = data.store, data.certificate["splits_fingerprint"]
    return Origin(
        model=experiment.model,
        spec=store.input_spec(experiment.preprocess.num_slices),
        preprocess=read_preprocess(experiment, store),
        store_fingerprint=store.fingerprint,
        split_fingerprint=split_fingerprint,
        settings=describe_settings(experiment, store, split_fingerprint) | dict(more_settings or {}),
        versions=read_versions(),
        commit=read_commit(),
    )


def check_recipe(experiment: Experiment, store: Store) -> None:
    """Refuse options that would train on wrong labels, or that a training on these data does not have.

    Every training comes here; a stage that trains several models does so with all of them before the first.

    Args:
        experiment: All options.
        store: The examples, of which none is read.

    Raises:
        UserError: an option that has to change.
    """
    config, augment, plane, kind = experiment.train, experiment.augment, experiment.preprocess.plane, store.kind
    spec = store.input_spec(experiment.preprocess.num_slices)
    if kind.is_image:
        check_crop_padding(augment, spec.image_size)
    else:
        check_point_transforms(augment)
    check_horizontal_flip(augment, store.class_names, plane, kind)
    if experiment.model.mirror_tta:
        check_mirror_tta(augment, store.class_names, plane, kind)
    if kind.has_places:
        _check_scan_options(experiment)
    allowed = "cross_entropy or mse; corn is for grades, which data.label_type: ordinal declares"
    require(config.loss != "corn" or store.is_ordinal, "train.loss", config.loss, allowed)
    if experiment.model.architecture == "cnn" and not kind.has_places:
        allowed = "1 for model.architecture cnn, which reads all pixels"
        require(config.input_fraction == 1, "train.input_fraction", config.input_fraction, allowed)
    if config.strategy == "fsdp":  # only the first process draws maps, and it holds a shard of the model
        every, allowed = config.keep_attention_every_epochs, "0 with train.strategy fsdp; draw maps after training"
        require(every == 0, "train.keep_attention_every_epochs", every, allowed)
    check_teacher_options(experiment, spec)
    if config.auxiliary_weight > 0:
        allowed = "ddp, or train.auxiliary_weight 0"
        require(config.strategy == "ddp", "train.strategy", config.strategy, allowed)


def _check_scan_options(experiment: Experiment) -> None:
    """Refuse options that the training of whole scans does not have."""
    config, augment = experiment.train, experiment.augment
    for name, found, lone in (
        ("augment.mixup_alpha", augment.mixup_alpha, 0),
        ("augment.cutmix_alpha", augment.cutmix_alpha, 0),
        ("train.keep_attention_every_epochs", config.keep_attention_every_epochs, 0),
    ):
        require(found == lone, name, found, f"{lone} where preprocess.unit is volume")
    if experiment.model.architecture == "cnn" and experiment.model.slices == "joint":
        allowed = "default or none for a 3-D cnn, which reads scans of equally many slices together"
        require(config.compile != "graphs", "train.compile", config.compile, allowed)


def prepare_training(
    experiment: Experiment,
    fabric: Fabric,
    data: SplitData,
    teacher: Checkpoint | None = None,
    start: Start | None = None,
) -> TrainingSetup:
    """Place the examples, and a teacher, where training reads them.

    Args:
        experiment: All options.
        fabric: The devices and the precision.
        data: All examples and their splits.
        teacher: The model whose answers are learned next to the labels; None for labels alone.
        start: The weights that training starts from; None where all are drawn.

    Raises:
        UserError: a split has no examples, a class has none to learn from, or an option is not for these data.
    """
    check_recipe(experiment, data.store)
    # Each process has a GPU of its own, but all those of a machine have the same memory.
    num_sharing = experiment.train.devices if fabric.device.type == "cpu" else 1
    is_static = has_static_batches(experiment.train)
    train_examples, val_examples = (
        _select_examples(data, role, fabric.device, num_sharing, is_static) for role in ("train", "val")
    )
    spec, config = data.store.input_spec(experiment.preprocess.num_slices), experiment.train
    if is_static:
        allowed = f"at most the {len(train_examples)} training examples with train.compile graphs"
        require(config.batch_size <= len(train_examples), "train.batch_size", config.batch_size, allowed)
    labels = train_examples.labels
    class_weights = balance_classes(labels, len(spec.class_names)) if config.class_weights == "balanced" else None
    patients = pd.factorize(data.store.index["group_id"].to_numpy()[train_examples.rows])[0]
    sampling_weights = compute_sampling_weights(labels.cpu(), torch.from_numpy(patients), config.sampling)
    placed = None if teacher is None else place_teacher(teacher, fabric, config.guidance_weight > 0)
    masking = plan_masking(experiment.pretrain, experiment.model, spec) if config.auxiliary_weight > 0 else None
    return TrainingSetup(
        experiment=experiment,
        fabric=fabric,
        spec=spec,
        train_examples=train_examples,
        val_examples=val_examples,
        class_weights=class_weights,
        sampling_weights=sampling_weights,
        teacher=placed,
        start=start,
        masking=masking,
    )


def compute_sampling_weights(
    labels: torch.Tensor, patients: torch.Tensor, sampling: SamplingName
) -> torch.Tensor | None:
    """Compute how likely each training example is drawn.

    Of patient A with two examples of class 0 and patient B with one of class 0 and one of class 1, the examples weigh
    1/3, 1/3, 1/3, 1 (class), 1/2, 1/2, 1/2, 1/2 (patient) and 1/4, 1/4, 1/2, 1 (class_and_patient).

    Args:
        labels: The class indices, (examples,).
        patients: The indices of the patients, (examples,).
        sampling: What is to be equally frequent.

    Returns:
        The weights (examples,) float64; None for an epoch that has each example once.
    """
    if sampling == "once":
        return None
    if sampling == "class":
        return 1 / _count_equal(labels)
    if sampling == "patient":
        return 1 / _count_equal(patients)
    num_patients = int(patients.max()) + 1
    pairs = labels * num_patients + patients
    examples_of_pair = torch.bincount(pairs, minlength=num_patients * (int(labels.max()) + 1))
    patients_of_class = (examples_of_pair.reshape(-1, num_patients) > 0).sum(dim=1)
    return 1 / (examples_of_pair[pairs] * patients_of_class[labels]).double()


def _count_equal(keys: torch.Tensor) -> torch.Tensor:
    """Return for each index the number of those that equal it, float64."""
    return torch.bincount(keys)[keys].double()


def measure_intensities(data: CertifiedData) -> IntensityReference | None:
    """Measure the training volumes, one after the other; images and point clouds have none."""
    if not data.store.kind.reads_scans:
        return None
    rows, store = data.rows["train"], data.store
    if store.places_mm is not None:
        is_slice = ~np.isnan(store.places_mm[..., 0])
        return compute_reference(store.examples[row][is_slice[row]] for row in rows) if len(rows) else None
    rows_by_source = data.store.index.iloc[rows].groupby("source_id", sort=True).indices
    volumes = (data.store.examples[rows[places]] for places in rows_by_source.values())
    return compute_reference(volumes) if rows_by_source else None


def _select_examples(data: SplitData, role: str, device: torch.device, num_sharing: int, is_static: bool) -> Examples:
    """Place the examples of the patients of one role; scans keep their padding where batches must be of one size."""
    store, rows = data.store, data.rows[role]
    chosen = store.index.iloc[rows]
    code_of = {name: code for code, name in enumerate(store.class_names)}
    labels = chosen["label"].map(code_of).to_numpy(dtype=np.int64)
    missing = [name for name, code in code_of.items() if role == "train" and code not in labels]
    if len(rows) == 0 or missing:
        lacking = f"no example labelled {missing[0]}" if missing else "no example"
        raise UserError(f"split: there is {lacking} in {role}. Run the split stage again with other fractions or seed.")
    positions, room = store.places[rows], compute_room(device, num_sharing)
    examples = place_examples(store.examples, rows, labels, positions, device, room)
    if is_static:
        examples = replace(examples, num_slices=None)
    if "weight" not in chosen.columns:
        return examples
    return replace(examples, weights=torch.tensor(chosen["weight"].to_numpy(dtype=np.float32), device=device))


def build_state(setup: TrainingSetup) -> TrainingState:
    """Build model and optimizer, new or from the last checkpoint of the run; all processes do it at the same time."""
    path = setup.experiment.paths.last_checkpoint
    last = read_checkpoint(path) if path.is_file() else None
    return start_from(setup, last)


def start_from(setup: TrainingSetup, last: Checkpoint | None) -> TrainingState:
    """Build model and optimizer.

    Args:
        setup: The options, the devices and the examples.
        last: The checkpoint to resume from; None starts with new weights.
    """
    experiment, fabric, spec = setup.experiment, setup.fabric, setup.spec
    config = experiment.train
    model = build_model(experiment.model, spec, derive_seed(config.seed, "weights"))
    if last is None:
        # Each cloud is normalised by itself.
        are_slices = spec.kind is WHOLE_VOLUMES
        mean, std = compute_statistics(setup.train_examples, are_slices=are_slices) if spec.kind.is_image else ((), ())
        if setup.start is not None:
            model.load_state_dict(setup.start.weights, strict=False)
    else:
        mean, std = last.mean, last.std
        load_weights(model, last.weights if last.step_weights is None else last.step_weights)
    if config.freeze == "backbone":
        freeze_backbone(model)
    synchronise_batch_norms(model)
    classifier = Classifier(model, experiment.model, spec, mean, std, config.loss)
    if config.strategy == "ddp":  # a sharded model may not fit on one device
        classifier.to(fabric.device)
    map_shape = (0, 0, 0) if setup.teacher is None else setup.teacher.map_shape
    seed = derive_seed(config.seed, "heads")
    headed = build_headed_model(model, experiment.model.perceiver, map_shape, seed, setup.masking)
    if headed is not None and last is not None:
        load_weights(headed.heads, last.heads)
    trained = model if headed is None else headed.to(fabric.device)
    parallel_model = fabric.setup_module(compile_model(trained, config.compile))
    classifier.to(fabric.device)
    optimizer = build_optimizer(trained, config, fused=config.precision != "16-mixed")
    if last is not None and last.optimizer is not None:
        restore_optimizer(optimizer, last.optimizer)
        if last.optimizer.scaler:
            fabric.strategy.precision.load_state_dict(last.optimizer.scaler)
    parallel_optimizer = fabric.setup_optimizers(optimizer)
    average = None
    if config.average_decay > 0:
        average = WeightAverage(model, config.average_decay, None if last is None else last.weights)
    history = list(last.history) if last is not None else []
    return TrainingState(classifier, parallel_model, parallel_optimizer, history, headed, average)
