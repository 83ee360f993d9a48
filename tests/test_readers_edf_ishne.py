"""EDF, EDF+, BDF and ISHNE files."""

import struct
from binascii import crc_hqx
from datetime import datetime

import edfio
import numpy as np
import pytest

from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import EcgFormatError, read_ecg, windows

SINE = np.sin(np.arange(1000) / 20)


def signal(label="ECG II", unit="uV", rate=500.0, data=SINE * 1000, **facts) -> edfio.EdfSignal:
    facts = {"physical_range": (-2000, 2000), **facts}
    return edfio.EdfSignal(data, rate, label=label, physical_dimension=unit, **facts)


class TestEdf:
    @pytest.mark.parametrize(("unit", "millivolts"), [("uV", 1e-3), ("mV", 1.0), ("V", 1e3), ("nV", 1e-6)])
    def test_units(self, unit, millivolts):
        record = read_ecg(edfio.Edf([signal(unit=unit)]).to_bytes())
        np.testing.assert_allclose(record.signal[0], SINE * 1000 * millivolts, atol=0.04 * millivolts)
        assert (record.leads, record.sampling_rate, record.unit) == (("II",), 500, unit)
        assert record.gain == pytest.approx(65535 / 4000 / millivolts)

    def test_labels_of_the_specification_and_bare_ones(self):
        labels = ["ECG I", "aVR", "Lead V1", "EEG Fpz-Cz", "Resp chest", "SaO2"]
        units = ["uV", "uV", "mV", "uV", "uV", "%"]
        record = read_ecg(edfio.Edf([signal(label, unit) for label, unit in zip(labels, units)]).to_bytes())
        assert record.leads == ("I", "aVR", "V1")
        assert record.notes == ("left out: EEG Fpz-Cz (uV), Resp chest (uV), SaO2 (%)",)
        np.testing.assert_allclose(record.signal[2], 1000 * record.signal[0], rtol=1e-5)

    def test_persons_are_not_kept_but_age_and_sex(self):
        edf = edfio.Edf(
            [signal(prefiltering="HP:0.05Hz")],
            patient=edfio.Patient(code="MRN-77", sex="F", birthdate=datetime(1950, 6, 1).date(), name="Doe_Jane"),
            recording=edfio.Recording(startdate=datetime(2001, 5, 31).date(), equipment_code="Holter_9"),
            starttime=datetime(2001, 5, 31, 10, 11, 12).time(),
        )
        record = read_ecg(edf.to_bytes())
        assert (record.age, record.sex, record.device) == (50, "female", "Holter_9")
        assert (record.start_time, record.filters) == (datetime(2001, 5, 31, 10, 11, 12), "HP:0.05Hz")
        assert not any(secret in repr(record) for secret in ("MRN", "Doe", "Jane", "1950"))

    def test_free_text_of_plain_edf_is_no_obstacle(self):
        content = bytearray(edfio.Edf([signal()]).to_bytes())
        content[8:88] = b"Jane Doe, born 1.6.1950, ward 7".ljust(80)
        content[88:168] = b"Recorded on a rainy day".ljust(80)
        content[168:176] = b"99.99.99"
        content[192:236] = b" " * 44
        record = read_ecg(bytes(content))
        assert (record.age, record.sex, record.start_time) == (None, None, None)
        assert "Jane" not in repr(record)

    def test_slower_channels_are_resampled(self):
        slow = np.sin(np.arange(200) / 4)
        edf = edfio.Edf([signal(), signal("ECG V1", rate=100.0, data=slow * 1000)], data_record_duration=1)
        record = read_ecg(edf.to_bytes())
        assert record.signal.shape == (2, 1000)
        assert np.abs(record.signal[1] - SINE)[50:-50].max() < 0.01

    def test_parts_of_slower_channels_are_parts_of_the_whole(self, tmp_path):
        """Also where a part is so long that the ratio of its lengths cannot be told from the ratio of the rates."""
        noise = np.random.default_rng(0).normal(0, 500, 120_000).clip(-1900, 1900)
        channels = [signal(rate=256.0, data=noise[:102_400]), signal("ECG V1", rate=128.0, data=noise[:51_200])]
        path = tmp_path / "two.edf"
        edfio.Edf(channels, data_record_duration=1).write(path)
        whole = read_ecg(path)
        assert whole.signal.shape == (2, 102_400)
        part = read_ecg(path, seconds=100_001 / 256)
        assert part.signal.shape == (2, 100_001)
        np.testing.assert_allclose(part.signal[:, :-200], whole.signal[:, : 100_001 - 200], atol=1e-4)
        odd = read_ecg(path, start_s=1001 / 256, seconds=40)
        np.testing.assert_allclose(odd.signal[:, 500:-500], whole.signal[:, 1501 : 1001 + 40 * 256 - 500], atol=1e-4)

    def test_lengths_are_checked(self):
        content = edfio.Edf([signal()], data_record_duration=1).to_bytes()
        for damaged in (content[:-1], content[:-1000], content + b"\0", content[:512], content[:300], content[:200]):
            with pytest.raises(EcgFormatError):
                read_ecg(damaged)

    @pytest.mark.parametrize(
        ("at", "field", "message"),
        [
            (236, b"99999999", "declares 99999999 data records"),
            (236, b"0       ", "declares 0 data records"),
            (252, b"9999", "damaged EDF header"),
            (252, b"-1  ", "damaged EDF header"),
            (184, b"99999999", "damaged EDF header"),
            (256 + 216, b"9999999 ", "declares"),
            (256 + 216, b"abc     ", "damaged EDF header"),
            (256 + 104, b"2000    ", "not calibrated"),
            (256 + 120, b"32767   ", "not calibrated"),
            (256 + 96, b"mmHg    ", "unit of ECG II"),
            (256, b"ECG 5           ", "'ECG 5'"),
        ],
    )
    def test_refused_headers(self, at, field, message):
        content = bytearray(edfio.Edf([signal(physical_range=(-2000, 2000))], data_record_duration=1).to_bytes())
        if message == "not calibrated" and at == 256 + 104:
            field = bytes(content[256 + 112 : 256 + 120])
        content[at : at + len(field)] = field
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(bytes(content))

    @pytest.mark.parametrize(
        ("kind", "stamp", "continuous"),
        [
            (b"EDF+C", b"+1.0004", True),
            (b"EDF+C", b"+1.01", True),
            (b"EDF+C", b"+1.0100", False),
            (b"EDF+D", b"+1.0004", False),
        ],
    )
    def test_rounded_times_of_a_continuous_file(self, kind, stamp, continuous):
        """A file that says that it is continuous may round its stamps to half a sample or to their last digit."""
        edf = edfio.Edf([signal()], data_record_duration=1, annotations=[edfio.EdfAnnotation(0, None, "x")])
        content = edf.to_bytes().replace(b"EDF+C", kind, 1)
        at = content.rindex(b"+1\x14\x14")
        content = content[:at] + (stamp + b"\x14\x14").ljust(12, b"\0") + content[at + 12 :]
        if continuous:
            assert read_ecg(content).n_samples == 1000
        else:
            with pytest.raises(EcgFormatError, match="gaps"):
                read_ecg(content)

    def test_many_short_data_records_are_refused_before_their_times_are_read(self):
        edf = edfio.Edf([signal()], data_record_duration=1, annotations=[edfio.EdfAnnotation(0, None, "x")])
        content = bytearray(edf.to_bytes())
        content[244:252] = b"1e-7    "
        with pytest.raises(EcgFormatError, match="too short for their samples"):
            read_ecg(bytes(content))

    def test_gaps_are_refused(self):
        edf = edfio.Edf([signal()], data_record_duration=1, annotations=[edfio.EdfAnnotation(0, None, "x")])
        content = bytearray(edf.to_bytes())
        content[192:197] = b"EDF+D"
        second = bytes(content).rindex(b"+1\x14\x14")
        content[second : second + 2] = b"+9"
        with pytest.raises(EcgFormatError, match="gaps"):
            read_ecg(bytes(content))

    @pytest.mark.real_data
    def test_samples(self, data_dir):
        folder = data_dir / "formats/edf"
        edf, open_end = (
            read_ecg(folder / f"derived_{name}.edf") for name in ("ptbxl_12lead_edfplus", "edge_unknown_record_count")
        )
        assert (edf.leads, edf.sampling_rate, edf.n_samples, edf.gain) == (STANDARD_LEADS, 500, 5000, 1000)
        np.testing.assert_array_equal(edf.signal, open_end.signal)
        assert "follows from the file size" in open_end.notes[0]
        bdf = read_ecg(folder / "derived_georgia_12lead_24bit.bdf")
        wfdb_record = read_ecg(data_dir / "formats/wfdb/cinc2021_mat/E07500.mat")
        assert np.abs(bdf.signal - wfdb_record.signal).max() < 1e-4

    @pytest.mark.real_data
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("derived_edge_truncated_last_record.edf", "truncated"),
            ("derived_edge_header_only.edf", "holds 0 bytes"),
            ("edge_edfio_annotations_only_SC4001EC-Hypnogram.edf", "no ECG lead"),
            ("wfdb_test_edfann.edf", "no ECG lead"),
            ("edge_pyedflib_test_utf8.edf", "'Fp1'"),
            ("edge_pyedflib_test_generator_datarec_generator_2.bdf", "'sine 2.5Hz'"),
        ],
    )
    def test_refused_samples(self, data_dir, name, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(data_dir / "formats/edf" / name)


def ishne(samples: np.ndarray, codes=(6, 15), resolution=5000, rate=200, text=b"remark", **change) -> bytes:
    """Build a file after Table 1 of the standard; `samples` (samples, leads)."""
    n_leads = samples.shape[1]
    block = bytearray(512)
    struct.pack_into("<iiii", block, 0, len(text), len(samples), 522, 522 + len(text))
    block[18:22], block[58:61], block[98:104] = b"Jane", b"Doe", b"MRN-77"
    struct.pack_into("<h", block, 118, 2)
    struct.pack_into("<3h3h3h3h", block, 122, 1, 6, 1950, 31, 5, 2001, -9, -9, -9, 10, 11, 12)
    struct.pack_into("<h", block, 146, n_leads)
    struct.pack_into("<12h", block, 148, *codes, *[-9] * (12 - len(codes)))
    struct.pack_into("<12h", block, 196, *[resolution] * n_leads, *[-9] * (12 - n_leads))
    block[222:228] = b"Holter"
    struct.pack_into("<h", block, 262, rate)
    for at, value in change.items():
        struct.pack_into("<i", block, int(at.removeprefix("at_")) - 10, value)
    header = bytes(block) + text
    return b"ISHNE1.0" + struct.pack("<H", crc_hqx(header, 0xFFFF)) + header + samples.astype("<i2").tobytes()


class TestIshne:
    samples = np.arange(2000).reshape(1000, 2) - 1000

    def test_leads_resolution_and_person(self):
        record = read_ecg(ishne(self.samples))
        np.testing.assert_allclose(record.signal, self.samples.T * 0.005, rtol=1e-6)
        assert (record.leads, record.sampling_rate, record.device) == (("II", "V5"), 200, "Holter")
        assert (record.age, record.sex) == (50, "female")
        assert (record.start_time, record.gain) == (datetime(2001, 5, 31, 10, 11, 12), 200)
        assert not any(secret in repr(record) for secret in ("Jane", "Doe", "MRN", "1950"))

    def test_windows_read_only_their_part(self, tmp_path):
        path = tmp_path / "a.ecg"
        path.write_bytes(ishne(self.samples))
        whole = read_ecg(path)
        pieces = list(windows(path, 1.0, 0.5))
        assert len(pieces) == 9
        for i, piece in enumerate(pieces):
            np.testing.assert_array_equal(piece.signal, whole.signal[:, 100 * i : 100 * i + 200])
        assert pieces[2].start_time == datetime(2001, 5, 31, 10, 11, 13)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (ishne(samples)[:-1], "truncated"),
            (ishne(samples)[:-4], "truncated"),
            (ishne(samples) + b"\0", "truncated"),
            (ishne(samples)[:400], "ends within its header"),
            (ishne(samples)[:8] + b"\0\0" + ishne(samples)[10:], "checksum"),
            (ishne(samples).replace(b"Jane", b"Jone"), "checksum"),
            (ishne(samples, at_14=2**31 - 1), "expected 8589935116 bytes"),
            (ishne(samples, at_14=-5), "truncated"),
            (ishne(samples, at_22=100), "begin at byte 100"),
            (ishne(samples, at_22=2**30), "begin at byte"),
            (ishne(samples, resolution=0), "no resolution"),
            (ishne(samples, codes=(0, 6)), "'unknown'"),
            (ishne(samples, codes=(99, 6)), "'code 99'"),
            (ishne(samples, codes=(6, 6)), "more than once"),
            (ishne(samples, rate=0), "at 0 Hz"),
        ],
    )
    def test_refused(self, content, message):
        with pytest.raises(EcgFormatError, match=message):
            read_ecg(content)

    def test_unspecified_leads_can_be_said(self):
        record = read_ecg(ishne(self.samples, codes=(0, 1)), leads=["V1", "V5"])
        assert record.leads == ("V1", "V5")

    @pytest.mark.real_data
    def test_samples(self, data_dir):
        record = read_ecg(data_dir / "formats/ishne/derived_mitdb100_2lead_360hz.ecg")
        reference = read_ecg(data_dir / "formats/wfdb/100.hea")
        assert (record.leads, record.sampling_rate, record.n_samples) == (("II", "V5"), 360, 10800)
        np.testing.assert_allclose(record.signal, reference.signal[:, :10800], atol=1e-6)
        for name, message in [
            ("derived_edge_bad_crc.ecg", "checksum"),
            ("derived_edge_truncated.ecg", "truncated"),
            ("edge_not_ishne_contec_0000050.ECG", "not an ISHNE file"),
        ]:
            with pytest.raises(EcgFormatError, match=message):
                read_ecg(data_dir / "formats/ishne" / name)
