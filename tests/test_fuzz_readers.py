"""A short run of the fuzzer over every reader, hypothesis on the bytes, and the damaged files that it found."""

import struct
from io import BytesIO

import edfio
import numpy as np
import pytest
from fuzz_readers import STATED, FormatFuzzer, fuzz_format
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_merit.processing.readers import FORMATS, EcgFormatError, read_ecg

BYTE_FORMATS = sorted(set(FORMATS) - {"wfdb"})


@pytest.fixture(scope="module")
def fuzzers(tmp_path_factory):
    return {name: FormatFuzzer(name, seed=1, folder=tmp_path_factory.mktemp(name), samples=False) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(fuzzers, name):
    outcomes = {i: fuzzers[name].run(i) for i in range(150)}
    assert {i: outcome for i, outcome in outcomes.items() if outcome not in ("refused", "read")} == {}
    assert sum(outcome == "refused" for outcome in outcomes.values()) > 50


@pytest.mark.parametrize("name", BYTE_FORMATS)
def test_the_undamaged_files_are_read_and_no_cut_one_is(fuzzers, name):
    for seed in fuzzers[name].small:
        whole = fuzzers[name].read(seed, 1)
        for length in range(0, len(seed), max(1, len(seed) // 40)):
            if name == "csv":
                length = seed.rfind(b"\n", 0, length) + 3  # within a line; whole lines state no length
            try:
                cut = fuzzers[name].read(seed[:length], 1)
            except EcgFormatError:
                continue
            assert len(cut.notes) > len(whole.notes) or np.array_equal(cut.signal, whole.signal, equal_nan=True)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(BYTE_FORMATS), st.binary(max_size=300))
def test_bytes_that_are_not_an_ecg_are_refused(name, data):
    for format in (name, None):
        with pytest.raises(EcgFormatError):
            read_ecg(data, format=format, **STATED.get(name, {}))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused_or_gives_a_record(data):
    name = data.draw(st.sampled_from(BYTE_FORMATS))
    seed = data.draw(st.sampled_from(FormatFuzzer(name, 0, None, samples=False).small))
    position, value = data.draw(st.integers(0, len(seed) - 1)), data.draw(st.integers(0, 255))
    changed = seed[:position] + bytes([value]) + seed[position + 1 :]
    try:
        record = read_ecg(changed, format=name, **STATED.get(name, {}))
    except EcgFormatError:
        return
    assert record.signal.dtype == np.float32 and record.signal.shape[0] == len(record.leads)


def test_the_fuzzer_counts_every_input_and_repeats_itself():
    results = [fuzz_format("scp", seed=3, n_inputs=40, samples=False) for _ in range(2)]
    assert results[0]["counts"] == results[1]["counts"] and sum(results[0]["counts"].values()) == 40
    assert results[0]["faults"] == []


def test_found_edf_calibration_that_is_no_number_and_data_records_of_negative_length():
    signal = edfio.EdfSignal(np.arange(100.0), 100, label="II", physical_dimension="uV", physical_range=(0, 100))
    data = edfio.Edf([signal]).to_bytes()
    assert read_ecg(data).n_samples == 100
    with pytest.raises(EcgFormatError, match="damaged EDF file"):
        read_ecg(data.replace(b"-32768", b"-3x768"))
    with pytest.raises(EcgFormatError, match="data records of -1"):
        read_ecg(data[:244] + b"-1      " + data[252:])


def test_found_numpy_text_of_impossible_characters():
    file = BytesIO()
    np.savez(file, signal=np.zeros((1, 9)), sampling_rate=100.0, leads=np.array(["II"]), units="mV")
    data = BytesIO()
    leads = np.frombuffer(struct.pack("<II", 73, 2**31), "<U2")
    np.savez(data, signal=np.zeros((1, 9)), sampling_rate=100.0, leads=leads, units="mV")
    assert read_ecg(file.getvalue()).leads == ("II",)
    with pytest.raises(EcgFormatError, match="text that is none"):
        read_ecg(data.getvalue())
