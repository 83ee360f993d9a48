"""Intervals and tests against simulations with a known truth."""

import time

import numpy as np
import pytest
from scipy.stats import norm

from modeling_merit.processing.metrics.bootstrap import (
    Interval,
    bootstrap_comparison,
    bootstrap_interval,
    compare_models,
    normal_interval,
    patient_weights,
)
from modeling_merit.processing.metrics.classification import metric_value


def _binormal(rng, rows, classes=1, shift=1.0, prevalence=0.3):
    """Labels and scores whose AUROC is Φ(shift / √2)."""
    labels = (rng.random((rows, classes)) < prevalence).astype(int)
    return labels, rng.normal(size=(rows, classes)) + shift * labels


def _clustered(rng, patients, prevalence, classes):
    """Labels, scores and patients: one to three records each, alike in labels and in errors."""
    owner = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    own, common = rng.normal(size=(2, len(owner), classes)), rng.normal(size=(2, patients, classes))[:, owner]
    liability, noise = np.sqrt(0.7) * common[0] + np.sqrt(0.3) * own[0], np.sqrt(0.5) * (common[1] + own[1])
    labels = (norm.cdf(liability) < prevalence).astype(int)
    return labels, noise + 1.2 * labels, owner


def _coverage(metric, prevalence, classes, repetitions, n_resamples=200, patients=300):
    """The fraction of intervals that hold the value of the population."""
    rng = np.random.default_rng(0)
    labels, scores, _ = _clustered(rng, 40_000, prevalence, classes)
    truth = metric_value(metric, labels, scores)
    held = []
    for seed in range(repetitions):
        interval = bootstrap_interval(
            metric, *_clustered(rng, patients, prevalence, classes), n_resamples=n_resamples, seed=seed
        )
        assert interval.low <= interval.value <= interval.high
        held.append(interval.low <= truth <= interval.high)
    return np.mean(held)


def test_patients_are_drawn_whole():
    patients = np.array([3, 3, 7, 9, 9, 9])
    weights = patient_weights(patients, 500, seed=1)
    assert weights.shape == (500, 6)
    for patient in (3, 9):
        same = weights[:, patients == patient]
        assert (same == same[:, :1]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert weights[:, 2].mean() == pytest.approx(1, abs=0.15)
    assert np.array_equal(weights, patient_weights(patients, 500, seed=1))


@pytest.mark.parametrize(
    "metric, prevalence, classes, lowest",
    [("macro_auroc", 0.2, 1, 0.91), ("macro_auprc", 0.2, 1, 0.91), ("macro_auroc", 0.02, 6, 0.85)]
    + [("macro_auprc", 0.02, 6, 0.79)],
)
def test_coverage(metric, prevalence, classes, lowest):
    """120 positives and clustered patients: as stated. Six classes of a dozen positives: a little less."""
    assert lowest <= _coverage(metric, prevalence, classes, repetitions=120) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric, prevalence, classes, measured",
    [("macro_auroc", 0.2, 1, 0.94), ("macro_auprc", 0.2, 1, 0.94), ("macro_auroc", 0.02, 6, 0.93)]
    + [("macro_auprc", 0.02, 6, 0.85)],
)
def test_coverage_as_stated(metric, prevalence, classes, measured):
    assert _coverage(metric, prevalence, classes, repetitions=400) == pytest.approx(measured, abs=0.03)


def test_a_positive_drawn_twice_does_not_move_the_interval_off_the_value():
    labels, scores, patients = _clustered(np.random.default_rng(0), 400, 0.01, 71)
    interval = bootstrap_interval("macro_auprc", labels, scores, patients)
    resampled = metric_value("macro_auprc", labels, scores, weights=patient_weights(patients))
    assert np.quantile(resampled, 0.025) > interval.value  # what percentiles would have given
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * resampled.std(ddof=1), rel=1e-3)


def test_intervals_stay_in_the_range_of_the_metric_and_around_the_value():
    assert normal_interval(1.0, np.array([0.9, 1.0, 1.0])) == (pytest.approx(0.887, abs=1e-3), 1.0)
    assert normal_interval(-0.9, np.array([-1.0, 0.0]), bounds=(-1, 1))[0] == -1
    assert normal_interval(0.4, np.array([np.nan, 0.5])) == (0, 1)  # one resample tells nothing
    assert np.isnan(normal_interval(np.nan, np.array([0.1, 0.2]))).all()
    assert normal_interval(1 + 1e-12, np.ones(9))[1] == 1 + 1e-12  # rounding
    with pytest.raises(ValueError, match="around 0.2"):
        Interval(0.2, 0.3, 0.4, 0.95, 100, {})


def test_interval_widens_when_records_share_a_patient():
    rng = np.random.default_rng(0)
    labels, scores = _binormal(rng, 150)
    labels, scores = np.repeat(labels, 4, axis=0), np.repeat(scores, 4, axis=0)
    by_patient = bootstrap_interval("macro_auroc", labels, scores, np.repeat(np.arange(150), 4))
    by_record = bootstrap_interval("macro_auroc", labels, scores, np.arange(600))
    ratio = (by_patient.high - by_patient.low) / (by_record.high - by_record.low)
    assert ratio == pytest.approx(2, abs=0.35)  # four copies of each record hold no more than one


def test_undefined_resamples_are_counted():
    labels = np.zeros((50, 2), dtype=int)
    labels[0, 0], labels[:20, 1] = 1, 1
    interval = bootstrap_interval("macro_auroc", labels, np.random.default_rng(0).random((50, 2)), np.arange(50))
    assert list(interval.undefined_resamples) == [0]
    assert interval.undefined_resamples[0] / 1000 == pytest.approx((1 - 1 / 50) ** 50, abs=0.05)


@pytest.mark.parametrize("metric", ["macro_auroc", "macro_f1_tuned"])
def test_paired_tests_err_as_often_as_they_say(metric):
    rng = np.random.default_rng(0)
    p_values, held = [], []
    for _ in range(150):
        labels, shared = _binormal(rng, 150)
        a, b = (norm.cdf(shared - 0.7 + 0.7 * rng.normal(size=shared.shape)) for _ in range(2))
        result = compare_models(metric, labels, a, b, np.arange(150), [0.5], [0.5], n_resamples=199, seed=1)
        p_values.append((result.p_bootstrap, result.p_permutation))
        held.append(result.low <= 0 <= result.high)
    for p in np.transpose(p_values):
        assert 0.005 <= (p < 0.05).mean() <= 0.12
        assert 0.35 <= (p < 0.5).mean() <= 0.65
    assert 0.88 <= np.mean(held) <= 0.995


def test_paired_tests_find_a_real_difference_and_none_between_equals():
    labels, good = _binormal(np.random.default_rng(0), 400, 3)
    poor = good + np.random.default_rng(1).normal(size=good.shape)
    result = compare_models("macro_auroc", labels, good, poor, np.arange(400))
    assert result.p_bootstrap < 0.01 and result.p_permutation < 0.01 and result.low > 0
    assert result.difference == pytest.approx(result.value_a - result.value_b)
    for other in (good, 100 * good - 5):
        same = compare_models("macro_auroc", labels, good, other, np.arange(400))
        assert same.p_bootstrap == same.p_permutation == 1 and same.low == same.difference == same.high == 0


def test_undefined_differences_are_not_significant():
    rng = np.random.default_rng(0)
    nothing = compare_models("macro_auroc", np.zeros((200, 1), int), *rng.random((2, 200, 1)), np.arange(200))
    assert np.isnan([nothing.difference, nothing.p_bootstrap, nothing.p_permutation]).all()
    few = bootstrap_comparison(0.8, 0.7, np.array([0.8, np.nan, 0.6]), np.array([0.7, np.nan, 0.7]))
    assert few.p_bootstrap == bootstrap_comparison(0.8, 0.7, np.array([0.8, 0.6]), np.array([0.7, 0.7])).p_bootstrap


@pytest.mark.slow
def test_a_thousand_resamples_of_the_test_fold_take_less_than_a_minute():
    rng = np.random.default_rng(0)
    labels, scores = _binormal(rng, 2198, 71, prevalence=0.05)
    start = time.process_time()
    interval = bootstrap_interval("macro_auroc", labels, scores, np.arange(2198))
    assert time.process_time() - start < 60
    assert interval.low < norm.cdf(1 / np.sqrt(2)) < interval.high
