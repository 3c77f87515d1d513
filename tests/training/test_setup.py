"""The setup of a training: what options of balance make of the examples of the training patients."""

from lightning.fabric import Fabric

from pipeline.data.certified_data import load_certified_data
from pipeline.training.setup import prepare_training
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
