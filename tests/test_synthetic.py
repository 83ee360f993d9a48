"""The simulator's waveforms carry what its factors, report and codes say, measured from the signal alone."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, find_peaks, sosfiltfilt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_merit.processing.data.ptb_xl import PtbXl
from modeling_merit.processing.data.simulation import CONDITIONS, FACTORS, SyntheticRecord, simulate_ecg
from modeling_merit.processing.data.synthetic import SyntheticEcg, write_wfdb
from modeling_merit.processing.leads import STANDARD_LEADS

L1, L2, L3, AVR, AVL, AVF, V1, V2, V3, V4, V5, V6 = range(12)
# PTB-XL's statements that the simulator uses (scp_statements.csv).
PTB_XL_CODES = {"NORM", "SR", "SBRAD", "STACH", "AFIB", "AFLT", "PACE", "1AVB", "CLBBB", "CRBBB", "LVH", "AMI", "ASMI"}
PTB_XL_CODES |= {"IMI", "WPW", "LNGQT", "LVOLT", "PVC"}


def r_peaks(record: SyntheticRecord) -> np.ndarray:
    """Samples of the QRS complexes: peaks of the smoothed energy over all leads between 3 and 25 Hz."""
    band = butter(2, (3, 25), "bandpass", fs=record.sampling_rate, output="sos")
    energy = (sosfiltfilt(band, record.signal.astype(float), axis=1) ** 2).sum(axis=0)
    window = round(0.1 * record.sampling_rate)
    smooth = np.convolve(energy, np.ones(window) / window, mode="same")
    peaks, _ = find_peaks(smooth, distance=round(0.25 * record.sampling_rate))
    return peaks[smooth[peaks] > 0.27 * np.median(np.sort(smooth[peaks])[-8:])]


def mean_beat(record: SyntheticRecord, before: float = 0.4, after: float = 0.5, pause: float = 0.0) -> np.ndarray:
    """Median beat (12, samples) around the QRS, from `before` to `after` seconds; only beats after a `pause`."""
    rate, peaks = record.sampling_rate, r_peaks(record)
    first, last = round(before * rate), round(after * rate)
    peaks = peaks[1:][np.diff(peaks) > pause * rate]
    whole = peaks[(peaks >= first) & (peaks + last <= record.signal.shape[1])]
    return np.median([record.signal[:, peak - first : peak + last] for peak in whole], axis=0)


def qrs_limits(beat: np.ndarray, centre: int) -> tuple[int, int]:
    """First and last sample around `centre` (500 Hz) between which the spatial velocity is never low for long."""
    velocity = np.linalg.norm(np.gradient(beat, axis=1), axis=0)
    slow = velocity < 0.12 * velocity[centre - 60 : centre + 60].max()
    still = np.flatnonzero(np.convolve(slow, np.ones(8), mode="valid") == 8)  # starts of 16 ms without movement
    return still[still < centre].max() + 8, still[still >= centre].min()


def clean(condition: str, seed: int, duration: float = 20.0) -> SyntheticRecord:
    return simulate_ecg(condition, seed=seed, sampling_rate=500, duration=duration, noise=0)


def clean_beat(condition: str, seed: int) -> tuple[np.ndarray, int, int, SyntheticRecord]:
    """Median beat at 500 Hz without noise, and where its QRS begins and ends (from the velocity)."""
    record = clean(condition, seed)
    beat = mean_beat(record)
    return beat, *qrs_limits(beat, centre=200), record


@pytest.mark.parametrize("condition", CONDITIONS)
def test_heart_rate_measured_equals_the_factor(condition: str) -> None:
    for seed in range(6):
        record = simulate_ecg(condition, seed=seed, sampling_rate=250, duration=30)
        measured = 60 * 250 / np.diff(r_peaks(record)).mean()
        assert measured == pytest.approx(record.factors["heart_rate"], abs=2)


@pytest.mark.parametrize(
    "condition, slowest, fastest",
    [("sinus_rhythm", 60, 100), ("sinus_bradycardia", 38, 60), ("sinus_tachycardia", 100, 150)],
)
def test_sinus_rates_are_within_their_definition(condition: str, slowest: float, fastest: float) -> None:
    rates = [simulate_ecg(condition, seed=seed).factors["heart_rate"] for seed in range(60)]
    assert min(rates) > slowest and max(rates) < fastest
    assert np.std(rates) > 3


@pytest.mark.parametrize(
    "condition", ["sinus_rhythm", "left_bundle_branch_block", "right_bundle_branch_block", "low_voltage"]
)
def test_axis_recovered_from_i_and_avf(condition: str) -> None:
    axes = []
    for seed in range(12):
        beat, first, last, record = clean_beat(condition, seed)
        qrs = beat[:, first - 8 : last + 8] - beat[:, first - 8, None]
        measured = np.degrees(np.arctan2(2 / np.sqrt(3) * qrs[AVF].sum(), qrs[L1].sum()))
        assert measured == pytest.approx(record.factors["qrs_axis"], abs=10)
        axes.append(measured)
    assert np.ptp(axes) > 40  # the axis varies although the report is the same


def test_qrs_width_measured_follows_the_factor() -> None:
    for condition in ("sinus_rhythm", "right_bundle_branch_block"):
        for seed in range(8):
            _, first, last, record = clean_beat(condition, seed)
            assert 2.0 * (last - first) == pytest.approx(record.factors["qrs_width"], abs=15)
            assert (record.factors["qrs_width"] > 110) == (condition != "sinus_rhythm")
    for seed in range(8):
        _, first, last, record = clean_beat("left_bundle_branch_block", seed)
        assert 2.0 * (last - first) > 120 and record.factors["qrs_width"] > 120


def test_fibrillation_is_irregular_and_has_no_p_wave() -> None:
    def variation(record: SyntheticRecord) -> float:
        rr = np.diff(r_peaks(record))
        return float(rr.std() / rr.mean())

    def p_height(record: SyntheticRecord, pause: float) -> float:
        beat = mean_beat(record, before=0.3, pause=pause)[L2]
        return float(np.ptp(beat[round(0.06 * 250) : round(0.23 * 250)]))

    fibrillation = [simulate_ecg("atrial_fibrillation", seed=s, sampling_rate=250, duration=60) for s in range(20)]
    sinus = [simulate_ecg("sinus_rhythm", seed=s, sampling_rate=250, duration=60) for s in range(6)]
    assert min(map(variation, fibrillation)) > 0.12 and max(map(variation, sinus)) < 0.06
    assert all(np.isnan(record.factors["pr_interval"]) for record in fibrillation)
    slow = [record for record in fibrillation if record.factors["heart_rate"] < 75]  # room for a P wave
    assert len(slow) >= 3
    # After a long pause only: the T wave before a short one lies where P would be.
    assert max(p_height(record, 0.75) for record in slow) < 0.6 * min(p_height(record, 0.0) for record in sinus)


def test_fibrillatory_waves_fill_the_diastole() -> None:
    def diastole(condition: str, seed: int) -> float:
        """Standard deviation of V1 in mV, later than 0.6 s after a QRS and earlier than 0.3 s before the next."""
        record = clean(condition, seed, duration=60)
        peaks = r_peaks(record)
        pauses = [record.signal[V1, a + 300 : b - 150] for a, b in zip(peaks, peaks[1:]) if b - a > 480]
        return float(np.std(np.concatenate(pauses)))

    quiet = max(diastole("sinus_bradycardia", seed) for seed in range(5))
    slow = [seed for seed in range(40) if simulate_ecg("atrial_fibrillation", seed=seed).factors["heart_rate"] < 70]
    assert len(slow) >= 3
    assert min(diastole("atrial_fibrillation", seed) for seed in slow) > 0.015 > 5 * quiet


def test_flutter_waves_have_a_multiple_of_the_ventricular_rate() -> None:
    for seed in range(5):
        record = clean("atrial_flutter", seed, duration=60)
        spectrum = np.abs(np.fft.rfft(record.signal[L2] - record.signal[L2].mean()))
        frequencies = np.fft.rfftfreq(record.signal.shape[1], 1 / 500)
        atrial = (frequencies > 3.7) & (frequencies < 6.0)
        rate = 60 * frequencies[atrial][spectrum[atrial].argmax()]
        ratio = rate / record.factors["heart_rate"]
        assert ratio == pytest.approx(round(ratio), abs=0.05) and round(ratio) in (2, 3, 4)


@pytest.mark.parametrize("condition", ["sinus_bradycardia", "sinus_bradycardia+first_degree_av_block"])
def test_pr_interval_measured_follows_the_factor(condition: str) -> None:
    for seed in range(8):
        beat, first, _, record = clean_beat(condition, seed)
        p_peak = beat[L2, : first - 20].argmax()
        pr = 2.0 * (first - p_peak) + 55  # the top of P is about 55 ms after its onset
        assert pr == pytest.approx(record.factors["pr_interval"], abs=20)
        assert (record.factors["pr_interval"] > 200) == ("block" in condition)


def test_long_qt_ends_later() -> None:
    for seed in range(8):
        for condition in ("sinus_bradycardia", "sinus_bradycardia+long_qt"):
            record = clean(condition, seed)
            beat = mean_beat(record, before=0.4, after=0.8)
            first, last = qrs_limits(beat, 200)
            t_wave = np.linalg.norm(beat - beat[:, :1], axis=0)[last + 30 :]
            t_peak = t_wave.argmax()
            end = t_peak + np.flatnonzero(t_wave[t_peak:] < 0.15 * t_wave.max())[0]
            qt = 2.0 * (end + last + 30 - first)
            assert qt == pytest.approx(record.factors["qt_interval"], abs=30)
            qtc = record.factors["qt_interval"] * (record.factors["heart_rate"] / 60) ** (1 / 3)
            assert (qtc > 480) == ("long_qt" in condition)


def st_deviation(condition: str, seed: int) -> np.ndarray:
    """mV at 50 ms after the QRS, against the PR segment, in each lead."""
    beat, first, last, _ = clean_beat(condition, seed)
    return beat[:, last + 25] - beat[:, first - 4]


def test_infarctions_elevate_st_where_they_should() -> None:
    for seed in range(8):
        anterior, septal, inferior, healthy = (
            st_deviation(condition, seed)
            for condition in ("anterior_infarction", "anteroseptal_infarction", "inferior_infarction", "sinus_rhythm")
        )
        assert anterior[[V2, V3, V4]].min() > 0.15 and anterior[[L2, L3, AVF]].max() < 0.1
        assert septal[[V1, V2, V3]].min() > 0.15 and septal[[V5, V6]].max() < 0.1
        assert inferior[[L2, L3, AVF]].min() > 0.12 and inferior[AVL] < -0.05 and inferior[[V1, V2]].max() < 0.1
        assert np.abs(healthy).max() < 0.1


def test_infarctions_have_q_waves_where_they_should() -> None:
    def early_minimum(condition: str, leads: list[int], seed: int) -> np.ndarray:
        beat, first, last, _ = clean_beat(condition, seed)
        return (beat[leads, first : first + (last - first) * 3 // 10] - beat[leads, first, None]).min(axis=1)

    for seed in range(8):
        assert early_minimum("anterior_infarction", [V2, V3], seed).max() < -0.1
        assert early_minimum("inferior_infarction", [L2, L3, AVF], seed).max() < -0.1
        assert early_minimum("sinus_rhythm", [V2, V3], seed).min() > -0.1


def test_bundle_branch_blocks_have_their_v1_and_v6() -> None:
    for seed in range(8):
        left, first, _, record = clean_beat("left_bundle_branch_block", seed)
        last = first + round(record.factors["qrs_width"] / 2)  # 500 Hz
        assert left[V1, first:last].max() < 0.15 and left[V1, first:last].min() < -0.5
        assert left[V6, first:last].max() > 0.5 and left[V6, first:last].min() > -0.1
        right, first, last, _ = clean_beat("right_bundle_branch_block", seed)
        late = slice((first + last) // 2, last)
        assert right[V1, late].max() > 0.3 and right[L1, late].min() < -0.03 and right[V6, late].min() < -0.1


def test_amplitude_tells_hypertrophy_and_low_voltage() -> None:
    def qrs(condition: str, seed: int) -> np.ndarray:
        record = simulate_ecg(condition, seed=seed, sampling_rate=500)
        beat = mean_beat(record)
        return beat[:, 150:260] - np.median(beat, axis=1, keepdims=True)

    for seed in range(10):
        low, normal, high = (
            qrs(condition, seed) for condition in ("low_voltage", "sinus_rhythm", "left_ventricular_hypertrophy")
        )
        assert np.ptp(low[:6], axis=1).max() < 0.5 < np.ptp(normal[:6], axis=1).max()
        sokolow_lyon = [-beat[V1].min() + max(beat[V5].max(), beat[V6].max()) for beat in (low, normal, high)]
        assert sokolow_lyon[0] < 1.2 and sokolow_lyon[1] < 3.5 < sokolow_lyon[2]


def test_premature_beats_are_early_and_wide() -> None:
    for seed in range(8):
        record = clean("premature_ventricular_complexes", seed)
        peaks = r_peaks(record)
        rr = np.diff(peaks) / 500
        early = np.flatnonzero(rr < 0.75 * np.median(rr))
        assert 1 <= len(early) <= 6
        for beat in early[early < len(rr) - 1]:
            assert rr[beat] + rr[beat + 1] == pytest.approx(2 * np.median(rr), rel=0.12)  # compensatory pause
        regular = np.diff(r_peaks(clean("sinus_rhythm", seed)))
        assert regular.min() > 0.85 * np.median(regular)


def test_pacing_spikes_are_narrow() -> None:
    paced, sinus = (clean(condition, 0) for condition in ("ventricular_pacing", "sinus_rhythm"))
    steepest = [np.abs(np.diff(record.signal[L3])).max() for record in (paced, sinus)]
    assert steepest[0] > 2 * steepest[1]


@given(
    condition=st.sampled_from(CONDITIONS),
    seed=st.integers(0, 2**32 - 1),
    sampling_rate=st.sampled_from([100.0, 250.0, 257.0, 500.0]),
    duration=st.floats(1.0, 15.0),
)
@settings(max_examples=40, deadline=None)
def test_limb_leads_are_exact_and_signals_sane(
    condition: str, seed: int, sampling_rate: float, duration: float
) -> None:
    record = simulate_ecg(condition, seed=seed, sampling_rate=sampling_rate, duration=duration)
    assert record.signal.shape == (12, round(sampling_rate * duration)) and record.signal.dtype == np.float32
    microvolts = np.rint(record.signal * 1000).astype(int)
    np.testing.assert_allclose(record.signal * 1000, microvolts, atol=1e-2)
    np.testing.assert_array_equal(microvolts[L3], microvolts[L2] - microvolts[L1])
    np.testing.assert_array_equal(-2 * microvolts[AVR], microvolts[L1] + microvolts[L2])
    np.testing.assert_array_equal(2 * microvolts[AVL], 2 * microvolts[L1] - microvolts[L2])
    np.testing.assert_array_equal(2 * microvolts[AVF], 2 * microvolts[L2] - microvolts[L1])
    assert 0.1 < np.ptp(record.signal, axis=1).max() < 10
    assert 35 < record.factors["heart_rate"] < 185


def test_seed_decides_everything() -> None:
    first, again, other = (simulate_ecg("atrial_fibrillation", seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.signal, again.signal)
    assert (first.report, first.scp_codes, str(first.factors)) == (again.report, again.scp_codes, str(again.factors))
    assert np.abs(first.signal - other.signal).max() > 0.2


def test_noise_is_optional_and_small() -> None:
    noisy, silent = (simulate_ecg(seed=5, sampling_rate=500, noise=noise) for noise in (1.0, 0.0))
    difference = noisy.signal - silent.signal
    assert 0.002 < difference.std() < 0.2
    twice = simulate_ecg(seed=5, sampling_rate=500, noise=2.0)
    np.testing.assert_allclose(twice.signal - silent.signal, 2 * difference, atol=0.012)  # whole microvolts


def test_findings_combine_and_exclude_each_other() -> None:
    both = simulate_ecg("atrial_fibrillation+right_bundle_branch_block", seed=1)
    assert set(both.scp_codes) == {"AFIB", "CRBBB"} and both.factors["qrs_width"] > 120
    for condition in (
        "left_bundle_branch_block+right_bundle_branch_block",
        "sinus_rhythm+atrial_fibrillation",
        "atrial_fibrillation+first_degree_av_block",
    ):
        with pytest.raises(ValueError, match="Expected one rhythm and findings that change different properties"):
            simulate_ecg(condition, seed=0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"condition": "asystole"}, "Expected each of sinus_rhythm, .* got 'asystole'"),
        ({"condition": ""}, "Expected each of"),
        ({"condition": "long_qt+long_qt"}, "at most once"),
        ({"sampling_rate": 10}, "sampling_rate of 50 to 5000 Hz"),
        ({"duration": 0}, "duration of 1 to 600 s"),
        ({"noise": -1}, "noise of at least 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_ecg(**arguments, seed=0)


def test_reports_name_the_findings_and_nothing_that_varies_freely() -> None:
    reports = [simulate_ecg(condition, seed=seed) for condition in CONDITIONS for seed in range(25)]
    assert {code for record in reports for code in record.scp_codes} == PTB_XL_CODES
    for record in reports:
        assert record.report == record.report.lower() and record.report.isascii()
        assert not re.search(r"axis|bpm|/min| ms\b|\d\d|\bmv\b", record.report)
    assert len({record.report for record in reports}) > 3 * len(CONDITIONS)
    lbbb = [record for record in reports if "CLBBB" in record.scp_codes and "trace only" not in record.report]
    assert all("left bundle branch block" in record.report or "lbbb" in record.report for record in lbbb)
    assert {record.scp_codes["CLBBB"] for record in lbbb} == {80.0, 100.0}
    assert all(("probable" in record.report) == (record.scp_codes["CLBBB"] == 80.0) for record in lbbb)


def test_factors_vary_freely_under_the_same_report() -> None:
    records = [simulate_ecg("sinus_rhythm", seed=seed) for seed in range(400)]
    values = np.array([[record.factors[name] for name in FACTORS] for record in records])
    spread = dict(zip(FACTORS, values.std(axis=0)))
    assert spread["heart_rate"] > 7 and spread["qrs_axis"] > 20 and spread["qrs_width"] > 6
    assert spread["amplitude"] > 0.1 and spread["pr_interval"] > 15 and spread["qt_interval"] > 10
    correlation = np.corrcoef(values.T)
    correlation[FACTORS.index("qt_interval")] = correlation[:, FACTORS.index("qt_interval")] = 0  # follows the rate
    assert np.abs(correlation - np.diag(np.diag(correlation))).max() < 0.2


def features(record: SyntheticRecord) -> np.ndarray:
    """Rhythm (mean, variation and range of RR) and every second sample of the median beat of the independent leads."""
    rr = np.diff(r_peaks(record)) / record.sampling_rate
    beat = mean_beat(record, before=0.35, after=0.5)[[L1, L2, V1, V2, V3, V4, V5, V6], ::2]
    return np.array([rr.mean(), rr.std() / rr.mean(), rr.min() / rr.max(), *(beat - beat[:, -1:]).ravel()])


def test_a_linear_model_tells_the_conditions_apart() -> None:
    n = 18
    x = np.array([features(simulate_ecg(condition, seed=seed)) for condition in CONDITIONS for seed in range(n)])
    y = np.repeat(np.arange(len(CONDITIONS)), n)
    train = np.tile(np.arange(n) < 12, len(CONDITIONS))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=100)).fit(x[train], y[train])
    assert (model.predict(x[~train]) == y[~train]).mean() > 0.8  # chance is 0.06


def test_two_hundred_records_per_second_of_one_core() -> None:
    simulate_ecg(seed=0)
    start = time.process_time()
    for seed in range(100):
        simulate_ecg(CONDITIONS[seed % len(CONDITIONS)], seed=seed)
    assert 100 / (time.process_time() - start) > 200


def test_wfdb_round_trip_without_identifiers(tmp_path: Path) -> None:
    paths = write_wfdb(tmp_path / "new" / "folder", 3, seed=7, sampling_rate=250, duration=4)
    assert [path.name for path in paths] == [f"synthetic_{i:05d}.hea" for i in (1, 2, 3)]
    record = wfdb.rdrecord(str(paths[1].with_suffix("")))
    digital = wfdb.rdrecord(str(paths[1].with_suffix("")), physical=False).d_signal
    assert record.fs == 250 and record.p_signal.shape == (1000, 12) and tuple(record.sig_name) == STANDARD_LEADS
    np.testing.assert_array_equal(digital[:, L3], digital[:, L2] - digital[:, L1])
    np.testing.assert_allclose(record.p_signal, digital / 1000)
    assert np.ptp(record.p_signal, axis=0).max() > 0.3
    assert [comment.split(":")[0] for comment in record.comments] == ["Age", "Sex", "Report"]
    assert record.base_date is None and record.base_time is None


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    cache = str(tmp_path_factory.mktemp("cache"))
    builder = SyntheticEcg(cache_dir=cache, n_records=90, seed=3)
    builder.download_and_prepare()
    return builder


def test_cohort_has_the_columns_of_ptb_xl_and_the_factors(cohort: SyntheticEcg, tmp_path: Path) -> None:
    ours, theirs = cohort.info.features, PtbXl(data_dir=str(tmp_path), cache_dir=str(tmp_path)).info.features
    assert list(ours) == [*theirs, *FACTORS]
    assert {name: ours[name] for name in theirs} == dict(theirs)


def test_folds_hold_patients_apart(cohort: SyntheticEcg) -> None:
    splits = cohort.as_dataset()
    assert {name: set(rows["strat_fold"]) for name, rows in splits.items()} == {
        "train": set(range(1, 9)),
        "validation": {9},
        "test": {10},
    }
    assert sorted(i for rows in splits.values() for i in rows["ecg_id"]) == list(range(1, 91))
    pairs = {(p, f) for rows in splits.values() for p, f in zip(rows["patient_id"], rows["strat_fold"])}
    patients = [p for rows in splits.values() for p in rows["patient_id"]]
    assert len(pairs) == len(set(patients)) < 90 and max(map(patients.count, patients)) > 1


def test_rows_are_the_records_of_the_seed(cohort: SyntheticEcg, tmp_path: Path) -> None:
    row = cohort.as_dataset(split="train")[0]
    signal = wfdb.rdrecord(
        str(write_wfdb(tmp_path, row["ecg_id"], seed=3)[-1].with_suffix("")), physical=False
    ).d_signal
    np.testing.assert_array_equal(np.array(row["signal"]), signal.T)
    rows = [row for split in cohort.as_dataset().values() for row in split]
    for row in rows:
        assert (row["pr_interval"] is None) == bool({"AFIB", "AFLT", "PACE"} & set(row["scp_codes"]["code"]))
        assert (
            18 <= row["age"] <= 89
            and row["sex"] in ("male", "female")
            and set(row["scp_codes"]["code"]) <= PTB_XL_CODES
        )
    assert sum(len(row["scp_codes"]["code"]) > 2 for row in rows) >= 9  # two findings


def test_a_larger_cohort_begins_with_the_smaller(cohort: SyntheticEcg, tmp_path: Path) -> None:
    larger = SyntheticEcg(cache_dir=str(tmp_path), n_records=100, seed=3)
    larger.download_and_prepare(num_proc=2)
    small, large = (
        {row["ecg_id"]: row for rows in builder.as_dataset().values() for row in rows} for builder in (cohort, larger)
    )
    assert len(large) == 100 and all(large[i] == row for i, row in small.items())


def test_name_and_cache_carry_the_parameters(tmp_path: Path) -> None:
    builders = [
        SyntheticEcg(cache_dir=str(tmp_path), config_name="tiny", n_records=n, seed=seed, duration=duration)
        for n, seed, duration in ((40, 0, 10.0), (41, 0, 10.0), (40, 1, 10.0), (40, 0, 5.0))
    ]
    assert [builder.config.name for builder in builders][:2] == [
        "tiny-n40-seed0-100hz-10s",
        "tiny-n41-seed0-100hz-10s",
    ]
    assert len({builder.cache_dir for builder in builders}) == 4
    assert all("1.0.0" in Path(builder.cache_dir).parts for builder in builders)
    assert builders[3].info.features["signal"].shape == (12, 500)


@pytest.mark.parametrize("parameters", [{"n_records": 29}, {"n_records": 30, "seed": -1}])
def test_bad_parameters_are_named(parameters: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected n_records of at least 30"):
        SyntheticEcg(cache_dir=str(tmp_path), **parameters)
