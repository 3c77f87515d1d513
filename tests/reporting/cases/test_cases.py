"""Single scans: who is chosen, and a viewer in which left stays left however a scan was stored."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipeline.reporting
from pipeline.config.outputs import CasesConfig
from pipeline.preprocessing.slicing import read_scan
from pipeline.reporting.cases.choose import Case, choose_cases
from pipeline.reporting.cases.page import write_cases
from pipeline.reporting.cases.volumes import SmallVolume, shrink_volume, weigh_axis
from tests.builders.page_reader import PageReader
from tests.builders.reports import build_png

ORDERS = [
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)
]


def build_case(source_id="a", label="left", predicted="right"):
    return Case(source_id, f"patient of {source_id}", label, predicted, (0.25, 0.75), "worst")


def test_worst_uncertain_and_random_scans_are_chosen_once_each():
    answers = {"a": 0.9, "b": 0.6, "c": 0.48, "d": 0.01, "e": 0.02, "f": 0.3}  # of right; all are left
    rows = [
        {"source_id": name, "group_id": f"p{name}", "label": "left", "probability_left": 1 - value + shift}
        for name, value in answers.items()
        for shift in (-0.05, 0.05)
    ]
    table = pd.DataFrame(rows)
    table["probability_right"] = 1 - table["probability_left"]
    options = CasesConfig(num_worst=1, num_uncertain=2, num_random=2)
    chosen = choose_cases(table, ("left", "right"), options)
    assert [(case.source_id, case.reason) for case in chosen[:3]] == [
        ("a", "worst"),
        ("c", "uncertain"),
        ("b", "uncertain"),
    ]
    assert chosen[0].predicted == "right"
    assert chosen[0].probabilities == pytest.approx((0.1, 0.9))
    assert {case.source_id for case in chosen[3:]} < {"d", "e", "f"}
    assert choose_cases(table, ("left", "right"), options) == chosen
    everything = choose_cases(table, ("left", "right"), CasesConfig())
    assert sorted(case.source_id for case in everything) == list(answers)


def test_a_volume_is_reduced_by_means_of_blocks_and_keeps_its_millimetres():
    values = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    small = shrink_volume(values, (1.0, 2.0, 3.0), (0.0, 100.0), 2)
    assert small.voxels.shape == (2, 1, 2)
    assert small.spacing_mm == (2.0, 4.0, 3.0)
    means = values[:, :2].reshape(2, 2, 1, 2, 2).mean(axis=(1, 3))  # of two by two voxels
    expected = np.round(255 * (means - means.min()) / (means.max() - means.min()))
    np.testing.assert_array_equal(small.voxels, expected)
    assert shrink_volume(np.ones((2, 2, 2)), (1.0, 1.0, 1.0), (1.0, 99.0), 8).voxels.max() == 0


def test_a_place_has_the_weight_of_the_nearest_slice():
    assert weigh_axis(np.array([-1.0, 0.2]), np.array([0.1, 0.9]), 5) == (0.1, 0.1, 0.9, 0.9, 0.9)
    assert weigh_axis(np.array([0.3]), np.array([0.5]), 1) == (0.5,)


def test_names_of_scans_cannot_end_the_script(tmp_path):
    hostile = "</script><script>alert(1)</script>"
    volume = SmallVolume(np.zeros((2, 2, 2), np.uint8), (1.0, 1.0, 1.0))
    write_cases(tmp_path / "cases.html", hostile, ("left", "right"), [build_case(hostile)], {hostile: volume}, "")
    page = (tmp_path / "cases.html").read_text()
    assert page.count("<script") == 2
    data = json.loads(re.search(r'id="cases">(.*?)</script>', page)[1])
    assert data[0]["scan"] == hostile
    assert "http" not in page.replace("http-equiv", "")


def test_images_are_a_grid_without_a_script(tmp_path):
    write_cases(
        tmp_path / "cases.html", "x", ("left", "right"), [build_case(), build_case("b")], {"a": build_png()}, ""
    )
    page = (tmp_path / "cases.html").read_text()
    assert "<script" not in page
    assert page.count("<details><summary><img") == 1, "b has no image"
    assert "a: true left, answer right (75\u00a0%)" in page
    assert page.index("<h2>Wrong, of the highest confidence</h2>") < page.index("<details>")
    assert "<h2>Drawn at random</h2>" not in page
    assert PageReader(page).order


def test_the_script_is_short_enough_to_be_read():
    script = Path(pipeline.reporting.__file__).parent / "templates" / "cases.js"
    assert len(script.read_text().splitlines()) <= 200


READ = """
const read = (name, x, y) => {
  const canvas = document.getElementById(name);
  return canvas.getContext('2d').getImageData(Math.floor(x * 384), Math.floor(y * 384), 1, 1).data[0];
};
"""
# The marker is in the octant of the patient's left, front and top; the slices through it are looked at.
LOOK = (
    READ
    + """
return cases.map((one, number) => {
  show(number);
  cross = one.shape.map((length, axis) => Math.floor(length * (axis === 0 ? 0.2 : 0.8)));
  draw();
  const corners = [[0.3, 0.3], [0.7, 0.3], [0.3, 0.7], [0.7, 0.7]];
  return Object.keys(PLANES).map((name) => corners.map(([x, y]) => read(name, x, y) > 128 ? 1 : 0).join(''));
});
"""
)


@pytest.fixture(scope="module")
def marked_page(write_knee, tmp_path_factory):
    """A page of one scan in all 48 storage orders, bright at the patient's left, front and top."""
    folder = tmp_path_factory.mktemp("cases")
    marked = np.zeros((10, 10, 10), np.int16)
    marked[:5, 5:, 5:] = 1000
    shown = {}
    for order in ORDERS:
        path = write_knee(folder / f"{order}.nii", intensity=marked, stored_axes=order, spacing_mm=(4.0, 4.0, 4.0))
        volume = read_scan((path,), 1 << 30)
        small = shrink_volume(volume.voxels, volume.spacing_mm, (1.0, 99.0), 96)
        shown[order] = SmallVolume(small.voxels, small.spacing_mm, (1.0,) * 5 + (0.0,) * 5, 0)
    cases = [build_case(order) for order in ORDERS]
    write_cases(folder / "cases.html", "marked", ("left", "right"), cases, shown, "")
    return (folder / "cases.html").as_uri()


@pytest.mark.browser
def test_a_marker_on_the_patients_left_appears_at_l_in_all_48_storage_orders(browser, marked_page):
    browser.get(marked_page)
    found = browser.execute_script(LOOK)
    assert len(found) == 48
    # Axial: the patient's left is on the right side, the front on top. Sagittal: the front is on the left side.
    assert {tuple(planes) for planes in found} == {("0100", "0100", "1000")}


@pytest.mark.browser
def test_clicks_keys_and_the_wheel_move_the_cross_in_all_planes(browser, marked_page):
    browser.get(marked_page)
    click = """
    const canvas = document.getElementById('axial'), seen = canvas.getBoundingClientRect();
    const at = {clientX: seen.left + 0.05 * seen.width, clientY: seen.top + 0.95 * seen.height, bubbles: true};
    canvas.dispatchEvent(new PointerEvent('pointerdown', at));
    return [cross, active];
    """
    assert browser.execute_script(click) == [[9, 0, 5], "axial"], "right, back, and the slice as before"
    press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true})); "
    press = press.replace("document.dispatch", "document.body.dispatch")
    assert browser.execute_script(press + "return cross", "ArrowUp") == [9, 0, 6]
    assert browser.execute_script(press + "return cross", "ArrowDown") == [9, 0, 5]
    assert browser.execute_script(press + "return current", "ArrowLeft") == 47
    assert browser.execute_script(press + "return current", "ArrowRight") == 0
    wheel = "document.getElementById('coronal').dispatchEvent(new WheelEvent('wheel', {deltaY: -1})); return cross"
    assert browser.execute_script(wheel) == [5, 6, 5]
    places = "return Object.keys(PLANES).map((name) => document.getElementById(`${name}-place`).textContent)"
    said = browser.execute_script("cross = [0, 9, 5]; draw(); " + places)  # 10 voxels of 4 mm along each axis
    assert said == [", 2 mm S of the middle", ", 18 mm A of the middle", ", 18 mm L of the middle"]
    shown = READ + "cross = [2, 8, 8]; draw(); return read('axial', 0.7, 0.9)"
    assert browser.execute_script(shown) > 60, "the overlay colours what is black"
    assert browser.execute_script(press + "return document.getElementById('overlay').checked", "o") is False
    assert browser.execute_script(shown) == 0
    guessed = "cases[current].weights.fill(0.5); document.getElementById('overlay').click(); " + shown
    assert browser.execute_script(guessed) == 0, "a slice that is as good as a guess is not coloured"


@pytest.mark.browser
def test_notes_stay_with_their_scan_and_are_quoted(browser, marked_page):
    browser.get(marked_page)
    browser.execute_script("document.getElementById('note').value = 'a \"b\", c'; show(1); show(0)")
    assert browser.execute_script("return document.getElementById('note').value") == 'a "b", c'
    lines = browser.execute_script("return writeNotes()").splitlines()
    assert lines[:2] == [
        '"scan","patient","label","predicted","note"',
        f'"{ORDERS[0]}","patient of {ORDERS[0]}","left","right","a ""b"", c"',
    ]
    assert len(lines) == 49
    reach = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    wide, available = browser.execute_script(reach)
    assert wide == available == 360
