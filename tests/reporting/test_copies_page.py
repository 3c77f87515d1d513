import re

import numpy as np
import pandas as pd

from pipeline.core.data_kinds import IMAGES
from pipeline.data.store import Store
from pipeline.reporting.copies_page import write_copies
from tests.builders.certificates import build_certificate, build_copy


def write(tmp_path, certificate, examples):
    store = Store(examples, pd.DataFrame(), ("left", "right"), {}, "")
    write_copies(tmp_path / "copies.html", store, certificate)
    return (tmp_path / "copies.html").read_text("utf-8")


def test_pairs_are_drawn_in_a_section_for_what_they_mean(tmp_path):
    examples = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    found = {"count": 30, "pairs": [build_copy()] * 30}
    kinds = {"across_splits": found, "within_patient": found, "labels_disagree": {"count": 1, "pairs": [build_copy()]}}
    page = write(tmp_path, build_certificate(**kinds, num_sources=7, threshold=9.31), examples)
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Copies across splits: scans of two patients",
        "Copied scans with different labels",
        "Copies within one patient",
    ]
    assert page.count("6 more are not drawn.") == 2
    assert "7 scans were compared" in page
    assert "from a significance of 9.3 standard deviations on" in page
    assert page.count("data:image/png") == 3


def test_a_page_of_coloured_images_does_not_mention_patients(tmp_path):
    examples = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    found = {"count": 1, "pairs": [build_copy()]}
    page = write(tmp_path, build_certificate(kind=IMAGES.name, unverified=found, within_patient=found), examples)
    assert "patient" not in page
    assert re.findall("<h2>(.*?)</h2>", page) == ["Images of two images that look alike and are no verified copies"]
