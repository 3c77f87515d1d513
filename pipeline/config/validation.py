"""Checks of the values of options."""

from pathlib import Path

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
        shown = str(found) if isinstance(found, Path) else found
        raise UserError(f"{field}: found {shown!r}, allowed is {allowed}.")


def require_at_least(section: str, options: object, lowest: int, *fields: str) -> None:
    """Refuse an option's number below the lowest that is allowed.

    Args:
        section: The name of the section.
        options: The section's record.
        lowest: The lowest number that is allowed.
        fields: The names of the options, without that of the section.

    Raises:
        UserError: A number is lower.
    """
    for field in fields:
        found = getattr(options, field)
        require(found >= lowest, f"{section}.{field}", found, f"{lowest} or more")
