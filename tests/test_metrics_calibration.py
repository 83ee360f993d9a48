"""Calibration: what it mends, what it must leave alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from modeling_merit.processing.metrics.calibration import calibrate, fit_calibration
from modeling_merit.processing.metrics.classification import auroc, ece


def draw(slope, shift, rows=20_000, seed=0):
    """Labels, and probabilities of which `slope` and `shift` of the log-odds give the true ones."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-1, 2, size=(rows, 1))
    labels = (rng.random((rows, 1)) < expit(slope * log_odds + shift)).astype(int)
    return labels, expit(log_odds)


@pytest.mark.parametrize(("slope", "shift"), [(1, 0), (0.5, 0), (2, 1), (1, -2), (0.3, 0.5)])
def test_finds_slope_and_shift(slope, shift):
    labels, probabilities = draw(slope, shift)
    np.testing.assert_allclose(fit_calibration(probabilities, labels).ravel(), [slope, shift], atol=0.06)


def test_mends_other_records():
    calibration = fit_calibration(*draw(0.4, 1, seed=1)[::-1])
    labels, probabilities = draw(0.4, 1, seed=2)
    assert ece(labels, calibrate(probabilities, calibration))[0] < 0.01 < 0.1 < ece(labels, probabilities)[0]


def test_a_rare_class_stays_near_what_the_model_said():
    labels, probabilities = np.zeros((500, 1), int), np.full((500, 1), 0.01)
    labels[0] = 1
    assert 0.001 < calibrate(probabilities, fit_calibration(probabilities, labels))[0, 0] < 0.05


def test_a_class_of_one_label_stays():
    probabilities = np.array([[0.2, 0.9], [0.7, 0.4]])
    calibration = fit_calibration(probabilities, np.array([[0, 1], [0, 1]]))
    np.testing.assert_allclose(calibrate(probabilities, calibration), probabilities)


@given(st.integers(0, 10_000), st.integers(4, 60))
@settings(max_examples=30, deadline=None)
def test_ranks_stay(seed, rows):
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.random((rows, 3)), rng.integers(0, 2, (rows, 3))
    calibrated = calibrate(probabilities, fit_calibration(probabilities, labels))
    assert ((calibrated >= 0) & (calibrated <= 1)).all()
    np.testing.assert_allclose(auroc(labels, calibrated), auroc(labels, probabilities))


def test_certainty_stays_finite():
    probabilities = np.array([[0.0], [1.0], [0.0], [1.0]])
    calibrated = calibrate(probabilities, fit_calibration(probabilities, np.array([[0], [1], [1], [0]])))
    assert np.isfinite(calibrated).all()


def test_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match="two arrays"):
        fit_calibration(np.zeros((3, 2)), np.zeros((3, 1)))
