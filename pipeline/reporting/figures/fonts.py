"""Letters of figures: those of DejaVu Sans, and for what it lacks those of the installed fonts.

matplotlib and Pillow draw a box for a letter that a font lacks, as DejaVu Sans lacks Chinese, Japanese and Korean ones.
"""

import contextlib
import functools
import itertools
import logging
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

logger = logging.getLogger(__name__)
FONT = "DejaVu Sans"
REGULAR = (400, "normal", "regular")
# It has a box for each letter that there is.
BOXES = "Last Resort"
# What the letters of one font are called in Unicode, by the first word of their names.
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH")


@functools.cache
def find_fonts(letters: frozenset[str]) -> dict[str, font_manager.FontEntry]:
    """Return an installed font for each letter that one has.

    One without serifs is taken first, so that letters of one script come from one font. That no font has some of the
    letters is said once for each script.

    Args:
        letters: Letters that :data:`FONT` lacks.
    """
    found: dict[str, font_manager.FontEntry] = {}
    for entry in itertools.chain(_list_fonts(), _list_new_fonts()):
        lacking = letters - found.keys()
        if not lacking:
            break
        try:
            font = FT2Font(entry.fname)
        except (OSError, RuntimeError):  # removed since matplotlib made its list, or damaged
            continue
        found |= {letter: entry for letter in lacking if font.get_char_index(ord(letter))}
    for script, example in sorted({_name_script(letter): letter for letter in letters - found.keys()}.items()):
        _warn_of_boxes(script if unicodedata.category(example)[0] == "L" else "")
    return found


def _list_fonts() -> Iterable[font_manager.FontEntry]:
    """Return the plain font of each family, in the order in which a letter is looked for."""
    plain = {
        entry.name: entry
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight in REGULAR and not entry.name.startswith(BOXES)
    }
    return sorted(plain.values(), key=lambda entry: ("Sans" not in entry.name, "Mono" in entry.name, entry.name))


def _list_new_fonts() -> Iterator[font_manager.FontEntry]:
    """Yield the fonts that were installed after matplotlib made its list, which it keeps in a file; they join it."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        with contextlib.suppress(OSError, RuntimeError):
            font_manager.fontManager.addfont(path)
            yield font_manager.fontManager.ttflist[-1]


def _name_script(letter: str) -> str:
    script = unicodedata.name(letter, "unnamed").split()[0].capitalize()
    return "Chinese, Japanese or Korean" if script.upper() in EAST_ASIAN else script


@functools.cache
def _warn_of_boxes(script: str) -> None:
    """Say once that there are boxes for the letters of a script, or for symbols where it has no name."""
    logger.warning(
        "warning: figures: no font of this machine has %s; boxes stand for them. Install one that has, such as "
        "Noto Sans %s, and run the stage again.",
        f"{script} letters" if script else "some symbols of the names",
        "CJK" if "," in script else script or "Symbols",
    )


def cut_by_font(text: str, name: str, num_pixels: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Cut a text where its font changes, for Pillow, which draws a text in one font.

    Args:
        text: The text.
        name: The file of a font that comes with matplotlib, which draws all letters that it has, so that captions look
            the same on all machines.
        num_pixels: The size of the font.
    """
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    others = {} if text.isascii() else find_fonts(frozenset(text) - _list_letters(path))
    paths = [others[letter].fname if letter in others else str(path) for letter in text]
    runs = itertools.groupby(zip(paths, text, strict=True), key=lambda pair: pair[0])
    return [("".join(letter for _, letter in run), _load(file, num_pixels)) for file, run in runs]


@functools.cache
def _load(file: str, num_pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, num_pixels)


@functools.cache
def _list_letters(path: Path) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(str(path)).get_charmap()))
