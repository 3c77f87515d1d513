"""Small models with every option, for laws that hold for all of them."""

import pytest
import torch

from perceiver import ImageConfig, ImagePerceiver, Perceiver, PerceiverConfig, PerceiverIO

# A head of width 32 is wider than the 16 channels of an input: attention in input space. One of width 8 projects them.
MODEL_OPTIONS = [
    {},
    {"cross_head_dim": 8},
    {"positions": "learned"},
    {"positions": "none"},
    {"input_channels": 0},
    {"pooling": "cls", "activation": "gelu", "feedforward_widening": 3},
    {"pooling": "query", "decoder_heads": 2, "decoder_head_dim": 8},
    {"pooling": "query", "decoder_head_dim": 32, "self_attends_per_cross": 0},
    {"weight_sharing": "all"},
    {"weight_sharing": "all", "cross_head_dim": 8, "cross_heads": 3, "pooling": "query"},
    {"weight_sharing": "all_but_first", "positions": "learned", "activation": "gelu"},
    {"weight_sharing": "all_but_first_block", "max_freq": (4.0, 3.0), "pooling": "cls"},
    {"gradient_checkpointing": "layers", "weight_sharing": "all_but_first", "cross_head_dim": 8},
    {"gradient_checkpointing": "feedforward"},
]
STEM_OPTIONS = [
    {"stem": "pixels"},
    {"stem": "pixels", "slice_position": True},
    {"stem": "patches", "patch_size": 4},
    {"stem": "conv", "slice_position": True},
]


def run_most_slowly(options, fast):
    """Leave all but the parameters at the places ``fast`` to ``--slow``: to trace a model takes seconds."""
    return [
        item if place in fast else pytest.param(*(item if isinstance(item, tuple) else (item,)), marks=pytest.mark.slow)
        for place, item in enumerate(options)
    ]


def small_config(**options):
    small = {
        "input_channels": 2,
        "axis_sizes": (3, 4),
        "num_classes": 3,
        "num_latents": 5,
        "latent_dim": 16,
        "num_cross_attends": 3,
        "self_attends_per_cross": 2,
        "cross_heads": 2,
        "cross_head_dim": 32,
        "latent_heads": 2,
        "latent_head_dim": 8,
        "num_bands": 3,
        "learned_position_dim": 6,
        "latent_init_std": 1.0,
    }
    return PerceiverConfig(**{**small, **options})


def build_seeded(build):
    """Build the same model each time, in evaluation mode, with no gain of 1 and no bias of 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def small_perceiver(**options):
    return build_seeded(lambda: Perceiver(small_config(**options)))


def small_perceiver_io(query_dim=6, **options):
    return build_seeded(lambda: PerceiverIO(small_config(**options), query_dim))


def small_image_perceiver(perceiver=None, **options):
    """Build a model for images of 2 channels and 8 x 12 pixels, and volumes of 5 slices."""
    free = {"input_channels": None, "axis_sizes": None, "num_classes": None}
    config = ImageConfig(**{"conv_channels": 8, "perceiver": small_config(**free, **(perceiver or {})), **options})
    num_slices = 5 if config.slice_position else None
    shape = {"channels": 2, "height": 8, "width": 12, "num_classes": 3, "num_slices": num_slices}
    return build_seeded(lambda: ImagePerceiver(config, **shape))


def draw_normal(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits_and_gradients(model, *arguments, run=None, **options):
    """Compute the logits of ``run``, by default the model itself, and the gradients of a weighted sum of them."""
    model.zero_grad()
    logits = (model if run is None else run)(*arguments, **options)
    (logits * draw_normal(*logits.shape, seed=4).to(logits)).sum().backward()
    return logits.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}
