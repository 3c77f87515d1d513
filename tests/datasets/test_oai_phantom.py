"""The synthetic delivery of the OAI: what the reader finds is what was drawn."""

import dataclasses

import numpy as np
import pytest

from pipeline.config.phantom import PhantomConfig
from pipeline.config.sources import DataConfig, OaiConfig
from pipeline.datasets.oai.scans import list_scans
from pipeline.datasets.oai.synthetic import SyntheticKnee, draw_knees, make_delivery, plan_series
from pipeline.datasets.phantom.osteoarthritis import grow_osteophytes, narrow_joint
from pipeline.datasets.phantom.painting import paint_knee
from pipeline.formats.dicom import read_series
from pipeline.formats.dicom_writing import SeriesFacts, encode_series
from tests.builders.built_once import build_once

TINY = PhantomConfig(num_patients=12, max_visits=2, shape=(10, 24, 20), spacing_mm=(14.0, 6.0, 6.0))


@pytest.fixture(scope="module")
def delivery(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp().parent / "oai_delivery"
    return build_once(folder, lambda made: make_delivery(made, TINY, num_workers=1))


def list_labels(delivery, label):
    sources = list_scans(delivery, DataConfig("oai_phantom", oai=OaiConfig(label=label))).sources
    return {(source.group_id, source.visit, source.side): source.label for source in sources if not source.ignored}


@pytest.mark.slow
def test_grades_are_those_that_were_drawn(delivery):
    series = plan_series(TINY, draw_knees(TINY))
    drawn = {(each.knee.patient, each.visit, each.knee.side): str(each.knee.grade_at(each.visit)) for each in series}
    assert list_labels(delivery, "XRKL") == drawn
    assert len(set(drawn.values())) >= 4


def test_accelerated_knees_are_those_that_were_drawn(delivery):
    found = list_labels(delivery, "akoa")
    knees = {(knee.patient, knee.side): knee for knee in draw_knees(TINY)}
    assert len(set(found.values())) == 2
    for (patient, _, side), label in found.items():
        assert label == ("accelerated" if knees[patient, side].is_accelerated else "not accelerated")
    left_out = knees.keys() - {(patient, side) for patient, _, side in found}
    assert left_out == {key for key, knee in knees.items() if knee.grades[0] >= 2}


def test_of_a_knee_that_was_scanned_twice_the_later_archive_is_taken(delivery, monkeypatch):
    series = plan_series(TINY, draw_knees(TINY))
    assert any(each.attempt for each in series)
    taken = {source.paths[0].as_posix() for source in list_scans(delivery, DataConfig("oai_phantom")).sources
             if not source.ignored}  # fmt: skip
    assert taken == {each.path for each in series if each.attempt == 0}


def test_a_series_is_read_as_the_volume_that_was_written(tmp_path):
    intensity = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.int16)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (50.0, -8.0, 9.0)
    for place, content in enumerate(encode_series(intensity, affine, SeriesFacts("0000001", "SAG_3D_DESS_LEFT", "a"))):
        (tmp_path / f"{(place * 3) % 5:03d}").write_bytes(content)
    volume = read_series("series", (tmp_path,))
    np.testing.assert_array_equal(volume.voxels, intensity)
    assert volume.spacing_mm == pytest.approx((2.0, 3.0, 4.0))
    assert volume.centre_mm == pytest.approx((50 + 2 * 2, -8 + 2.5 * 3, 9 + 3 * 4))


def paint(grade, side="right"):
    still = dataclasses.replace(PhantomConfig(noise=0.0, bias_field=0.0, texture=0.0, warp_mm=0.0, height_shift_mm=0.0))
    generators = (np.random.default_rng(seed) for seed in (0, 1))
    return paint_knee(still, *generators, side, grade).astype(np.float32)


def test_a_grade_changes_the_joint_and_nothing_far_from_it():
    healthy = paint(0)
    changes = []
    for grade in (1, 2, 3, 4):
        change = np.abs(paint(grade) - healthy) > 0.05 * healthy.max()
        heights_mm = (np.flatnonzero(change.any(axis=(0, 1))) - 31.5) * 2.0
        assert -20 < heights_mm.min() < heights_mm.max() < 56  # of -63 to 63: cartilage and the margins of bones
        changes.append(int(change.sum()))
    assert changes[0] > 20
    assert changes == sorted(changes)


def test_an_accelerated_knee_starts_low_and_ends_high():
    assert SyntheticKnee(0, "left", (1, 1, 2, 2, 3), 1).is_accelerated
    assert not SyntheticKnee(0, "left", (2, 2, 2, 2, 3), 1).is_accelerated
    assert not SyntheticKnee(0, "left", (0, 0, 1, 1, 2), 1).is_accelerated


def test_the_same_config_gives_the_same_bytes(tmp_path):
    config, made = dataclasses.replace(TINY, num_patients=2, max_visits=1), []
    for name in ("first", "second"):
        folder = tmp_path / name
        make_delivery(folder, config, num_workers=1)
        made.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert made[0] == made[1]


def test_bones_reach_into_the_joint_and_osteophytes_stand_at_their_outer_margins():
    rows = np.array([[-1.0, -21, -5, 9, 14, -8], [5.0, -23, -7, 13, 24, -10], [36.0, -22, 0, 10, 14, 0]])
    assert narrow_joint("medial condyle", rows, 4)[:, 0].tolist() == [-4.5, 5.0, 36.0]
    assert narrow_joint("lateral plateau", rows, 4)[:, 0].tolist() == [-1.0, 5.0, 37.75]
    assert narrow_joint("fibula", rows, 4)[:, 0].tolist() == [-1.0, 5.0, 36.0]
    assert narrow_joint("medial condyle", rows, 1) is not rows
    assert rows[0, 0] == -1.0
    (spur,) = grow_osteophytes("medial condyle", rows, 4)
    assert spur[:, :3].tolist() == [[-1.5, -36.0, -7.0], [11.5, -36.0, -7.0]]  # 13 mm beyond the centre
    assert grow_osteophytes("medial condyle", rows, 0) == grow_osteophytes("fibula", rows, 4) == []
