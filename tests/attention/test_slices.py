"""The slices that carry a scan's answer, and their weights in the scan's own space."""

from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.attention.slices import spread_over_volume, weigh_slices
from pipeline.config.data import PreprocessConfig
from pipeline.config.model import ModelConfig
from pipeline.core.data_kinds import SCANS
from pipeline.data.store import Store
from pipeline.formats.nifti import read_volume, write_volume
from pipeline.models.classifier import Classifier
from pipeline.models.networks import SliceModel, build_model
from pipeline.preprocessing.slicing import cut_stack
from tests.builders.models import build_spec
from tests.builders.scan_models import CHOICES

SPEC = replace(build_spec(kind=SCANS, num_slices=5), field_of_view_mm=100.0)


def build_scans(num_slices=4):
    images = np.random.default_rng(0).integers(0, 100, (2, 5, 8, 8)).astype(np.uint8)
    places = np.full((2, 5, 3), np.nan, np.float32)
    places[:, :num_slices] = [[10 * index, 80, 80] for index in range(num_slices)]
    index = pd.DataFrame({"example_id": ["a", "b"], "source_id": ["a", "b"], "label": ["left", "right"]})
    return Store(images, index, ("left", "right"), {}, "", SCANS, places_mm=places)


class BrightestSlice(nn.Module):
    """Logits that depend on the brightest slice alone."""

    def forward(self, volumes, places):
        brightness = volumes.mean(dim=(2, 3)).masked_fill(places[..., 0].isnan(), -10.0).amax(dim=1)
        return torch.stack([brightness, -brightness], dim=1)


def test_the_answer_loses_by_the_one_slice_that_it_comes_from():
    store = build_scans()
    store.examples[0, 2] = 255
    model = SliceModel(BrightestSlice(), reads_slice_position=True)
    weights = weigh_slices(Classifier(model, ModelConfig(), SPEC, (0.5,), (0.25,)).eval(), store, 0)
    assert weights.lost.argmax() == 2
    assert np.delete(weights.lost, 2).tolist() == [0, 0, 0]
    assert weights.attention is None
    assert len(weights.places_mm) == 4, "padding is no slice"


@pytest.mark.parametrize("name", ["joint", "joined", "attention"])
def test_attention_to_the_slices_of_a_scan_sums_to_1(name):
    classifier = Classifier(build_model(CHOICES[name], SPEC, seed=1), CHOICES[name], SPEC, (0.5,), (0.25,)).eval()
    weights = weigh_slices(classifier, build_scans(num_slices=3), 0)
    assert weights.attention.shape == ((3, 1, 1) if name == "attention" else (3, 2, 2))
    assert weights.attention.sum() == pytest.approx(1, abs=1e-5)


def test_a_scan_of_one_slice_cannot_lose_it():
    classifier = Classifier(build_model(CHOICES["joint"], SPEC, seed=1), CHOICES["joint"], SPEC, (0.5,), (0.25,)).eval()
    assert np.isnan(weigh_slices(classifier, build_scans(num_slices=1), 0).lost).all()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_weights_lie_where_the_voxels_are_that_they_were_computed_from(plane, write_knee, tmp_path):
    """The images themselves are taken for weights: they come back to the voxels that they were cut from."""
    voxels = np.random.default_rng(0).integers(0, 256, (8, 8, 8)).astype(np.int16)
    voxels[0, 0, :2] = 0, 255
    volume = read_volume(write_knee(tmp_path / "a.nii", intensity=voxels, spacing_mm=(3.0, 3.0, 3.0)))
    options = PreprocessConfig(
        plane=plane, num_slices=8, slice_range=(0, 1), image_size=(8, 8), intensity_percentiles=(0, 100)
    )
    stack = cut_stack(volume, options, "a")
    np.testing.assert_array_equal(spread_over_volume(volume, stack.places_mm, stack.images, plane), voxels)
    wide = cut_stack(volume, replace(options, image_size=(4, 4), spacing_mm=3.0), "a")
    found = spread_over_volume(volume, wide.places_mm, wide.images, plane)
    assert (found > 0).sum() <= 8 * 4 * 4, "nothing outside of the images"


@pytest.mark.parametrize("stored_axes", ["RAS", "PIR", "LPS", "ASL"])
def test_an_overlay_has_the_shape_and_the_affine_of_its_scan(stored_axes, write_knee, tmp_path):
    path = write_knee(tmp_path / "a.nii.gz", stored_axes=stored_axes)
    scan, volume = nibabel.load(path), read_volume(path)
    write_volume(tmp_path / "o.nii.gz", volume.voxels.astype(np.float32), volume.affine, volume.stored_axes)
    overlay = nibabel.load(tmp_path / "o.nii.gz")
    np.testing.assert_allclose(overlay.affine, scan.affine, atol=1e-4)
    np.testing.assert_array_equal(overlay.get_fdata(), scan.get_fdata())
