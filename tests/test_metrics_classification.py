"""Metrics against scikit-learn and closed forms."""

import json
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, precision_recall_curve, roc_auc_score

from modeling_merit.processing.metrics import classification as m
from modeling_merit.processing.metrics.bootstrap import bootstrap_interval
from modeling_merit.processing.metrics.classification import align_predictions, classification_report, metric_value

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
    half = np.where(np.arange(20)[:, None] % 2, np.nan, norm.cdf(scores))  # must not count as decided against
    with pytest.raises(ValueError, match="finite"):
        metric_value("macro_f1_at_0.5", labels, half)
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


@pytest.mark.parametrize("ids", [[1, 2], [1, 2, 3, 3], [1, 2, 4], [1, 2, 3, 4]])
def test_predictions_must_cover_every_row_once(ids):
    with pytest.raises(ValueError, match="every row once"):
        align_predictions(ids, [1, 2, 3])
