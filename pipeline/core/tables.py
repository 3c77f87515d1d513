"""The table contracts: the columns of each table, reading and writing, and what counts as the same text.

Ids are text and stay text: a patient may be called ``007`` or ``NA``.
"""

import csv
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from pipeline.core.errors import UserError
from pipeline.core.files import write_bytes
from pipeline.core.predictions import probability_columns

MANIFEST_COLUMNS = (
    "source_id", "group_id", "label", "path", "num_files", "sha256", "status", "reason", "visit", "side", "site",
    "spelling", "shape", "spacing_mm", "stored_axes", "obliquity_degrees", "centre_right_mm", "side_by_position",
    "num_examples", "intensity_low", "intensity_high", "published_split", "weight",
)  # fmt: skip
INDEX_COLUMNS = ("example_id", "source_id", "group_id", "label", "slice_index", "slice_position")
SPLIT_COLUMNS = ("group_id", "split")
OFFICIAL_SPLIT_COLUMNS = ("group_id", "split", "sha256")
# The stage that writes a table of the workspace, by the pattern of its name.
WRITERS = {
    "manifest.csv": "preprocess",
    "index.csv": "preprocess",
    "official_splits.csv": "preprocess",
    "splits*.csv": "split",
    "predictions*.csv": "evaluate",
}
# Letters and marks of which nothing is seen: joiners, selectors of a variant, fillers of Hangul and Khmer, an empty
# cell of Braille, the place of an object that was not copied (Unicode's Default_Ignorable_Code_Point, and two more).
INVISIBLE_LETTERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffc\U000e0000-\U000e0fff]"
)
MINUS_SIGNS, SINGLE_QUOTES, DOUBLE_QUOTES = (
    "\u2212\u02d7\u2043",
    "\u2018\u2019\u201a\u201b\u02bc\u2032",
    "\u201c\u201d\u201e\u201f\u2033",
)
# Cyrillic and Greek letters that no one can tell from a Latin one, among those of Unicode's confusables (UTS 39).
UNSEEN = "that look the same"
SCRIPT = f"letters of another script {UNSEEN}"
LOOKALIKES = str.maketrans(
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425"
    "\u0430\u0435\u0455\u0456\u0458\u043e\u0440\u0441\u0443\u0445\u0501\u04bb\u051b\u051d"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf",
    "ABESIJKMHOPCTYXaesijopcyxdhqwABEZHIKMNOPTYXo",
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def prediction_columns(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of the predictions table for these classes."""
    identity = ("example_id", "source_id", "group_id", "split", "slice_index", "label", "predicted")
    return (*identity, *probability_columns(class_names))


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV whose cells are all text.

    Args:
        path: The file.
        columns: The columns that must be there; others are kept.

    Raises:
        UserError: no such file, not a CSV, or a missing column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        writers = [stage for pattern, stage in WRITERS.items() if fnmatchcase(path.name, pattern)]
        advice = f"Run the {writers[0]} stage, which writes it, or check" if writers else "Check"
        raise UserError(f"{path}: no such table. {advice} the path (workspace, name and run).") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as CSV ({error}). Save it as UTF-8, comma-separated.") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{path}: rows have more cells than the header. Put cells with a comma into quotes.")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path}: columns {', '.join(missing)} are missing; found {', '.join(table.columns)}.")
    return table


def refuse_alike(where: str, what: str, places: dict[str, str]) -> None:
    """Refuse texts that differ only in a way in which one text is respelled: they would count as two.

    Args:
        where: The file or folder, for the message.
        what: What the texts are, in the plural, for the message.
        places: The place of each text, cleaned, such as ``line 3``.

    Raises:
        UserError: There are two such texts.
    """
    alike = find_alike(places)
    if alike is not None:
        text, other = alike
        difference = describe_difference(text, other)
        shown = [ascii(each) if UNSEEN in difference else repr(each) for each in alike]
        raise UserError(
            f"{where}: the {what} {shown[0]} ({places[text]}) and {shown[1]} ({places[other]}) differ only in "
            f"{difference}, and would count as two. Write both the same way, or name them apart."
        )


def find_formula(table: pd.DataFrame) -> str:
    """Return the first id, label or path that a spreadsheet program would run as a formula; nothing where none is.

    Tables hold such cells as they are: an apostrophe before them, as some advise, would make them other ids.

    Args:
        table: A table with the columns of a manifest.
    """
    for column in ("group_id", "source_id", "label", "path"):
        starts = table[column].str.startswith(FORMULA_STARTS)
        if starts.any():
            return str(table.loc[starts, column].iloc[0])
    return ""


def write_table(path: Path, table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    """Write a table as CSV, whole or not at all; floats keep all their digits.

    Args:
        path: The file to write.
        table: The table; it may have other columns as well.
        columns: The columns to write, in order.
    """
    chosen = table.loc[:, list(columns)]
    text = chosen.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # it is no line's end to the writer and one to the reader, except in quotes
        text = chosen.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
    # Bytes of a name that are no Unicode text become \\xNN.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def clean_text(text: str) -> str:
    """Remove what nobody can see: blanks at the ends, also U+00A0, and the two ways of writing ``ä`` in Unicode.

    The result is NFC; two texts with the same result are the same text.

    Args:
        text: A patient, a label, the name of a column or any other cell.
    """
    return unicodedata.normalize("NFC", text.strip())


def _drop_invisible(text: str) -> str:
    """Remove zero-width characters, soft hyphens, marks of direction, variation selectors and control characters."""
    if text.isascii() and text.isprintable():  # most are, and there may be 100,000
        return text
    return "".join(
        symbol
        for symbol in text
        if symbol.isspace()
        or (unicodedata.category(symbol) not in ("Cf", "Cc") and not INVISIBLE_LETTERS.fullmatch(symbol))
    )


def is_blank(text: str) -> bool:
    """Return whether nothing of a text can be seen: it is empty, or blanks and zero-width characters alone."""
    return not _drop_invisible(text).strip()


def _write_ascii(text: str) -> str:
    """Write digits, dashes and quotation marks of any script as keyboards have them: an Arabic seven becomes ``7``."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(symbol))
        if symbol.isdecimal()
        else "-"
        if unicodedata.category(symbol) == "Pd" or symbol in MINUS_SIGNS
        else "'"
        if symbol in SINGLE_QUOTES
        else '"'
        if symbol in DOUBLE_QUOTES
        else symbol
        for symbol in text
    )


# What may differ between two spellings of one thing, and the function that removes the difference.
DIFFERENCES: dict[str, Callable[[str], str]] = {
    "invisible characters": _drop_invisible,
    "blanks": lambda text: " ".join(text.split()),
    "the width or form of characters": lambda text: unicodedata.normalize("NFKC", text),
    f"digits, dashes or quotation marks {UNSEEN}": _write_ascii,
    SCRIPT: lambda text: text.translate(LOOKALIKES),
    "the dot of an i": lambda text: text.replace("\u0130", "I").replace("\u0131", "i"),  # as Turkish changes case
    "upper and lower case": lambda text: unicodedata.normalize("NFC", text.casefold()),
    "the prefix OAI": lambda text: re.sub(r"^OAI[ _-]*(?=[0-9])", "", text, flags=re.IGNORECASE),
    # Excel and pandas write the patient 7 as 7.0 where a column has an empty cell.
    "a decimal .0": lambda text: re.sub(r"^([0-9]+)\.0+$", r"\1", text),
    # 0.05 and 0.5 are two numbers.
    "leading zeros": lambda text: re.sub(r"(?<![0-9.,])0+(?=[0-9])", "", text),
}


def _fold(text: str, left_out: Collection[str] = ()) -> str:
    if not left_out and text.isascii() and text.isdigit():  # the usual id, of which there may be 100,000
        return text.lstrip("0") or "0"
    for difference, remove in DIFFERENCES.items():
        text = text if difference in left_out else remove(text)
    return text


def list_folds(text: str) -> tuple[str, ...]:
    """Return what two spellings of one text have in common.

    A Greek capital may look like a Latin letter, and its lower case like none: no one text stands for both, so there
    is one without and one with the letters that look the same.

    Args:
        text: A text as :func:`clean_text` returns it.
    """
    folded = _fold(text)
    return (folded,) if text.isascii() else (_fold(text, (SCRIPT,)), folded)


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
        for key in list_folds(text):
            other = found.setdefault(key, text)
            if other != text:
                return other, text
    return None


def find_known(texts: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Find the texts that are, or may be respelled from, one that is known.

    Args:
        texts: Texts as :func:`clean_text` returns them.
        known: Other such texts.

    Returns:
        Each of them that was found, in their order, with the known text.
    """
    folded = {key: text for text in known for key in list_folds(text)}
    return {text: folded[key] for text in texts for key in list_folds(text) if key in folded}


def describe_difference(text: str, other: str) -> str:
    """List in what two texts that :func:`find_alike` found differ, such as "upper and lower case"."""
    kept = (SCRIPT,) if _fold(text, (SCRIPT,)) == _fold(other, (SCRIPT,)) else ()
    needed = [
        difference
        for difference in DIFFERENCES
        if difference not in kept and _fold(text, (*kept, difference)) != _fold(other, (*kept, difference))
    ]
    enough = [difference for difference, remove in DIFFERENCES.items() if remove(text) == remove(other)]
    return " and ".join(needed or enough[:1] or ["spelling"])
