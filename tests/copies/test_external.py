"""Scans of a run among those of another site: refused where the model was fitted on them, else counted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.copies.alterations import ALTERATIONS
from pipeline.copies.external import refuse_shared_scans
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
