"""The Perceiver: latents that attend to any set of inputs by cross-attention."""

from perceiver.config import PerceiverConfig
from perceiver.encoder import PerceiverEncoder
from perceiver.images import ImageConfig, ImagePerceiver, image_tokens
from perceiver.model import Perceiver
from perceiver.perceiver_io import PerceiverIO
from perceiver.points import PointPerceiver, normalise_points, point_tokens

__all__ = [
    "ImageConfig",
    "ImagePerceiver",
    "Perceiver",
    "PerceiverConfig",
    "PerceiverEncoder",
    "PerceiverIO",
    "PointPerceiver",
    "image_tokens",
    "normalise_points",
    "point_tokens",
]
