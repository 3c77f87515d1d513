import io

import numpy as np
import pytest
from PIL import Image

from pipeline.reporting.attention.colours import colour_weights, draw_overlay, draw_scale, find_top
from pipeline.reporting.figures.image_grid import Cell, Strip, draw_example, draw_grid

LIGHT = np.array([0.2126, 0.7152, 0.0722])  # the luminance of red, green and blue, ITU-R BT.709


def brightness(pixels: np.ndarray) -> np.ndarray:
    return pixels @ LIGHT


def test_the_most_read_pixel_is_the_brightest_and_an_unread_one_shows_the_input():
    image = np.zeros((1, 8, 8), dtype=np.uint8)
    image[0, 6, 1] = 200
    weights = np.zeros((8, 8))
    weights[2, 5], weights[3, 3] = 1.0, 0.5
    drawn = draw_overlay(image, weights, top=1.0)
    factor = 22  # 8 pixels to a tile of 176
    assert drawn.shape == (176, 176, 3)
    light = brightness(drawn)[::factor, ::factor]
    assert light[2, 5] > light[3, 3] > light[0, 0] == 0
    assert drawn[6 * factor, factor].tolist() == [110, 110, 110]  # 55 % of 200
    assert np.array_equal(drawn, np.kron(drawn[::factor, ::factor], np.ones((factor, factor, 1))))


def test_colours_grow_lighter_with_the_weight():
    light = brightness(255 * colour_weights(np.linspace(0, 1, 200), top=1.0))
    assert (np.diff(light) >= -1).all()  # the map itself is not finer
    assert light[-1] - light[0] > 150


def test_an_input_is_drawn_in_its_own_colours():
    image = np.arange(3 * 2 * 200, dtype=np.uint8).reshape(3, 2, 200)
    np.testing.assert_array_equal(draw_example(image), image.transpose(1, 2, 0))
    grey = draw_example(image[:1])
    assert (grey[..., 0] == grey[..., 1]).all()


def test_one_outlier_does_not_darken_all_others():
    weights = np.full(1000, 0.001)
    weights[0] = 1.0
    assert find_top(weights) == pytest.approx(0.001)
    assert find_top(np.zeros(10)) > 0
    few = np.zeros(1000)
    few[0] = 0.5
    assert find_top(few) == 0.5


TILE = np.zeros((60, 60, 3), dtype=np.uint8)


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def contains(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Return whether a sheet contains a tile, unchanged and in its full size."""
    places = np.argwhere((sheet == tile[0, 0]).all(axis=2))
    height, width, _ = tile.shape
    return any(np.array_equal(sheet[y : y + height, x : x + width], tile) for y, x in places)


def make_strips(num_strips: int, num_maps: int) -> list[Strip]:
    tiles = np.random.default_rng(0).integers(0, 255, (num_strips, num_maps + 1, 20, 30, 3)).astype(np.uint8)
    return [
        Strip(
            [Cell(tile, "1.0 × even", f"layer {number}") for number, tile in enumerate(lead_and_maps[1:])],
            Cell(lead_and_maps[0], f"example {index}\ntrue: $x", "input"),
        )
        for index, lead_and_maps in enumerate(tiles)
    ]


@pytest.mark.parametrize("num_maps", [1, 8, 11])
def test_a_sheet_shows_every_map_as_it_is(num_maps):
    strips = make_strips(2, num_maps)
    png = draw_grid(strips, min(8, num_maps), "heading", draw_scale())
    sheet = read(png)
    assert all(contains(sheet, cell.image) for strip in strips for cell in (strip.lead, *strip.cells))
    assert png == draw_grid(strips, min(8, num_maps), "heading", draw_scale())


def test_a_lead_may_have_a_longer_caption_than_the_lines_next_to_it():
    """Two lines of maps leave room for a lead's caption of three lines; one line grows to hold it."""
    heights = {
        (num_maps, num_lines): read(
            draw_grid([Strip([Cell(TILE, "a")] * num_maps, Cell(TILE, "\n".join("abc"[:num_lines])))], 2)
        ).shape[0]
        for num_maps in (1, 4)
        for num_lines in (1, 3)
    }
    assert heights[1, 3] == heights[1, 1] + 2 * 18
    assert heights[4, 3] == heights[4, 1]
