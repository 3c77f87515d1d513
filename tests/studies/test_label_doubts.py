"""Wrong labels that were planted are listed, and right ones are not."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.data.store import Store
from pipeline.reporting.studies.cross_validation_page import build_doubt_section
from pipeline.studies import label_doubts
from pipeline.studies.label_doubts import DOUBT_COLUMNS, find_label_doubts

CLASSES = ("cyst", "normal", "tear")
WRONG = (3, 17, 40)


def predict(seed, num_scans=90, wrong=WRONG, classes=CLASSES):
    """Two slices a scan; the model gives the true class about 0.8, and some scans are labelled as the next class."""
    generator = np.random.default_rng(seed)
    rows = []
    for scan in range(num_scans):
        true = scan % len(classes)
        label = (true + 1) % len(classes) if scan in wrong else true
        for place in range(2):
            scores = np.full(len(classes), 0.2 / (len(classes) - 1))
            scores[true] = 0.8
            scores = scores * generator.uniform(0.97, 1.03, len(classes))
            found = dict(zip((f"probability_{name}" for name in CLASSES), [0.0] * 3, strict=True))
            found |= {f"probability_{name}": value for name, value in zip(classes, scores / scores.sum(), strict=True)}
            ids = {"example_id": f"s{scan}-{place}", "source_id": f"s{scan}", "group_id": f"p{scan // 2}"}
            rows.append(ids | {"label": classes[label]} | found)
    return pd.DataFrame(rows)


def build_store(table):
    index = table[["example_id", "source_id", "group_id", "label"]].assign(slice_index=0, slice_position=0.0)
    images = np.random.default_rng(0).integers(0, 256, (len(index), 12, 12), dtype=np.uint8)
    return Store(images, index, CLASSES, {}, "")


def test_planted_wrong_labels_are_found_over_folds_and_seeds():
    halves = [predict(seed).iloc[part] for seed in (0, 1) for part in (slice(0, 90), slice(90, 180))]
    doubts = find_label_doubts(halves, CLASSES)
    assert set(doubts.table["source_id"]) == {f"s{scan}" for scan in WRONG}
    assert (doubts.num_scans, doubts.reason) == (90, "")
    assert list(doubts.table) == list(DOUBT_COLUMNS)
    suggested = dict(zip(doubts.table["source_id"], doubts.table["suggested"], strict=True))
    assert suggested == {"s3": "cyst", "s17": "tear", "s40": "normal"}
    assert doubts.table["probability_of_label"].is_monotonic_increasing
    assert (doubts.table["probability_of_suggested"] > 0.7).all()


def test_right_labels_are_not_doubted():
    assert len(find_label_doubts([predict(0, wrong=())], CLASSES).table) == 0


def test_a_class_that_no_scan_has_is_no_error():
    doubts = find_label_doubts([predict(0, classes=("cyst", "tear"))], CLASSES)
    assert set(doubts.table["source_id"]) == {f"s{scan}" for scan in WRONG}
    one = predict(0, wrong=()).assign(label="cyst")
    assert find_label_doubts([one], CLASSES).reason == "all scans have one label"


def test_the_section_shows_each_label_in_doubt_with_its_image():
    table = predict(0)
    section = build_doubt_section(find_label_doubts([table], CLASSES), build_store(table))
    assert "3 labels" in section.sentences[0]
    assert sorted(row[:4] for row in section.tables[0].rows) == [
        ("s17", "p8", "cyst", "tear"), ("s3", "p1", "normal", "cyst"), ("s40", "p20", "tear", "normal"),
    ]  # fmt: skip
    assert min(Image.open(io.BytesIO(section.figures[0].content)).size) > 12
    nothing = build_doubt_section(find_label_doubts([predict(0, wrong=())], CLASSES), build_store(table))
    assert "no label" in nothing.sentences[0]
    assert (nothing.tables, nothing.figures) == ((), ())


def test_without_the_library_the_section_says_what_to_install(monkeypatch):
    monkeypatch.setattr(label_doubts.importlib.util, "find_spec", lambda name: None)
    table = predict(0)
    doubts = find_label_doubts([table], CLASSES)
    assert len(doubts.table) == 0
    assert "perceiver-knees[labels]" in build_doubt_section(doubts, build_store(table)).sentences[0]
