"""Lesions of the synthetic knees: as many as asked for, in few slices, where the table says they are."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from pipeline.config.phantom import PhantomConfig
from pipeline.core.errors import UserError
from pipeline.datasets.phantom.lesions import RADIUS_MM, SITES_MM, TABLE_NAME, Lesion, plan_lesions
from pipeline.datasets.phantom.painting import paint_knee
from pipeline.datasets.phantom.scans import make_phantom
from pipeline.formats.nifti import read_volume
from pipeline.preprocessing.slicing import choose_slices

TINY = PhantomConfig(
    num_patients=5, max_visits=2, shape=(24, 24, 20), spacing_mm=(6.0, 6.0, 6.0), noise=0.0, lesion_fraction=0.4
)


def paint(config, lesion, side="right"):
    return paint_knee(config, np.random.default_rng(3), np.random.default_rng(4), side, lesion=lesion).astype(int)


def test_the_asked_fraction_of_knees_has_a_lesion_and_no_lesion_depends_on_the_others():
    config = dataclasses.replace(TINY, num_patients=50)
    lesions = plan_lesions(config)
    assert len(lesions) == 40
    assert {lesion.grade for lesion in lesions.values()} == {1, 2, 3}
    assert {lesion.site for lesion in lesions.values()} == set(SITES_MM)
    more = plan_lesions(dataclasses.replace(config, lesion_fraction=0.8))
    assert all(more[knee] == lesion for knee, lesion in lesions.items())
    assert plan_lesions(dataclasses.replace(config, lesion_fraction=0.0)) == {}


@pytest.mark.parametrize("grade", [1, 3])
def test_a_lesion_shows_in_two_to_five_sagittal_slices_of_the_config(grade):
    config = PhantomConfig(noise=0.0, warp_mm=0.0)
    lesion = Lesion("medial condyle", grade, SITES_MM["medial condyle"])
    plain, changed = paint(config, None), paint(config, lesion)
    rise = (changed - plain) / np.percentile(plain, 99)
    slices = choose_slices(config.shape[0], 40, (0.1, 0.9))
    visible = (rise[slices].max(axis=(1, 2)) > 0.1).sum()
    assert 2 <= visible <= 5
    assert rise.min() >= -0.01, "nothing becomes darker"


def test_the_table_has_a_row_for_each_scan_and_the_place_of_its_lesion(tmp_path):
    make_phantom(tmp_path, TINY, num_workers=1)
    table = pd.read_csv(tmp_path / TABLE_NAME, dtype={"patient": str}, keep_default_na=False)
    scans = sorted(path.name for path in tmp_path.iterdir() if ".nii" in path.name)
    assert sorted(table["path"]) == scans
    by_knee = table.groupby(["patient", "side"])
    assert (by_knee["grade"].nunique() == 1).all(), "a lesion stays over all visits"
    assert (by_knee["label"].first() == "lesion").sum() == 4
    assert ((table["grade"] > 0) == (table["label"] == "lesion")).all()
    healthy = tmp_path / "healthy"
    make_phantom(healthy, dataclasses.replace(TINY, lesion_fraction=0.0), num_workers=1)
    assert not (healthy / TABLE_NAME).exists()
    for row in table.to_dict("records"):
        volumes = [read_volume(folder / row["path"]).voxels.astype(int) for folder in (tmp_path, healthy)]
        changed = np.argwhere(volumes[0] != volumes[1])
        if row["label"] == "none":
            assert len(changed) == 0
            continue
        found_mm = (changed - (np.array(TINY.shape) - 1) / 2) * TINY.spacing_mm
        table_mm = np.array([float(row[name]) for name in ("right_mm", "anterior_mm", "superior_mm")])
        assert len(changed) > 0
        assert np.linalg.norm(found_mm - table_mm, axis=1).max() < RADIUS_MM[2] + 12


def test_a_fraction_above_one_is_refused():
    with pytest.raises(UserError, match="lesion_fraction"):
        PhantomConfig(lesion_fraction=1.5)
