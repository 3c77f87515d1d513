"""Every spelling of the real sets is read, and a name without patient or side is an error."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.datasets.akoa import parse_name

AKOA = "OAI{patient}_BaseLine_{visit}de3d1_SAG_3D_DESS_WE_{side}.nii.gz"


@pytest.mark.parametrize(
    ("name", "patient", "visit", "side", "slice_index"),
    [
        ("OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz_0.png", "9014797", "3", "right", 0),
        ("OAI9896743_BaseLine_3de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz_12.png", "9896743", "3", "right", 12),
        ("OAI9961728_BaseLine_101de3d1_SAG_3D_DESS_WE_LEFT.nii.gz_4.png", "9961728", "101", "left", 4),
        ("OAI9961728_BaseLine_100_de3d1_SAG_3D_DESS_WE_Left.nii.gz", "9961728", "100", "left", -1),
        ("OAI9961728_BaseLine_3_de3d1_SAG_3D_DESS_WE_R_I_G_H_T.nii", "9961728", "3", "right", -1),
        ("OAI9961728_BaseLine_3_de3d1_SAG_3D_DESS_WE_L_E_F_T.hdr", "9961728", "3", "left", -1),
        ("9000099_20050712_SAG_3D_DESS_LEFT_10424405_image.nii.gz", "9000099", "20050712", "left", -1),
        ("9908796_20041112_SAG_3D_DESS_LEFT_016610076606.nii.gz", "9908796", "20041112", "left", -1),
        ("9003406_20041118_SAG_3D_DESS_RIGHT_0166_label_all.Label1.sliced.nii.gz", "9003406", "20041118", "right", -1),
    ],
)
def test_every_spelling_is_read(name, patient, visit, side, slice_index):
    source, found_slice = parse_name(Path("folder") / name)
    assert (source.group_id, source.visit, source.side, source.label) == (patient, visit, side, side)
    assert found_slice == slice_index


def test_slices_and_volume_of_a_scan_have_one_source():
    volume, _ = parse_name(Path(AKOA.format(patient="9014797", visit="3_", side="RIGHT")))
    image, _ = parse_name(Path(AKOA.format(patient="9014797", visit="3", side="R_I_G_H_T") + "_7.png"))
    assert volume.source_id == image.source_id


def test_visits_and_sides_and_bar_codes_are_different_sources():
    names = [
        AKOA.format(patient="9961728", visit=visit, side=side)
        for visit in ("3_", "100", "101")
        for side in ("LEFT", "Right")
    ]
    names += [f"9000099_20050712_SAG_3D_DESS_LEFT_{code}.nii.gz" for code in (1, 2)]
    assert len({parse_name(Path(name))[0].source_id for name in names}) == len(names)


def test_the_full_list_has_its_published_counts():
    """AKOA: 467 volumes of 40 slices, right 10,920; a token compare finds 9,640 and a suffix compare 10,560."""
    spellings = {"RIGHT.nii": 232, "Right.nii": 9, "R_I_G_H_T.nii": 32, "LEFT.nii": 194}
    sides: Counter[str] = Counter()
    for side, num_volumes in spellings.items():
        for volume in range(num_volumes):
            for slice_index in (0, 39):
                name = f"OAI9{volume:06d}_BaseLine_3_de3d1_SAG_3D_DESS_WE_{side}.gz_{slice_index}.png"
                sides[parse_name(Path(name))[0].side] += 20
    assert sides == {"right": 10_920, "left": 7_760}


@pytest.mark.parametrize(
    "name",
    [
        "knee.nii.gz",
        "OAI901479_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz",  # six digits
        "OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_UPRIGHT.nii.gz",
        "OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_.nii.gz",
        "OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz_x.png",
        "XOAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz",
        "9000099_2005_SAG_3D_DESS_LEFT_10424405_image.nii.gz",  # no date
    ],
)
def test_a_name_that_tells_nothing_is_an_error(name):
    with pytest.raises(ValueError, match="neither patient nor side"):
        parse_name(Path(name))
