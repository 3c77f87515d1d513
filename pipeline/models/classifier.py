"""The classifier: a network with the statistics of its training images, from stored examples to probabilities."""

import math
from collections.abc import Callable

import torch
from torch import nn

from perceiver import normalise_points
from pipeline.config.model import LossName, ModelConfig
from pipeline.core.data_kinds import InputSpec, are_sides
from pipeline.models.networks import SliceModel

Transform = Callable[[torch.Tensor], torch.Tensor]
# The windows of local contrast: a spot, and its neighbourhood.
CENTRE_PIXELS, SURROUND_PIXELS = 3, 9
# In standard deviations of the training images, about one of 255 grey levels: less is no contrast.
SMALLEST_CONTRAST = 0.01


def to_unit_range(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 images into float32, black 0 and white 1."""
    return images.float() / 255


def average_mirrored(straight: torch.Tensor, mirrored: torch.Tensor, swaps_sides: bool) -> torch.Tensor:
    """Average the probabilities of images and of their mirror images.

    Args:
        straight: The logarithms of the probabilities of the images, (batch, classes).
        mirrored: The logarithms of the probabilities of the mirror images, (batch, classes).
        swaps_sides: Whether the two classes are left and right, so that a mirror image's left is the image's right.

    Returns:
        Logarithms (batch, classes).
    """
    return torch.logaddexp(straight, mirrored.flip(-1) if swaps_sides else mirrored) - math.log(2)


def reverse_slices(places: torch.Tensor) -> torch.Tensor:
    """Put the slices of sagittal scans at the places that they have in the mirror image.

    Args:
        places: The places (batch, slices, 3) in mm from the centre of the volume, NaN for padding.
    """
    return torch.cat([-places[..., :1], places[..., 1:]], dim=-1)


def average_windows(images: torch.Tensor, side: int) -> torch.Tensor:
    """Average each pixel's square window of so many pixels a side; at the border what of it lies in the image."""
    half = side // 2
    # First down, then across: 2 x 9 numbers a pixel instead of 81.
    down = nn.functional.avg_pool2d(images, (side, 1), 1, (half, 0), count_include_pad=False)
    return nn.functional.avg_pool2d(down, (1, side), 1, (0, half), count_include_pad=False)


def normalise_local_contrast(images: torch.Tensor) -> torch.Tensor:
    """Turn images into their local contrast, which is largest in a small spot in even surroundings.

    It is the mean of 3 x 3 pixels minus that of 9 x 9, divided by the standard deviation of these, but at least by the
    mean of the standard deviations of the image, so that noise in flat parts stays small. Another gain or offset of the
    image changes nothing. A single bright pixel on black has the mean 1/9, of 9 x 9 the mean 1/81 and the standard
    deviation sqrt(80)/81, and so the contrast 8 / sqrt(80) = 0.894.

    Args:
        images: The images, or the slices of volumes, each by itself, (batch, channels, height, width).

    Returns:
        The same shape; 0 where an image is the same everywhere.

    Source:
        Jarrett and others 2009, "What is the best multi-stage architecture for object recognition?", section 2.1, there
        with Gaussian windows and without the 3 x 3 pixels, which average noise.
    """
    mean = average_windows(images, SURROUND_PIXELS)
    variance = average_windows(images.square(), SURROUND_PIXELS) - mean.square()
    std = variance.clamp(min=0).sqrt()
    floor = std.mean(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_CONTRAST)
    return (average_windows(images, CENTRE_PIXELS) - mean) / torch.maximum(std, floor)


class Classifier(nn.Module):
    """A model with the statistics of the examples that it was trained on: all that a stored example needs.

    Args:
        model: The network, of ``build_model``.
        config: The options that the network was built with.
        spec: The examples that it reads.
        mean: The mean of each channel over the training images, with black 0 and white 1; empty for point clouds.
        std: The standard deviation of each channel; empty for point clouds.
        loss: The loss of the training, which decides what the model's outputs mean.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: SliceModel,
        config: ModelConfig,
        spec: InputSpec,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        loss: LossName = "cross_entropy",
    ) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.mirror_average = config.mirror_tta
        self.local_contrast = config.local_contrast
        self.swaps_sides = are_sides(spec.class_names)
        self.num_points = config.num_points
        self.loss: LossName = loss
        self.mean_values, self.std_values = mean, std
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def normalise(self, examples: torch.Tensor) -> torch.Tensor:
        """Give images (black 0, white 1) the mean 0 and the std 1 of training, and each cloud its unit cube.

        With ``model.local_contrast`` images are turned into their local contrast after that.
        """
        if not self.spec.kind.is_image:
            return normalise_points(examples)
        normal = (examples - self.mean) / self.std
        return normalise_local_contrast(normal) if self.local_contrast else normal

    def prepare(
        self, examples: torch.Tensor, before: Transform | None = None, after: Transform | None = None
    ) -> torch.Tensor:
        """Turn examples as the store holds them into what the network reads; the one path of training and scoring.

        Args:
            examples: The images (batch, channels, height, width) uint8, or point clouds (batch, points, 3) float32.
            before: The random transforms of training before normalising, for clouds with the choice of their points.
            after: The random transforms of training after it.
        """
        values = to_unit_range(examples) if self.spec.kind.is_image else examples
        if before is not None:
            values = before(values)
        elif not self.spec.kind.is_image:
            values = values[:, : self.num_points]
        values = self.normalise(values)
        return values if after is None else after(values)

    def forward(self, images: torch.Tensor, slice_position: torch.Tensor) -> torch.Tensor:
        """Classify examples as the store holds them.

        Args:
            images: The images (batch, channels, height, width) uint8, of scans (batch, slices, height, width), or point
                clouds (batch, points, 3) float32.
            slice_position: The place of each slice in its volume, (batch,) in [-1, 1]; of scans the places of all their
                slices, (batch, slices, 3) in mm, NaN for padding.

        Returns:
            Logarithms of the probabilities (batch, classes), float32.
        """
        if self.mirror_average:
            return average_mirrored(*self.score_both(images, slice_position), self.swaps_sides)
        return self._score(self.prepare(images), slice_position)

    def score_both(self, images: torch.Tensor, slice_position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Classify images and their mirror images, each by itself, whether or not their answers are averaged.

        Args:
            images: The images, as for ``forward``.
            slice_position: The places of the slices, as for ``forward``.

        Returns:
            Logarithms of the probabilities of the images and of their mirror images, as each was seen.
        """
        prepared = self.prepare(images)
        straight = self._score(prepared, slice_position)
        if self.spec.is_sagittal:
            return straight, self._score(prepared, reverse_slices(slice_position))
        return straight, self._score(prepared.flip(-1), slice_position)

    def _score(self, prepared: torch.Tensor, slice_position: torch.Tensor) -> torch.Tensor:
        return compute_log_probabilities(self.model(prepared, slice_position).float(), self.loss)


class ProbabilityModel(nn.Module):
    """A classifier that answers with probabilities, and takes the slices' places only where it reads them.

    Args:
        classifier: The classifier, in evaluation mode.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, examples: torch.Tensor, slice_position: torch.Tensor | None = None) -> torch.Tensor:
        """Turn examples and their places, as for ``Classifier``, into probabilities (batch, classes)."""
        places = torch.empty(0) if slice_position is None else slice_position
        scores: torch.Tensor = self.classifier(examples, places)
        return scores.exp()


def compute_log_probabilities(outputs: torch.Tensor, loss: LossName) -> torch.Tensor:
    """Turn a model's outputs into logarithms of probabilities, as the loss that it was trained with means them.

    Trained with ``cross_entropy``, outputs are logits, and their softmax is the answer. Trained with ``mse``, outputs
    already estimate the probabilities (the expected one-hot label has the least squared error), but may leave [0, 1]
    and add up to something else; the answer is the nearest point that does neither. A softmax would flatten them: of
    ten classes, a perfect 1 among zeros would become 23 %. Trained with ``corn``, the sigmoid of output k is the
    probability that grade k is reached where grade k - 1 is; grade 0 always is, and output 0 is not read.

    Args:
        outputs: The outputs of the network, (batch, classes) float32.
        loss: The loss that the model was trained with, ``train.loss``.

    Returns:
        (batch, classes); minus infinity where a probability is 0. Except with ``corn``, the class of the largest output
        stays the most probable.
    """
    if loss == "cross_entropy":
        return outputs.log_softmax(dim=-1)
    if loss == "corn":
        reached, not_reached = (nn.functional.logsigmoid(sign * outputs[:, 1:]) for sign in (1, -1))
        return nn.functional.pad(reached.cumsum(dim=-1), (1, 0)) + nn.functional.pad(not_reached, (0, 1))
    return project_to_simplex(outputs).log()


def project_to_simplex(outputs: torch.Tensor) -> torch.Tensor:
    """Find the nearest vectors without negative entries whose entries add up to 1.

    The same number is taken from all entries, and what falls below 0 becomes 0. Every label, smoothed or not, lies
    among the vectors that are allowed, so that the projection is never further from it than the output was.

    Args:
        outputs: The vectors (batch, classes).

    Returns:
        (batch, classes), in the order of the outputs; not a number where an output is none.

    Source:
        Duchi and others 2008, "Efficient projections onto the l1-ball for learning in high dimensions", figure 1.
    """
    largest_first = outputs.sort(dim=-1, descending=True).values
    ranks = torch.arange(1, outputs.shape[-1] + 1, device=outputs.device)
    surplus = (largest_first.cumsum(dim=-1) - 1) / ranks
    num_kept = (largest_first > surplus).sum(dim=-1, keepdim=True).clamp(min=1)  # 0 where an output is no number
    return (outputs - surplus.gather(-1, num_kept - 1)).clamp(min=0)
