"""Regular grids (signals, images, videos) as sets of inputs."""

from torch import Tensor

from perceiver.positions import Grid


def flatten_grid(
    values: Tensor, padding: Tensor | None, num_axes: int, num_channels: int
) -> tuple[Tensor, Grid, Tensor | None]:
    """Turn a grid with channels last into a set of inputs, one for each point of the grid.

    Args:
        values: The grid ``(batch, one or more axes, channels)``, e.g. ``(batch, height, width, channels)``.
        padding: A boolean mask ``(batch, the same axes)``, True for an input to ignore; or None.
        num_axes: The number of axes that the model expects.
        num_channels: The number of channels that the model expects.

    Returns:
        Values ``(batch, inputs, channels)``, the grid, and padding ``(batch, inputs)``, with the last axis fastest.

    Raises:
        ValueError: The grid has another number of axes or channels; the message names the wrong axis.
    """
    found_shape = f"Perceiver values on a grid: found shape {tuple(values.shape)}"
    allowed_shape = f"allowed is (batch, {num_axes} axes, channels) with {num_channels} channels"
    if values.ndim != num_axes + 2:
        raise ValueError(
            f"{found_shape}, {values.ndim} axes, {allowed_shape}; give positions for inputs that are not a grid"
        )
    channel_axis = values.ndim - 1
    if values.shape[channel_axis] != num_channels:
        wrong_axis = f"axis {channel_axis}, the channels, has size {values.shape[channel_axis]}"
        remedy = "choose the channels or set input_channels"
        if values.shape[1] == num_channels:
            wrong_axis += f"; axis 1 has size {num_channels}, so the channels seem to come first"
            remedy = "give values.movedim(1, -1)"
        raise ValueError(f"{found_shape}, {allowed_shape}: {wrong_axis}; {remedy}")
    if padding is not None and padding.shape != values.shape[:-1]:
        raise ValueError(
            f"Perceiver padding on a grid: found shape {tuple(padding.shape)}, allowed is {tuple(values.shape[:-1])}"
        )
    grid = Grid(tuple(values.shape[1:-1]))
    return values.flatten(1, -2), grid, None if padding is None else padding.flatten(1)
