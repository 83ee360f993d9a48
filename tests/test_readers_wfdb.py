"""WFDB records: every storage format, multi-segment, mixed rates, and the headers that must be refused."""

import resource
import time
from pathlib import Path

import numpy as np
import pytest
import wfdb

from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import EcgFormatError, read_ecg, windows

TWO_LEADS = "rec 2 500 4\nrec.dat 16 200/mV 16 0 1 10 0 I\nrec.dat 16 200(100)/mV 16 0 2 20 0 II\n"
DIGITAL = np.array([[1, 2], [2, 4], [3, 6], [4, 8]], dtype="<i2")


def write(folder: Path, header: str = TWO_LEADS, digital: np.ndarray = DIGITAL) -> Path:
    (folder / "rec.hea").write_text(header)
    (folder / "rec.dat").write_bytes(digital.tobytes())
    return folder / "rec.hea"


class TestSmallRecords:
    def test_gain_and_baseline(self, tmp_path):
        record = read_ecg(write(tmp_path))
        np.testing.assert_allclose(record.signal[0], np.array([1, 2, 3, 4]) / 200)
        np.testing.assert_allclose(record.signal[1], (np.array([2, 4, 6, 8]) - 100) / 200)
        assert (record.leads, record.sampling_rate, record.gain, record.unit) == (("I", "II"), 500, 200, "mV")
        assert (record.record_id, record.notes) == ("rec", ())

    def test_signals_of_one_name_are_told_apart_by_their_places(self, tmp_path):
        path = write(tmp_path, TWO_LEADS.replace("0 II", "0 ECG").replace("0 I\n", "0 ECG\n"))
        both = read_ecg(path, leads=["I", "II"])
        np.testing.assert_allclose(both.signal[0], np.array([1, 2, 3, 4]) / 200)
        np.testing.assert_allclose(both.signal[1], (np.array([2, 4, 6, 8]) - 100) / 200)
        for number, lead in enumerate(("I", "II")):
            one = read_ecg(path, leads=[lead if number == place else None for place in range(2)])
            np.testing.assert_array_equal(one.signal, both.signal[number : number + 1])
            assert one.leads == (lead,)

    @pytest.mark.parametrize("name", ["rec.hea", "rec.dat", "rec"])
    def test_header_signal_file_or_common_name(self, tmp_path, name):
        write(tmp_path)
        assert read_ecg(tmp_path / name).n_samples == 4

    @pytest.mark.parametrize(
        ("unit", "millivolts"), [("uV", 1e-3), ("µV", 1e-3), ("V", 1e3), ("nV", 1e-6), ("mv", 1.0), ("MV", None)]
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_units(self, tmp_path, unit, millivolts, encoding):
        write(tmp_path)
        (tmp_path / "rec.hea").write_bytes(TWO_LEADS.replace("mV", unit).encode(encoding))
        if unit == "MV":  # case does not count: nobody records in megavolts
            millivolts = 1.0
        np.testing.assert_allclose(read_ecg(tmp_path / "rec.hea").signal[0, 0], millivolts / 200, rtol=1e-6)

    def test_invalid_samples_become_nan(self, tmp_path):
        digital = DIGITAL.copy()
        digital[1, 0] = -32768
        header = TWO_LEADS.replace("1 10 0 I\n", f"1 {int(digital[:, 0].sum(dtype=int)) % 65536} 0 I\n")
        record = read_ecg(write(tmp_path, header, digital))
        np.testing.assert_array_equal(np.isnan(record.signal), [[0, 1, 0, 0], [0, 0, 0, 0]])
        assert record.notes == ("I: 1 of 4 samples invalid",)

    def test_markers_of_no_value_are_nan_in_parts_as_in_the_whole(self, tmp_path):
        digital = np.round(200 * np.sin(np.arange(2000) / 40)).astype("<i2")[:, None]
        digital[500:600] = 32767
        path = write(
            tmp_path, "rec 1 500 2000\nrec.dat 16 200/mV 16 0 0 0 0 II\n".replace(" 16 0 0 0 0 II", ""), digital
        )
        whole = read_ecg(path, leads=["II"])
        assert np.isnan(whole.signal[0]).sum() == 100 and np.nanmax(whole.signal) <= 1
        part = read_ecg(path, leads=["II"], start_s=0.5, seconds=2)
        np.testing.assert_array_equal(part.signal, whole.signal[:, 250:1250])
        assert any("100 of 1000" in note for note in part.notes)

    @pytest.mark.parametrize("rate", ["500", "500.", "5e2", "5.0E+2"])
    @pytest.mark.parametrize("gain", ["200", "2e2", ".2e3"])
    def test_numbers_as_the_standard_allows_them(self, tmp_path, rate, gain):
        header = TWO_LEADS.replace("2 500", f"2 {rate}").replace("200", gain)
        record = read_ecg(write(tmp_path, header))
        assert record.sampling_rate == 500
        np.testing.assert_allclose(record.signal[0], np.array([1, 2, 3, 4]) / 200)

    def test_age_and_sex_of_every_manner(self, tmp_path):
        for comment, expected in [
            ("#Age: 61\n#Sex: Male\n", (61, "male")),
            ("# <age>: 25  <sex>: F  <diagnoses>: (none)\n", (25, "female")),
            ("# 69 M 1085 1629 x1\n", (69, "male")),
            ("# Age: NaN\n# Sex: Unknown\n", (None, None)),
            ("# Age: 300\n", (None, None)),
        ]:
            record = read_ecg(write(tmp_path, TWO_LEADS + comment))
            assert (record.age, record.sex) == expected, comment

    @pytest.mark.parametrize(
        ("comment", "age", "sex"),
        [
            ("# Average: 72, voltage: 5, Page: 3\n# Essex: M\n", None, None),
            ("# Age: 6 months\n", None, None),
            ("# Age: 63 years\n# Gender: männlich\n", 63, "male"),
            ("# patient_age: 41\n# sexe: Femme\n", 41, "female"),
            ("# Geschlecht: W\n", None, "female"),
            ("# Age: 1234\n# Sex: 1\n", None, None),
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
    def test_words_of_age_and_sex(self, tmp_path, comment, age, sex, encoding):
        write(tmp_path)
        (tmp_path / "rec.hea").write_bytes((TWO_LEADS + comment).encode(encoding))
        record = read_ecg(tmp_path / "rec.hea")
        assert (record.age, record.sex) == (age, sex)

    @pytest.mark.parametrize(
        "when", ["2006", "10:20:30", "25:61:00 01/02/2003", "10:20:30 32/13/2003", "noon, Monday"]
    )
    def test_an_odd_date_loses_only_the_start_time(self, tmp_path, when):
        record = read_ecg(write(tmp_path, TWO_LEADS.replace("500 4\n", f"500 4 {when}\n")))
        assert (record.n_samples, record.start_time) == (4, None)

    def test_a_date_at_the_end_of_the_calendar(self, tmp_path):
        write(tmp_path, TWO_LEADS.replace("500 4\n", "1 4 23:59:58 31/12/9999\n"))
        assert [piece.start_time is None for piece in windows(tmp_path / "rec.hea", 1)] == [False, False, True, True]

    @pytest.mark.parametrize("length", [" 0", "", " 0 10:20:30 01/02/2003"])
    def test_an_open_length_follows_from_the_file_and_checksums_are_not_checked(self, tmp_path, length):
        header = TWO_LEADS.replace("500 4\n", f"500{length}\n").replace("1 10 0 I", "1 0 0 I")
        record = read_ecg(write(tmp_path, header))
        np.testing.assert_allclose(record.signal[0], np.array([1, 2, 3, 4]) / 200)

    @pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_marks_of_encodings_and_ends_of_lines(self, tmp_path, mark, end):
        write(tmp_path)
        (tmp_path / "rec.hea").write_bytes(TWO_LEADS.replace("\n", end).encode(mark))
        np.testing.assert_allclose(read_ecg(tmp_path / "rec.hea").signal[0], np.array([1, 2, 3, 4]) / 200)

    def test_byte_0x85_ends_no_line(self, tmp_path):
        write(tmp_path)
        (tmp_path / "rec.hea").write_bytes(TWO_LEADS.encode() + b"# dem Patienten geht es gut\x85 Sex: F\n")
        assert read_ecg(tmp_path / "rec.hea").sex == "female"

    @pytest.mark.parametrize("named", ["rec.dat", "REC.DAT", "Rec.dat"])
    @pytest.mark.parametrize("header", ["REC.HEA", "REC.hea", "rec.HEA"])
    def test_upper_and_lower_case(self, tmp_path, named, header):
        (tmp_path / header).write_text(TWO_LEADS.replace("rec.dat", named))
        (tmp_path / "REC.DAT").write_bytes(DIGITAL.tobytes())
        for name in (header, "REC.DAT"):
            if header.lower() == header.upper() or Path(header).stem == "REC" or name == header:
                assert read_ecg(tmp_path / name).n_samples == 4
        (tmp_path / "rec.DAT").write_bytes(DIGITAL[:2].tobytes())
        if named == "Rec.dat":  # two files fit
            with pytest.raises(EcgFormatError, match="not in its folder"):
                read_ecg(tmp_path / header)

    def test_a_blank_in_the_name(self, tmp_path):
        for name, record in (("pat 01", "pat 01 2 500 4"), ("pat 2 500", "pat 2 500 2 500 4"), ("b c", "rec 2 500 4")):
            lines = TWO_LEADS.replace("rec 2 500 4", record).replace("rec.dat", f"{name}.dat")
            (tmp_path / f"{name}.hea").write_text(lines)
            (tmp_path / f"{name}.dat").write_bytes(DIGITAL.tobytes())
            for path in (f"{name}.hea", f"{name}.dat", name):
                back = read_ecg(tmp_path / path)
                assert (back.record_id, back.sampling_rate, back.n_samples) == (name, 500, 4)
        (tmp_path / "x.hea").write_text("a 2 2 500 4\n" + TWO_LEADS.partition("\n")[2])
        with pytest.raises(EcgFormatError, match="read in two ways.*without blanks"):
            read_ecg(tmp_path / "x.hea")

    def test_negative_gain_turns_the_signal_over(self, tmp_path):
        record = read_ecg(write(tmp_path, TWO_LEADS.replace("200(100)/mV", "-200(100)/mV")))
        np.testing.assert_allclose(record.signal[1], -(np.array([2, 4, 6, 8]) - 100) / 200)
        assert record.gain == 200

    def test_axes_of_an_accelerometer(self, tmp_path):
        def header(unit, *names):
            lines = [f"rec.dat 16 200/{unit if name in 'XYZ' else 'mV'} 16 0 0 0 0 {name}\n" for name in names]
            return f"rec {len(names)} 500 0\n" + "".join(lines)

        digital = np.arange(40, dtype="<i2")
        record = read_ecg(write(tmp_path, header("g", "II", "X", "Y", "Z"), digital))
        assert (record.leads, record.notes) == (("II",), ("left out: X (g), Y (g), Z (g)",))
        for names in (("II", "X", "Y", "Z"), ("X", "Y", "Z")):
            path = write(tmp_path, header("mV", *names), digital)
            with pytest.raises(EcgFormatError, match="X, Y, Z, which can be Frank leads or the axes.*leads="):
                read_ecg(path)
            assert read_ecg(path, leads={axis: axis for axis in "XYZ"}).leads == names
        assert read_ecg(write(tmp_path, header("mV", "I", "V1", "X", "Y", "Z"), digital)).leads[2:] == ("X", "Y", "Z")
        assert read_ecg(write(tmp_path, header("mV", "VX", "VY", "VZ"), digital)).leads == ("X", "Y", "Z")

    def test_times(self, tmp_path):
        record = read_ecg(write(tmp_path, TWO_LEADS.replace("500 4\n", "500 4 10:20:30.5 01/02/2003\n")))
        assert record.start_time.isoformat() == "2003-02-01T10:20:30.500000"
        # The challenges write when they converted the file, in another form.
        record = read_ecg(write(tmp_path, TWO_LEADS.replace("500 4\n", "500 4 15-May-2020 15:22:05\n")))
        assert record.start_time is None

    def test_uncalibrated_is_said(self, tmp_path):
        record = read_ecg(write(tmp_path, TWO_LEADS.replace("16 200/mV", "16 0/mV")))
        assert "uncalibrated" in record.notes[0]
        np.testing.assert_allclose(record.signal[0], np.array([1, 2, 3, 4]) / 200)

    def test_other_signals_are_left_out_and_named(self, tmp_path):
        record = read_ecg(write(tmp_path, TWO_LEADS.replace("200(100)/mV", "2/mmHg").replace("0 II", "0 ABP")))
        assert record.leads == ("I",)
        assert record.notes == ("left out: ABP (mmHg)",)

    def test_two_samples_per_frame(self, tmp_path):
        digital = np.arange(12, dtype="<i2")  # frames of one sample of I and two of II
        header = "rec 2 250 4\nrec.dat 16 200/mV 16 0 0 18 0 I\nrec.dat 16x2 200/mV 16 0 1 48 0 II\n"
        record = read_ecg(write(tmp_path, header, digital))
        assert record.sampling_rate == 500
        np.testing.assert_allclose(record.signal[1], np.array([1, 2, 4, 5, 7, 8, 10, 11]) / 200)
        assert record.signal.shape == (2, 8)

    def test_skew_aligns_and_marks_the_end(self, tmp_path):
        header = TWO_LEADS.replace("rec.dat 16 200(100)", "rec.dat 16:1 200(100)")
        record = read_ecg(write(tmp_path, header))
        np.testing.assert_allclose(record.signal[1], (np.array([4, 6, 8, np.nan]) - 100) / 200)
        second = list(windows(tmp_path / "rec.hea", 2 / 500))[1]
        np.testing.assert_allclose(second.signal, record.signal[:, 2:])

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("1 10 0 I\n", "1 11 0 I\n", "checksum of I is 11"),
            ("500 4\n", "500 5\n", "claims 5 samples per signal, but rec.dat holds only 4"),
            ("500 4\n", "500 1000000000\n", "claims 1000000000"),
            ("500 4\n", "500 99999999999999999999999\n", "claims 99999999999999999999999"),
            ("rec 2 500 4\n", "rec 2\n", "states no sampling rate"),
            ("rec 2 500 4\n", "rec 2 0 4\n", "states no sampling rate"),
            ("rec 2 500 4\n", "rec 2 5x0 4\n", "not a WFDB header"),
            ("rec 2 500 4\n", "rec 2 ٥٠٠ 4\n", "not a WFDB header"),
            ("rec 2 500 4\n", "rec 2 200000 4\n", "at most 100000 Hz"),
            ("200(100)/mV", "1e999(100)/mV", "damaged signal line"),
            ("200(100)/mV", "nan(100)/mV", "damaged signal line"),
            ("rec.dat 16 200/mV", "rec.dat" + " " * 2000 + "16 200/mV", "more than 1000 characters"),
            ("16 200(100)", "0 200(100)", "more than one storage format|format 0"),
            ("rec 2 500 4\n", "rec 3 500 4\n", "announces 3"),
            ("rec 2 500 4\n", "rec 100000 500 4\n", "announces 100000"),
            ("0 II\n", "0 lead9\n", "'lead9'"),
            ("0 II\n", "0 I\n", "more than once"),
            ("200(100)/mV", "200(100)/mmHg", "unit of II"),
            ("200(100)/mV", "2x0(100)/mV", "damaged signal line"),
            ("16 200(100)", "17 200(100)", "storage format 17"),
            ("16 200(100)", "16x99999999999 200(100)", "claims"),
            ("16 200(100)", "16+7 200(100)", "more than one storage format or offset"),
            ("rec.dat", "../rec.dat", "damaged WFDB header|without a path"),
            ("rec.dat", "/etc/passwd", "damaged WFDB header|without a path"),
            ("rec.dat", "gone.dat", "not in its folder"),
        ],
    )
    def test_refused_headers(self, tmp_path, old, new, message):
        path = write(tmp_path, TWO_LEADS.replace(old, new))
        begin = time.perf_counter()
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(path)
        assert time.perf_counter() - begin < 1

    def test_files_that_are_no_record(self, tmp_path):
        (tmp_path / "rec.hea").write_text("Dear colleague,\nplease find attached\n")
        with pytest.raises(EcgFormatError, match="not a WFDB header"):
            read_ecg(tmp_path / "rec.hea")
        (tmp_path / "alone.dat").write_bytes(b"12")
        with pytest.raises(EcgFormatError, match="lacks its WFDB header"):
            read_ecg(tmp_path / "alone.dat")
        (tmp_path / "rec.hea").write_bytes(b"")
        with pytest.raises(EcgFormatError, match="empty"):
            read_ecg(tmp_path / "rec.hea")
        with pytest.raises(EcgFormatError, match="pass the path"):
            read_ecg(TWO_LEADS.encode())

    def test_links_as_in_the_cache_of_the_hub_are_followed(self, tmp_path):
        path = write(tmp_path)
        whole = read_ecg(path)
        for name in ("rec.dat", "rec.hea"):
            (tmp_path / name).rename(tmp_path / f"blob of {name}")
            (tmp_path / name).symlink_to(tmp_path / f"blob of {name}")
        np.testing.assert_array_equal(read_ecg(path).signal, whole.signal)

    def test_no_length_in_the_header(self, tmp_path):
        header = TWO_LEADS.replace("rec 2 500 4\n", "rec 2 500\n")
        assert read_ecg(write(tmp_path, header)).n_samples == 4
        assert [piece.n_samples for piece in windows(tmp_path / "rec.hea", 1 / 500)] == [1, 1, 1, 1]

    def test_rate_can_be_stated_where_the_header_has_none(self, tmp_path):
        path = write(tmp_path, TWO_LEADS.replace("rec 2 500 4\n", "rec 2\n"))
        assert read_ecg(path, sampling_rate=100).sampling_rate == 100

    def test_surplus_samples_are_noted(self, tmp_path):
        header = TWO_LEADS.replace("500 4\n", "500 2\n").replace("1 10 0", "1 3 0").replace("2 20 0", "2 6 0")
        digital = np.concatenate([DIGITAL] * 3)
        record = read_ecg(write(tmp_path, header, digital))
        assert record.n_samples == 2
        assert "10 samples more" in record.notes[0]

    @pytest.mark.parametrize("fmt", ["80", "212", "16", "24", "32", "508", "516", "524"])
    def test_formats_that_the_library_writes(self, tmp_path, fmt):
        digital = np.random.default_rng(1).integers(-120, 120, size=(1001, 2))
        wfdb.wrsamp(
            "rec", 500, ["mV"] * 2, ["I", "V3"], d_signal=digital, fmt=[fmt] * 2, adc_gain=[200] * 2, baseline=[3, 0],
            write_dir=str(tmp_path),
        )  # fmt: skip
        record = read_ecg(tmp_path / "rec.hea")
        np.testing.assert_allclose(record.signal, (digital.T - [[3], [0]]) / 200, rtol=1e-6)
        (tmp_path / "rec.dat").write_bytes((tmp_path / "rec.dat").read_bytes()[:-300])
        with pytest.raises(EcgFormatError):
            read_ecg(tmp_path / "rec.hea")

    @pytest.mark.parametrize("fmt", ["8", "80", "212", "310", "311", "16", "61", "160", "24", "32"])
    @pytest.mark.parametrize("offset", [0, 7])
    def test_any_bytes_mean_what_they_mean_to_the_library(self, tmp_path, fmt, offset):
        content = np.random.default_rng(1).integers(0, 256, offset + 1200, dtype=np.uint8)
        if fmt == "311":
            content[offset + 3 :: 4] &= 0x3F  # the highest two bits are unused, which the library takes for a sign
        (tmp_path / "rec.dat").write_bytes(content.tobytes())
        n_samples = int(1200 / {"8": 1, "80": 1, "212": 1.5, "310": 4 / 3, "311": 4 / 3, "24": 3, "32": 4}.get(fmt, 2))
        per_frame = 1 if fmt == "61" else 2  # the library fails on frames of big-endian samples
        lines = [f"rec.dat {fmt}x{n}+{offset} 200/mV 16 0 5 {name}\n" for n, name in ((1, "I"), (per_frame, "V1"))]
        n_frames = n_samples // (1 + per_frame)
        (tmp_path / "rec.hea").write_text(f"rec 2 250 {n_frames}\n" + "".join(lines))
        record = read_ecg(tmp_path / "rec.hea")
        library = wfdb.rdrecord(str(tmp_path / "rec"), physical=False, smooth_frames=fmt == "61", return_res=64)
        expected = library.d_signal[:, 1] if fmt == "61" else library.e_d_signal[1]
        invalid = {"80": -(2**7), "212": -(2**11), "310": -(2**9), "311": -(2**9), "24": -(2**23), "32": -(2**31)}
        expected = np.where(expected == invalid.get(fmt, -(2**15)), np.nan, expected / 200)
        np.testing.assert_allclose(record.signal[1], expected, rtol=1e-6)
        pieces = np.hstack([piece.signal[1] for piece in windows(tmp_path / "rec.hea", 0.1)])
        np.testing.assert_array_equal(pieces, record.signal[1, : len(pieces)])


class TestMultiSegment:
    def make(self, folder: Path, master: str) -> Path:
        for name, factor in [("a", 1), ("b", 10)]:
            digital = (DIGITAL * factor).astype("<i2")
            (folder / f"{name}.dat").write_bytes(digital.tobytes())
            sums = digital.sum(axis=0)
            lines = [f"{name}.dat 16 200/mV 16 0 0 {total} 0 {lead}" for total, lead in zip(sums, ("I", "II"))]
            (folder / f"{name}.hea").write_text("\n".join([f"{name} 2 500 4", *lines]))
        (folder / "m.hea").write_text(master)
        return folder / "m.hea"

    def test_segments_and_gaps(self, tmp_path):
        record = read_ecg(self.make(tmp_path, "m/3 2 500 11\na 4\n~ 3\nb 4\n"))
        assert record.signal.shape == (2, 11)
        np.testing.assert_allclose(record.signal[0] * 200, [1, 2, 3, 4, np.nan, np.nan, np.nan, 10, 20, 30, 40])
        assert record.notes == ("I: 3 of 11 samples invalid", "II: 3 of 11 samples invalid")
        pieces = list(windows(tmp_path / "m.hea", 3 / 500))
        np.testing.assert_allclose(np.hstack([p.signal for p in pieces]), record.signal[:, :9])

    def test_variable_layout(self, tmp_path):
        path = self.make(tmp_path, "m/3 3 500 8\nlayout 0\na 4\nb 4\n")
        layout = "layout 3 500 0\n~ 0 200/mV 16 0 0 0 0 II\n~ 0 200/mV 16 0 0 0 0 I\n~ 0 200/mV 16 0 0 0 0 V1\n"
        (tmp_path / "layout.hea").write_text(layout)
        record = read_ecg(path)
        assert record.leads == ("II", "I", "V1")
        np.testing.assert_allclose(record.signal[1] * 200, [1, 2, 3, 4, 10, 20, 30, 40])
        assert np.isnan(record.signal[2]).all()
        with pytest.raises(EcgFormatError, match="holds no samples. Read the header that names its segments"):
            read_ecg(tmp_path / "layout.hea")

    @pytest.mark.parametrize(
        ("master", "message"),
        [
            ("m/2 2 500 8\na 4\ngone 4\n", "gone.hea, which is not in its folder"),
            ("m/2 2 500 9\na 4\nb 4\n", "claims 9 samples; its segments hold 8"),
            ("m/2 2 500 9\na 5\nb 4\n", "holds 4 samples; the header of the record says 5"),
            ("m/2 2 250 8\na 4\nb 4\n", "250 Hz"),
            ("m/1 2 500 8\nm 8\n", "plain record"),
            ("m/1 2 500 8\n~ 8\n", "gaps only"),
            ("m/3 2 500 8\na 4\nb 4\n", "announces 3"),
            ("m/2 2 500 8\n../a 4\nb 4\n", "damaged|without a path"),
            ("m/2 2 500 4000000000\n~ 3999999996\na 4\n", "at most"),
        ],
    )
    def test_refused(self, tmp_path, master, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(self.make(tmp_path, master))

    def test_a_header_that_repeats_a_segment_is_read_at_once(self, tmp_path):
        path = self.make(tmp_path, "m/5000 2 500 20000\n" + "a 4\n" * 5000)
        began = time.process_time()
        record = read_ecg(path)
        assert time.process_time() - began < 2
        np.testing.assert_allclose(record.signal[0] * 200, [1, 2, 3, 4] * 5000)
        path.write_text("m/10001 2 500 40004\n" + "a 4\n" * 10001)
        with pytest.raises(EcgFormatError, match="10001 segments; expected 1 to 10000"):
            read_ecg(path)

    def test_a_segment_line_without_a_number(self, tmp_path):
        with pytest.raises(EcgFormatError, match="damaged segment line 'b four'"):
            read_ecg(self.make(tmp_path, "m/2 2 500 8\na 4\nb four\n"))


@pytest.mark.real_data
class TestSamples:
    @pytest.mark.parametrize(
        ("name", "leads"),
        [
            ("100", None),
            ("100skew", None),
            ("100-no-len", None),
            ("100_3chan", None),
            ("s0010_re", None),
            ("03700181", None),
            ("a103l", {"V": "V1"}),
            ("a103l-no-len", {"V": "V1"}),
            ("mixedsignals", {"V": "V1"}),
            ("3000003_0003", {"V": "V1"}),
            ("cinc2021_mat/E07500", None),
            ("cinc2021_mat/HR06000", None),
            ("multi-segment/041s/041s", {"V": "V1"}),
            ("multi-segment/fixed1/v102s", {"V": "V1"}),
            ("multi-segment/s25047/s25047-2704-05-04-10-44", {"V": "V1"}),
            ("multi-segment/p000878/3269321_0002", None),
            ("binformats", STANDARD_LEADS[:10]),
            ("flacformats", STANDARD_LEADS[:3]),
            ("310derive", ["I", "II"]),
            ("310derive_3", ["I"]),
            ("311derive", ["I"]),
            ("311derive_4", ["I"]),
            ("test01_00s", STANDARD_LEADS[:4]),
            ("test01_00s_skew", STANDARD_LEADS[:4]),
        ],
    )
    def test_equals_the_library(self, data_dir, name, leads):
        path = data_dir / "formats" / "wfdb" / name
        record = read_ecg(path, leads=leads)
        expected = wfdb.rdrecord(str(path), smooth_frames=False)
        own_names = {"V1": "V", "X": "VX", "Y": "VY", "Z": "VZ"} if leads is None or isinstance(leads, dict) else {}
        names = [name.upper() for name in expected.sig_name]
        for i, lead in enumerate(record.leads):
            found = own_names.get(lead, lead).upper()
            own_row = names.index(found if found in names else lead.upper()) if own_names else i
            reference = expected.e_p_signal[own_row]
            if name == "311derive":  # begins with 1.34 s of zeros
                assert record.notes == (
                    "Cut at the start: 335 samples of padding, during which every lead stands still.",
                )
                reference = reference[335:]
            np.testing.assert_array_equal(np.isnan(record.signal[i]), np.isnan(reference))
            np.testing.assert_allclose(record.signal[i], reference, rtol=1e-6, atol=1e-6)

    def test_facts(self, data_dir):
        folder = data_dir / "formats" / "wfdb"
        record = read_ecg(folder / "multi-segment/s25047/s25047-2704-05-04-10-44", leads={"V": None})
        assert (record.gain, record.start_time.year) == (None, 2704)  # the gain of II changes between the segments
        record = read_ecg(folder / "mixedsignals.hea", leads={"V": None})
        assert (record.leads, round(record.sampling_rate, 2), record.n_samples) == (("II", "III"), 249.89, 57600)
        assert record.notes[0] == "left out: V (mV), ABP (mmHg), Pleth (NU), Resp (Ohm)"
        record = read_ecg(folder / "s0010_re.xyz")
        assert record.leads == (*STANDARD_LEADS, "X", "Y", "Z")
        assert (record.age, record.sex, record.gain) == (81, "female", 2000)
        record = read_ecg(folder / "test01_00s_frame", leads=["I", "II", "III"])
        assert (record.sampling_rate, record.n_samples) == (1000, 8000)
        reference = read_ecg(folder / "test01_00s_frame", leads=["I", None, None])
        np.testing.assert_allclose(record.signal[0, ::2], reference.signal[0], atol=0.05)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("1003.hea", "1003.dat, which is not in its folder"),
            ("binformats.hea", "'sig 0, fmt 8'"),
            ("test01_00s.hea", "'ECG 1'"),
            ("310derive.hea", "'col 0'"),
            ("100.atr", "no known ECG format"),
            ("1003.atr", "no known ECG format"),
            ("multi-segment/p000878/p000878-2137-10-26-16-57.hea", "3269321_0003.hea, which is not in its folder"),
            ("multi-segment/p000878/3269321_0001.hea", "no ECG lead; it holds 'PLETH'"),
            ("multi-segment/s25047/s25047-2704-05-04-10-44n.hea", "no ECG lead"),
            ("../../external/ptb_diagnostic/s0010_re.hea", "s0010_re.xyz, which is not in its folder"),
        ],
    )
    def test_refused(self, data_dir, name, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(data_dir / "formats" / "wfdb" / name)

    def test_signals_whose_file_is_missing_can_be_left_out(self, data_dir):
        path = data_dir / "external/ptb_diagnostic/s0010_re.hea"
        record = read_ecg(path, leads={"vx": None, "vy": None, "vz": None})
        assert record.leads == STANDARD_LEADS

    def test_every_challenge_record(self, data_dir):
        paths = sorted((data_dir / "external/cinc2021").rglob("*.hea"))
        assert len(paths) == 33
        for path in paths:
            record = read_ecg(path.with_suffix(".mat"))
            assert (record.leads, record.gain) == (STANDARD_LEADS, 1000), path.name
            assert record.sampling_rate == (1000 if path.parent.name == "ptb" else 500)
            assert record.n_samples >= 5000
            assert record.sex in ("male", "female")
            assert 0.5 < np.ptp(record.signal) < 25

    def test_windows_of_a_long_flac_recording(self, data_dir):
        path = data_dir / "formats/wfdb/flac_3_constant.hea"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pieces = 0
        for piece in windows(path, window_s=600, leads=["I", "II", "III"]):
            assert piece.signal.shape == (3, 150_000)
            np.testing.assert_allclose(piece.signal[:, ::10_000], [[0.125] * 15, [0.25] * 15, [0.375] * 15])
            pieces += 1
        assert pieces == 37
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the whole takes 400 MiB


@pytest.mark.real_data
def test_ptb_xl_records(ptb_xl_dir):
    path = next(iter(sorted((ptb_xl_dir / "records100").rglob("*_lr.hea"))))
    record = read_ecg(path)
    assert (record.leads, record.sampling_rate, record.n_samples) == (STANDARD_LEADS, 100, 1000)
    np.testing.assert_allclose(record.signal.T, wfdb.rdsamp(str(path.with_suffix("")))[0], atol=1e-6)
