"""The losses that training minimises, and the count of right answers."""

import torch
from torch.nn import functional

from pipeline.config.model import LossName
from pipeline.config.training import TrainConfig
from pipeline.models.classifier import compute_log_probabilities


def compute_loss_sum(
    outputs: torch.Tensor,
    targets: torch.Tensor,
    config: TrainConfig,
    class_weights: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the loss that training minimises, added up over the examples.

    ``cross_entropy`` is that of the outputs' softmax against the targets. ``mse`` is, for each example, the mean
    over the classes of (output - target)^2: the outputs themselves, not their softmax, are drawn towards 1 for the
    right class and 0 for the others. ``corn`` is the sum over the grades up to the label's, and the next one, of minus
    the logarithm of the probability that it is reached, or not, where the one below it is. These factors are those of
    the label's own probability, so that the sum is minus its logarithm: of the outputs 0, log 3, 0 (grade 1 reached
    with 3/4, then grade 2 with 1/2) and grade 1, -log 3/4 - log 1/2. The original divides by the number of factors
    of a batch, here by the number of examples, as every loss. Label smoothing spreads a fraction s of each target
    evenly over all K classes: target * (1 - s) + s / K.

    Args:
        outputs: The outputs of the network, (batch, classes) float32.
        targets: The class indices (batch,), or probabilities (batch, classes).
        config: The options of training; the loss and the label smoothing are read here.
        class_weights: The weight of the examples of each class, (classes,); None for 1. An example of mixed classes has
            the mean of their weights, by its fractions before smoothing.
        weights: The weight of each example, (batch,), from the table of labels; None for 1.

    Returns:
        A scalar.

    Source:
        Shi, Cao and Raschka, "Deep neural networks for rank-consistent ordinal regression based on conditional
        probabilities", Pattern Analysis and Applications 26, 2023, equation 5 (CORN).
    """
    num_classes = outputs.shape[-1]
    if config.loss == "cross_entropy":
        reduction = "sum" if class_weights is None and weights is None else "none"
        smoothing = config.label_smoothing
        losses = functional.cross_entropy(outputs, targets, label_smoothing=smoothing, reduction=reduction)
    else:
        wanted = to_probabilities(targets, num_classes)
        wanted = wanted * (1 - config.label_smoothing) + config.label_smoothing / num_classes
        if config.loss == "corn":
            losses = -(wanted * compute_log_probabilities(outputs, "corn")).sum(dim=-1)
        else:
            losses = (outputs - wanted).square().mean(dim=-1)
    if class_weights is not None:
        losses = losses * (to_probabilities(targets, num_classes) @ class_weights)
    if weights is not None:
        losses = losses * weights
    return losses.sum()


def add_up(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Add up the losses of examples, (batch,), each times its weight, None for 1; a scalar."""
    return (losses if weights is None else losses * weights).sum()


def balance_classes(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Compute class weights in inverse proportion to the numbers of examples, with mean 1 over the examples.

    Of six examples of class 0 and two of class 1 the weights are 2/3 and 2: both classes weigh 4.

    Args:
        labels: The class indices of the training examples (examples,); each class occurs.
        num_classes: The number of classes.

    Returns:
        The weights (classes,) float32, on the device of the labels.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts.float())


def compute_answer_loss_sum(scores: torch.Tensor, labels: torch.Tensor, loss: LossName) -> torch.Tensor:
    """Compute the same kind of loss of final answers, as validation reports it: labels are not smoothed.

    Args:
        scores: The logarithms of the probabilities, as the classifier answers, (batch, classes).
        labels: The class indices (batch,).
        loss: The kind. cross_entropy and corn: minus the logarithm of the right class's probability. mse: the mean over
            the classes of (probability - one-hot label)^2.

    Returns:
        A scalar, added up over the examples.
    """
    if loss != "mse":
        return functional.nll_loss(scores, labels, reduction="sum")
    return (scores.exp() - to_probabilities(labels, scores.shape[-1])).square().mean(dim=-1).sum()


def count_correct(outputs: torch.Tensor, targets: torch.Tensor, loss: LossName = "cross_entropy") -> torch.Tensor:
    """Count the examples whose most probable class is the target's, of mixed targets the class of the largest one.

    Args:
        outputs: The outputs of the network, or the classifier's answers, (batch, classes).
        targets: The class indices (batch,), or probabilities (batch, classes).
        loss: The loss that decides what the outputs mean; with ``corn`` the largest one is not the most probable class.

    Returns:
        A scalar int64.
    """
    labels = targets if targets.ndim == 1 else targets.argmax(dim=-1)
    if loss == "corn":
        outputs = compute_log_probabilities(outputs, loss)
    return (outputs.argmax(dim=-1) == labels).sum()


def to_probabilities(targets: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Turn class indices (batch,) into one-hot float32 (batch, classes); probabilities stay as they are."""
    return functional.one_hot(targets, num_classes).float() if targets.ndim == 1 else targets
