"""An exported model gives the checkpoint's own probabilities, in a process that knows nothing of this project."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from perceiver import PerceiverConfig
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.data_kinds import IMAGES, POINTS, SCANS
from pipeline.core.errors import UserError
from pipeline.export.programs import (
    TOLERANCE,
    check_program,
    describe_inputs,
    draw_inputs,
    trace,
    write_onnx,
    write_torch_program,
)
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.networks import build_model
from pipeline.training.checkpoint import build_from_checkpoint
from tests.builders.checkpoints import make_checkpoint
from tests.builders.isolation import BLOCKED
from tests.builders.models import build_spec
from tests.builders.scan_models import CHOICES, CNN_CHOICES

SMALL = {"num_latents": 4, "latent_dim": 8, "num_bands": 2, "num_cross_attends": 1, "self_attends_per_cross": 1}
# Between them: every kind of data, a slice's place, the mirror, local contrast, the permutation, all losses, both
# networks.
MODELS = {
    "slices": (
        ModelConfig(
            stem="patches",
            patch_size=2,
            slice_position=True,
            local_contrast=True,
            mirror_tta=True,
            perceiver=PerceiverConfig(**SMALL | {"num_cross_attends": 2}, weight_sharing="all"),
        ),
        {},
    ),
    "images": (
        ModelConfig(stem="pixels", pixel_permutation_seed=1, mirror_tta=True, perceiver=PerceiverConfig(**SMALL)),
        {
            "kind": IMAGES,
            "num_channels": 3,
            "mean": (0.1, 0.2, 0.3),
            "std": (0.3, 0.2, 0.1),
            "settings": {"train.loss": "mse"},
        },
    ),
    "cnn": (ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(4, 8))), {"settings": {"train.loss": "corn"}}),
    "points": (
        ModelConfig(num_points=12, perceiver=PerceiverConfig(**SMALL, max_freq=(4.0, 4.0, 4.0))),
        {"kind": POINTS, "image_size": (16, 3), "mean": (), "std": ()},
    ),
} | {
    f"scans-{name}": (replace(config, mirror_tta=True, local_contrast=name == "joint"), {"kind": SCANS})
    for name, config in CHOICES.items()
}


def build_checkpoint(name):
    config, facts = MODELS[name]
    shape = {key: facts[key] for key in ("num_channels", "image_size", "kind") if key in facts}
    spec = build_spec(**shape)
    if spec.kind is SCANS:
        # The mirror reverses sagittal slices, whose order a pooling does not see: all its answers would be one half.
        spec = replace(spec, field_of_view_mm=60.0, is_sagittal=config.slices == "joint")
    model = build_model(config, spec, seed=3)
    # Fresh heads answer one half to everything; and far outputs of a model with squared error are all 0 and 1.
    strength = 0.05 if name == "images" else 0.3
    for parameter in model.parameters():
        parameter.data += strength * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
        )
    facts = {key: value for key, value in facts.items() if key not in shape} | {"spec": spec}
    return make_checkpoint(model=config, weights=model.state_dict(), **facts)


def compute_expected(checkpoint, values):
    places = values[1] if len(values) > 1 else np.zeros(len(values[0]))
    return compute_probabilities(build_from_checkpoint(checkpoint), values[0], places, torch.device("cpu"), 256)


# The quick tests of the stage have the program of torch for slices.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "slices"])
def test_programs_give_the_checkpoints_probabilities(name, tmp_path):
    checkpoint = build_checkpoint(name)
    traced = trace(checkpoint)
    assert write_torch_program(tmp_path / "model.pt2", checkpoint, traced) <= TOLERANCE
    assert write_onnx(tmp_path / "model.onnx", checkpoint, traced) <= TOLERANCE
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", "model.onnx"}
    answers = compute_expected(checkpoint, draw_inputs(describe_inputs(checkpoint), 10))
    assert np.ptp(answers[:, 0]) > 0.01, "equal answers would prove nothing"


@pytest.mark.parametrize("fault", [2 * TOLERANCE, np.nan])
def test_a_program_that_answers_otherwise_is_removed_and_refused(fault, tmp_path):
    checkpoint = build_checkpoint("slices")
    path = tmp_path / "model.pt2"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"model.pt2: a probability differs by .* at most 1e-05 is allowed"):
        check_program(path, checkpoint, lambda values: compute_expected(checkpoint, values) + fault)
    assert not path.exists()
    path.write_bytes(b"")
    assert check_program(path, checkpoint, lambda values: compute_expected(checkpoint, values)) < 1e-6
    assert path.exists()


def test_a_cnn_of_whole_scans_is_refused():
    spec = build_spec(kind=SCANS, image_size=(16, 16))
    weights = build_model(CNN_CHOICES["plain"], spec, seed=0).state_dict()
    with pytest.raises(UserError, match="torch and onnx are not for a 3-D CNN"):
        trace(make_checkpoint(model=CNN_CHOICES["plain"], weights=weights, spec=spec))


def test_inputs_are_those_that_the_model_reads():
    names = {name: [item.name for item in describe_inputs(build_checkpoint(name))] for name in MODELS}
    assert names["slices"] == ["examples", "slice_position"]
    assert names["images"] == names["cnn"] == names["points"] == ["examples"]
    assert names["scans-joint"] == names["scans-mean"] == ["examples", "places_mm"]
    assert describe_inputs(build_checkpoint("points"))[0].shape == (12, 3)
    assert describe_inputs(build_checkpoint("images"))[0].shape == (3, 8, 8)
    assert [item.shape for item in describe_inputs(build_checkpoint("scans-mean"))] == [("slices", 8, 8), ("slices", 3)]
    assert "slices in a multiple of 2, at least 4" in describe_inputs(build_checkpoint("scans-joined"))[0].meaning


def test_drawn_scans_lie_within_the_field_of_view_and_every_second_one_lacks_slices():
    examples, places = draw_inputs(describe_inputs(build_checkpoint("scans-joint")), 4, num_slices=6)
    assert (examples.shape, places.shape) == ((4, 6, 8, 8), (4, 6, 3))
    assert np.isnan(places[..., 0]).sum(axis=1).tolist() == [0, 2, 0, 2]
    assert np.nanmax(np.abs(places)) <= 30
    assert np.nanmin(places[..., 0]) < 0 < np.nanmin(places[..., 1:])


@pytest.mark.slow
def test_programs_run_where_this_project_is_not(tmp_path):
    """Batches of another size than any that the export tried; the answers go back as a file."""
    checkpoint = build_checkpoint("slices")
    traced = trace(checkpoint)
    write_torch_program(tmp_path / "model.pt2", checkpoint, traced)
    write_onnx(tmp_path / "model.onnx", checkpoint, traced)
    examples, places = draw_inputs(describe_inputs(checkpoint), 7, seed=5)
    np.savez(tmp_path / "inputs.npz", examples=examples, slice_position=places)
    code = f"""{BLOCKED}
try:
    import pipeline
    raise SystemExit("pipeline was imported")
except ImportError:
    pass
import numpy, onnxruntime, torch
given = dict(numpy.load("inputs.npz"))
program = torch.export.load("model.pt2").module()
first = program(torch.tensor(given["examples"]), torch.tensor(given["slice_position"])).detach().numpy()
second = onnxruntime.InferenceSession("model.onnx").run(["probabilities"], given)[0]
numpy.savez("answers.npz", first=first, second=second)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = compute_expected(checkpoint, (examples, places))
    for answers in np.load(tmp_path / "answers.npz").values():
        np.testing.assert_allclose(answers, expected, atol=TOLERANCE)
