"""Metrics against scikit-learn and closed forms; intervals and tests against simulations with a known truth."""

import json
import time
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, precision_recall_curve, roc_auc_score

from modeling_merit.processing.benchmark.protocols import PROTOCOLS, apply_thresholds, score_epochs, tune_thresholds
from modeling_merit.processing.metrics import classification as m
from modeling_merit.processing.metrics.bootstrap import (
    bootstrap_interval,
    paired_bootstrap,
    paired_permutation,
    patient_weights,
)
from modeling_merit.processing.metrics.classification import classification_report, metric_value

MODULE = Path(m.__file__).parent / "ecg_classification"


def _binormal(rng, rows, classes=1, shift=1.0, prevalence=0.3):
    """Labels and scores whose AUROC is Φ(shift / √2)."""
    labels = (rng.random((rows, classes)) < prevalence).astype(int)
    return labels, rng.normal(size=(rows, classes)) + shift * labels


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 60), st.integers(1, 12))
def test_values_equal_scikit_learn(seed, rows, levels):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (rows, 3))
    labels[:2] = [[0], [1]]
    scores = rng.integers(0, levels + 1, (rows, 3)) / levels  # many ties
    for column in range(3):
        y, s = labels[:, column], scores[:, column]
        cell = slice(column, column + 1)
        precision, recall, _ = precision_recall_curve(y, s)
        best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        assert m.auroc(labels, scores)[column] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
        assert m.auprc(labels, scores)[column] == pytest.approx(average_precision_score(y, s), abs=1e-12)
        assert m.f1_max_oracle(labels, scores)[column] == pytest.approx(best, abs=1e-9)
        assert m.brier(labels, scores)[column] == pytest.approx(brier_score_loss(y, s), abs=1e-12)
        decided = m.decide(scores[:, cell], 0.5)
        assert m.f1(labels[:, cell], decided)[0] == pytest.approx(f1_score(y, decided[:, 0], zero_division=0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_weights_mean_repeated_rows(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, (25, 2)), rng.integers(0, 8, (25, 2)) / 7
    weights = rng.integers(0, 4, (3, 25))
    for function in (m.auroc, m.auprc, m.f1_max_oracle, m.brier, m.ece):
        values = function(labels, scores, weights)
        for resample, counts in enumerate(weights):
            rows = np.repeat(np.arange(25), counts)
            np.testing.assert_allclose(values[resample], function(labels[rows], scores[rows]), atol=1e-12)
    for metric in ("micro_auroc", "weighted_auprc", "macro_f1_at_0.5", "weighted_f1_at_0.5"):
        rows = np.repeat(np.arange(25), weights[1])
        value = metric_value(metric, labels, scores, weights=weights)[1]
        np.testing.assert_allclose(value, metric_value(metric, labels[rows], scores[rows]), atol=1e-12)


def test_averages_equal_scikit_learn():
    labels, scores = _binormal(np.random.default_rng(0), 500, 6)
    for average in ("macro", "micro", "weighted"):
        assert metric_value(f"{average}_auroc", labels, scores) == pytest.approx(
            roc_auc_score(labels, scores, average=average)
        )
        expected = average_precision_score(labels, scores, average=average)
        assert metric_value(f"{average}_auprc", labels, scores) == pytest.approx(expected)
        probabilities = norm.cdf(scores)
        expected = f1_score(labels, probabilities >= 0.5, average=average)
        assert metric_value(f"{average}_f1_at_0.5", labels, probabilities) == pytest.approx(expected)


def test_calibration_error_of_known_probabilities():
    rng = np.random.default_rng(0)
    probabilities = rng.random((200_000, 1))
    labels = (rng.random(probabilities.shape) < probabilities).astype(int)
    assert m.ece(labels, probabilities)[0] < 0.01
    assert m.ece(labels, np.clip(probabilities**2, 0, 1))[0] == pytest.approx(1 / 6, abs=0.01)  # ∫ p − p² dp
    assert m.brier(labels, probabilities)[0] == pytest.approx(1 / 6, abs=0.005)  # ∫ p(1 − p) dp


def test_undefined_classes_are_named_and_left_out():
    labels = np.array([[0, 0, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1]])
    probabilities = np.array([[0.1, 0.2, 0.9], [0.8, 0.1, 0.8], [0.9, 0.9, 0.7], [0.2, 0.3, 0.6]])
    report = classification_report(labels, probabilities, ["SR", "PMI", "NORM"])
    assert report["undefined_classes"] == ["PMI", "NORM"]
    assert report["macro_auroc"] == 1.0 and report["macro_f1_at_0.5"] == 1.0
    assert [row["auroc"] for row in report["per_class"]] == [1.0, None, None]
    assert report["per_class"][1]["brier"] == pytest.approx(np.mean([0.04, 0.01, 0.81, 0.09]))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    alone = classification_report(labels[:, 1:], probabilities[:, 1:], ["PMI", "NORM"])
    assert alone["macro_auroc"] is None and "macro_f1_tuned" not in alone


def test_bad_input_is_refused():
    labels, scores = _binormal(np.random.default_rng(0), 20, 2)
    with pytest.raises(ValueError, match="sigmoid"):
        metric_value("macro_brier", labels, scores)
    with pytest.raises(ValueError, match="finite"):
        metric_value("macro_auroc", labels, np.where(labels, np.nan, scores))
    with pytest.raises(ValueError, match="tune_thresholds"):
        metric_value("macro_f1_tuned", labels, norm.cdf(scores))
    with pytest.raises(ValueError, match="macro_auroc"):
        metric_value("auroc", labels, scores)
    with pytest.raises(ValueError, match="patient id"):
        bootstrap_interval("macro_auroc", labels, scores, np.arange(19))


def test_module_of_the_evaluate_library(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    module = evaluate.load(str(MODULE), cache_dir=str(tmp_path))
    labels, scores = _binormal(np.random.default_rng(1), 40, 3)
    probabilities = norm.cdf(scores)
    ids = np.random.default_rng(2).permutation(40)
    settings = {"class_names": ["a", "b", "c"], "thresholds": [0.3, 0.4, 0.5]}
    result = module.compute(
        predictions=probabilities[ids].tolist(),
        references=labels.tolist(),
        ids=ids.tolist(),
        expected_ids=list(range(40)),
        **settings,
    )
    assert result == classification_report(labels, probabilities, **settings)
    with pytest.raises(ValueError, match="every row once"):
        module.compute(
            predictions=probabilities, references=labels, ids=[0] * 40, expected_ids=list(range(40)), **settings
        )


def test_thresholds_come_from_validation_only():
    rng = np.random.default_rng(0)
    labels, scores = _binormal(rng, 2000, 3, shift=1.5, prevalence=0.1)
    probabilities = norm.cdf(scores)
    val, test = slice(0, 1000), slice(1000, None)
    thresholds = tune_thresholds(probabilities[val], labels[val])
    tuned = m.f1(labels[val], apply_thresholds(probabilities[val], thresholds))
    np.testing.assert_allclose(tuned, m.f1_max_oracle(labels[val], probabilities[val]))
    on_test = m.f1(labels[test], apply_thresholds(probabilities[test], thresholds))
    assert (on_test <= m.f1_max_oracle(labels[test], probabilities[test])).all()
    assert (on_test > m.f1(labels[test], apply_thresholds(probabilities[test], 0.5))).all()
    empty = tune_thresholds(probabilities[val], np.zeros_like(labels[val]))
    assert empty.tolist() == [0.5] * 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_tuned_thresholds_reach_the_best_f1_whatever_the_ties(seed):
    rng = np.random.default_rng(seed)
    labels, probabilities = rng.integers(0, 2, (20, 1)), rng.integers(0, 5, (20, 1)) / 4
    labels[:2] = [[0], [1]]
    reached = m.f1(labels, apply_thresholds(probabilities, tune_thresholds(probabilities, labels)))
    np.testing.assert_allclose(reached, m.f1_max_oracle(labels, probabilities))


def test_protocols_differ_as_documented():
    rng = np.random.default_rng(0)
    labels, base = _binormal(rng, 800, 4, shift=1.0, prevalence=0.15)
    epochs = [norm.cdf(base - 2 + 0.4 * rng.normal(size=base.shape)) for _ in range(8)]
    val, test = [p[:400] for p in epochs], [p[400:] for p in epochs]
    scores = {name: score_epochs(name, val, labels[:400], test, labels[400:]) for name in PROTOCOLS}
    assert scores["merl"].macro_auroc == max(metric_value("macro_auroc", labels[400:], p) for p in test)
    assert scores["merl"].macro_f1 > scores["strict"].macro_f1 > scores["ecg_ssl"].macro_f1
    best = int(np.argmax([metric_value("macro_auroc", labels[:400], p) for p in val]))
    assert scores["strict"].auroc_epoch == scores["strict"].f1_epoch == scores["helme"].auroc_epoch == best
    gone = labels[400:].copy()
    gone[:, 0] = 0
    strict, half = (score_epochs(name, val, labels[:400], test, gone) for name in ("strict", "ecg_ssl"))
    assert strict.undefined_classes == [0] and half.undefined_classes == []
    assert half.macro_auroc == pytest.approx((3 * strict.macro_auroc + 0.5) / 4)
    with pytest.raises(ValueError, match="strict, merl"):
        score_epochs("meril", val, labels[:400], test, labels[400:])


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


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = norm.cdf(1 / np.sqrt(2))
    covered = 0
    for _ in range(200):
        labels, scores = _binormal(rng, 200)
        interval = bootstrap_interval("macro_auroc", labels, scores, np.arange(200), n_resamples=300, seed=1)
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 200 <= 0.985


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
@pytest.mark.parametrize("test", [paired_bootstrap, paired_permutation])
def test_paired_tests_err_as_often_as_they_say(test, metric):
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(150):
        labels, shared = _binormal(rng, 150)
        a, b = (norm.cdf(shared - 0.7 + 0.7 * rng.normal(size=shared.shape)) for _ in range(2))
        p_values.append(test(metric, labels, a, b, np.arange(150), [0.5], [0.5], n_resamples=199, seed=1).p)
    p_values = np.array(p_values)
    assert 0.005 <= (p_values < 0.05).mean() <= 0.12
    assert 0.35 <= (p_values < 0.5).mean() <= 0.65


@pytest.mark.parametrize("test", [paired_bootstrap, paired_permutation])
def test_paired_tests_find_a_real_difference_and_none_between_equals(test):
    labels, good = _binormal(np.random.default_rng(0), 400, 3)
    poor = good + np.random.default_rng(1).normal(size=good.shape)
    result = test("macro_auroc", labels, good, poor, np.arange(400))
    assert result.p < 0.01 and result.difference == pytest.approx(result.value_a - result.value_b)
    assert test("macro_auroc", labels, good, good, np.arange(400)).p == 1
    other_scale = test("macro_auroc", labels, good, 100 * good - 5, np.arange(400))
    assert other_scale.p == 1 and other_scale.difference == 0


@pytest.mark.slow
def test_a_thousand_resamples_of_the_test_fold_take_less_than_a_minute():
    rng = np.random.default_rng(0)
    labels, scores = _binormal(rng, 2198, 71, prevalence=0.05)
    start = time.process_time()
    interval = bootstrap_interval("macro_auroc", labels, scores, np.arange(2198))
    assert time.process_time() - start < 60
    assert interval.low < norm.cdf(1 / np.sqrt(2)) < interval.high
