"""Text from outside, such as a file's name, made fit to be shown on one line."""

from collections.abc import Mapping


def plural(word: str, count: int = 2) -> str:
    """Return the word, with an s unless there is one."""
    return word if count == 1 else f"{word}s"


def count_words(count: int, word: str) -> str:
    """Return "1 image" or "10,000 images"."""
    return f"{count:,} {plural(word, count)}"


def count_labels(counts: Mapping[str, int]) -> str:
    """Return "3 left, 2 right", or "0: 3, 1: 2" where a label begins with a digit and "3 0" would not be readable."""
    numbered = any(label[:1].isdigit() for label in counts)
    return ", ".join(f"{label}: {count:,}" if numbered else f"{count:,} {label}" for label, count in counts.items())


def join_by_blanks(text: str) -> str:
    """Return a text with a plain blank before each %, instead of the one that keeps both on a line of a page.

    A terminal that is not UTF-8 would show that one as its code.
    """
    return text.replace("\u00a0%", " %")


def make_printable(text: str) -> str:
    """Write what is no visible character as its code.

    A name can hold line ends, commands to a terminal (it begins to write in red, or wipes the screen) and bytes that
    are no Unicode, on which printing fails. Letters of any language stay.

    Args:
        text: A text of any origin.
    """
    if text.isprintable():
        return text
    return "".join(
        symbol if symbol.isprintable() else symbol.encode("unicode_escape", "backslashreplace").decode()
        for symbol in text
    )
