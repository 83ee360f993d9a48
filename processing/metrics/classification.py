"""Metrics of multi-label classification, for all classes and many resamples at once.

Every class-wise function takes labels and scores of shape (rows, classes) and, optionally, weights of shape
(resamples, rows) that say how often each row was drawn. Without weights it returns (classes,), with them (resamples,
classes). Rows are sorted once per class and the resamples only re-weight them, so a thousand bootstrap resamples of
PTB-XL's test fold take seconds.

A class without a positive or without a negative row has no AUROC, AUPRC or F1: its value is NaN, it is left out of
macro and weighted averages, and `classification_report` names it under `undefined_classes`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .thresholds import decide

AVERAGES = ("macro", "micro", "weighted")
CLASS_METRICS = ("auroc", "auprc", "f1_at_0.5", "f1_tuned", "f1_max_oracle", "brier", "ece")
METRICS = tuple(f"{average}_{metric}" for metric in CLASS_METRICS for average in AVERAGES)
RANKING_METRICS = ("auroc", "auprc", "f1_max_oracle")
"""Class metrics that depend on the order of the scores only, so that any score will do."""


def _check(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 2 or labels.shape != scores.shape or not len(labels):
        raise ValueError(
            f"Expected labels and scores of one shape (rows, classes), got {labels.shape} and {scores.shape}."
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("Expected labels 0 or 1, got other values. Drop or decide unknown labels first.")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"Expected finite scores, got {(~np.isfinite(scores)).sum()} NaN or infinite ones. Mend the model."
        )
    weights = np.ones((1, len(labels))) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(labels):
        raise ValueError(f"Expected weights of shape (resamples, {len(labels)}), got {weights.shape}.")
    return labels.astype(bool), scores, weights


def _by_class(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None, ranked: Callable) -> np.ndarray:
    """Call `ranked` per class with rows in the order of falling score; NaN where it is undefined."""
    labels, scores, w = _check(labels, scores, weights)
    values = np.full((len(w), labels.shape[1]), np.nan)
    for column in range(labels.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        falling = -scores[order, column]
        first, last = (
            np.searchsorted(falling, falling, side=side) for side in ("left", "right")
        )  # bounds of the ties
        positive = labels[order, column]
        if positive.all() or not positive.any():
            continue
        for part in range(0, len(w), 128):  # keeps the cumulative sums in the cache
            rows = w[part : part + 128, order]
            n_positive = rows[:, positive].sum(1)
            defined = (n_positive > 0) & (n_positive < rows.sum(1))
            values[part : part + 128][defined, column] = ranked(
                rows[defined], positive, n_positive[defined], first, last
            )
    return values[0] if weights is None else values


def _cumulative(weights: np.ndarray) -> np.ndarray:
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the area under the ROC curve per class: how often a positive scores above a negative, ties counted half.

    Example:

    >>> auroc(np.array([[0], [0], [1], [1]]), np.array([[0.1], [0.4], [0.35], [0.8]])).tolist()
    [0.75]
    """

    def ranked(w, positive, n_positive, first, last):
        negatives = _cumulative(w * ~positive)
        total = negatives[:, -1:]
        below = total - 0.5 * (negatives[:, first[positive]] + negatives[:, last[positive]])
        return np.einsum("bp,bp->b", w[:, positive], below) / (n_positive * total[:, 0])

    return _by_class(labels, scores, weights, ranked)


def auprc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the average precision per class: the mean of the precision at each positive's score (no interpolation).

    Example:

    >>> auprc(np.array([[0], [0], [1], [1]]), np.array([[0.1], [0.4], [0.35], [0.8]])).round(4).tolist()
    [0.8333]
    """

    def ranked(w, positive, n_positive, first, last):
        hits, drawn = _cumulative(w * positive)[:, last[positive]], _cumulative(w)[:, last[positive]]
        precision = hits / np.maximum(drawn, 1e-300)
        return np.einsum("bp,bp->b", w[:, positive], precision) / n_positive

    return _by_class(labels, scores, weights, ranked)


def f1_max_oracle(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the best F1 that any threshold reaches *on these very rows*, an upper bound out of a user's reach.

    Example:

    >>> f1_max_oracle(np.array([[0], [0], [1], [1]]), np.array([[0.1], [0.4], [0.35], [0.8]])).tolist()
    [0.8]
    """

    def ranked(w, positive, n_positive, first, last):
        ends = np.unique(last)
        hits, drawn = _cumulative(w * positive)[:, ends], _cumulative(w)[:, ends]
        return (2 * hits / (drawn + n_positive[:, None])).max(1)

    return _by_class(labels, scores, weights, ranked)


def f1(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return F1 per class of decisions 0 or 1 of shape (rows, classes).

    Example:

    >>> f1(np.array([[0], [1], [1], [1]]), np.array([[0], [1], [0], [1]])).tolist()
    [0.8]
    """
    labels, predictions, w = _check(labels, predictions, weights)
    n_positive = w @ labels
    defined = (n_positive > 0) & (n_positive < w.sum(1, keepdims=True))
    values = np.where(
        defined, 2 * (w @ (labels * predictions)) / np.maximum(n_positive + w @ predictions, 1e-300), np.nan
    )
    return values[0] if weights is None else values


def brier(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the Brier score per class: the mean squared difference of probability and label.

    Example:

    >>> brier(np.array([[0], [1]]), np.array([[0.2], [0.6]])).round(4).tolist()
    [0.1]
    """
    labels, probabilities, w = _check(labels, probabilities, weights)
    values = w @ (probabilities - labels) ** 2 / w.sum(1, keepdims=True)
    return values[0] if weights is None else values


def ece(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, bins: int = 15
) -> np.ndarray:
    """Return the expected calibration error per class with equal-width bins (Guo et al., ICML 2017).

    Example:

    >>> ece(np.array([[0], [1]]), np.array([[0.25], [0.75]])).tolist()
    [0.25]
    """
    labels, probabilities, w = _check(labels, probabilities, weights)
    bin_of = np.clip((probabilities * bins).astype(int), 0, bins - 1)
    gap = probabilities - labels
    values = sum(np.abs(w @ np.where(bin_of == index, gap, 0)) for index in range(bins)) / w.sum(1, keepdims=True)
    return values[0] if weights is None else values


def metric_value(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    thresholds: Sequence[float] | np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Return one of `METRICS`, a number, or (resamples,) of them when weights are given.

    Args:
        metric (`str`): `"macro"` (mean over the defined classes), `"micro"` (all cells as one class) or `"weighted"`
            (mean weighted by positives), an underscore, and one of `CLASS_METRICS`.
        labels (`np.ndarray` of shape `(rows, classes)`): 0 or 1.
        probabilities (`np.ndarray` of shape `(rows, classes)`): In [0, 1]; any score for `RANKING_METRICS`.
        thresholds (sequence of `float`, *optional*): One per class, for `f1_tuned`; from validation data
            (`tune_thresholds`).
        weights (`np.ndarray` of shape `(resamples, rows)`, *optional*): How often each row was drawn.

    Raises:
        ValueError: If the metric is unknown, thresholds are missing, scores that must be probabilities are not, or an
            array has a wrong shape.

    Example:

    >>> labels = np.array([[0, 1], [1, 0], [1, 1]])
    >>> float(metric_value("macro_auroc", labels, np.array([[0.2, 0.9], [0.7, 0.4], [0.1, 0.8]])))
    0.75
    """
    average, _, name = metric.partition("_")
    if metric not in METRICS:
        raise ValueError(f"Expected a metric out of {', '.join(METRICS)}, got {metric!r}.")
    labels, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if name not in RANKING_METRICS and ((scores < 0) | (scores > 1)).any():
        raise ValueError(
            f"Expected probabilities in [0, 1] for {metric}, got {scores.min():.3g} to {scores.max():.3g}. Apply a "
            f"sigmoid, or ask for ranking metrics only ({', '.join(RANKING_METRICS)})."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"Expected finite scores for {metric}, got {(~np.isfinite(scores)).sum()} that are not.")
    if name in ("f1_at_0.5", "f1_tuned"):
        scores = decide(scores, 0.5 if name == "f1_at_0.5" else thresholds)
    functions = {"auroc": auroc, "auprc": auprc, "f1_max_oracle": f1_max_oracle, "brier": brier, "ece": ece}
    function = functions.get(name, f1)
    if average == "micro":
        cells = labels.reshape(-1, 1), scores.reshape(-1, 1)
        if weights is None:
            return function(*cells)[0]
        parts = (weights[start : start + 32] for start in range(0, len(weights), 32))  # 156,000 cells per resample
        return np.concatenate([function(*cells, np.repeat(part, labels.shape[1], axis=1))[:, 0] for part in parts])
    values = function(labels, scores, weights)
    support = np.ones_like(values) if average == "macro" else (labels.sum(0) if weights is None else weights @ labels)
    support = np.where(np.isnan(values), 0, support)
    with np.errstate(invalid="ignore"):  # no defined class at all: NaN is the answer
        return (np.nan_to_num(values) * support).sum(-1) / support.sum(-1)


def align_predictions(ids: Sequence, expected_ids: Sequence) -> np.ndarray:
    """Return the order that brings predictions into the order of the expected rows.

    Raises:
        ValueError: If a row has no prediction, more than one, or is not expected: a metric over other rows is another
            metric.

    Example:

    >>> align_predictions([7, 5, 9], [5, 7, 9]).tolist()
    [1, 0, 2]
    """
    ids, expected = list(ids), list(expected_ids)
    missing, surplus = set(expected) - set(ids), set(ids) - set(expected)
    if missing or surplus or len(ids) != len(set(ids)) or len(expected) != len(set(expected)):
        raise ValueError(
            f"Expected one prediction for each of {len(expected)} rows, got {len(ids)}: {len(missing)} rows without "
            f"(such as {sorted(missing, key=str)[:3]}), {len(surplus)} not expected, {len(ids) - len(set(ids))} "
            "repeated. Predict every row once (no drop_last)."
        )
    place = {row: index for index, row in enumerate(ids)}
    return np.array([place[row] for row in expected], dtype=np.int64)


def classification_report(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float] | np.ndarray | None = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return every metric, the names of the undefined classes and a table per class, ready for JSON.

    Args:
        labels (`np.ndarray` of shape `(rows, classes)`): 0 or 1.
        probabilities (`np.ndarray` of shape `(rows, classes)`): In [0, 1].
        class_names (sequence of `str`): One per column.
        thresholds (sequence of `float`, *optional*): One per class, from validation data; without them no tuned F1 is
            given.
        metrics (sequence of `str`, *optional*): Names out of `CLASS_METRICS`; by default all of them.

    Returns:
        `dict`: One key per name of `METRICS` asked for (`None` if no class is defined), `n_rows`, `undefined_classes`,
        and `per_class`, a list of {class, positives, threshold, one key per class metric}.

    Raises:
        ValueError: As `metric_value`, or if there is not one name per column.

    Example:

    >>> report = classification_report([[0, 0], [1, 0]], [[0.2, 0.1], [0.9, 0.3]], ["AFIB", "WPW"], metrics=["auroc"])
    >>> report["macro_auroc"], report["undefined_classes"]
    (1.0, ['WPW'])
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.ndim != 2 or len(class_names) != labels.shape[1]:
        raise ValueError(f"Expected one class name per column of the labels {labels.shape}, got {len(class_names)}.")
    wanted = CLASS_METRICS if metrics is None else tuple(metrics)
    wanted = tuple(name for name in wanted if name != "f1_tuned" or thresholds is not None)
    positives = labels.sum(0)
    report: dict[str, Any] = {"n_rows": len(labels)}
    report["undefined_classes"] = [n for n, p in zip(class_names, positives) if p == 0 or p == len(labels)]
    table = [{"class": name, "positives": int(count)} for name, count in zip(class_names, positives)]
    for column, row in enumerate(table):
        row["threshold"] = None if thresholds is None else float(thresholds[column])
    for name in wanted:
        for average in AVERAGES:
            report[f"{average}_{name}"] = _number(metric_value(f"{average}_{name}", labels, probabilities, thresholds))
        for column, row in enumerate(table):
            one = None if thresholds is None else [thresholds[column]]
            cell = slice(column, column + 1)
            row[name] = _number(metric_value(f"macro_{name}", labels[:, cell], probabilities[:, cell], one))
    report["per_class"] = table
    return report


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
