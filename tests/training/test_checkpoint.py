import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.config.model import ModelConfig
from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.networks import build_model
from pipeline.training.checkpoint import (
    HEADER_KEY,
    build_from_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from pipeline.training.optimization.optimizers import build_optimizer, pack_optimizer, restore_optimizer
from tests.builders.checkpoints import MODEL, draw_images, make_checkpoint
from tests.builders.models import build_spec


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "best.safetensors", make_checkpoint())
    return tmp_path / "best.safetensors"


def test_what_is_read_is_what_was_written(path):
    written, found = make_checkpoint(), read_checkpoint(path)
    for name in vars(written):
        if name != "weights":
            assert getattr(found, name) == getattr(written, name), name
            assert type(getattr(found, name)) is type(getattr(written, name)), name
    assert found.weights.keys() == written.weights.keys()
    for name, value in written.weights.items():
        assert torch.equal(found.weights[name], value)


def test_same_checkpoint_same_bytes(path, tmp_path):
    write_checkpoint(tmp_path / "again.safetensors", make_checkpoint())
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_file_alone_gives_the_same_probabilities_in_another_process(path, tmp_path):
    code = """
import sys, numpy as np, torch
from pathlib import Path
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint
from pipeline.inference.probabilities import compute_probabilities
images = np.random.default_rng(0).integers(0, 256, (5, 8, 8)).astype(np.uint8)
classifier = build_from_checkpoint(read_checkpoint(Path(sys.argv[1])))
np.save("out.npy", compute_probabilities(classifier, images, np.linspace(-1, 1, 5), torch.device("cpu"), 2))
"""
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    classifier = build_from_checkpoint(make_checkpoint())
    expected = compute_probabilities(classifier, *draw_images(), torch.device("cpu"), batch_size=2)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-6)


def test_mirror_tta_gives_a_mirrored_knee_exactly_the_other_answer():
    checkpoint = make_checkpoint()
    images, places = draw_images()
    cpu = torch.device("cpu")
    plain = build_from_checkpoint(checkpoint)
    averaging = build_from_checkpoint(
        dataclasses.replace(checkpoint, model=dataclasses.replace(checkpoint.model, mirror_tta=True))
    )
    scores = compute_probabilities(averaging, images, places, cpu, 3)
    mirrored = compute_probabilities(averaging, images[:, :, ::-1], places, cpu, 3)
    # One rounding of float32 each.
    np.testing.assert_allclose(scores, mirrored[:, ::-1], rtol=1e-6)
    one, other = (compute_probabilities(plain, view, places, cpu, 3) for view in (images, images[:, :, ::-1]))
    np.testing.assert_allclose(scores, (one + other[:, ::-1]) / 2, rtol=1e-5)
    assert abs(scores - one).max() > 1e-4, "the plain model is not antisymmetric by itself"


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "muon"])
@pytest.mark.parametrize(
    "options", [MODEL, pytest.param(ModelConfig(num_conv_layers=2, conv_channels=8), marks=pytest.mark.slow)]
)
def test_an_optimizer_resumes_from_a_checkpoint_bit_for_bit(name, options, tmp_path):
    """The kernels of the second lie channel by channel in memory, and those of the file row by row."""
    config = TrainConfig(optimizer=name)

    def step(model, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step()

    def build():
        model = build_model(options, build_spec(), seed=3)
        return model, build_optimizer(model, config)

    model, optimizer = build()
    step(model, optimizer, 0)
    packed = pack_optimizer(optimizer, {"scale": 2.0})
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, make_checkpoint(weights=model.state_dict(), optimizer=packed))
    step(model, optimizer, 1)

    last = read_checkpoint(path)
    resumed, resumed_optimizer = build()
    resumed.load_state_dict(last.weights)
    restore_optimizer(resumed_optimizer, last.optimizer)
    step(resumed, resumed_optimizer, 1)
    assert last.optimizer.scaler == {"scale": 2.0}
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_a_pickle_is_refused_without_being_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    (tmp_path / "old.safetensors").write_bytes(pickle.dumps(Harm()))
    torch.save({"a": torch.ones(1)}, tmp_path / "zip.safetensors")
    for name in ("old.safetensors", "zip.safetensors"):
        with pytest.raises(UserError, match="a pickle, which can run any code"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, start):
    """The file begins with the header's length, in steps of 8, so every 32nd begins with the byte 0x80."""
    path = tmp_path / "best.safetensors"
    write_checkpoint(path, make_checkpoint())
    length = int.from_bytes(path.read_bytes()[:8], "little")
    wanted = next(number for number in range(length, 1 << 20, 8) if number.to_bytes(8, "little").startswith(start))
    checkpoint = make_checkpoint(commit="c" * (1 + wanted - length))
    write_checkpoint(path, checkpoint)
    content = path.read_bytes()
    assert content.startswith(start)
    assert read_checkpoint(path).commit == checkpoint.commit
    for length in (5, 100, -1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_checkpoint(path)


def test_a_file_of_another_program_is_refused(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="of another program"):
        read_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.parametrize("number", [1, 99])
def test_another_format_is_refused(number, tmp_path):
    header = {HEADER_KEY: json.dumps({"format": number})}
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "new.safetensors", header)
    with pytest.raises(UserError, match=f"checkpoint format {number}, this version reads 2. Train again"):
        read_checkpoint(tmp_path / "new.safetensors")


@pytest.mark.parametrize("place", ["weight", "fact"])
def test_one_flipped_bit_is_found(path, place):
    content = bytearray(path.read_bytes())
    position = len(content) - 3 if place == "weight" else content.index(b"right")
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged, its contents do not fit its checksum"):
        read_checkpoint(path)


def test_weights_of_another_shape_are_refused(tmp_path):
    weights = make_checkpoint().weights
    name = "network.perceiver.head.bias"
    changed = [
        (weights | {name: torch.zeros(7)}, r"head\.bias has shape \(7,\), the model needs \(2,\)"),
        ({key: value for key, value in weights.items() if key != name}, r"has shape none, the model needs \(2,\)"),
        (weights | {"extra": torch.zeros(1)}, r"extra has shape \(1,\), the model needs none"),
    ]
    for tensors, message in changed:
        write_checkpoint(tmp_path / "odd.safetensors", make_checkpoint(weights=tensors))
        with pytest.raises(UserError, match=message):
            build_from_checkpoint(read_checkpoint(tmp_path / "odd.safetensors"))


def test_a_failed_write_keeps_the_earlier_checkpoint(path, monkeypatch):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="cannot hold"):
        write_checkpoint(path, make_checkpoint(settings={"train.epochs": object()}))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
