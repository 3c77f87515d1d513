"""Bias fields: the smooth brightness over an MR image that comes from where the coils were."""

import torch
from einops import einsum

DEGREE = 3


def compute_bias_fields(coefficients: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Compute smooth factors on the pixels of images, with the mean 1.

    The logarithm of a field is a polynomial of degree 3 in the coordinates from -1 to 1: the sum of c x^i y^j over all
    powers with i + j from 1 to 3, in the order of :func:`list_powers`. A field is then divided by its mean.

    Args:
        coefficients: The coefficients c, (batch, 9).
        height: The height of the images in pixels.
        width: The width of the images in pixels.

    Returns:
        (batch, 1, height, width).

    Source:
        Sudre, Cardoso and Ourselin, "Longitudinal segmentation of age-related white matter hyperintensities", Medical
        Image Analysis 38, 2017, as TorchIO's RandomBiasField has it. Here it runs on the device, for a whole batch, and
        keeps the mean, so that brightness is changed by ``augment.brightness_fraction`` alone.
    """
    device = coefficients.device
    y, x = (torch.linspace(-1, 1, size, device=device) for size in (height, width))
    terms = torch.stack([torch.outer(y**down, x**right) for down, right in list_powers()])
    fields = einsum(coefficients, terms, "batch term, term height width -> batch height width").exp()
    return (fields / fields.mean(dim=(1, 2), keepdim=True)).unsqueeze(1)


def list_powers() -> list[tuple[int, int]]:
    """List the powers of the two coordinates, downwards and to the right, of the terms of a field."""
    return [(total - right, right) for total in range(1, DEGREE + 1) for right in range(total + 1)]
