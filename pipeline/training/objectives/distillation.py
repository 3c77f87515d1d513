"""Distillation: the losses that compare a model with its teacher, in probabilities and in features at places."""

import torch
from einops import rearrange
from torch.nn import functional

from pipeline.training.losses import add_up


def compute_distillation_loss_sum(
    log_probabilities: torch.Tensor,
    teacher_log_probabilities: torch.Tensor,
    temperature: float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute how far the model's softened probabilities are from the teacher's, added up over the examples.

    Both are softened to p^(1/T), scaled to sum to 1, which is the softmax of logits divided by T. The loss of an
    example is T^2 times the Kullback-Leibler divergence of the model's from the teacher's; with T^2 its gradient stays
    of one size. Of the teacher's 3/4 and 1/4, the model's 1/2 and 1/2 and T = 1 it is 3/4 log 3/2 + 1/4 log 1/2 = .131.

    Args:
        log_probabilities: Logarithms of the model's probabilities, (batch, classes).
        teacher_log_probabilities: Those of the teacher, (batch, classes).
        temperature: T, above 0.
        weights: The weight of each example, (batch,), from the table of labels; None for 1.

    Returns:
        A scalar.

    Source:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531, section 2.
    """
    softened = (log_probabilities / temperature).log_softmax(dim=-1)
    wanted = (teacher_log_probabilities / temperature).softmax(dim=-1)
    if weights is None:
        return functional.kl_div(softened, wanted, reduction="sum") * temperature**2
    return add_up(functional.kl_div(softened, wanted, reduction="none").sum(dim=-1), weights) * temperature**2


def compute_guidance_loss_sum(
    decoded: torch.Tensor, features: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the squared error in predicting a teacher's features at each place, added up over the examples.

    The features of a place are brought to mean 0 and standard deviation 1 over the channels first, so that no place
    counts more because its features are large. The error of an example is the mean over places and channels.

    Args:
        decoded: The prediction, (batch, places, channels), rows first.
        features: The teacher's map, (batch, channels, rows, columns).
        weights: The weight of each example, (batch,), from the table of labels; None for 1.

    Returns:
        A scalar.

    Source:
        Li and others, "Locality guidance for improving vision transformers on tiny datasets", ECCV 2022, equations 3
        and 4. There a linear map of tokens predicts the features; a Perceiver's latents have no places, so a decoder
        asks them for each place.
    """
    wanted = rearrange(features.float(), "batch channels rows columns -> batch (rows columns) channels")
    wanted = functional.layer_norm(wanted, wanted.shape[-1:])
    return add_up((decoded.float() - wanted).square().mean(dim=(1, 2)), weights)
