"""Readers of XML formats (HL7 aECG, GE MUSE, Philips Sierra, Mortara) and the safety of their parser."""

import time
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xml_files import SAMPLES, aecg, lzw_literals, mortara, muse, sierra, xli_chunk

from modeling_merit.processing.readers import EcgFormatError, read_ecg
from modeling_merit.processing.readers.sierra import cut_calibration
from modeling_merit.processing.readers.xli import decode_lzw
from modeling_merit.processing.readers.xml_safety import MAX_DEPTH, has_root, parse_xml


def test_aecg_scale_origin_unit_and_time():
    for unit, factor in (("uV", 1e-3), ("mV", 1.0), ("nV", 1e-6)):
        record = read_ecg(aecg(unit=unit, scale="0.5", origin="10"))
        np.testing.assert_allclose(record.signal, (10 + 0.5 * SAMPLES) * factor, rtol=1e-5)
    assert record.leads == ("I", "II") and record.sampling_rate == 500 and record.unit == "nV"
    assert record.start_time == datetime(2020, 2, 29, 23, 59, 58, 500000)
    for written, expected in (
        ("20021122091000+0100", datetime(2002, 11, 22, 9, 10)),
        ("200211220910", datetime(2002, 11, 22, 9, 10)),
        ("2002112209", datetime(2002, 11, 22, 9)),
        ("20021122", datetime(2002, 11, 22)),
        ("2002112", None),
        ("20021322", None),
    ):
        changed = aecg().replace(b"20200229235958.5", written.encode())
        assert read_ecg(changed).start_time == expected, written


@pytest.mark.parametrize("relative", [False, True])
def test_aecg_leads_recorded_in_turn(relative):
    """Leads of a printout of 3 x 4 stand in a sequence set of their own each."""
    first, second = aecg(), aecg(("MDC_ECG_LEAD_V1", "MDC_ECG_LEAD_V2"))
    second = second.replace(b"20200229235958.5", b"20200229235959.5")
    if relative:
        both = [
            part.replace(b"GLIST_TS", b"GLIST_PQ").replace(b"TIME_ABSOLUTE", b"TIME_RELATIVE")
            for part in (
                first.replace(b'<head value="20200229235958.5"/>', b'<head value="0" unit="s"/>'),
                second.replace(b'<head value="20200229235959.5"/>', b'<head value="1000" unit="ms"/>'),
            )
        ]
        first, second = both
    start, end = b"<component><sequenceSet>", b"</sequenceSet></component>"
    other = start + second.partition(start)[2].partition(end)[0] + end
    record = read_ecg(first.replace(end, end + other))
    assert record.leads == ("I", "II", "V1", "V2") and record.signal.shape == (4, 1000)
    expected = np.full((4, 1000), np.nan)
    expected[:2, :500], expected[2:, 500:] = SAMPLES * 0.0025, SAMPLES * 0.0025
    np.testing.assert_allclose(record.signal, expected, rtol=1e-5)
    assert any("one after the other" in note for note in record.notes)

    again = read_ecg(first.replace(end, end + start + first.partition(start)[2].partition(end)[0] + end))
    assert again.signal.shape == (2, 500) and any("1 of its sequence sets not" in note for note in again.notes)


@pytest.mark.parametrize(
    ("unit", "years"), [("a", 6.0), ("mo", 0.5), ("wk", 6 / 52.1775), ("d", 6 / 365.25), ("kg", None)]
)
def test_ages_of_aecg_in_their_unit(unit, years):
    observation = (
        f'<relatedObservation><code code="21612-7"/><value value="6" unit="{unit}"/></relatedObservation>'
    ).encode()
    record = read_ecg(aecg().replace(b"</series>", observation + b"</series>"))
    assert record.age == (None if years is None else pytest.approx(years))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unit": "mm"}, "mV, uV, nV or V"),
        ({"scale": "0"}, "other than 0"),
        ({"scale": "nan"}, "a number for the scale"),
        ({"increment": "0"}, "time increment"),
        ({"digits": [[1, 2], [1]]}, "one length"),
        ({"digits": [["1", "x"], [1, 2]]}, "whole numbers"),
        ({"digits": [[], []]}, "no ECG"),
        ({"leads": ("MDC_ECG_LEAD_I", "MDC_ECG_LEAD_Q")}, "MDC_ECG_LEAD_Q"),
    ],
)
def test_aecg_contradictions_are_refused(change, reason):
    with pytest.raises(EcgFormatError, match=reason):
        read_ecg(aecg(**change))


def test_muse_derives_the_limb_leads_and_orders_twelve():
    stored = ("V6", "V5", "V4", "V3", "V2", "V1", "II", "I")
    samples = np.arange(8 * 100).reshape(8, 100)
    record = read_ecg(muse(samples, stored))
    assert record.leads == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    np.testing.assert_allclose(record.signal[0], samples[7] * 0.00488, rtol=1e-5)
    np.testing.assert_allclose(record.signal[3], (samples[7] + samples[6]) * -0.00244, rtol=1e-5)
    assert record.notes == ("III, aVR, aVL, aVF derived from I and II; the file does not store them.",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"LeadDataCRC32": 1}, "checksum 1"),
        ({"LeadSampleCountTotal": 10**9}, "Expected 1e\\+09 samples"),
        ({"LeadSampleCountTotal": 499}, "Expected 499 samples"),
        ({"LeadSampleSize": 1}, "2 bytes"),
        ({"LeadOffsetFirstSample": 5}, "LeadOffsetFirstSample 0"),
    ],
)
def test_muse_contradictions_are_refused(change, reason):
    with pytest.raises(EcgFormatError, match=reason):
        read_ecg(muse(**change))


def test_muse_notes_a_loose_electrode():
    assert read_ecg(muse(LeadOff="TRUE")).notes[-1] == "The device reports a loose electrode in I, II."


def test_sierra_limb_leads_are_restored_from_residuals():
    rng = np.random.default_rng(0)
    stored = np.cumsum(rng.integers(-9, 10, (6, 200)), axis=1)
    stored[2:] //= 20  # residuals of the lead sums are small
    record = read_ecg(sierra(b"".join(xli_chunk(row) for row in stored), 200))
    i, ii, iii = stored[0], stored[1], stored[1] - stored[0] - stored[2]
    expected = [i, ii, iii, -stored[3] - (i + ii) // 2, (i - iii) // 2 - stored[4], (ii + iii) // 2 - stored[5]]
    np.testing.assert_allclose(record.signal, np.array(expected) * 0.005, atol=1e-6)


def test_sierra_uncompressed_and_wrong_lengths():
    samples = np.arange(1200).reshape(6, 200)
    record = read_ecg(sierra(samples.astype("<i2").tobytes(), 200, compression="Uncompressed"))
    np.testing.assert_allclose(record.signal, samples * 0.005, rtol=1e-6)
    chunks = b"".join(xli_chunk(row) for row in samples)
    for damaged in (
        chunks[:-1],
        chunks[: len(chunks) // 2],
        b"\xff\xff\xff\x7f" + chunks[4:],
        b"\xf8\xff\xff\xff" + chunks[4:],
    ):
        with pytest.raises(EcgFormatError, match="compressed leads"):
            read_ecg(sierra(damaged, 200))
    with pytest.raises(EcgFormatError, match="bytes of samples per lead"):
        read_ecg(sierra(chunks, 300))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_lzw_literals_are_returned(data):
    assert decode_lzw(lzw_literals(data), len(data)) == data


def test_lzw_that_grows_without_bound_is_stopped():
    # Every code is the word being defined, so that word k has k bytes: 20 kB would give 12 MB.
    bits = f"{0:010b}" + "".join(f"{min(256 + k, 1022):010b}" for k in range(16_000))
    codes = b"".join(int(bits[i : i + 8], 2).to_bytes(1, "big") for i in range(0, len(bits) - 7, 8))
    with pytest.raises(EcgFormatError, match="Expected 1000 bytes"):
        decode_lzw(codes, 1000)


def test_only_a_calibration_pulse_is_cut():
    signal = np.zeros((2, 5500))
    signal[:, -150:-50] = 1
    assert cut_calibration(signal, 500)[0].shape == (2, 5000)
    signal[1, -100] = 0.9
    assert cut_calibration(signal, 500) == (signal, ())


def test_mortara_layout():
    record = read_ecg(mortara())
    np.testing.assert_allclose(record.signal, SAMPLES / 400, rtol=1e-6)
    assert record.age == 59 and record.start_time == datetime(2020, 2, 29, 12)
    for change in ({"BITS": "12"}, {"DURATION": "1000000000"}, {"UNITS_PER_MV": "0"}, {"SAMPLE_FREQ": "-1"}):
        with pytest.raises(EcgFormatError):
            read_ecg(mortara(**change))


@pytest.mark.parametrize("build", [aecg, muse, mortara, lambda: sierra(xli_chunk(range(200)) * 6, 200)])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_formats_are_found_in_either_encoding_and_cut_files_refused(build, encoding):
    text = build().decode("latin-1").replace("ISO-8859-1", encoding)
    data = text.encode(encoding)
    assert read_ecg(data).n_samples >= 200
    for cut in (0.3, 0.7, 0.99):
        with pytest.raises(EcgFormatError):
            read_ecg(data[: int(len(data) * cut)])


@pytest.mark.parametrize(
    ("declared", "written", "name"),
    [
        ("GB2312", "gb2312", "王小明"),
        ("GB2312", "gbk", "朱镕基"),  # a character that GB2312 lacks and files that declare it hold
        ("GBK", "gbk", "朱镕基"),
        ("gb18030", "gb18030", "𠀀"),
        ("Shift_JIS", "shift_jis", "山田 表"),
        ("Windows-31J", "cp932", "髙橋"),
        ("Big5", "big5", "許功蓋"),
        ("EUC-KR", "euc_kr", "홍길동"),
        ("EUC-JP", "euc_jp", "山田"),
        ("windows-1252", "cp1252", "Müller"),
    ],
)
@pytest.mark.parametrize("build", [aecg, muse, mortara, lambda: sierra(xli_chunk(range(200)) * 6, 200)])
def test_encodings_of_more_than_one_byte(declared, written, name, build):
    text = build().decode("latin-1").partition("?>")
    head = f'<?xml version="1.0" encoding="{declared}"?><!-- {name} -->'
    data = (head + (text[2] or text[0])).encode(written)
    expected = read_ecg(build())
    np.testing.assert_array_equal(read_ecg(data).signal, expected.signal)
    laughs = data.replace(b"-->", b'--><!DOCTYPE x [<!ENTITY a "ha">]>', 1)
    with pytest.raises(EcgFormatError, match="entity declarations|damaged"):
        read_ecg(laughs)


def test_text_that_is_not_in_the_encoding_it_declares():
    with pytest.raises(EcgFormatError, match="damaged or cut short"):
        parse_xml(b'<?xml version="1.0" encoding="GBK"?><a>\xd0</a>', "a")
    with pytest.raises(EcgFormatError, match="damaged or cut short"):
        parse_xml(b'<?xml version="1.0" encoding="utf-7"?><a>+ADw-</a>', "a")


@pytest.mark.parametrize(
    "digits", ["1_0 2", "\u0661 2", "1 2.5", "1e3 2", "1 --2", "1-2 3", "12345678901 2", "0x10 2"]
)
def test_digits_of_aecg_are_whole_numbers_in_ascii(digits):
    with pytest.raises(EcgFormatError, match="whole numbers as the digits of MDC_ECG_LEAD_I"):
        read_ecg(aecg(digits=[[digits], [1, 2]]))


@pytest.mark.parametrize(
    ("gender", "sex"), [('code="F"', "female"), ('code="UN"', None), ('code="1" displayName="Männlich"', "male")]
)
def test_sex_of_aecg_as_code_or_word(gender, sex):
    person = f"<subjectDemographicPerson><administrativeGenderCode {gender}/></subjectDemographicPerson>"
    assert read_ecg(aecg().replace(b"<component>", person.encode() + b"<component>", 1)).sex == sex


def test_uncommon_numbers_in_mortara():
    for change in ({"DURATION": "499.5"}, {"DURATION": "5_00"}, {"SAMPLE_FREQ": "\u0665\u0660\u0660"}):
        with pytest.raises(EcgFormatError):
            read_ecg(mortara(**change))


def test_a_compressed_recording_above_the_limit_is_refused_before_it_is_decoded():
    began = time.process_time()
    with pytest.raises(EcgFormatError, match="at most 4194304 compressed samples"):
        read_ecg(sierra(xli_chunk(range(200)) * 6, 700_000))
    with pytest.raises(EcgFormatError, match="6 whole compressed leads, got 65 chunks"):
        read_ecg(sierra(bytes(8 * 2**20), 200))
    assert time.process_time() - began < 2


def test_a_billion_laughs_are_refused():
    entities = '<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij")
    )
    began = time.perf_counter()
    with pytest.raises(EcgFormatError, match="entity declarations"):
        read_ecg(muse(doctype=f"<!DOCTYPE RestingECG [{entities}]>"))
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("kind", ['SYSTEM "file:///etc/passwd"', 'PUBLIC "x" "http://127.0.0.1:9/x"'])
@pytest.mark.parametrize(
    "form", ["<!DOCTYPE a [<!ENTITY x {}>]><a>&x;</a>", "<!DOCTYPE a [<!ENTITY % x {}> %x;]><a/>"]
)
def test_external_entities_are_refused(kind, form):
    with pytest.raises(EcgFormatError, match="entity declarations"):
        parse_xml(form.format(kind).encode(), "a")


def test_a_document_type_line_is_accepted_and_its_file_not_opened(tmp_path):
    dtd = tmp_path / "x.dtd"
    dtd.write_text('<!ATTLIST RestingECG read CDATA "yes">')
    assert parse_xml(f'<!DOCTYPE RestingECG SYSTEM "{dtd}"><RestingECG/>'.encode(), "RestingECG").attrib == {}


def test_deep_nesting_is_refused_and_the_limit_is_enough():
    assert parse_xml(b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH, "a") is not None
    for depth in (MAX_DEPTH + 1, 90_000):
        with pytest.raises(EcgFormatError, match="levels deep"):
            parse_xml(b"<a>" * depth + b"</a>" * depth, "a")


def test_too_many_elements_attributes_and_bytes_are_refused(monkeypatch):
    attributes = "".join(f' a{i}=""' for i in range(300_000)).encode()
    for data in (b"<a>" + b"<b/>" * 300_000 + b"</a>", b"<a" + attributes + b"/>"):
        with pytest.raises(EcgFormatError, match="200000 tags and attributes"):
            parse_xml(data, "a")
    monkeypatch.setattr("modeling_merit.processing.readers.xml_safety.MAX_XML_BYTES", 10)
    with pytest.raises(EcgFormatError, match="at most 10 bytes"):
        parse_xml(b"<a>       </a>", "a")


@pytest.mark.parametrize(
    "data", [b"", b"<a", b"<a></b>", b'<?xml version="1.0" encoding="x-none"?><a/>', b"<b/>", b"\0" * 9]
)
def test_what_is_not_well_formed_is_refused(data):
    with pytest.raises(EcgFormatError):
        parse_xml(data, "a")


def test_roots_are_told_apart():
    assert has_root(b"\xef\xbb\xbf <x:ECG a='1'>", "ECG") and not has_root(b"<ECGs>", "ECG")
    assert not has_root(b"time,<ECG>", "ECG")


@pytest.mark.real_data
def test_sample_files_of_aecg(data_dir):
    folder = data_dir / "formats" / "hl7_aecg"
    record = read_ecg(folder / "hl7_example_aecg.xml")
    assert record.signal.shape == (12, 5000) and record.age == 46 and record.sex == "male"
    assert record.device == "Mortara Instrument, Inc. ELI250"
    assert record.filters == "low-pass 150 Hz, high-pass, notch 60 Hz"
    assert record.notes == ("A derived series was left out: REPRESENTATIVE_BEAT.",)
    assert not any(secret in repr(record) for secret in ("Clark", "SBJ-123", "John Smith", "1953"))
    for name in ("", "_effectiveTime_high", "_effectiveTime_interval", "_effectiveTime_low"):
        record = read_ecg(folder / f"edge_fda_minimum_aecg{name}.xml")
        np.testing.assert_allclose(record.signal[0, :3] * 1000, [-5, -5, -5], atol=1e-4)
    with pytest.raises(EcgFormatError, match="series of code RHYTHM"):
        read_ecg(folder / "edge_fda_empty.xml")


@pytest.mark.real_data
def test_sample_files_of_muse(data_dir):
    for name in ("braveheart_example1.xml", "braveheart_example2.xml"):
        record = read_ecg(data_dir / "formats" / "muse_xml" / name)
        assert record.signal.shape == (12, 5000) and record.sampling_rate == 500
        assert record.gain == pytest.approx(1000 / 4.88) and "high-pass 0.16 Hz" in record.filters
        einthoven = record.signal[0] + record.signal[2] - record.signal[1]
        assert np.abs(einthoven).max() < 1e-5


@pytest.mark.real_data
def test_sample_files_of_sierra_and_the_same_recording_as_aecg(data_dir):
    folder = data_dir / "formats"
    for path in sorted((folder / "sierra_xml").glob("v1_*.xml")):
        record = read_ecg(path)
        assert record.signal.shape == (12, 5000) and "calibration" in record.notes[0]
        i, ii, iii = record.signal[:3]
        assert np.abs(i + iii - ii).max() < 0.05
    assert path.name.startswith("v1_04_ad4d3d80")
    other = read_ecg(folder / "hl7_aecg" / "philips_ecgtranslator_ad4d3d80.xml")
    assert other.leads == record.leads and np.abs(other.signal - record.signal).max() <= 0.0201
    assert (other.age, other.sex, other.start_time) == (record.age, record.sex, record.start_time)
    with pytest.raises(EcgFormatError, match="got MortaraECG"):
        read_ecg(folder / "sierra_xml" / "edge_invalid-doc-type.xml")
