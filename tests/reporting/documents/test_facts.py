import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config.data import DataConfig, PreprocessConfig, SplitConfig
from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.core.data_kinds import IMAGES, VOLUMES
from pipeline.reporting.documents.data_facts import DataEvidence, describe_data
from pipeline.reporting.documents.facts import Evidence, describe_results, fill_documents, write_documents
from pipeline.reporting.documents.forms import read_form
from pipeline.reporting.documents.model_facts import describe_model
from pipeline.reporting.evaluation.flow_diagram import Box, Flow, Step
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.history import EpochResult
from tests.builders.models import build_spec
from tests.builders.reports import build_metrics

FLOW = Flow(
    (Step(Box("Files found", ("3 files",)), Box("Refused: 1 scan", ("1: truncated",))),),
    (Box("Test", ("2 patients",)),),
)
CERTIFICATE = {"passed": True, "near_identical_images": {"count": 4}}


def build_epoch(epoch: int, loss: float) -> EpochResult:
    return EpochResult(epoch, loss, 0.5, loss, 0.5, 1e-3, 1.0, 1.0)


def build_checkpoint(**changes) -> Checkpoint:
    facts = {
        "model": ModelConfig(),
        "spec": build_spec(image_size=(64, 64)),
        "preprocess": PreprocessConfig(),
        "mean": (0.25,),
        "std": (0.125,),
        "store_fingerprint": "s",
        "split_fingerprint": "p",
        "settings": {
            "train.seed": 7,
            "train.epochs": 2,
            "train.monitor": "val_loss",
            "augment.horizontal_flip": "swap_label",
        },
        "versions": {"torch": "2.13.0"},
        "commit": "abc",
        "epoch": 2,
        "history": (build_epoch(1, 0.5), build_epoch(2, 0.25)),
        "tracking_run": "",
        "weights": {},
    }
    return Checkpoint(**(facts | changes))


def build_manifest() -> pd.DataFrame:
    rows = [
        ("accepted", "left", "left", "0.5x0.5x3", "RAS", "1"),
        ("accepted", "left", "right", "0.4x0.5x3", "PIR", "2"),
        ("accepted", "right", "", "", "", ""),
        ("refused", "right", "left", "9x9x9", "RAS", "3"),
    ]
    columns = ["status", "side", "side_by_position", "spacing_mm", "stored_axes", "visit"]
    return pd.DataFrame(rows, columns=columns)


def describe(experiment=None, checkpoint=None, **changes) -> dict[str, str]:
    certificate = changes.get("certificate", CERTIFICATE)
    data = DataEvidence(build_manifest(), FLOW, certificate)
    return describe_data(experiment or Experiment(), checkpoint or build_checkpoint(), data)


def test_facts_about_the_data_are_those_of_the_files():
    facts = describe()
    assert "For 2 scans" in facts["reference"]
    assert "disagrees for 1." in facts["reference"]
    assert facts["acquisition"] == (
        "Voxel size in mm: right 0.4 to 0.5, anterior 0.5, superior 3; 2 orders of the stored axes; 2 visits or dates."
    )
    assert facts["refused"] == "Left out by the pipeline: Refused: 1 scan (1: truncated)."
    assert "40 axial slices" in facts["preprocessing"]
    assert "minus 0.2500, divided by 0.1250" in facts["preprocessing"]
    assert "passed; it lists 4 near-duplicate" in facts["disjoint"]
    assert "annotators" not in facts, "who annotated real scans is not in any file"


def test_a_failed_certificate_and_a_table_of_labels_are_reported():
    facts = describe(certificate=CERTIFICATE | {"passed": False})
    assert "did not pass" in facts["disjoint"]
    given = Experiment(
        data=DataConfig(label_table=Path("mine/labels.csv")), split=SplitConfig(split_table=Path("mine/parts.csv"))
    )
    assert describe(given)["reference"] == "Labels are those of the table labels.csv."
    assert describe(given)["partition"] == "As given in the table parts.csv."
    folds = Experiment(split=SplitConfig(num_folds=5, test_fold=3))
    assert "5 folds: fold 3 is the test" in describe(folds)["partition"]


def test_a_published_set_has_no_patients_and_no_checklist():
    experiment = Experiment(name="digits", data=DataConfig(dataset="mnist"))
    checkpoint = build_checkpoint(spec=build_spec(kind=IMAGES, image_size=(28, 28)))
    facts = describe(experiment, checkpoint)
    assert facts["reference"] == "Labels are the publisher's."
    assert "patient" not in " ".join(text for name, text in facts.items() if name != "counts").lower()
    metrics = build_metrics(("slice",)) | {"levels": {"image": build_metrics()["levels"]["slice"]}}
    data = DataEvidence(build_manifest(), FLOW, CERTIFICATE)
    documents = fill_documents(Evidence(experiment, checkpoint, 5, data, metrics))
    assert list(documents) == ["model_card"]
    assert "diagnosis" not in str(documents)


def test_weights_that_the_user_named_are_not_called_the_best():
    assert "Epoch 2, the best by validation loss;" in describe_model(build_checkpoint(), 5)["choice"]
    worse = build_checkpoint(history=(build_epoch(1, 0.25), build_epoch(2, 0.5)))
    assert "Epoch 2, as named by the user;" in describe_model(worse, 5)["choice"]


def test_facts_about_the_model_are_those_of_the_checkpoint():
    facts = describe_model(build_checkpoint(), 1234)
    assert "seed 7;" in facts["initialisation"]
    assert facts["training"] == "Epochs 2; seed 7."
    assert "horizontal flips with left and right exchanged." in facts["augmentation"]
    assert "1,234 parameters" in facts["model"]
    assert facts["ensemble"].startswith("None")
    averaged = build_checkpoint(model=dataclasses.replace(ModelConfig(), mirror_tta=True))
    assert "mirror image" in describe_model(averaged, 5)["ensemble"]


def test_mistakes_and_intervals_are_counted_from_the_metrics():
    metrics = build_metrics()
    metrics["levels"]["slice"]["confusion"] = [[400, 80], [1, 479]]
    facts = describe_results(metrics, VOLUMES, 500, 3)
    assert facts["failures"].startswith("81 of 960 slices were predicted wrongly")
    assert "whole patients are drawn 500 times (seed 3)" in facts["intervals"]
    assert facts["test_size"].startswith("960 slices of 20 patients")
    assert "positive class right: Sensitivity 0.500 (95 % interval 0.250 to 0.750)" in facts["diagnostic"]


@pytest.mark.parametrize("name", ["model_card", "claim_checklist"])
def test_forms_ask_for_facts_that_exist(name):
    """A key that no function writes, such as a misspelt one, would leave its entry open for ever."""
    facts = describe() | describe_model(build_checkpoint(), 5)
    facts |= describe_results(build_metrics(), VOLUMES, 500, 3)
    never_known = {"annotators", "external"}
    with_options = {"flow", "explanation", "robustness"}
    asked = {key for part in read_form(name).parts for question in part.questions for key in question.facts}
    assert asked - facts.keys() <= never_known | with_options


def test_forms_are_written_to_the_report_folder(tmp_path):
    data = DataEvidence(build_manifest(), FLOW, CERTIFICATE)
    evidence = Evidence(Experiment(), build_checkpoint(), 5, data, build_metrics())
    write_documents(tmp_path, fill_documents(evidence, section_titles=("By visit",)))
    card, claim = ((tmp_path / f"{name}.md").read_text() for name in ("model_card", "claim_checklist"))
    assert "in this report: By visit." in card
    assert "in this report: By visit." in claim
    assert "Cross-attention by layer and head" not in claim, "no attention was drawn"
