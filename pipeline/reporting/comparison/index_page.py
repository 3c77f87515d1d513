"""The page over all experiments of a workspace: a row for each evaluated run, with the way to its report."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.core.text import count_words
from pipeline.evaluation.schema import first_level, is_of_kept_weights, read_metrics
from pipeline.reporting.comparison.runs import locate
from pipeline.reporting.formatting import DASH, show_fraction, show_percent_briefly
from pipeline.reporting.html import write_page


@dataclass(frozen=True)
class IndexedRun:
    """A row of the page.

    Args:
        title: The run.
        address: The report, relative to the page.
        cells: Validation accuracy, test accuracy, and the tested rows.
        validation: The accuracy on validation; None where it is not known.
    """

    title: str
    address: str
    cells: tuple[str, ...]
    validation: float | None


def write_index(reports: Path) -> None:
    """Write ``index.html``: all evaluated runs below a folder of reports, by experiment, the best on validation first.

    Args:
        reports: The folder of the reports of a workspace.
    """
    experiments: dict[str, list[IndexedRun]] = {}
    for path in sorted([*reports.glob("*/metrics.json"), *reports.glob("*/*/metrics.json")]):
        run = _read_run(path, reports)
        if run is not None:
            experiments.setdefault(path.relative_to(reports).parts[0], []).append(run)
    for runs in experiments.values():
        runs.sort(key=lambda run: -1.0 if run.validation is None else run.validation, reverse=True)
    write_page(reports / "index.html", "index.html", title="Reports", experiments=experiments)


def _read_run(path: Path, reports: Path) -> IndexedRun | None:
    """Return the row of a run; None where its files are damaged, or are no run's."""
    folder = path.parent
    try:
        metrics = read_metrics(path)
        record = locate(folder).training_record
        training = read_json(record) if record.is_file() else {}
        is_known = training != {} and is_of_kept_weights(metrics, training)
        validation = training["best"]["val_accuracy"] if is_known else None
    # Its own stages say what is wrong; the other runs are shown.
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    name, level = first_level(metrics["levels"])
    address = quote((folder / "report.html").relative_to(reports).as_posix())
    shown = show_percent_briefly(level["metrics"]["accuracy"]), count_words(level["n"], name)
    return IndexedRun(
        folder.name, address, (DASH if validation is None else show_fraction(validation), *shown), validation
    )
