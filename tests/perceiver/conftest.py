"""What several tests of the model need."""

import pytest
import torch


@pytest.fixture
def fresh_compiler():
    """Forget what was compiled: a method that is compiled for more than eight models is refused as too many.

    The eight count for the process, so without this a test would depend on how many models others have compiled.
    """
    torch.compiler.reset()
    yield
    torch.compiler.reset()
