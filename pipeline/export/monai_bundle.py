"""A trained model as a MONAI bundle that needs neither this project nor its data.

The bundle holds copies of the modules that read and score a volume or an image, below ``scripts``: the code that was
tested is the code that runs.

Source:
    MONAI bundle specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.config.parsing import OPTIONS
from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES, SCANS, VOLUMES
from pipeline.core.files import write_bytes, write_json
from pipeline.core.provenance import read_version
from pipeline.core.serialization import to_plain
from pipeline.models.classifier import ProbabilityModel
from pipeline.training.checkpoint import Checkpoint, build_from_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "pipeline.export.bundle_inference"
PACKAGES = ("pipeline", "perceiver")
# Packages whose __init__ only offers what lies in them, and imports most of this project when asked.
LAZY = ("pipeline",)
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
# What the bundle's code needs in addition to monai, and fire for monai's own command line.
REQUIRED = ("einops", "isal", "nibabel", "pillow", "psutil", "fire")
VERSION = "0.1.0"
# The kinds of data that a bundle has readers of.
BUNDLED = (VOLUMES, SCANS, PATIENT_IMAGES, IMAGES)
# Read after inference.json, whose network and inputs it takes; the metrics are MONAI's.
EVALUATION = """\
# Scores on labelled files. label_table is a CSV with the columns path (below dataset_dir) and label:
#   python -m monai.bundle run --config_file "['configs/inference.json','configs/evaluate.yaml']" \\
#     --dataset_dir FOLDER --label_table labels.csv
# A file that the table does not name is left out. Intervals over patients need perceiver-knees: see train.yaml.
imports:
  - $import csv
  - $import json
  - $import torch
  - $from pathlib import Path
  - $from monai.metrics import compute_roc_auc
  - $import scripts.pipeline.export.bundle_inference as bundled
label_table: $@bundle_root + '/labels.csv'
metrics_output: $@bundle_root + '/eval/metrics.json'
class_names: '@network_def#facts#spec#class_names'
table: $list(csv.DictReader(Path(@label_table).open(newline='', encoding='utf-8-sig')))
labels: "$dict((str(Path(@dataset_dir, row['path'])), row['label']) for row in @table)"
scored: $bundled.score_files(@network, @preprocess, @dataset_dir, @output, @device)
rows: $[row for row in @scored if row['path'] in @labels]
truth: $torch.tensor([@class_names.index(@labels[row['path']]) for row in @rows])
one_hot: $torch.nn.functional.one_hot(@truth, len(@class_names))
probabilities: $torch.tensor([[row['probabilities'][name] for name in @class_names] for row in @rows])
predicted: $torch.tensor([@class_names.index(row['predicted']) for row in @rows])
pairs: $torch.bincount(@truth * len(@class_names) + @predicted, minlength=len(@class_names) ** 2)
metrics:
  num_files: $len(@rows)
  accuracy: $(@predicted == @truth).double().mean().item()
  macro_auroc: $float(compute_roc_auc(@probabilities, @one_hot))
  class_names: '@class_names'
  confusion: $@pairs.reshape(len(@class_names), -1).tolist()  # rows are true classes
run:
  - $Path(@metrics_output).write_text(json.dumps(@metrics, indent=2))
"""
# An import of this project's packages at the start of a line, indented or not.
OWN_IMPORT = re.compile(rf"^(\s*from )({'|'.join(PACKAGES)})(?=[. ])", re.MULTILINE)


def write_bundle(folder: Path, checkpoint: Checkpoint, name: str) -> None:
    """Write a bundle.

    Args:
        folder: The folder of the bundle; it must not exist.
        checkpoint: The trained model, of volumes or images.
        name: The name of the experiment, for the texts.
    """
    assert checkpoint.spec.kind in BUNDLED, checkpoint.spec.kind.name
    write_json(folder / "configs" / "metadata.json", describe_metadata(checkpoint, name))
    write_json(folder / "configs" / "inference.json", _describe_inference(checkpoint))
    write_bytes(folder / "configs" / "evaluate.yaml", EVALUATION.encode())
    write_bytes(folder / "configs" / "train.yaml", _describe_training(checkpoint, name).encode())
    (folder / "models").mkdir()
    torch.save(ProbabilityModel(build_from_checkpoint(checkpoint)).state_dict(), folder / "models" / "model.pt")
    for module, path in sorted(find_modules(ENTRY).items()):
        source = OWN_IMPORT.sub(r"\1scripts.\2", path.read_text(encoding="utf-8"))
        is_package = path.name == "__init__.py"
        target = folder / "scripts" / Path(*module.split("."))
        write_bytes(target / "__init__.py" if is_package else target.with_suffix(".py"), source.encode())
    write_bytes(folder / "scripts" / "__init__.py", b'"""The code that this bundle runs."""\n')
    license_path = ROOT / "LICENSE"
    text = license_path.read_text() if license_path.is_file() else "Apache-2.0, https://www.apache.org/licenses/\n"
    write_bytes(folder / "LICENSE", text.encode())
    write_bytes(folder / "docs" / "README.md", _describe_use(checkpoint, name).encode())
    # The weights are small and inside; the format requires the file nevertheless.
    write_bytes(folder / "large_files.yml", b"large_files: []\n")


def find_modules(entry: str) -> dict[str, Path]:
    """Find a module of this project, all that it imports of it, and the packages around them.

    A package whose ``__init__`` is a docstring alone is left out: Python takes the folder for a package without it. So
    is that of ``LAZY``, which only offers what lies in it.

    Args:
        entry: The name of the first module, such as ``pipeline.export.bundle_inference``.

    Returns:
        Module name -> file.
    """
    found: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        if module in found or module in LAZY:
            continue
        path = ROOT / Path(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        found[module] = path
        waiting += [module.rpartition(".")[0]] if "." in module else []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] in PACKAGES for name in names), f"{module}: write from … import …"
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                waiting.append(node.module)
    return {module: path for module, path in found.items() if path.name != "__init__.py" or _has_code(path)}


def _has_code(path: Path) -> bool:
    return len(ast.parse(path.read_text(encoding="utf-8")).body) > 1


def describe_metadata(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Return the fields that MONAI's schema requires.

    Args:
        checkpoint: The trained model of the bundle.
        name: The name of the experiment.
    """
    classes = dict(enumerate(checkpoint.spec.class_names))
    height, width = checkpoint.spec.image_size
    num_channels, are_volumes = checkpoint.spec.num_channels, checkpoint.spec.kind.reads_scans
    is_whole = checkpoint.spec.kind is SCANS
    example = "slice" if are_volumes else "image"
    grey = {"0": f"grey level of a prepared {example}"}
    values = {
        "type": "image",
        "format": "magnitude" if num_channels == 1 else "rgb",
        "modality": "MR" if are_volumes else "unknown",
        "num_channels": num_channels,
        "spatial_shape": [*(["*"] if is_whole else []), height, width],
        "dtype": "float32",
        "value_range": [0, 255],
        "is_patch_data": False,
        "channel_def": grey if num_channels == 1 else {"0": "red", "1": "green", "2": "blue"},
    }
    probabilities = {
        "type": "probabilities",
        "format": "classes",
        "num_channels": len(classes),
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {str(index): label for index, label in classes.items()},
    }
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: _describe_version(checkpoint)},
        "monai_version": read_version("monai"),
        "pytorch_version": read_version("torch").partition("+")[0],
        "numpy_version": read_version("numpy"),
        "required_packages_version": {package: read_version(package, "any") for package in REQUIRED},
        "name": name,
        "task": f"Classification of {_name_inputs(checkpoint)}: {', '.join(checkpoint.spec.class_names)}",
        "description": "All slices of a volume, with their places in millimetres, are read at once."
        if is_whole
        else "Slices of a volume, chosen by anatomical plane, are scored one by one; the volume's answer is "
        "the mean of their probabilities."
        if are_volumes
        else "Each image is scored by itself.",
        "authors": "Trained with perceiver-knees",
        "copyright": "Apache-2.0",
        "data_type": "nibabel" if are_volumes else "image files",
        "image_classes": f"{'single channel' if num_channels == 1 else 'RGB'} {example}s",
        "pred_classes": ", ".join(f"{index} is {label}" for index, label in classes.items()),
        "intended_use": "Research. No diagnosis, no medical device.",
        "store_fingerprint": checkpoint.store_fingerprint,
        "split_fingerprint": checkpoint.split_fingerprint,
        "network_data_format": {"inputs": {"image": values}, "outputs": {"pred": probabilities}},
    }


def _name_inputs(checkpoint: Checkpoint) -> str:
    return "MR volumes" if checkpoint.spec.kind.reads_scans else "images"


def _describe_inference(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the config that ``python -m monai.bundle run`` executes."""
    script = f"scripts.{ENTRY}"
    return {
        "imports": ["$import torch", f"$import {script} as bundled"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output": "$@bundle_root + '/eval/probabilities.json'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "preprocess": dataclasses.asdict(checkpoint.preprocess),
        "network_def": {
            "_target_": f"{script}.build_network",
            "model": dataclasses.asdict(checkpoint.model),
            "facts": {
                "spec": to_plain(checkpoint.spec),
                "mean": checkpoint.mean,
                "std": checkpoint.std,
                "loss": checkpoint.settings["train.loss"],
            },
        },
        "network": "$bundled.load_network(@network_def, @bundle_root + '/models/model.pt', @device)",
        "run": [
            "$bundled.score_files(@network, @preprocess, @dataset_dir, @output, @device)",
        ],
    }


def _describe_training(checkpoint: Checkpoint, name: str) -> str:
    """Return the options that shaped the weights as a config, which the stages train and evaluate read."""
    known = OPTIONS.keys() - {"train.start_from", "train.freeze"}  # other weights, which the bundle does not have
    known -= {"train.teacher"} if checkpoint.settings.get("train.teacher") != "cnn" else set()
    options = {key: value for key, value in checkpoint.settings.items() if key in known}
    sections: dict[str, Any] = {"name": name, "preprocess": to_plain(checkpoint.preprocess)}
    for key, value in to_plain(options).items():
        *path, last = key.split(".")
        section = sections
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    header = (
        "# The options of the training, for perceiver-knees and not for monai.bundle: train again, or evaluate, with\n"
        "#   perceiver run --config train.yaml --data.raw_folder FOLDER --data.label_table TABLE\n"
    )
    return header + yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


def _describe_version(checkpoint: Checkpoint) -> str:
    """Return what the weights are, for the list of versions."""
    best = {result.epoch: result for result in checkpoint.history}[checkpoint.epoch]
    accuracy = f"accuracy {best.val_accuracy:.4f} on validation"
    return f"weights of epoch {checkpoint.epoch}, {accuracy}; commit {checkpoint.commit}"


def _describe_use(checkpoint: Checkpoint, name: str) -> str:
    are_volumes = checkpoint.spec.kind.reads_scans
    example, inputs = (
        (
            "scan.nii.gz",
            "a NIfTI file of known orientation, a DICOM series (a folder, `.tar.gz` or `.zip`; needs pydicom)",
        )
        if are_volumes
        else ("image.png", "an image file (PNG, JPEG, TIFF, BMP, or a DICOM radiograph, which needs pydicom)")
    )
    lines = [
        f"# {name}: {', '.join(checkpoint.spec.class_names)} from {_name_inputs(checkpoint)}",
        "",
        "Research software: no diagnosis, no medical device.",
        "",
        "    pip install monai " + " ".join(REQUIRED),
        f"    python -m monai.bundle run --config_file configs/inference.json --dataset_dir {example}",
        "",
        f"writes `eval/probabilities.json`. `--dataset_dir` is {inputs}, or a folder of them.",
        "There is no evaluator, so that pytorch-ignite is not needed. `scripts/` holds copies of the modules of",
        "perceiver-knees that read and score them.",
        "",
        "    python -m monai.bundle run --config_file \"['configs/inference.json','configs/evaluate.yaml']\" \\",
        "        --dataset_dir FOLDER --label_table labels.csv",
        "",
        "writes accuracy, AUROC and confusion matrix to `eval/metrics.json`; the table has the columns `path`, below",
        "the folder, and `label`. `configs/train.yaml` holds the options of the training, with which perceiver-knees",
        "trains again, or evaluates on other data with intervals over patients.",
        "",
        "`LICENSE` is that of the code. The training data are not in the bundle, and their licence is not known here:",
        "who hands the weights on has to see that it allows this.",
        "",
    ]
    return "\n".join(lines)
