"""Pages on a phone, on a desktop and in print."""

import base64
import re
from pathlib import Path

import pytest

from tests.builders.pages import BUILDERS, FULL_PAGES

pytestmark = pytest.mark.browser

REACH = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
# Elements that reach beyond the viewport, outside of the boxes that scroll.
BEYOND = """
return [...document.querySelectorAll('main *')].filter(
  (e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, .frame, pre, .unseen')
).map((e) => e.tagName + ' ' + e.className)
"""
# Letters of a page below 9 pixels, and figures whose smallest letters, of 20 or in sheets of images of 13 of their own
# pixels, are shown smaller.
SMALL = """
const texts = [...document.querySelectorAll('main *')].filter(
  (e) => e.checkVisibility() && !e.closest('.unseen')
    && [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim())
    && parseFloat(getComputedStyle(e).fontSize) < 9
).map((e) => e.tagName + ' ' + e.className)
const images = [...document.querySelectorAll('.frame img')].filter(
  (e) => e.clientWidth && 20 * e.clientWidth / e.naturalWidth < 8.95
).map((e) => `${e.alt} ${e.clientWidth} of ${e.naturalWidth}`)
const opened = arguments[0] ? [] : [...document.querySelectorAll('.strip details[open] img')].filter(
  (e) => 13 * e.clientWidth / e.naturalWidth < 8.95
).map((e) => `${e.alt} ${e.clientWidth} of ${e.naturalWidth}`)
return [...texts, ...images, ...opened]
"""
# Tables that scroll in their box; on a desktop those of intervals alone must not.
WIDE = """
return [...document.querySelectorAll('.scroll')].filter(
  (e) => (innerWidth < 600 || /^(Classes|Scores|Calibration)/.test(e.ariaLabel)) && e.scrollWidth > e.clientWidth + 1
).map((e) => `${e.ariaLabel} ${e.scrollWidth} of ${e.clientWidth}`)
"""


def write(name: str, folder: Path) -> str:
    path = folder / "page.html"
    path.write_text(BUILDERS[name](folder))
    return path.as_uri()


@pytest.fixture(scope="module", params=FULL_PAGES)
def address(request, tmp_path_factory) -> str:
    return write(request.param, tmp_path_factory.mktemp(request.param))


def resize(browser, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def show(browser, address: str, width: int, medium: str = "", scheme: str = "light") -> None:
    resize(browser, width)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})
    browser.get(address)


@pytest.mark.parametrize("name", BUILDERS)
def test_nothing_reaches_beyond_the_screen_but_what_scrolls(browser, name, tmp_path):
    show(browser, write(name, tmp_path), 1280)
    for width in (1280, 768, 360):
        resize(browser, width)
        browser.execute_script("document.querySelectorAll('details').forEach((e) => e.open = false)")
        reach, available = browser.execute_script(REACH)
        assert width - 20 < available <= width, "all but the scroll bar of a desktop"
        assert reach == available
        assert browser.execute_script(BEYOND) == []
        browser.execute_script("document.querySelectorAll('details').forEach((e) => e.open = true)")
        reach, available = browser.execute_script(REACH)
        assert reach == available
        assert browser.execute_script(SMALL, name == "write_cases, images") == [], "letters are in all other images"
        assert width == 768 or browser.execute_script(WIDE) == [], "cells go to a second line, or rows become lists"


def test_plain_images_of_a_grid_are_whole_and_two_stand_next_to_each_other_on_a_phone(browser, tmp_path):
    show(browser, write("write_cases, images", tmp_path), 360)
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.strip img')].map((e) => "
        "[e.offsetTop, e.clientWidth / e.clientHeight, e.naturalWidth / e.naturalHeight])"
    )
    assert all(shown == pytest.approx(whole, rel=0.02) for _, shown, whole in boxes), "but for rounding to pixels"
    assert boxes[0][0] == boxes[1][0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_readers_scheme(browser, address, scheme):
    show(browser, address, 1280, scheme=scheme)
    ground, ink = (
        browser.execute_script(f"return getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")


def test_in_print_nothing_scrolls_all_is_open_and_all_is_on_the_sheet(browser, address):
    show(browser, address, 680, medium="print", scheme="dark")  # an A4 sheet of 210 mm without its margins of 15 mm
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 680
    beyond = """
    return [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > 681)
      .filter((e) => !e.closest('.unseen')).map((e) => e.tagName + ' ' + e.className)
    """
    assert browser.execute_script(beyond) == []
    seen = "return [...document.querySelectorAll('details.document dd')].map((e) => e.checkVisibility())"
    assert all(browser.execute_script(seen)), "model card and check-list are open"
    copies = "return [...document.querySelectorAll('details.copy')].map((e) => e.offsetHeight)"
    assert set(browser.execute_script(copies)) == {0}, "the text for copying is not printed"
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    paper = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert base64.b64decode(paper["data"]).startswith(b"%PDF")
