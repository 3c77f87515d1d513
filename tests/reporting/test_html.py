"""Accessibility of all pages: headings, tables, figures, contrast, no network."""

import ast
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from tests.builders.page_reader import PageReader
from tests.builders.pages import BUILDERS, FULL_PAGES, build_report

REPORTING = Path(__file__).parents[2] / "pipeline" / "reporting"
STYLE = (REPORTING / "templates" / "style.css").read_text()


@pytest.fixture(params=FULL_PAGES)
def page(request, tmp_path) -> str:
    return BUILDERS[request.param](tmp_path)


def test_every_function_that_writes_a_page_is_among_the_builders():
    """What is not there is seen by no browser."""
    found = {
        function.name
        for path in REPORTING.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef) and path.name != "html.py"
        if {"write_page", "render_page"} & {name.id for name in ast.walk(function) if isinstance(name, ast.Name)}
    }
    assert found == {name.split(",")[0] for name in BUILDERS}


def test_headings_go_down_by_one_level_at_a_time_from_a_single_first(page):
    levels = [int(element.tag[1]) for element in PageReader(page).find("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_every_table_has_a_caption_and_every_heading_cell_a_scope(page):
    reader = PageReader(page)
    tables = reader.find("table")
    assert tables
    for table in tables:
        (caption,) = table.find("caption")
        assert caption.read().strip()
        assert table.has_parent("scroll")
        columns = table.find("thead")[0].find("th")
        assert all(cell.attributes["scope"] == "col" for cell in columns)
        for row in table.find("tbody")[0].find("tr"):
            assert [cell.attributes.get("scope") for cell in row.find("th")] == ["row"]
            assert len(row.find("th")) + len(row.find("td")) == len(columns)


def test_every_table_can_be_copied_without_a_script(page):
    reader = PageReader(page)
    texts = [element for element in reader.find("pre") if element.has_parent("copy")]
    tables = reader.find("table")
    assert len(texts) >= len(tables)
    copied = {element.text for element in texts}
    for table in tables:
        rows = [[cell.read() for cell in row.find("th") + row.find("td")] for row in table.find("tr")]
        assert "\n".join("\t".join(" ".join(cell.split()) for cell in row) for row in rows) in copied
    assert "user-select: all" in STYLE


def test_every_figure_is_described_in_words_beyond_its_title(page):
    figures = PageReader(page).find("figure")
    assert figures
    for figure in figures:
        title = figure.find("strong")[0].text
        (image,) = figure.find("img")
        assert image.attributes["alt"].startswith(f"{title}. ")
        assert len(image.attributes["alt"]) > len(title) + 5
        assert image.attributes["width"]
        assert image.attributes["height"]


def test_what_scrolls_is_reached_by_the_keyboard_and_has_a_name(page):
    regions = [element for element in PageReader(page).order if element.attributes.get("role") == "region"]
    assert regions
    assert all(element.attributes["tabindex"] == "0" and element.attributes["aria-label"] for element in regions)
    assert all(element.attributes.get("tabindex") == "0" for element in PageReader(page).find("pre"))
    assert ":focus-visible" in STYLE


def test_no_page_uses_the_network_or_a_script(page):
    reader = PageReader(page)
    assert not reader.find("script", "link", "iframe", "object", "form")
    (policy,) = [element for element in reader.find("meta") if "http-equiv" in element.attributes]
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:;")
    assert all(element.attributes["src"].startswith("data:image/") for element in reader.find("img"))
    assert not [name for element in reader.order for name in element.attributes if name.startswith("on")]
    assert "url(" not in page.split("</style>")[0]


def test_figures_of_a_report_describe_their_numbers(tmp_path):
    alts = {
        e.attributes["alt"].split(".")[0]: e.attributes["alt"] for e in PageReader(build_report(tmp_path)).find("img")
    }
    assert "AUROC 0.500 (95\u00a0% interval 0.250 to 0.750)" in alts["ROC curve"]
    assert "1 of 1 “left”; 1 of 1 “right”." in alts["Confusion matrix of the slices"]
    assert "0 of 2 predictions" in alts["Worst mistakes"]


def read_palette(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", block))


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    fractions = np.array([int(digits[at : at + 2], 16) for at in (0, 2, 4)]) / 255
    linear = np.where(fractions <= 0.04045, fractions / 12.92, ((fractions + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


LIGHT, DARK, PRINT = (
    read_palette(STYLE[STYLE.index(start) : STYLE.index("}", STYLE.index(start))])
    for start in (":root", "@media (prefers-color-scheme: dark)", "@media print")
)


def test_contrast_is_computed_as_defined():
    assert contrast("#000000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the well-known grey that just fails


@pytest.mark.parametrize("palette", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *((text, ground) for text in ("ink", "soft") for ground in ("paper", "card", "warn-paper")),
        *((text, ground) for text in ("accent", "good", "bad") for ground in ("paper", "card")),
    ],
)
def test_text_is_readable_in_both_schemes_and_in_print(palette, text, ground):
    """WCAG 2.2, level AA: at least 4.5 for text."""
    assert set(palette) == set(LIGHT)
    assert contrast(palette[text], palette[ground]) >= 4.5


@pytest.mark.parametrize("palette", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
def test_marks_are_seen_in_both_schemes_and_in_print(palette):
    """WCAG 2.2: at least 3 for other marks: the focus ring, the bar of a notice, the border of a box."""
    for mark in ("accent", "warn-line", "soft"):
        assert contrast(palette[mark], palette["paper"]) >= 3
