"""Calibration: probabilities that mean what they say, by one slope and one shift of the log-odds per class."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

LIMIT = 1e-7
"""Probabilities nearer to 0 or 1 than this are taken for it: log-odds stay finite."""


def fit_calibration(val_probabilities: np.ndarray, val_labels: np.ndarray) -> np.ndarray:
    """Return what `calibrate` needs to make the probabilities of each class match how often it is there.

    Platt scaling (1999), `p' = sigmoid(slope · logit(p) + shift)`. The slope is above 0, so that ranks, and with them
    AUROC and AUPRC, stay as they are. Logarithm of the slope and shift have a standard normal prior, which keeps rare
    classes near what the model said; a class that has only one label on the validation rows stays as it is.

    Args:
        val_probabilities (`np.ndarray` of shape `(rows, classes)`): In [0, 1], of records the model was not fitted on.
        val_labels (`np.ndarray` of shape `(rows, classes)`): 0 or 1.

    Returns:
        `np.ndarray` of shape `(2, classes)`: Slopes and shifts.

    Raises:
        ValueError: If the shapes differ.

    Example: a model that is too sure of itself by a factor of two in the log-odds.

    >>> rng = np.random.default_rng(0)
    >>> truth = rng.uniform(size=(5000, 1))
    >>> labels = (rng.uniform(size=truth.shape) < truth).astype(int)
    >>> abs(fit_calibration(expit(2 * logit(truth)), labels).round(1)).tolist()
    [[0.5], [0.0]]
    """
    labels = np.asarray(val_labels)
    if labels.shape != np.shape(val_probabilities) or labels.ndim != 2:
        raise ValueError(f"Expected two arrays (rows, classes), got {np.shape(val_probabilities)} and {labels.shape}.")
    log_odds = _log_odds(val_probabilities)
    fitted = np.tile([[1.0], [0.0]], labels.shape[1])
    for column in np.flatnonzero(labels.any(0) & ~labels.all(0)):
        x, y = log_odds[:, column], labels[:, column]

        def objective(parameters, x=x, y=y):
            slope, shift = np.exp(parameters[0]), parameters[1]
            z = slope * x + shift
            error = expit(z) - y
            gradient = np.array([slope * (error * x).sum(), error.sum()]) + parameters
            return (np.logaddexp(0, z) - y * z).sum() + 0.5 * (parameters**2).sum(), gradient

        log_slope, shift = minimize(objective, np.zeros(2), jac=True, method="BFGS").x
        fitted[:, column] = np.exp(log_slope), shift
    return fitted


def calibrate(probabilities: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Return the probabilities (rows, classes) as `fit_calibration` found them to be right.

    Example:

    >>> calibrate(np.array([[0.8, 0.3]]), np.array([[0.5, 1.0], [0.0, 0.0]])).round(3).tolist()
    [[0.667, 0.3]]
    """
    slopes, shifts = calibration
    return expit(slopes * _log_odds(probabilities) + shifts)


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    return logit(np.clip(np.asarray(probabilities, dtype=np.float64), LIMIT, 1 - LIMIT))


__all__ = ["calibrate", "fit_calibration"]
