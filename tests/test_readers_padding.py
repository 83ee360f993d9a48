"""What is not a recording: padding at the ends, and markers of no value in integer formats."""

import math
from datetime import datetime
from io import BytesIO

import edfio
import h5py
import numpy as np
import pytest
from dicom_files import channel, dicom, group
from fuzz_seeds import ishne
from hypothesis import given
from hypothesis import strategies as st
from known_ecg import synthetic_ecg
from scp_files import lead_section, scp_file, signal_section

from modeling_merit.processing import MeritFeatureExtractor
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import EcgRecord, read_ecg
from modeling_merit.processing.readers.read import without_padding
from modeling_merit.processing.signal_quality import NO_VALUES, no_value, unpadded

ECG = synthetic_ecg(rate=400, seconds=7)
FACTS = {"sampling_rate": 400, "leads": STANDARD_LEADS, "units": "mV"}
SAMPLES = np.round(synthetic_ecg(rate=500) * 400).astype(int)


def code15(tracing: np.ndarray) -> bytes:
    file = BytesIO()
    with h5py.File(file, "w") as content:
        content["tracings"] = tracing.T[None].astype(np.float32)
    return file.getvalue()


class TestRule:
    @given(
        seed=st.integers(0, 2**31),
        rate=st.sampled_from([100.0, 257.5, 400.0, 1000.0]),
        n_leads=st.integers(2, 12),
        ends=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
        value=st.sampled_from([0.0, -32768.0, np.nan, "held"]),
        n_flat=st.integers(0, 11),
    )
    def test_padding_is_found_to_the_sample(self, seed, rate, n_leads, ends, value, n_flat):
        signal = np.random.default_rng(seed).integers(-500, 500, (n_leads, 2000)) + 0.25 * (np.arange(2000) % 2)
        flat = min(n_flat, n_leads - 1)
        signal[n_leads - flat :] = 7.0  # leads that stand still all the time
        edge = {"mode": "edge"} if value == "held" else {"constant_values": value}
        padded = np.pad(signal, [(0, 0), ends], **edge)
        padded[n_leads - flat :] = 7.0
        held = value == "held" or (flat and not np.isnan(value))
        shortest = max(10, math.ceil((0.2 if held else 0.1) * rate))
        own = int(value == "held")  # the sample that is held counts as padding
        start = ends[0] + own if ends[0] + own >= shortest else 0
        stop = 2000 + ends[0] - own if ends[1] + own >= shortest else padded.shape[1]
        assert unpadded(padded, rate) == (start, stop)

    @pytest.mark.parametrize("heart_rate", [30, 45, 60, 100, 180])
    @pytest.mark.parametrize("step", [0.001, 0.005, 0.02])
    def test_an_ecg_without_noise_keeps_its_pauses(self, heart_rate, step):
        time = np.arange(5000) / 500
        beats = np.arange(0.4, 10, 60 / heart_rate)
        wave = sum(
            a * np.exp(-0.5 * ((time[:, None] - beats - d) / w) ** 2).sum(1)
            for a, d, w in [(0.1, -0.16, 0.02), (1, 0, 0.01), (0.3, 0.28, 0.04)]
        )
        signal = np.round(np.outer([1, 0.5, -0.3], wave) / step) * step
        assert unpadded(signal, 500) == (0, 5000)
        assert unpadded(signal[:1], 500) == (0, 5000)

    def test_flat_leads_and_flat_records_are_left(self):
        signal = ECG.copy()
        signal[3:, :1500] = 0.0  # electrodes that were put on late
        assert unpadded(signal, 400) == (0, 2800)
        assert unpadded(np.zeros((12, 5000)), 500) == (0, 5000)
        assert unpadded(np.full((1, 5000), np.nan), 500) == (0, 5000)
        assert unpadded(np.repeat([[0.0, 1.0]], 2500, axis=1), 500) == (0, 5000)  # a step
        assert unpadded(np.zeros((2, 1)), 500) == (0, 1)

    def test_the_last_values_of_ptb_xl_are_left(self):
        assert unpadded(np.pad(ECG, [(0, 0), (0, 44)], mode="edge"), 400) == (0, 2844)

    @given(st.integers(0, 2**31), st.sampled_from(NO_VALUES), st.integers(1, 999), st.integers(-9000, 9000))
    def test_markers_are_found_and_voltages_kept(self, seed, marker, n, offset):
        rng = np.random.default_rng(seed)
        digital = rng.integers(-2000, 2000, (2, 1000)) + offset
        chosen = rng.choice(1000, n, replace=False)
        digital[0, chosen] = marker
        expected = np.zeros((2, 1000), bool)
        expected[0, chosen] = True
        np.testing.assert_array_equal(no_value(digital), expected)

    def test_the_extremes_of_a_scaled_or_clipped_signal_are_voltages(self):
        scaled = np.interp(SAMPLES, [SAMPLES.min(), SAMPLES.max()], [-32768, 32767]).round()
        clipped = np.clip(SAMPLES * 100, -32768, 32767)
        assert not no_value(scaled).any() and not no_value(clipped).any()
        assert no_value(np.full((1, 50), -32768)).all()
        assert not no_value(np.array([[-32768, 32767, 32767]])).any()  # a square wave of the full range


class TestPadding:
    @pytest.mark.parametrize("ends", [(648, 648), (48, 48), (0, 1296), (1296, 0)])
    def test_zeros_around_a_tracing_of_code15_are_cut(self, ends):
        record = read_ecg(code15(np.pad(ECG, [(0, 0), ends])), **FACTS)
        trimmed = read_ecg(code15(ECG), **FACTS)
        np.testing.assert_array_equal(record.signal, trimmed.signal)
        assert [
            f"Cut at the {end}: {n} samples of padding" in " ".join(record.notes)
            for end, n in zip(("start", "end"), ends)
        ] == [n > 0 for n in ends]
        extract = MeritFeatureExtractor()
        for key, value in extract(record).items():
            np.testing.assert_array_equal(value, extract(trimmed)[key])

    @pytest.mark.parametrize("how", [{}, {"mode": "edge"}, {"constant_values": -5.0}, {"constant_values": np.nan}])
    def test_the_feature_extractor_cuts_the_padding_of_an_array(self, how):
        extract = MeritFeatureExtractor()
        expected = extract(ECG, **FACTS)
        padded = np.pad(ECG, [(0, 0), (900, 500)], **how)
        with pytest.warns(UserWarning, match="left out as padding"):
            got = extract([padded], **FACTS)
        assert got["ecg_mask"].shape[-1] == expected["ecg_mask"].shape[-1]
        if "mode" not in how:  # else two samples less: those that are held
            np.testing.assert_array_equal(got["input_values"], expected["input_values"])

    def test_the_feature_extractor_masks_markers_in_an_array_of_integers(self):
        digital = np.round(ECG * 1000).astype(np.int16)
        digital[4, 1000:1100] = 29999
        with pytest.warns(UserWarning, match="100 samples hold a marker of no value"):
            got = MeritFeatureExtractor(nan_policy="mask")(digital, **FACTS | {"units": "uV"}, return_quality=True)
        assert got["quality"][0]["nan_fraction"] == pytest.approx(100 / ECG.size)
        assert not got["ecg_mask"][0, 4, 250:275].any() and got["ecg_mask"][0, 4, :249].all()
        with pytest.warns(UserWarning, match="marker"), pytest.raises(ValueError, match="aVL holds 100 NaN"):
            MeritFeatureExtractor()(digital, **FACTS | {"units": "uV"})

    def test_the_start_time_moves_with_the_start(self):
        record = EcgRecord(np.pad(ECG, [(0, 0), (800, 0)]), 400, STANDARD_LEADS, start_time=datetime(2020, 1, 1))
        assert without_padding(record).start_time == datetime(2020, 1, 1, 0, 0, 2)
        assert without_padding(without_padding(record)).notes == without_padding(record).notes

    def test_what_a_file_marks_missing_at_its_ends_keeps_its_place(self):
        record = EcgRecord(np.pad(ECG, [(0, 0), (800, 800)], constant_values=np.nan), 400, STANDARD_LEADS)
        assert without_padding(record).n_samples == 4400

    @pytest.mark.parametrize("held", [False, True])
    def test_constant_tails_are_cut_in_every_format(self, held):
        samples = np.pad(SAMPLES[:2], [(0, 0), (300, 1000)], **({"mode": "edge"} if held else {}))
        for name, content in files(samples).items():
            record = read_ecg(content)
            assert abs(record.n_samples - 5000) <= 2, name
            assert sum("samples of padding" in note for note in record.notes) == 2, name


def files(samples: np.ndarray) -> dict[str, bytes]:
    """The leads I and II of 500 Hz in formats of integers, a step being 2.5 µV."""
    unit = {"physical_range": (-32768 * 2.5, 32767 * 2.5), "physical_dimension": "uV"}
    signals = [
        edfio.EdfSignal.from_digital(
            row.astype(np.int16), 500, label=f"ECG {lead}", digital_range=(-32768, 32767), **unit
        )
        for row, lead in zip(samples, ("I", "II"))
    ]
    npz = BytesIO()
    np.savez(npz, signal=samples.astype(np.int16), sampling_rate=500.0, leads=["I", "II"], units="uV")
    codes = [row.astype("<i2").tobytes() for row in samples]
    spans = [(1, samples.shape[1], 1), (1, samples.shape[1], 2)]
    return {
        "dicom": dicom([group(samples, [channel("I"), channel("II", sensitivity=5)])]),
        "edf": edfio.Edf(signals, data_record_duration=0.1).to_bytes(),
        "ishne": ishne(samples),
        "npz": npz.getvalue(),
        "scp": scp_file({3: lead_section(spans), 6: signal_section(codes, 2500, 2000, 0)}),
    }


@pytest.mark.parametrize("marker", [-32768, 29999, 32767])
@pytest.mark.parametrize("name", ["dicom", "edf", "ishne", "npz", "scp"])
def test_markers_of_no_value_are_missing_in_every_format_of_integers(name, marker):
    samples = SAMPLES[:2].copy()
    samples[1, 1000:1100], samples[:, 3000:3001] = marker, marker
    record = read_ecg(files(samples)[name])
    expected = samples == marker
    np.testing.assert_array_equal(np.isnan(record.signal), expected)
    assert any("102 samples of" in note and "marker of no value" in note for note in record.notes)
    clean = read_ecg(files(SAMPLES[:2])[name])
    assert clean.notes == ()
    np.testing.assert_array_equal(record.signal[~expected], clean.signal[~expected])
