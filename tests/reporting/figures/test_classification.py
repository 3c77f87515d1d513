import io
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
from PIL import Image

from pipeline.evaluation.auroc import RocCurve
from pipeline.evaluation.class_scores import PrecisionRecallCurve
from pipeline.reporting.figures.classification import confusion_matrix, precision_recall_curve, roc_curve
from pipeline.reporting.figures.decision import Reliability, net_benefit_curve, reliability_diagram
from pipeline.reporting.figures.image_grid import contact_sheet, fit_text, measure_text
from pipeline.reporting.figures.runs import training_curves
from pipeline.reporting.figures.style import shorten
from tests.builders.reports import build_metric

SVG = "{http://www.w3.org/2000/svg}"
BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


def read_pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def count_pixels(png: bytes, colour: tuple[int, int, int]) -> int:
    return int((read_pixels(png) == colour).all(axis=2).sum())


def list_areas(svg: bytes, kind: str) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Return the colour, red, green and blue, and the corners, (corners, 2), of what matplotlib drew of a kind."""
    areas = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if group.get("id", "").startswith(kind):
            styles = [element.get("style", "") for element in group.iter()]
            fills = re.findall("fill: #([0-9a-f]{6})", " ".join(styles))
            paths = [re.findall(r"-?[\d.]+", path.attrib["d"]) for path in group.iter(f"{SVG}path")]
            corners = [np.array(path, dtype=float).reshape(-1, 2) for path in paths]
            areas += zip([tuple(bytes.fromhex(fill)) for fill in fills], corners, strict=True)
    return areas


def list_cells(svg: bytes) -> list[tuple[int, ...]]:
    """Return the colours of a confusion matrix in the order in which they are read: counts, then fractions."""
    areas = list_areas(svg, "QuadMesh")
    return [colour for colour, _ in sorted(areas, key=lambda area: tuple(area[1].min(axis=0)[::-1]))]


def build_history(num_epochs: int) -> pandas.DataFrame:
    epochs = np.arange(1, num_epochs + 1)
    columns = ["train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate"]
    return pandas.DataFrame({"epoch": epochs, **dict.fromkeys(columns, 1 / epochs)})


def draw_all() -> dict[str, bytes]:
    line = np.array([0.0, 0.5, 1.0])
    part = {"n": 4, "groups": 4, "lowest": 0.5, "highest": 1.0, "probability": 0.9}
    bins = [part | {"fraction": build_metric(0.75, 0.4, 0.9)}]
    return {
        "confusion_matrix": confusion_matrix([[3, 1], [0, 4]], ("left", "right"), "Slices"),
        "roc_curve": roc_curve({"right": RocCurve(line, np.sqrt(line))}, "Slices", "AUROC 0.7"),
        "reliability_diagram": reliability_diagram([Reliability("model", bins)], "right", "Slices"),
        "training_curves": training_curves(build_history(5), best_epoch=4),
        "contact_sheet": contact_sheet(np.zeros((3, 8, 8), dtype=np.uint8), ["a", "b", "c"], columns=2),
    }


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes_in_every_process():
    first = draw_all()
    assert first == draw_all()
    code = (
        "import sys; from pipeline.reporting.figures.classification import confusion_matrix;"
        "sys.stdout.buffer.write(confusion_matrix([[3, 1], [0, 4]], ('left', 'right'), 'Slices'))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    assert other.stdout == first["confusion_matrix"]


def test_lines_and_text_are_curves_that_need_no_font_no_image_and_no_other_file():
    files = draw_all()
    assert files.pop("contact_sheet").startswith(b"\x89PNG\r\n\x1a\n")
    for name, svg in files.items():
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
        assert "path" in tags, name
        assert tags.isdisjoint({"text", "image", "script", "foreignObject"}), name
        assert all(address.startswith(b"#") for address in re.findall(rb'href="([^"]*)', svg)), name


@pytest.mark.slow
def test_a_file_does_not_grow_with_the_rows_or_with_the_square_of_the_classes():
    line = np.sort(np.random.default_rng(0).random((2, 100_000)))
    assert len(roc_curve({"right": RocCurve(*line)})) < 100_000
    recall = PrecisionRecallCurve(recall=line[0], precision=line[1], fraction=0.5)
    assert len(precision_recall_curve({"right": recall})) < 150_000
    names = [str(index) for index in range(100)]
    cells = confusion_matrix(np.eye(100, dtype=int), names)
    assert len(cells) < 1_000_000
    assert cells.count(b"<image") == 2, "the cells of many classes are one image a matrix"


@pytest.mark.slow
def test_figures_need_no_window_and_leave_no_state():
    # Reading the backend's setting itself would load pyplot.
    read = "{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != 'backend'}"
    code = (
        f"import sys, matplotlib; before = {read}; from pipeline.reporting.figures import classification;"
        "classification.confusion_matrix([[1, 0], [0, 1]], ('a', 'b'));"
        f"assert 'matplotlib.pyplot' not in sys.modules; assert {read} == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_counts_and_fractions_are_drawn_from_the_rows():
    even, uneven, certain = (
        list_cells(confusion_matrix(counts, ("a", "b")))
        for counts in ([[5, 5], [5, 5]], [[90, 90], [5, 5]], [[10, 0], [5, 5]])
    )
    # The second row has lower counts, but the same fractions.
    assert [left == right for left, right in zip(even, uneven, strict=True)] == [True, True, False, False, *[True] * 4]
    assert sum(certain[4]) < sum(even[4]) < sum(certain[5]), "a whole is darker than a half, and that than nothing"


@pytest.mark.filterwarnings("error")
def test_a_class_without_rows_is_drawn_as_nothing():
    assert confusion_matrix([[0, 0], [0, 0]], ("a", "b"))
    assert confusion_matrix([[0, 0], [1, 2]], ("a", "b")) != confusion_matrix([[1, 0], [1, 2]], ("a", "b"))


@pytest.mark.parametrize("num_classes", [2, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("error")
def test_hostile_names_and_many_classes_are_drawn_without_a_warning(num_classes):
    names = [f"$\\frac$ {index} <b>& a very long name of a class" for index in range(num_classes)]
    line = np.array([0.0, 1.0])
    assert confusion_matrix(np.eye(num_classes, dtype=int), names, "$\\frac$")
    assert roc_curve({name: RocCurve(line, line) for name in names}, "$\\frac$")
    assert roc_curve({})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_epochs", [1, pytest.param(200, marks=pytest.mark.slow)])
def test_training_may_have_any_number_of_epochs_and_gaps(num_epochs):
    history = build_history(num_epochs)
    history.loc[0, "val_loss"] = np.nan
    assert training_curves(history, best_epoch=2) != training_curves(history, best_epoch=1)


def test_a_sheet_shows_each_image_enlarged_by_a_whole_factor():
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    pixels = read_pixels(contact_sheet(images, ["", ""], columns=2))
    factor = 22  # 8 pixels to a tile of 176
    for image in images:
        enlarged = np.kron(image, np.ones((factor, factor), dtype=np.uint8))
        corners = np.argwhere((pixels == image[0, 0]).all(axis=2))
        assert any(np.array_equal(pixels[y : y + 176, x : x + 176, 0], enlarged) for y, x in corners)


def test_a_border_marks_right_and_wrong():
    images = np.zeros((2, 8, 8), dtype=np.uint8)
    plain, marked = contact_sheet(images, ["", ""]), contact_sheet(images, ["", ""], is_right=[True, False])
    assert (count_pixels(plain, BLUE), count_pixels(plain, VERMILION)) == (0, 0)
    border = 4 * (176 + 8) * 4 - 4 * 16  # four sides, four pixels wide, corners once
    assert count_pixels(marked, BLUE) >= border
    assert count_pixels(marked, VERMILION) >= border


def test_a_sheet_takes_colour_and_images_of_different_sizes():
    colour = np.zeros((3, 200, 10), dtype=np.uint8)
    colour[0] = 255
    png = contact_sheet([colour, np.zeros((30, 300), dtype=np.uint8)], ["red", "flat"])
    # Ten pixels wide, enlarged 18 times.
    assert count_pixels(png, (255, 0, 0)) == 200 * 10 * 18**2


@pytest.mark.parametrize(("num_images", "captions"), [(0, []), (2, ["one"])])
def test_a_sheet_needs_a_caption_for_each_image(num_images, captions):
    with pytest.raises(AssertionError, match=f"{num_images}, {len(captions)}"):
        contact_sheet(np.zeros((num_images, 8, 8), dtype=np.uint8), captions)


def test_a_long_text_keeps_its_ends_and_fits():
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert shorten("abc", 3) == "abc"
    text = "OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz_0"
    fitted = fit_text(text, 150)
    assert measure_text(fitted) <= 150 < measure_text(text)
    assert fitted.startswith("OAI9014797")
    assert fitted.endswith("gz_0")


@pytest.mark.parametrize("text", ["", "W", "WW", "iiiiiiiiW", "Wi" * 30, "W" * 9 + "i" * 40, "健 OAI9014797_" * 4])
def test_a_fitted_text_has_as_many_letters_as_have_room(text):
    for width in (1, 8, 13, 20, 77, 150, 4000):
        lengths = [length for length in range(2, len(text) + 1) if measure_text(shorten(text, length)) <= width]
        assert fit_text(text, width) == (shorten(text, lengths[-1]) if lengths else text[:1])


def test_the_decision_curve_has_no_band_where_there_is_no_interval():
    def draw(is_withheld):
        points = []
        for place in range(1, 20):
            low, high = (None, None) if is_withheld and place > 9 else (0.1, 0.4)
            points.append({"threshold": place / 20, "model": build_metric(0.25, low, high), "treat_all": 0.0})
        figure = net_benefit_curve({"prevalence": 0.5, "is_observed": True, "curve": points})
        ((colour, corners),) = list_areas(figure, "FillBetween")
        assert colour == BLUE
        return corners[:, 0]

    whole, part = draw(False), draw(True)
    assert part.min() == whole.min()
    assert (part.max() - part.min()) / (whole.max() - whole.min()) == pytest.approx(8 / 18)
