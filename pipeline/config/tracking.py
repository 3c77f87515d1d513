"""The options of MLflow and TensorBoard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackingConfig:
    """The records of a run in MLflow and TensorBoard, next to those in its own folder.

    Args:
        enabled: Keep records in MLflow.
        uri: The address of a tracking server or database; without it ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` here.
        register: Give each trained model a version in MLflow's registry, under the experiment's name.
        tensorboard: Also write each epoch's and the evaluation's numbers as TensorBoard's event files, into the folder
            ``tensorboard`` of the run; needs the package of that name.
        system_metrics: Also record the load of processor, memory, disk, network and GPU while training.
        parent_run: The id of the MLflow run that this one is shown below; the stage ``cross-validate`` sets it for its
            runs.
    """

    enabled: bool = True
    uri: str | None = None
    register: bool = True
    tensorboard: bool = False
    system_metrics: bool = True
    parent_run: str = ""
