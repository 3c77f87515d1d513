import io
import subprocess
import sys

import numpy as np
import pandas
import pytest
from PIL import Image

from pipeline.evaluation.auroc import RocCurve
from pipeline.reporting.figures.classification import confusion_matrix, roc_curve
from pipeline.reporting.figures.decision import Reliability, net_benefit_curve, reliability_diagram
from pipeline.reporting.figures.image_grid import contact_sheet, fit_text, measure_text
from pipeline.reporting.figures.runs import training_curves
from pipeline.reporting.figures.style import shorten
from tests.builders.reports import build_metric

BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


def read_pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def count_pixels(png: bytes, colour: tuple[int, int, int]) -> int:
    return int((read_pixels(png) == colour).all(axis=2).sum())


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


def test_the_same_numbers_give_the_same_bytes():
    first, second = draw_all(), draw_all()
    assert first == second
    assert all(png.startswith(b"\x89PNG\r\n\x1a\n") for png in first.values())


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
    even, uneven = (
        read_pixels(confusion_matrix(counts, ("a", "b"))) for counts in ([[5, 5], [5, 5]], [[90, 90], [5, 5]])
    )
    height, width, _ = even.shape
    # Next to the numbers: upper and lower left cell of the counts, then of the fractions.
    cells = [(0.12, 0.28), (0.32, 0.28), (0.6, 0.28), (0.79, 0.28)]
    same = [np.array_equal(*(pixels[int(y * height), int(x * width)] for pixels in (even, uneven))) for y, x in cells]
    # The second row has lower counts, but the same fractions.
    assert same == [True, False, True, True]
    certain = read_pixels(confusion_matrix([[10, 0], [5, 5]], ("a", "b")))
    y, x = int(0.6 * height), int(0.28 * width)
    assert certain[y, x].sum() < even[y, x].sum()  # a whole is darker than a half


@pytest.mark.filterwarnings("error")
def test_a_class_without_rows_is_drawn_as_nothing():
    assert confusion_matrix([[0, 0], [0, 0]], ("a", "b"))
    assert confusion_matrix([[0, 0], [1, 2]], ("a", "b")) != confusion_matrix([[1, 0], [1, 2]], ("a", "b"))


@pytest.mark.parametrize("num_classes", [2, 40])
@pytest.mark.filterwarnings("error")
def test_hostile_names_and_many_classes_are_drawn_without_a_warning(num_classes):
    names = [f"$\\frac$ {index} <b>& a very long name of a class" for index in range(num_classes)]
    line = np.array([0.0, 1.0])
    assert confusion_matrix(np.eye(num_classes, dtype=int), names, "$\\frac$")
    assert roc_curve({name: RocCurve(line, line) for name in names}, "$\\frac$")
    assert roc_curve({})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_epochs", [1, 200])
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


def test_the_decision_curve_has_no_band_where_there_is_no_interval():
    def draw(is_withheld):
        points = []
        for place in range(1, 20):
            low, high = (None, None) if is_withheld and place > 9 else (0.1, 0.4)
            points.append({"threshold": place / 20, "model": build_metric(0.25, low, high), "treat_all": 0.0})
        return read_pixels(net_benefit_curve({"prevalence": 0.5, "is_observed": True, "curve": points}))

    whole, part = draw(False), draw(True)
    # On white, a band of BLUE at 18 % is this colour.
    is_band, is_left = ((pixels == (209, 229, 241)).all(axis=2).sum(axis=0) for pixels in (whole, part))
    middle = whole.shape[1] * 11 // 20  # the axis begins right of the labels
    assert is_band[:middle].sum() > 0
    assert is_band[middle:].sum() > 0
    assert is_left[:middle].sum() > 0.8 * is_band[:middle].sum()
    assert is_left[middle + 20 :].sum() == 0
