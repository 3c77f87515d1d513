"""Text from outside: what counts as the same text, and names made fit to be shown on one line."""

import re
import unicodedata
from collections.abc import Callable, Iterable


def plural(word: str, count: int = 2) -> str:
    """Return the word, with an s unless there is one."""
    return word if count == 1 else f"{word}s"


def count_words(count: int, word: str) -> str:
    """Return "1 image" or "10,000 images"."""
    return f"{count:,} {plural(word, count)}"


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


def clean_text(text: str) -> str:
    """Remove what nobody can see: blanks at the ends, also U+00A0, and the two ways of writing ``ä`` in Unicode.

    The result is NFC; two texts with the same result are the same text.

    Args:
        text: A patient, a label, the name of a column or any other cell.
    """
    return unicodedata.normalize("NFC", text.strip())


def _drop_invisible(text: str) -> str:
    """Remove zero-width characters, soft hyphens, marks of direction, variation selectors and control characters."""
    return "".join(
        symbol
        for symbol in text
        if symbol.isspace()
        or (
            unicodedata.category(symbol) not in ("Cf", "Cc")
            and symbol != "\u034f"
            and not "\ufe00" <= symbol <= "\ufe0f"
        )
    )


def is_blank(text: str) -> bool:
    """Return whether nothing of a text can be seen: it is empty, or blanks and zero-width characters alone."""
    return not _drop_invisible(text).strip()


# What may differ between two spellings of one thing, and the function that removes the difference.
DIFFERENCES: dict[str, Callable[[str], str]] = {
    "invisible characters": _drop_invisible,
    "blanks": lambda text: " ".join(text.split()),
    "the width or form of characters": lambda text: unicodedata.normalize("NFKC", text),
    "upper and lower case": lambda text: unicodedata.normalize("NFC", text.casefold()),
    "the prefix OAI": lambda text: re.sub(r"^OAI[ _-]*(?=[0-9])", "", text, flags=re.IGNORECASE),
    # Excel and pandas write the patient 7 as 7.0 where a column has an empty cell.
    "a decimal .0": lambda text: re.sub(r"^([0-9]+)\.0+$", r"\1", text),
    # 0.05 and 0.5 are two numbers.
    "leading zeros": lambda text: re.sub(r"(?<![0-9.,])0+(?=[0-9])", "", text),
}


def _fold(text: str, left_out: str = "") -> str:
    for difference, remove in DIFFERENCES.items():
        text = text if difference == left_out else remove(text)
    return text


def find_alike(texts: Iterable[str]) -> tuple[str, str] | None:
    """Find two texts that differ, but only in a way in which people and programs respell one text.

    Of ``7``, ``Left``, ``8``, ``left``, ``007`` the result is ``Left`` and ``left``. Nobody can know whether ``7`` and
    ``007`` are one patient, so they are neither joined nor kept apart in silence: the caller refuses them.

    Args:
        texts: Texts as :func:`clean_text` returns them.

    Returns:
        The first two, in their order; None where there are none.
    """
    found: dict[str, str] = {}
    for text in texts:
        other = found.setdefault(_fold(text), text)
        if other != text:
            return other, text
    return None


def describe_difference(text: str, other: str) -> str:
    """List in what two texts that :func:`find_alike` found differ, such as "upper and lower case"."""
    needed = [difference for difference in DIFFERENCES if _fold(text, difference) != _fold(other, difference)]
    enough = [difference for difference, remove in DIFFERENCES.items() if remove(text) == remove(other)]
    return " and ".join(needed or enough[:1] or ["spelling"])
