"""Decision thresholds: one per class, chosen on validation data, applied to probabilities."""

from collections.abc import Sequence

import numpy as np


def decide(probabilities: np.ndarray, thresholds: float | Sequence[float] | np.ndarray | None) -> np.ndarray:
    """Return int8 decisions: 1 where a probability reaches its class's threshold.

    Args:
        probabilities (`np.ndarray` of shape `(rows, classes)`): In [0, 1].
        thresholds (`float` or sequence of `float`): One for all classes, or one each.

    Raises:
        ValueError: If thresholds are missing, or neither one number nor one per class.

    Example:

    >>> decide(np.array([[0.2, 0.4]]), [0.1, 0.5]).tolist()
    [[1, 0]]
    """
    probabilities = np.asarray(probabilities)
    if thresholds is None or np.shape(thresholds) not in ((), probabilities.shape[1:]):
        raise ValueError(
            f"Expected one threshold or one for each of {probabilities.shape[1]} classes, got "
            f"{'none' if thresholds is None else np.shape(thresholds)}. Get them from tune_thresholds."
        )
    return (probabilities >= np.asarray(thresholds)).astype(np.int8)


def tune_thresholds(val_probabilities: np.ndarray, val_labels: np.ndarray) -> np.ndarray:
    """Return, for each class, the threshold with the highest F1 on validation data.

    It lies half-way between the two neighbouring probabilities that it separates; among equal F1 the highest threshold
    is taken. A class without a validation positive gets 0.5: there is nothing to choose by.

    Args:
        val_probabilities (`np.ndarray` of shape `(rows, classes)`): In [0, 1].
        val_labels (`np.ndarray` of shape `(rows, classes)`): 0 or 1.

    Returns:
        `np.ndarray` of shape `(classes,)`.

    Raises:
        ValueError: If the shapes differ.

    Example:

    >>> tune_thresholds(np.array([[0.1], [0.2], [0.4], [0.8]]), np.array([[0], [0], [1], [1]])).round(3).tolist()
    [0.3]
    """
    probabilities, labels = np.asarray(val_probabilities, dtype=np.float64), np.asarray(val_labels)
    if labels.shape != probabilities.shape or labels.ndim != 2:
        raise ValueError(f"Expected two arrays (rows, classes), got {probabilities.shape} and {labels.shape}.")
    thresholds = np.full(labels.shape[1], 0.5)
    for column in np.flatnonzero(labels.any(0)):
        order = np.argsort(-probabilities[:, column], kind="stable")
        falling = probabilities[order, column]
        hits = np.cumsum(labels[order, column])
        scores = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
        below = np.append(falling[1:], 0.0)
        scores[:-1][falling[:-1] == below[:-1]] = -1  # no threshold can part equal probabilities
        best = int(np.argmax(scores))
        thresholds[column] = (falling[best] + below[best]) / 2
    return thresholds


__all__ = ["decide", "tune_thresholds"]
