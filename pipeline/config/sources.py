"""The options of the files that are read, and of the split of their patients."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.validation import require


@dataclass(frozen=True)
class DataConfig:
    """The files that are read.

    Args:
        dataset: The reader, a key of ``pipeline.datasets.DATASETS``.
        variant: The set of a collection that ``dataset`` names: of MedMNIST the name of its file, such as
            ``breastmnist`` for 28 pixels or ``breastmnist_64``.
        raw_folder: The folder with the files as they came; without it ``data/NAME/raw`` of the workspace, and for a
            published set ``data/DATASET/raw``, the same for all experiments on it.
        pattern: The pattern of file names that are read, such as ``*Label1*``.
        label_table: A CSV with columns ``path, patient, label`` (paths relative to the raw folder), for names
            that carry no label or for other labels than the side.
        allow_partial: Accept a published set of which a part is missing; the report then states it.
    """

    dataset: str = "akoa"
    variant: str | None = None
    raw_folder: Path | None = None
    pattern: str = "*"
    label_table: Path | None = None
    allow_partial: bool = False


@dataclass(frozen=True)
class SplitConfig:
    """The split of the patients into train, validation and test.

    A published set keeps its own test rows, and its validation rows where it has any; else validation is drawn from its
    training rows, image by image.

    Args:
        val_fraction: The fraction of the patients for validation; of a published set, the fraction of its training
            rows.
        val_count: The number of a published set's rows for validation; null takes ``val_fraction``.
        test_fraction: The fraction of the patients for the test; not read where the set has published test rows.
        num_folds: The number of folds; 0 makes one split by fractions.
        test_fold: The fold that is the test, where there are folds; the next one is validation.
        split_table: A CSV with columns ``group_id, split`` that is taken as it is.
        stratify: Keep the mix of the patients' sets of labels in every split.
        seed: The seed of the random number generator.
        accept_copies: Pairs of scans, as ``leak_certificate.json`` names them, that may lie in two splits although
            they show the same: a person looked at them. The report names them.
    """

    val_fraction: float = 0.15
    val_count: int | None = None
    test_fraction: float = 0.25
    num_folds: int = 0
    test_fold: int = 0
    split_table: Path | None = None
    stratify: bool = True
    seed: int = 0
    accept_copies: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for field in ("val_fraction", "test_fraction"):
            fraction = getattr(self, field)
            require(0 < fraction < 1, f"split.{field}", fraction, "between 0 and 1")
        good_count = self.val_count is None or self.val_count >= 1
        require(good_count, "split.val_count", self.val_count, "1 or more, or null")
        total = self.val_fraction + self.test_fraction
        require(total < 1, "split.val_fraction + split.test_fraction", total, "below 1, or nothing is left to train")
        require(self.num_folds == 0 or self.num_folds >= 3, "split.num_folds", self.num_folds, "0, or 3 and more")
        good_fold = 0 <= self.test_fold < max(1, self.num_folds)
        require(good_fold, "split.test_fold", self.test_fold, f"0 to {max(1, self.num_folds) - 1}")
        for pair in self.accept_copies:
            require(pair[0] != pair[1], "split.accept_copies", pair, "pairs of two different scans")
