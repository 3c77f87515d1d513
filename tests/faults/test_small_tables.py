"""The smallest tables that there can be: every number is defined or reported as missing, never NaN in silence."""

import itertools
import json
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.cli import main
from pipeline.config.outputs import EvaluateConfig
from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.core.predictions import Mirrored
from pipeline.core.tables import INDEX_COLUMNS
from pipeline.data.store import Store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.decisions.decision_support import compute_decision
from pipeline.evaluation.metrics import compute_levels
from pipeline.evaluation.validity.shortcut_probes import check_mirrored, compute_probes
from tests.builders.tiny_workspace import TINY_CONFIG

CLASSES = ("left", "right")
NEED_BOTH = {"balanced_accuracy", "auroc", "sensitivity", "mcc", "f1"}  # of left alone, specificity is defined
BOOTSTRAP = Bootstrap(num_resamples=40, seed=0)
OPTIONS = EvaluateConfig(num_bootstrap_resamples=100)
# Rows of a split, each a patient, a scan and a label.
SHAPES = {
    "one slice": ["a1L"],
    "one volume": ["a1L", "a1L"],
    "one patient with both knees": ["a1L", "a2R"],
    "two patients of one class": ["a1L", "b1L"],
    "two patients of two classes": ["a1L", "b1R"],
    "one patient has all of a class": ["a1L", "b1L", "c1L", "d1L", "e1R"],
}


def build_table(rows: list[str], split: str, sure: float) -> pd.DataFrame:
    """Make predictions that are all left, with one and the same probability."""
    columns = []
    for number, (patient, scan, side) in enumerate(rows):
        label = "left" if side == "L" else "right"
        source = f"{split}-{patient}{scan}"
        columns.append((f"{source}_{number}", source, f"{split}-{patient}", split, number, label, "left"))
    names = ["example_id", "source_id", "group_id", "split", "slice_index", "label", "predicted"]
    return pd.DataFrame(columns, columns=names).assign(probability_left=sure, probability_right=1 - sure)


def build_store(tables: dict[str, pd.DataFrame], images: np.ndarray) -> tuple[Store, dict[str, np.ndarray]]:
    whole = pd.concat(tables.values(), ignore_index=True).assign(slice_position=0.0)
    rows = {split: np.flatnonzero((whole["split"] == split).to_numpy()) for split in tables}
    return Store(images[: len(whole)], whole[list(INDEX_COLUMNS)], CLASSES, {}, "f"), rows


def find_undefined(content, place: str = "") -> list[str]:
    """Name what is NaN or infinite in nested records."""
    if isinstance(content, dict):
        return [name for key, value in content.items() for name in find_undefined(value, f"{place}/{key}")]
    if isinstance(content, list | tuple):
        return [name for number, value in enumerate(content) for name in find_undefined(value, f"{place}/{number}")]
    return [place] if isinstance(content, float) and not np.isfinite(content) else []


# Each table is tested once, and each that validation may have too; all pairs of them with --slow.
QUICK = list(zip(itertools.cycle(list(SHAPES)[1:4]), SHAPES, itertools.repeat(1.0), strict=False))
CASES = itertools.product(list(SHAPES)[1:4], SHAPES, (1.0, 0.8))


@pytest.mark.parametrize(
    ("val", "test", "sure"), [pytest.param(*case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in CASES]
)
def test_scores_of_the_smallest_tables_are_numbers_or_none(val, test, sure, tmp_path):
    tables = {
        "train": build_table(["x1L", "y1R"], "train", sure),
        "val": build_table(SHAPES[val], "val", sure),
        "test": build_table(SHAPES[test], "test", sure),
    }
    predictions = pd.concat([tables["val"], tables["test"]], ignore_index=True)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
    store, rows = build_store(tables, images)
    scores = np.full((len(tables["test"]), 2), 0.5, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's warning where it makes a NaN
        levels = compute_levels(tables["test"], CLASSES, BOOTSTRAP)
        decision = compute_decision(predictions, levels, CLASSES, OPTIONS)
        probes = compute_probes(
            store,
            rows,
            tables["test"],
            visits=pd.Series(dtype=str),
            max_fitted=100,
            bootstrap=BOOTSTRAP,
        )
        mirrored = Mirrored(scores, scores[:, ::-1], is_averaged=False)
        probes["mirror"] = check_mirrored(mirrored, tables["test"], CLASSES)
    content = {"levels": levels, "decision": decision, "probes": probes}
    assert find_undefined(content) == []
    write_json(tmp_path / "metrics.json", content)
    for name, level in levels.items():
        missing = {metric for metric, found in level["metrics"].items() if found["value"] is None}
        has_both = len(set(tables["test"]["label"])) == 2
        assert missing == (set() if has_both else NEED_BOTH), name
        assert has_both or any(note.startswith("Not defined: ") for note in level["notes"])


def test_a_split_without_rows_is_refused():
    with pytest.raises(UserError, match="the table has no rows; check that the split holds patients"):
        compute_levels(build_table([], "test", 0.5), CLASSES, BOOTSTRAP)


def run(workspace, *kind: str) -> int:
    return main([kind[0], "--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace), *kind[1:]])


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Twelve knees of which the last two are patients of their own, with one label each."""
    workspace = tmp_path_factory.mktemp("small")
    config = TINY_CONFIG | {"tracking": {"enabled": False}}
    config["data"] = {"dataset": "phantom", "label_table": str(workspace / "scans.csv")}
    config["split"] = {"split_table": str(workspace / "wanted.csv")}
    config["preprocess"] = {**TINY_CONFIG["preprocess"], "num_slices": 1}
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(config))
    assert run(workspace, "fetch") == 0
    raw = workspace / "data" / "tiny" / "raw"
    paths = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.nii.gz"))[:12]
    labels = ["left", "right"] * 5 + ["left", "right"]
    patients = [f"P{number // 2}" for number in range(10)] + ["V", "T"]
    table = pd.DataFrame({"path": paths, "patient": patients, "label": labels})
    table.to_csv(workspace / "scans.csv", index=False)
    assert run(workspace, "preprocess") == 0
    return workspace


@pytest.mark.slow
def test_one_slice_of_one_patient_to_validate_and_one_to_test_make_a_report_without_nan(scans):
    roles = ["train"] * 5 + ["val", "test"]
    wanted = pd.DataFrame({"group_id": [*(f"P{number}" for number in range(5)), "V", "T"], "split": roles})
    wanted.to_csv(scans / "wanted.csv", index=False)
    for stage in ("split", "train", "evaluate"):
        assert run(scans, stage) == 0, stage
    folder = scans / "reports" / "tiny"

    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")

    files = [*folder.glob("*.json"), *scans.glob("runs/tiny/*.json"), *scans.glob("data/tiny/**/*.json")]
    assert len(files) >= 5
    for path in files:
        json.loads(path.read_text(), parse_constant=refuse)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {name: level["n"] for name, level in metrics["levels"].items()} == {
        "slice": 1,
        "volume": 1,
        "knee": 1,
        "patient": 1,
    }
    auroc = metrics["levels"]["patient"]["metrics"]["auroc"]
    assert (auroc["value"], auroc["low"], auroc["method"]) == (None, None, None)
    for page in folder.glob("*.html"):
        text = re.sub(r"<svg.*?</svg>|base64,[^\"')]*", "", page.read_text(), flags=re.DOTALL)
        assert not re.search(r"\b(nan|inf|NaN|Infinity)\b", text), page


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["test"] * 5 + ["train", "val"], "labelled right in train"),
        (["train"] * 5 + ["test", "test"], "no patient of the data is in val"),
        (["train"] * 5 + ["val", "val"], "no patient of the data is in test"),
    ],
)
def test_a_class_or_a_split_without_patients_is_refused_before_training(roles, message, scans, capsys):
    wanted = pd.DataFrame({"group_id": [*(f"P{number}" for number in range(5)), "V", "T"], "split": roles})
    wanted.to_csv(scans / "wanted.csv", index=False)
    shutil.rmtree(scans / "runs", ignore_errors=True)  # a finished run would keep its splits
    codes = [run(scans, "split"), run(scans, "train", "--run", "refused")]
    assert 2 in codes
    assert message in capsys.readouterr().err
