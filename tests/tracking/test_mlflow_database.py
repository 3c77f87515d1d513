"""The address of an experiment's records."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pipeline.core.errors import UserError
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_database import build_uri, connect, main


def test_the_address_is_that_of_the_workspace_and_an_empty_database_is_not_made(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "My%20 Knees#"
    with pytest.raises(UserError, match=r"Knees#/mlflow\.db: no records\. Run the train stage"):
        main(["--workspace", str(folder)])
    assert not folder.exists()
    folder.mkdir()
    (folder / "mlflow.db").touch()
    assert main(["--workspace", str(folder)]) == f"sqlite:///{tmp_path}/My%2520 Knees%23/mlflow.db"
    assert main(["--tracking.uri", "http://127.0.0.1:5000"]) == "http://127.0.0.1:5000"


ROOT = Path(__file__).parents[2]
INSTALLED = """
import sys
from pathlib import Path
sys.path.insert(0, "{site}")
import mlflow
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_database import build_uri, connect
assert "%20" in mlflow.__file__
folder = Path("{folder}")
client, experiment = connect(build_uri(folder / "mlflow.db"), Workspace(folder, "none"))
client.create_run(experiment)
"""
LATIN_1 = """
from pathlib import Path
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_database import build_uri, connect
folder = Path.cwd()
client, experiment = connect(build_uri(folder / "mlflow.db"), Workspace(folder, "none"))
run = client.create_run(experiment)
client.log_text(run.info.run_id, "kept", "note.txt")
[note] = folder.rglob("note.txt")
assert note.read_text() == "kept"
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("localedef") is None, reason="localedef is absent")
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_folder_with_umlauts_has_its_records_in_a_latin_1_locale(tmp_path, encoding):
    name = "de_DE.ISO-8859-1"
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", tmp_path / name], check=False)
    if made.returncode:
        pytest.skip("the source of the locale is absent")
    folder = Path(os.fsdecode(bytes(tmp_path / "Ü").removesuffix("Ü".encode()) + "Übung".encode(encoding)))
    folder.mkdir()
    world = {"LOCPATH": str(tmp_path), "LC_ALL": name, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", LATIN_1], cwd=folder, env=os.environ | world, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, folder.name])
    assert (folder / "mlflow.db").is_file()


@pytest.mark.slow
def test_no_folder_is_left_that_is_spelled_as_the_address(tmp_path):
    """MLflow makes the folder of its database by the address, for its runs and later for its registry."""
    folder = tmp_path / "My%20 Knie#ü"
    client, experiment = connect(build_uri(folder / "mlflow.db"), Workspace(folder, "none"))
    client.create_run(experiment)
    client.search_model_versions()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.slow
def test_mlflow_below_a_folder_with_a_percent_sign_makes_its_tables(tmp_path):
    """Alembic would read the place of MLflow's scripts as a reference to another of its options."""
    here = Path(mlflow.__file__).parent.parent
    (tmp_path / "My%20Knees").symlink_to(here)
    code = INSTALLED.format(site=tmp_path / "My%20Knees", folder=tmp_path / "work")
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (tmp_path / "work/mlflow.db").is_file()
