import pytest
import torch

from pipeline.config.experiment import Experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.config.training import TrainConfig
from pipeline.core.data_kinds import POINTS
from pipeline.core.errors import UserError
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.objectives.teacher import Teacher, check_teacher_options, find_local_map
from tests.builders.models import build_spec

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("config", "image_size", "expected"),
    [
        # Maps of 28 pixels: 14 after the first pooling, 7 after the second, which the third convolution keeps.
        (CnnConfig(channels=(2, 3, 5, 7)), (28, 28), (5, 7, 7)),
        (CnnConfig(channels=(2, 3)), (8, 12), (3, 4, 6)),
        (CnnConfig(blocks="residual", channels=(2, 3, 5, 7)), (32, 32), (5, 4, 4)),
    ],
)
def test_the_deepest_map_of_four_rows_and_columns_guides(config, image_size, expected):
    spec = build_spec(image_size=image_size)
    network = build_model(ModelConfig(architecture="cnn", cnn=config), spec, seed=0).network.eval()
    module, shape = find_local_map(network, spec, CPU)
    assert shape == expected
    assert module in network.children()


def test_a_network_whose_maps_are_all_smaller_is_refused():
    network = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(9, 2))
    with pytest.raises(UserError, match=r"train\.guidance_weight: the teacher's features have fewer than 4 rows"):
        find_local_map(network, build_spec(image_size=(6, 6)), CPU)


def test_a_teacher_reads_images_normalised_with_its_own_statistics():
    config, spec = ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(2, 3))), build_spec()
    model = build_model(config, spec, seed=0)
    teacher = Classifier(model, config, spec, (0.3,), (0.1,)).eval()
    student = Classifier(build_model(config, spec, seed=1), config, spec, (0.6,), (0.4,)).eval()
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    places = torch.zeros(4)
    module, _ = find_local_map(model.network, spec, CPU)
    lesson = Teacher(teacher, module).answer(student.prepare(images), places, student)
    torch.testing.assert_close(lesson.log_probabilities, teacher(images, places))
    assert lesson.features.shape == (4, 3, 4, 4)
    assert not module._forward_hooks


def test_a_teacher_reads_local_contrast_as_its_student_does_whatever_the_statistics():
    config, spec = ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(2, 3)), local_contrast=True), build_spec()
    teacher = Classifier(build_model(config, spec, seed=0), config, spec, (0.3,), (0.2,)).eval()
    student = Classifier(build_model(config, spec, seed=1), config, spec, (0.4,), (0.25,)).eval()
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    lesson = Teacher(teacher).answer(student.prepare(images), torch.zeros(4), student)
    torch.testing.assert_close(lesson.log_probabilities, teacher(images, torch.zeros(4)), rtol=0, atol=1e-3)


CONV, PATCHES = ModelConfig(), ModelConfig(stem="patches", pixel_permutation_seed=0)


@pytest.mark.parametrize(
    ("train", "model", "kind", "named"),
    [
        ({"loss": "mse"}, CONV, None, r"train\.loss: found 'mse'"),
        ({"devices": 2}, CONV, None, r"train\.devices x train\.num_nodes: found 2"),
        ({"teacher": "best.safetensors", "strategy": "fsdp"}, CONV, None, r"train\.strategy: found 'fsdp'"),
        ({}, PATCHES, None, r"train\.guidance_weight: found 1"),
        ({}, ModelConfig(architecture="cnn"), None, r"train\.guidance_weight: found 1"),
        ({}, CONV, POINTS, r"train\.teacher: found 'cnn'"),
    ],
)
def test_a_teacher_that_other_options_do_not_allow_is_refused(train, model, kind, named):
    experiment = Experiment(model=model, train=TrainConfig(**({"teacher": "cnn"} | train)))
    spec = build_spec() if kind is None else build_spec(kind=kind, image_size=(32, 3))
    with pytest.raises(UserError, match=named):
        check_teacher_options(experiment, spec)


def test_all_is_allowed_without_a_teacher():
    check_teacher_options(Experiment(model=PATCHES, train=TrainConfig(loss="mse")), build_spec())
