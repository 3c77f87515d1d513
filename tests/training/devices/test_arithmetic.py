"""What a run says of its GPU, and what its arithmetic is there."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.core.provenance import read_hardware
from pipeline.training.devices.arithmetic import name_accelerator, name_kernel, read_driver
from pipeline.training.devices.selection import choose_device

VERSION = (
    "NVRM version: NVIDIA UNIX {}x86_64  Kernel Module  {}570.86.15  Wed Feb 12 10:00:00 UTC 2025\nGCC version: 12"
)


@pytest.mark.parametrize("kind", ["", "Open "], ids=["closed", "open"])
def test_the_driver_is_read_where_linux_lists_it(kind, tmp_path):
    path = tmp_path / "version"
    assert read_driver(path) == ""
    path.write_text(VERSION.format(kind, "for x86_64  " if kind else ""))
    assert read_driver(path) == "570.86.15"


def test_the_hardware_of_a_run_names_its_gpus_and_their_memory(monkeypatch):
    assert name_accelerator(torch.device("cpu")) == ""
    assert read_hardware().endswith("cores")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 ({device})")
    memory = SimpleNamespace(total_memory=140 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    name = name_accelerator(torch.device("cuda:1"), 4)
    assert name.removesuffix(")").startswith("4 x NVIDIA H200 (cuda:1) (140 GiB")
    assert read_hardware(name) == f"{name}; {read_hardware()}"
    assert name_accelerator(torch.device("mps")) == "Apple GPU (mps)"


def test_a_gpu_computes_float32_in_float32_wherever_it_scores():
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert choose_device("cpu") == torch.device("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    ("dtype", "width", "is_masked", "kernel"),
    [
        (torch.bfloat16, 27, False, "math"),
        (torch.bfloat16, 32, False, "flash"),
        (torch.bfloat16, 32, True, "efficient"),
        (torch.float16, 264, False, "efficient"),
        (torch.float32, 27, False, "math"),
        (torch.float32, 28, True, "efficient"),
        (torch.float64, 32, False, "math"),
    ],
)
def test_type_width_and_mask_choose_the_kernel(dtype, width, is_masked, kernel):
    assert name_kernel(dtype, width, is_masked) == kernel
