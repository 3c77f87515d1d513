import pytest

from pipeline.config.validation import require
from pipeline.core.errors import UserError


def test_a_refused_value_is_named_with_its_field_and_what_is_allowed():
    require(True, "train.epochs", 1, "1 or more")
    with pytest.raises(UserError, match=r"^train\.epochs: found 0, allowed is 1 or more\.$"):
        require(False, "train.epochs", 0, "1 or more")
