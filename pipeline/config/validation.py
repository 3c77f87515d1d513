"""The check of an option's value."""

from pipeline.core.errors import UserError


def require(condition: bool, field: str, found: object, allowed: str) -> None:
    """Refuse an option's value where a condition does not hold.

    Args:
        condition: The condition of the value.
        field: The name of the option with its sections.
        found: The value.
        allowed: The values that are allowed, in words.

    Raises:
        UserError: ``condition`` does not hold; the message names the field, the value and what is allowed.
    """
    if not condition:
        raise UserError(f"{field}: found {found!r}, allowed is {allowed}.")
