"""The Perceiver: latents that attend to any set of inputs by cross-attention.

Each name is imported when it is first used, so that ``perceiver.config`` alone does not load torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perceiver.config import ImageConfig, PerceiverConfig
    from perceiver.encoder import PerceiverEncoder
    from perceiver.images import ImagePerceiver, image_tokens
    from perceiver.model import Perceiver
    from perceiver.perceiver_io import PerceiverIO
    from perceiver.points import PointPerceiver, normalise_points, point_tokens
    from perceiver.volumes import VolumePerceiver

__all__ = [
    "ImageConfig",
    "ImagePerceiver",
    "Perceiver",
    "PerceiverConfig",
    "PerceiverEncoder",
    "PerceiverIO",
    "PointPerceiver",
    "VolumePerceiver",
    "image_tokens",
    "normalise_points",
    "point_tokens",
]
_MODULES = {
    "ImageConfig": "config",
    "ImagePerceiver": "images",
    "Perceiver": "model",
    "PerceiverConfig": "config",
    "PerceiverEncoder": "encoder",
    "PerceiverIO": "perceiver_io",
    "PointPerceiver": "points",
    "VolumePerceiver": "volumes",
    "image_tokens": "images",
    "normalise_points": "points",
    "point_tokens": "points",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'perceiver' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
