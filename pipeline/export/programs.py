"""A trained model as one file that needs neither this project nor its data: torch.export and ONNX.

The only module that imports onnx and onnxruntime. Inputs are examples as the store holds them, of whole scans with the
places of their slices; outputs are probabilities: normalization, test-time augmentation and softmax are inside. Each
file is read back and must give the checkpoint's own probabilities; otherwise it is removed.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.classifier import ProbabilityModel
from pipeline.training.checkpoint import Checkpoint, build_from_checkpoint

Run = Callable[[tuple[Array, ...]], Array]

# Float32 has seven digits. The other runtimes add up the same products in another order, so that the last digits
# differ: the largest difference over the architectures here was 4.2e-7. 1e-5 leaves room for deeper models and other
# processors, and is far from what would change a decision.
TOLERANCE = 1e-5
# One example, and batch sizes that no power of two or fixed batch fits; of whole scans each with so many slices.
CHECKED_BATCHES = ((1, 1), (3, 11), (10, 5))
EXAMPLES, SLICE_POSITION, PLACES, PROBABILITIES = "examples", "slice_position", "places_mm", "probabilities"
# The axis of a scan's slices, of which there may be any number.
SLICES = "slices"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Input:
    """One argument of a program.

    Args:
        name: The name of the argument.
        dtype: The data type of its numbers.
        shape: The shape after the axis of the batch, which is of any size; an axis with a name is too.
        meaning: The description for a reader.
        largest: The largest number of either sign that is drawn to check a program.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    largest: float = 1.0


def describe_inputs(checkpoint: Checkpoint) -> tuple[Input, ...]:
    """Describe the arguments of a program of this checkpoint, in order."""
    if not checkpoint.spec.kind.is_image:
        num_points = checkpoint.model.num_points or checkpoint.spec.image_size[0]
        return (Input(EXAMPLES, "float32", (num_points, 3), "point clouds, z up; each is normalised inside"),)
    if checkpoint.spec.kind.has_places:
        joined = count_joined(checkpoint)
        number = "any number of slices" if joined == 1 else f"slices in a multiple of {joined}, at least {2 * joined}"
        scans = f"whole scans (batch, slices, height, width), black 0 and white 255, with {number}"
        reach, unit = checkpoint.spec.field_of_view_mm / 2, "mm" if checkpoint.spec.kind.reads_scans else "voxels"
        place = (
            f"each slice's position along the normal from the centre of its scan, and its height and width, in {unit}; "
            f"positions at most {reach:g} from 0; not a number for a slice that fills up a scan with fewer"
        )
        stack = Input(EXAMPLES, "uint8", (SLICES, *checkpoint.spec.image_size), scans)
        return stack, Input(PLACES, "float32", (SLICES, 3), place, reach)
    shape = (checkpoint.spec.num_channels, *checkpoint.spec.image_size)
    images = Input(EXAMPLES, "uint8", shape, "images (batch, channels, height, width), black 0 and white 255")
    if not (checkpoint.model.architecture == "perceiver" and checkpoint.model.slice_position):
        return (images,)
    place = "each slice's position in its volume, -1 the left, posterior or inferior end, 1 the other"
    return images, Input(SLICE_POSITION, "float32", (), place)


def count_joined(checkpoint: Checkpoint) -> int:
    """Return the number of slices that make one input; a program takes whole inputs alone, and then two or more."""
    return checkpoint.model.patch_slices if checkpoint.model.slices == "joint" else 1


def draw_inputs(inputs: tuple[Input, ...], batch_size: int, seed: int = 0, num_slices: int = 7) -> tuple[Array, ...]:
    """Draw noise of every brightness and contrast, so that a wrong constant anywhere would change the output.

    Of whole scans with several slices every second one lacks some of them.

    Args:
        inputs: The arguments, as :func:`describe_inputs` returns them.
        batch_size: The number of examples.
        seed: The seed of the random number generator.
        num_slices: The number of slices of whole scans.

    Returns:
        An array (batch, ...) for each input.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for item in inputs:
        shape = (batch_size, *(num_slices if size == SLICES else int(size) for size in item.shape))
        if item.dtype == "uint8":
            low, high = np.sort(generator.uniform(0, 255, (2, batch_size, *[1] * len(item.shape))), axis=0)
            values = generator.uniform(low, high + 1, shape).clip(0, 255)
        else:
            values = generator.uniform(-item.largest, item.largest, shape)
        if item.name == PLACES:
            values[..., 1:] = np.abs(values[..., 1:])
            values[1::2, min(1, num_slices - 1) : num_slices // 2] = np.nan
        drawn.append(values.astype(item.dtype))
    return tuple(drawn)


def trace(checkpoint: Checkpoint) -> torch.export.ExportedProgram:
    """Turn the model into a graph of tensor operations that takes a batch of any size.

    Raises:
        UserError: The model is a CNN of whole scans, which reads those of a batch one after the other.
    """
    if (
        checkpoint.spec.kind.has_places
        and checkpoint.model.architecture == "cnn"
        and checkpoint.model.slices == "joint"
    ):
        raise UserError(
            "export.formats: torch and onnx are not for a 3-D CNN, a baseline that reads each scan by itself. "
            "Choose bundle or hub, or export a Perceiver."
        )
    inputs = describe_inputs(checkpoint)
    model = ProbabilityModel(build_from_checkpoint(checkpoint)).eval()
    # A batch of one would become a constant of the graph.
    joined = count_joined(checkpoint)
    values = tuple(map(torch.from_numpy, draw_inputs(inputs, batch_size=2, num_slices=3 * joined)))
    batch, slices = torch.export.Dim("batch"), joined * torch.export.Dim(SLICES)
    shapes = tuple({0: batch, 1: slices} if SLICES in item.shape else {0: batch} for item in inputs)
    with torch.no_grad(), _quiet():
        return torch.export.export(model, values, dynamic_shapes=shapes)


def write_torch_program(path: Path, checkpoint: Checkpoint, traced: torch.export.ExportedProgram) -> float:
    """Write a ``torch.export`` program, read it back and compare it with the checkpoint.

    Args:
        path: The path of the file, which ends in ``.pt2``; ``torch.export.load(path).module()(examples)`` runs it.
        checkpoint: The trained model.
        traced: The same model, as :func:`trace` returns it.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: The difference is above the tolerance; the file is then removed.
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
        path: The path of the file, which ends in ``.onnx``.
        checkpoint: The trained model.
        traced: The same model, as :func:`trace` returns it.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: The difference is above the tolerance (the file is then removed), or a package is absent.
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
        path: The path of the program's file, which is removed where it is refused.
        checkpoint: The trained model.
        run: The program, from an array for each input to probabilities.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: The difference is above the tolerance, or not a number.
    """
    classifier = build_from_checkpoint(checkpoint)
    largest = 0.0
    joined = count_joined(checkpoint)
    for batch_size, num_slices in CHECKED_BATCHES:
        allowed = num_slices if joined == 1 else max(num_slices, 2) * joined
        values = draw_inputs(describe_inputs(checkpoint), batch_size, batch_size, allowed)
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
    """Switch off the converters' messages; their result is checked afterwards."""
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
