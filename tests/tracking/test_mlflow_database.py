"""The address of an experiment's records."""

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
