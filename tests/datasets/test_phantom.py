"""The synthetic knees: the same bytes for the same seed, sides that are true, names as the real sets have them."""

import dataclasses
import hashlib
import itertools
import json
import re
import resource
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.config.phantom import PhantomConfig
from pipeline.core.errors import UserError
from pipeline.datasets.akoa import parse_name
from pipeline.datasets.phantom.anatomy import Section, Tube, read_anatomy
from pipeline.datasets.phantom.geometry import Coordinates, cut, place_knee, smooth_field, vary_shape
from pipeline.datasets.phantom.painting import TISSUES, paint_knee
from pipeline.datasets.phantom.scans import PlannedKnee, make_phantom, name_knee, place_scan, plan_knees, write_knee
from pipeline.formats.nifti import read_volume

TINY = PhantomConfig(num_patients=4, max_visits=2, shape=(12, 14, 16), spacing_mm=(12.0, 10.0, 8.0))
# Nothing varies but what ``place_scan`` draws: the knee that the anatomy's table describes.
STILL = PhantomConfig(
    num_patients=1,
    rotation_degrees=0,
    shift_mm=0,
    height_shift_mm=0,
    lean=0,
    zoom=0,
    shape_variation=0,
    warp_mm=0,
    contrast_variation=0,
    texture=0,
    bias_field=0,
    noise=0,
)


def checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def paint(config, side, seed=0):
    return paint_knee(config, np.random.default_rng(seed), np.random.default_rng(seed + 1), side)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "raw"
    make_phantom(folder, TINY, num_workers=1)
    return folder


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(made, tmp_path):
    make_phantom(tmp_path, TINY, num_workers=2)
    assert checksums(tmp_path) == checksums(made)


@pytest.mark.parametrize("only", ["noise", "shape_variation"])
def test_another_seed_gives_another_scan_and_another_patient(only, tmp_path):
    config = dataclasses.replace(STILL, shape=TINY.shape, spacing_mm=TINY.spacing_mm, **{only: 1.0})
    knee = plan_knees(config)[0]
    volumes = []
    for seed in (0, 1):
        write_knee(tmp_path, dataclasses.replace(config, seed=seed), knee)
        volumes.append(read_volume(tmp_path / knee.file_name).voxels.ravel())
    # The scanner's gain differs in any case, so equal knees have a correlation of 1 but for rounding to integers.
    assert np.corrcoef(volumes)[0, 1] < 0.999


def test_no_two_scans_of_a_patient_are_alike(made):
    volumes = [read_volume(made / knee.file_name).voxels.tobytes() for knee in plan_knees(TINY)]
    assert len(set(volumes)) == len(volumes)


def test_a_left_knee_is_the_mirror_image_of_a_right_one_from_the_same_draws():
    left, right = paint(TINY, "left"), paint(TINY, "right")
    np.testing.assert_array_equal(left, right[::-1])
    assert (left != right).mean() > 0.5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_fibula_is_lateral_in_the_world(side, seed, tmp_path):
    # The draws depend on the patient's place, so six patients are six positions, orientations and obliquities.
    knee = PlannedKnee(seed, 0, side, f"knee_{seed}.nii.gz")
    write_knee(tmp_path, STILL, knee)
    image = nibabel.load(tmp_path / knee.file_name)
    intensity = image.get_fdata()
    centre = nibabel.affines.apply_affine(image.affine, (np.array(image.shape) - 1) / 2)
    outward = 1 if side == "right" else -1
    assert np.sign(centre[0]) == outward

    world = nibabel.affines.apply_affine(image.affine, np.moveaxis(np.indices(image.shape), 0, -1)) - centre
    # 45 mm below the joint, posterior to the tibia: cortical bone, the darkest of all, on the fibula's side alone.
    box = (np.abs(world[..., 2] + 45) < 4) & (np.abs(world[..., 1] + 22) < 8)
    lateral = intensity[box & (np.abs(outward * world[..., 0] - 36) < 6)].min()
    medial = intensity[box & (np.abs(outward * world[..., 0] + 36) < 6)].min()
    muscle, cortex = TISSUES["muscle"][0], TISSUES["cortex"][0]
    # Half way between the two tissues; the medial side has nothing darker than muscle there.
    assert lateral / medial < (muscle + cortex) / 2 / muscle


def test_the_medial_condyle_is_longer_and_reaches_lower():
    bones = {tube.name: tube for tube in read_anatomy()["bones"]}
    medial, lateral = bones["medial condyle"], bones["lateral condyle"]
    assert min(s.superior_mm for s in medial.sections) < min(s.superior_mm for s in lateral.sections)
    assert max(s.half_depth_mm for s in medial.sections) > max(s.half_depth_mm for s in lateral.sections)
    ridge, other_ridge = bones["lateral trochlea"], bones["medial trochlea"]
    front = [max(s.anterior_mm + s.half_depth_mm for s in tube.sections) for tube in (ridge, other_ridge)]
    assert front[0] > front[1]


def test_every_tube_is_made_of_a_known_tissue_and_runs_upwards():
    for tube in itertools.chain.from_iterable(read_anatomy().values()):
        assert tube.tissue in TISSUES or tube.tissue == "bone"
        heights = [section.superior_mm for section in tube.sections]
        assert len(heights) >= 2
        assert heights == sorted(set(heights))


def test_the_distance_to_a_round_tube_is_exact():
    upright = Tube("rod", "tendon", (Section(-50, 5, 0, 10, 10), Section(50, 5, 0, 10, 10)))
    place = np.array([5.0, 15.0, 25.0, -15.0], np.float32).reshape(1, 1, 4)
    coordinates = Coordinates(np.array([0.0]), place, np.zeros_like(place))
    block, distance_mm = cut(coordinates, vary_shape(upright, 0, np.random.default_rng(0)))
    assert block[0] == slice(0, 1)
    np.testing.assert_allclose(distance_mm.ravel(), [-10, 0, 10, 10], atol=1e-5)  # float32
    _, grown = cut(coordinates, vary_shape(upright, 0, np.random.default_rng(0)), grow_mm=(5, 5))
    np.testing.assert_allclose(grown.ravel(), [-15, -5, 5, 5], atol=1e-5)  # float32


def test_a_tube_turns_from_lateral_towards_anterior():
    plate = Tube("plate", "tendon", (Section(-50, 0, 0, 20, 5, 45), Section(50, 0, 0, 20, 5, 45)))
    lateral = np.array([10.0, 10.0], np.float32).reshape(1, 1, 2)
    anterior = np.array([10.0, -10.0], np.float32).reshape(1, 1, 2)
    rows = vary_shape(plate, 0, np.random.default_rng(0))
    _, distance_mm = cut(Coordinates(np.array([0.0]), lateral, anterior), rows)
    # Along the plate the place is sqrt(200) / 20 of the way out, across it sqrt(200) / 5; the mean radius is 7.5 mm.
    np.testing.assert_allclose(distance_mm.ravel(), 7.5 * (np.sqrt(200) / np.array([20, 5]) - 1), rtol=1e-5)  # float32


def test_a_tube_that_no_slice_reaches_is_not_cut():
    low = Tube("foot", "tendon", (Section(-400, 0, 0, 5, 5), Section(-300, 0, 0, 5, 5)))
    nowhere = np.zeros((1, 1, 1), np.float32)
    assert cut(Coordinates(np.array([0.0]), nowhere, nowhere), vary_shape(low, 0, np.random.default_rng(0))) is None


def test_voxels_within_reach_of_a_tube_are_all_cut_with_the_same_distances():
    config = PhantomConfig(shape=(22, 25, 12), spacing_mm=(6.0, 6.0, 10.0))  # sizes that no square fits
    coordinates = place_knee(config, np.random.default_rng(0), np.random.default_rng(1))
    generator, num_left_out, num_cut = np.random.default_rng(2), 0, 0
    for tube in itertools.chain.from_iterable(read_anatomy().values()):
        rows = vary_shape(tube, 1.0, generator)
        whole, near = cut(coordinates, rows), cut(coordinates, rows, reach_mm=0.8)
        within = np.full(coordinates.lateral_mm.shape, np.inf, np.float32)
        if whole is not None:
            within[whole[0]] = whole[1]
        found = np.full_like(within, np.inf)
        if near is not None:
            found[near[0]] = near[1]
            np.testing.assert_array_equal(near[1], within[near[0]])
        num_left_out += np.isfinite(within).sum() - np.isfinite(found).sum()
        num_cut += np.isfinite(found).sum()
        np.testing.assert_array_equal(found[within < 0.8], within[within < 0.8])
    assert num_left_out > num_cut


def test_a_smooth_field_passes_through_its_coarse_numbers():
    coarse = np.random.default_rng(3).standard_normal((3, 4), dtype=np.float32)
    field = smooth_field(np.random.default_rng(3), (5, 10), (3, 4))
    np.testing.assert_allclose(field[::2, ::3], coarse, atol=1e-6)  # float32


@pytest.mark.parametrize(
    "field",
    [
        "rotation_degrees",
        "shift_mm",
        "height_shift_mm",
        "lean",
        "zoom",
        "shape_variation",
        "warp_mm",
        "contrast_variation",
        "texture",
        "bias_field",
        "noise",
    ],
)
def test_every_variation_changes_the_image(field):
    still = dataclasses.replace(STILL, shape=TINY.shape, spacing_mm=TINY.spacing_mm)
    varied = dataclasses.replace(still, **{field: getattr(PhantomConfig(), field)})
    assert (paint(still, "right") != paint(varied, "right")).mean() > 0.02


def test_the_affine_is_a_rotation_with_the_spacing_around_the_centre():
    generator = np.random.default_rng(0)
    angles = []
    for _ in range(30):
        affine = place_scan(TINY, "left", generator)
        turn = affine[:3, :3] / TINY.spacing_mm
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)  # float64 rounding
        assert np.linalg.det(turn) > 0
        angles.append(np.degrees(nibabel.affines.obliquity(affine).max()))
        assert -95 <= (affine @ [*((np.array(TINY.shape) - 1) / 2), 1])[0] <= -70
    assert 0 < np.count_nonzero(np.array(angles) > 0.5) < 30


def test_names_tell_patient_visit_and_side_of_every_knee():
    knees = plan_knees(PhantomConfig())
    assert len({knee.file_name for knee in knees}) == len(knees)
    scans = set()
    for knee in knees:
        source, _ = parse_name(_path(knee))
        assert int(source.group_id) == knee.patient_index + 1
        assert source.side == knee.side
        scans.add((source.group_id, source.visit, source.side))
    assert len(scans) == len(knees)


def _path(knee):
    return Path(knee.file_name)


def test_the_default_set_has_64_patients_with_both_knees_at_one_to_three_visits():
    knees = plan_knees(PhantomConfig())
    visits = {}
    for knee in knees:
        visits.setdefault((knee.patient_index, knee.visit_index), set()).add(knee.side)
    assert all(sides == {"left", "right"} for sides in visits.values())
    per_patient = [sum(patient == index for patient, _ in visits) for index in range(64)]
    assert len({knee.patient_index for knee in knees}) == 64
    assert set(per_patient) == {1, 2, 3}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "spelling",
    [rf"OAI\d{{7}}_BaseLine_{visit}_de3d1_SAG_3D_DESS_WE_.*" for visit in (3, 4, 100, 101)]
    + [r"OAI\d{7}_BaseLine_3de3d1_SAG_3D_DESS_WE_.*", r"OAI\d{7}_BaseLine_10[01]de3d1_SAG_3D_DESS_WE_.*"]
    + [
        rf"OAI\d{{7}}_BaseLine_\d+_de3d1_SAG_3D_DESS_WE_{side}\.nii\.gz"
        for side in ("RIGHT", "LEFT", "Right", "Left", "R_I_G_H_T", "L_E_F_T")
    ]
    + [
        pattern
        for side in ("RIGHT", "LEFT")
        for pattern in (
            rf"\d{{7}}_\d{{8}}_SAG_3D_DESS_{side}_\d{{8}}_image\.nii\.gz",
            rf"\d{{7}}_\d{{8}}_SAG_3D_DESS_{side}_\d{{8}}_image\.nii",
            rf"\d{{7}}_\d{{8}}_SAG_3D_DESS_{side}_\d{{12}}\.nii\.gz",
        )
    ],
)
def test_every_spelling_of_the_real_sets_occurs(spelling, seed):
    names = [knee.file_name for knee in plan_knees(PhantomConfig(seed=seed))]
    assert any(re.fullmatch(spelling, name) for name in names)


def test_one_knee_was_scanned_as_3_100_and_101():
    names = [name_knee(0, visit_index, "left") for visit_index in range(3)]
    assert [parse_name(_path(PlannedKnee(0, 0, "left", name)))[0].visit for name in names] == ["3", "100", "101"]


def test_the_default_set_is_stored_in_several_orientations(tmp_path):
    config = PhantomConfig(shape=(8, 8, 8), spacing_mm=(16, 16, 16))
    stored = set()
    for knee in plan_knees(config)[:40]:
        write_knee(tmp_path, config, knee)
        stored.add(read_volume(tmp_path / knee.file_name).stored_axes)
    assert len(stored) >= 5


def test_a_set_that_was_interrupted_is_resumed_and_ends_with_the_same_bytes(made, tmp_path):
    make_phantom(tmp_path, TINY, num_workers=1)
    names = sorted(name for name in checksums(tmp_path) if ".nii" in name)
    # As a kill leaves it: started, not complete, a part of the files there.
    (tmp_path / "phantom.json").rename(tmp_path / "phantom.started.json")
    for name in names[3:]:
        (tmp_path / name).unlink()
    (tmp_path / f".{names[3]}.123.tmp").write_bytes(b"half a knee")
    kept = {name: (tmp_path / name).stat().st_ino for name in names[:3]}
    make_phantom(tmp_path, TINY, num_workers=1)
    assert {name: (tmp_path / name).stat().st_ino for name in names[:3]} == kept
    assert checksums(tmp_path) == checksums(made)


def test_the_record_is_there_only_when_all_knees_are(tmp_path):
    make_phantom(tmp_path, TINY, num_workers=1)
    (tmp_path / plan_knees(TINY)[-1].file_name).unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk: the small record can be written, a scan cannot.
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            make_phantom(tmp_path, TINY, num_workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    names = {path.name for path in tmp_path.iterdir()}
    assert "phantom.started.json" in names
    assert "phantom.json" not in names


def test_a_complete_set_is_left_alone(made):
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    make_phantom(made, TINY, num_workers=1)
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before


def test_another_config_replaces_the_knees(tmp_path):
    make_phantom(tmp_path, TINY, num_workers=1)
    fewer = dataclasses.replace(TINY, num_patients=1, seed=5)
    make_phantom(tmp_path, fewer, num_workers=1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {knee.file_name for knee in plan_knees(fewer)} | {"phantom.json"}


def test_synthetic_knees_are_never_put_among_other_files(tmp_path):
    (tmp_path / "OAI9000099_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz").write_bytes(b"a real knee")
    with pytest.raises(UserError, match=r"found 'OAI9000099.*RIGHT\.nii\.gz' and no phantom\.json"):
        make_phantom(tmp_path, TINY, num_workers=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_record_is_refused_by_name(tmp_path):
    (tmp_path / "phantom.json").write_text('["not", "a", "record"]')
    with pytest.raises(UserError, match=r"phantom\.json: not a record of synthetic knees"):
        make_phantom(tmp_path, TINY, num_workers=1)


def test_the_record_says_that_the_knees_are_synthetic(made):
    record = json.loads((made / "phantom.json").read_text())
    assert "synthetic" in record["note"]
    assert record["num_patients"] == 4
    assert record["num_knees"] == len(list(made.glob("*.nii*")))
    assert record["config"]["seed"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_patients", 0),
        ("max_visits", 4),
        ("seed", -1),
        ("shape", (72, 72, 4)),
        ("spacing_mm", (2.0, 0.0, 2.0)),
        ("noise", -0.1),
        ("warp_mm", -1.0),
    ],
)
def test_a_bad_option_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=rf"phantom\.{field}: found "):
        PhantomConfig(**{field: value})
