"""The table of another site: what fits a run, and what is refused in one line."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from pipeline.config.sources import ColumnsConfig, DataConfig
from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES
from pipeline.core.errors import UserError
from pipeline.data.external_data import match_classes, read_external_table
from tests.builders.stores import build_store

RUN = dataclasses.replace(build_store(num_rows=4), kind=PATIENT_IMAGES)
ROLES = {"007": "train", "8": "val", "OAI12": "test"}


def read(tmp_path, rows, header="path,patient,label", options=None, run=RUN):
    for name in ("a", "b", "c"):
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / f"{name}.png")
    path = tmp_path / "site.csv"
    path.write_text("\n".join([header, *rows]))
    return read_external_table(path, options or DataConfig(dataset="labelled"), run, ROLES)


def test_paths_are_relative_to_the_tables_folder_and_split_and_weight_are_not_read(tmp_path):
    table = read(tmp_path, ["a.png,p1,left,train,80", "b.png,p2,right,,x"], "path,patient,label,split,weight")
    assert [source.source_id for source in table.listing.sources] == ["a.png", "b.png"]
    assert {source.published_split + source.weight for source in table.listing.sources} == {""}
    assert [note.partition(": ")[2] for note in table.listing.notes] == [
        "the column split is not read: every row is external."
    ]


def test_what_was_guessed_of_the_table_is_said(tmp_path):
    table = read(tmp_path, ["a.png;p1;left;49,5"], "path;patient;label;age", DataConfig(covariates=("age",)))
    (note,) = table.listing.notes
    assert "semicolons between cells and decimal commas in age, a guess" in note


@pytest.mark.parametrize(
    ("patient", "found"),
    [("007", "007 (line 2) is in train"), ("8", "is in val"), ("7", "as 007, which differs only in leading zeros")],
)
def test_a_patient_of_the_run_is_refused_in_any_spelling(patient, found, tmp_path):
    with pytest.raises(UserError, match="1 patient of the run") as caught:
        read(tmp_path, [f"a.png,{patient},left"])
    assert found in str(caught.value)


def test_an_unknown_label_is_refused_with_its_line_and_the_allowed_ones(tmp_path):
    with pytest.raises(UserError, match="line 3: the label 'both' is no class of the run; allowed are left, right"):
        read(tmp_path, ["a.png,p1,left", "b.png,p2,both"])


def test_labels_are_merged_and_binned_as_in_training_and_may_lack_a_class_and_a_covariate(tmp_path):
    merged = DataConfig(dataset="labelled", merge={"L": "left", "none": None, "gone": "right"}, covariates=("age",))
    table = read(tmp_path, ["a.png,p1,L", "b.png,p2,none", "c.png,p3,right"], options=merged)
    assert [source.label for source in table.listing.sources] == ["left", "right"]
    assert [source.covariates for source in table.listing.sources] == [(("age", ""),)] * 2
    assert (table.num_rows, len(table.given.table)) == (3, 2)
    run = dataclasses.replace(RUN, class_names=("1: below 50", "2: 50 and above"))
    table = read(tmp_path, ["a.png,p1,49.5"], options=DataConfig(dataset="labelled", bins=(50,)), run=run)
    assert [source.label for source in table.listing.sources] == ["1: below 50"]


def test_a_column_that_the_other_site_does_not_have_is_unknown(tmp_path):
    options = DataConfig(dataset="labelled", columns=ColumnsConfig(label="side", side="Seite", site="hospital"))
    table = read(tmp_path, ["a.png,p1,left"], "path,patient,side", options)
    assert [(source.site, source.side) for source in table.listing.sources] == [("", "left")]


def test_a_published_set_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"on mnist, a published set .*Score new files with the predict stage"):
        read(
            tmp_path, ["a.png,p1,left"], options=DataConfig(dataset="mnist"), run=dataclasses.replace(RUN, kind=IMAGES)
        )


def test_grey_examples_get_the_channels_of_the_run_and_colour_is_refused_by_a_grey_one(tmp_path):
    grey = dataclasses.replace(RUN, class_names=("left",))
    coloured = dataclasses.replace(RUN, examples=np.stack([RUN.examples] * 3, axis=1))
    matched = match_classes(grey, coloured, tmp_path)
    assert matched.class_names == ("left", "right")
    np.testing.assert_array_equal(matched.examples, coloured.examples)
    with pytest.raises(UserError, match="in colour"):
        match_classes(coloured, RUN, tmp_path)
    with pytest.raises(UserError, match="the run was trained on images"):
        match_classes(build_store(num_rows=2), RUN, tmp_path)
