"""Laws of the normalisation of a classifier's images."""

import numpy as np
import pytest
import torch

from pipeline.config.model import ModelConfig
from pipeline.models.classifier import normalise_local_contrast
from pipeline.models.networks import build_model
from tests.builders.models import build_spec, wrap_network


def draw_images(seed=0):
    return torch.rand((2, 3, 24, 30), generator=torch.Generator().manual_seed(seed))


def test_the_local_contrast_of_a_single_pixel_is_the_one_computed_by_hand():
    images = torch.zeros(1, 1, 31, 31)
    images[0, 0, 15, 15] = 1
    contrast = normalise_local_contrast(images)[0, 0]
    assert contrast[15, 15].item() == pytest.approx(8 / np.sqrt(80), rel=1e-4)
    assert contrast[15, 18].item() == pytest.approx(-1 / np.sqrt(80), rel=1e-4)
    assert contrast[15, 25].item() == 0


def test_local_contrast_knows_neither_gain_nor_offset_nor_other_slices():
    images = draw_images()
    expected = normalise_local_contrast(images)
    gain, offset = torch.tensor([0.5, 2.0, 3.0])[:, None, None], torch.tensor([-1.0, 0.0, 2.0])[:, None, None]
    # The variance is a difference of two squares, in float32.
    torch.testing.assert_close(normalise_local_contrast(images * gain + offset), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(normalise_local_contrast(images[:, 1:2]), expected[:, 1:2])
    assert normalise_local_contrast(torch.full((1, 1, 12, 12), 0.7)).abs().max() < 1e-3


def test_local_contrast_mirrors_with_the_image():
    images = draw_images()
    torch.testing.assert_close(normalise_local_contrast(images.flip(-1)), normalise_local_contrast(images).flip(-1))


def test_a_spot_has_more_local_contrast_than_an_edge_of_its_height():
    spot, edge = torch.zeros(1, 1, 31, 31), torch.zeros(1, 1, 31, 31)
    spot[..., 14:17, 14:17] = 1
    edge[..., 15:, :] = 1
    assert normalise_local_contrast(spot).max() > 1.5 * normalise_local_contrast(edge).max()


def test_a_classifier_reads_local_contrast_where_it_is_asked_to():
    stored = (draw_images() * 255).to(torch.uint8)[:, :1, :8, :8]
    options = ModelConfig(stem="patches", patch_size=4, local_contrast=True)
    model = build_model(options, build_spec(), seed=0)
    plain, local = wrap_network(model), wrap_network(model, local_contrast=True)
    expected = normalise_local_contrast(stored.float() / 255)
    torch.testing.assert_close(local.prepare(stored), expected, atol=1e-3, rtol=1e-3)
    assert (plain.prepare(stored) - expected).abs().max() > 0.5
