import io

import numpy as np
import pytest
from PIL import Image

from pipeline.attention.storage import AttentionMaps
from pipeline.reporting.attention.overlays import OVERLAY_PIXELS, draw_large, draw_overlays, draw_plain, smooth

LIGHT = np.array([0.2126, 0.7152, 0.0722])  # the luminance of red, green and blue, ITU-R BT.709


def build_maps(**changes) -> AttentionMaps:
    """Two examples of 16 x 16 pixels, two layers of three heads over 4 x 4 inputs of 4 x 4 pixels."""
    generator = np.random.default_rng(0)
    weights = generator.random((2, 2, 3, 1, 4, 4)).astype(np.float32)
    facts = {
        "kind": "cross",
        "layers": (0, 5),
        "heads": (0, 1, 2),
        "latents": (),
        "mirrored": False,
        "permute_seed": None,
        "cell_pixels": 4,
        "epoch": 1,
        "class_names": ("left", "right"),
        "example_ids": ("visit 1/a.nii_3", "visit 1/b.nii_3"),
        "labels": ("left", "right"),
        "examples": generator.integers(0, 255, (2, 1, 16, 16), dtype=np.uint8),
        "probabilities": np.full((2, 2), 0.5, dtype=np.float32),
        "weights": weights / weights.sum(axis=(-1, -2), keepdims=True),
    }
    return AttentionMaps(**(facts | changes))


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)


def test_each_layer_and_head_of_each_example_has_an_image_of_its_own():
    maps = build_maps()
    overlays = draw_overlays(maps, maps.examples, "nearest")
    assert [(overlay.example, overlay.title) for overlay in overlays] == [
        (example, f"layer {layer}, head {head}") for example in (0, 1) for layer in (0, 5) for head in (0, 1, 2)
    ]
    assert overlays[3].name == "00_visit_1_a.nii_3_layer5_head0"
    assert len({overlay.name for overlay in overlays}) == len({overlay.png for overlay in overlays}) == 12
    assert all(read(overlay.png).shape == (OVERLAY_PIXELS, OVERLAY_PIXELS, 3) for overlay in overlays)


@pytest.mark.parametrize("interpolation", ["nearest", "smooth"])
@pytest.mark.parametrize("row", [0, 2])
def test_the_brightest_place_lies_in_the_square_of_the_most_read_input(interpolation, row):
    weights = np.full((1, 1, 1, 1, 4, 4), 0.01, dtype=np.float32)
    weights[..., row, 1] = 1.0
    maps = build_maps(layers=(0,), heads=(0,), weights=weights, examples=np.zeros((1, 1, 16, 16), np.uint8))
    (overlay,) = draw_overlays(maps, maps.examples, interpolation)
    light = read(overlay.png) @ LIGHT
    y, x = np.argwhere(light >= light.max() - 1).mean(axis=0)
    side = OVERLAY_PIXELS / 4
    assert row * side < y < (row + 1) * side
    assert side < x < 2 * side


def test_an_image_of_more_pixels_is_drawn_over_the_same_field():
    """Squares stay where they are when the image below has three times the pixels."""
    weights = np.zeros((16, 16))
    weights[4:8, 12:] = 1.0
    coarse = draw_large(np.zeros((1, 16, 16), np.uint8), weights, "nearest")
    fine = draw_large(np.zeros((1, 48, 48), np.uint8), weights, "nearest")
    assert coarse.shape[0] >= OVERLAY_PIXELS
    assert fine.shape[0] % 48 == 0
    for drawn in (coarse, fine):
        side = drawn.shape[0] // 4
        bright = np.argwhere(drawn @ LIGHT > 100)
        assert bright.min(axis=0).tolist() == [side, 3 * side]
        assert bright.max(axis=0).tolist() == [2 * side - 1, 4 * side - 1]


def test_smoothing_flat_squares_is_linear_between_their_centres_and_flat_stays_flat():
    squares = np.repeat([[0.0, 4.0, 2.0]], 5, axis=1)
    rows = np.repeat(squares, 5, axis=0)
    found = smooth(rows, 5)
    # From centre to centre are 5 pixels: 0, .8, 1.6 … 4, then down to 2 in steps of .4; flat beyond the last centres.
    expected = [0, 0, 0, 0.8, 1.6, 2.4, 3.2, 4, 3.6, 3.2, 2.8, 2.4, 2, 2, 2]
    np.testing.assert_allclose(found, np.repeat([expected], 5, axis=0), atol=1e-12)
    np.testing.assert_allclose(smooth(np.full((6, 7), 0.3), 4), 0.3)


@pytest.mark.slow
def test_chosen_latents_and_matrices_between_latents_are_drawn():
    maps = build_maps(latents=(2, 7), weights=np.repeat(build_maps().weights, 2, axis=3))
    overlays = draw_overlays(maps, maps.examples, "nearest")
    assert len(overlays) == 24
    assert overlays[1].title == "layer 0, head 0, latent 7"
    matrices = np.random.default_rng(1).random((2, 2, 3, 8, 8)).astype(np.float32)
    maps = build_maps(kind="self", weights=matrices, cell_pixels=0)
    assert len(draw_overlays(maps, maps.examples, "nearest")) == 12


def test_an_example_is_as_large_as_its_maps_and_keeps_its_colours():
    image = np.zeros((3, 16, 16), np.uint8)
    image[0] = 200
    drawn = read(draw_plain(image))
    assert drawn.shape == (OVERLAY_PIXELS, OVERLAY_PIXELS, 3)
    assert drawn[100, 100].tolist() == [200, 0, 0]
