"""The questions of CLAIM, the check-list for studies of artificial intelligence in medical imaging.

Topics are told in this project's words under the numbers of the 2024 update; what each asks for in full is there.

Source:
    Tejani et al., "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update", Radiology:
    Artificial Intelligence 6(4), 2024, doi:10.1148/ryai.240300.
"""

from pipeline.documents import Form, Question

CHECKLIST = Form(
    title="CLAIM check-list (2024 update)",
    introduction=(
        "The items of Tejani et al., Radiology: Artificial Intelligence 2024, doi:10.1148/ryai.240300, in short words, "
        "with what this run knows of each. Statements on the study as a whole belong to its authors and are marked."
    ),
    parts=(
        (
            "Title and abstract",
            (
                Question("Kind of method named in the title or abstract", ("method",), "the title.", "1"),
                Question("Summary of design, methods, results, conclusions", (), "the abstract.", "2"),
            ),
        ),
        (
            "Introduction",
            (
                Question("Background, and the part that the method shall play", (), "both.", "3"),
                Question("Aims and hypotheses", ("task",), "the aims and hypotheses of the study.", "4"),
            ),
        ),
        (
            "Methods: design",
            (
                Question("Prospective or retrospective", (), "which of the two.", "5"),
                Question("What the study is for", (), "its goal, such as feasibility or development.", "6"),
            ),
        ),
        (
            "Methods: data",
            (
                Question("Where the data come from", ("source",), "sites, dates, ethics approval and consent.", "7"),
                Question("Who was taken in, who was left out", ("refused",), "the clinical criteria.", "8"),
                Question("Preprocessing", ("preprocessing",), "", "9"),
                Question("Choice of parts of the data", ("selection",), "", "10"),
                Question("De-identification", ("identity",), "how the files were de-identified.", "11"),
                Question("Missing data", ("missing",), "", "12"),
                Question("Acquisition", ("acquisition",), "scanner, coil, sequence and their settings.", "13"),
            ),
        ),
        (
            "Methods: reference standard",
            (
                Question("How the reference was obtained", ("reference",), "how labels came about originally.", "14"),
                Question("Why this reference", (), "the reasons, and what else there was.", "15"),
                Question("Who annotated", ("annotators",), "the annotators and their experience.", "16"),
                Question("Annotation of the test rows", ("test_reference",), "", "17"),
                Question("Agreement between and within readers", (), "agreement, or that one reading was made.", "18"),
            ),
        ),
        (
            "Methods: partitions",
            (
                Question("How rows were assigned", ("partition",), "", "19"),
                Question("The level at which partitions are disjoint", ("disjoint",), "", "20"),
                Question("Intended number of test cases", ("test_size",), "the number planned, and why.", "21"),
            ),
        ),
        (
            "Methods: model",
            (
                Question("The model", ("model",), "", "22"),
                Question("Software", ("software",), "", "23"),
                Question("First weights", ("initialisation",), "", "24"),
            ),
        ),
        (
            "Methods: training",
            (
                Question("Training", ("training", "augmentation"), "", "25"),
                Question("Choice of the final model", ("choice",), "how options were chosen before this run.", "26"),
                Question("Ensembles", ("ensemble",), "", "27"),
            ),
        ),
        (
            "Methods: evaluation",
            (
                Question("Measures", ("measures",), "", "28"),
                Question("Uncertainty and significance", ("intervals",), "", "29"),
                Question("Robustness", ("robustness",), "", "30"),
                Question("Explanations", ("explanation",), "", "31"),
                Question("Test on internal data", ("internal",), "", "32"),
                Question("Test on external data", ("external",), "a test elsewhere, or that there was none.", "33"),
                Question("Registration of a trial", (), "the registration, or that it does not apply.", "34"),
            ),
        ),
        (
            "Results: data",
            (
                Question("How many were included and left out", ("flow",), "", "35"),
                Question("Who is in each partition", ("counts",), "age, sex and disease in each partition.", "36"),
            ),
        ),
        (
            "Results: performance",
            (
                Question("Measures with their uncertainty", ("results",), "", "37"),
                Question("Diagnostic performance and its precision", ("diagnostic",), "", "38"),
                Question("Failures", ("failures",), "what the mistakes have in common.", "39"),
            ),
        ),
        (
            "Discussion",
            (
                Question("Limits", ("limits",), "limits of the study.", "40"),
                Question("What it means for practice", (), "the intended use and part in care.", "41"),
            ),
        ),
        (
            "Other",
            (
                Question("Protocol and further details", ("details",), "the study's protocol.", "42"),
                Question("Availability of software, model, data", ("availability",), "where each can be had.", "43"),
                Question("Funding and the part of the funders", (), "both.", "44"),
            ),
        ),
    ),
)
