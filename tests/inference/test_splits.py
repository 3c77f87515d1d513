"""What the last layer reads is kept while the test rows are scored."""

import numpy as np
import pytest
import torch
from rich.console import Console

from perceiver import PerceiverConfig
from pipeline.cli import parse_experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.inference.splits import record_features, score_splits
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.run_state import load_trained_run
from tests.builders.models import build_spec

SMALL = PerceiverConfig(num_latents=3, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1)
QUERY = PerceiverConfig(num_latents=3, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1, pooling="query")
SPEC = build_spec(image_size=(16, 16))
CONFIGS = {
    "perceiver": ModelConfig(stem="patches", patch_size=4, perceiver=SMALL),
    "query": ModelConfig(stem="patches", patch_size=4, perceiver=QUERY),
    "plain cnn": ModelConfig(architecture="cnn", cnn=CnnConfig(blocks="plain", channels=(4, 8))),
    "residual cnn": ModelConfig(architecture="cnn", cnn=CnnConfig(blocks="residual", channels=(4, 4, 4, 4))),
}


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


def test_features_are_those_of_the_rows_and_not_of_their_mirror_images(tiny_workspace):
    words = ["--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace)]
    run = load_trained_run(parse_experiment("evaluate", words), None)
    answers = score_splits(run, batch_size=5, console=Console(quiet=True))
    head = [layer for layer in run.classifier.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.inference_mode():
        found = head(torch.from_numpy(answers.features)).softmax(dim=-1).numpy()
    assert answers.mirrored is not None
    np.testing.assert_allclose(found, answers.mirrored.straight, atol=1e-5)
