"""The exponential moving average of a model's weights over the steps of training."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """A second set of a model's weights and buffers, which follows the first one step by step.

    After each step of the optimizer ``average = d * average + (1 - d) * weights``. ``d`` is ``decay``, and smaller at
    first, min(decay, (1 + steps done) / (10 + steps done)), so that the new weights of a short training do not stay in
    it: with a decay of 0.999 the first step counts 9/10 and step 9 counts 1/2. The running means and variances of
    batch norms are averaged as the weights are; counters are taken as they stand.

    Args:
        model: The model, on its device; it is not changed but for :meth:`applied`.
        decay: The fraction of the average that a step keeps.
        values: The average of an interrupted training by the names of ``model.state_dict()``; None starts with the
            weights of the model.

    Source:
        Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; the growing decay:
        TensorFlow, ``tf.train.ExponentialMovingAverage(num_updates=...)``.
    """

    def __init__(self, model: nn.Module, decay: float, values: dict[str, torch.Tensor] | None = None) -> None:
        self.decay = decay
        live = {name: value.detach() for name, value in model.state_dict().items()}
        start = live if values is None else values
        self.values = {name: start[name].detach().to(value.device, copy=True) for name, value in live.items()}
        # The live tensors are the model's own memory, which its optimizer changes in place.
        pairs = [(self.values[name], value) for name, value in live.items()]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """Take the weights after a step into the average.

        Args:
            num_steps: The number of steps that were done before this one, over all epochs.
        """
        decay = min(self.decay, (1 + num_steps) / (10 + num_steps))
        averages, live = ([pair[place] for pair in self._averaged] for place in (0, 1))
        get_ema_multi_avg_fn(decay)(averages, live, num_steps)  # type: ignore[no-untyped-call]
        for kept, value in self._copied:
            kept.copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model compute with the average inside of the context, and with its own weights after it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for kept, value in self._averaged + self._copied:
            held = value.clone()
            value.copy_(kept)
            kept.copy_(held)
