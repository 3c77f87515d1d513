"""Networks of whole scans: pooling of slices, attention over them, millimetres and the mirror image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.config.data import PreprocessConfig
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.data_kinds import SCANS
from pipeline.core.errors import UserError
from pipeline.formats.nifti import read_volume
from pipeline.models.classifier import Classifier, reverse_slices
from pipeline.models.networks import build_model
from pipeline.models.volumes import choose_slices, draw_slices, pool_logits
from pipeline.preprocessing.slicing import cut_stack
from tests.builders.models import build_spec
from tests.builders.scan_models import CHOICES, CNN_CHOICES

EVERY_CHOICE = CHOICES | CNN_CHOICES
SPEC = replace(build_spec(kind=SCANS, num_slices=4, image_size=(16, 16)), field_of_view_mm=100.0)


def draw_scans(num_slices=4, num_padding=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    volumes = torch.randint(0, 256, (2, num_slices + num_padding, 16, 16), generator=generator, dtype=torch.uint8)
    places = torch.full((2, num_slices + num_padding, 3), torch.nan)
    places[:, :num_slices, 0] = torch.linspace(-30, 36, num_slices)
    places[:, :num_slices, 1:] = 80.0
    return volumes, places


def build_classifier(name, spec=SPEC):
    config = EVERY_CHOICE[name]
    return Classifier(build_model(config, spec, seed=1), config, spec, (0.5,), (0.25,)).eval()


def test_pooled_logits_are_those_computed_by_hand():
    logits = torch.tensor([[[1.0, 0], [5, 0], [3, 0], [4, 9], [100, 100]]])
    is_padding = torch.tensor([[False, False, False, False, True]])
    found = {name: pool_logits(logits, is_padding, name)[0].tolist() for name in ("mean", "max", "top3")}
    assert found == {"mean": [3.25, 2.25], "max": [5, 9], "top3": [4, 3]}
    two = torch.tensor([[False, False, True, True, True]])
    assert pool_logits(logits, two, "top3")[0].tolist() == [3, 0], "of two slices the mean of both"


@pytest.mark.parametrize("name", EVERY_CHOICE)
def test_padding_and_the_order_of_slices_change_no_answer(name):
    classifier = build_classifier(name)
    volumes, places = draw_scans(num_padding=2)
    expected = classifier(volumes[:, :4], places[:, :4])
    torch.testing.assert_close(classifier(volumes, places), expected, rtol=0, atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(classifier(volumes[:, order], places[:, order]), expected, rtol=0, atol=1e-5)


def test_each_scan_has_its_fraction_of_slices_drawn_and_each_slice_as_often():
    places = torch.full((4000, 12, 3), torch.nan)
    counts = torch.tensor([12, 10, 2, 1]).repeat(1000)
    places[torch.arange(12) < counts[:, None]] = 0.0
    chosen = draw_slices(places, 0.3, torch.rand(4000, 15, generator=torch.Generator().manual_seed(0)))
    assert chosen.shape == (4000, 4)
    assert [(rows >= 0).sum(dim=1).unique().tolist() for rows in (chosen[i::4] for i in range(4))] == [
        [4],
        [3],
        [1],
        [1],
    ]
    assert (chosen < counts[:, None]).all(), "no padding"
    grows = (chosen[:, 1:] > chosen[:, :-1]) | (chosen[:, 1:] < 0)
    assert grows.all(), "each slice once, and what is missing comes last"
    often = torch.bincount(chosen[::4].flatten(), minlength=12)
    assert (often - 1000 / 3).abs().max() < 5 * (1000 * 2 / 9) ** 0.5


@pytest.mark.parametrize("name", EVERY_CHOICE)
def test_a_network_reads_the_chosen_slices_and_no_others(name):
    model = build_classifier(name).model
    volumes, places = draw_scans(num_padding=2)
    images = volumes.float() / 255
    chosen = torch.tensor([[0, 2, 3], [1, -1, -1]])
    found = model(images, places, chosen)
    torch.testing.assert_close(found[:1], model(images[:1, [0, 2, 3]], places[:1, [0, 2, 3]]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1:], model(images[1:, 1:2], places[1:, 1:2]), rtol=0, atol=1e-5)
    assert [part.shape[1] for part in choose_slices(images, places, chosen)] == [3, 3]


@pytest.mark.parametrize("name", EVERY_CHOICE)
def test_every_network_of_scans_trains(name):
    classifier = build_classifier(name).train()
    volumes, places = draw_scans(num_padding=1)
    loss = classifier(volumes, places).sum()
    loss.backward()
    missing = [name for name, weight in classifier.named_parameters() if weight.grad is None]
    assert missing == []


@pytest.mark.parametrize("name", [*CNN_CHOICES, "joint"])
def test_a_shorter_scan_in_a_batch_of_training_is_answered_as_alone(name):
    classifier = build_classifier(name).train()
    volumes, places = draw_scans(num_slices=5)
    places[1, 1:4] = torch.nan
    found = classifier(volumes, places)
    alone = [classifier(volumes[:1], places[:1]), classifier(volumes[1:, [0, 4]], places[1:, [0, 4]])]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", EVERY_CHOICE)
def test_scans_of_several_spacings_in_a_batch_are_answered_as_alone(name):
    classifier = build_classifier(name)
    volumes, places = draw_scans()
    places *= torch.tensor([1.0, 0.4])[:, None, None]
    alone = torch.cat([classifier(volumes[row][None], places[row][None]) for row in range(2)])
    torch.testing.assert_close(classifier(volumes, places), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CNN_CHOICES)
def test_a_volume_cnn_reads_a_single_slice_of_its_smallest_image(name):
    size = (4, 4) if name == "plain" else (16, 16)
    model = build_model(EVERY_CHOICE[name], replace(SPEC, image_size=size), seed=1).train()
    assert model(torch.randn(1, 1, *size), torch.zeros(1, 1, 3)).isfinite().all()


def test_a_scan_twice_as_large_in_a_field_of_view_twice_as_large_gets_the_same_answer():
    volumes, places = draw_scans()
    large = build_classifier("joint", replace(SPEC, field_of_view_mm=200.0))
    torch.testing.assert_close(large(volumes, 2 * places), build_classifier("joint")(volumes, places))


@pytest.mark.parametrize("is_sagittal", [False, True])
def test_the_mirror_image_of_a_scan_is_flipped_across_or_along_its_slices(is_sagittal):
    classifier = build_classifier("joint", replace(SPEC, is_sagittal=is_sagittal))
    volumes, places = draw_scans()
    straight, mirrored = classifier.score_both(volumes, places)
    flipped = (volumes.flip(1), reverse_slices(places).flip(1)) if is_sagittal else (volumes.flip(-1), places)
    assert torch.equal(mirrored, classifier(*flipped))
    assert not torch.allclose(mirrored, straight)
    again = classifier.score_both(*flipped)
    assert torch.equal(again[1], straight), "the mirror image of the mirror image is the scan"


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("stored_axes", ["RAS", "LPS", "SAR"])
def test_the_mirror_image_of_a_knee_gets_the_other_side_in_every_plane(plane, stored_axes, write_knee, tmp_path):
    """The file of the mirror image, cut as every file: left and right exchange their probabilities."""
    intensity = np.random.default_rng(0).integers(0, 1000, (12, 14, 16)).astype(np.int16)
    options = PreprocessConfig(plane=plane, num_slices=6, image_size=(16, 16))  # none lies midway between two
    classifier = build_classifier("joint", replace(SPEC, is_sagittal=plane == "sagittal"))
    classifier.mirror_average = True
    answers = []
    for name, voxels, axes in (("knee", intensity, "RAS"), ("mirror", intensity[::-1], stored_axes)):
        path = write_knee(tmp_path / f"{name}.nii.gz", intensity=voxels, stored_axes=axes)
        stack = cut_stack(read_volume(path), options, name)
        read = (torch.from_numpy(part)[None] for part in (stack.images, stack.places_mm))
        answers.append(classifier(*read)[0].exp())
    torch.testing.assert_close(answers[1], answers[0].flip(0), rtol=0, atol=1e-6)
    assert (answers[0] - 0.5).abs().max() > 1e-4, "an answer of one half would be its own mirror image"


def test_options_that_whole_scans_do_not_have_are_refused_by_name():
    for config, message in (
        (ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(2,) * 5)), "model.cnn.channels"),
        (ModelConfig(slice_position=True), "model.slice_position"),
        (ModelConfig(stem="patches", patch_size=3), "model.patch_size"),
        (ModelConfig(stem="conv", num_conv_layers=5), "larger slices"),
    ):
        with pytest.raises(UserError, match=message):
            build_model(config, SPEC, seed=0)
