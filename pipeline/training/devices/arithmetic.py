"""The arithmetic of a GPU: its number format, its kernels of attention, and the name that records give it.

Nothing here needs more than torch, so that a script for a lent machine can use it.
"""

import re
from pathlib import Path

import torch

MAX_FLASH_WIDTH = 256
# Rows are scored in it whatever a model was trained in, so that every machine gives the same answers to rounding.
SCORING_PRECISION = "32-true"


def fix_arithmetic() -> None:
    """Compute on a GPU in the number format that the options name, with kernels that nothing but shapes chooses.

    Torch multiplies matrices in float32, but convolves in TF32, which has ten bits after the point instead of 23: with
    ``32-true`` nothing is computed in TF32 here, so that a GPU's answers are those of a processor to rounding. Of the
    fused attentions cuDNN's is left out, which versions of torch and kinds of GPU prefer or not; :func:`name_kernel` is
    what remains.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def name_kernel(dtype: torch.dtype, width: int, is_masked: bool) -> str:
    """Return the kernel of an attention on a GPU: flash, efficient, or math, which holds the matrix of weights.

    In bfloat16 and float16 it is flash where the width is a multiple of 8, at most 256, and nothing is masked, and
    efficient for the other multiples of 8; in float32 it is efficient for multiples of 4. Anything else is math.

    Args:
        dtype: The type of queries, keys and values.
        width: Their channels.
        is_masked: Whether there is a mask.

    Source:
        Torch, ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp``, for GPUs since Ampere, without cuDNN.
    """
    is_half = dtype in (torch.bfloat16, torch.float16)
    if is_half and width % 8 == 0:
        return "flash" if width <= MAX_FLASH_WIDTH and not is_masked else "efficient"
    return "efficient" if dtype == torch.float32 and width % 4 == 0 else "math"


def name_accelerator(device: torch.device, num_devices: int = 1) -> str:
    """Return the name of the GPUs that compute, such as "4 x NVIDIA H200 (140 GiB, driver 570.86)"; empty for none.

    Args:
        device: One of them.
        num_devices: The number of all of them.
    """
    if device.type == "cpu":
        return ""
    name = f"Apple GPU ({device.type})"
    if device.type == "cuda":
        gibibytes = torch.cuda.get_device_properties(device).total_memory / 2**30
        driver = read_driver()
        name = f"{torch.cuda.get_device_name(device)} ({gibibytes:.0f} GiB{f', driver {driver}' if driver else ''})"
    return f"{num_devices} x {name}" if num_devices > 1 else name


def read_driver(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return the version of NVIDIA's driver as Linux lists it; empty where it does not.

    Args:
        path: The file that the driver makes.
    """
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d[\d.]*)", path.read_text()) if path.is_file() else None
    return found.group(1) if found else ""
