"""The linear probe: logistic regression on frozen features, solved to its optimum.

It is an own solver because scikit-learn's takes about six times as long on the tasks of PTB-XL: here all classes share
the passes over the features, and each C starts from the solution of the one before.
Probabilities equal scikit-learn's (`tests/test_probing_logistic.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from ..metrics.classification import auroc

DEFAULT_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
PRIOR_SCALES = (0.0, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class ProbeResult:
    """Probabilities of a probe and what was chosen on the way.

    Args:
        val_probabilities, test_probabilities (`np.ndarray` of shape `(rows, classes)`): Of the chosen C.
        c (`float`): The inverse regularisation strength.
        val_macro_auroc (`dict`): The mean validation AUROC of the defined classes for each C and prior scale that were
            tried together.
        prior_scale (`float`): How much of the prior scores the log-odds hold; 0 without a prior.
    """

    val_probabilities: np.ndarray
    test_probabilities: np.ndarray
    c: float
    val_macro_auroc: dict[tuple[float, float], float]
    prior_scale: float = 0.0


def logistic_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    val_x: np.ndarray,
    val_y: np.ndarray,
    test_x: np.ndarray,
    grid: Sequence[float] = DEFAULT_GRID,
    prior: Sequence[np.ndarray] | None = None,
    prior_scales: Sequence[float] = PRIOR_SCALES,
) -> ProbeResult:
    """Return what one-vs-rest L2 logistic regression on standardised features predicts, C chosen on validation AUROC.

    The objective of every class is scikit-learn's: `C · Σ log-loss + ½‖w‖²`, intercept free. Features are standardised
    with the mean and standard deviation of the training rows; constant ones are dropped. A class whose training labels
    are all alike is given that label as its probability.

    With a `prior`, such as zero-shot scores, the log-odds are `prior_scale · prior + w·x + b`, the prior standardised
    as the features are: the weights correct a classifier that needed no labels, and penalty and labels decide how far.
    A class whose training labels are all alike then keeps the order of its prior.

    Args:
        train_x, val_x, test_x (`np.ndarray` of shape `(rows, features)`): Frozen features.
        train_y, val_y (`np.ndarray` of shape `(rows, classes)`): 0 or 1.
        grid (sequence of `float`): Values of C to choose from, tried from the smallest on until validation has fallen
            twice in a row: larger ones take the longest to fit, and fit more closely still.
        prior (three `np.ndarray` of shape `(rows, classes)`, *optional*): What a classifier that has not seen these
            labels says of the training, validation and test rows; any monotonic score.
        prior_scales (sequence of `float`): To choose from on validation AUROC, together with C.

    Raises:
        ValueError: If shapes do not fit, a feature is not finite, or no class can be scored on the validation rows.
        RuntimeError: If a fit does not converge.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(600, 5))
    >>> y = (x[:, :2] + rng.normal(size=(600, 2)) > 0).astype(int)
    >>> result = logistic_probe(x[:400], y[:400], x[400:500], y[400:500], x[500:])
    >>> result.test_probabilities.shape, bool(auroc(y[500:], result.test_probabilities).min() > 0.7)
    ((100, 2), True)
    """
    train_x, val_x, test_x = (np.asarray(x, dtype=np.float64) for x in (train_x, val_x, test_x))
    train_y, val_y = np.asarray(train_y), np.asarray(val_y)
    widths = {x.shape[1:] for x in (train_x, val_x, test_x)}
    if (
        len(widths) != 1
        or train_y.shape[1:] != val_y.shape[1:]
        or len(train_x) != len(train_y)
        or len(val_x) != len(val_y)
    ):
        shapes = [a.shape for a in (train_x, train_y, val_x, val_y, test_x)]
        raise ValueError(
            f"Expected features (rows, features) and labels (rows, classes) that fit together, got {shapes}."
        )
    if not all(np.isfinite(x).all() for x in (train_x, val_x, test_x)):
        raise ValueError(
            "Expected finite features, got NaN or infinity. Impute them first (sklearn.impute.SimpleImputer)."
        )
    if not (val_y.any(0) & ~val_y.all(0)).any():
        raise ValueError(
            "Expected validation labels with positives and negatives, got none for any class. Use more rows."
        )
    mean, deviation = train_x.mean(0), train_x.std(0)
    varying = deviation > 1e-12 * np.maximum(1, np.abs(mean))
    deviation = np.where(varying, deviation, np.inf)
    train_x, val_x, test_x = ((x - mean) / deviation for x in (train_x, val_x, test_x))
    trained = np.flatnonzero(train_y.any(0) & ~train_y.all(0))
    # A rotation leaves ‖w‖ alone, and along the principal axes the Hessian is nearly diagonal: steps get cheap.
    _, axes = np.linalg.eigh(train_x.T @ train_x)
    rotated = train_x @ axes
    shapes = [(len(x), train_y.shape[1]) for x in (train_x, val_x, test_x)]
    scores = _standardised_prior([np.zeros(shape) for shape in shapes] if prior is None else prior, shapes)
    constant = np.setdiff1d(np.arange(train_y.shape[1]), trained)
    frequencies = (train_y[:, constant].sum(0) + 0.5) / (len(train_y) + 1)
    fits, macro = {}, {}
    for scale in (0.0,) if prior is None else prior_scales:
        offset = [scale * part for part in scores]
        weights = np.zeros((train_x.shape[1] + 1, len(trained)))
        of_scale = []
        for c in sorted(grid):
            weights = fit_logistic(rotated, train_y[:, trained], c, weights, offset=offset[0][:, trained])
            fit = fits[c, scale] = np.zeros((train_x.shape[1] + 1, train_y.shape[1]))
            fit[:-1, trained], fit[-1, trained] = axes @ weights[:-1], weights[-1]
            fit[-1, constant] = logit(frequencies)
            of_scale.append(float(np.nanmean(auroc(val_y, _probabilities(val_x, fit, train_y, offset[1])))))
            macro[c, scale] = of_scale[-1]
            if len(of_scale) > 2 and of_scale[-3] > of_scale[-2] > of_scale[-1]:
                break
    c, scale = best = max(macro, key=lambda choice: macro[choice])
    val = _probabilities(val_x, fits[best], train_y, scale * scores[1])
    test = _probabilities(test_x, fits[best], train_y, scale * scores[2])
    return ProbeResult(val, test, c, macro, scale)


def fit_logistic(
    x: np.ndarray,
    y: np.ndarray,
    c: float,
    start: np.ndarray | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 200,
    offset: np.ndarray | None = None,
) -> np.ndarray:
    """Return the minimum of `mean log-loss + ‖w‖² / (2·C·rows)` for all classes at once by a truncated Newton method.

    Each step solves the Newton equation of every class with conjugate gradients, preconditioned by the Hessian's
    diagonal, and halves the step of those classes whose objective would not fall (Nocedal & Wright, Numerical
    Optimization, chapter 7).

    Args:
        x (`np.ndarray` of shape `(rows, features)`): Best along principal axes.
        y (`np.ndarray` of shape `(rows, classes)`): 0 or 1, both present in every column.
        c (`float`): Inverse regularisation strength, as in scikit-learn.
        start (`np.ndarray` of shape `(features + 1, classes)`, *optional*): Where to start; the last row is the
            intercept.
        tolerance (`float`): The largest component of a gradient at which a class counts as solved, as a fraction of
            its largest component at zero.
        max_steps (`int`): Newton steps before giving up.
        offset (`np.ndarray` of shape `(rows, classes)`, *optional*): Part of the log-odds that stays as it is.

    Returns:
        `np.ndarray` of shape `(features + 1, classes)`.

    Raises:
        RuntimeError: If a class is not solved after `max_steps` steps.
    """
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    y = y.astype(np.float64)
    squares = x * x
    penalty = np.full((x.shape[1], 1), 1 / (c * len(x)))
    penalty[-1] = 0
    w = np.zeros((x.shape[1], y.shape[1])) if start is None else start.copy()
    offset = np.zeros_like(y) if offset is None else offset
    limit = tolerance * np.abs(x.T @ (y - 0.5)).max(0) / len(x)
    active = np.arange(y.shape[1])
    for _ in range(max_steps):
        logits = x @ w[:, active] + offset[:, active]
        p = expit(logits)
        gradient = x.T @ (p - y[:, active]) / len(x) + penalty * w[:, active]
        unsolved = np.abs(gradient).max(0) > limit[active]
        active, logits, p, gradient = active[unsolved], logits[:, unsolved], p[:, unsolved], gradient[:, unsolved]
        if not len(active):
            return w
        curvature = p * (1 - p) / len(x)
        step = _solve(x, curvature, penalty, squares.T @ curvature + penalty, -gradient)
        size = _step_size(logits, x @ step, y[:, active], w[:, active], step, penalty, (gradient * step).sum(0))
        w[:, active] += size * step
    raise RuntimeError(
        f"Expected logistic regression (C={c}) to converge in {max_steps} steps, got {len(active)} classes unsolved. "
        "Leave large values of C out of the grid, or reduce the features."
    )


def _solve(
    x: np.ndarray, curvature: np.ndarray, penalty: np.ndarray, diagonal: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Solve `(XᵀDX + penalty) s = target` by conjugate gradients, one system per column, as far as Newton needs."""
    solution, residual = np.zeros_like(target), target.copy()
    preconditioned = residual / diagonal
    direction = preconditioned.copy()
    product = (residual * preconditioned).sum(0)
    goal = np.minimum(0.1, np.sqrt(np.abs(target).max(0))) ** 2 * product
    for _ in range(200):
        running = np.flatnonzero(product > goal)
        if not len(running):
            break
        along = direction[:, running]
        image = x.T @ (curvature[:, running] * (x @ along)) + penalty * along
        length = product[running] / np.maximum((along * image).sum(0), 1e-300)
        solution[:, running] += length * along
        residual[:, running] -= length * image
        preconditioned = residual[:, running] / diagonal[:, running]
        new = (residual[:, running] * preconditioned).sum(0)
        direction[:, running] = preconditioned + new / product[running] * along
        product[running] = new
    return solution


def _step_size(logits, change, y, w, step, penalty, slope) -> np.ndarray:
    """Halve the step of each class until its objective falls as Armijo's rule asks."""

    def objective(size: np.ndarray) -> np.ndarray:
        z = logits + size * change
        return (np.logaddexp(0, z) - y * z).mean(0) + 0.5 * (penalty * (w + size * step) ** 2).sum(0)

    size = np.ones(len(slope))
    before = objective(np.zeros_like(size))
    for _ in range(30):
        worse = objective(size) > before + 1e-4 * size * slope + 1e-13
        if not worse.any():
            break
        size[worse] *= 0.5
    return size


def _standardised_prior(prior: Sequence[np.ndarray], shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return the prior of every split, each class with mean 0 and standard deviation 1 over the training rows.

    Raises:
        ValueError: If a shape does not fit, or a score is not finite.
    """
    parts = [np.asarray(part, dtype=np.float64) for part in prior]
    if [part.shape for part in parts] != list(shapes) or not all(np.isfinite(part).all() for part in parts):
        raise ValueError(
            f"Expected finite prior scores of shapes {list(shapes)}, one per row and class, got "
            f"{[part.shape for part in parts]}. Give those of the training, validation and test rows."
        )
    mean, deviation = parts[0].mean(0), parts[0].std(0)
    return [(part - mean) / np.where(deviation > 0, deviation, 1) for part in parts]


def _probabilities(x: np.ndarray, weights: np.ndarray, train_y: np.ndarray, offset: np.ndarray | float) -> np.ndarray:
    """Without an offset, a class whose training labels are all alike has that label as its probability."""
    probabilities = expit(x @ weights[:-1] + weights[-1] + offset)
    known = train_y.any(0) & ~train_y.all(0) | np.any(offset, axis=0)
    return np.where(known, probabilities, train_y[:1])
