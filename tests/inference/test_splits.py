"""What the last layer reads is kept while the test rows are scored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from perceiver import PerceiverConfig
from pipeline.cli import parse_experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.data_kinds import SCANS
from pipeline.inference.splits import record_features, score_splits
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.fine_tuning import find_head
from pipeline.training.run_state import load_trained_run
from tests.builders.models import build_spec
from tests.builders.scan_models import CHOICES, CNN_CHOICES

SMALL = PerceiverConfig(num_latents=3, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1)
QUERY = PerceiverConfig(num_latents=3, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1, pooling="query")
SPEC = build_spec(image_size=(16, 16))
CONFIGS = {
    "perceiver": ModelConfig(stem="patches", patch_size=4, perceiver=SMALL),
    "query": ModelConfig(stem="patches", patch_size=4, perceiver=QUERY),
    "plain cnn": ModelConfig(architecture="cnn", cnn=CnnConfig(blocks="plain", channels=(4, 8))),
    "residual cnn": ModelConfig(architecture="cnn", cnn=CnnConfig(blocks="residual", channels=(4, 4, 4, 4))),
}

EVERY_CHOICE = CHOICES | CNN_CHOICES


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_what_the_last_layer_turns_into_logits(name):
    network = build_model(CONFIGS[name], SPEC, seed=0)
    classifier = Classifier(network, CONFIGS[name], SPEC, (0.5,), (0.25,)).eval()
    images = torch.arange(3 * 256).to(torch.uint8).reshape(3, 1, 16, 16)
    with torch.inference_mode(), record_features(classifier, 3) as recorded:
        found = classifier(images, torch.zeros(3))
    head = [layer for layer in classifier.modules() if isinstance(layer, torch.nn.Linear)][-1]
    expected = head(torch.from_numpy(recorded.read())).log_softmax(dim=-1)
    torch.testing.assert_close(expected, found)
    classifier(images, torch.zeros(3))
    assert recorded.num_filled == 3, "nothing is kept afterwards"


@pytest.mark.parametrize("name", sorted(EVERY_CHOICE.keys() - {"max", "top3"}))  # whose last layer is not the last step
def test_features_of_scans_of_several_numbers_of_slices_are_in_the_order_of_the_scans(name):
    spec = replace(SPEC, kind=SCANS, field_of_view_mm=100.0)
    network = build_model(EVERY_CHOICE[name], spec, seed=0)
    classifier = Classifier(network, EVERY_CHOICE[name], spec, (0.5,), (0.25,)).eval()
    volumes = torch.randint(0, 256, (4, 5, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    places = torch.full((4, 5, 3), torch.nan)
    for row, count in enumerate((3, 5, 1, 3)):
        places[row, :count] = torch.tensor([[8.0 * index - 16, 80.0, 80.0] for index in range(count)])
    with torch.inference_mode(), record_features(classifier, 4) as recorded:
        found = torch.cat([classifier(volumes[:3], places[:3]), classifier(volumes[3:], places[3:])])
    head = find_head(classifier.model.network)
    expected = head(torch.from_numpy(recorded.read())).log_softmax(dim=-1)
    torch.testing.assert_close(expected, found)
    assert torch.unique(found[:, 0]).numel() == 4, "equal answers would prove nothing"


def test_features_are_those_of_the_rows_and_not_of_their_mirror_images(tiny_workspace):
    words = ["--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace)]
    run = load_trained_run(parse_experiment("evaluate", words), None)
    answers = score_splits(run, batch_size=5, console=Console(quiet=True))
    head = [layer for layer in run.classifier.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.inference_mode():
        found = head(torch.from_numpy(answers.features)).softmax(dim=-1).numpy()
    assert answers.mirrored is not None
    np.testing.assert_allclose(found, answers.mirrored.straight, atol=1e-5)
