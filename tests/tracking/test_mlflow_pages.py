"""What a person sees in the MLflow pages that ``make ui`` serves: the run, its curves, its confusion matrix."""

import socket
import subprocess
import sys

import mlflow
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser
PATIENCE_S = 60


@pytest.fixture(scope="module")
def address(tiny_workspace):
    """The address of a server over the run's database, on a port that it chose itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = f"sqlite:///{tiny_workspace / 'mlflow.db'}"
    words = ["-m", "mlflow", "ui", "--backend-store-uri", database, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, *words, "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in server.stdout:
        if "Application startup complete" in line:
            break
    else:
        pytest.fail("the server ended before it was ready")
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(PATIENCE_S)


def wait_for(browser, selector, is_ready=bool):
    return WebDriverWait(browser, PATIENCE_S).until(
        lambda driver: next(
            (found for found in driver.find_elements(By.CSS_SELECTOR, selector) if is_ready(found)), None
        )
    )


@pytest.mark.slow
def test_the_run_its_curves_and_its_confusion_matrix_are_seen(tiny_workspace, address, browser):
    client = mlflow.MlflowClient(f"sqlite:///{tiny_workspace / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    page = f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"

    browser.get(page)
    text = wait_for(browser, "body", lambda body: "test_slice_accuracy" in body.text).text
    assert "Finished" in text
    assert "train.epochs" in text

    browser.get(f"{page}/model-metrics")
    curve = wait_for(browser, ".js-plotly-plot .scatterlayer .trace path")
    assert curve.is_displayed()

    browser.get(f"{page}/artifacts/evaluation/confusion_slice.svg")
    image = wait_for(browser, "img", lambda image: int(image.get_attribute("naturalWidth") or 0) > 300)
    assert image.is_displayed()
