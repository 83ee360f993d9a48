"""Offset and drift: what is taken off, what stays, and that a model does not see the difference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build

from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritModel
from modeling_merit.processing.conditioning import remove_drift
from modeling_merit.processing.data.simulation import simulate_ecg


def second_difference(samples: int) -> np.ndarray:
    return np.diff(np.eye(samples), n=2, axis=0)


@settings(max_examples=50)
@given(st.integers(3, 200), st.sampled_from([0.05, 0.5, 0.67, 2.0]), st.integers(0, 99))
def test_the_baseline_is_the_smoothing_spline(samples, cutoff, seed):
    """Against the equations solved whole."""
    signal = np.random.default_rng(seed).normal(size=samples)
    smoothness = (2 * np.sin(np.pi * cutoff / 100)) ** -4
    difference = second_difference(samples)
    baseline = np.linalg.solve(np.eye(samples) + smoothness * difference.T @ difference, signal)
    np.testing.assert_allclose(remove_drift(signal, 100, cutoff), signal - baseline, atol=1e-4)


@settings(max_examples=50)
@given(st.integers(1, 3000), st.floats(-300, 300), st.floats(-10, 10), st.sampled_from([100, 250, 500]))
def test_offset_and_line_vanish(samples, offset, slope, rate):
    line = offset + slope * np.arange(samples) / rate
    found = remove_drift(np.stack([line, line]), rate, 0.5)
    assert found.shape == (2, samples) and found.dtype == np.float32 and np.abs(found).max() < 1e-3


@pytest.mark.parametrize("rate, cutoff", [(100, 0.5), (100, 0.05), (500, 0.5), (250, 0.67)])
def test_frequencies_pass_as_documented(rate, cutoff):
    """In the middle of 60 s: the documented gain, no shift of phase; half of what is at the cut-off."""
    time = np.arange(60 * rate) / rate
    inner = slice(20 * rate, 40 * rate)
    for ratio in (0.4, 1.0, 2.0, 10.0):
        frequency = ratio * cutoff
        if frequency * 20 < 2:
            continue  # fewer than two periods in the middle
        wave = np.exp(2j * np.pi * frequency * time)
        passed = remove_drift(wave.real, rate, cutoff) + 1j * remove_drift(wave.imag, rate, cutoff)
        gain = (passed * wave.conj())[inner]
        shape = (np.sin(np.pi * frequency / rate) / np.sin(np.pi * cutoff / rate)) ** 4
        np.testing.assert_allclose(gain, 1 - 1 / (1 + shape), atol=0.02)


def test_the_shape_of_beats_is_kept():
    """A simulated QRS complex changes by less than 0.1 mV, its width of the ST segment included."""
    ecg = simulate_ecg("sinus_rhythm", seed=0)
    found = remove_drift(ecg.signal, ecg.sampling_rate, 0.5)
    centred = ecg.signal - np.median(ecg.signal, axis=-1, keepdims=True)
    difference = found - centred
    difference -= difference.mean(axis=-1, keepdims=True)
    assert np.abs(difference[:, 100:-100]).max() < 0.12


def test_rows_are_treated_alone_and_the_input_stays():
    signal = np.random.default_rng(0).normal(size=(2, 3, 500)) + 40
    before = signal.copy()
    found = remove_drift(signal, 100, 0.5)
    assert np.array_equal(signal, before)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(found[index], remove_drift(signal[index], 100, 0.5), atol=1e-6)


@pytest.mark.parametrize("cutoff", [0, -1, 50, float("nan")])
def test_impossible_cut_offs_are_named(cutoff):
    with pytest.raises(ValueError, match="above 0 and below 50 Hz, got"):
        remove_drift(np.zeros((1, 100)), 100, cutoff)


@pytest.mark.filterwarnings("ignore:Implausible amplitude")
@pytest.mark.parametrize("normalization", ["none", "record_zscore"])
def test_offsets_and_wander_hardly_change_an_embedding(normalization):
    """Even of random weights. Features of such are alike in all ECGs: offsets are measured from their mean as well."""
    names = ("sinus_rhythm", "atrial_fibrillation", "left_bundle_branch_block", "inferior_infarction", "low_voltage")
    clean = [simulate_ecg(name, seed=seed, sampling_rate=100).signal for seed, name in enumerate(names)]
    rng, time = np.random.default_rng(0), np.arange(1000) / 100
    offset = [ecg + rng.uniform(-300, 300, (12, 1)) for ecg in clean]
    wander = [ecg + 2 * np.sin(2 * np.pi * 0.2 * time + rng.uniform(0, 6, (12, 1))) for ecg in clean]
    model = build(MeritModel, MeritConfig.from_size("tiny", text_config={"vocab_size": 50}))

    def features(signals: list[np.ndarray], high_pass: float | None) -> torch.Tensor:
        extractor = MeritFeatureExtractor(normalization=normalization, high_pass=high_pass)
        facts = {"sampling_rate": 100, "leads": extractor.leads, "units": "mV", "return_tensors": "pt"}
        with torch.no_grad():
            return model.ecg_model(**extractor(signals, **facts)).pooler_output

    def cosine(changed: list[np.ndarray], high_pass: float | None, centred: bool) -> float:
        expected, found = features(clean, high_pass), features(changed, high_pass)
        centre = expected.mean(dim=0) if centred else 0.0
        return torch.cosine_similarity(expected - centre, found - centre).min().item()

    assert cosine(offset, 0.5, centred=True) >= 0.99 > 0.9 > cosine(offset, None, centred=True)
    if normalization == "none":  # what the models are trained with
        assert cosine(wander, 0.5, centred=False) >= 0.95
        assert cosine(wander, 0.5, centred=False) > cosine(wander, None, centred=False)
