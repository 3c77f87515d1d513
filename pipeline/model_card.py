"""The questions of a model card: what a model is, what it was made from, what it is worth, what it is not for.

Source:
    Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, doi:10.1145/3287560.3287596.
"""

from pipeline.documents import Form, Question

MODEL_CARD = Form(
    title="Model card",
    introduction=(
        "What this run knows of its model, in the order of Mitchell et al. 2019 (doi:10.1145/3287560.3287596). What "
        "only the people behind it can say is marked as open."
    ),
    parts=(
        (
            "The model",
            (
                Question("Made by", (), "names, contact, date and licence."),
                Question("Task", ("task",)),
                Question("Network", ("model",)),
                Question("Weights", ("weights", "initialisation")),
                Question("Software", ("software",)),
            ),
        ),
        (
            "What it is for",
            (
                Question("Intended use", ("status",), "for what and by whom it may be used."),
                Question("Not for", ("not_for",), "further uses to be ruled out."),
            ),
        ),
        (
            "Groups and conditions",
            (
                Question("Conditions that may matter", ("acquisition",), "age, sex, disease, machine, site."),
                Question("Conditions that were looked at", ("robustness",)),
            ),
        ),
        (
            "Data",
            (
                Question("Source", ("source",), "sites, dates, consent."),
                Question("Labels", ("reference", "test_reference")),
                Question("Preprocessing", ("preprocessing",)),
                Question("Flow", ("flow",)),
                Question("Split", ("partition", "disjoint")),
                Question("Rows of each split", ("counts",)),
            ),
        ),
        ("Training", (Question("Training", ("training", "augmentation")), Question("Choice", ("choice", "ensemble")))),
        (
            "What it is worth",
            (
                Question("Measures", ("measures", "intervals")),
                Question("Results", ("results", "diagnostic")),
                Question("Beside baselines", ("baselines",)),
                Question("Failures", ("failures",)),
                Question("External data", ("external",), "a test elsewhere, or that there was none."),
            ),
        ),
        (
            "Care",
            (
                Question("Limits", ("limits",), "further limits."),
                Question("Persons in the data", ("identity",), "ethics approval, consent, data-use agreement."),
                Question("Harm by mistakes", (), "who is harmed by which mistake, and what is done against it."),
            ),
        ),
    ),
)
