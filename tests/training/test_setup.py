"""The setup of a training: what options of balance make of the examples of the training patients."""

import pytest
import torch
from lightning.fabric import Fabric

from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.data.certified_data import load_certified_data
from pipeline.training.setup import compute_sampling_weights, prepare_training
from tests.builders.training_runs import make_experiment, with_train


def test_classes_and_patients_are_balanced_over_the_training_patients_where_it_is_asked_for(tmp_path):
    """Ten patients with two knees of four slices each: six train, and each class has half of their 48 slices."""
    plain = make_experiment(tmp_path)
    data, fabric = load_certified_data(plain), Fabric(accelerator="cpu", devices=1)
    setup = prepare_training(plain, fabric, data)
    assert setup.class_weights is None
    assert setup.sampling_weights is None
    weighted = prepare_training(with_train(plain, class_weights="balanced"), fabric, data)
    assert weighted.class_weights.tolist() == [1, 1]
    drawn = prepare_training(with_train(plain, sampling="class_and_patient"), fabric, data)
    num_patients = len({group for group, role in data.roles.items() if role == "train"})
    assert len(drawn.sampling_weights) == 8 * num_patients
    assert set(drawn.sampling_weights.tolist()) == {1 / (4 * num_patients)}


LABELS, PATIENTS = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("class", [1 / 3, 1 / 3, 1 / 3, 1]),
        ("patient", [1 / 2, 1 / 2, 1 / 2, 1 / 2]),
        ("class_and_patient", [1 / 4, 1 / 4, 1 / 2, 1]),
    ],
)
def test_sampling_weights_are_those_computed_by_hand(sampling, expected):
    assert compute_sampling_weights(LABELS, PATIENTS, sampling).tolist() == pytest.approx(expected)
    assert compute_sampling_weights(LABELS, PATIENTS, "once") is None


def test_classes_are_balanced_once():
    with pytest.raises(UserError, match=r"train.sampling: found 'class', allowed is once or patient with"):
        TrainConfig(class_weights="balanced", sampling="class")
    assert TrainConfig(class_weights="balanced", sampling="patient").sampling == "patient"
