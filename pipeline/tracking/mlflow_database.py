"""The database or server of MLflow, and the experiment in it.

    python -m pipeline.tracking.mlflow_database --config configs/NAME.yaml

prints the address of an experiment's records, for ``mlflow ui``.
"""

import functools
import os
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from filelock import FileLock

from pipeline.config.parsing import read_experiment
from pipeline.config.tracking import TrackingConfig
from pipeline.core.errors import UserError
from pipeline.core.files import build_file_uri
from pipeline.core.workspace import Workspace

SQLITE = "sqlite:///"


def main(words: Sequence[str]) -> str:
    """Return the address of an experiment's records.

    Args:
        words: The options, as of any stage.

    Raises:
        UserError: A bad option, or no records: MLflow would make an empty database.
    """
    experiment = read_experiment(words)
    uri = resolve_uri(experiment.tracking, experiment.paths)
    database = experiment.paths.tracking_database
    if uri == build_uri(database.resolve()) and not database.is_file():
        raise UserError(f"{database}: no records. Run the train stage, or check the path (workspace).")
    return uri


def resolve_uri(config: TrackingConfig, workspace: Workspace) -> str:
    """Return the address of the records: the option, else ``MLFLOW_TRACKING_URI``, else the workspace's database."""
    if config.uri is not None:
        return config.uri
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if from_environment != "":
        return from_environment
    return build_uri(workspace.tracking_database.resolve())


def build_uri(database: Path) -> str:
    """Return the address of a local database; ``%``, ``?`` and ``#`` in a folder's name mean something else there."""
    return SQLITE + quote(str(database), safe="/ ", errors="surrogateescape")


def connect(uri: str, workspace: Workspace) -> tuple[Any, str]:
    """Open the records; make a local database and the experiment where they are missing.

    Args:
        uri: The address of a server or database.
        workspace: The folders; names the experiment, and the folder of a local database's files.

    Returns:
        An ``MlflowClient`` and the id of the experiment.

    Raises:
        UserError: The experiment was deleted in MLflow.
        sqlite3.Error: A local database cannot be opened.
    """
    from mlflow import MlflowClient

    _allow_percent_signs()
    is_local = uri.startswith(SQLITE)
    database = Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))
    if is_local:
        database.parent.mkdir(parents=True, exist_ok=True)
    # Runs that start side by side must neither both make the database nor both make the experiment.
    with FileLock(f"{database}.lock") if is_local else nullcontext():
        if is_local and not database.exists():
            _make_database(database)
        if is_local:
            # MLflow would try for two minutes, and again in every epoch.
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("SELECT name FROM sqlite_master LIMIT 1")
        client = MlflowClient(tracking_uri=uri)
        experiment = _find_experiment(client, uri, workspace, is_local)
        if is_local and uri != SQLITE + str(database):
            # The registry, which opens with its first question, makes such folders too.
            client.search_registered_models(max_results=1)
            _remove_stray_folders(uri, database)
        return client, experiment


@functools.cache
def _allow_percent_signs() -> None:
    """Let MLflow be installed below a folder with ``%`` in its name, as an environment in ``My%20Knees`` is.

    Alembic, through which MLflow makes its tables, takes the sign in the place of MLflow's scripts for a reference.
    """
    from alembic.config import Config

    set_option = Config.set_main_option

    def set_any(config: Config, name: str, value: str) -> None:
        try:
            set_option(config, name, value)
        except ValueError:
            set_option(config, name, value.replace("%", "%%"))

    Config.set_main_option = set_any  # type: ignore[method-assign, assignment]


def _remove_stray_folders(uri: str, database: Path) -> None:
    """Remove the empty folders that MLflow makes where an address spells a path otherwise than the disk."""
    spelled = Path(uri.removeprefix(SQLITE))
    if spelled != database:
        with suppress(OSError):  # of a folder that is not empty
            for folder in spelled.parents:
                folder.rmdir()


def _make_database(path: Path) -> None:
    """Make an empty database, whole or not at all.

    MLflow makes it in many steps; an interrupted one could never be opened again.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        begun, whole = Path(folder) / "begun.db", Path(folder) / "whole.db"
        try:
            MlflowClient(tracking_uri=build_uri(begun)).search_experiments()
        finally:
            _remove_stray_folders(build_uri(begun), begun)
        # A name in an SQL statement would be read as UTF-8, also where the locale writes the disk's names in latin-1.
        with closing(sqlite3.connect(begun)) as source, closing(sqlite3.connect(whole)) as target:
            source.backup(target)
        whole.replace(path)


def _find_experiment(client: Any, uri: str, workspace: Workspace, is_local: bool) -> str:
    """Return the id of the workspace's experiment; make it where there is none."""
    experiment = client.get_experiment_by_name(workspace.name)
    if experiment is None:
        location = build_file_uri(workspace.tracking_artifacts / workspace.name) if is_local else None
        return str(client.create_experiment(workspace.name, artifact_location=location))
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking: the experiment {workspace.name} was deleted in MLflow ({uri}). Restore it with "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}, or choose another name."
        )
    return str(experiment.experiment_id)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{main(sys.argv[1:])}\n")
    except UserError as error:
        sys.exit(f"error: {error}")
