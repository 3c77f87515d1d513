"""Compilation of models, and the batches of one size that a graph of a GPU's kernels needs."""

from typing import cast

import torch
from torch import nn

from pipeline.config.training import CompileName, TrainConfig


def compile_model(model: nn.Module, how: CompileName) -> nn.Module:
    """Compile a model as ``train.compile`` says.

    Args:
        model: The model. With ``graphs`` it is changed, but for the names of its tensors: whoever calls it, in training
            or in validation, calls the compiled one.
        how: none, default or graphs.

    Returns:
        What training calls.
    """
    if how == "graphs":
        model.compile(mode="reduce-overhead", dynamic=False)
        return model
    return model if how == "none" else cast(nn.Module, torch.compile(model))


def has_static_batches(config: TrainConfig) -> bool:
    """Return whether all batches have ``train.batch_size`` examples."""
    return config.compile == "graphs"


def fill_batch(indices: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Repeat the first example, or that of place 0 where there is none, until a batch has so many.

    Of the places 7, 8 and a batch size of 4 the batch is 7, 8, 7, 7. Answers to the examples that were added are not
    counted.

    Args:
        indices: The places of the examples of a batch, (batch,).
        batch_size: The number of examples of the result; a batch that has as many, or more, stays as it is.
    """
    first = indices[:1] if len(indices) > 0 else torch.zeros(1, dtype=torch.int64)
    return torch.cat([indices, first.expand(max(0, batch_size - len(indices)))])
