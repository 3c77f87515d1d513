"""The stages from raw scans to a report, and models in Python; ``python -m pipeline --help`` lists the stages.

``load_model`` and ``PerceiverClassifier`` are imported when they are first used, so that ``import pipeline`` itself
loads nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api.classifier import PerceiverClassifier
    from pipeline.api.trained_model import load_model

__all__ = ["PerceiverClassifier", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "pipeline.api.classifier" if name == "PerceiverClassifier" else "pipeline.api.trained_model"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
