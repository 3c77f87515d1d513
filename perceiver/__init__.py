"""The Perceiver: latents that read any set of inputs by cross-attention."""

from perceiver.config import PerceiverConfig
from perceiver.encoder import PerceiverEncoder
from perceiver.images import ImageConfig, ImagePerceiver, image_tokens
from perceiver.io import PerceiverIO
from perceiver.model import Perceiver

__all__ = [
    "ImageConfig",
    "ImagePerceiver",
    "Perceiver",
    "PerceiverConfig",
    "PerceiverEncoder",
    "PerceiverIO",
    "image_tokens",
]
