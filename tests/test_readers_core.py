"""EcgRecord, Source, read_ecg: detection, what may be opened, size limits, round trips, windows."""

import io
import os
import struct
import tracemalloc
from binascii import crc_hqx
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from modeling_merit.processing.leads import canonical_leads
from modeling_merit.processing.readers import EcgFormatError, EcgRecord, read_ecg, windows
from modeling_merit.processing.readers.source import Source, is_no_ecg, sibling_file
from modeling_merit.processing.record import MAX_SAMPLES
from modeling_merit.processing.writers import write_ecg, write_edf, write_wfdb

CSV = b"time [s],I [mV],II [mV]\n0.000,0.1,0.2\n0.002,0.2,0.3\n0.004,0.0,0.1\n"


def make_record(n_samples: int = 1000, leads: tuple[str, ...] = ("I", "II"), **facts) -> EcgRecord:
    """A record of small numbers that are whole microvolts, so that writing it loses nothing."""
    generator = np.random.default_rng(0)
    microvolts = generator.integers(-2000, 2000, size=(len(leads), n_samples))
    return EcgRecord(microvolts / 1000, **{"sampling_rate": 500, "leads": leads, **facts})


class TestEcgRecord:
    def test_holds_float32_and_canonical_names(self):
        record = EcgRecord(np.ones((2, 4), dtype=np.int16), 250, ("avr", "Lead II"))
        assert record.signal.dtype == np.float32
        assert record.leads == ("aVR", "II")
        assert (record.n_samples, record.duration_s) == (4, 0.016)

    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({"signal": np.ones(5)}, "shape"),
            ({"signal": np.ones((3, 5))}, "shape"),
            ({"signal": np.ones((2, 0))}, "at least 1 lead and 1 sample"),
            ({"signal": np.full((2, 5), np.inf)}, "infinity"),
            ({"sampling_rate": 0}, "sampling rate"),
            ({"sampling_rate": float("nan")}, "sampling rate"),
            ({"leads": ("I", "V99")}, "V99"),
            ({"leads": ("I", "i")}, "more than once"),
        ],
    )
    def test_refuses_fields_that_contradict(self, facts, message):
        with pytest.raises(EcgFormatError, match=message):
            EcgRecord(**{"signal": np.ones((2, 5)), "sampling_rate": 500, "leads": ("I", "II"), **facts})

    def test_select_orders_by_name(self):
        record = make_record(leads=("I", "II", "V1"))
        chosen = record.select(["v1", "I"])
        assert chosen.leads == ("V1", "I")
        np.testing.assert_array_equal(chosen.signal, record.signal[[2, 0]])
        with pytest.raises(ValueError, match="V6"):
            record.select(["V6"])

    def test_crop_takes_the_named_seconds(self):
        record = make_record(n_samples=1000)
        np.testing.assert_array_equal(record.crop(0.5, 1.5).signal, record.signal[:, 250:750])
        with pytest.raises(ValueError, match="2 s"):
            record.crop(1, 3)

    def test_crop_moves_the_start_time(self):
        record = make_record(n_samples=1000, start_time=datetime(2001, 2, 3, 4, 5, 6))
        assert record.crop(0.5, 1.5).start_time == datetime(2001, 2, 3, 4, 5, 6, 500_000)
        assert record.crop(0, 1).crop(0.25, 0.75).start_time == datetime(2001, 2, 3, 4, 5, 6, 250_000)
        assert make_record().crop(0.5, 1.5).start_time is None
        late = make_record(n_samples=5000, start_time=datetime(9999, 12, 31, 23, 59, 59))
        assert late.crop(8, 10).start_time is None

    @pytest.mark.parametrize("limits", [(float("nan"), 1), (0, float("inf")), (-1, 1), (1, 1), (0, 1e300)])
    def test_crop_refuses_what_is_no_interval(self, limits):
        with pytest.raises(ValueError, match="0 <= start < stop <= 2 s"):
            make_record(n_samples=1000).crop(*limits)

    def test_text_of_a_file_is_escaped_and_bounded(self):
        record = make_record(record_id="a\x1b[2J", device="x" * 5000, filters="\x9b0m", notes=("left out: \r\n\x07",))
        assert (record.record_id, record.filters, record.notes) == ("a\\x1b[2J", "\\x9b0m", ("left out: \\r\\n\\x07",))
        assert record.device == "x" * 1000 + "..."
        assert make_record(device="Schiller Cardiovit, 2 µV").device == "Schiller Cardiovit, 2 µV"

    def test_resample_keeps_a_sine_and_an_offset(self):
        time = np.arange(5000) / 500
        record = EcgRecord(np.sin(2 * np.pi * 5 * time)[None] + 3, 500, ("II",))
        resampled = record.resample(100)
        expected = np.sin(2 * np.pi * 5 * np.arange(1000) / 100) + 3
        assert (resampled.sampling_rate, resampled.n_samples) == (100, 1000)
        assert np.abs(resampled.signal[0] - expected)[20:-20].max() < 0.01
        assert np.abs(resampled.signal[0] - expected).max() < 0.2

    def test_resample_removes_what_the_new_rate_cannot_hold(self):
        time = np.arange(5000) / 500
        record = EcgRecord(np.sin(2 * np.pi * 120 * time)[None], 500, ("II",))
        assert np.abs(record.resample(100).signal[0, 50:-50]).max() < 0.02

    def test_resample_keeps_invalid_samples_invalid(self):
        signal = np.ones((2, 1000), dtype=np.float32)
        signal[0, 500:600] = np.nan
        signal[1] = np.nan
        resampled = EcgRecord(signal, 500, ("I", "II")).resample(250)
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(resampled.signal[0])), np.arange(250, 301))
        assert np.isnan(resampled.signal[1]).all()
        np.testing.assert_allclose(resampled.signal[0, ~np.isnan(resampled.signal[0])], 1, atol=1e-3)

    def test_repr_holds_no_samples(self):
        assert "array" not in repr(make_record())


class TestOpening:
    def test_path_file_and_bytes_give_the_same(self, tmp_path):
        path = tmp_path / "ecg.csv"
        path.write_bytes(CSV)
        with open(path, "rb") as file:
            records = [read_ecg(path), read_ecg(str(path)), read_ecg(CSV), read_ecg(file)]
        for record in records:
            np.testing.assert_allclose(record.signal, [[0.1, 0.2, 0.0], [0.2, 0.3, 0.1]], rtol=1e-6)

    def test_name_of_a_file_object_opens_nothing(self, tmp_path):
        written = write_wfdb(make_record(), tmp_path)
        upload = io.BytesIO(written.read_bytes())
        upload.name = str(written)
        with pytest.raises(EcgFormatError, match="pass the path"):
            read_ecg(upload)

    def test_text_mode_is_refused(self):
        with pytest.raises(TypeError, match="binary"):
            read_ecg(io.StringIO("text"))

    def test_missing_folder_and_pipe_are_refused(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.csv")
        for name, message in [
            ("absent.csv", "no file"),
            (".", "folder"),
            ("pipe.csv", "pipe"),
        ]:
            with pytest.raises(EcgFormatError, match=message):
                read_ecg(tmp_path / name)
        with pytest.raises(EcgFormatError, match="no file"):
            read_ecg("nul\0byte.csv")

    @pytest.mark.parametrize("content", [b"", b"\0" * 500, b"hello", bytes(range(256)) * 20, b"<html></html>", b"{}"])
    def test_other_content_is_refused(self, content):
        with pytest.raises(EcgFormatError):
            read_ecg(content)

    def test_content_wins_over_extension(self, tmp_path):
        path = write_edf(make_record(), tmp_path / "a.edf").rename(tmp_path / "a.csv")
        assert read_ecg(path).n_samples == 1000

    def test_unknown_format_name(self):
        with pytest.raises(EcgFormatError, match="Expected one of dicom"):
            read_ecg(CSV, format="gif")

    def test_stated_facts_never_override_the_file(self):
        assert read_ecg(CSV, sampling_rate=500, units="mV").sampling_rate == 500
        with pytest.raises(EcgFormatError, match="250 Hz"):
            read_ecg(CSV, sampling_rate=250)
        with pytest.raises(EcgFormatError, match="uV"):
            read_ecg(CSV, units="uV")

    def test_missing_library_names_the_pip_line(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "edfio", None)
        monkeypatch.delitem(sys.modules, "modeling_merit.processing.readers.edf", raising=False)
        with pytest.raises(ImportError, match="needs edfio: pip install edfio"):
            read_ecg(b"0       ", format="edf")


class TestLeadNames:
    def test_unknown_names_are_listed_and_can_be_said(self):
        source = Source("x.edf", content=b"")
        with pytest.raises(EcgFormatError, match=r"'II', 'col 7'; no lead is called 'col 7'"):
            source.choose_leads(["II", "col 7"])
        assert Source("", leads={"col 7": "V1"}).choose_leads(["II", "col 7"]) == {0: "II", 1: "V1"}
        assert Source("", leads={"col 7": None}).choose_leads(["II", "col 7"]) == {0: "II"}
        assert Source("", leads=["II", "V1"]).choose_leads(["Lead II", "col 7"]) == {0: "II", 1: "V1"}
        assert Source("", leads=["II", None]).choose_leads(["II", "col 7"]) == {0: "II"}
        with pytest.raises(EcgFormatError, match="names its channel 1 'II', `leads` 'I'"):
            Source("", leads=["I", None]).choose_leads(["II", "col 7"])
        assert Source("", leads={"II": "I", "col 7": None}).choose_leads(["II", "col 7"]) == {0: "I"}

    def test_a_string_is_names_and_not_letters(self):
        assert read_ecg(b"0.1\n0.2\n", "csv", leads="II", units="mV", sampling_rate=500).leads == ("II",)
        record = read_ecg(b"0.1,1\n0.2,2\n", "csv", leads="I, aVR", units="mV", sampling_rate=500)
        assert record.leads == ("I", "aVR")

    def test_sites_of_eeg_are_no_chest_leads(self, tmp_path):
        for name, leads in (("a", ["C3", "C4"]), ("b", ["II", "C3", "C4"])):
            signal = np.random.default_rng(0).normal(size=(len(leads), 1000))
            np.savez(tmp_path / name, signal=signal, sampling_rate=500.0, leads=leads, units="mV")
            with pytest.raises(EcgFormatError, match="'C3', 'C4' can be EEG sites or chest leads.*leads="):
                read_ecg(tmp_path / f"{name}.npz")
            named = {"C3": "V3", "C4": None}
            assert read_ecg(tmp_path / f"{name}.npz", leads=named).leads[-1] == "V3"

    def test_numbers_of_channels_are_no_leads(self):
        with pytest.raises(EcgFormatError, match="ECG 1"):
            Source("x").choose_leads(["ECG 1", "ECG 2"])
        assert Source("x").choose_leads(["Lead 1", "L2"]) == {0: "I", 1: "II"}

    def test_renaming_what_is_not_there_or_counting_wrongly(self):
        with pytest.raises(EcgFormatError, match="col 9"):
            Source("x", leads={"col 9": "I"}).choose_leads(["I"])
        with pytest.raises(EcgFormatError, match="names 1 channels"):
            Source("x", leads=["I"]).choose_leads(["a", "b"])
        with pytest.raises(EcgFormatError, match="more than once"):
            Source("x").choose_leads(["II", "Lead II"])
        with pytest.raises(EcgFormatError, match="no ECG lead; it holds 'ABP'"):
            Source("x").choose_leads(["ABP"], skip=[0])

    def test_other_signals_are_told_by_unit_or_name(self):
        others = [("ABP", "mmHg"), ("Pleth", "NU"), ("RESP", "mV"), ("EEG Fpz-Cz", "uV"), ("SpO2", "%")]
        assert all(is_no_ecg(name, unit) for name, unit in others)
        assert not any(is_no_ecg(name, unit) for name, unit in [("II", "NU"), ("aVF", "mV"), ("sig 0", "mV")])


def test_names_in_a_header_stay_in_its_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.dat").write_bytes(b"1")
    header = tmp_path / "inside" / "a.hea"
    header.write_text("")
    for name in ["../secret.dat", str(tmp_path / "secret.dat"), "..", "", "absent.dat", "C:\\secret.dat"]:
        with pytest.raises(EcgFormatError):
            sibling_file(header, name)
    (tmp_path / "inside" / "a.dat").write_bytes(b"1")
    assert sibling_file(header, "a.dat") == tmp_path / "inside" / "a.dat"
    (tmp_path / "inside" / "link.dat").symlink_to(tmp_path / "secret.dat")  # as in the cache of the Hub
    assert sibling_file(header, "link.dat").read_bytes() == b"1"


records = st.builds(
    lambda n_samples, n_leads, peak, rate, seed, gain, age, sex: EcgRecord(
        np.random.default_rng(seed).uniform(-peak, peak, size=(n_leads, n_samples)),
        rate,
        ("I", "II", "V1", "V6")[:n_leads],
        record_id="record",
        age=age,
        sex=sex,
        gain=gain,
        start_time=datetime(2001, 2, 3, 4, 5, 6),
    ),
    n_samples=st.integers(1, 700),
    n_leads=st.integers(1, 4),
    peak=st.sampled_from([0.01, 1.0, 5.0, 31.0, 300.0]),
    rate=st.sampled_from([100, 125, 250, 257.5, 360, 500, 599.88, 1000]),
    seed=st.integers(0, 2**31),
    gain=st.sampled_from([None, 100.0, 204.8, 1000.0, 2963.77]),
    age=st.sampled_from([None, 0.0, 63.0]),
    sex=st.sampled_from([None, "male", "female"]),
)


class TestRoundTrips:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(record=records)
    def test_wfdb_within_half_a_step(self, record, tmp_path):
        back = read_ecg(write_wfdb(record, tmp_path))
        step = 1 / (record.gain or 1000)
        assert np.abs(back.signal - record.signal).max() <= step / 2 + 1e-6 * np.abs(record.signal).max()
        assert back.sampling_rate == pytest.approx(record.sampling_rate, rel=1e-6)
        assert (back.leads, back.age, back.sex, back.start_time) == (
            record.leads,
            record.age,
            record.sex,
            record.start_time,
        )

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(record=records)
    def test_edf_within_half_a_step(self, record, tmp_path):
        assume(record.duration_s >= 0.1)  # eight characters do not state a shorter duration to 1e-5
        back = read_ecg(write_edf(record, tmp_path / "record.edf"))
        peak = np.abs(record.signal).max()
        step = 0.001 if peak <= 32.767 else 2 * peak / 65535
        assert np.abs(back.signal - record.signal).max() <= step / 2 * 1.01 + 1e-6 * peak
        assert back.n_samples == record.n_samples
        assert back.sampling_rate == pytest.approx(record.sampling_rate, rel=1e-5)
        assert (back.leads, back.sex, back.start_time) == (record.leads, record.sex, record.start_time)

    def test_whole_microvolts_survive_exactly(self, tmp_path):
        record = make_record(leads=("I", "II", "aVR"))
        np.testing.assert_array_equal(read_ecg(write_wfdb(record, tmp_path)).signal, record.signal)
        np.testing.assert_allclose(read_ecg(write_edf(record, tmp_path / "a.edf")).signal, record.signal, atol=2e-7)

    def test_the_wfdb_library_agrees(self, tmp_path):
        record = make_record(record_id="a b/c")
        header = write_wfdb(record, tmp_path)
        assert header.name == "a_b_c.hea"
        again = wfdb.rdrecord(str(header.with_suffix("")))
        np.testing.assert_allclose(again.p_signal.T, record.signal, atol=1e-7)

    def test_invalid_samples_survive_in_wfdb_and_are_refused_by_edf(self, tmp_path):
        signal = make_record().signal.copy()
        signal[1, 10:20] = np.nan
        record = EcgRecord(signal, 500, ("I", "II"))
        back = read_ecg(write_wfdb(record, tmp_path))
        np.testing.assert_array_equal(back.signal, signal)
        assert back.notes == ("II: 10 of 1000 samples invalid",)
        with pytest.raises(ValueError, match="NaN"):
            write_edf(record, tmp_path / "a.edf")

    def test_edf_wants_its_extension(self, tmp_path):
        with pytest.raises(ValueError, match=r"\.edf"):
            write_edf(make_record(), tmp_path / "a.txt")


@pytest.mark.parametrize(
    "order",
    [
        ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"),  # MIMIC-IV-ECG
        ("DI", "DII", "DIII", "AVL", "AVF", "AVR", "V1", "V2", "V3", "V4", "V5", "V6"),  # CODE-test
        ("MDC_ECG_LEAD_V1", "MDC_ECG_LEAD_AVF", "Lead II", "C2", "vx", "vy", "vz"),  # chest, Frank
        ("ES", "AS", "AI"),  # EASI
    ],
)
def test_leads_are_found_by_name_in_any_order(tmp_path, order):
    signal = np.arange(len(order), dtype=float)[:, None] + np.zeros(50)
    np.savez(tmp_path / "a", signal=signal, sampling_rate=500.0, leads=order, units="mV")
    rows = [f"{i / 500:.3f}," + ",".join(f"{value:g}" for value in column) for i, column in enumerate(signal.T)]
    (tmp_path / "a.csv").write_text(
        "\n".join([f"time [s],{','.join(f'{name} [mV]' for name in order)}", *rows]) + "\n"
    )
    for name in ("a.npz", "a.csv"):
        record = read_ecg(tmp_path / name)
        assert record.leads == canonical_leads(order)
        for i, lead in enumerate(order):
            assert record.select([lead]).signal.max() == i


class TestWindows:
    def test_memory_does_not_grow_with_the_length_of_a_holter_recording(self, tmp_path):
        peaks = []
        for hours in (1, 6):
            n_samples = hours * 3600 * 200
            header = f"holter 2 200 {n_samples}\n" + "".join(
                f"holter.dat 16 200/mV 16 0 0 0 0 {lead}\n" for lead in ("II", "V5")
            )
            (tmp_path / "holter.hea").write_text(header)
            np.zeros(2 * n_samples, "<i2").tofile(tmp_path / "holter.dat")
            block = bytearray(512)
            struct.pack_into("<iiii", block, 0, 0, n_samples, 522, 522)
            struct.pack_into("<h2h", block, 146, 2, 6, 15)
            struct.pack_into("<2h", block, 196, 5000, 5000)
            struct.pack_into("<h", block, 262, 200)
            with open(tmp_path / "holter.ecg", "wb") as file:
                file.write(b"ISHNE1.0" + struct.pack("<H", crc_hqx(bytes(block), 0xFFFF)) + bytes(block))
                np.zeros(2 * n_samples, "<i2").tofile(file)
            for name in ("holter.hea", "holter.ecg"):
                tracemalloc.start()
                assert sum(1 for _ in windows(tmp_path / name, 60, 600)) == 6 * hours
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
        assert max(peaks) < 2**21  # the six hours have 17 MB

    @pytest.mark.parametrize("kind", ["wfdb", "edf"])
    def test_windows_are_the_pieces_of_the_record(self, tmp_path, kind):
        record = make_record(n_samples=5250, start_time=datetime(2001, 2, 3, 4, 5, 6))
        path = write_wfdb(record, tmp_path) if kind == "wfdb" else write_edf(record, tmp_path / "a.edf")
        pieces = list(windows(path, window_s=2.5, step_s=2.0))
        assert len(pieces) == 5
        for i, piece in enumerate(pieces):
            expected = record.signal[:, 1000 * i : 1000 * i + 1250]
            np.testing.assert_allclose(piece.signal, expected, atol=2e-7)
            assert piece.start_time == datetime(2001, 2, 3, 4, 5, 6 + 2 * i)

    def test_a_recording_above_the_limit_is_read_in_windows(self, tmp_path):
        n_samples = MAX_SAMPLES + 1000
        np.zeros(n_samples, dtype="<i2").tofile(tmp_path / "long.dat")
        (tmp_path / "long.hea").write_text(f"long 1 1000 {n_samples}\nlong.dat 16 200/mV 16 0 0 0 0 II\n")
        with pytest.raises(EcgFormatError, match="windows"):
            read_ecg(tmp_path / "long.hea")
        first = next(windows(tmp_path / "long.hea", window_s=10))
        assert first.signal.shape == (1, 10_000)

    @pytest.mark.parametrize("name", ["a.hea", "a.edf", "a.npz"])
    def test_a_part_and_its_windows(self, tmp_path, name):
        record = make_record(n_samples=5000)
        path = write_ecg(record, tmp_path / name)
        part = read_ecg(path, start_s=1.5, seconds=6)
        np.testing.assert_allclose(part.signal, record.signal[:, 750:3750], atol=2e-7)
        assert read_ecg(path, start_s=9).n_samples == 500
        pieces = list(windows(path, 2, 1.3333, start_s=1.5, seconds=6))  # 666.65 samples: starts do not drift
        assert [round(750 + i * 666.65) for i in range(4)] == [750, 1417, 2083, 2750] and len(pieces) == 4
        np.testing.assert_allclose(pieces[3].signal, record.signal[:, 2750:3750], atol=2e-7)
        for wrong in ({"start_s": 11}, {"start_s": -1}, {"seconds": 0}, {"start_s": 9, "seconds": 2}):
            with pytest.raises(ValueError, match="part of a recording of 10 s"):
                read_ecg(path, **wrong)
            with pytest.raises(ValueError, match="part of a recording of 10 s"):
                next(windows(path, 1, **wrong))

    def test_a_part_is_read_alone(self, tmp_path):
        """A part of a recording that is too long to be read."""
        n_samples = MAX_SAMPLES + 1000
        digital = np.zeros(n_samples, dtype="<i2")
        digital[-500_000:] = 200
        digital.tofile(tmp_path / "long.dat")
        (tmp_path / "long.hea").write_text(f"long 1 1000 {n_samples}\nlong.dat 16 200/mV 16 0 0 0 0 II\n")
        part = read_ecg(tmp_path / "long.hea", start_s=n_samples / 1000 - 20, seconds=10)
        assert part.signal.shape == (1, 10_000) and (part.signal == 1).all()

    def test_stated_facts_hold_for_windows(self, tmp_path):
        with pytest.raises(EcgFormatError, match="states 500 Hz, not the 250 Hz given"):
            next(windows(write_wfdb(make_record(), tmp_path), 1, sampling_rate=250))

    def test_empty_windows_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="at least a sample"):
            next(windows(write_wfdb(make_record(), tmp_path), 0))


@pytest.mark.real_data
def test_the_same_recording_in_five_formats(data_dir: Path):
    formats = data_dir / "formats"
    reference = read_ecg(formats / "wfdb/cinc2021_mat/HR06000.mat")
    assert (reference.leads[:3], reference.sampling_rate, reference.n_samples) == (("I", "II", "III"), 500, 5000)
    assert (reference.age, reference.sex, reference.gain, reference.start_time) == (59, "female", 1000, None)
    for name, facts, tolerance in [
        ("edf/derived_ptbxl_12lead_edfplus.edf", {}, 1e-6),
        ("csv/derived_12lead_header_time_mV.csv", {"units": "mV"}, 1e-6),
        ("mortara_xml/synthetic_ptbxl_12lead_500hz.xml", {}, 1e-6),
        ("dicom/derived_general_ecg_mdc_mV_2groups.dcm", {}, 0.0101),  # written with a baseline of 0.01 mV
    ]:
        record = read_ecg(formats / name, **facts)
        assert (set(record.leads), record.sampling_rate) == (set(reference.leads), 500), name
        record = record.select(reference.leads)
        assert np.abs(record.signal - reference.signal).max() < tolerance, name
