"""The MONAI bundle runs where this project is not, and gives predict's own numbers."""

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.cli import main
from pipeline.config.data import PreprocessConfig
from pipeline.config.parsing import read_experiment
from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES
from pipeline.core.errors import UserError
from pipeline.export import mlflow_model, monai_bundle
from pipeline.export.bundle_inference import score_files
from pipeline.export.monai_bundle import OWN_IMPORT, describe_metadata, find_modules, write_bundle
from pipeline.inference.probabilities import score_stack
from pipeline.models.classifier import ProbabilityModel
from pipeline.preprocessing.slicing import read_stack
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint, write_checkpoint
from tests.builders.checkpoints import make_checkpoint, make_scan_checkpoint
from tests.builders.dicom import write_radiograph, write_series
from tests.builders.isolation import BLOCKED
from tests.builders.odd_files import write_contradictions, write_grey_modes, write_units
from tests.builders.scan_models import CHOICES, CNN_CHOICES

# What MONAI's schema of 25 July 2024 asks for, in the form that its own check reads. The schema itself lies on a
# server; PERCEIVER_MONAI_SCHEMA names a copy, and then that is taken.
TENSOR = {"type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str, "value_range": list}
TEXTS = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
JSON_TYPES = {str: "string", int: "integer", list: "array"}


def write_schema(path):
    tensor = {
        "type": "object",
        "required": list(TENSOR),
        "properties": {name: {"type": JSON_TYPES[kind]} for name, kind in TENSOR.items()},
    }
    side = {"type": "object", "minProperties": 1, "additionalProperties": tensor}
    texts = {name: {"type": "string"} for name in (*TEXTS, "copyright")}
    formats = {"type": "object", "required": ["inputs", "outputs"], "properties": {"inputs": side, "outputs": side}}
    content = {
        "type": "object",
        "required": [*texts, "required_packages_version", "network_data_format"],
        "properties": texts | {"required_packages_version": {"type": "object"}, "network_data_format": formats},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def checkpoint(tiny_workspace):
    return read_checkpoint(tiny_workspace / "runs" / "tiny" / "best.safetensors")


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "knees"
    write_bundle(folder, checkpoint, "tiny")
    return folder


@pytest.fixture
def bundle_path(monkeypatch):
    """Take the bundle's code from its folder, and forget it after the test: each bundle calls its code ``scripts``."""

    def use(folder):
        monkeypatch.syspath_prepend(str(folder))

    yield use
    for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
        del sys.modules[name]


@pytest.mark.parametrize("is_apart", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "apart"])
def test_a_bundle_gives_the_numbers_of_predict(is_apart, bundle, bundle_path, tiny_workspace, tmp_path):
    """In a process of its own, which starts for seconds, this project cannot be imported."""
    raw = tmp_path / "scans"
    raw.mkdir()
    for path in sorted((tiny_workspace / "data" / "tiny" / "raw").glob("*.nii.gz"))[:3]:
        shutil.copy(path, raw / path.name)
    voxels = np.random.default_rng(0).integers(0, 1000, (24, 24, 20)).astype(np.int16)
    write_units(raw, voxels)
    shutil.make_archive(str(raw / "packed"), "gztar", write_series(tmp_path / "packed", voxels))
    write_series(raw / "series", voxels)
    words = ("--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace))
    assert main(["predict", str(raw), *words, "--predict.output", str(tmp_path / "new.csv")]) == 0
    expected = pd.read_csv(tmp_path / "new.csv").set_index("path")
    options = {"config_file": str(bundle / "configs" / "inference.json"), "bundle_root": str(bundle)}
    options |= {"dataset_dir": str(raw), "output": str(tmp_path / "probabilities.json")}
    if is_apart:
        code = f"{BLOCKED}\nfrom monai.bundle import run\nrun(**{options!r})"
        command = [sys.executable, "-I", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        from monai.bundle import run

        bundle_path(bundle)
        run(**options)
    rows = json.loads((tmp_path / "probabilities.json").read_text())
    assert [row["path"] for row in rows] == list(expected.index)
    for row in rows:
        wanted = expected.loc[row["path"]]
        assert (row["predicted"], row["num_slices"]) == (wanted["predicted"], wanted["num_slices"])
        # The same lines on the same machine: equal to the last digit, but for how a CSV is read back.
        assert row["probabilities"]["left"] == pytest.approx(wanted["probability_left"], abs=1e-12)


@pytest.mark.parametrize("name", ["joint", "cnn", "plain"])
def test_a_bundle_of_whole_scans_answers_for_any_number_of_slices(name, bundle_path, write_knee, tmp_path):
    """Also for a scan of one slice; one that reaches beyond the field of view is refused by name, as every bad file."""
    from monai.bundle import run

    checkpoint = make_scan_checkpoint(dataclasses.replace((CHOICES | CNN_CHOICES)[name], mirror_tta=name == "joint"))
    if name == "joint":  # whose mirror image is another one for it
        checkpoint = dataclasses.replace(checkpoint, spec=dataclasses.replace(checkpoint.spec, is_sagittal=True))
    write_bundle(tmp_path / "bundle", checkpoint, "scans")
    shapes = {"a.nii.gz": (12, 14, 16), "b.nii.gz": (12, 14, 3), "c.nii.gz": (12, 14, 1)}
    paths = [write_knee(tmp_path / "scans" / file, shape=shape) for file, shape in shapes.items()]
    classifier = build_from_checkpoint(checkpoint)
    expected = []
    for path in paths:
        stack, _ = read_stack((path,), checkpoint.preprocess)
        expected.append(score_stack(classifier, stack, checkpoint.spec, torch.device("cpu"), 256))
    bundle_path(tmp_path / "bundle")
    options = {"config_file": str(tmp_path / "bundle" / "configs" / "inference.json")}
    options |= {"bundle_root": str(tmp_path / "bundle"), "dataset_dir": str(tmp_path / "scans")}
    run(**options, output=str(tmp_path / "probabilities.json"))
    rows = json.loads((tmp_path / "probabilities.json").read_text())
    assert [row["num_slices"] for row in rows] == [5, 3, 1]
    for row, wanted in zip(rows, expected, strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(wanted.tolist(), abs=1e-12)
    assert len({row["probabilities"]["left"] for row in rows}) == 3
    write_knee(tmp_path / "scans" / "d.nii.gz", spacing_mm=(40.0, 40.0, 40.0))
    with pytest.raises(RuntimeError) as caught:
        run(**options, output=str(tmp_path / "probabilities.json"))
    assert "d.nii.gz: takes 520 mm along an axis, and the model's field of view is 100 mm" in str(
        caught.value.__cause__
    )


def test_a_bundle_refuses_what_contradicts_itself(bundle_path, tmp_path):
    from monai.bundle import run

    write_bundle(tmp_path / "bundle", make_checkpoint(), "knees")
    bundle_path(tmp_path / "bundle")
    voxels = np.random.default_rng(0).integers(0, 1000, (12, 10, 8)).astype(np.int16)
    mirrored, gap = write_contradictions(tmp_path, voxels)
    places = {"bundle_root": str(tmp_path / "bundle"), "output": str(tmp_path / "probabilities.json")}
    config = str(tmp_path / "bundle" / "configs" / "inference.json")
    for path, message in ((mirrored, "sform and qform name different sides"), (gap, "is missing by the positions")):
        with pytest.raises(RuntimeError) as caught:
            run(config_file=config, dataset_dir=str(path), **places)
        assert message in str(caught.value.__cause__)


@pytest.mark.parametrize("kind", [PATIENT_IMAGES, IMAGES], ids=lambda kind: kind.name)
def test_a_bundle_of_images_gives_the_numbers_of_predict_for_the_same_files(kind, bundle_path, tmp_path):
    from monai.bundle import run

    options = PreprocessConfig(image_size=(8, 8), fit="pad", intensity_percentiles=(1.0, 99.0))
    checkpoint = make_checkpoint(kind=kind, preprocess=options)
    write_checkpoint(tmp_path / "best.safetensors", checkpoint)
    write_bundle(tmp_path / "bundle", checkpoint, "x-rays")
    raw = tmp_path / "raw"
    (raw / "below" / ".hidden").mkdir(parents=True)
    sizes = {"a.png": (11, 9), "b.jpg": (8, 8), "below/c.tif": (7, 12)} if kind is PATIENT_IMAGES else {"a.png": (8, 8)}
    for number, (name, size) in enumerate(sizes.items()):
        values = np.random.default_rng(number).integers(0, 256, size).astype(np.uint16 if "tif" in name else np.uint8)
        Image.fromarray(values).save(raw / name)
        Image.fromarray(values).save(raw / "below" / ".hidden" / Path(name).name)
    if kind is PATIENT_IMAGES:
        write_radiograph(raw / "below" / "radiograph", np.random.default_rng(9).integers(0, 4096, (10, 10)))
        (raw / "modes").mkdir()
        modes = write_grey_modes(raw / "modes", np.linspace(0, 255, 80).reshape(10, 8).astype(np.uint8))
    (raw / "notes.txt").write_text("no image")
    words = ("--predict.checkpoint", str(tmp_path / "best.safetensors"), "--workspace", str(tmp_path))
    assert main(["predict", str(raw), *words, "--predict.output", str(tmp_path / "new.csv")]) == 0
    expected = pd.read_csv(tmp_path / "new.csv").set_index("path")
    bundle_path(tmp_path / "bundle")
    config = tmp_path / "bundle" / "configs" / "inference.json"
    output = tmp_path / "probabilities.json"
    run(config_file=str(config), bundle_root=str(tmp_path / "bundle"), dataset_dir=str(raw), output=str(output))
    rows = json.loads(output.read_text())
    assert [row["path"] for row in rows] == list(expected.index)
    assert len(rows) == (len(sizes) + 1 + len(modes) if kind is PATIENT_IMAGES else len(sizes))
    for row in rows:
        wanted = expected.loc[row["path"]]
        assert row["predicted"] == wanted["predicted"]
        # Equal to the last digit of the network's 32 bits, but for how a CSV is read back.
        assert row["probabilities"]["left"] == pytest.approx(wanted["probability_left"], abs=1e-12)


def test_a_bundle_evaluates_labelled_files_from_an_empty_folder(tmp_path, bundle_path, monkeypatch):
    from monai.bundle import run

    checkpoint = make_checkpoint(kind=PATIENT_IMAGES)
    write_bundle(tmp_path / "bundle", checkpoint, "x-rays")
    raw, empty = tmp_path / "raw", tmp_path / "empty"
    raw.mkdir()
    empty.mkdir()
    lines = ["path,label"]
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 256, (8, 8)).astype(np.uint8)
        Image.fromarray(values).save(raw / f"{number}.png")
        lines += [f"{number}.png,{'left' if number < 2 else 'right'}"] if number < 5 else []
    (empty / "labels.csv").write_text("\n".join(lines))
    monkeypatch.chdir(empty)
    bundle_path(tmp_path / "bundle")
    configs = [str(tmp_path / "bundle" / "configs" / name) for name in ("inference.json", "evaluate.yaml")]
    places = {"bundle_root": str(tmp_path / "bundle"), "dataset_dir": str(raw), "label_table": "labels.csv"}
    run(config_file=configs, **places, output="scored.json", metrics_output="metrics.json")
    scored = json.loads(Path("scored.json").read_text())[:5]
    found = json.loads(Path("metrics.json").read_text())
    truth = np.array([0, 0, 1, 1, 1])
    predicted = np.array([["left", "right"].index(row["predicted"]) for row in scored])
    right = [row["probabilities"]["right"] for row in scored]
    order = [(right[high] > right[low]) + (right[high] == right[low]) / 2 for low in (0, 1) for high in (2, 3, 4)]
    assert found == {
        "num_files": 5,
        "accuracy": (predicted == truth).mean(),
        "macro_auroc": pytest.approx(np.mean(order)),
        "class_names": ["left", "right"],
        "confusion": [[int(((truth == row) & (predicted == column)).sum()) for column in (0, 1)] for row in (0, 1)],
    }


def test_a_folder_without_an_image_is_refused(tmp_path):
    checkpoint = make_checkpoint(kind=PATIENT_IMAGES)
    network = ProbabilityModel(build_from_checkpoint(checkpoint))
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="no image in this folder"):
        score_files(network, dataclasses.asdict(checkpoint.preprocess), str(tmp_path), "", torch.device("cpu"))


def test_metadata_of_images_say_what_the_network_takes():
    grey = describe_metadata(make_checkpoint(kind=PATIENT_IMAGES), "x")
    coloured = describe_metadata(make_checkpoint(kind=PATIENT_IMAGES, num_channels=3), "x")
    assert (grey["task"], grey["image_classes"]) == ("Classification of images: left, right", "single channel images")
    assert coloured["network_data_format"]["inputs"]["image"]["channel_def"] == {"0": "red", "1": "green", "2": "blue"}


@pytest.mark.parametrize(
    ("entry", "required", "brought"),
    [
        ("bundle_inference", monai_bundle.REQUIRED, {"torch", "numpy"}),  # of monai itself
        ("mlflow_serving", mlflow_model.REQUIRED, set()),
    ],
)
def test_every_package_that_the_code_imports_is_required(entry, required, brought):
    """Of imports at the start of a module; one within a function is for formats that need an extra."""
    imported = set()
    for path in find_modules(f"pipeline.export.{entry}").values():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    needed = {"pillow" if name == "PIL" else name for name in imported - sys.stdlib_module_names}
    assert needed - {"pipeline", "perceiver"} <= set(required) | brought


def test_the_metadata_pass_monais_own_check(bundle, tmp_path):
    from monai.bundle import verify_metadata

    schema = os.environ.get("PERCEIVER_MONAI_SCHEMA")
    path = Path(schema) if schema else write_schema(tmp_path / "schema.json")
    meta_file = bundle / "configs" / "metadata.json"
    verify_metadata(meta_file=str(meta_file), filepath=str(path))
    metadata = json.loads(meta_file.read_text())
    del metadata["network_data_format"]["inputs"]["image"]["dtype"]
    (tmp_path / "broken.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(path))


def test_the_network_passes_monais_check_of_its_inputs_and_outputs(bundle, bundle_path, monkeypatch):
    from monai.bundle import verify_net_in_out

    bundle_path(bundle)
    monkeypatch.chdir(bundle)
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    verify_net_in_out("network_def", **files)
    outputs = {"_meta_#network_data_format#outputs#pred#num_channels": 3}
    with pytest.raises(ValueError, match="doesn't match"):
        verify_net_in_out("network_def", **files, **outputs)


def test_the_options_of_the_training_are_a_config(bundle, checkpoint):
    experiment = read_experiment(["--config", str(bundle / "configs" / "train.yaml")])
    assert (experiment.model, experiment.preprocess) == (checkpoint.model, checkpoint.preprocess)
    assert experiment.train.learning_rate == checkpoint.settings["train.learning_rate"]
    assert f"epoch {checkpoint.epoch}" in describe_metadata(checkpoint, "tiny")["changelog"][monai_bundle.VERSION]


def test_metadata_name_the_classes_in_the_order_of_the_outputs(checkpoint):
    output = describe_metadata(checkpoint, "tiny")["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "left", "1": "right"}
    assert output["num_channels"] == 2


def test_a_bundle_has_the_files_of_the_format(bundle):
    for name in (
        "configs/metadata.json",
        "configs/inference.json",
        "configs/evaluate.yaml",
        "models/model.pt",
        "docs/README.md",
        "LICENSE",
    ):
        assert (bundle / name).stat().st_size > 0, name
    assert (bundle / "large_files.yml").is_file()


def test_a_bundle_brings_at_most_42_files_and_6530_lines_along():
    """A bundle is read by who deploys it. It has the readers of NIfTI, DICOM series, archives and sliced images.

    That of DICOM knows the reference images and the echoes of the OAI, and one file decodes its compressed pixels. One
    fits images into the model's size. The network knows subsets of inputs and the layers that training leaves out. Two
    files are networks of whole scans, one of them in 3-D, and a stem may have residual blocks. A GPU gets padded
    channels, and batch norms that leave padded slices uncounted, in several processes too; of a scan that is sorted and
    has no padding nothing is copied or masked.
    The model turns images into their local contrast. Readers tell a link that leads nowhere from a file that is not
    there, name a valid qform next to an sform that is none, doubt slices between two planes and axes off right angles,
    and refuse a lone slice in which left and right lie otherwise than in those of the config. Answers that come
    batch by batch are written where they stay. Learned positions start as large as the model's options say.
    """
    modules = find_modules("pipeline.export.bundle_inference")
    assert len(modules) <= 42, sorted(modules)
    assert sum(len(path.read_text().splitlines()) for path in modules.values()) <= 6530


def test_copies_are_the_modules_but_for_their_imports(bundle):
    modules = find_modules("pipeline.export.bundle_inference")
    assert {
        "pipeline.preprocessing.slicing",
        "pipeline.formats.nifti",
        "pipeline.inference.probabilities",
        "perceiver.attention",
    } <= set(modules)
    assert not {"pipeline.core.tables", "pipeline.training.checkpoint", "pipeline.stages"} & set(modules), (
        "nothing that is not run"
    )
    for path in (bundle / "scripts").rglob("*.py"):
        copied = path.read_text()
        assert "\nfrom pipeline" not in copied
        assert "\nfrom perceiver" not in copied
    for name in ("preprocessing.slicing", "formats.volume"):
        copied = (bundle / "scripts" / "pipeline" / f"{name.replace('.', '/')}.py").read_text()
        assert copied.replace("from scripts.pipeline", "from pipeline") == modules[f"pipeline.{name}"].read_text()


def test_own_imports_are_led_to_the_copies_wherever_they_stand_and_no_others_are():
    text = "from pipeline.a import b\n    from perceiver import c\nfrom pipelines import d\nfrom torch import e\n"
    wanted = text.replace("from pipeline.a", "from scripts.pipeline.a").replace(
        "from perceiver", "from scripts.perceiver"
    )
    assert OWN_IMPORT.sub(r"\1scripts.\2", text) == wanted
