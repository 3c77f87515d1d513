"""Scans of a run among those of another site: refused where the model was fitted on them, else counted."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.copies.alterations import ALTERATIONS
from pipeline.copies.external import refuse_shared_scans
from pipeline.copies.search import NO_SOURCES, Found
from pipeline.core.errors import UserError
from pipeline.core.tables import MANIFEST_COLUMNS, write_table
from pipeline.data.certified_data import CertifiedData
from pipeline.data.external_data import ExternalData, ExternalTable
from pipeline.data.label_tables import LabelTable
from pipeline.data.sources import Listing
from tests.builders.certificates import build_certificate
from tests.builders.painted_scans import build_store, paint_stack

NUM_KNOWN = 8
SPLITS = ("train",) * 4 + ("val",) * 2 + ("test",) * 2


def describe(store, checksums):
    sources = store.index.drop_duplicates("source_id")
    table = pd.DataFrame("", index=range(len(sources)), columns=list(MANIFEST_COLUMNS))
    return table.assign(
        source_id=sources["source_id"].tolist(),
        group_id=sources["group_id"].tolist(),
        path=sources["source_id"].tolist(),
        status="accepted",
        sha256=checksums,
    )


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A run on eight knees of eight patients."""
    groups = [f"p{number}" for number in range(NUM_KNOWN)]
    store = build_store([paint_stack(number, "left") for number in range(NUM_KNOWN)], groups)
    path = tmp_path_factory.mktemp("run") / "manifest.csv"
    write_table(path, describe(store, [f"file{number}" for number in range(NUM_KNOWN)]), MANIFEST_COLUMNS)
    return CertifiedData(store, dict(zip(groups, SPLITS, strict=True)), build_certificate(), path)


def build_external(stacks, checksum="another"):
    store = build_store(stacks, [f"site2-{number}" for number in range(len(stacks))])
    table = LabelTable(Path("site.csv"), pd.DataFrame(), pd.DataFrame(), ())
    manifest = describe(store, [checksum, *["another"] * (len(stacks) - 1)])
    return ExternalData(ExternalTable(table, Listing(()), len(stacks)), store, manifest)


def paint_others(number=6):
    return [paint_stack(20 + patient, "left") for patient in range(number)]


def test_other_people_are_taken_though_their_files_have_the_names_of_the_runs(known):
    assert "none was verified as a copy" in refuse_shared_scans(known, build_external(paint_others()))


def test_a_file_of_training_is_refused_by_its_checksum(known):
    with pytest.raises(UserError, match=r"s0 is the file s1 \(train\)"):
        refuse_shared_scans(known, build_external(paint_others(2), "file1"))


@pytest.mark.parametrize(("number", "split"), [(0, "train"), (4, "val")])
def test_an_altered_copy_of_what_was_fitted_on_is_refused(number, split, known):
    copy = ALTERATIONS["mirrored"](paint_stack(number, "left"), np.random.default_rng(0))
    with pytest.raises(UserError, match=rf"1 scan of the run .*s6 is a copy \(.*\) of s{number} \({split}\)"):
        refuse_shared_scans(known, build_external([*paint_others(), copy]))


def test_what_is_in_the_test_is_counted(known):
    found = refuse_shared_scans(known, build_external([*paint_others(), paint_stack(7, "left")]))
    assert "1 scan also is in the run's test" in found


def double(known, order, folder):
    """Return the run with patients of these splits who have one file and one scan."""
    numbers = [SPLITS.index(split) for split in order]
    roles = known.roles | {f"p{number}": split for number, split in zip(sorted(numbers), order, strict=True)}
    manifest = known.manifest.assign(
        sha256=[f"file{min(numbers) if number in numbers else number}" for number in range(NUM_KNOWN)]
    )
    write_table(folder / "manifest.csv", manifest, MANIFEST_COLUMNS)
    examples = np.array(known.store.examples)
    first, second = (np.flatnonzero(known.store.index["group_id"] == f"p{number}") for number in sorted(numbers))
    examples[second] = examples[first]
    return CertifiedData(
        dataclasses.replace(known.store, examples=examples), roles, known.certificate, folder / "manifest.csv"
    ), min(numbers)


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train"), ("val", "test"), ("test", "val")])
@pytest.mark.parametrize("is_file", [True, False], ids=["file", "pixels"])
def test_what_is_in_the_test_and_in_what_was_fitted_on_is_refused(order, is_file, known, tmp_path):
    """A published set may have one scan in two splits; which of them is met last must not matter."""
    data, number = double(known, order, tmp_path)
    fitted = order[0] if order[1] == "test" else order[1]
    stacks = [*paint_others(1), *([] if is_file else [paint_stack(number, "left")])]
    likeness = "is the file" if is_file else "has the pixels of"
    with pytest.raises(UserError, match=rf"1 scan of the run .*{likeness} s\d \({fitted}\)"):
        refuse_shared_scans(data, build_external(stacks, f"file{number}" if is_file else "another"))


def test_the_file_of_a_test_scan_with_pixels_of_training_is_refused(known):
    with pytest.raises(UserError, match=r"s0 has the pixels of s1 \(train\)"):
        refuse_shared_scans(known, build_external([paint_stack(1, "left")], "file7"))


def test_patients_of_the_other_site_are_others_though_they_have_the_numbers_of_the_runs(known, monkeypatch):
    """Scans of one patient would hide each other from the search for copies."""
    searched = []

    def search(store, parts, only_across):
        searched.append([set(store.index.loc[parts == part, "group_id"]) for part in np.unique(parts)])
        return Found(NO_SOURCES, 9.0, (), (), 0, 0, 2)

    monkeypatch.setattr("pipeline.copies.external.search_copies", search)
    external = build_external(paint_others(2))
    index = external.store.index.assign(group_id=external.store.index["group_id"].str.replace("site2-", "p"))
    named = dataclasses.replace(external, store=dataclasses.replace(external.store, index=index))
    reported = refuse_shared_scans(known, named)
    assert len(searched) == 1
    assert set.isdisjoint(*searched[0])
    assert "The search was limited: 2 scans" in reported
