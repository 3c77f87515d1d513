"""Every path that the pipeline writes or reads, once."""

from dataclasses import dataclass
from pathlib import Path

# The last word in the name of a run that teaches another one; the word before it is that run's name.
TEACHER = "teacher"


def join_names(*names: str) -> str:
    """Join the names of a run's folder, such as ``seed-1`` and ``fold-0``; empty ones are left out."""
    return "-".join(name for name in names if name)


@dataclass(frozen=True)
class Workspace:
    """The folders of one experiment.

    Args:
        root: The folder that holds ``data``, ``runs``, ``reports`` and the MLflow database.
        name: The experiment; its data and splits are shared by all its runs.
        run: The name of one of several runs on the same data, such as a seed or a fold; empty for the only one.
        num_folds: The number of folds that patients are assigned to; each number has a table and a certificate of its
            own, next to those of the single split.
    """

    root: Path
    name: str
    run: str = ""
    num_folds: int = 0

    def name_file(self, path: Path) -> str:
        """Return a path below the workspace as text that stays right where the workspace is moved."""
        return path.relative_to(self.root).as_posix()

    @property
    def title(self) -> str:
        """The experiment and the run, as headings name them."""
        return " / ".join(part for part in (self.name, self.run) if part)

    @property
    def data(self) -> Path:
        return self.root / "data" / self.name

    @property
    def raw(self) -> Path:
        return self.data / "raw"

    @property
    def prepared(self) -> Path:
        """The example store, with the manifest and the contact sheet next to it."""
        return self.data / "prepared"

    @property
    def manifest(self) -> Path:
        return self.prepared / "manifest.csv"

    @property
    def external(self) -> Path:
        """The example store of another site's data, with its manifest; a run has its own."""
        return self.data / join_names("external", self.run)

    @property
    def official_splits(self) -> Path:
        """The publisher's split of a published set."""
        return self.prepared / "official_splits.csv"

    @property
    def splits(self) -> Path:
        return self.data / (f"splits-{self.num_folds}-folds.csv" if self.num_folds else "splits.csv")

    @property
    def certificate(self) -> Path:
        name = f"leak_certificate-{self.num_folds}-folds.json" if self.num_folds else "leak_certificate.json"
        return self.data / name

    @property
    def copies_page(self) -> Path:
        """The page of the scans that show the same; there only where some do."""
        return self.data / (f"copies-{self.num_folds}-folds.html" if self.num_folds else "copies.html")

    @property
    def run_folder(self) -> Path:
        """Checkpoints and training history of one run."""
        return self.root / "runs" / self.name / self.run

    @property
    def best_checkpoint(self) -> Path:
        return self.run_folder / "best.safetensors"

    @property
    def last_checkpoint(self) -> Path:
        return self.run_folder / "last.safetensors"

    @property
    def history(self) -> Path:
        return self.run_folder / "history.csv"

    @property
    def divergence(self) -> Path:
        """The examples of the step whose loss was not finite, where training ended so."""
        return self.run_folder / "diverged.json"

    @property
    def event_folder(self) -> Path:
        """TensorBoard's files, where ``train`` writes them."""
        return self.run_folder / "tensorboard"

    @property
    def run_options(self) -> Path:
        """All options of the run as a config, which ``--config`` reads."""
        return self.run_folder / "config.yaml"

    @property
    def tracking_record(self) -> Path:
        """The facts that MLflow shows of the run, next to its files and curves."""
        return self.run_folder / "mlflow.json"

    @property
    def training_record(self) -> Path:
        """The record that ``train`` writes last: the run is complete."""
        return self.run_folder / "training.json"

    @property
    def attention_maps(self) -> Path:
        """Attention maps kept in training, a file an epoch."""
        return self.run_folder / "attention"

    @property
    def export_folder(self) -> Path:
        """The model in forms that other programs read; weights belong to their run."""
        return self.run_folder / "export"

    @property
    def report_folder(self) -> Path:
        return self.root / "reports" / self.name / self.run

    @property
    def metrics(self) -> Path:
        return self.report_folder / "metrics.json"

    @property
    def predictions(self) -> Path:
        return self.report_folder / "predictions.csv"

    @property
    def external_predictions(self) -> Path:
        return self.report_folder / "predictions_external.csv"

    @property
    def tracking_database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def tracking_artifacts(self) -> Path:
        return self.root / "mlartifacts"
