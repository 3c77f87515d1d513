import numpy as np
import pandas as pd
import pytest

from pipeline.core.data_kinds import IMAGES, VOLUMES
from pipeline.reporting.evaluation.flow_diagram import build_flow, describe_flow, shorten_reason


def build_manifest(rows) -> pd.DataFrame:
    columns = ["source_id", "group_id", "label", "path", "num_files", "status", "reason"]
    return pd.DataFrame(rows, columns=columns).astype(str)


def build_index(rows) -> tuple[pd.DataFrame, np.ndarray]:
    index = pd.DataFrame(rows, columns=["source_id", "group_id", "label", "split"])
    return index.drop(columns="split"), index["split"].to_numpy(dtype=str)


MANIFEST = build_manifest(
    [
        ("a", "p", "left", "a.nii", 1, "accepted", ""),
        ("b", "p", "right", "b.nii", 1, "accepted", ""),
        ("c", "q", "left", "c_0.png", 3, "accepted", ""),
        ("d", "r", "left", "d.nii", 1, "refused", "/raw/d.nii: truncated, the header claims 96 bytes. Copy it again."),
        ("e", "r", "left", "e.nii", 1, "refused", "/raw/e.nii: truncated, the header claims 12 bytes. Copy it again."),
        ("f", "", "", "f.nii", 1, "refused", "f.nii: no side in the name"),
        ("n", "", "", "n.txt", 1, "ignored", "not named as an image (.nii)"),
    ]
)
INDEX, SPLIT_OF = build_index(
    [("a", "p", "left", "train")] * 2 + [("b", "p", "right", "train")] * 2 + [("c", "q", "left", "test")] * 3
)


def test_every_file_is_counted_once_and_left_out_with_its_reason():
    flow = build_flow(MANIFEST, INDEX, SPLIT_OF, VOLUMES)
    assert describe_flow(flow) == [
        "Files found: 9 files.",
        "No scans: 1 file (1: not named as an image).",
        "Scans found: 6 scans; 3 patients.",
        "Refused: 3 scans (2: truncated; 1: no side in the name).",
        "Scans used: 3 scans; 2 patients; 2 left, 1 right; 7 slices.",
        "Training: 1 patient; 2 scans; 4 slices; 1 left, 1 right.",
        "Test: 1 patient; 1 scan; 3 slices; 1 left.",
    ]


def test_nothing_is_left_out_where_all_files_are_accepted():
    flow = build_flow(MANIFEST[:3], INDEX, SPLIT_OF, VOLUMES)
    assert [step.left_out for step in flow.steps] == [None, None, None]


def test_a_published_set_has_images_and_no_files_and_lists_what_is_missing():
    manifest = build_manifest([(f"i{n}", f"i{n}", str(n % 2), f"i{n}", 1, "accepted", "") for n in range(5)])
    index, split_of = build_index([(f"i{n}", f"i{n}", str(n % 2), "test" if n == 4 else "train") for n in range(5)])
    assert describe_flow(build_flow(manifest, index, split_of, IMAGES, "1 batch is not there.")) == [
        "Images read: 5 images; by class: 0: 3, 1: 2.",
        "Different from the published set (1 batch is not there).",
        "Training: 4 images; by class: 0: 2, 1: 2.",
        "Test: 1 image; by class: 0: 1.",
    ]


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("/raw/x/a.nii: constant, every voxel is 7. There is nothing to see.", "constant"),
        ("/raw/x/a.nii: an image of 4x5x6x2; one frame of 2-D or 3-D is read.", "an image of …"),
        ("/raw/x/a.nii: no valid affine (singular or not finite): left and right are unknown.", "no valid affine"),
        ("/raw/x/a.nii: no such file.", "no such file"),
        ("two files for one scan: x/a.nii and x/b.nii. Keep one.", "two files for one scan"),
        ("the scan does not fit into memory", "the scan does not fit into memory"),
        ("", "no reason given"),
    ],
)
def test_reasons_of_many_files_are_shortened_to_one_clause(reason, short):
    assert shorten_reason(reason, "x/a.nii") == short


def test_rare_reasons_are_counted_together():
    rows = [
        (f"s{n}", f"p{n}", "left", f"{n}.nii", 1, "refused", f"/raw/{n}.nii: {'abcdefghijklmnopqrst'[n]} is wrong.")
        for n in range(20)
    ]
    flow = build_flow(pd.concat([MANIFEST[:3], build_manifest(rows)]), INDEX, SPLIT_OF, VOLUMES)
    lines = flow.steps[1].left_out.lines
    assert len(lines) == 13
    assert lines[-1] == "8: other reasons"
    assert sum(int(line.split(":")[0]) for line in lines) == 20
