import torch

from perceiver.positions import Grid, grid_positions
from pipeline.config.model import ModelConfig
from pipeline.models.networks import build_model
from pipeline.training.objectives.heads import GUIDANCE, PositionDecoder, build_headed_model
from tests.builders.models import build_spec
from tests.builders.training_runs import TINY

CONFIG = ModelConfig(num_conv_layers=1, conv_channels=4, slice_position=True, perceiver=TINY)


def test_a_position_is_decoded_by_itself():
    """No query attends to another one: some positions alone give what they give among all of them."""
    torch.manual_seed(0)
    decoder = PositionDecoder(TINY, (3, 4), num_outputs=5).eval()
    latents = torch.randn(2, 4, 8)
    everywhere = decoder(latents, Grid((3, 4)))
    assert everywhere.shape == (2, 12, 5)
    some = decoder(latents, grid_positions((3, 4))[[7, 2]].unsqueeze(0))
    torch.testing.assert_close(some, everywhere[:, [7, 2]])
    assert not torch.allclose(some[:, 0], some[:, 1])


def test_a_model_with_heads_answers_as_the_model_without():
    model = build_model(CONFIG, build_spec(), seed=1).eval()
    state = torch.random.get_rng_state()
    headed = build_headed_model(model, TINY, (6, 4, 4), seed=2).eval()
    assert torch.equal(torch.random.get_rng_state(), state)
    images, places = torch.randn(3, 1, 8, 8), torch.linspace(-1, 1, 3)
    logits, decoded = headed(images, places)
    assert torch.equal(logits, model(images, places))
    assert decoded[GUIDANCE].shape == (3, 16, 6)
    assert build_headed_model(model, TINY, (0, 0, 0), seed=2) is None
