from pipeline.core.data_kinds import PATIENT_IMAGES
from pipeline.reporting.evaluation.grade_section import build_grade_section
from tests.builders.reports import build_metric, build_metrics


def build_grade_scores(kappa):
    return {
        "quadratic_kappa": kappa,
        "linear_kappa": build_metric(0.5),
        "mae": build_metric(0.4, 0.3, 0.5),
        "within_one": build_metric(0.9, 0.85, 0.95),
    }


def test_classes_without_an_order_have_no_section():
    assert build_grade_section(build_metrics(), PATIENT_IMAGES) == []


def test_a_section_has_the_model_its_cut_points_and_the_baselines_with_intervals_and_reasons():
    level = {
        "scores": build_grade_scores(build_metric(0.7, 0.6, 0.8)),
        "cut_points": [0.4, 1.5],
        "fitted_on": {"num_rows": 12, "num_groups": 1},
        "with_cut_points": build_grade_scores(build_metric(0.75, 0.65, 0.85)),
    }
    patient = level | {"cut_points": None, "with_cut_points": None}
    volume = patient | {"fitted_on": {"num_rows": 0, "num_groups": 0}}
    metrics = build_metrics(("slice", "volume", "patient")) | {
        "class_names": ["0", "1", "2"],
        "grades": {
            "levels": {"slice": level, "volume": volume, "patient": patient},
            "baselines": {"majority": level["scores"]},
        },
    }
    (section,) = build_grade_section(metrics, PATIENT_IMAGES)
    assert "from 0 to 2: the quadratic weighted kappa of the slices is 0.700" in section.sentences[0]
    slices, volumes, patients = section.tables
    assert [row[:2] for row in slices.rows] == [
        ("Most probable grade", "0.700 (0.600 to 0.800)"),
        ("Cut points on the expected grade", "0.750 (0.650 to 0.850)"),
        ("Most frequent class", "0.700 (0.600 to 0.800)"),
    ]
    assert "0.400, 1.500 have the largest" in slices.note
    assert "12 validation rows of 1 patient; nothing else" in slices.note
    assert "rows of one patient only" in slices.note
    assert len(patients.rows) == 1
    assert "one grade only" in patients.note
    assert "no validation rows were scored at this level" in volumes.note
