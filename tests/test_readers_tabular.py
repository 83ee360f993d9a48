"""Tables of text, NumPy arrays, MATLAB and HDF5 files."""

import io
import json
import time
import tracemalloc
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import EcgFormatError, read_ecg

SIGNAL = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [-1.0, -0.5, 0.0, 0.5, 1.0]])
EXPECTED = SIGNAL.astype(np.float32)


def table(separator=",", decimal=".", names=("time [s]", "I [mV]", "II [mV]"), times=None, end="\n") -> bytes:
    times = np.arange(5) / 250 if times is None else times
    rows = [[f"{t:.3f}", f"{a:g}", f"{b:g}"] for t, a, b in zip(times, *SIGNAL)]
    lines = [separator.join(names), *(separator.join(cell.replace(".", decimal) for cell in row) for row in rows)]
    return ("\n".join(lines) + end).encode()


class TestTables:
    @pytest.mark.parametrize(
        "content",
        [
            table(),
            table("\t"),
            table(";"),
            table(";", ","),
            table("\t", ","),
            table().replace(b"\n", b"\r\n"),
            b"\xef\xbb\xbf" + table(),
            b"# made by a script\n" + table(),
            table(names=("t_s", "I_mV", "II_mV")),
            table(names=("Time (s)", "Lead I (mV)", "Lead II (mV)")),
            table(names=("time [ms]", "I [mV]", "II [mV]"), times=np.arange(5) * 4),
            b"# units: mV\n" + table(names=("time [s]", "I", "II")),
            b"# sampling_rate: 250 Hz\n" + table(),
        ],
    )
    def test_spellings(self, content):
        record = read_ecg(content)
        assert (record.leads, record.sampling_rate, record.unit) == (("I", "II"), 250, "mV")
        np.testing.assert_allclose(record.signal, EXPECTED, rtol=1e-6)

    def test_microvolts_and_other_columns(self):
        record = read_ecg(table(names=("time [s]", "I [uV]", "ABP [mmHg]")))
        assert (record.leads, record.notes) == (("I",), ("left out: ABP",))
        np.testing.assert_allclose(record.signal, EXPECTED[:1] / 1000, rtol=1e-6)

    def test_rounded_times_give_the_whole_rate(self):
        times = np.round(np.arange(400) / 360, 3)
        lines = ["time [s],I [mV]", *(f"{t:.3f},0.5" for t in times)]
        assert read_ecg("\n".join(lines).encode()).sampling_rate == 360

    def test_odd_rates_stay_odd(self):
        lines = ["time [s],I [mV]", *(f"{i / 512.34:.9f},0.5" for i in range(400))]
        assert read_ecg("\n".join(lines).encode()).sampling_rate == pytest.approx(512.34, rel=1e-6)

    def test_what_the_file_leaves_open_is_stated(self):
        content = table(names=("time", "I", "II"))
        with pytest.raises(EcgFormatError, match="no unit"):
            read_ecg(content)
        record = read_ecg(content, units="mV")
        assert record.notes == ("the time column states no unit and was read as seconds",)
        without_time = b"I [mV],II [mV]\n0.1,0.2\n0.3,0.4\n"
        with pytest.raises(EcgFormatError, match="sampling_rate="):
            read_ecg(without_time)
        assert read_ecg(without_time, sampling_rate=100).sampling_rate == 100
        headless = b"0.1,0.2\n0.3,0.4\n"
        with pytest.raises(EcgFormatError, match="no header"):
            read_ecg(headless, format="csv")
        record = read_ecg(headless, format="csv", leads=["I", "V1"], units="uV", sampling_rate=100)
        np.testing.assert_allclose(record.signal, np.array([[0.1, 0.3], [0.2, 0.4]]) / 1000, rtol=1e-6)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (table(names=("time [s]", "I [mV]", "marker [mV]")), "'marker'"),
            (table(names=("time [s]", "I [mV]", "II [apples]")), "apples"),
            (table(names=("time [h]", "I [mV]", "II [mV]")), "'h'"),
            (table(times=[0, 0.004, 0.008, 0.016, 0.02]), "gaps"),
            (table(times=[0, 0.004, 0.004, 0.012, 0.016]), "gaps"),
            (table(times=[4, 3, 2, 1, 0]), "rising"),
            (b"# sampling_rate: 500\n" + table(), "250 Hz, not 500"),
            (table()[:-8], "3 columns"),
            (table() + b"0.020,zero,0\n", "numbers only"),
            (b"time [s],I [mV],II [mV]\n", "no line of numbers"),
            (b"time [s],I [mV]\n\xff\xfe,1\n", "no line of numbers"),
            (b"time [s],I [mV]\n0,1\n1,1e300\n2,1\n", "infinity"),
        ],
    )
    def test_refused(self, content, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(content, format="csv")

    def test_a_last_line_without_end_is_noted(self):
        assert read_ecg(table(end="")).notes == ("the last line does not end: the file may be cut",)

        assert read_ecg(table().replace(b"\n", b"\r\n")[:-1]).notes == read_ecg(table(end="")).notes
        assert read_ecg(table().replace(b"\n", b"\r")).notes == ()

    def test_empty_cells_are_invalid_samples(self):
        record = read_ecg(table().replace(b",0.3,", b",,"))
        np.testing.assert_array_equal(np.isnan(record.signal), [[0, 0, 1, 0, 0], [0] * 5])


def rows(n=1000, rate=500.0, digits=3, values="0.5,1.5", separator=",") -> str:
    """Lines of a time in seconds and constant values."""
    return "".join(f"{i / rate:.{digits}f}{separator}{values}\n" for i in range(n))


class TestRates:
    """What a table says of its rate is read with its unit, or refused."""

    @pytest.mark.parametrize(
        ("comment", "rate"),
        [
            ("fs: 500", 500),
            ("fs: 0.5 kHz", 500),
            ("fs: 0,5 kHz", 500),
            ("Sampling rate = 500.0 Hz", 500),
            ("sampling_frequency: 512,5 Hz", 512.5),
            ("sample rate: 500 /s", 500),
            ("fs: 500 samples/s", 500),
            ("fs: 360 1/s", 360),
            ("fs: 512,000 Hz", 512),  # 512 kHz is above any rate of an ECG
            ("sampling interval: 2 ms", 500),
            ("sampling_interval: 2000 us", 500),
            ("sample interval: 0,004 s", 250),
        ],
    )
    def test_comments(self, comment, rate):
        record = read_ecg((f"# {comment}\n# units: mV\nI,II\n" + "0.5,1.5\n" * 100).encode())
        assert (record.sampling_rate, record.n_samples) == (rate, 100)

    @pytest.mark.parametrize(
        ("comment", "message"),
        [
            ("fs: 0", "not above 0"),
            ("fs: 0.0 kHz", "not above 0"),
            ("fs: -500", "not above 0"),
            ("fs: 500 kHz", "at most 100000 Hz"),
            ("fs: 1,000", "two ways"),
            ("fs: 1,000 Hz", "two ways"),
            ("fs: 500 parsec", "'500 Hz' or '0.5 kHz'"),
            ("fs: 2 ms", "'500 Hz' or '0.5 kHz'"),
            ("fs: \u0665\u0660\u0660", "'500 Hz' or '0.5 kHz'"),
            ("fs: 1_000", "'500 Hz' or '0.5 kHz'"),
            ("fs: 1e999", "a number"),
            ("fs: 500, units: mV", "'500 Hz' or '0.5 kHz'"),
            ("fs:", "'500 Hz' or '0.5 kHz'"),
            ("sampling interval: 2", "a time in s, ms or us"),
            ("fs: 250\n# fs: 500", "states its rate twice"),
            ("fs: " + "9" * 5000, "'500 Hz' or '0.5 kHz'"),
        ],
    )
    def test_refused_comments(self, comment, message):
        content = (f"# {comment}\n# units: mV\nI,II\n" + "0.5,1.5\n" * 100).encode()
        for given in ({}, {"sampling_rate": 500}):
            with pytest.raises(EcgFormatError, match=message) as refused:
                read_ecg(content, format="csv", **given)
            assert len(str(refused.value)) < 250

    @pytest.mark.parametrize(
        ("rate", "digits", "n"),
        [
            (500, 2, 5000),
            (250, 2, 2500),
            (100, 1, 1000),
            (1000, 2, 10_000),
            (360, 3, 400),
            (360, 2, 3600),
            (257, 2, 2570),
        ],
    )
    def test_rounded_times_give_the_rate_of_the_whole_column(self, rate, digits, n):
        for unit, factor in (("s", 1), ("ms", 1000)):
            lines = "".join(
                f"{i / rate * factor:.{digits if unit == 's' else max(0, digits - 3)}f},1\n" for i in range(n)
            )
            record = read_ecg(f"time [{unit}],I [mV]\n{lines}".encode())
            if unit == "s" or digits == 3:
                assert record.sampling_rate == rate

    def test_times_too_coarse_to_tell_the_rate_need_it_stated(self):
        content = ("time [s],I [mV],II [mV]\n" + rows(7, 360, 2)).encode()
        with pytest.raises(EcgFormatError, match="too coarse to tell the rate.*sampling_rate="):
            read_ecg(content)
        assert read_ecg(content, sampling_rate=360).sampling_rate == 360
        with pytest.raises(EcgFormatError, match="not 500 Hz"):
            read_ecg(("time [s],I [mV],II [mV]\n" + rows(100, 360, 2)).encode(), sampling_rate=500)

    @pytest.mark.parametrize("lost", [1, 400, 997])
    def test_a_lost_sample_is_a_gap_wherever_it_is(self, lost):
        lines = rows().splitlines(keepends=True)
        with pytest.raises(EcgFormatError, match="gaps or jumps"):
            read_ecg(("time [s],I [mV],II [mV]\n" + "".join(lines[:lost] + lines[lost + 1 :])).encode())

    def test_times_without_a_unit_are_seconds_only_where_that_is_plausible(self):
        content = b"time,II [mV]\n" + b"".join(b"%d,0.5\n" % (2 * i) for i in range(300))
        with pytest.raises(EcgFormatError, match=r"rises by 2 per sample and states no unit.*time \[ms\]"):
            read_ecg(content)
        record = read_ecg(content, sampling_rate=500)
        assert (record.sampling_rate, record.notes) == (
            500, ("the time column states no unit and was read as milliseconds",),
        )  # fmt: skip
        with pytest.raises(EcgFormatError, match="states no unit"):
            read_ecg(content, sampling_rate=300)

    def test_scientific_notation(self):
        lines = "".join(f"{i / 360:.6e},{0.5:.18e}\n" for i in range(1000))
        assert read_ecg(f"time [s],I [mV]\n{lines}".encode()).sampling_rate == 360


class TestCommas:
    """A comma between digits is a decimal comma only where it cannot separate thousands."""

    @pytest.mark.parametrize("values", ["0,5;1,5", "0,500;1,500", ",5;1,5", "0,5;1500,123", "-0,125;-1,250"])
    def test_decimal_commas(self, values):
        first, second = (float(value.replace(",", ".")) for value in values.split(";"))
        record = read_ecg(f"# fs: 500\n# units: mV\nI;II\n{(values + chr(10)) * 100}".encode())
        np.testing.assert_allclose(record.signal[:, 0], [first, second], rtol=1e-6)

    @pytest.mark.parametrize(
        "values", ["1,000;2,500", "1,000;-12,345", "0.5;1,250", "1,234.5;1", "1,000,000;1", "1.000,5;1"]
    )
    def test_commas_that_may_separate_thousands_are_refused(self, values):
        content = f"# fs: 500\n# units: uV\nI;II\n{(values + chr(10)) * 100}".encode()
        with pytest.raises(EcgFormatError, match="separate thousands|holds no line of numbers") as refused:
            read_ecg(content, format="csv")
        assert len(str(refused.value)) < 250

    def test_many_thousands(self):
        content = b"# fs: 500\n# units: uV\nI;II\n" + b"1,111;1,111\n" * 2**18
        began = time.process_time()
        with pytest.raises(EcgFormatError, match="separate thousands"):
            read_ecg(content)
        assert time.process_time() - began < 2

    @pytest.mark.parametrize("body", ['"1,000","2,500"\n', "1,000,2,500\n"])
    def test_thousands_in_a_table_with_commas(self, body):
        with pytest.raises(EcgFormatError, match="2 columns"):
            read_ecg(f"# fs: 500\n# units: uV\nI,II\n{body * 100}".encode(), format="csv")

    def test_one_column(self):
        with pytest.raises(EcgFormatError, match="1 columns, got 2 in line 1 below"):
            read_ecg(b"# fs: 500\nII [uV]\n" + b"1,000\n" * 100)


class TestHeaders:
    def test_a_second_header_line_of_units(self):
        body = "".join(f"{2 * i},1000\n" for i in range(500))
        for head in ("time,II\nms,uV\n", "t,II\n(ms),(uV)\n", '"time","II"\n"ms","uV"\n', "time [ms],II\n,uV\n"):
            for given in ({}, {"leads": ["II"], "units": "uV", "sampling_rate": 500}):
                record = read_ecg((head + body).encode(), **given)
                assert (record.sampling_rate, record.leads, record.unit) == (500, ("II",), "uV")
                np.testing.assert_array_equal(record.signal, np.ones((1, 500)))

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ("time,II\nfirst,second\n", "expected one line of names and at most one of units"),
            ("time,II\nms,uV\na,b\n", "3 header lines"),
            ("time [s],II\nms,uV\n", "two units"),
            ("# units: mV\ntime,II\nms,uV\n", "a comment says mV"),
        ],
    )
    def test_refused_header_lines(self, head, message):
        body = "".join(f"{2 * i},1000\n" for i in range(500))
        with pytest.raises(EcgFormatError, match=message):
            read_ecg((head + body).encode(), format="csv")

    def test_export_of_rdsamp(self):
        record = read_ecg(('"Elapsed time","II","V5"\n"(seconds)","(mV)","(mV)"\n' + rows()).encode())
        assert (record.leads, record.sampling_rate, record.unit) == (("II", "V5"), 500, "mV")
        np.testing.assert_array_equal(record.signal[:, 0], [0.5, 1.5])

    def test_exports_of_physiobank(self):
        lines = "".join(f"'{i // 21600}:{i / 360 % 60:06.3f}',-0.145,0.5\n" for i in range(25_000))
        record = read_ecg(("'Elapsed time','MLII','V5'\n'hh:mm:ss.mmm','mV','mV'\n" + lines).encode())
        assert (record.leads, record.sampling_rate, record.n_samples) == (("MLII", "V5"), 360, 25_000)
        lines = "".join(f"{i},-0.145,0.5\n" for i in range(100))
        content = ("'sample #','MLII','V5'\n'sample #','mV','mV'\n" + lines).encode()
        with pytest.raises(EcgFormatError, match="sampling_rate="):
            read_ecg(content)
        assert read_ecg(content, sampling_rate=360).leads == ("MLII", "V5")

    def test_an_index_column_is_left_out_and_no_other_column(self):
        lines = "".join(f"{i},0.5\n" for i in range(100))
        assert read_ecg(f",I [mV]\n{lines}".encode(), sampling_rate=500).leads == ("I",)
        with pytest.raises(EcgFormatError, match="no lead is called ''"):
            read_ecg(f",I [mV]\n{lines.replace('7,', '9,')}".encode(), sampling_rate=500)

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_empty_lines_of_a_single_column_are_missing_samples(self, end):
        values = [f"{i / 1000:.3f}" for i in range(10)]
        values[3] = values[4] = ""
        content = "II [mV]\n# by hand\n" + "\n".join(values[:6] + ["# half"] + values[6:]) + "\n\n"
        record = read_ecg(content.replace("\n", end).encode(), sampling_rate=500)
        np.testing.assert_array_equal(np.isnan(record.signal[0]), [value == "" for value in values])
        doubled = "II [mV]\n" + "\n\n".join("0.5" for _ in range(10)) + "\n"
        assert read_ecg(doubled.replace("\n", end).encode(), sampling_rate=500).n_samples == 10

    @pytest.mark.parametrize("odd", ["John Smith,19530508,0", "0.004,John,1", "0.004,1"])
    def test_text_among_the_numbers_is_not_repeated(self, odd):
        content = "time [s],I [mV],II [mV]\n" + rows(3) + f"{odd}\n" + rows(5)
        with pytest.raises(EcgFormatError, match="3 columns.* line 4") as refused:
            read_ecg(content.encode())
        assert not any(part in str(refused.value) for part in ("John", "Smith", "1953"))

    @pytest.mark.parametrize("missing", ["NA", "-", "", "NaN", "null", "n/a", "None", "#N/A"])
    def test_missing_values_in_the_first_rows(self, missing):
        lines = rows().splitlines()
        empty = [f"{line.split(',')[0]},{missing},{missing}" for line in lines[:3]]
        record = read_ecg("\n".join(["time [s],I [mV],II [mV]", *empty, *lines[3:], ""]).encode())
        assert (record.sampling_rate, record.n_samples) == (500, 1000)
        assert np.isnan(record.signal[:, :3]).all() and not np.isnan(record.signal[:, 3:]).any()
        if missing:
            content = "\n".join(["I [mV],II [mV]", f"{missing},{missing}", "0.5,1.5", ""]).encode()
            np.testing.assert_array_equal(read_ecg(content, sampling_rate=500).signal, [[np.nan, 0.5], [np.nan, 1.5]])

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "latin-1"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_encodings_and_ends_of_lines(self, encoding, end):
        content = "time [s]\tI [µV]\tII [µV]\n" + rows(values="5\t15", separator="\t")
        record = read_ecg(content.replace("\n", end).encode(encoding))
        assert (record.leads, record.sampling_rate, record.unit, record.notes) == (("I", "II"), 500, "µV", ())
        np.testing.assert_allclose(record.signal[:, -1], [0.005, 0.015], rtol=1e-6)

    def test_two_samples(self):
        record = read_ecg(b"# fs: 500\n# units: mV\nV1,V2\n0,1\n1,0\n")
        assert (record.n_samples, record.sampling_rate) == (2, 500)
        assert read_ecg(b"time [s],V1 [mV]\n0,1\n0.002,0\n").sampling_rate == 500
        assert read_ecg(b"# fs: 500\ntime [s],V1 [mV]\n0,1\n").n_samples == 1

    def test_axes_and_other_signals(self):
        names = ("time [s],X [g],Y [g],PPG [mV],acc_z [mV],C3-A2 [uV],II [mV]", "1,2,3,4,5,6")
        record = read_ecg(f"{names[0]}\n{rows(values=names[1])}".encode())
        assert (record.leads, record.signal[0, 0]) == (("II",), 6)
        assert record.notes == ("left out: X, Y, PPG, acc_z, C3-A2",)
        for names in ("X [mV],Y [mV]", "II [mV],Z [mV]", "X,II"):
            with pytest.raises(EcgFormatError, match="Frank leads or the axes of an accelerometer.*leads="):
                read_ecg(f"time [s],{names}\n{rows()}".encode(), units="mV")
        record = read_ecg(f"time [s],X [mV],II [mV]\n{rows()}".encode(), leads={"X": None})
        assert record.leads == ("II",)

    def test_names_in_the_file_are_not_overridden(self):
        content = f"time [s],I [mV],II [mV]\n{rows()}".encode()
        with pytest.raises(EcgFormatError, match="`leads`"):
            read_ecg(content, leads=["II", "I"])
        with pytest.raises(EcgFormatError, match="`leads`"):
            read_ecg(content, leads="V1, V2")
        assert read_ecg(content, leads={"I": "V1", "II": "V2"}).leads == ("V1", "V2")
        assert read_ecg(content, leads=["I", "II"]).leads == ("I", "II")

    def test_control_characters_are_shown_escaped(self):
        record = read_ecg(b"I [mV],\x1b[31mred [mmHg]\n" + b"1,2\n" * 100, sampling_rate=500)
        assert record.notes == ("left out: \\x1b[31mred",)


class TestHostileText:
    @pytest.mark.parametrize(
        "content",
        [
            b"I," + b" " * 10_000 + b"x [mV],II\n" + b"0,1,2\n" * 100,
            b"I,[" + b" " * 60_000 + b"],II\n" + b"0,1,2\n" * 100,
            b"I," + b"(" * 60_000 + b",II\n" + b"0,1,2\n" * 100,
            b"I" + b" " * 70_000 + b",II\n" + b"0,1\n" * 100,
            b"I," * 30_000 + b"\n" + b"0," * 30_000 + b"\n",
            b"I," + b"1" * 60_000 + b" hz\n" * 20,
            b"# fs" + b" " * 10**6 + b": 500\nI\n" + b"x\n" * 10,
            b"#\n" * 10**6 + b"I\n0\n",
            b"I\nx\n" * 10**6,
            b"time [s],I [mV]\n" + b"\n" * 2**23,
            b'I,II\n1,2\n"' + b"1,2\n" * 2**18,
            b"time [s],I [mV]\n" + b"0:0:00.000,2\n" * 2**16,
            b"I [mV]\n1\x852\n",
            "I [mV]\n\u0661\n".encode(),
            b"I [mV]\n1_0\n2\n",
            b"I [mV]\n0x10\n2\n",
            b"I [mV]\n1\n" + b"9" * 10**6 + b"\n",
        ],
    )
    def test_is_refused_in_time_and_with_a_short_message(self, content):
        began = time.process_time()
        with pytest.raises(EcgFormatError) as refused:
            read_ecg(content, format="csv", sampling_rate=500, units="mV")
        assert time.process_time() - began < 2
        assert len(str(refused.value)) < 1000 and str(refused.value).isprintable()

    def test_a_long_table_is_read_within_the_budget(self):
        content = b"I [mV]\n" + b"0.25\n-0.5\n" * 2**19
        read_ecg(content[:1007], sampling_rate=500)  # imports
        tracemalloc.start()
        began = time.process_time()
        record = read_ecg(content, sampling_rate=500)
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert record.n_samples == 2**20
        assert seconds < 2 + 50e-9 * len(content) and peak < 300e6 + 40 * len(content)


class TestJson:
    def make(self, **change) -> bytes:
        fields = {"sampling_rate": 250, "leads": ["I", "II"], "units": "mV", "signal": SIGNAL.tolist()} | change
        return json.dumps(fields).encode()

    def test_fields(self):
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            content = self.make(sex="weiblich", age=50, record_id="größe").decode().encode(encoding)
            record = read_ecg(content)
            assert (record.leads, record.sampling_rate, record.sex, record.age) == (("I", "II"), 250, "female", 50)
            np.testing.assert_array_equal(record.signal, EXPECTED)
        record = read_ecg(self.make(signal=[[0.5, None], [1, 2]]))
        np.testing.assert_array_equal(record.signal, [[0.5, np.nan], [1, 2]])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b'{"signal": [[1, 2]], "signal": [[3, 4]], "units": "mV"}', "once, got one of them twice"),
            (b'{"signal": [["1", "2"]], "sampling_rate": 500, "leads": ["I"], "units": "mV"}', "a list of numbers"),
            (b'{"signal": [[true, 2]], "sampling_rate": 500, "leads": ["I"], "units": "mV"}', "a list of numbers"),
            (b'{"signal": {"I": [1, 2]}, "sampling_rate": 500, "leads": ["I"], "units": "mV"}', "a list of numbers"),
            (b'{"signal": [[1, 2]], "sampling_rate": true, "leads": ["I"], "units": "mV"}', "a number"),
            (b'{"signal": [[1, 2], [3]], "sampling_rate": 500, "leads": ["I", "II"], "units": "mV"}', "one length"),
            (b'{"signal": [[' + b"9" * 5000 + b']], "units": "mV"}', "not readable as JSON"),
            (b'{"signal": [[' + b"9" * 999 + b']], "sampling_rate": 500, "leads": ["I"], "units": "mV"}', "numbers"),
            (b'{"signal": [[1e999]], "sampling_rate": 500, "leads": ["I"], "units": "mV"}', "infinity"),
            (b'{"signal":' + b"[" * 10**6, "not readable as JSON"),
            (b'{"signal": [[1, 2]], "sampling_rate": 500, "leads": ["C3"], "units": "mV"}', "EEG sites"),
        ],
    )
    def test_refused(self, content, message):
        with pytest.raises(EcgFormatError, match=message) as refused:
            read_ecg(content)
        assert len(str(refused.value)) < 400


class TestApple:
    def make(self, rate="512 hertz", unit="µV", lead="Lead I", values=("10.000", "-3.5", "7")) -> bytes:
        head = f'Name,Jane Doe\nDate of Birth,"Jan 1, 1990"\nDevice,"Watch5,1"\nSample Rate,{rate}\n\n\n'
        return (head + f"Lead,{lead}\nUnit,{unit}\n\n" + "\n".join(values * 20) + "\n").encode()

    def test_points_and_commas(self):
        for content in (self.make(), self.make('"512,000 Hertz"', values=("10,000", "-3,5", "7"))):
            record = read_ecg(content)
            assert (record.leads, record.sampling_rate, record.device) == (("I",), 512, "Watch5,1")
            np.testing.assert_allclose(record.signal[0, :3], [0.01, -0.0035, 0.007], rtol=1e-6)
            assert record.n_samples == 60

    def test_commas_that_may_separate_thousands(self):
        values = ("1,000", "-3,500", "7")
        record = read_ecg(self.make('"512,000 Hertz"', values=values))  # the rate has a decimal comma
        np.testing.assert_allclose(record.signal[0, :3], [0.001, -0.0035, 0.007], rtol=1e-6)
        for rate in ("512 hertz", "511.422 hertz"):
            with pytest.raises(EcgFormatError, match="separate thousands"):
                read_ecg(self.make(rate, values=values))
        with pytest.raises(EcgFormatError, match="separate thousands"):
            read_ecg(self.make('"512,000 Hertz"', values=("1,000", "2.5", "7")))

    def test_name_and_birth_date_are_not_kept(self):
        assert not any(secret in repr(read_ecg(self.make())) for secret in ("Jane", "Doe", "1990"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"rate": "fast"}, "sampling_rate"), ({"lead": "arm"}, "'arm'"), ({"unit": "bananas"}, "bananas")],
    )
    def test_refused(self, change, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(self.make(**change), format="csv")


class TestNumpy:
    def make(self, **change) -> bytes:
        arrays = {"signal": SIGNAL, "sampling_rate": 250.0, "leads": ["I", "II"], "units": "mV"} | change
        stream = io.BytesIO()
        np.savez(stream, **{key: value for key, value in arrays.items() if value is not None})
        return stream.getvalue()

    def bare(self, array, **options) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array, **options)
        return stream.getvalue()

    def test_npz(self):
        record = read_ecg(self.make(record_id="r1", age=50, sex="female"))
        assert (record.leads, record.sampling_rate) == (("I", "II"), 250)
        assert (record.record_id, record.age, record.sex) == ("r1", 50, "female")
        np.testing.assert_array_equal(record.signal, EXPECTED)
        np.testing.assert_allclose(read_ecg(self.make(units="V")).signal, EXPECTED * 1000)

    def test_bare_array_needs_the_facts(self):
        content = self.bare(SIGNAL)
        with pytest.raises(EcgFormatError, match="State `sampling_rate=`, `leads=`, `units=`"):
            read_ecg(content)
        record = read_ecg(content, sampling_rate=250, leads=["I", "II"], units="uV")
        np.testing.assert_allclose(record.signal, SIGNAL / 1000, rtol=1e-6)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"signal": None}, "expected the arrays"),
            ({"leads": None}, "does not say its leads"),
            ({"units": None}, "does not say its units"),
            ({"units": "parsec"}, "parsec"),
            ({"signal": SIGNAL.T}, "Transpose"),
            ({"signal": SIGNAL[0]}, "signal of numbers"),
            ({"signal": SIGNAL.astype(str)}, "signal of numbers"),
            ({"signal": SIGNAL * 1e300}, "infinity"),
            ({"sampling_rate": [1.0, 2.0]}, "one number"),
            ({"sampling_rate": -5.0}, "sampling rate"),
            ({"leads": ["I", "banana"]}, "banana"),
        ],
    )
    def test_refused(self, change, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(self.make(**change))

    def test_objects_are_never_unpickled(self):
        content = self.bare(np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
        with pytest.raises(EcgFormatError, match="never read"):
            read_ecg(content, sampling_rate=250, leads=["I"], units="mV")

    def test_claimed_size_is_compared_before_anything_is_allocated(self):
        content = self.bare(SIGNAL).replace(b"(2, 5), }         ", b"(2, 5000000000), }")
        with pytest.raises(EcgFormatError, match="takes 80000000000 bytes"):
            read_ecg(content, sampling_rate=250, leads=["I", "II"], units="mV")
        with pytest.raises(EcgFormatError, match="truncated"):
            read_ecg(self.bare(SIGNAL)[:-1], sampling_rate=250, leads=["I", "II"], units="mV")

    def test_zip_bomb(self):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("signal.npy", "w") as member:
            for _ in range(300):
                member.write(bytes(2**20))
        assert len(stream.getvalue()) < 2**19
        with pytest.raises(EcgFormatError, match="unpacks to more"):
            read_ecg(stream.getvalue(), format="numpy")


class TestMatlab:
    def struct(self, **change) -> bytes:
        fields = {"sex": "Male", "age": 52, "data": np.tile(SIGNAL, (6, 1))} | change
        stream = io.BytesIO()
        savemat(stream, {"ECG": fields}, do_compression=change.get("compressed", False))
        return stream.getvalue()

    def test_cpsc2018_struct(self):
        record = read_ecg(self.struct())
        assert (record.leads, record.sampling_rate) == (STANDARD_LEADS, 500)
        assert (record.age, record.sex) == (52, "male")
        assert "CPSC2018" in record.notes[0]
        np.testing.assert_array_equal(record.signal[:2], EXPECTED)

    def test_cpsc2018_compressed(self):
        stream = io.BytesIO()
        savemat(stream, {"ECG": {"sex": "Female", "age": 1, "data": np.tile(SIGNAL, (6, 1))}}, do_compression=True)
        assert read_ecg(stream.getvalue()).sex == "female"
        with pytest.raises(EcgFormatError, match="truncated|damaged"):
            read_ecg(stream.getvalue()[:-20])

    def test_feats_need_leads_and_unit(self):
        stream = io.BytesIO()
        savemat(stream, {"feats": SIGNAL, "curr_sample_rate": 400})
        with pytest.raises(EcgFormatError, match="State `leads=`, `units=`"):
            read_ecg(stream.getvalue())
        record = read_ecg(stream.getvalue(), leads=["II", "V1"], units="mV")
        assert (record.leads, record.sampling_rate) == (("II", "V1"), 400)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"data": SIGNAL}, "expected 12 leads"),
            ({"data": "text"}, "signal of numbers"),
            ({"data": np.zeros((12, 0))}, "at least 1 lead and 1 sample"),
            ({"extra": 1}, "unknown layout"),
        ],
    )
    def test_refused(self, change, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(self.struct(**change))

    def test_bomb(self):
        packer = zlib.compressobj(9)
        packed = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
        head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
        content = head + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
        assert len(content) < 2**19
        with pytest.raises(EcgFormatError, match="unpacks to more"):
            read_ecg(content)

    def test_matlab_4_signal_file_without_header(self, tmp_path):
        path = tmp_path / "A0001.mat"
        path.write_bytes(b"\x1e\0\0\0\x0c\0\0\0\x05\0\0\0\0\0\0\0\x04\0\0\0val\0" + bytes(120))
        with pytest.raises(EcgFormatError, match="Expected A0001.hea"):
            read_ecg(path)


class TestHdf5:
    facts = {"sampling_rate": 400, "leads": STANDARD_LEADS, "units": "mV"}

    def make(self, path, **change):
        tracings = np.arange(3 * 50 * 12, dtype=np.float32).reshape(3, 50, 12) / 1000
        with h5py.File(path, "w") as file:
            for name, data in ({"tracings": tracings, "exam_id": [7, 8, 9]} | change).items():
                file.create_dataset(name, data=data)
        return path

    def test_code15_layout(self, tmp_path):
        path = self.make(tmp_path / "exams.hdf5")
        record = read_ecg(path, index=1, **self.facts)
        assert (record.record_id, record.sampling_rate, record.n_samples) == ("8", 400, 50)
        np.testing.assert_allclose(record.signal[2, :2], [(600 + 2) / 1000, (600 + 14) / 1000], rtol=1e-6)
        np.testing.assert_array_equal(read_ecg(path.read_bytes(), index=1, **self.facts).signal, record.signal)

    def test_what_is_nowhere_in_the_file_is_stated(self, tmp_path):
        path = self.make(tmp_path / "exams.hdf5")
        with pytest.raises(EcgFormatError, match="State `index=`"):
            read_ecg(path, **self.facts)
        with pytest.raises(EcgFormatError, match="index 3"):
            read_ecg(path, index=3, **self.facts)
        with pytest.raises(EcgFormatError, match="`sampling_rate=`, `leads=`, `units="):
            read_ecg(path, index=0)

    def test_refused(self, tmp_path):
        with pytest.raises(EcgFormatError, match="expected an array tracings"):
            read_ecg(self.make(tmp_path / "a.h5", tracings=np.zeros((3, 50))), **self.facts)
        path = self.make(tmp_path / "b.h5")
        with pytest.raises(EcgFormatError, match="damaged HDF5"):
            read_ecg(path.read_bytes()[:600], **self.facts)

    def test_claimed_size(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("tracings", shape=(1, 10**9, 12), dtype="f4", chunks=(1, 1000, 12))
        with pytest.raises(EcgFormatError, match="at most"):
            read_ecg(tmp_path / "a.h5", **self.facts)

    @pytest.mark.parametrize(
        "claim",
        [
            {"shape": (1, 2 * 10**6, 12)},
            {"shape": (1, 2 * 10**6, 12), "dtype": "f8", "fillvalue": 1.0},
            {"shape": (1, 2 * 10**6, 12), "chunks": (1, 1000, 12), "compression": "gzip"},
            {"shape": (10**9, 4096, 12)},
            {"shape": (10**12, 4096, 12), "chunks": (1, 4096, 12), "fillvalue": 0.5},
            {"shape": (10**4, 4096, 12), "chunks": (5000, 4096, 12)},
        ],
    )
    def test_samples_that_were_never_written_are_refused_at_once_and_not_filled_in(self, tmp_path, claim):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("tracings", **{"dtype": "f4"} | claim)
        assert (tmp_path / "a.h5").stat().st_size < 4096
        tracemalloc.start()
        began = time.perf_counter()
        with pytest.raises(EcgFormatError, match="holds 0.0% of it"):
            read_ecg(tmp_path / "a.h5", index=0, **self.facts)
        seconds, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < 2 and peak < 2**20

    def test_a_collection_of_which_a_part_was_written_is_refused(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            tracings = file.create_dataset("tracings", shape=(4, 50, 12), dtype="f4", chunks=(1, 50, 12))
            tracings[:3] = 1
        with pytest.raises(EcgFormatError, match="75.0% of it"):
            read_ecg(tmp_path / "a.h5", index=0, **self.facts)
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["tracings"][3] = 1
        assert read_ecg(tmp_path / "a.h5", index=3, **self.facts).signal.min() == 1

    def test_pieces_that_unpack_to_more_than_a_file_are_refused(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            tracings = file.create_dataset(
                "tracings", shape=(2**20, 64, 12), dtype="i1", chunks=(2**20, 16, 12), compression="gzip"
            )
            for block in range(4):  # the same packed zeros for every block: 200 MB each, a few hundred bytes
                tracings.id.write_direct_chunk((0, 16 * block, 0), zlib.compress(bytes(100)))
        with pytest.raises(EcgFormatError, match="unpacks to 805306368 bytes"):
            read_ecg(tmp_path / "a.h5", index=0, **self.facts)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["tracings"] = np.zeros((2, 50, 12), "f4")
            exams = file.create_dataset("exam_id", shape=(2,), maxshape=(None,), dtype="i8", chunks=(2**26,))
            exams.id.write_direct_chunk((0,), bytes(16))
        with pytest.raises(EcgFormatError, match="unpacks to 536870912 bytes"):
            read_ecg(tmp_path / "a.h5", index=0, **self.facts)

    def test_links_and_arrays_that_lead_to_other_files_are_not_followed(self, tmp_path):
        self.make(tmp_path / "other.h5")
        (tmp_path / "other.bin").write_bytes(bytes(2400))
        layout = h5py.VirtualLayout(shape=(3, 50, 12), dtype="f4")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "tracings", shape=(3, 50, 12))

        def soft_link_out(file):
            file["a"] = h5py.ExternalLink("other.h5", "/")
            file["tracings"] = h5py.SoftLink("/a/tracings")

        def external(file):
            file.create_dataset("tracings", shape=(1, 50, 12), dtype="f4", external=[("other.bin", 0, 2400)])

        builds = {
            "external link": lambda file: file.__setitem__("tracings", h5py.ExternalLink("other.h5", "/tracings")),
            "soft link": soft_link_out,
            "loop": lambda file: file.__setitem__("tracings", h5py.SoftLink("/tracings")),
            "virtual": lambda file: file.create_virtual_dataset("tracings", layout, fillvalue=1),
            "external": external,
        }
        for name, build in builds.items():
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                build(file)
            message = "lie in other files" if name in ("virtual", "external") else "expected an array tracings"
            with pytest.raises(EcgFormatError, match=message):
                read_ecg(tmp_path / f"{name}.h5", index=0, **self.facts)

    def test_references_odd_types_and_many_groups_are_refused(self, tmp_path):
        types = {"reference": h5py.ref_dtype, "vlen": h5py.vlen_dtype(np.float32), "text": "S8", "compound": "f4,f4"}
        for name, dtype in types.items():
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                file.create_dataset("tracings", shape=(1, 50, 12), dtype=dtype)
            with pytest.raises(EcgFormatError, match="expected an array tracings"):
                read_ecg(tmp_path / f"{name}.h5", index=0, **self.facts)
        with h5py.File(tmp_path / "groups.h5", "w") as file:
            group = file
            for i in range(300):
                file.create_group(f"{i:060}")
                group = group.create_group("tracings")
        with pytest.raises(EcgFormatError, match="expected an array tracings") as refused:
            read_ecg(tmp_path / "groups.h5", index=0, **self.facts)
        assert len(str(refused.value)) < 1500
        with h5py.File(tmp_path / "empty.h5", "w") as file:
            file["tracings"] = h5py.Empty("f4")
        with pytest.raises(EcgFormatError):
            read_ecg(tmp_path / "empty.h5", index=0, **self.facts)

    def test_an_exam_number_that_is_none_is_left_out(self, tmp_path):
        path = self.make(tmp_path / "a.h5", exam_id=np.array([b"Jane", b"Joe", b"Jim"]))
        assert read_ecg(path, index=0, **self.facts).record_id == "a"


@pytest.mark.real_data
class TestSamples:
    def test_apple_watch(self, data_dir):
        english = read_ecg(data_dir / "formats/csv/derived_applewatch_layout_en.csv")
        comma = read_ecg(data_dir / "formats/csv/derived_applewatch_layout_decimal_comma.csv")
        assert (english.leads, english.sampling_rate, english.n_samples) == (("I",), 512, 5120)
        assert (comma.sampling_rate, comma.device) == (511.422, "Watch7,11")
        np.testing.assert_array_equal(english.signal, comma.signal)
        assert english.signal[0, :8] == pytest.approx([0.01] * 6 + [0.003125, -0.003016])

    def test_table(self, data_dir):
        path = data_dir / "formats/csv/derived_12lead_header_time_mV.csv"
        with pytest.raises(EcgFormatError, match="no unit"):
            read_ecg(path)
        record = read_ecg(path, units="mV")
        assert (record.leads, record.sampling_rate, record.n_samples) == (STANDARD_LEADS, 500, 5000)

    def test_cpsc2018(self, data_dir):
        found = {path.stem: read_ecg(path) for path in (data_dir / "external/cpsc2018_original").glob("*.mat")}
        lengths = {name: (record.n_samples, record.age, record.sex) for name, record in found.items()}
        assert lengths == {"A1980": (5000, 52, "male"), "A1981": (7950, 48, "female"), "A1982": (5000, 89, "male")}
        assert found["A1980"].signal[0, 0] == pytest.approx(0.20186721)
        for record in found.values():
            residual = (
                record.signal[0] + record.signal[2] - record.signal[1]
            )  # Einthoven: the order of the leads is right
            assert np.abs(residual).max() < 0.01

    def test_code15(self, data_dir):
        for name, length in [("1238362", 2934), ("1594286", 4096), ("2657522", 2934)]:
            path = data_dir / f"external/code15_samples/code_15_{name}.mat"
            with pytest.raises(EcgFormatError, match="`leads=`, `units=`"):
                read_ecg(path)
            record = read_ecg(path, leads=STANDARD_LEADS, units="mV")
            assert (record.sampling_rate, record.n_samples) == (400, length)
            assert np.abs(record.signal[0] + record.signal[2] - record.signal[1]).max() < 0.05
