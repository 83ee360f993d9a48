"""Metrics of generated reports against values by hand and other implementations, and their intervals."""

import math
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

import modeling_merit.processing.metrics.reports as report_metrics_module
from modeling_merit.processing.metrics.reports import (
    compare_reports,
    report_intervals,
    report_metrics,
    report_statistics,
    report_words,
)

REFERENCES = [
    "sinus rhythm. left axis deviation. normal ecg.",
    "atrial fibrillation. possible old inferior infarct.",
    "Sinusrhythmus, Linkshypertrophie mÖglich",
    "sinus tachycardia. otherwise normal ecg.",
]
PREDICTIONS = [
    "sinus rhythm. normal ecg.",
    "atrial fibrillation. right bundle branch block.",
    "sinusrhythmus lagetyp normal",
    "sinus tachycardia. otherwise normal ecg.",
]
SENTENCES = st.sampled_from([*REFERENCES, *PREDICTIONS, "lvh", "sinus"])


def metrics(predictions, references) -> dict[str, float]:
    return {
        name: float(value[0]) for name, value in report_metrics(report_statistics(predictions, references)).items()
    }


def test_perfect_reports():
    found = metrics(REFERENCES, REFERENCES)
    ones = ("bleu_4", "rouge1", "rouge2", "rougeL", "statement_f1", "statement_macro_f1", "exact_match")
    assert all(found[name] == pytest.approx(1.0) for name in ones)
    assert found["hallucination_rate"] == found["omission_rate"] == found["empty_rate"] == 0.0
    assert found["meteor_exact_stem"] > 0.98  # METEOR leaves a perfect match its penalty for one chunk


def test_empty_reports_score_zero_and_are_not_left_out():
    found = metrics(["", " .,"], REFERENCES[:2])
    assert found.pop("empty_rate") == 1.0 and found.pop("omission_rate") == 1.0
    assert set(found.values()) == {0.0}
    half, full = metrics(["", PREDICTIONS[1]], REFERENCES[:2]), metrics(PREDICTIONS[1:2], REFERENCES[1:2])
    for name in ("rouge1", "rougeL", "meteor_exact_stem"):
        assert half[name] == pytest.approx(full[name] / 2)
    assert half["bleu_1"] < full["bleu_1"]


def test_bleu_is_that_of_nltk():
    rows = (0, 1, 3)  # without the one of three words: NLTK counts a 4-gram in it
    predictions, references = [PREDICTIONS[row] for row in rows], [REFERENCES[row] for row in rows]
    found = metrics(predictions, references)
    references, hypotheses = [[report_words(text)] for text in references], list(map(report_words, predictions))
    for order in range(1, 5):
        expected = corpus_bleu(references, hypotheses, weights=[1 / order] * order)
        assert found[f"bleu_{order}"] == pytest.approx(expected)
    assert found["bleu_4"] > 0.1


def test_rouge_by_hand_with_umlauts():
    found = metrics(["ischämie links hypertrophie"], ["ischämie rechts hypertrophie möglich"])
    precision, recall = 2 / 3, 2 / 4
    assert found["rouge1"] == found["rougeL"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["rouge2"] == 0.0


def test_meteor_matches_stems_in_both_languages():
    for reference, prediction in (("inferior infarction", "inferior infarctions"), ("die ischämien", "die ischämie")):
        # two of two words in one chunk: 1 - 0.5 · (1 / 2)³
        assert metrics([prediction], [reference])["meteor_exact_stem"] == pytest.approx(1 - 0.5 / 8)


def test_cider_d_by_hand():
    references = ["a b c d", "e f g h"]
    assert metrics(references, references)["cider_d"] == pytest.approx(10.0)
    # "a b": norms √2 and √4 for words, 1 and √3 for pairs, nothing longer; the lengths differ by 2.
    expected = 10 / 4 * math.exp(-4 / 72) * (2 / math.sqrt(2 * 4) + 1 / math.sqrt(3))
    assert metrics(["a b", ""], references)["cider_d"] == pytest.approx(expected / 2)
    # Repetition is clipped: four times "a" is worth once.
    expected = 10 / 4 * (1 / (4 * 2))
    assert metrics(["a a a a", ""], references)["cider_d"] == pytest.approx(expected / 2)


def test_statements_by_hand():
    # true: 2 + 1 + 1 + 2, false: 0 + 1 + 1 + 0, missed: 1 + 1 + 1 + 0
    found = metrics(PREDICTIONS, REFERENCES)
    assert found["statement_precision"] == pytest.approx(6 / 8)
    assert found["statement_recall"] == pytest.approx(6 / 9)
    assert found["statement_f1"] == pytest.approx(12 / 17)
    assert found["hallucination_rate"] == pytest.approx(2 / 8)
    assert found["omission_rate"] == pytest.approx(3 / 9)
    # sinus rhythm, normal ECG, atrial fibrillation, tachycardia and "otherwise normal" 1; axis, infarct and LVH 0
    assert found["statement_macro_f1"] == pytest.approx(5 / 8)
    assert found["exact_match"] == 0.25


def test_denied_statements_do_not_count_as_said():
    assert metrics(["no ischaemia"], ["ischaemia"])["statement_f1"] == 0.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(SENTENCES, SENTENCES, st.integers(0, 3)), min_size=1, max_size=5))
def test_a_weight_is_a_number_of_copies(rows):
    weights = np.array([[weight for _, _, weight in rows]], dtype=float)
    if weights.sum() == 0:
        return
    predictions, references, _ = zip(*rows)
    weighted = report_metrics(report_statistics(predictions, references), weights)
    copies = [(prediction, reference) for prediction, reference, weight in rows for _ in range(weight)]
    copied = metrics(*zip(*copies))
    for name, value in weighted.items():
        if name != "cider_d":  # its document frequencies are those of the whole set
            assert value[0] == pytest.approx(copied[name]), name


def test_intervals_hold_the_value_and_draw_patients():
    statistics = report_statistics(PREDICTIONS * 25, REFERENCES * 25)
    intervals = report_intervals(statistics, n_resamples=300)
    for name in ("rougeL", "bleu_4", "statement_f1", "omission_rate"):
        assert intervals[name].low < intervals[name].value < intervals[name].high, name
    pairs = report_intervals(statistics, patient_ids=np.arange(100) // 20, n_resamples=300)
    assert pairs["rougeL"].high - pairs["rougeL"].low < 1e-9  # each "patient" holds the same mix
    assert report_intervals(statistics, n_resamples=300, seed=0)["rougeL"] == intervals["rougeL"]


def test_paired_comparison():
    good, poor = (
        report_statistics(REFERENCES * 25, REFERENCES * 25),
        report_statistics(PREDICTIONS * 25, REFERENCES * 25),
    )
    same, better = compare_reports(poor, poor, n_resamples=200), compare_reports(good, poor, n_resamples=200)
    assert same["rougeL"].difference == 0.0 and same["rougeL"].p_bootstrap == 1.0
    assert better["statement_f1"].difference == pytest.approx(1 - 12 / 17)
    assert better["statement_f1"].low > 0 and better["statement_f1"].p_bootstrap < 0.02
    assert better["omission_rate"].high < 0


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        (["a"], ["a", "b"], "got 1 for 2"),
        ([], [], "got 0 for 0"),
        (["a"], [" ."], "1 have none, such as row 0"),
    ],
)
def test_wrong_inputs(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        report_statistics(predictions, references)


def test_wrong_number_of_patients():
    with pytest.raises(ValueError, match="got 3 for 4 reports"):
        report_intervals(report_statistics(PREDICTIONS, REFERENCES), [1, 2, 3])


def test_bertscore_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(ImportError, match="pip install bert-score"):
        report_statistics(PREDICTIONS, REFERENCES, bertscore_model="any")


def test_evaluate_module_works_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = Path(report_metrics_module.__file__).with_name("ecg_report")
    module = evaluate.load(str(folder), cache_dir=str(tmp_path))
    result = module.compute(predictions=PREDICTIONS, references=REFERENCES, n_resamples=50, patient_ids=[1, 1, 2, 3])
    assert result["statement_f1"] == pytest.approx(12 / 17)
    assert result["rougeL_ci_low"] <= result["rougeL"] <= result["rougeL_ci_high"]
    assert all(type(value) is float for value in result.values())
    assert "rougeL_ci_low" not in module.compute(predictions=PREDICTIONS, references=REFERENCES, n_resamples=0)
