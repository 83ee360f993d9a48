"""Measurements: rates, intervals and axes that are known, and no number where there is nothing to measure."""

import csv
import json

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_merit.processing import EcgRecord, measure
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.measurements import UNITS, _without_spikes


def part(ecg, leads):
    return EcgRecord(ecg.signal[[ecg.leads.index(lead) for lead in leads]], ecg.sampling_rate, tuple(leads))


@settings(max_examples=12)
@given(st.sampled_from([100.0, 250.0, 500.0]), st.sampled_from(["sinus_rhythm", "long_qt"]), st.integers(0, 10**6))
def test_known_rate_intervals_and_axis(rate, condition, seed):
    ecg = simulate_ecg(condition, seed=seed, sampling_rate=rate)
    found = measure(ecg)
    assert found.heart_rate.value == pytest.approx(ecg.factors["heart_rate"], abs=0.5)
    assert found.qrs.value - ecg.factors["qrs_width"] == pytest.approx(
        14, abs=10
    )  # a wave's end in the simulator: 2 SD
    if found.qt.valid or condition == "sinus_rhythm":  # a long T can run into the next P
        assert found.qt.value == pytest.approx(ecg.factors["qt_interval"], abs=30)
    if found.pr.valid and condition != "long_qt":  # the same P can then be taken for a part of the T
        assert found.pr.value - ecg.factors["pr_interval"] == pytest.approx(-13, abs=15)
    assert abs((found.qrs_axis.value - ecg.factors["qrs_axis"] + 180) % 360 - 180) < 10


def test_p_waves_are_found_in_sinus_rhythm():
    found = [measure(simulate_ecg("sinus_rhythm", seed=seed, sampling_rate=250)).pr for seed in range(12)]
    assert sum(pr.valid for pr in found) >= 11


def test_corrected_intervals_follow_their_formulas():
    found = measure(simulate_ecg("sinus_bradycardia", seed=3, sampling_rate=500))
    rr = 60 / found.heart_rate.value
    assert found.qtc_bazett.value == pytest.approx(found.qt.value / rr**0.5, abs=0.5)
    assert found.qtc_fridericia.value == pytest.approx(found.qt.value / rr ** (1 / 3), abs=0.5)
    assert found.qtc_bazett.value < found.qtc_fridericia.value < found.qt.value


@pytest.mark.parametrize("seed", range(5))
def test_atrial_fibrillation_has_neither_pr_nor_qtc(seed):
    found = measure(simulate_ecg("atrial_fibrillation", seed=seed, sampling_rate=250))
    assert found.heart_rate.valid and found.qrs.valid
    assert not found.pr.valid and not found.p_axis.valid and "P wave" in found.pr.reason
    assert found.qtc_bazett.reason == found.qtc_fridericia.reason == "irregular rhythm"


def test_fast_rates_give_no_pr():
    fast = simulate_ecg("sinus_tachycardia", seed=0, sampling_rate=250)
    assert fast.factors["heart_rate"] > 125
    assert "flutter" in measure(fast).pr.reason


@pytest.mark.parametrize("leads", [1, 2, 12])
@pytest.mark.parametrize("kind", ["white", "walk", "sine", "flat", "absent"])
def test_no_number_without_an_ecg(leads, kind):
    rng = np.random.default_rng(0)
    for _ in range(5):
        signal = 0.1 * rng.normal(size=(leads, 2000))
        signal = {
            "white": signal,
            "walk": signal.cumsum(axis=1),
            "sine": 0.05 * signal + np.sin(np.arange(2000) * rng.uniform(0.02, 0.2)),
            "flat": np.zeros_like(signal),
            "absent": np.full_like(signal, np.nan),
        }[kind]
        found = measure(EcgRecord(signal, 200, STANDARD_LEADS[:leads]))
        assert all(not one.valid and one.value is None and one.reason for _, one in found)


def test_calibration_pulses_are_no_beats():
    pulses = np.tile((np.arange(2000) % 200 >= 120).astype(float), (12, 1))
    assert measure(EcgRecord(pulses, 200, STANDARD_LEADS)).heart_rate.reason == (
        "pulses in both directions, as of a calibration"
    )


def test_noise_takes_the_numbers_away_before_it_falsifies_them():
    rng = np.random.default_rng(1)
    left = []
    for deviation in (0.05, 0.1, 0.2, 0.4):
        found = []
        for seed in range(6):
            ecg = simulate_ecg("sinus_rhythm", seed=seed, sampling_rate=250)
            noisy = EcgRecord(ecg.signal + deviation * rng.normal(size=ecg.signal.shape), 250, ecg.leads)
            rate = measure(noisy).heart_rate
            found.append(rate.valid)
            assert not rate.valid or rate.value == pytest.approx(ecg.factors["heart_rate"], abs=1)
        left.append(sum(found))
    assert left[0] == 6 and left[-1] == 0


def test_axes_need_limb_leads_and_nothing_else_does():
    ecg = simulate_ecg("sinus_rhythm", seed=0, sampling_rate=500)
    whole, chest, pair = measure(ecg), measure(part(ecg, STANDARD_LEADS[6:])), measure(part(ecg, ["I", "II"]))
    assert chest.qrs_axis.reason == "needs leads I and II" and not chest.p_axis.valid and not chest.t_axis.valid
    for few in (chest, pair):
        assert few.heart_rate.value == pytest.approx(whole.heart_rate.value, abs=0.3)
        assert few.qt.value == pytest.approx(whole.qt.value, abs=25)
    assert pair.qrs_axis.value == pytest.approx(whole.qrs_axis.value, abs=8)


def test_gaps_and_dead_leads_are_left_out():
    ecg = simulate_ecg("sinus_rhythm", seed=4, sampling_rate=250)
    signal = ecg.signal.copy()
    signal[7], signal[3], signal[1, 500:510] = np.nan, 0, np.nan
    found, whole = measure(EcgRecord(signal, 250, ecg.leads)), measure(ecg)
    assert found.heart_rate.value == pytest.approx(whole.heart_rate.value, abs=0.3)
    assert found.p_axis.value == pytest.approx(whole.p_axis.value, abs=10)
    assert found.qrs.value == pytest.approx(whole.qrs.value, abs=8)


def test_a_loose_electrode_is_no_beat_and_a_premature_beat_is_one():
    ecg = simulate_ecg("sinus_rhythm", seed=2, sampling_rate=250)
    signal, quiet = ecg.signal.copy(), measure(ecg)
    signal[8, 1000:1010] += 4
    assert measure(EcgRecord(signal, 250, ecg.leads)).beats == quiet.beats
    found = [
        (measure(ecg).heart_rate.value, ecg.factors["heart_rate"])
        for ecg in (
            simulate_ecg("premature_ventricular_complexes", seed=seed, sampling_rate=250) for seed in range(12)
        )
    ]
    assert np.median([abs(a - b) for a, b in found]) < 0.5


P, T = (-0.12, 0.02, 0.12), (0.29, 0.045, 0.3)  # centre in s after the beat, standard deviation in s, height in mV
QRS = [(0.02, 0.009, -0.15), (0.045, 0.012, 1.1), (0.07, 0.010, -0.3)]
PREMATURE = [(0.04, 0.022, 0.6), (0.08, 0.024, 1.1), (0.12, 0.02, 0.5), (0.33, 0.055, -0.5)]


def waves(at, shapes, rate=500):
    """Return ten seconds of one lead with the same waves at each of some times."""
    time = np.arange(10 * rate) / rate
    return sum(height * np.exp(-(((time - o - c) / s) ** 2) / 2) for o in at for c, s, height in shapes)


def measured(signal, rate=500):
    noisy = signal + 0.01 * np.random.default_rng(0).normal(size=(3, len(signal)))
    return measure(EcgRecord(noisy + np.outer([-0.3, 0, -1.8], signal), rate, ("I", "II", "V2")))


def test_pacing_spikes_are_neither_beats_nor_a_part_of_qrs():
    at = np.arange(-1, 12, 60 / 70)
    atrial, own = [(-0.25, 0.02, 0.12), *QRS, T], [(0.05, 0.03, 0.7), (0.1, 0.03, 1), (0.36, 0.06, -0.4)]
    for spike, shapes in ((-0.28, atrial), (-0.012, own)):
        found, without = measured(waves(at, [(spike, 0.001, 5), *shapes])), measured(waves(at, shapes))
        assert found.heart_rate.value == pytest.approx(70, abs=0.5)
        assert found.qrs.value == pytest.approx(without.qrs.value, abs=4)
        assert found.qt.value == pytest.approx(without.qt.value, abs=8)


@pytest.mark.parametrize("rate", [300, 500, 1000])
def test_the_tip_of_an_r_wave_is_no_pacing_spike(rate):
    time = np.arange(10 * rate) / rate % 0.8
    pointed = sum(
        height * np.maximum(0, 1 - np.abs(time - centre) / width)
        for centre, width, height in ((0.378, 0.012, -0.2), (0.4, 0.022, 1.5), (0.428, 0.016, -0.5))
    )
    signal = np.outer([0.6, 1, -0.8], pointed)
    assert np.array_equal(_without_spikes(signal, rate), signal)


@pytest.mark.parametrize("rate", [100, 125, 250])
def test_pacing_spikes_that_the_sampling_rate_does_not_resolve_give_no_number(rate):
    at, width = np.arange(-1, 12, 0.84), 0.4 / rate
    atrial = measured(waves(at, [(-0.28, width, 3), *QRS, T], rate), rate)
    assert not atrial.heart_rate.valid or atrial.heart_rate.value == pytest.approx(60 / 0.84, abs=1)
    assert not atrial.qrs.valid and not atrial.qt.valid
    ventricular = measured(waves(at, [(-0.012, width, 5), (0.1, 0.03, 1), (0.36, 0.06, -0.4)], rate), rate)
    assert not ventricular.qrs.valid and not ventricular.qt.valid


def test_tall_t_waves_are_no_beats():
    found = measured(waves(np.arange(-1, 12, 0.8), [P, *QRS, (0.30, 0.028, 1.0)]))
    assert found.heart_rate.value == pytest.approx(75, abs=0.5) and found.qt.value == pytest.approx(344, abs=15)
    late = measured(waves(np.arange(-1, 12, 1.33), [P, *QRS, (0.43, 0.04, 1.0)]))  # a slow rhythm
    assert not late.heart_rate.valid or late.heart_rate.value == pytest.approx(60 / 1.33, abs=0.5)


@pytest.mark.parametrize("rate", [200, 230, 255, 260])
def test_a_fast_rhythm_has_its_rate_or_none(rate):
    shapes = [(0.012, 0.005, -0.12), (0.025, 0.006, 1), (0.038, 0.005, -0.3), (0.13, 0.02, 0.1)]
    found = measured(waves(np.arange(-1, 12, 60 / rate), shapes)).heart_rate
    assert found.value == pytest.approx(rate, abs=1) if rate < 240 else "too close to be counted" in found.reason


@pytest.mark.parametrize("every", [2, 3])
def test_slow_premature_beats_are_counted_and_end_the_t_wave(every):
    normal = np.arange(-1.5, 12, 0.8)
    last = np.arange(len(normal)) % every == every - 1
    found = measured(waves(normal[~last], [P, *QRS, T]) + waves(normal[last] - 0.3, PREMATURE))
    assert found.heart_rate.value == pytest.approx(75, abs=2.5)
    assert found.qt.value == pytest.approx(364, abs=12) and found.qtc_bazett.reason == "irregular rhythm"


def test_p_before_the_part_that_is_searched_gives_no_pr():
    for pr in (200, 300, 350, 370, 380):
        found = measured(waves(np.arange(-1, 12, 1.1), [(0.04 - pr / 1e3, 0.02, 0.12), *QRS, T])).pr
        assert found.value == pytest.approx(pr + 12, abs=12) if pr <= 300 else not found.valid


def test_short_slow_and_long_records():
    ecg = simulate_ecg("sinus_rhythm", seed=0, duration=2.5)
    assert measure(ecg).heart_rate.reason == "shorter than 3 s"
    assert measure(EcgRecord(np.ones((1, 400)), 40, ("II",))).qrs.reason == "sampled below 50 Hz"
    with pytest.raises(ValueError, match=r"at most 300 s, got 400 s.*record.crop"):
        measure(EcgRecord(np.zeros((1, 40_000)), 100, ("II",)))


def test_what_json_holds():
    content = json.loads(json.dumps(measure(simulate_ecg("atrial_fibrillation", seed=0)).to_dict()))
    assert list(content) == [*UNITS, "beats"]
    assert set(content["pr"]) == {"value", "unit", "valid", "reason"}
    assert (content["pr"]["valid"], content["pr"]["unit"]) == (False, "ms")


@pytest.mark.slow
@pytest.mark.real_data
def test_real_records_are_measured_as_they_are_labelled(ptb_xl_dir):
    with open(ptb_xl_dir / "ptbxl_database.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["ecg_id"]) < 1000]

    def values(code, name, most=40):
        chosen = [row for row in rows if f"'{code}'" in row["scp_codes"]][:most]
        signals = (wfdb.rdrecord(str(ptb_xl_dir / row["filename_lr"])).p_signal.T for row in chosen)
        found = [getattr(measure(EcgRecord(signal, 100, STANDARD_LEADS)), name).value for signal in signals]
        return np.array([np.nan if value is None else value for value in found])

    normal, blocked = values("NORM", "qrs"), values("CLBBB", "qrs", 12)
    assert (normal < 115).mean() > 0.9 and (blocked > 115).mean() > 0.8
    assert np.isnan(values("AFIB", "pr")).mean() > 0.9 and np.isfinite(values("SR", "pr")).mean() > 0.8
    assert (values("STACH", "heart_rate", 20) > 95).mean() > 0.9
    assert 370 < np.nanmedian(values("NORM", "qtc_bazett")) < 430
