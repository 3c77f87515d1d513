"""A fixture for several tests of the model."""

import pytest
import torch


@pytest.fixture
def fresh_compiler():
    """Reset the compiler, which refuses to compile a method for more than eight models.

    The limit applies to the process, so without a reset a test would depend on the models that other tests compiled.
    """
    torch.compiler.reset()
    yield
    torch.compiler.reset()
