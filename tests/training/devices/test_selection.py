"""The device and the precision that training takes, and the refusal of those that are not there."""

import dataclasses

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.devices.selection import choose_accelerator, choose_precision
from tests.builders.bright_halves import CONFIG


def test_an_absent_accelerator_and_too_many_devices_are_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"train\.accelerator: found 'cuda', but this machine has .*cpu"):
            choose_accelerator("cuda")
    with pytest.raises(UserError, match=r"train\.devices: found 100000"):
        build_fabric(dataclasses.replace(CONFIG, devices=100000))


def test_auto_precision_is_bf16_only_where_the_processor_multiplies_in_it(monkeypatch):
    for has_tiles, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has_tiles: {"amx_bf16": has, "avx512_bf16": True})
        assert choose_precision("auto", "cpu") == expected
    assert choose_precision("32-true", "cpu") == "32-true"
