"""Tensors that pretend to lie on a GPU, and records of what is done with them; nothing is computed."""

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda:0")
# Operators that make the processor wait until a GPU has computed what they return.
WAITING = (
    "aten._local_scalar_dense",
    "aten.nonzero.",
    "aten.equal",
    "aten.masked_select",
    "aten._unique2",
    "aten.is_nonzero",
)
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"


def provide_device_guard() -> None:
    """Let a build of torch without CUDA keep gradients of fake tensors on a GPU.

    Such a build has no guard of the current GPU, and looks for it when it slices or records a gradient. That of the
    "meta" device, which does nothing, takes its place. Builds with CUDA have a guard of their own.
    """
    if torch.backends.cuda.is_built():
        return
    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    if not library.is_file():
        pytest.skip("torch's library lies elsewhere on this system")
    guards = (ctypes.c_void_p * 20).in_dll(ctypes.CDLL(str(library)), REGISTRY)
    cuda, meta = 1, 14  # of c10::DeviceType
    guards[cuda] = guards[cuda] or guards[meta]


@dataclass(frozen=True)
class AttentionCall:
    """The tensors that reach a fused attention: their type and width, whether masked, and whether keys are values."""

    dtype: torch.dtype
    width: int
    is_masked: bool
    is_shared: bool


@dataclass
class Record:
    """What a program did: copies between processor and GPU, waits, operators on the processor, and attentions."""

    copies: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    on_processor: list[str] = field(default_factory=list)
    attentions: list[AttentionCall] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether the GPU was left to compute."""
        return not (self.copies or self.waits or self.on_processor)


class _Operators(TorchDispatchMode):
    def __init__(self, record: Record, device_type: str) -> None:
        super().__init__()
        self.record, self.device_type = record, device_type

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = str(operator)
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        if name.startswith(WAITING) and self.device_type in given:
            self.record.waits.append(name)
        result = operator(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        # lift_fresh only wraps a number, and moving it would be recorded by itself.
        if name.startswith(("prim.", "aten.lift_fresh")) or devices <= {self.device_type}:
            return result
        # The GPU takes a number of the processor with the kernel's arguments, so that only moving it would copy.
        if devices == {"cpu"}:
            self.record.on_processor.append(name)
        elif "copy" in name or any(tensor.ndim > 0 for tensor in tensors if tensor.device.type == "cpu"):
            self.record.copies.append(name)
        return result


class _Attentions(TorchFunctionMode):
    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
            is_masked = kwargs.get("attn_mask") is not None
            self.record.attentions.append(AttentionCall(dtype, query.shape[-1], is_masked, key is value))
        return function(*args, **kwargs)


@contextlib.contextmanager
def pretend_gpu(dtype: torch.dtype | None = None) -> Iterator[Record]:
    """Record what is done inside of the context, in which tensors on ``GPU`` can be made.

    Args:
        dtype: The lower precision of autocast; None for float32.

    Yields:
        The record, which is filled as the program runs.
    """
    provide_device_guard()
    record, dtype_before = Record(), torch.get_autocast_dtype("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_autocast_enabled("cuda", dtype is not None)
        torch.set_autocast_dtype("cuda", dtype or torch.bfloat16)
        try:
            with _Operators(record, "cuda"), _Attentions(record):
                yield record
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.set_autocast_dtype("cuda", dtype_before)


def move_to_gpu(module: nn.Module) -> nn.Module:
    """Put empty parameters and buffers on the GPU in the places of a module's; inside of ``pretend_gpu`` alone."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty_like(parameter, device=GPU)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device=GPU)
    return module
