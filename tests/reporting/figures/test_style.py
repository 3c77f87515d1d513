"""The style of all figures: letters that DejaVu Sans lacks are drawn with another font, or named."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.font_manager import get_font

import pipeline.reporting
from pipeline.reporting.figures import fonts, style
from pipeline.reporting.figures.image_grid import contact_sheet


def draw(text):
    with style.open_figure(2, 1) as figure:
        figure.suptitle(text)
        return style.save_svg(figure)


def build_font(path, name, letters):
    """Write a font that has a filled square for each letter."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for place in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(place)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square" for letter in letters})
    builder.setupGlyf({".notdef": square, "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(path)
    return font_manager.ttfFontProperty(get_font(path))


@pytest.fixture
def install(monkeypatch):
    """Make DejaVu Sans and these fonts the ones that are installed."""
    plain = [entry for entry in font_manager.fontManager.ttflist if entry.name == fonts.FONT]

    def change(*entries, new=()):
        monkeypatch.setattr(font_manager.fontManager, "ttflist", [*plain, *entries])
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [entry.fname for entry in (*plain, *new)])
        fonts.find_fonts.cache_clear()
        fonts._warn_of_boxes.cache_clear()

    change()
    yield change
    fonts.find_fonts.cache_clear()
    fonts._warn_of_boxes.cache_clear()


def test_letters_that_no_font_has_are_named_once_a_script_and_others_never(install, caplog):
    assert draw("Grüße, 50 % ≥ α") != draw("other")
    assert caplog.messages == []
    draw("健常 and 健")
    draw("관절염 또는 健常, again")
    contact_sheet(np.zeros((1, 8, 8), np.uint8), ["P1 関節炎"])
    (message,) = caplog.messages
    assert "no font of this machine has Chinese, Japanese or Korean letters" in message
    assert "such as Noto Sans CJK" in message
    draw("ปกติ 健")
    assert "has Thai letters" in caplog.messages[1]
    assert len(caplog.messages) == 2


def test_letters_of_any_script_are_drawn_with_an_installed_font_that_has_them(install, tmp_path, caplog):
    boxes, sheet_of_boxes = draw("健 ป"), contact_sheet(np.zeros((1, 8, 8), np.uint8), ["P1 健 ป ✓"])
    assert len(caplog.messages) == 2
    install(
        build_font(tmp_path / "serif.ttf", "A Serif", "健ป"),
        build_font(tmp_path / "sans.ttf", "B Sans", "健"),
        replace(build_font(tmp_path / "gone.ttf", "A Sans", "健"), fname=str(tmp_path / "removed.ttf")),
    )
    found = fonts.find_fonts(frozenset("健ป"))
    assert {letter: entry.name for letter, entry in found.items()} == {"健": "B Sans", "ป": "A Serif"}
    assert draw("健 ป") != boxes
    assert contact_sheet(np.zeros((1, 8, 8), np.uint8), ["P1 健 ป ✓"]) != sheet_of_boxes
    assert len(caplog.messages) == 2


def test_a_font_that_was_installed_since_matplotlib_made_its_list_is_found(install, tmp_path, caplog):
    damaged = tmp_path / "a damaged.ttf"
    damaged.write_bytes(b"no font")
    boxes = draw("健")
    font = build_font(tmp_path / "sans.ttf", "B Sans", "健")
    install(new=[replace(font, fname=str(damaged)), font])
    assert draw("健") != boxes
    assert len(caplog.messages) == 1


def test_a_text_is_cut_where_its_font_changes_and_is_as_wide_as_its_parts(install, tmp_path):
    install(build_font(tmp_path / "sans.ttf", "B Sans", "健"))
    runs = fonts.cut_by_font("P1 健健 ✓", "DejaVuSans.ttf", 10)
    assert [text for text, _ in runs] == ["P1 ", "健健", " ✓"]
    assert runs[1][1].getlength("健健") == 20
    assert fonts.cut_by_font("", "DejaVuSans.ttf", 10) == []


def test_a_figure_that_is_drawn_once_is_the_one_that_savefig_draws_twice():
    def plot(figure):
        axes = figure.subplots()
        axes.plot([0, 1, 4], [2, 3, 9], label="a name of some length")
        axes.set(xlabel="patients", ylabel="accuracy")
        figure.legend(loc="outside lower center")
        return figure

    with style.open_figure(3, 2) as figure:
        once = style.save_svg(plot(figure))
    with style.open_figure(3, 2) as figure:
        twice = io.BytesIO()
        plot(figure).savefig(twice, format="svg", facecolor=style.PAPER, metadata={"Date": None, "Creator": None})
    assert once == twice.getvalue()


def test_no_legend_lies_on_curves():
    """A legend of axes lies inside them; one of the figure is outside, and says so."""
    folder = Path(pipeline.reporting.__file__).parent
    calls = [call for path in folder.rglob("*.py") for call in re.findall(r"(\w+)\.legend\(([^\n]*)", path.read_text())]
    assert len(calls) >= 5
    assert [call for call in calls if call[0] != "figure" or "outside" not in call[1]] == []
