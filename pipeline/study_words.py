"""How the pages of several models write a share: shorter than a report of one model does."""

from collections.abc import Mapping

from pipeline.report import round_below_one


def show_share(metric: Mapping[str, float | None]) -> str:
    """Write "97.1 % (95.0 to 98.6)", the interval in brackets where there is one; the page says what it is."""
    if metric["value"] is None:
        return "not defined"
    text = f"{round_below_one(100 * metric['value'], 1, 100)}\u00a0%"
    if metric["low"] is None or metric["high"] is None:
        return text
    low, high = (round_below_one(100 * value, 1, 100) for value in (metric["low"], metric["high"]))
    return f"{text} ({low} to {high})"
