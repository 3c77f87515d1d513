"""The model in MLflow: its files, its signature with an example, and its version in the registry."""

import base64
import re
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import perceiver
import pipeline
from pipeline.core.data_kinds import SCANS
from pipeline.core.errors import UserError
from pipeline.core.files import build_file_uri
from pipeline.core.provenance import read_version
from pipeline.training.checkpoint import Checkpoint, compute_weights_digest, read_checkpoint, write_checkpoint

# What a server of the model needs in addition to this project's two packages.
REQUIRED = (
    *("torch", "lightning", "numpy", "pandas", "einops", "monai", "mlflow", "safetensors", "filelock", "psutil"),
    *("nibabel", "isal", "pydicom", "pillow"),
)


def log_model(client: Any, run_id: str, checkpoint_path: Path, registered_name: str = "", name: str = "best") -> Any:
    """Log a checkpoint as a pyfunc model, and register it; weights that the run has already are left as they are.

    Args:
        client: An ``MlflowClient``.
        run_id: The run that trained the model.
        checkpoint_path: The file with the weights.
        registered_name: The model in the registry that gets a new version; empty registers nothing.
        name: The name of the logged model.

    Returns:
        MLflow's record of the logged model.
    """
    run, checkpoint = client.get_run(run_id), read_checkpoint(checkpoint_path)
    tags = _describe(checkpoint, run.info.run_name)
    known = find_model(client, run, tags["weights"], name)
    logged = _keep_model(client, run, checkpoint_path, checkpoint, tags, name) if known is None else known
    if registered_name != "":
        register_model(client, logged, registered_name)
    return logged


def log_last_model(client: Any, run_id: str, checkpoint_path: Path) -> Any | None:
    """Log the weights of the last epoch as the model ``last``, without what only a training reads.

    Args:
        client: An ``MlflowClient``.
        run_id: The run that trained the model.
        checkpoint_path: The file that training resumes from.

    Returns:
        MLflow's record of the logged model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.safetensors"
        last = replace(read_checkpoint(checkpoint_path), optimizer=None, heads={}, step_weights=None)
        write_checkpoint(path, last)
        return log_model(client, run_id, path, name="last")


def find_model(client: Any, run: Any, weights: str, name: str) -> Any | None:
    """Return the logged model of a run that has these weights; None where there is none.

    Args:
        client: An ``MlflowClient``.
        run: MLflow's record of the run.
        weights: The digest of the weights.
        name: The name of the logged model.
    """
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    found = (client.get_logged_model(output.model_id) for output in outputs)
    return next((model for model in found if model.name == name and model.tags.get("weights") == weights), None)


def register_model(client: Any, logged: Any, registered_name: str) -> str:
    """Give a logged model a version in the registry; return the number of its version, old or new.

    Args:
        client: An ``MlflowClient``.
        logged: MLflow's record of the logged model.
        registered_name: The model in the registry.
    """
    if not client.search_registered_models(f"name = '{registered_name}'"):
        client.create_registered_model(registered_name)
    run_id = logged.source_run_id
    versions = client.search_model_versions(f"name = '{registered_name}' and run_id = '{run_id}'")
    # The tags that MLflow itself gives a logged model begin with its name.
    tags = {name: value for name, value in logged.tags.items() if not name.startswith("mlflow.")}
    own = [version for version in versions if version.source == logged.artifact_location] or [
        client.create_model_version(
            registered_name, logged.artifact_location, run_id=run_id, tags=tags, model_id=logged.model_id
        )
    ]
    return str(own[0].version)


def bind_metrics(
    client: Any, logged: Any, metrics: Mapping[str, float], step: int, dataset: tuple[str, str] | None
) -> None:
    """Bind numbers of a run to the model and the data that they belong to, for ``mlflow.search_logged_models``.

    A number that the run has is sent with its own time, so that the run's curve does not get it twice.

    Args:
        client: An ``MlflowClient``.
        logged: MLflow's record of the logged model.
        metrics: The numbers by their names.
        step: The epoch that they were measured at; 0 for those of the run as a whole.
        dataset: The name and the digest of the data; None where they are not known.
    """
    from mlflow.entities import Metric

    run_id, now, bound = logged.source_run_id, time.time_ns() // 1_000_000, []
    for name, value in metrics.items():
        points = client.get_metric_history(run_id, name)
        times = [point.timestamp for point in points if (point.step, point.value) == (step, value)]
        data = {} if dataset is None else {"dataset_name": dataset[0], "dataset_digest": dataset[1]}
        bound.append(Metric(name, value, (times or [now])[-1], step, logged.model_id, run_id=run_id, **data))
    client.log_batch(run_id, bound)


def read_registered_checkpoint(address: str, tracking_uri: str | None) -> Checkpoint:
    """Read the checkpoint of a model in the registry.

    Args:
        address: The model with its version or alias: ``models:/phantom/1`` or ``models:/phantom@best``.
        tracking_uri: The address of the records; None for MLflow's own choice.

    Raises:
        UserError: There is no such model, or this project did not log it.
    """
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    parts = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", address)
    if parts is None:
        raise UserError(f"{address}: no model of a registry; allowed are models:/NAME/VERSION and models:/NAME@ALIAS.")
    name, number, alias = parts.groups()
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            version = (
                client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)
            )
            source = client.get_model_version_download_uri(name, version.version)
            model = download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=tracking_uri)
        except MlflowException as error:
            raise UserError(f"{address}: {error}. Check name, version and tracking_uri.") from error
        found = sorted(Path(model).glob("artifacts/*.safetensors"))
        if len(found) != 1:
            raise UserError(f"{address}: holds no checkpoint of this project. Name a model that train logged.")
        return read_checkpoint(found[0])


def _describe(checkpoint: Checkpoint, run_name: str) -> dict[str, str]:
    """List the facts that are kept with a model and with its version in the registry."""
    accuracy = {result.epoch: f"{result.val_accuracy:.4f}" for result in checkpoint.history}
    return {
        "class_names": ", ".join(checkpoint.spec.class_names),
        "epoch": str(checkpoint.epoch),
        "run": run_name,
        "val_accuracy": accuracy[checkpoint.epoch],
        "store_fingerprint": checkpoint.store_fingerprint,
        "split_fingerprint": checkpoint.split_fingerprint,
        "weights": compute_weights_digest(checkpoint.weights),
    }


def _keep_model(
    client: Any, run: Any, checkpoint_path: Path, checkpoint: Checkpoint, tags: dict[str, str], name: str
) -> Any:
    """Log the model's files; return MLflow's record of it."""
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id = run.info.run_id
    logged = client.create_logged_model(run.info.experiment_id, name=name, source_run_id=run_id, tags=tags)
    code = Path(pipeline.__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True):
        # MLflow advises type hints, and sets its own filters; the signature describes the input already.
        target = Path(folder) / "model"
        mlflow.pyfunc.save_model(
            target,
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=run_id,
                model_id=logged.model_id,
            ),
            python_model=str(code / "export" / "mlflow_serving.py"),
            code_paths=[str(code), str(Path(perceiver.__file__).resolve().parent)],
            # An address, because MLflow takes a path for one, where a % or # means something else.
            artifacts={"checkpoint": build_file_uri(checkpoint_path)},
            signature=_build_signature(checkpoint),
            input_example=build_example(checkpoint),
            pip_requirements=[f"{name}=={read_version(name)}" for name in REQUIRED],
        )
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=checkpoint.epoch)])
    return client.get_logged_model(logged.model_id)


def build_example(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return two prepared examples, a dark one and a bright one, as a request holds them; of whole scans one file.

    Args:
        checkpoint: The trained model, with the shape of its examples.
    """
    if checkpoint.spec.kind is SCANS:
        return {"nifti": [_encode_scan(checkpoint.spec.field_of_view_mm)]}
    shape = checkpoint.spec.stored_shape
    ramp = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    pair = np.stack([ramp, -ramp])
    if checkpoint.spec.kind.is_image:
        pair = np.stack([32 * ramp, 32 * ramp + 200]).astype(int)
    return {"images": pair.tolist(), "slice_position": [0.0, 0.5]}


def _encode_scan(field_of_view_mm: float) -> str:
    """Return a small scan of a grey ramp, half as large as the field of view, as base64 text."""
    from pipeline.formats.nifti import write_volume  # nibabel takes time to import, and most trainings write no scan

    sides = (12, 12, 12)
    affine = np.diag([*(field_of_view_mm / 2 / side for side in sides), 1.0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        write_volume(path, np.arange(np.prod(sides), dtype=np.int16).reshape(sides), affine, "RAS")
        return base64.b64encode(path.read_bytes()).decode()


def _build_signature(checkpoint: Checkpoint) -> Any:
    """Describe the columns; none of them is required, because a request has images or files."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    # Of nested arrays MLflow would check each number by itself, in seconds a volume; the model checks them itself.
    columns = [ColSpec(AnyType(), "images", required=False), ColSpec(DataType.double, "slice_position", required=False)]
    if checkpoint.spec.kind.reads_scans:
        columns.append(ColSpec(DataType.string, "nifti", required=False))
    elif checkpoint.spec.kind.has_patients:
        columns.append(ColSpec(DataType.string, "files", required=False))
    outputs = Schema([TensorSpec(np.dtype("float64"), (-1, len(checkpoint.spec.class_names)))])
    return ModelSignature(inputs=Schema(columns), outputs=outputs)
