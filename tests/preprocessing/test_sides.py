"""The side of a knee by name, tags and place: what agrees is joined, what does not is listed."""

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.formats.dicom_sides import SideTags, read_side_tags
from pipeline.preprocessing.sides import describe_contradiction, fuse_sides, list_evidence
from tests.builders.dicom import write_series
from tests.builders.preprocessing import make_experiment, run

INTENSITY = np.random.default_rng(0).integers(1, 1000, (8, 10, 12)).astype(np.int16)


def write_table(folder, label="yes"):
    (folder / "labels.csv").write_text(f"path,patient,label,side\nseries,1,{label},\nother,2,no,right\n")
    return folder / "labels.csv"


def test_probabilities_are_those_computed_by_hand():
    evidence = list_evidence("left", SideTags({"Laterality": "right"}), "right")
    side, probability = fuse_sides(evidence)
    # Odds of right: 0.001 / 0.999 x 0.99 / 0.01 x 0.985 / 0.015 = 6.5075
    assert (side, probability) == ("right", pytest.approx(6.5075 / 7.5075, abs=1e-4))
    assert fuse_sides([]) == ("", 0.5)
    assert describe_contradiction(evidence) == (
        "name or table left (99.9%), Laterality right (99.0%), place in the scanner right (98.5%); "
        "together right, 86.7%"
    )
    assert describe_contradiction(list_evidence("left", SideTags({"Laterality": "left"}), "left")) == ""


@pytest.mark.parametrize(("maker", "confidence"), [("Siemens", 0.989), ("Philips", 0.97), ("GE", 0.985), ("", 0.985)])
def test_the_place_is_trusted_by_the_maker_of_the_scanner(maker, confidence):
    (evidence,) = list_evidence("", SideTags({}, maker), "left")
    assert evidence.confidence == confidence
    assert ("unchecked" in evidence.name) == (maker == "GE")


def test_tags_are_read_and_nothing_else(tmp_path):
    named = {"Laterality": "R", "ImageLaterality": "B", "SeriesDescription": "SAG PD RIGHT KNEE Zyxwv"}
    write_series(tmp_path / "a", INTENSITY, Manufacturer="SIEMENS Zyxwv", **named)
    tags = read_side_tags(tmp_path / "a", 1 << 30)
    assert tags == SideTags({"Laterality": "right", "SeriesDescription": "right"}, "Siemens")
    write_series(tmp_path / "b", INTENSITY, Manufacturer="Zyxwv", SeriesDescription="LEFT AND RIGHT")
    assert read_side_tags(tmp_path / "b", 1 << 30) == SideTags()
    assert read_side_tags(tmp_path / "none.nii.gz", 1 << 30) == SideTags()


def test_two_written_sides_are_refused_with_all_evidence(tmp_path, capsys):
    raw = tmp_path / "raw"
    write_series(raw / "series", INTENSITY, Laterality="L", ImageLaterality="R")
    write_series(raw / "other", INTENSITY[::-1], Laterality="R")
    experiment = make_experiment(tmp_path, dataset="labelled", label_table=write_table(raw))
    with pytest.raises(UserError, match="1 of 2 scans was refused"):
        run(experiment)
    printed = capsys.readouterr().err
    assert "two sides: ImageLaterality right (99.5%), Laterality left (99.0%), place in the scanner right" in printed


def test_a_side_that_the_header_alone_names_is_taken(tmp_path):
    raw = tmp_path / "raw"
    write_series(raw / "series", INTENSITY, Laterality="L", centre=(-80.0, 0.0, 0.0))
    write_series(raw / "other", INTENSITY[::-1])
    experiment = make_experiment(tmp_path, dataset="labelled", label_table=write_table(raw))
    run(experiment)
    manifest = pd.read_csv(experiment.paths.manifest, dtype=str)
    assert dict(zip(manifest["path"], manifest["side"], strict=True)) == {"other": "right", "series": "left"}
