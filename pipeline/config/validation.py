"""How an option's value is refused."""

from pipeline.core.errors import UserError


def require(condition: bool, field: str, found: object, allowed: str) -> None:
    """Refuse an option's value.

    Raises:
        UserError: ``condition`` does not hold; the message names the field, the value and what is allowed.
    """
    if not condition:
        raise UserError(f"{field}: found {found!r}, allowed is {allowed}.")
