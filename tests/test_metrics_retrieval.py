"""Recall at k with repeated reports, ties, chance and intervals."""

from itertools import permutations

import numpy as np
import pytest

from modeling_merit.processing.metrics.retrieval import chance_recall, recall_interval, retrieval_ranks


def test_ranks_equal_a_sort_of_the_candidates():
    rng = np.random.default_rng(0)
    owners = np.concatenate([np.arange(40), rng.integers(0, 40, 160)])
    ecgs, reports = rng.normal(size=(200, 8)), rng.normal(size=(40, 8))
    ranks = retrieval_ranks(ecgs, reports, owners)
    cosines = ecgs @ reports.T
    for i in range(200):
        order = np.argsort(-cosines[i]).tolist()
        assert ranks["ecg_to_report"][i] == 1 + order.index(owners[i])
        order = owners[np.argsort(-cosines[:, owners[i]])].tolist()
        # One more than the wrong ECGs before the first right one.
        assert ranks["report_to_ecg"][i] == 1 + order.index(owners[i])


def test_equal_reports_are_right_answers_and_equal_candidates_are_not():
    owners = np.array([0, 0, 0, 1])
    found = retrieval_ranks(np.eye(4)[[3, 0, 3, 1]], np.eye(4)[:2], owners)
    assert found["report_to_ecg"].tolist() == [1, 1, 1, 1]  # the second ECG answers for all of its report
    collapsed = retrieval_ranks(np.ones((4, 2)), np.ones((2, 2)), owners)
    assert collapsed["report_to_ecg"].tolist() == [2, 2, 2, 4] and collapsed["ecg_to_report"].tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_chance_is_the_mean_over_all_orders(k):
    owners = np.array([0, 0, 1, 2, 2])
    hits = [[owner in owners[list(order[:k])] for owner in owners] for order in permutations(range(5))]
    assert chance_recall(owners, k, "report_to_ecg") == pytest.approx(np.mean(hits))
    once = 1 / np.bincount(owners)[owners]
    distinct = [[owner in owners[list(order[:k])] for owner in range(3)] for order in permutations(range(5))]
    assert chance_recall(owners, k, "report_to_ecg", once) == pytest.approx(np.mean(distinct))
    assert chance_recall(owners, k, "ecg_to_report") == pytest.approx(min(1, k / 3))
    with pytest.raises(ValueError, match="report_to_ecg"):
        chance_recall(owners, k, "both")


def test_random_vectors_are_at_chance():
    rng, found = np.random.default_rng(1), []
    owners = np.concatenate([np.arange(100), rng.integers(0, 30, 200)])
    for _ in range(40):
        ecgs = rng.normal(size=(300, 64))
        ecgs /= np.linalg.norm(ecgs, axis=1, keepdims=True)
        ranks = retrieval_ranks(ecgs, rng.normal(size=(100, 64)), owners)
        found.append([np.mean(ranks[direction] <= 10) for direction in ("report_to_ecg", "ecg_to_report")])
    chance = [chance_recall(owners, 10, direction) for direction in ("report_to_ecg", "ecg_to_report")]
    error = np.std(found, axis=0) / np.sqrt(40)
    assert (np.abs(np.mean(found, axis=0) - chance) < 4 * error).all() and (error < 0.02).all()


def test_intervals_draw_patients_and_cover():
    """Of 200 samples, the intervals of about 95 % hold the truth; records of one patient do not count as many."""
    rng, covered = np.random.default_rng(2), 0
    for seed in range(200):
        ranks = np.where(rng.random(150) < 0.3, 1, 7)
        interval = recall_interval(ranks, 5, np.arange(150), n_resamples=200, seed=seed)
        covered += interval.low <= 0.3 <= interval.high
    assert 180 <= covered <= 198
    one = recall_interval(np.repeat(ranks, 4), 5, np.repeat(np.arange(150), 4), n_resamples=500)
    alone = recall_interval(np.repeat(ranks, 4), 5, np.arange(600), n_resamples=500)
    assert one.high - one.low == pytest.approx(2 * (alone.high - alone.low), rel=0.2)


def test_weights_count_queries():
    interval = recall_interval(np.array([1, 9, 9]), 1, np.arange(3), weights=np.array([2.0, 1.0, 1.0]))
    assert interval.value == 0.5
    with pytest.raises(ValueError, match="got 3, 2, 3"):
        recall_interval(np.array([1, 9, 9]), 1, np.arange(3), weights=np.ones(2))
