"""Maps are the network's own, lie on the pixels that they speak of, and leave no trace in the model."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from perceiver import PerceiverConfig
from pipeline.attention.maps import check_attention, choose_examples, compute_maps
from pipeline.attention.storage import (
    list_kept_epochs,
    measure_spread,
    name_kept_epoch,
    read_maps,
    tabulate_maps,
    write_maps,
)
from pipeline.config.model import ModelConfig
from pipeline.config.outputs import AttentionConfig
from pipeline.core.data_kinds import POINTS
from pipeline.core.errors import UserError
from pipeline.core.tables import INDEX_COLUMNS
from pipeline.data.store import Store
from pipeline.models.classifier import Classifier, to_unit_range
from pipeline.models.networks import build_model
from pipeline.reporting.attention.colours import spread_over_pixels
from pipeline.reporting.attention.sheets import (
    choose_epochs,
    describe_maps,
    draw_epochs,
    draw_maps,
    spread_over_image,
)
from tests.builders.models import build_spec

SHAPE = PerceiverConfig(
    num_latents=5, latent_dim=8, num_cross_attends=2, self_attends_per_cross=2, cross_heads=3, latent_heads=2,
    num_bands=2, dropout=0.3, latent_init_std=1.0,
)  # fmt: skip
ALL = AttentionConfig(num_examples=4)


def make_store(height: int = 8, width: int = 12) -> Store:
    """Six patients, two knees each, three slices each: no two slices are equal."""
    rows = [
        (f"{patient}{side}{index}", f"{patient}{side}", f"p{patient}", side, index, index - 1.0)
        for patient in range(6)
        for side in ("left", "right")
        for index in range(3)
    ]
    images = np.random.default_rng(0).integers(0, 256, (len(rows), height, width)).astype(np.uint8)
    return Store(images, pd.DataFrame(rows, columns=list(INDEX_COLUMNS)), ("left", "right"), {}, "abc")


def make_classifier(height: int = 8, width: int = 12, mirror_average: bool = False, **options) -> Classifier:
    config = ModelConfig(**{"stem": "patches", "patch_size": 2, "perceiver": SHAPE, **options})
    config = dataclasses.replace(config, mirror_tta=mirror_average)
    spec = build_spec(image_size=(height, width), num_slices=3)
    return Classifier(build_model(config, spec, seed=0), config, spec, (0.4,), (0.3,))


@pytest.fixture
def store():
    return make_store()


@pytest.fixture
def roles():
    splits = ("train", "train", "val", "val", "val", "test")
    return {f"p{patient}": split for patient, split in enumerate(splits)}


ROWS = np.array([0, 5, 14])


@pytest.mark.parametrize("kind", ["cross", "self"])
def test_maps_are_those_of_the_network_for_the_normalised_image(kind, store):
    classifier = make_classifier(slice_position=True).eval()
    options = AttentionConfig(kind=kind, layers=(1,), heads=(1, 0), latents=(4, 2))
    maps = compute_maps(classifier, store, ROWS, options, epoch=3)
    images = (to_unit_range(torch.tensor(store.examples[ROWS, None])) - 0.4) / 0.3
    places = torch.tensor(store.index["slice_position"].to_numpy(dtype=np.float32)[ROWS])
    with torch.no_grad():
        expected = classifier.model.network.attention_maps(images, places, kind=kind, layers=(1,))[1]
        scores = classifier(torch.tensor(store.examples[ROWS, None]), places).exp()
    # A batch of one may add in another order than a batch of three.
    np.testing.assert_allclose(maps.weights[:, 0], expected[:, [1, 0]][:, :, [4, 2]], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(maps.probabilities, scores, rtol=1e-5)
    assert maps.example_ids == ("0left0", "0right2", "2left2")
    assert (maps.labels, maps.epoch, maps.cell_pixels) == (("left", "right", "left"), 3, 2)


def test_without_chosen_latents_the_mean_over_all_is_taken_and_of_latents_the_whole_matrix(store):
    classifier = make_classifier()
    one_by_one = compute_maps(classifier, store, ROWS, AttentionConfig(latents=(0, 1, 2, 3, 4)), 1).weights
    mean = compute_maps(classifier, store, ROWS, AttentionConfig(), 1).weights
    np.testing.assert_allclose(mean, one_by_one.mean(axis=3, keepdims=True), rtol=1e-5)
    assert mean.shape == (3, 2, 3, 1, 4, 6)
    matrix = compute_maps(classifier, store, ROWS, AttentionConfig(kind="self"), 1).weights
    assert matrix.shape == (3, 4, 2, 5, 5)
    for weights in (mean.sum(axis=(-1, -2)), matrix.sum(axis=-1)):
        np.testing.assert_allclose(weights, 1.0, rtol=1e-5)


@pytest.mark.parametrize("stem", ["pixels", "patches", "conv"])
@pytest.mark.parametrize("width", [12, 13])
def test_the_mirrored_pass_is_the_plain_pass_over_the_mirror_image_turned_back(stem, width):
    if stem == "patches" and width == 13:
        width = 14
    store, classifier = make_store(width=width), make_classifier(width=width, stem=stem, num_conv_layers=2)
    flipped = dataclasses.replace(store, examples=store.examples[:, :, ::-1])
    mirrored = compute_maps(classifier, store, ROWS, AttentionConfig(mirrored=True), 1)
    plain = compute_maps(classifier, flipped, ROWS, AttentionConfig(), 1)
    turned_back = spread_over_image(plain, plain.weights)[..., ::-1]
    np.testing.assert_allclose(spread_over_image(mirrored, mirrored.weights), turned_back, rtol=1e-6)
    np.testing.assert_array_equal(mirrored.examples[:, 0], store.examples[ROWS])
    unturned = compute_maps(classifier, store, ROWS, AttentionConfig(), 1)
    assert np.abs(spread_over_image(unturned, unturned.weights) - turned_back).max() > 1e-6


def test_the_answer_is_that_of_both_passes_whichever_is_shown(store):
    classifier = make_classifier(mirror_average=True)
    shown = [compute_maps(classifier, store, ROWS, AttentionConfig(mirrored=m), 1).probabilities for m in (False, True)]
    np.testing.assert_array_equal(*shown)
    assert "over the flipped image" in " ".join(
        describe_maps(compute_maps(classifier, store, ROWS, AttentionConfig(mirrored=True), 1), True)
    )


def test_looking_leaves_weights_mode_and_random_numbers_as_they_were(store):
    classifier = make_classifier(stem="conv", num_conv_layers=1, conv_channels=4).train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    compute_maps(classifier, store, ROWS, ALL, 1)
    assert torch.equal(torch.rand(3), expected)
    assert classifier.training
    assert classifier.model.network.stem.training
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


@pytest.mark.parametrize("cell", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(8, 12), (9, 14), (11, 15)])
def test_no_weight_is_lost_on_the_way_to_the_pixels(cell, size):
    grid = (size[0] // cell, size[1] // cell)
    weights = np.random.default_rng(0).random((2, *grid))
    pixels = spread_over_pixels(weights, size, cell)
    assert pixels.shape == (2, *size)
    np.testing.assert_allclose(pixels.sum(axis=(1, 2)), weights.sum(axis=(1, 2)))
    for row in range(grid[0]):
        for column in range(grid[1]):
            part = pixels[0, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            assert np.ptp(part) == 0


def test_the_rest_of_a_side_belongs_to_the_last_cell():
    pixels = spread_over_pixels(np.array([[0.1, 0.2], [0.3, 0.4]]), (5, 4), 2)
    assert pixels[:, 0].tolist() == pytest.approx([0.025, 0.025, 0.05, 0.05, 0.05])
    assert pixels[0].tolist() == pytest.approx([0.025, 0.025, 0.05, 0.05])


def test_examples_come_from_the_split_and_are_spread_over_classes_and_patients(store, roles):
    chosen = store.index.iloc[choose_examples(store, roles, AttentionConfig(num_examples=6))]
    assert chosen["label"].tolist() == ["left"] * 3 + ["right"] * 3
    assert chosen["group_id"].tolist() == ["p2", "p3", "p4"] * 2
    three = store.index.iloc[choose_examples(store, roles, AttentionConfig(num_examples=3))]
    assert three["example_id"].tolist() == ["2left2", "4left0", "3right1"]
    every = choose_examples(store, roles, AttentionConfig(num_examples=1000))
    assert sorted(every) == np.flatnonzero(store.index["group_id"].map(roles) == "val").tolist()
    test = store.index.iloc[choose_examples(store, roles, AttentionConfig(split="test"))]
    assert set(test["group_id"]) == {"p5"}


def test_named_examples_are_taken_and_those_of_the_test_only_if_it_is_asked_for(store, roles):
    rows = choose_examples(store, roles, AttentionConfig(examples=("3right1", "0left0")))
    assert store.index["example_id"].iloc[rows].tolist() == ["3right1", "0left0"]
    with pytest.raises(UserError, match="no example is called 'x'"):
        choose_examples(store, roles, AttentionConfig(examples=("x",)))
    with pytest.raises(UserError, match=r"'5left0' belongs to the test split.*attention\.split: test"):
        choose_examples(store, roles, AttentionConfig(examples=("5left0",)))
    assert len(choose_examples(store, roles, AttentionConfig(examples=("5left0",), split="test"))) == 1
    with pytest.raises(UserError, match=r"attention\.split: no example is in test"):
        choose_examples(store, dict.fromkeys(roles, "train"), AttentionConfig(split="test"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (2,)}, r"attention\.layers: found \[2\], but the model has 2 for kind cross; allowed are 0 to 1"),
        ({"kind": "self", "layers": (4,)}, r"attention\.layers: found \[4\], but the model has 4 for kind self"),
        ({"heads": (0, 3)}, r"attention\.heads: found \[0, 3\], but the model has 3"),
        ({"kind": "self", "heads": (2,)}, r"attention\.heads: found \[2\], but the model has 2"),
        ({"latents": (-1,)}, r"attention\.latents: found \[-1\], but the model has 5"),
    ],
)
def test_what_the_model_does_not_have_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        check_attention(make_classifier().model, AttentionConfig(**options))


def test_a_network_without_attention_is_refused(store):
    classifier = make_classifier(16, 16, architecture="cnn")
    with pytest.raises(UserError, match=r"attention: this network has none"):
        compute_maps(classifier, make_store(16, 16), ROWS, ALL, 1)


def test_maps_too_large_to_hold_are_refused(store, monkeypatch):
    monkeypatch.setattr("pipeline.attention.maps.MAX_BYTES", 3 * 4 * 2 * 5 * 5 * 4 - 1)
    with pytest.raises(UserError, match=r"3 examples, 4 layers and 2 heads make maps of"):
        compute_maps(make_classifier(), store, ROWS, AttentionConfig(kind="self"), 1)


@pytest.mark.parametrize(("fractions", "spread"), [([0.25] * 4, 4), ([0, 1, 0], 1), ([0.5, 0.5, 0, 0], 2)])
def test_spread_counts_the_parts_that_are_read(fractions, spread):
    assert measure_spread(np.array([fractions]))[0] == pytest.approx(spread)


def test_maps_survive_the_file_and_the_table_says_where_each_is(store, tmp_path):
    maps = compute_maps(make_classifier(), store, ROWS, AttentionConfig(layers=(1, 0), latents=(3,)), epoch=7)
    write_maps(tmp_path / "maps.npz", maps)
    again = read_maps(tmp_path / "maps.npz")
    for field in dataclasses.fields(maps):
        before, after = getattr(maps, field.name), getattr(again, field.name)
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after, field.name
    table = tabulate_maps(again)
    assert len(table) == 3 * 2 * 3
    row = table[(table["example_id"] == "2left2") & (table["layer"] == 0) & (table["head"] == 2)].iloc[0]
    weights = maps.weights[row["example_place"], row["layer_place"], row["head_place"], row["latent_place"]]
    expected = compute_maps(
        make_classifier(), store, ROWS[2:], AttentionConfig(layers=(0,), heads=(2,), latents=(3,)), 7
    )
    np.testing.assert_allclose(weights, expected.weights[0, 0, 0, 0], rtol=1e-6)
    assert row["highest_over_even"] == pytest.approx(24 * weights.max())
    assert (row["epoch"], row["latent"], row["num_read"]) == (7, 3, 24)


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no such file\. Run the attention stage"):
        read_maps(tmp_path / "maps.npz")
    (tmp_path / "maps.npz").write_bytes(b"PK no")
    with pytest.raises(UserError, match="not a file of attention maps"):
        read_maps(tmp_path / "maps.npz")
    np.savez(tmp_path / "maps.npz", weights=np.zeros(3))
    with pytest.raises(UserError, match="not a file of attention maps"):
        read_maps(tmp_path / "maps.npz")


def test_kept_epochs_are_found_by_their_number(tmp_path):
    for epoch in (12, 3, 10000):
        name_kept_epoch(tmp_path, epoch).write_bytes(b"")
    assert {epoch: path.name for epoch, path in list_kept_epochs(tmp_path).items()} == {
        3: "epoch_0003.npz", 12: "epoch_0012.npz", 10000: "epoch_10000.npz"
    }  # fmt: skip
    assert choose_epochs([10, 1, 5], ()) == [1, 5, 10]
    assert choose_epochs(range(1, 101), ()) == [1, 21, 41, 60, 80, 100]
    assert choose_epochs([1, 5, 10], (10, 1)) == [1, 10]
    with pytest.raises(UserError, match=r"attention\.epochs: found \[2\], but maps were kept of \[1, 5\]"):
        choose_epochs([5, 1], (2,))


@pytest.mark.parametrize("options", [{}, {"latents": (0, 1)}, {"kind": "self"}, {"kind": "self", "latents": (2,)}])
def test_every_kind_of_map_is_drawn_and_described(options, store):
    maps = compute_maps(make_classifier(), store, ROWS, AttentionConfig(**options), 1)
    assert draw_maps(maps, "a") == draw_maps(maps, "a")
    text = " ".join(describe_maps(maps, False))
    assert "where the model looks, not why it answers" in text
    assert "two passes" not in text


def test_epochs_of_other_examples_are_not_mixed(store):
    first = compute_maps(make_classifier(), store, ROWS, ALL, 1)
    other = compute_maps(make_classifier(), store, ROWS + 1, ALL, 2)
    with pytest.raises(UserError, match="different examples"):
        draw_epochs([first, other], "")
    assert draw_epochs([first, dataclasses.replace(first, epoch=2)], "")


@pytest.mark.parametrize("stem", ["pixels", "patches"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_maps_of_permuted_pixels_come_back_to_where_the_image_has_them(stem, mirrored, store):
    permuted = make_classifier(stem=stem, pixel_permutation_seed=3)
    maps = compute_maps(permuted, store, ROWS, AttentionConfig(mirrored=mirrored), 1)
    permutation = permuted.model.permutation
    seen = torch.tensor(store.examples[ROWS][:, :, ::-1].copy() if mirrored else store.examples[ROWS])
    moved = dataclasses.replace(store, examples=store.examples.copy())
    moved.examples[ROWS] = permutation(seen).numpy()
    plain = compute_maps(make_classifier(stem=stem), moved, ROWS, AttentionConfig(), 1)
    spread = spread_over_image(plain, plain.weights)
    expected = spread.reshape(*spread.shape[:-2], -1)[..., permutation.order.argsort()].reshape(spread.shape)
    found = spread_over_image(maps, maps.weights)
    np.testing.assert_allclose(found, expected[..., ::-1] if mirrored else expected, rtol=1e-5)
    assert "another, fixed order" in " ".join(describe_maps(maps, False))


def make_clouds() -> Store:
    clouds = np.random.default_rng(1).normal(size=(6, 40, 3)).astype(np.float32)
    rows = [(f"o{index}", f"o{index}", f"o{index}", ("cone", "cube")[index % 2], 0, 0.0) for index in range(6)]
    return Store(clouds, pd.DataFrame(rows, columns=list(INDEX_COLUMNS)), ("cone", "cube"), {}, "abc", POINTS)


def make_point_classifier() -> Classifier:
    shape = dataclasses.replace(SHAPE, max_freq=(8.0, 8.0, 8.0))
    config = ModelConfig(num_points=30, perceiver=shape)
    spec = build_spec(image_size=(40, 3), num_slices=1, kind=POINTS)
    return Classifier(build_model(config, spec, seed=0), config, spec, (), ())


def test_a_points_attention_goes_with_the_point(tmp_path):
    store, rows = make_clouds(), np.array([1, 4])
    maps = compute_maps(make_point_classifier(), store, rows, ALL, 1)
    assert maps.weights.shape == (2, 2, 3, 1, 30)
    np.testing.assert_allclose(maps.weights.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(maps.examples, store.examples[rows, :30])
    order = np.random.default_rng(2).permutation(30)
    shuffled = dataclasses.replace(store, examples=store.examples[:, order])
    again = compute_maps(make_point_classifier(), shuffled, rows, ALL, 1)
    np.testing.assert_allclose(again.weights, maps.weights[..., order], rtol=1e-4)  # sums in another order
    assert np.ptp(maps.weights[0, 0, 0, 0]) > 0
    write_maps(tmp_path / "maps.npz", maps)
    assert draw_maps(read_maps(tmp_path / "maps.npz"), "") == draw_maps(maps, "")
    assert draw_epochs([maps, dataclasses.replace(maps, epoch=2)], "")
    with pytest.raises(UserError, match=r"attention\.mirrored: found True, but point clouds are not mirrored"):
        compute_maps(make_point_classifier(), store, rows, AttentionConfig(mirrored=True), 1)
