"""Classical features: rates, axes and intervals that are known, and what is missing."""

import ast
import csv

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from known_ecg import synthetic_ecg

from modeling_merit.processing.metrics.classification import metric_value
from modeling_merit.processing.probing.classical_features import FEATURE_NAMES, classical_features


def _feature(values, name):
    return float(values[FEATURE_NAMES.index(name)])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([100.0, 250.0, 500.0]), st.integers(45, 120), st.integers(-80, 170))
def test_rate_and_axis_are_measured_at_any_sampling_rate(rate, heart_rate, axis):
    values = classical_features(synthetic_ecg(rate, heart_rate, axis), rate)
    assert _feature(values, "heart_rate") == pytest.approx(heart_rate, rel=0.03)
    measured = np.rad2deg(np.arctan2(_feature(values, "qrs_axis_sin"), _feature(values, "qrs_axis_cos")))
    assert abs((measured - axis + 180) % 360 - 180) < 20
    assert _feature(values, "rr_cv") < 0.05


def test_features_follow_what_changes():
    base, wide, late, uneven = (
        classical_features(synthetic_ecg(250, **change), 250)
        for change in ({}, {"qrs_scale": 2.2}, {"pr": 0.24}, {"jitter": 0.3})
    )
    assert _feature(wide, "qrs_ms") > 1.4 * _feature(base, "qrs_ms")
    assert _feature(late, "pr_ms") - _feature(base, "pr_ms") == pytest.approx(80, abs=25)
    assert _feature(uneven, "rr_rmssd") > 0.1 > 0.02 > _feature(base, "rr_rmssd")
    assert _feature(base, "r_V5") == pytest.approx(1.4, abs=0.2)
    assert _feature(base, "sokolow_lyon_mv") == pytest.approx(0.8 + 1.4, abs=0.3)
    assert _feature(base, "r_V5") / _feature(
        classical_features(0.5 * synthetic_ecg(250), 250), "r_V5"
    ) == pytest.approx(2)


def test_missing_samples_and_leads():
    ecg = synthetic_ecg()
    gaps = ecg.copy()
    gaps[1, 200:203], gaps[7] = np.nan, np.nan
    values, whole = classical_features(np.stack([gaps, ecg]), 100)
    of_v2 = [name.endswith("_V2") for name in FEATURE_NAMES]
    assert np.isnan(values[of_v2]).all() and np.isfinite(whole).all()
    assert np.isfinite(values[~np.array(of_v2)]).mean() > 0.98
    assert _feature(values, "heart_rate") == pytest.approx(75, rel=0.03)
    gaps[6] = np.nan  # V1
    assert np.isnan(_feature(classical_features(gaps, 100), "atrial_power_4_9_hz"))
    for flat in (np.zeros((12, 1000)), np.full((12, 1000), np.nan)):
        nothing = classical_features(flat, 100)
        assert _feature(nothing, "beats") == 0 and np.isnan(_feature(nothing, "heart_rate"))


def test_bad_signals_are_refused():
    with pytest.raises(ValueError, match="12, samples"):
        classical_features(np.zeros((8, 1000)), 100)
    with pytest.raises(ValueError, match="2 s"):
        classical_features(np.zeros((12, 100)), 100)


@pytest.mark.slow
@pytest.mark.real_data
def test_features_of_real_records_tell_rhythms_apart(ptb_xl_dir):
    with open(ptb_xl_dir / "ptbxl_database.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["ecg_id"]) < 400]
    signals = np.stack([wfdb.rdrecord(str(ptb_xl_dir / row["filename_lr"])).p_signal.T for row in rows])
    values = classical_features(signals, 100)
    assert values.shape == (len(rows), len(FEATURE_NAMES)) and np.isfinite(values).mean() > 0.995
    assert 60 < np.nanmedian(values[:, FEATURE_NAMES.index("heart_rate")]) < 80
    codes = [ast.literal_eval(row["scp_codes"]) for row in rows]
    for code, name, sign in (("SBRAD", "heart_rate", -1), ("STACH", "heart_rate", 1), ("AFIB", "rr_rmssd", 1)):
        labels = np.array([[code in row] for row in codes]).astype(int)
        scores = sign * values[:, [FEATURE_NAMES.index(name)]]
        assert metric_value("macro_auroc", labels, np.nan_to_num(scores)) > 0.85
