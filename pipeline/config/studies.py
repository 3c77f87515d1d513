"""The options of stages that train several models: the leak demonstration, folds and seeds."""

from dataclasses import dataclass

from pipeline.config.validation import require


@dataclass(frozen=True)
class AuditConfig:
    """The leak demonstration: one recipe, four ways to divide, true labels and shuffled ones.

    The model is that of the experiment without mirror average and dropout; pictures are not changed, labels not
    smoothed, weights not decayed, and the weights after the last step are judged. Fractions are those of ``split``.

    Args:
        steps: of the optimiser, the same number for all; rounded up to whole passes over the training pictures.
        slices: neighbouring pictures taken from the middle of each volume; 0 takes all.
        learning_rate: the highest; it grows over a tenth of the steps and falls along a cosine.
        seeds: each draws divisions, shuffled labels and first weights anew; results are pooled.
    """

    steps: int = 400
    slices: int = 10
    learning_rate: float = 2e-3
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        require(self.steps >= 1, "audit.steps", self.steps, "1 or more")
        require(self.slices >= 0, "audit.slices", self.slices, "0 (all) or more")
        require(self.learning_rate > 0, "audit.learning_rate", self.learning_rate, "above 0")
        require_distinct("audit.seeds", self.seeds)


@dataclass(frozen=True)
class FoldsConfig:
    """Training and judging every fold, so that every patient is tested once, and with several seeds.

    There are ``split.num_folds`` folds, five where it is 0.

    Args:
        seeds: values of ``train.seed``; each trains every fold anew. None means the one of ``train.seed``.
        keep_split: no folds: every seed on the single split, or on a published set's own.
    """

    seeds: tuple[int, ...] = ()
    keep_split: bool = False

    def __post_init__(self) -> None:
        if self.seeds:
            require_distinct("folds.seeds", self.seeds)
        given = len(self.seeds) > 0 or not self.keep_split
        require(given, "folds.seeds", [], "one seed or more where folds.keep_split is true")


def require_distinct(field: str, seeds: tuple[int, ...]) -> None:
    """Refuse an empty list of seeds, and one that names a seed twice."""
    require(len(seeds) >= 1 and len(set(seeds)) == len(seeds), field, list(seeds), "one seed or more, each once")
