"""What `write_ecg` writes, `read_ecg` reads back."""

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_merit.processing.readers import EcgFormatError, EcgRecord, read_ecg
from modeling_merit.processing.writers import WRITERS, placed, write_ecg

TOLERANCE_MV = {".edf": 1e-3, ".hea": 1e-3, ".npz": 0, ".json": 1e-6, ".csv": 1e-6}


@st.composite
def records(draw):
    leads = tuple(draw(st.lists(st.sampled_from(("I", "II", "aVR", "V1", "V6")), min_size=1, unique=True)))
    rate = draw(st.sampled_from((100, 250, 500, 1000)))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    signal = generator.normal(0, draw(st.sampled_from((0.01, 0.5, 3.0))), (len(leads), rate * draw(st.integers(1, 3))))
    signal[:, draw(st.integers(0, rate - 2)) :][:, :1] = np.nan if draw(st.booleans()) else 0.25
    return EcgRecord(signal, rate, leads, age=draw(st.sampled_from((None, 46.0))), sex="female")


@pytest.mark.parametrize("suffix", WRITERS)
@settings(max_examples=15, deadline=None)
@given(record=records())
def test_what_is_written_can_be_read(tmp_path_factory, suffix, record):
    if suffix == ".edf" and np.isnan(record.signal).any():
        with pytest.raises(ValueError, match="invalid"):
            write_ecg(record, tmp_path_factory.mktemp("ecg") / f"ecg{suffix}")
        return
    back = read_ecg(write_ecg(record, tmp_path_factory.mktemp("ecg") / f"ecg{suffix}"))
    assert (back.leads, back.sampling_rate) == (record.leads, record.sampling_rate)
    np.testing.assert_allclose(back.signal, record.signal, rtol=1e-6, atol=TOLERANCE_MV[suffix])
    if suffix in (".npz", ".json"):
        assert (back.age, back.sex) == (record.age, record.sex)


@pytest.mark.parametrize("suffix", WRITERS)
def test_frank_leads_and_the_time_are_read_back(tmp_path, suffix):
    signal = np.random.default_rng(0).normal(0, 0.5, (3, 500))
    record = EcgRecord(signal, 500, ("X", "Y", "Z"), start_time=datetime(2001, 5, 31, 10, 11, 12))
    back = read_ecg(write_ecg(record, tmp_path / f"frank{suffix}"))
    assert back.leads == ("X", "Y", "Z")
    assert back.start_time == (None if suffix == ".csv" else record.start_time)
    np.testing.assert_allclose(back.signal, signal, rtol=1e-6, atol=TOLERANCE_MV[suffix])


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_are_replaced_or_refused(tmp_path, suffix):
    first, second = (EcgRecord(np.full((1, 500), value), 500, ("I",), age=age) for value, age in ((0.5, 40), (1, 50)))
    path = tmp_path / f"ecg{suffix.upper()}"
    written = write_ecg(first, path)
    np.testing.assert_allclose(read_ecg(written).signal, first.signal, atol=1e-3)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="exists already"):
        write_ecg(second, path, overwrite=False)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    np.testing.assert_allclose(read_ecg(write_ecg(second, path)).signal, second.signal, atol=1e-3)
    assert {file.name for file in tmp_path.iterdir()} == before.keys()
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_ecg(first, tmp_path / "absent" / f"ecg{suffix}")


def test_largest_samples_beyond_the_range_of_edf_steps_are_kept(tmp_path):
    signal = 0.5 * np.sin(np.arange(2000) / 20)
    signal[700:720], signal[900] = 100.0, -100.0
    record = read_ecg(write_ecg(EcgRecord(signal[None], 500, ("II",)), tmp_path / "peak.edf"))
    np.testing.assert_allclose(record.signal[0], signal, atol=5e-3)


def test_an_archive_of_hours_without_a_signal_can_be_read(tmp_path):
    signal = np.zeros((1, 2**22), dtype=np.float32)
    signal[0, : 2**20] = np.round(np.random.default_rng(0).normal(0, 0.3, 2**20) * 200) / 200
    signal[0, 2**20 :] = np.nan
    record = read_ecg(write_ecg(EcgRecord(signal, 250, ("II",)), tmp_path / "long.npz"))
    np.testing.assert_array_equal(record.signal, signal)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_text_that_could_not_be_read_is_not_written(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("modeling_merit.processing.writers.arrays.MAX_TEXT_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 1000 characters, which can be read again"):
        write_ecg(EcgRecord(np.ones((1, 500)), 500, ("I",)), tmp_path / f"long{suffix}")
    assert not list(tmp_path.iterdir())


def test_what_comes_into_being_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError), placed([tmp_path / "a.txt"]) as (path,):
        path.write_text("new")
        (tmp_path / "a.txt").write_text("of another program")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "of another program")]


@pytest.mark.parametrize("gain", [-200.0, 0.0, None, float("nan"), float("inf"), -float("inf")])
def test_odd_gains_keep_signal_and_polarity(tmp_path, gain):
    record = EcgRecord(np.linspace(-1, 3, 500)[None], 500, ("I",), gain=gain)
    back = read_ecg(write_ecg(record, tmp_path / "ecg.hea"))
    np.testing.assert_allclose(back.signal, record.signal, atol=0.0026)
    assert back.gain == (200 if gain == -200 else 1000)


class TestJson:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", "not readable as JSON"),
            (b'{"signal":' + b"[" * 100_000, "not readable as JSON"),
            (b'{"sampling_rate": 500, "leads": ["I"]}', "no field `signal`"),
            (b'{"signal": [[1, 2], [3]], "sampling_rate": 500}', "all of one length"),
            (b'{"signal": [["a"]], "sampling_rate": 500}', "list of numbers"),
            (b'{"signal": [[1, 2]], "sampling_rate": 500, "leads": ["I"]}', "units"),
            (b'{"signal": [1, 2], "sampling_rate": 500, "leads": ["I"], "units": "mV"}', "shape"),
            (b'{"signal": [[1, 2]], "sampling_rate": [], "leads": ["I"], "units": "mV"}', "one number"),
            (b'{"signal": [[1, 2]], "sampling_rate": 500, "leads": {"a": 1}, "units": "mV"}', "lead"),
        ],
    )
    def test_a_damaged_object_is_refused(self, content, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(content, "json")

    def test_a_fact_that_is_missing_can_be_stated(self):
        record = read_ecg(b'{"signal": [[1, null, 2]], "leads": ["II"]}', sampling_rate=250, units="uV")
        np.testing.assert_array_equal(record.signal, np.float32([[1e-3, np.nan, 2e-3]]))
