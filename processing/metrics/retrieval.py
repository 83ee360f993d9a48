"""Recall at k of retrieval between ECGs and their reports, where many ECGs share one report.

Recall@k is the share of queries of which at least one right answer is among the k nearest (as for image-text
retrieval: Karpathy & Fei-Fei, CVPR 2015). Right answers of a report are all ECGs that carry the same text; the right
answer of an ECG is its text, and every text stands once among the candidates. A wrong candidate that is exactly as
near as a right one counts as nearer, so that a model to which all is the same finds nothing.
"""

import numpy as np

from .bootstrap import Interval, normal_interval, patient_weights

DIRECTIONS = ("report_to_ecg", "ecg_to_report")


def retrieval_ranks(ecg_embeds: np.ndarray, report_embeds: np.ndarray, owners: np.ndarray) -> dict[str, np.ndarray]:
    """Return at which rank each record finds the first right answer, from 1.

    Args:
        ecg_embeds (`np.ndarray` of shape `(ecgs, size)`): Unit vectors.
        report_embeds (`np.ndarray` of shape `(reports, size)`): Unit vectors of the distinct reports.
        owners (`np.ndarray` of shape `(ecgs,)`): Which report each ECG has.

    Returns:
        `dict`: By direction, int64 of shape `(ecgs,)`; ECGs of one report have one rank in `report_to_ecg`.

    Example:

    >>> ecgs, reports = np.eye(3)[[0, 1, 1]], np.eye(3)[:2]
    >>> ranks = retrieval_ranks(ecgs, reports, np.array([0, 0, 1]))
    >>> ranks["report_to_ecg"].tolist(), ranks["ecg_to_report"].tolist()
    ([1, 1, 2], [1, 2, 1])
    """
    cosines = np.asarray(ecg_embeds, np.float64) @ np.asarray(report_embeds, np.float64).T
    owners = np.asarray(owners)
    own = cosines[np.arange(len(owners)), owners]
    to_report = 1 + (cosines >= own[:, None]).sum(axis=1) - 1  # the text itself is not wrong
    to_ecg = np.empty(cosines.shape[1], dtype=np.int64)
    for report, column in enumerate(cosines.T):
        right = owners == report
        to_ecg[report] = 1 + (column[~right] >= column[right].max()).sum() if right.any() else len(column) + 1
    return {"report_to_ecg": to_ecg[owners], "ecg_to_report": to_report.astype(np.int64)}


def chance_recall(owners: np.ndarray, k: int, direction: str, weights: np.ndarray | None = None) -> float:
    """Return the recall@k of a random order of the candidates, exactly.

    Of `n` ECGs, `m` with the report: 1 - C(n - m, k) / C(n, k); of `r` reports: k / r.

    Args:
        owners (`np.ndarray` of shape `(ecgs,)`): Which report each ECG has, from 0, none left out.
        k (`int`), direction (`str`): One of `DIRECTIONS`.
        weights (`np.ndarray` of shape `(ecgs,)`, *optional*): Of the queries.

    Example:

    >>> owners = np.array([0, 0, 1])
    >>> round(chance_recall(owners, 1, "report_to_ecg"), 3), chance_recall(owners, 1, "ecg_to_report")
    (0.556, 0.5)
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"Expected one of {', '.join(DIRECTIONS)}, got {direction!r}.")
    counts, n = np.bincount(owners), len(owners)
    if direction == "ecg_to_report":
        return min(1.0, k / len(counts))
    missed = np.ones(len(counts))
    for i in range(min(k, n)):  # C(n - m, k) / C(n, k), factor by factor
        missed *= np.maximum(n - counts - i, 0) / (n - i)
    return float(np.average(1 - missed[owners], weights=weights))


def recall_interval(
    ranks: np.ndarray,
    k: int,
    patient_ids: np.ndarray,
    weights: np.ndarray | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return recall@k with its bootstrap interval over the patients of the queries; the candidates stay the same.

    Args:
        ranks (`np.ndarray` of shape `(queries,)`): From `retrieval_ranks`.
        k (`int`), patient_ids (`np.ndarray` of shape `(queries,)`).
        weights (`np.ndarray` of shape `(queries,)`, *optional*): Of the queries, 1 by default.
        n_resamples (`int`), level (`float`), seed (`int`): As in `bootstrap_interval`.

    Example:

    >>> interval = recall_interval(np.array([1, 5, 1, 9]), 1, np.arange(4))
    >>> interval.value, interval.low < 0.5 < interval.high
    (0.5, True)
    """
    hits = np.asarray(ranks) <= k
    weights = np.ones(len(hits)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(hits) == len(weights) == len(patient_ids):
        raise ValueError(
            f"Expected as many ranks as weights and patients, got {len(hits)}, {len(weights)}, {len(patient_ids)}."
        )
    drawn = patient_weights(patient_ids, n_resamples, seed) * weights
    value = float(np.average(hits, weights=weights))
    low, high = normal_interval(value, (drawn @ hits) / drawn.sum(axis=1), level)
    return Interval(value, low, high, level, n_resamples, {})


__all__ = ["DIRECTIONS", "chance_recall", "recall_interval", "retrieval_ranks"]
