"""The memory that training and scoring need on a GPU, estimated before they start.

    need = weights * (2 + moments + average) + batch size * bytes of an example

The weights have gradients of their size, the optimizer keeps two moments of each (LAMB, Adam and AdamW; Muon fewer),
and ``train.average_decay`` one average. An example takes what its pass through the network keeps for the backward pass,
four copies of its input (the random transforms), and three times the largest tensor of a layer, to compute with. What
the pass keeps is not guessed from the architecture: the network runs with tensors that have shapes and no memory.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config.training import TrainConfig
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import UserError

NUM_PROBED = 2
COPIES_OF_INPUTS, LAYERS_AT_WORK, MOMENTS = 4, 3, 2
GIBIBYTE = 2**30


@dataclass(frozen=True)
class MemoryNeed:
    """An estimate in bytes: what is needed whatever the batch, and what each example of a batch adds."""

    fixed: int
    per_example: int

    def total(self, batch_size: int) -> int:
        """Return the bytes that batches of this size need."""
        return self.fixed + batch_size * self.per_example

    def largest_batch(self, room_bytes: int) -> int:
        """Return the largest batch size that needs at most so much; 0 if none does."""
        return max(0, (room_bytes - self.fixed) // self.per_example)


def estimate_training(model: nn.Module, spec: InputSpec, config: TrainConfig, precision: str) -> MemoryNeed:
    """Estimate what a step of training needs.

    Args:
        model: The network of ``build_model``; it is not changed.
        spec: The examples that it reads.
        config: The options of training; whether an average is kept is read here.
        precision: The number format, as Fabric calls it.
    """
    probe = _run_without_memory(model, spec, precision, is_training=True)
    copies = 2 + MOMENTS + (1 if config.average_decay > 0 else 0)
    at_work = LAYERS_AT_WORK * probe.largest + COPIES_OF_INPUTS * probe.inputs
    return MemoryNeed(copies * probe.weights, (probe.kept + at_work) // NUM_PROBED)


def estimate_scoring(model: nn.Module, spec: InputSpec) -> MemoryNeed:
    """Estimate what scoring in float32 needs; arguments are those of ``estimate_training``."""
    probe = _run_without_memory(model, spec, "32-true", is_training=False)
    return MemoryNeed(probe.weights, (LAYERS_AT_WORK * probe.largest + COPIES_OF_INPUTS * probe.inputs) // NUM_PROBED)


def check_memory(need: MemoryNeed, option: str, batch_size: int, room_bytes: int) -> str:
    """Refuse a batch size that would not fit.

    Args:
        need: The estimate.
        option: The name of the option of the batch size.
        batch_size: The number of examples of a batch on one GPU.
        room_bytes: The memory that the GPU has left.

    Returns:
        The estimate in words.

    Raises:
        UserError: it needs more; the message names the largest batch size that would fit.
    """
    words = f"about {need.total(batch_size) / GIBIBYTE:.1f} of {room_bytes / GIBIBYTE:.1f} GiB"
    if need.total(batch_size) <= room_bytes:
        return words
    largest = need.largest_batch(room_bytes)
    advice = f"{largest} would fit" if largest > 0 else "not even one example would fit: use a smaller model or images"
    raise UserError(f"{option}: batches of {batch_size} need {words} that the GPU has free; {advice}.")


@dataclass(frozen=True)
class _Probe:
    """Bytes of a run with ``NUM_PROBED`` examples: kept for the backward pass, largest tensor, inputs, weights."""

    kept: int
    largest: int
    inputs: int
    weights: int


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of the largest tensor that an operator returned, and that is none of the network's own."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own, self.largest = own, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        sizes = [leaf.nbytes for leaf in tensors if leaf.untyped_storage()._cdata not in self.own]
        self.largest = max([self.largest, *sizes])
        return result


def _run_without_memory(model: nn.Module, spec: InputSpec, precision: str, is_training: bool) -> _Probe:
    """Run a copy of a network on examples without memory, and count the bytes of what would be there."""
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        network = copy.deepcopy(model).eval()  # in training whole scans would count their padding
    tensors = [*network.parameters(), *network.buffers()]
    own = {tensor.untyped_storage()._cdata for tensor in tensors}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    size = (spec.num_slices, *spec.image_size) if spec.kind.has_places else (spec.num_channels, *spec.image_size)
    shape = size if spec.kind.is_image else spec.image_size
    lower = torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true")
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with mode, torch.set_grad_enabled(is_training), hooks, lower, _LargestTensor(own) as found:
        inputs = torch.empty((NUM_PROBED, *shape))
        places = torch.empty((NUM_PROBED, spec.num_slices, 3) if spec.kind.has_places else NUM_PROBED)
        network(inputs, places)
    num_kept = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    return _Probe(num_kept, found.largest, inputs.nbytes, sum(tensor.nbytes for tensor in tensors))
