"""AKOA and other knees of the Osteoarthritis Initiative: patient, visit and side from file names.

Every spelling below was seen in the real sets. The side is spelled in several
ways; a comparison with ``RIGHT`` alone would mislabel or lose a knee in ten.
"""

import re
from pathlib import Path

from pipeline.data.sources import Source

# OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_RIGHT.nii.gz, and with _0.png after it for a slice;
# also 3de3d1, visits such as 101, and Right, R_I_G_H_T, Left, L_E_F_T.
AKOA_NAME = re.compile(
    r"OAI(?P<patient>[0-9]{7})_BaseLine_(?P<visit>[0-9]+)(?P<gap>_?)de3d1_SAG_3D_DESS_WE_"
    r"(?P<side>R_?I_?G_?H_?T|L_?E_?F_?T)\.(?:nii|hdr)(?:\.gz)?(?:_(?P<slice>[0-9]+)\.png)?",
    re.IGNORECASE,
)
# 9000099_20050712_SAG_3D_DESS_LEFT_10424405_image.nii.gz: the visit is a date, a bar code names the scan.
EXPORT_NAME = re.compile(
    r"(?P<patient>[0-9]{7})_(?P<visit>[0-9]{8})_SAG_3D_DESS_(?P<side>R_?I_?G_?H_?T|L_?E_?F_?T)_(?P<barcode>[0-9]+)"
    r"(?:[_.][\w.\-]*?)??\.(?:nii|hdr)(?:\.gz)?(?:_(?P<slice>[0-9]+)\.png)?",
    re.IGNORECASE,
)


def parse_name(path: Path) -> tuple[Source, int]:
    """Read patient, visit and side from a file's name.

    Args:
        path: A NIfTI file, or an image that was sliced from one (``..._RIGHT.nii.gz_0.png``).

    Returns:
        The scan, labelled ``left`` or ``right``, and the slice index, -1 for a volume.

    Raises:
        ValueError: the name has neither of the two forms.
    """
    match = AKOA_NAME.fullmatch(path.name)
    if match:
        spelling = f"OAI<patient>_BaseLine_<visit>{match['gap']}de3d1_…_{match['side']}"
        scan = match["visit"]
    else:
        match = EXPORT_NAME.fullmatch(path.name)
        if not match:
            raise ValueError(
                "the name holds neither patient nor side. Known forms: "
                "OAI<7 digits>_BaseLine_<visit>_de3d1_SAG_3D_DESS_WE_<RIGHT|LEFT>.nii.gz and "
                "<7 digits>_<date>_SAG_3D_DESS_<RIGHT|LEFT>_<bar code>.nii.gz. "
                "Rename it, or give a table with --data.label_table."
            )
        spelling = f"<patient>_<date>_SAG_3D_DESS_{match['side']}_<bar code>"
        scan = f"{match['visit']}_{match['barcode']}"
    side = "right" if match["side"].upper().startswith("R") else "left"
    source = Source(
        source_id=f"{match['patient']}_{scan}_{side}",
        group_id=match["patient"],
        label=side,
        paths=(path,),
        visit=match["visit"],
        side=side,
        spelling=spelling,
    )
    return source, int(match["slice"]) if match["slice"] is not None else -1
