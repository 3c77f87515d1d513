"""The options of MLflow and TensorBoard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackingConfig:
    """Where the records of a run are kept beside its own folder.

    Args:
        enabled: false keeps no records in MLflow.
        uri: a tracking server or database; without it ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` here.
        register: give each trained model a version in MLflow's registry, under the experiment's name.
        tensorboard: also write each epoch's and the evaluation's numbers as TensorBoard's event files, into the folder
            ``tensorboard`` of the run; needs the package of that name.
        system_metrics: while training, also keep how busy processor, memory, disk, network and GPU are.
        parent_run: id of the MLflow run that this one is shown below; the stage ``cross-validate`` sets it for its
            runs.
    """

    enabled: bool = True
    uri: str | None = None
    register: bool = True
    tensorboard: bool = False
    system_metrics: bool = True
    parent_run: str = ""
