"""Thresholds: chosen on validation data, and as good there as any."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from modeling_merit.processing.metrics.classification import f1, f1_max_oracle
from modeling_merit.processing.metrics.thresholds import decide, tune_thresholds


def test_thresholds_come_from_validation_only():
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 3)) < 0.1).astype(int)
    probabilities = norm.cdf(rng.normal(size=labels.shape) + 1.5 * labels)
    val, test = slice(0, 1000), slice(1000, None)
    thresholds = tune_thresholds(probabilities[val], labels[val])
    tuned = f1(labels[val], decide(probabilities[val], thresholds))
    np.testing.assert_allclose(tuned, f1_max_oracle(labels[val], probabilities[val]))
    on_test = f1(labels[test], decide(probabilities[test], thresholds))
    assert (on_test <= f1_max_oracle(labels[test], probabilities[test])).all()
    assert (on_test > f1(labels[test], decide(probabilities[test], 0.5))).all()
    empty = tune_thresholds(probabilities[val], np.zeros_like(labels[val]))
    assert empty.tolist() == [0.5] * 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_tuned_thresholds_reach_the_best_f1_whatever_the_ties(seed):
    rng = np.random.default_rng(seed)
    labels, probabilities = rng.integers(0, 2, (20, 1)), rng.integers(0, 5, (20, 1)) / 4
    labels[:2] = [[0], [1]]
    reached = f1(labels, decide(probabilities, tune_thresholds(probabilities, labels)))
    np.testing.assert_allclose(reached, f1_max_oracle(labels, probabilities))
