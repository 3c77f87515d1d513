"""The address of an experiment's records."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.tracking.mlflow_database import main


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


LATIN_1 = """
from pathlib import Path
from pipeline.core.workspace import Workspace
from pipeline.tracking.mlflow_database import build_uri, connect
folder = Path.cwd()
client, experiment = connect(build_uri(folder / "mlflow.db"), Workspace(folder, "none"))
client.create_run(experiment)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("localedef") is None, reason="localedef is absent")
def test_a_folder_with_umlauts_has_its_records_in_a_latin_1_locale(tmp_path):
    name = "de_DE.ISO-8859-1"
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", tmp_path / name], check=False)
    if made.returncode:
        pytest.skip("the source of the locale is absent")
    folder = tmp_path / "Übung"
    folder.mkdir()
    world = {"LOCPATH": str(tmp_path), "LC_ALL": name, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", LATIN_1], cwd=folder, env=os.environ | world, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "Übung"])
    assert (folder / "mlflow.db").is_file()
