"""The device that computes, and the number format that it computes in.

Without Lightning, so that scoring does not wait for the import of what only training uses.
"""

import torch

from pipeline.core.errors import UserError
from pipeline.training.devices.arithmetic import fix_arithmetic


def choose_accelerator(accelerator: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``.

    Args:
        accelerator: One of these names, or ``auto`` for the first that this machine has.

    Raises:
        UserError: the machine has none of that kind.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return next(name for name, is_there in available.items() if is_there)
    if not available[accelerator]:
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise UserError(
            f"train.accelerator: found '{accelerator}', but this machine has {there}. Use one of them or auto."
        )
    return accelerator


def choose_device(accelerator: str) -> torch.device:
    """Return the device that scores, with its arithmetic fixed; arguments and errors are ``choose_accelerator``'s."""
    fix_arithmetic()
    return torch.device(choose_accelerator(accelerator))


def choose_precision(precision: str, accelerator: str) -> str:
    """Return the number format, as Fabric calls it.

    ``auto`` takes bf16 only where the processor multiplies matrices in it: there it is faster than
    float32, elsewhere it is emulated and slower.

    Args:
        precision: The option ``train.precision``.
        accelerator: The kind of device that training runs on.
    """
    if precision != "auto":
        return precision
    if accelerator == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # x86 processors with matrix tiles (AMX), the only ones where bf16 was measured to be faster
        has_bf16 = accelerator == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return "bf16-mixed" if has_bf16 else "32-true"
