"""What `write_ecg` writes, `read_ecg` reads back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_merit.processing.readers import EcgFormatError, EcgRecord, read_ecg
from modeling_merit.processing.writers import WRITERS, write_ecg

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
