"""Uncertainty of a metric and of the difference between two models, by drawing patients, not records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from .classification import RANKING_METRICS, decide, metric_value


@dataclass(frozen=True)
class Interval:
    """A value with its percentile bootstrap interval.

    `undefined_resamples` says for how many resamples each class (by column) lacked a positive or a negative; those
    resamples average over the classes that remain.
    """

    value: float
    low: float
    high: float
    level: float
    n_resamples: int
    undefined_resamples: dict[int, int]


@dataclass(frozen=True)
class Comparison:
    """A difference (model A − model B) with a two-sided p, and with an interval if it comes from a bootstrap."""

    value_a: float
    value_b: float
    difference: float
    low: float | None
    high: float | None
    p: float
    n_resamples: int


def patient_weights(patient_ids: Sequence | np.ndarray, n_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Draw patients with replacement and say how often each record was drawn.

    Returns:
        `np.ndarray` of shape `(n_resamples, records)`, float64: Whole numbers; all records of a patient have the same.

    Example:

    >>> weights = patient_weights(["a", "a", "b"], n_resamples=4, seed=0)
    >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all())
    ((4, 3), True)
    """
    patients, owner = np.unique(np.asarray(patient_ids), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(patients), size=(n_resamples, len(patients)))
    drawn += np.arange(n_resamples)[:, None] * len(patients)
    counts = np.bincount(drawn.ravel(), minlength=n_resamples * len(patients)).reshape(n_resamples, len(patients))
    return counts[:, owner].astype(np.float64)


def bootstrap_interval(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    patient_ids: Sequence | np.ndarray,
    thresholds: Sequence[float] | np.ndarray | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a metric with its percentile bootstrap interval over patients (Efron & Tibshirani, 1993, chapter 13).

    Args:
        metric (`str`): One of `metrics.METRICS`.
        labels (`np.ndarray` of shape `(records, classes)`): 0 or 1.
        probabilities (`np.ndarray` of shape `(records, classes)`): The model's.
        patient_ids (sequence): Who each record is of.
        thresholds (sequence of `float`, *optional*): Per class, for `f1_tuned`. They stay fixed: their own uncertainty
            is that of the validation set and is not part of the interval.
        n_resamples (`int`), level (`float`), seed (`int`): Resamples, coverage, and what makes them repeatable.

    Raises:
        ValueError: If shapes do not fit or the metric is unknown.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, (400, 2))
    >>> interval = bootstrap_interval("macro_auroc", labels, 0.3 * labels + 0.7 * rng.random((400, 2)), np.arange(400))
    >>> interval.low < interval.value < interval.high, round(interval.value, 2)
    (True, 0.82)
    """
    labels = np.asarray(labels)
    _check_patients(labels, patient_ids)
    weights = patient_weights(patient_ids, n_resamples, seed)
    values = metric_value(metric, labels, probabilities, thresholds, weights)
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    positives = weights @ labels
    undefined = ((positives == 0) | (positives == weights.sum(1, keepdims=True))).sum(0)
    return Interval(
        float(metric_value(metric, labels, probabilities, thresholds)),
        float(low),
        float(high),
        level,
        n_resamples,
        {int(column): int(undefined[column]) for column in np.flatnonzero(undefined)},
    )


def paired_bootstrap(
    metric: str,
    labels: np.ndarray,
    probabilities_a: np.ndarray,
    probabilities_b: np.ndarray,
    patient_ids: Sequence | np.ndarray,
    thresholds_a: Sequence[float] | np.ndarray | None = None,
    thresholds_b: Sequence[float] | np.ndarray | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Return the difference A − B with its interval: both models are scored on the same resamples of patients.

    The p-value is twice the smaller share of resamples on either side of zero, with one added to numerator and
    denominator. Arguments and errors as in `bootstrap_interval`.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, (300, 1))
    >>> good, poor = labels + rng.normal(size=(300, 1)), 0.1 * labels + rng.normal(size=(300, 1))
    >>> result = paired_bootstrap("macro_auroc", labels, good, poor, np.arange(300))
    >>> result.low > 0, result.p < 0.01
    (True, True)
    """
    _check_patients(np.asarray(labels), patient_ids)
    weights = patient_weights(patient_ids, n_resamples, seed)
    pair = ((probabilities_a, thresholds_a), (probabilities_b, thresholds_b))
    differences = np.subtract(*(metric_value(metric, labels, p, t, weights) for p, t in pair))
    a, b = (float(metric_value(metric, labels, p, t)) for p, t in pair)
    low, high = np.nanquantile(differences, [(1 - level) / 2, (1 + level) / 2])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return Comparison(
        a, b, a - b, float(low), float(high), float(min(1, 2 * (tail + 1) / (n_resamples + 1))), n_resamples
    )


def paired_permutation(
    metric: str,
    labels: np.ndarray,
    probabilities_a: np.ndarray,
    probabilities_b: np.ndarray,
    patient_ids: Sequence | np.ndarray,
    thresholds_a: Sequence[float] | np.ndarray | None = None,
    thresholds_b: Sequence[float] | np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Test whether two models differ by exchanging their outputs patient by patient.

    If the models are equally good, which output came from which model means nothing, so the observed difference should
    be an ordinary one among those of random exchanges. Outputs are first brought to one scale: ranks within model and
    class for ranking metrics (Venkatraman & Begg, Biometrika 83:835, 1996), decisions for F1, probabilities as they
    are for Brier score and calibration. Arguments and errors as in `bootstrap_interval`.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, (300, 1))
    >>> good, poor = labels + rng.normal(size=(300, 1)), 0.1 * labels + rng.normal(size=(300, 1))
    >>> paired_permutation("macro_auroc", labels, good, poor, np.arange(300)).p < 0.01
    True
    """
    labels = np.asarray(labels)
    _check_patients(labels, patient_ids)
    pair = ((probabilities_a, thresholds_a), (probabilities_b, thresholds_b))
    a, b = (float(metric_value(metric, labels, p, t)) for p, t in pair)
    pooled = np.concatenate([_exchangeable(metric, np.asarray(p, dtype=np.float64), t) for p, t in pair])
    patients, owner = np.unique(np.asarray(patient_ids), return_inverse=True)
    kept = np.random.default_rng(seed).integers(0, 2, size=(n_resamples, len(patients)))[:, owner].astype(np.float64)
    twice, half = np.concatenate([labels, labels]), np.full(labels.shape[1], 0.5)
    first = metric_value(metric, twice, pooled, half, np.concatenate([kept, 1 - kept], axis=1))
    second = metric_value(metric, twice, pooled, half, np.concatenate([1 - kept, kept], axis=1))
    extreme = (np.abs(first - second) >= abs(a - b) - 1e-12).sum()
    return Comparison(a, b, a - b, None, None, float((extreme + 1) / (n_resamples + 1)), n_resamples)


def _exchangeable(metric: str, scores: np.ndarray, thresholds: Sequence[float] | np.ndarray | None) -> np.ndarray:
    average, _, name = metric.partition("_")
    if name in RANKING_METRICS:
        return rankdata(scores, axis=None if average == "micro" else 0).reshape(scores.shape)
    if name in ("f1_at_0.5", "f1_tuned"):
        return decide(scores, 0.5 if name == "f1_at_0.5" else thresholds).astype(np.float64)
    return scores


def _check_patients(labels: np.ndarray, patient_ids: Sequence | np.ndarray) -> None:
    if len(patient_ids) != len(labels):
        raise ValueError(f"Expected one patient id per row, got {len(patient_ids)} for {len(labels)} rows.")
