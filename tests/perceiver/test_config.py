"""A bad option is refused by name, with what was found and what is allowed."""

import dataclasses

import pytest

from perceiver import ImageConfig, Perceiver, PerceiverConfig


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_latents": 0}, r"PerceiverConfig\.num_latents: found 0.* at least 1"),
        ({"num_cross_attends": -1}, r"num_cross_attends: found -1.* at least 1"),
        ({"input_channels": -1}, r"input_channels: found -1.* at least 0"),
        ({"num_classes": 0}, r"num_classes: found 0.* at least 1"),
        ({"activation": "relu"}, r"activation: found 'relu', allowed are geglu, gelu"),
        ({"pooling": "max"}, r"pooling: found 'max', allowed are mean, cls, query"),
        ({"decoder_heads": 0}, r"decoder_heads: found 0.* at least 1"),
        ({"positions": "sine"}, r"positions: found 'sine', allowed are fourier, learned, none"),
        ({"positions": "none", "input_channels": 0}, r"positions: found 'none'.* 0 channels"),
        (
            {"weight_sharing": "some"},
            r"weight_sharing: found 'some', allowed are none, all, all_but_first, all_but_first_block",
        ),
        ({"dropout": 1.0}, r"dropout: found 1\.0.* from 0 .* 1"),
        ({"attention_dropout": -0.1}, r"attention_dropout: found -0\.1.* 0"),
        ({"latent_init_std": 0.0}, r"latent_init_std: found 0\.0.* above 0"),
        ({"query_init_gain": 0.0}, r"query_init_gain: found 0\.0.* above 0"),
        (
            {"pooling": "cls", "self_attends_per_cross": 0},
            r"self_attends_per_cross: found 0.*pooling 'cls'",
        ),
        ({"axis_sizes": ()}, r"axis_sizes: found \(\)"),
        ({"axis_sizes": (4, 0)}, r"axis_sizes: found \(4, 0\).* at least 1"),
        ({"max_freq": (1.0,)}, r"max_freq: found \(1\.0,\).* at least 2"),
        (
            {"max_freq": (8.0,), "axis_sizes": (8, 8)},
            r"max_freq: found 1 .* 2 axes \(8, 8\)",
        ),
    ],
)
def test_a_bad_option_is_refused_by_name(option, message):
    with pytest.raises(ValueError, match=message):
        PerceiverConfig(**option)


def test_a_bad_image_option_is_refused_by_name():
    with pytest.raises(ValueError, match=r"ImageConfig\.stem: found 'vit', allowed are pixels, patches, conv"):
        ImageConfig(stem="vit")
    with pytest.raises(ValueError, match=r"ImageConfig\.patch_size: found 0.* at least 1"):
        ImageConfig(patch_size=0)


def test_a_model_without_the_facts_of_its_data_is_refused():
    with pytest.raises(ValueError, match="input_channels, num_classes"):
        Perceiver(PerceiverConfig(axis_sizes=(4,)))
    for options in ({}, {"positions": "none"}, {"positions": "learned", "max_freq": (4.0,)}):
        with pytest.raises(ValueError, match="axis_sizes"):
            Perceiver(PerceiverConfig(input_channels=1, num_classes=2, **options))


def test_every_option_is_described():
    """A field without an entry in the docstring has no help on the command line."""
    for config in (PerceiverConfig, ImageConfig):
        for field in dataclasses.fields(config):
            assert f"        {field.name}: " in config.__doc__, field.name
