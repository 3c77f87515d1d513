"""A trained model as one file that needs neither this project nor its data: torch.export and ONNX.

The door to onnx and onnxruntime. What goes in are examples as the store holds them, what comes out are
probabilities: normalisation, mirror averaging and softmax are inside. Each file is read back and must give the
checkpoint's own probabilities, or it is not handed out.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.errors import UserError
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.classifier import ProbabilityModel
from pipeline.training.checkpoint import Checkpoint, build_from_checkpoint

Array = np.ndarray[Any, Any]
Run = Callable[[tuple[Array, ...]], Array]

# Float32 has seven digits. The other runtimes add up the same products in another order, so that the last digits
# differ: at most 4.2e-7 was seen over the kinds of model here. 1e-5 leaves room for deeper models and other
# processors, and is far from what would change a decision.
TOLERANCE = 1e-5
# One alone, and numbers that no power of two or fixed batch would fit.
CHECKED_BATCHES = (1, 3, 10)
EXAMPLES, SLICE_POSITION, PROBABILITIES = "examples", "slice_position", "probabilities"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Input:
    """One argument of a program.

    Args:
        name: of the argument.
        dtype: of its numbers.
        shape: behind the batch, which is of any size.
        meaning: in words.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    meaning: str


def describe_inputs(checkpoint: Checkpoint) -> tuple[Input, ...]:
    """Say what a program of this checkpoint takes, in order."""
    if not checkpoint.spec.kind.is_image:
        num_points = checkpoint.model.num_points or checkpoint.spec.image_size[0]
        return (Input(EXAMPLES, "float32", (num_points, 3), "point clouds, z up; each is normalised inside"),)
    shape = (checkpoint.spec.num_channels, *checkpoint.spec.image_size)
    pictures = Input(EXAMPLES, "uint8", shape, "pictures (batch, channels, height, width), black 0 and white 255")
    if not (checkpoint.model.architecture == "perceiver" and checkpoint.model.slice_position):
        return (pictures,)
    place = "each slice's place in its volume, -1 the left, posterior or inferior end, 1 the other"
    return pictures, Input(SLICE_POSITION, "float32", (), place)


def draw_inputs(inputs: tuple[Input, ...], batch_size: int, seed: int = 0) -> tuple[Array, ...]:
    """Draw noise of every brightness and contrast, so that a wrong constant anywhere would show.

    Args:
        inputs: of :func:`describe_inputs`.
        batch_size: how many examples.
        seed: of the noise.

    Returns:
        An array (batch, ...) for each input.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for item in inputs:
        if item.dtype == "uint8":
            low, high = np.sort(generator.uniform(0, 255, (2, batch_size, *[1] * len(item.shape))), axis=0)
            values = generator.uniform(low, high + 1, (batch_size, *item.shape)).clip(0, 255)
        else:
            values = generator.uniform(-1, 1, (batch_size, *item.shape))
        drawn.append(values.astype(item.dtype))
    return tuple(drawn)


def trace(checkpoint: Checkpoint) -> torch.export.ExportedProgram:
    """Turn the model into a graph of tensor operations that takes a batch of any size."""
    inputs = describe_inputs(checkpoint)
    model = ProbabilityModel(build_from_checkpoint(checkpoint)).eval()
    # A batch of one would become a constant of the graph.
    values = tuple(map(torch.from_numpy, draw_inputs(inputs, batch_size=2)))
    batch = torch.export.Dim("batch")
    shapes = {item.name: {0: batch} for item in inputs}
    with torch.no_grad(), _quiet():
        return torch.export.export(model, values, dynamic_shapes=shapes)


def write_torch_program(path: Path, checkpoint: Checkpoint, traced: torch.export.ExportedProgram) -> float:
    """Write a ``torch.export`` program, read it back and compare it with the checkpoint.

    Args:
        path: ends in ``.pt2``; ``torch.export.load(path).module()(examples)`` runs it.
        checkpoint: the model.
        traced: the same, of :func:`trace`.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: it is above the tolerance; the file is then removed.
    """
    torch.export.save(traced, path)
    module = torch.export.load(path).module()

    def run(inputs: tuple[Array, ...]) -> Array:
        with torch.inference_mode():
            answers: Array = module(*map(torch.from_numpy, inputs)).numpy()
        return answers

    return check_program(path, checkpoint, run)


def write_onnx(path: Path, checkpoint: Checkpoint, traced: torch.export.ExportedProgram) -> float:
    """Write an ONNX model with its weights inside, run it in onnxruntime and compare it with the checkpoint.

    Args:
        path: ends in ``.onnx``.
        checkpoint: the model.
        traced: the same, of :func:`trace`.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: it is above the tolerance (the file is then removed), or a package is absent.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"export.formats: onnx needs {', '.join(missing)}, not installed here. Run pip install "
            "'perceiver-knees[export]', or leave onnx out: --export.formats '[torch,bundle]'."
        )
    import onnxruntime

    inputs = describe_inputs(checkpoint)
    with _quiet():
        torch.onnx.export(
            traced,
            (),
            str(path),
            input_names=[item.name for item in inputs],
            output_names=[PROBABILITIES],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(values: tuple[Array, ...]) -> Array:
        named = {item.name: value for item, value in zip(inputs, values, strict=True)}
        answers: Array = session.run([PROBABILITIES], named)[0]
        return answers

    return check_program(path, checkpoint, run)


def check_program(path: Path, checkpoint: Checkpoint, run: Run) -> float:
    """Compare a program with the checkpoint on noise, in batches of several sizes.

    Args:
        path: of the program's file, removed where it is refused.
        checkpoint: the model as it is.
        run: the program, from an array for each input to probabilities.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: it is above the tolerance, or not a number.
    """
    classifier = build_from_checkpoint(checkpoint)
    largest = 0.0
    for batch_size in CHECKED_BATCHES:
        values = draw_inputs(describe_inputs(checkpoint), batch_size, seed=batch_size)
        places = values[1] if len(values) > 1 else np.zeros(batch_size, np.float32)
        expected = compute_probabilities(classifier, values[0], places, torch.device("cpu"), batch_size)
        difference = float(np.abs(run(values) - expected).max())
        if not difference <= TOLERANCE:  # "not above" would let a NaN pass
            path.unlink()
            raise UserError(
                f"{path.name}: a probability differs by {difference:.2g} from the checkpoint's, at most {TOLERANCE:g} "
                "is allowed; nothing was written. Leave this format out of export.formats and report the options."
            )
        largest = max(largest, difference)
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' notes away; that the result is right is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
