"""The baseline of grades: a cumulative logit model (proportional odds) on pixels.

scikit-learn has no ordinal model; statsmodels has one without a penalty, which more pixels than images need, and would
be a dependency for these few lines.
"""

from collections.abc import Sequence

import numpy as np
import scipy.optimize
from scipy.special import expit, log_expit

from pipeline.core.array_types import Floats, Indices
from pipeline.data.store import Store
from pipeline.evaluation.baselines import (
    MAX_ITERATIONS,
    TOLERANCE,
    Labels,
    choose_rows,
    fit_linear_model,
    pool_images,
)


def ordinal_logistic(store: Store, rows: dict[str, Indices], seed: int = 0, max_rows: int = 10_000) -> Floats:
    """Fit a cumulative logit model of the pixels and score the test images.

    Pixels, penalties and the choice of the penalty are those of ``baselines.logistic_regression``.

    Args:
        store: Images and their labels; a grade that training lacks gets probability 0.
        rows: The rows of "train", "val" (used for the penalty alone) and "test".
        seed: The seed of the rows that are drawn where there are too many.
        max_rows: The largest number of training rows that are fitted.

    Returns:
        ``(test rows, classes)``, each row sums to 1.
    """
    chosen = {**rows, "train": rows["train"][choose_rows(len(rows["train"]), max_rows, seed)]}
    return fit_linear_model(store, chosen, pool_images, CumulativeLogit(store.class_names))


class CumulativeLogit:
    """A linear model of grades, with the methods of a classifier of scikit-learn.

    The probability of a grade up to k is the sigmoid of cut point k minus a weighted sum of the values, so that a value
    moves a row along one line, whatever its grade. The loss is that of scikit-learn's logistic regression: ``C`` times
    the negative log-likelihood, plus half the sum of the squared weights.

    Args:
        class_names: All grades, from the lowest to the highest.

    Attributes:
        classes_: Those of them that the fitted rows have.

    Source:
        McCullagh, "Regression models for ordinal data", Journal of the Royal Statistical Society B 42, 1980.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.classes_: tuple[str, ...] = ()
        self.inverse_regularisation = 1.0
        self.parameters: Floats = np.zeros(0)

    def set_params(self, C: float) -> "CumulativeLogit":  # noqa: N803 (scikit-learn's name)
        """Set the inverse of the penalty's strength."""
        self.inverse_regularisation = C
        return self

    def fit(self, values: Floats, labels: Labels) -> "CumulativeLogit":
        """Fit rows ``(rows, values)``, from the parameters of the last fit on, which had the same labels."""
        texts = np.array(list(labels), dtype=str)
        self.classes_ = tuple(name for name in self.class_names if name in set(texts))
        order = {name: place for place, name in enumerate(self.classes_)}
        grades = np.array([order[text] for text in texts])
        if len(self.parameters) == 0:
            reached = np.cumsum(np.bincount(grades))[:-1] / len(grades)
            cuts = np.log(reached / (1 - reached))
            gaps = np.log(np.diff(cuts))
            self.parameters = np.concatenate([np.zeros(values.shape[1]), cuts[:1], gaps])
        found = scipy.optimize.minimize(
            compute_penalised_loss,
            self.parameters,
            (values, grades, self.inverse_regularisation),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE},
        )
        self.parameters = found.x
        return self

    def predict_proba(self, values: Floats) -> Floats:
        """Return the probabilities ``(rows, classes_)``."""
        weights, cuts = split_parameters(self.parameters, values.shape[1])
        scores = values @ weights
        up_to = expit(np.append(cuts, np.inf)[None] - scores[:, None])
        return np.diff(up_to, axis=1, prepend=0.0)


def split_parameters(parameters: Floats, num_values: int) -> tuple[Floats, Floats]:
    """Return the weights, and the growing cut points of their first one and the logarithms of the gaps."""
    first = parameters[num_values : num_values + 1]
    cuts = first + np.concatenate([[0.0], np.cumsum(np.exp(parameters[num_values + 1 :]))])
    return parameters[:num_values], cuts


def compute_penalised_loss(
    parameters: Floats, values: Floats, grades: Indices, inverse_regularisation: float
) -> tuple[float, Floats]:
    """Compute the loss of a cumulative logit model, and its gradient.

    With u and l, the distances of a row's score to the cut points above and below its grade, the probability of the
    grade is sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), which loses no digits.

    Args:
        parameters: The weights, the first cut point, and the logarithms of the gaps to the next ones.
        values: ``(rows, values)``.
        grades: ``(rows,)``, counted from 0.
        inverse_regularisation: The factor of the negative log-likelihood.
    """
    num_values = values.shape[1]
    weights, cuts = split_parameters(parameters, num_values)
    scores = values @ weights
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    upper, lower = edges[grades + 1] - scores, edges[grades] - scores
    log_rest = np.log(-np.expm1(edges[grades] - edges[grades + 1]))
    loss = -(log_expit(upper) + log_expit(-lower) + log_rest).sum()
    # The slopes of a row's log-likelihood in the cut points above and below.
    above = np.exp(log_expit(-upper) - log_expit(-lower) - log_rest)
    below = np.exp(log_expit(lower) - log_expit(upper) - log_rest)
    of_edges = np.bincount(grades + 1, above, len(edges)) - np.bincount(grades, below, len(edges))
    of_cuts = of_edges[1:-1]
    # A gap moves all cut points that lie above it.
    of_gaps = np.cumsum(of_cuts[::-1])[::-1]
    gradient = np.concatenate(
        [-values.T @ (above - below), of_gaps[:1], of_gaps[1:] * np.exp(parameters[num_values + 1 :])]
    )
    penalty = np.concatenate([weights, np.zeros(len(cuts))])
    total = inverse_regularisation * loss + 0.5 * float(weights @ weights)
    return float(total), -inverse_regularisation * gradient + penalty
