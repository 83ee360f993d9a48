"""DICOM reader: sample files, the same recording in several formats, and files written here with pydicom."""

import time

import numpy as np
import pytest
from dicom_files import DEFLATED, channel, dicom, group

from modeling_merit.processing.readers import EcgFormatError, read_ecg

SAMPLES = np.arange(2000).reshape(2, 1000) - 1000


def test_sensitivity_correction_baseline_and_unit():
    channels = [channel("I", "mV", 0.001, 2, 0.25), channel("II", "V", 1e-6, 0.5, -1e-3)]
    record = read_ecg(dicom([group(SAMPLES, channels)], PatientAge="046Y", PatientSex="F", PatientName="Doe^Jane"))
    expected = [SAMPLES[0] * 0.001 * 2 + 0.25, SAMPLES[1] * 1e-6 * 0.5 * 1000 - 1]
    np.testing.assert_allclose(record.signal, expected, atol=1e-6)
    assert (record.leads, record.age, record.sex, record.gain) == (("I", "II"), 46, "female", None)
    assert "Doe" not in repr(record)


def test_implicit_files_are_read_and_big_endian_ones_refused():
    groups = [group(SAMPLES, [channel("I"), channel("II")])]
    np.testing.assert_allclose(read_ecg(dicom(groups, "1.2.840.10008.1.2")).signal, SAMPLES * 0.0025, rtol=1e-6)
    with pytest.raises(EcgFormatError, match="big-endian"):
        read_ecg(dicom(groups, "1.2.840.10008.1.2.2"))


def test_padding_is_invalid_but_padding_zero_is_not_believed():
    channels = [channel("I"), channel("II")]
    record = read_ecg(dicom([group(SAMPLES, channels, padding=-1000)]))
    assert np.argwhere(np.isnan(record.signal)).tolist() == [[0, 0]]
    record = read_ecg(dicom([group(SAMPLES, channels, padding=0)]))
    assert not np.isnan(record.signal).any() and "WaveformPaddingValue 0" in record.notes[0]


def test_groups_of_one_rate_and_length_are_merged_and_others_left_out_with_a_note():
    groups = [
        group(SAMPLES[:1], [channel("I")]),
        group(SAMPLES[1:], [channel("V1", "mV", 0.0025)], label="MORE LEADS"),
        group(SAMPLES[:, :300], [channel("I"), channel("V1")], label="MEDIAN BEAT"),
        group(SAMPLES[:1, :100], [channel("II")], rate=100, label="TREND"),
        group(SAMPLES[:1], [channel("Resp", "Ohm")], label="RESPIRATION"),
    ]
    record = read_ecg(dicom(groups))
    assert record.leads == ("I", "V1") and record.unit == "uV" and record.gain == 400
    np.testing.assert_allclose(record.signal, SAMPLES * 0.0025, rtol=1e-6)
    text = " ".join(record.notes)
    assert all(word in text for word in ("MEDIAN BEAT", "TREND", "Resp"))


def test_groups_recorded_one_after_the_other_are_placed_in_time():
    groups = [group(SAMPLES[:1], [channel("I")]), group(SAMPLES[1:], [channel("V1")], offset_ms=2000)]
    record = read_ecg(dicom(groups))
    assert record.signal.shape == (2, 2000)
    assert np.isnan(record.signal[0, 1000:]).all() and np.isnan(record.signal[1, :1000]).all()
    np.testing.assert_allclose(record.signal[1, 1000:], SAMPLES[1] * 0.0025, rtol=1e-6)
    groups[1].MultiplexGroupTimeOffset = 10**9
    with pytest.raises(EcgFormatError, match="follow each other"):
        read_ecg(dicom(groups))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"NumberOfWaveformSamples": 10**9}, "claims 2 leads of 1000000000 samples"),
        ({"NumberOfWaveformSamples": 1001}, "Expected 4004 bytes"),
        ({"NumberOfWaveformSamples": 999}, "Expected 3996 bytes"),
        ({"NumberOfWaveformChannels": 1}, "Expected 2000 bytes"),
        ({"SamplingFrequency": 0}, "above 0"),
        ({"WaveformSampleInterpretation": "MB"}, "linear samples"),
        ({"WaveformSampleInterpretation": "UL"}, "KeyError"),
        ({"ChannelDefinitionSequence": [channel("I"), channel("I")]}, "more than once"),
        ({"ChannelDefinitionSequence": [channel("I"), channel("Fp1")]}, "Fp1"),
        ({"ChannelDefinitionSequence": [channel("I"), channel("II", sensitivity=0)]}, "other than 0"),
    ],
)
def test_contradictions_are_refused(change, reason):
    item = group(SAMPLES, [channel("I"), channel("II")])
    for name, value in change.items():
        setattr(item, name, value)
    began = time.perf_counter()
    with pytest.raises(EcgFormatError, match=reason):
        read_ecg(dicom([item]))
    assert time.perf_counter() - began < 1


def test_a_lead_without_a_sensitivity_is_refused_not_guessed():
    item = group(SAMPLES, [channel("I"), channel("II")])
    del item.ChannelDefinitionSequence[1].ChannelSensitivity
    with pytest.raises(EcgFormatError, match="II is not calibrated"):
        read_ecg(dicom([item]))


@pytest.mark.parametrize(
    ("text", "years"), [("046Y", 46), ("006M", 0.5), ("003W", 3 / 52.1775), ("012D", 12 / 365.25), ("", None)]
)
def test_ages_of_infants(text, years):
    record = read_ecg(dicom([group(SAMPLES, [channel("I"), channel("II")])], PatientAge=text))
    assert record.age == (None if years is None else pytest.approx(years))


def test_a_deflated_file_is_refused_before_it_is_inflated():
    bomb = dicom([group(np.zeros((1, 10**6)), [channel("I")])], DEFLATED)
    assert len(bomb) < 10**4
    with pytest.raises(EcgFormatError, match="deflated"):
        read_ecg(bomb)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_refused(cut):
    data = dicom([group(SAMPLES, [channel("I"), channel("II")])])
    with pytest.raises(EcgFormatError):
        read_ecg(data[: int(len(data) * cut)])


def test_nested_sequences_of_undefined_length_are_refused():
    head = dicom([group(SAMPLES, [channel("I"), channel("II")])])
    start = head.index(b"\x00\x54\x00\x01")  # (5400,0100), the waveform sequence
    item = b"\x00\x54\x00\x01SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(EcgFormatError):
        read_ecg(head[:start] + item * 20_000)


@pytest.mark.real_data
def test_sample_files(data_dir):
    folder = data_dir / "formats" / "dicom"
    record = read_ecg(folder / "ecgtoolkit_example_12lead.dcm")
    assert record.signal.shape == (12, 5000) and not np.isnan(record.signal).any()
    assert record.age == 49 and record.sex == "male" and "Clark" not in repr(record) and "SBJ-123" not in repr(record)
    assert "Group 2 was left out: MEDIAN BEAT." in record.notes
    record = read_ecg(folder / "derived_ambulatory_ecg_2ch_360hz.dcm")
    assert record.leads == ("II", "V5") and record.sampling_rate == 360 and record.duration_s == 30


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("edge_no_waveform_CT_small.dcm", "Expected a DICOM waveform"),
        ("derived_edge_truncated_waveformdata.dcm", "Expected 120000 bytes"),
        ("derived_edge_file_cut_in_half.dcm", "Expected 43200 bytes"),
    ],
)
def test_wrong_sample_files_are_refused(data_dir, name, reason):
    with pytest.raises(EcgFormatError, match=reason):
        read_ecg(data_dir / "formats" / "dicom" / name)


@pytest.mark.real_data
def test_one_recording_as_dicom_scp_and_aecg_is_the_same(data_dir):
    folder = data_dir / "formats"
    dicom_record = read_ecg(folder / "dicom" / "ecgtoolkit_example_12lead.dcm")
    for name in ("scp_ecg/ecgtoolkit_example.scp", "hl7_aecg/hl7_example_aecg.xml"):
        other = read_ecg(folder / name)
        assert other.sampling_rate == dicom_record.sampling_rate and set(other.leads) == set(dicom_record.leads)
        assert np.abs(other.select(dicom_record.leads).signal - dicom_record.signal).max() < 1e-3


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    [
        "dicom/derived_general_ecg_mdc_mV_2groups.dcm",
        "edf/derived_ptbxl_12lead_edfplus.edf",
        "csv/derived_12lead_header_time_mV.csv",
        "mortara_xml/synthetic_ptbxl_12lead_500hz.xml",
    ],
)
def test_a_record_of_ptb_xl_in_other_formats_is_the_same(data_dir, name):
    wfdb_record = read_ecg(data_dir / "formats" / "wfdb" / "cinc2021_mat" / "HR06000.hea")
    units = {"units": "mV"} if name.endswith(".csv") else {}
    other = read_ecg(data_dir / "formats" / name, **units).select(wfdb_record.leads)
    assert other.sampling_rate == wfdb_record.sampling_rate == 500
    # The DICOM file was made with a baseline of 0.01 mV in its first group, the leads I, II and V1 to V6.
    baseline = 0.01 * np.array([lead[0] in "IV" and lead != "III" for lead in other.leads]) if "dicom" in name else 0
    np.testing.assert_allclose(other.signal - np.reshape(baseline, (-1, 1)), wfdb_record.signal, atol=1e-3)


@pytest.mark.real_data
def test_a_record_of_mit_bih_as_wfdb_dicom_and_ishne_is_the_same(data_dir):
    folder = data_dir / "formats"
    wfdb_record = read_ecg(folder / "wfdb" / "100.hea").crop(0, 30)
    for name in ("dicom/derived_ambulatory_ecg_2ch_360hz.dcm", "ishne/derived_mitdb100_2lead_360hz.ecg"):
        assert np.abs(read_ecg(folder / name).signal - wfdb_record.signal).max() < 1e-3
