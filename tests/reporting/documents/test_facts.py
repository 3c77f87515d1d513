import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from perceiver import PerceiverConfig
from perceiver.images import build_conv_stem
from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.config.sources import DataConfig, SplitConfig
from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES, POINTS, SCANS, VOLUMES, VOXEL_VOLUMES
from pipeline.models.networks import build_model
from pipeline.reporting.documents.data_facts import DataEvidence, describe_data
from pipeline.reporting.documents.facts import Evidence, describe_results, fill_documents, write_documents
from pipeline.reporting.documents.forms import read_form
from pipeline.reporting.documents.model_facts import describe_members, describe_model
from pipeline.reporting.evaluation.flow_diagram import Box, Flow, Step
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.history import EpochResult
from pipeline.training.seen_patients import START_PATIENTS, UNKNOWN
from tests.builders.certificates import build_certificate
from tests.builders.models import build_spec
from tests.builders.reports import build_metric, build_metrics

FLOW = Flow(
    (Step(Box("Files found", ("3 files",)), Box("Refused: 1 scan", ("1: truncated",))),),
    (Box("Test", ("2 patients",)),),
)
CERTIFICATE = build_certificate(unverified={"count": 4, "pairs": []})


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
        ("accepted", "left", "left", "0.5x0.5x3", "RAS", "1", ""),
        ("accepted", "left", "right", "0.4x0.5x3", "PIR", "2", ""),
        ("accepted", "right", "", "", "", "", ""),
        ("refused", "right", "left", "9x9x9", "RAS", "3", "train"),
    ]
    columns = ["status", "side", "side_by_position", "spacing_mm", "stored_axes", "visit", "published_split"]
    return pd.DataFrame(rows, columns=columns)


def describe(experiment=None, checkpoint=None, **changes) -> dict[str, str]:
    certificate = changes.get("certificate", CERTIFICATE)
    manifest = changes.get("manifest", build_manifest())
    data = DataEvidence(manifest, FLOW, certificate)
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
    assert "local contrast" not in facts["preprocessing"]
    local = build_checkpoint(model=dataclasses.replace(ModelConfig(), local_contrast=True))
    assert "the mean of 3 x 3 pixels minus that of 9 x 9" in describe(checkpoint=local)["preprocessing"]
    assert "passed; it lists 0 pairs of copies across splits, 0 accepted ones and 4 that look" in facts["disjoint"]
    assert "annotators" not in facts, "who annotated real scans is not in any file"


def test_a_failed_certificate_and_a_table_of_labels_are_reported():
    facts = describe(certificate=CERTIFICATE | {"passed": False})
    assert "did not pass" in facts["disjoint"]
    unsearched = describe(certificate=build_certificate(num_sources=0))["disjoint"]
    assert unsearched.endswith("The leak certificate passed; slices were compared bit for bit alone.")
    given = Experiment(
        data=DataConfig(label_table=Path("mine/labels.csv")), split=SplitConfig(split_table=Path("mine/parts.csv"))
    )
    assert describe(given)["reference"] == "Labels are those of the table labels.csv, column label."
    assert describe(given)["partition"] == "As given in the table parts.csv."
    folds = Experiment(split=SplitConfig(num_folds=5, test_fold=3))
    assert "5 folds: fold 3 is the test" in describe(folds)["partition"]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (("train", "test", "train"), "; 15 % of the published training patients for validation, drawn with seed 0"),
        (("train", "val", "train"), "; 15 % of the published training patients for the test, drawn with seed 0"),
        (("train", "val", "test"), "The published split of the table."),
    ],
)
def test_only_the_parts_that_a_published_split_lacks_are_said_to_be_drawn(parts, words):
    manifest = build_manifest()
    manifest.loc[:2, "published_split"] = parts
    experiment = Experiment(split=SplitConfig(val_fraction=0.15, test_fraction=0.15))
    partition = describe(experiment, manifest=manifest)["partition"]
    assert partition.startswith("The published split of the table")
    assert words in partition
    assert "the rest training" not in partition


def test_rows_that_the_options_leave_out_are_kept_apart_from_those_that_could_not_be_read():
    options = DataConfig(
        label_table=Path("t.csv"), merge={"4": None, "0": "none", "1": "none"}, split_values={"auto_test": None}
    )
    facts = describe(Experiment(data=options))
    assert "but those with the label 4 and of the published part auto_test that" in facts["selection"]
    assert "joined" in facts["reference"]


def test_labels_that_are_names_of_folders_are_not_said_to_be_sides():
    assert "side" not in describe(Experiment(data=DataConfig(dataset="labelled")))["reference"]


@pytest.mark.parametrize(("fit", "words"), [("pad", "whole"), ("crop", "lost"), ("stretch", "stretched")])
@pytest.mark.parametrize("kind", [VOLUMES, PATIENT_IMAGES], ids=["slices", "images"])
def test_the_fit_that_was_chosen_is_stated(fit, words, kind):
    checkpoint = build_checkpoint(spec=build_spec(kind=kind), preprocess=PreprocessConfig(fit=fit))
    manifest = build_manifest().assign(spacing_mm="" if kind is PATIENT_IMAGES else "1x1x1")
    assert words in describe(checkpoint=checkpoint, manifest=manifest)["preprocessing"]


def test_images_have_a_size_of_their_pixels_where_their_headers_give_one():
    checkpoint = build_checkpoint(spec=build_spec(kind=PATIENT_IMAGES))
    manifest = build_manifest().assign(spacing_mm=["0.2x0.3", "0.14x0.3", "", ""])
    assert describe(checkpoint=checkpoint, manifest=manifest)["acquisition"] == (
        "Pixel size in mm, of 2 of 3 images: height 0.14 to 0.2, width 0.3; 2 visits or dates."
    )


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


def test_a_card_of_an_ensemble_has_the_start_and_the_epoch_of_each_member_and_what_they_have_in_common_once():
    one = build_checkpoint()
    start = {"start": "9 of 9 tensors taken", "train.start_from": "checkpoint 12ab", START_PATIENTS: UNKNOWN}
    two = dataclasses.replace(one, epoch=1, settings=one.settings | start)
    assert describe_members([("a", one), ("b", one)]) == {}
    facts = describe_members([("a", one), ("b", two)])
    assert set(facts) == {"initialisation", "weights", "choice"}
    assert facts["initialisation"].startswith(
        "a: Initial weights drawn at random with seed 7; nothing was pre-trained."
    )
    assert " b: Initial weights of another model (checkpoint 12ab" in facts["initialisation"]
    assert "a: Epoch 2;" in facts["weights"]
    assert " b: Epoch 1;" in facts["weights"]
    wider = dataclasses.replace(one, model=dataclasses.replace(one.model, architecture="cnn"))
    networks = describe_members([("a", one), ("b", one), ("c", wider)])
    assert networks == {"other networks": " This is the network of a; others have c."}

    members = [{"name": name, "seed": 7, "test_fold": None, "epoch": 2} for name in "ab"]
    metrics = build_metrics() | {"ensemble": {"members": members, "not_fitted": ""}}
    data = DataEvidence(build_manifest(), FLOW, CERTIFICATE)
    card = fill_documents(Evidence(Experiment(), one, 5, data, metrics, [("a", one), ("b", two)]))["model_card"]
    assert "b: Initial weights of another model" in str(card)


def test_facts_about_the_model_are_those_of_the_checkpoint():
    facts = describe_model(build_checkpoint(), 1234)
    assert "seed 7;" in facts["initialisation"]
    assert facts["training"] == "Epochs 2; seed 7."
    assert "horizontal flips with left and right exchanged." in facts["augmentation"]
    assert "1,234 parameters" in facts["model"]
    assert facts["ensemble"].startswith("None")
    averaged = build_checkpoint(model=dataclasses.replace(ModelConfig(), mirror_tta=True))
    assert "mirror image" in describe_model(averaged, 5)["ensemble"]


# Of each option that changes the network a value that is not the default; what else it needs to have an effect.
OTHER_VALUES = {
    "num_latents": 17, "latent_dim": 24, "num_cross_attends": 3, "self_attends_per_cross": 5, "cross_heads": 6,
    "cross_head_dim": 48, "latent_heads": 7, "latent_head_dim": 9, "activation": "gelu", "feedforward_widening": 4,
    "weight_sharing": "all_but_first", "pooling": "cls", "positions": "none", "num_bands": 11, "max_freq": (9.0, 9.0),
    "dropout": 0.3, "attention_dropout": 0.2, "latent_init_std": 0.5, "query_init_gain": 8.0,
    "decoder_heads": 3, "decoder_head_dim": 13, "decoder_dim": 40,
    "decoder_residual": False, "learned_position_dim": 19, "learned_position_init_std": 0.7,
}  # fmt: skip
NEEDED = {
    "decoder_heads": {"pooling": "query"},
    "decoder_head_dim": {"pooling": "query"},
    "decoder_dim": {"pooling": "query", "decoder_residual": False},
    "decoder_residual": {"pooling": "query"},
    "learned_position_dim": {"positions": "learned"},
    "learned_position_init_std": {"positions": "learned"},
}
# These follow from the data, or change the memory and the time only.
UNTOLD = {"input_channels", "axis_sizes", "num_classes", "gradient_checkpointing"}


def describe_network(kind=VOLUMES, **options) -> str:
    spec = build_spec(kind=kind, image_size=(64, 64))
    return describe_model(build_checkpoint(model=ModelConfig(**options), spec=spec), 5)["model"]


def test_the_model_card_names_every_option_that_changes_the_network():
    assert {field.name for field in dataclasses.fields(PerceiverConfig)} == OTHER_VALUES.keys() | UNTOLD
    for name, value in OTHER_VALUES.items():
        plain = PerceiverConfig(**NEEDED.get(name, {}))
        changed = dataclasses.replace(plain, **{name: value})
        assert describe_network(perceiver=changed) != describe_network(perceiver=plain), name


def test_the_stem_is_the_one_that_is_built():
    text = describe_network(num_conv_layers=3, conv_channels=20)
    stem = build_conv_stem(1, 3, 20)
    assert [layer.out_channels for layer in stem if isinstance(layer, nn.Conv2d)] == [5, 10, 20]
    assert {layer.stride for layer in stem if isinstance(layer, nn.Conv2d)} == {(1, 1)}
    assert "3 layers of 5, 10, 20 channels come first, each a 3 x 3 convolution of stride 1, 2 x 2 max pooling" in text
    blocks = ", then 2 residual blocks of two such convolutions;"
    assert blocks not in text
    assert blocks in describe_network(num_residual_blocks=2)
    assert "third axis" in describe_network(slice_position=True)
    assert "(seed 8)" in describe_network(pixel_permutation_seed=8)
    assert "square of 6 x 6 pixels" in describe_network(stem="patches", patch_size=6)


def test_a_point_is_the_input_of_a_model_of_point_clouds():
    assert describe_network(kind=POINTS).endswith("Each point is an input. 5 parameters.")
    assert "Each of 100 points" in describe_network(kind=POINTS, num_points=100)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (SCANS, "in millimetres from the centre of the volume over half the field of view of 35 mm"),
        (VOXEL_VOLUMES, "in voxels from the centre of the volume over half the field of view of 35 voxels"),
    ],
)
def test_the_field_of_view_has_the_unit_that_places_have(kind, words):
    spec = dataclasses.replace(build_spec(kind=kind, image_size=(64, 64)), field_of_view_mm=35.0)
    assert words in describe_model(build_checkpoint(spec=spec), 5)["model"]


def test_the_convolutional_network_of_whole_scans_is_the_one_that_is_built():
    plain = CnnConfig(blocks="plain", channels=(4, 8))
    text = describe_network(kind=SCANS, architecture="cnn", cnn=plain)
    assert "stages of 4, 8 channels, each a 3 x 3 x 3 convolution, group normalisation, ReLU and 2 x 2 x 2" in text
    spec = build_spec(kind=SCANS, image_size=(64, 64))
    model = build_model(ModelConfig(architecture="cnn", cnn=plain), spec, 0)
    kinds = {nn.Conv3d: [], nn.GroupNorm: [], nn.MaxPool3d: [], nn.BatchNorm3d: []}
    for layer in model.modules():
        kinds.get(type(layer), []).append(layer)
    assert [layer.kernel_size for layer in kinds[nn.Conv3d]] == [(3, 3, 3)] * 2
    assert [len(found) for found in kinds.values()] == [2, 2, 2, 0]
    residual = describe_network(kind=SCANS, architecture="cnn", cnn=CnnConfig(blocks="residual"))
    assert "MONAI's ResNet in 3 dimensions with group normalisation" in residual
    pooled = describe_network(kind=SCANS, architecture="cnn", slices="mean", cnn=plain)
    assert "each a 3 x 3 convolution, batch normalisation" in pooled


def test_the_convolutional_network_is_the_one_that_is_built():
    plain = CnnConfig(blocks="plain", channels=(4, 8))
    assert "stages of 4, 8 channels, each a 3 x 3 convolution" in describe_network(architecture="cnn", cnn=plain)
    layers = build_model(ModelConfig(architecture="cnn", cnn=plain), build_spec(image_size=(64, 64)), 0).modules()
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size, layer.stride) for layer in convolutions] == [
        (4, (3, 3), (1, 1)),
        (8, (3, 3), (1, 1)),
    ]


def test_mistakes_and_intervals_are_counted_from_the_metrics():
    metrics = build_metrics()
    metrics["levels"]["slice"]["confusion"] = [[400, 80], [1, 479]]
    facts = describe_results(metrics, VOLUMES, 500, 3)
    assert facts["failures"].startswith("81 of 960 slices were predicted wrongly")
    assert "500 bootstrap resamples (seed 3), where patients are enough" in facts["intervals"]
    assert facts["test_size"].startswith("960 slices of 20 patients")
    assert "positive class right: Sensitivity 0.500 (95\u00a0% interval 0.250 to 0.750)" in facts["diagnostic"]


def test_the_diagnostic_performance_of_levels_that_are_the_same_is_given_once():
    metrics = build_metrics(("slice", "volume", "patient"))
    assert describe_results(metrics, VOLUMES, 500, 3)["diagnostic"].count("positive class") == 3
    metrics["levels"]["patient"]["n"] = metrics["levels"]["volume"]["n"]  # each patient has one scan
    diagnostic = describe_results(metrics, VOLUMES, 500, 3)["diagnostic"]
    assert diagnostic.count("positive class") == 2
    assert "Patients" not in diagnostic


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


def test_failures_name_patients_mistakes_and_the_subgroup_with_the_lowest_accuracy():
    metrics = build_metrics(("slice",))
    metrics["levels"]["slice"] |= {"confusion": [[400, 80], [1, 479]], "groups_with_errors": 6}
    visits = [("1", 20, build_metric(0.9, 0.8, 0.95)), ("2", 1, build_metric(0.4))]
    metrics["probes"] = {
        "visit": [{"visit": name, "n": 40, "groups": n, "accuracy": found} for name, n, found in visits]
    }
    facts = describe_results(metrics, VOLUMES, 2000, 0)
    assert facts["failures"].startswith("81 of 960 slices were predicted wrongly, of 6 of 20 patients;")
    assert "Most often mistaken: left for right (80), right for left (1)." in facts["failures"]
    assert (
        facts["failures"]
        .replace("\u00a0", " ")
        .endswith("The lowest accuracy by visit is 40.0 %, in 2 (40 slices of 1 patient).")
    )
    assert facts["robustness"] == "Accuracy by visit (2): 40.0% to 90.0%."
    assert "Not evaluated: differences by age (no age is known)." in facts["limits"]
    metrics["probes"] = {"visit": metrics["probes"]["visit"][:1]}
    facts = describe_results(metrics, VOLUMES, 2000, 0)
    assert "lowest" not in facts["failures"], "one subgroup is no comparison"
    assert facts["robustness"] == "No condition of acquisition was compared."
