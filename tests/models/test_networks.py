import dataclasses

import pytest
import torch

from perceiver import PerceiverConfig
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.data_kinds import POINTS
from pipeline.core.errors import UserError
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model, count_parameters
from tests.builders.models import build_spec, wrap_network

TINY = PerceiverConfig(num_latents=4, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1, num_bands=2)
KINDS = [
    ModelConfig(stem="pixels", perceiver=TINY),
    ModelConfig(stem="patches", patch_size=2, perceiver=TINY, slice_position=True),
    ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(2, 4, 8))),
    ModelConfig(architecture="cnn", cnn=CnnConfig(blocks="residual", channels=(2, 2, 4, 4))),
]


def build(config, seed=0, **facts):
    facts = {"num_channels": 2, "image_size": (16, 24), "num_classes": 3} | facts
    return build_model(config, build_spec(**facts), seed).eval()


@pytest.mark.parametrize("config", KINDS)
def test_examples_of_a_batch_do_not_touch_each_other(config):
    model = build(config)
    images = torch.rand(3, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([-1.0, 0.0, 1.0])
    logits = model(images, places)
    assert logits.shape == (3, 3)
    torch.testing.assert_close(model(images[1:2], places[1:2]), logits[1:2])
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("config", KINDS)
def test_weights_are_those_of_the_seed_and_the_callers_draws_are_untouched(config):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = build(config), build(config), build(config, seed=1)
    assert torch.equal(torch.rand(3), expected)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_slices_place_counts_where_it_is_read():
    images = torch.rand(1, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    with_place, without = build(KINDS[1]), build(KINDS[0])
    assert not torch.equal(with_place(images, low), with_place(images, high))
    assert torch.equal(without(images, low), without(images, high))


def test_classifier_takes_stored_images_and_normalises_them_by_hand():
    """Mean 0.2 and standard deviation 0.4 turn black into -0.5 and white into 2."""
    classifier = wrap_network(build(KINDS[0]), (0.2, 0.2), (0.4, 0.4))
    stored = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1).expand(1, 2, 16, 24)
    normal = torch.tensor([-0.5, 2.0]).reshape(1, 2, 1, 1).expand(1, 2, 16, 24)
    place = torch.zeros(1)
    torch.testing.assert_close(classifier(stored, place), classifier.model(normal, place).log_softmax(dim=-1))
    assert set(classifier.state_dict()) == {f"model.{name}" for name in classifier.model.state_dict()}


def test_patches_that_do_not_divide_the_image_are_refused():
    with pytest.raises(UserError, match=r"model\.patch_size: found 5, but images of 16 x 24"):
        build(ModelConfig(stem="patches", patch_size=5))


def test_a_perceiver_that_contradicts_the_data_is_refused():
    with pytest.raises(UserError, match="num_classes"):
        build(ModelConfig(perceiver=PerceiverConfig(num_classes=9)))


def test_cnn_options_are_checked():
    with pytest.raises(UserError, match=r"model\.cnn\.channels"):
        CnnConfig(blocks="residual", channels=(1, 2))
    with pytest.raises(UserError, match=r"5 stages .*; 32 pixels"):
        build(ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(1, 1, 1, 1, 1))))


def test_the_plain_cnn_has_the_parameters_counted_by_hand():
    """A stage: 9 weights a channel pair and a bias, then gain and shift; the head: weights and bias."""
    model = build(ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(4, 6))), num_channels=1)
    expected = (9 * 1 * 4 + 4 + 8) + (9 * 4 * 6 + 6 + 12) + (6 * 3 + 3)
    assert count_parameters(model) == expected


POINT_MODEL = ModelConfig(num_points=6, perceiver=PerceiverConfig(**{**vars(TINY), "max_freq": (8.0, 8.0, 8.0)}))


def build_for_points(config, num_stored=10):
    return build(config, num_channels=1, image_size=(num_stored, 3), kind=POINTS)


def test_classifier_takes_the_first_stored_points_and_normalises_each_cloud():
    spec = build_spec(1, (10, 3), 3, kind=POINTS)
    classifier = Classifier(build_model(POINT_MODEL, spec, seed=0).eval(), POINT_MODEL, spec, (), ())
    clouds = torch.rand(2, 10, 3, generator=torch.Generator().manual_seed(0))
    first = clouds[:, :6] - clouds[:, :6].mean(dim=1, keepdim=True)
    expected = classifier.model(first / first.abs().amax(dim=(1, 2), keepdim=True), torch.zeros(2)).log_softmax(dim=-1)
    torch.testing.assert_close(classifier(clouds, torch.zeros(2)), expected)
    clouds[:, 6:] = 100.0
    torch.testing.assert_close(classifier(clouds, torch.zeros(2)), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "cnn"}, r"model\.architecture: found 'cnn', allowed is 'perceiver' for point clouds"),
        ({"slice_position": True}, r"model\.slice_position: found True, allowed is False for point clouds"),
        ({"local_contrast": True}, r"model\.local_contrast: found True, allowed is False for point clouds"),
        ({"mirror_tta": True}, r"model\.mirror_tta: found True, allowed is False for point clouds"),
        ({"pixel_permutation_seed": 0}, r"model\.pixel_permutation_seed: found 0, allowed is None for point clouds"),
        ({"num_points": 11}, r"model\.num_points: found 11, allowed is at most 10"),
        ({"perceiver": TINY}, r"max_freq: found None, but a point cloud has no resolution"),
    ],
)
def test_options_that_point_clouds_cannot_have_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build_for_points(dataclasses.replace(POINT_MODEL, **options))
    with pytest.raises(UserError, match=r"model\.num_points: found 0, allowed is 1 or more"):
        ModelConfig(num_points=0)
