import gc

import pytest

from pipeline.core.collector import pause_collector
from pipeline.core.errors import UserError


def test_the_collector_is_paused_and_then_as_it_was_also_after_an_error():
    with pause_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(UserError), pause_collector():
        raise UserError("x")
    assert gc.isenabled()
    gc.disable()
    try:
        with pause_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
