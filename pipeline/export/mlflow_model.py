"""The model in MLflow: its files, its signature with an example, and its version in the registry."""

import base64
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import perceiver
import pipeline
from pipeline.core.data_kinds import SCANS
from pipeline.core.errors import UserError
from pipeline.core.provenance import read_version
from pipeline.formats.nifti import write_volume
from pipeline.training.checkpoint import Checkpoint, read_checkpoint

# What a server of the model needs in addition to this project's two packages.
REQUIRED = (
    *("torch", "lightning", "numpy", "pandas", "einops", "monai", "mlflow", "safetensors", "filelock", "psutil"),
    *("nibabel", "isal", "pydicom", "pillow"),
)


def log_model(client: Any, run_id: str, checkpoint_path: Path, registered_name: str) -> None:
    """Log a checkpoint as a pyfunc model and register it; a run that has a model already is left as it is.

    Args:
        client: An ``MlflowClient``.
        run_id: The run that trained the model.
        checkpoint_path: The file with the weights.
        registered_name: The model in the registry that gets a new version; empty registers nothing.
    """
    run, checkpoint = client.get_run(run_id), read_checkpoint(checkpoint_path)
    tags = _describe(checkpoint, run.info.run_name)
    if run.outputs is not None and run.outputs.model_outputs:
        logged = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    else:
        logged = _keep_model(client, run, checkpoint_path, checkpoint, tags)
    if registered_name == "":
        return
    if not client.search_registered_models(f"name = '{registered_name}'"):
        client.create_registered_model(registered_name)
    if not client.search_model_versions(f"name = '{registered_name}' and run_id = '{run_id}'"):
        client.create_model_version(
            registered_name, logged.artifact_location, run_id=run_id, tags=tags, model_id=logged.model_id
        )


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
    }


def _keep_model(client: Any, run: Any, checkpoint_path: Path, checkpoint: Checkpoint, tags: dict[str, str]) -> Any:
    """Log the model's files; return MLflow's record of it."""
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id = run.info.run_id
    logged = client.create_logged_model(run.info.experiment_id, name="classifier", source_run_id=run_id, tags=tags)
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
            artifacts={"checkpoint": checkpoint_path.resolve().as_uri()},
            signature=_build_signature(checkpoint),
            input_example=build_example(checkpoint),
            pip_requirements=[f"{name}=={read_version(name)}" for name in REQUIRED],
        )
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


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
