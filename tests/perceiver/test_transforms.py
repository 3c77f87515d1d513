"""A model under torch.func, in forward mode, with second derivatives, and on a device that has no memory."""

import subprocess
import sys

import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from perceiver import ImageConfig, ImagePerceiver, Perceiver, PerceiverConfig, PointPerceiver
from perceiver.cpu_attention import attend_without_input_gradient
from tests.perceiver.small_models import draw_normal, small_config, small_perceiver

# 12 inputs and 400: a CPU has another backward pass for more than 256. Heads wider than an input, and narrower.
CASES = [((3, 4), 32), ((3, 4), 8), ((20, 20), 32), ((20, 20), 8)]


def build_double(sizes, head_dim):
    model = small_perceiver(axis_sizes=sizes, cross_head_dim=head_dim, num_cross_attends=2).double()
    return model, draw_normal(2, *sizes, 2).double()


def step_parameters(model, size):
    """Return the parameters, and the same moved along one direction by a small step and back."""
    generator = torch.Generator().manual_seed(3)
    names = {name: parameter.detach() for name, parameter in model.named_parameters()}
    direction = {name: torch.randn(value.shape, generator=generator).double() for name, value in names.items()}
    moved = [{name: value + sign * size * direction[name] for name, value in names.items()} for sign in (1, -1)]
    return names, direction, moved


@pytest.mark.parametrize(("sizes", "head_dim"), CASES)
def test_gradients_of_torch_func_are_those_of_autograd(sizes, head_dim):
    model, values = build_double(sizes, head_dim)
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(model(values).square().sum(), list(parameters.values()))
    detached = {name: parameter.detach() for name, parameter in parameters.items()}
    found = grad(lambda given: functional_call(model, given, (values,)).square().sum())(detached)
    for name, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], value)
    each = vmap(grad(lambda given, row: functional_call(model, given, (row[None],)).square().sum()), (None, 0))
    for name, values_of_rows in each(detached, values).items():
        torch.testing.assert_close(values_of_rows.sum(dim=0), found[name])


@pytest.mark.parametrize(("sizes", "head_dim"), CASES)
def test_vmap_is_the_batch_and_jacrev_the_gradients(sizes, head_dim):
    model, values = build_double(sizes, head_dim)
    torch.testing.assert_close(vmap(lambda row: model(row[None])[0])(values), model(values))
    jacobian = jacrev(model)(values)
    leaf = values.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[0, 1], leaf)
    torch.testing.assert_close(jacobian[0, 1], expected)


@pytest.mark.parametrize(("sizes", "head_dim"), CASES)
def test_second_derivatives_and_forward_mode_are_differences_of_gradients(sizes, head_dim):
    """Within sdpa_kernel(MATH): torch's fused attention has first derivatives alone, in reverse mode."""
    model, values = build_double(sizes, head_dim)
    parameters, direction, moved = step_parameters(model, 1e-5)

    def gradient(given):
        leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
        return torch.autograd.grad(functional_call(model, leaves, (values,)).square().sum(), list(leaves.values()))

    with sdpa_kernel(SDPBackend.MATH):
        ahead, behind = (gradient(given) for given in moved)
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        loss = functional_call(model, leaves, (values,)).square().sum()
        first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        along = sum((value * direction[name]).sum() for name, value in zip(leaves, first, strict=True))
        second = torch.autograd.grad(along, list(leaves.values()))
        outputs, tangent = jvp(lambda given: functional_call(model, given, (values,)), (parameters,), (direction,))
        differences = [functional_call(model, given, (values,)) for given in moved]
    largest = max(value.abs().max() for value in second)
    for value, up, down in zip(second, ahead, behind, strict=True):
        assert (value - (up - down) / 2e-5).abs().max() < 1e-6 * largest  # the error of a difference of step 1e-5
    torch.testing.assert_close(outputs, model(values))
    assert (tangent - (differences[0] - differences[1]) / 2e-5).abs().max() < 1e-6 * tangent.abs().max()


def test_second_derivatives_of_the_backward_pass_for_fixed_inputs_need_no_context():
    queries = draw_normal(1, 3, 5).double().requires_grad_()
    inputs, mask = draw_normal(1, 300, 5, seed=3).double(), torch.arange(300)[None] < 280

    torch.autograd.gradgradcheck(lambda given: attend_without_input_gradient(given, inputs, mask, 0.3), (queries,))


def test_a_model_without_memory_has_the_shapes_of_the_one_with():
    with torch.device("meta"):
        model = Perceiver(small_config())
        assert model(torch.empty(5, 3, 4, 2)).shape == (5, 3)
        assert model(torch.empty(5, 3, 4, 2)).device.type == "meta"


class FindProcessor(TorchDispatchMode):
    """The operators that compute on the processor, or copy tensors from it or to it, scalars left out."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        given = [value for value in tree_leaves((arguments, options)) if isinstance(value, torch.Tensor)]
        results = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        on_processor = [value for value in (*given, *results) if value.device.type == "cpu" and value.ndim > 0]
        if on_processor:
            self.found.append(str(function))
        return result


def build_models():
    images = {"channels": 1, "height": 32, "width": 32, "num_classes": 2}
    learned = ImageConfig(stem="pixels", perceiver=PerceiverConfig(positions="learned"))
    bare = ImageConfig(stem="patches", perceiver=PerceiverConfig(positions="none", pooling="query"))
    places = ImageConfig(slice_position=True)
    return [
        (lambda: ImagePerceiver(ImageConfig(), **images), [(4, 1, 32, 32)]),
        (lambda: ImagePerceiver(places, **images, num_slices=9), [(4, 1, 32, 32), (4,)]),
        (lambda: ImagePerceiver(learned, **images), [(4, 1, 32, 32)]),
        (lambda: ImagePerceiver(bare, **images), [(4, 1, 32, 32)]),
        (lambda: Perceiver.from_image_config(6, 32.0, 2, input_channels=1, num_latents=8), [(2, 30, 34, 1)]),
        (lambda: PointPerceiver(PerceiverConfig(max_freq=(8.0,) * 3), num_classes=4), [(4, 300, 3)]),
    ]


@pytest.mark.parametrize(("build", "shapes"), build_models())
def test_a_forward_pass_on_another_device_computes_and_copies_nothing_on_the_processor(build, shapes):
    """A copy makes the processor wait for a GPU. The other device here is the one without memory."""
    model = build().to("meta").train()
    arguments = [torch.empty(shape, device="meta") for shape in shapes]
    with FindProcessor() as on_processor:
        logits = model(*arguments)
        logits.sum().backward()
    assert logits.device.type == "meta"
    assert on_processor.found == []


WITHOUT_COMPILER = """
import sys
from dataclasses import replace
import torch
from perceiver import ImageConfig, ImagePerceiver, PerceiverConfig, PointPerceiver, VolumePerceiver
config = PerceiverConfig(num_latents=4, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1)
image = ImageConfig(stem="conv", num_conv_layers=1, conv_channels=4, num_residual_blocks=1, perceiver=config)
with torch.device("meta"):
    ImagePerceiver(image, channels=1, height=8, width=8, num_classes=2)
    VolumePerceiver(image, height=8, width=8, num_slices=4, num_classes=2)
    PointPerceiver(replace(config, max_freq=(8.0, 8.0, 8.0)), num_classes=2)
with torch.no_grad():
    ImagePerceiver(image, channels=1, height=8, width=8, num_classes=2)(torch.zeros(2, 1, 8, 8))
    PointPerceiver(replace(config, max_freq=(8.0, 8.0, 8.0)), num_classes=2)(torch.zeros(2, 5, 3))
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_model_without_values_is_built_and_one_with_values_answers_without_the_compiler():
    """A checkpoint is compared with such a model first, so that each command that loads one would load that too."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
