"""SCP-ECG reader: samples of devices, every coding of the standard written by `scp_files`, and damaged files."""

import struct
import tracemalloc
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scp_files import difference, huffman, huffman_bits, lead_section, pack_bits, scp_file, seal, signal_section

from modeling_merit.processing.readers import EcgFormatError, read_ecg
from modeling_merit.processing.readers.scp_huffman import DEFAULT_TABLE, decode_lead
from modeling_merit.processing.readers.scp_signal import bimodal_pieces, restore_bimodal

DEFAULT = struct.pack("<H", 19999)
RNG = np.random.default_rng(0)


def walk(n: int) -> np.ndarray:
    return np.cumsum(RNG.integers(-30, 31, n))


def plain_file(signals, differences=2, table=DEFAULT, interval=2000, code=huffman):
    leads = [code(difference(signal, differences)) for signal in signals]
    spans = [(1, len(signal), i + 1) for i, signal in enumerate(signals)]
    bodies = {2: table, 3: lead_section(spans), 6: signal_section(leads, 2500, interval, differences)}
    return scp_file({number: body for number, body in bodies.items() if body is not None})


@pytest.mark.parametrize("differences", [0, 1, 2])
@pytest.mark.parametrize("coded", [True, False])
def test_codings_of_the_standard_give_the_same_samples(differences, coded):
    signals = [walk(1000), walk(1000)]
    code = huffman if coded else (lambda values: np.asarray(values, "<i2").tobytes())
    record = read_ecg(plain_file(signals, differences, DEFAULT if coded else None, code=code))
    assert record.leads == ("I", "II") and record.sampling_rate == 500
    np.testing.assert_allclose(record.signal, np.array(signals) * 0.0025, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-8000, 8000), min_size=3, max_size=60), st.integers(0, 2))
def test_decoding_undoes_coding(values, order):
    coded = huffman(difference(np.array(values), order))
    assert decode_lead(coded, len(values), order, [DEFAULT_TABLE], "I").tolist() == values
    with pytest.raises(EcgFormatError):
        decode_lead(coded, 8 * len(coded) + 1, order, [DEFAULT_TABLE], "I")


def test_tables_of_the_file_and_switching_between_them():
    # Table 1: "0" is 0, "10" is 5, "11" switches to table 2. Table 2: "0" is -7, "1" and 4 bits is that number.
    rows = [[(1, 1, 1, 0, 0), (2, 2, 1, 5, 0b01), (2, 2, 0, 2, 0b11)], [(1, 1, 1, -7, 0), (1, 5, 1, 0, 1)]]
    table = struct.pack("<H", 2)
    for table_rows in rows:
        table += struct.pack("<H", len(table_rows)) + b"".join(struct.pack("<BBBhI", *row) for row in table_rows)
    bits = "0" + "10" + "11" + "0" + "1" + "1101" + "1" + "0011"
    bodies = {2: table, 3: lead_section([(1, 5, 2)]), 6: signal_section([pack_bits(bits)], 1000, 1000, 0)}
    record = read_ecg(scp_file(bodies))
    assert record.leads == ("II",)
    np.testing.assert_allclose(record.signal[0] * 1000, [0, 5, -7, -3, 3], atol=1e-4)
    bodies[2] = table.replace(struct.pack("<BBBhI", 2, 2, 0, 2, 3), struct.pack("<BBBhI", 2, 2, 0, 9, 3))
    with pytest.raises(EcgFormatError, match="switch to one of 2 Huffman tables, got table 9"):
        read_ecg(scp_file(bodies))


def test_the_default_table_written_out_as_a_table_of_the_file():
    rows = [(1, 1, 1, 0, 0), (10, 18, 1, 0, 511), (10, 26, 1, 0, 1023)]
    rows += [
        (n + 2, n + 2, 1, sign * n, int(huffman_bits(sign * n)[::-1], 2)) for n in range(1, 9) for sign in (1, -1)
    ]
    table = struct.pack("<HH", 1, len(rows)) + b"".join(struct.pack("<BBBhI", *row) for row in rows)
    signals = [walk(500)]
    assert np.array_equal(read_ecg(plain_file(signals, table=table)).signal, read_ecg(plain_file(signals)).signal)


def test_reference_beats_are_added_again():
    beat, fiducial = np.round(400 * np.exp(-0.5 * ((np.arange(100) - 40) / 6) ** 2)).astype(int), 41
    noise = RNG.integers(-5, 6, 1000)
    signal = noise.copy()
    beats = [(100 * k, 100 * k - 40, 100 * k + 59) for k in range(1, 9)]
    for middle, first, last in beats:
        signal[first - 1 : last] += beat[first - middle + fiducial - 1 : last - middle + fiducial]
    other = [(1, 900, 930, 960)]  # a beat of another type keeps its samples
    zones = [(0, first, middle, last) for middle, first, last in beats] + other
    section4 = struct.pack("<HHH", 200, fiducial, len(zones)) + b"".join(struct.pack("<HIII", *zone) for zone in zones)
    section4 += b"".join(struct.pack("<II", zone[1], zone[3]) for zone in zones)
    bodies = {
        2: DEFAULT,
        3: lead_section([(1, 1000, 3)], subtracted=True),
        4: section4,
        5: signal_section([huffman(difference(beat, 2))], 2500, 2000, 2),
        6: signal_section([huffman(difference(noise, 1))], 2500, 2000, 1),
    }
    record = read_ecg(scp_file(bodies))
    assert record.leads == ("V1",) and "reference beat" in record.notes[0]
    np.testing.assert_allclose(record.signal[0], signal * 0.0025, atol=1e-6)
    bodies[4] = section4.replace(struct.pack("<HIII", *zones[0]), struct.pack("<HIII", 0, 50, 100, 900))
    with pytest.raises(EcgFormatError, match="within the reference beat"):
        read_ecg(scp_file(bodies))
    del bodies[5]
    with pytest.raises(EcgFormatError, match="section 5"):
        read_ecg(scp_file(bodies))


def test_bimodal_compression_is_exact_inside_and_interpolated_outside_the_protected_zones():
    time = np.arange(800)
    signal = 300 * np.sin(2 * np.pi * time / 400)
    signal[200:240] += RNG.integers(-50, 50, 40)
    signal = np.round(signal).astype(int)
    stored = np.concatenate(
        [signal[:200].reshape(-1, 4).mean(1), signal[200:240], signal[240:].reshape(-1, 4).mean(1)]
    )
    section4 = struct.pack("<HHH", 80, 20, 1) + struct.pack("<HIII", 1, 201, 220, 240) + struct.pack("<II", 201, 240)
    bodies = {
        2: DEFAULT,
        3: lead_section([(1, 800, 1)]),
        4: section4,
        5: signal_section([huffman([0])], 1000, 2000, 0),
        6: signal_section([huffman(difference(np.round(stored), 2))], 1000, 8000, 2, bimodal=1),
    }
    record = read_ecg(scp_file(bodies))
    assert record.sampling_rate == 500 and record.n_samples == 800 and "every 4th sample" in record.notes[0]
    error = np.abs(record.signal[0] * 1000 - signal)
    assert error[200:240].max() < 1e-3
    assert error.max() < 8  # at most 1.5 samples of the steepest slope, 4.7 units, and the rounding
    bodies[4] = section4[:-8] + struct.pack("<II", 202, 240)
    with pytest.raises(EcgFormatError, match="multiples of 4 samples"):
        read_ecg(scp_file(bodies))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5), st.integers(1, 40))
def test_bimodal_pieces_cover_the_lead_once(zones, blocks):
    zones = [(4 * a + 1, 4 * b) for a, b in zones]
    pieces = bimodal_pieces(zones, 1, 4 * blocks, 4)
    assert pieces[0][0] == 0 and pieces[-1][1] == 4 * blocks
    assert all(before[1] == after[0] for before, after in zip(pieces, pieces[1:]))
    stored = sum((end - begin) // step for begin, end, step in pieces)
    assert np.array_equal(restore_bimodal(np.full(stored, 3.0), pieces), np.full(4 * blocks, 3.0))


def test_leads_of_part_of_the_time_are_missing_elsewhere():
    spans = [(1, 500, 1), (501, 1000, 2), (1, 1000, 3)]
    leads = [huffman(np.full(end - start + 1, code)) for start, end, code in spans]
    record = read_ecg(scp_file({2: DEFAULT, 3: lead_section(spans), 6: signal_section(leads, 1000, 2000, 0)}))
    assert record.signal.shape == (3, 1000)
    assert np.isnan(record.signal[0, 500:]).all() and np.isnan(record.signal[1, :500]).all()
    np.testing.assert_allclose(np.nansum(record.signal, axis=1), [0.5, 1.0, 3.0], rtol=1e-5)


def test_the_header_gives_age_sex_time_and_filters_but_no_name():
    tags = {0: b"Doe\0", 2: b"1234\0", 4: struct.pack("<HB", 18, 2), 8: b"\2", 14: b"\0" * 8 + b"ECG90\0" + b"\0" * 20}
    tags |= {25: struct.pack("<HBB", 2020, 2, 29), 26: bytes([23, 59, 58]), 27: b"\5\0", 28: b"\x96\0"}
    section1 = b"".join(struct.pack("<BH", tag, len(value)) + value for tag, value in tags.items()) + b"\xff\0\0"
    signal = signal_section([huffman([1] * 100)], 1000, 2000, 0)
    record = read_ecg(scp_file({1: section1, 2: DEFAULT, 3: lead_section([(1, 100, 1)]), 6: signal}))
    assert (record.age, record.sex, record.device) == (1.5, "female", "ECG90")
    assert record.start_time == datetime(2020, 2, 29, 23, 59, 58)
    assert record.filters == "high-pass 0.05 Hz, low-pass 150 Hz"
    assert "Doe" not in repr(record) and "1234" not in repr(record)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused_even_with_repaired_length_and_checksum(cut):
    data = plain_file([walk(1000), walk(1000)])
    short = data[: int(len(data) * cut)]
    with pytest.raises(EcgFormatError):
        read_ecg(short, format="scp")
    with pytest.raises(EcgFormatError):
        read_ecg(seal(struct.pack("<I", len(short)) + short[6:]), format="scp")


def test_every_flipped_byte_is_noticed():
    data = plain_file([walk(60)])
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(EcgFormatError):
            read_ecg(bytes(damaged), format="scp")


@pytest.mark.parametrize("n_samples", [10**9, 2**32 - 1])
def test_a_small_file_that_claims_a_billion_samples_is_refused_at_once(n_samples):
    bodies = {2: DEFAULT, 3: lead_section([(1, n_samples, 1)]), 6: signal_section([b"\0" * 500], 1000, 2000, 0)}
    with pytest.raises(EcgFormatError, match="claims 1 leads"):
        read_ecg(scp_file(bodies))


@pytest.mark.parametrize("table", [DEFAULT, None])
def test_a_claim_below_the_limit_is_refused_without_memory_for_it(table):
    bodies = {2: table, 3: lead_section([(1, 3 * 10**7, 1), (1, 3 * 10**7, 2)])}
    bodies[6] = signal_section([b"\0" * 400] * 2, 1000, 2000, 0)
    data = scp_file({number: body for number, body in bodies.items() if body is not None})
    tracemalloc.start()
    with pytest.raises(EcgFormatError):
        read_ecg(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) < 1300 and peak < 2**20


def test_a_gap_in_all_leads_is_refused_before_it_is_allocated():
    bodies = {
        2: DEFAULT,
        3: lead_section([(1, 10, 1), (10**7, 10**7 + 9, 2)]),
        6: signal_section([b"\0", b"\0"], 1, 1, 0),
    }
    with pytest.raises(EcgFormatError, match="gap"):
        read_ecg(scp_file(bodies))


def test_an_unknown_lead_is_named():
    bodies = {2: DEFAULT, 3: lead_section([(1, 8, 20)]), 6: signal_section([b"\0"], 1000, 2000, 0)}
    with pytest.raises(EcgFormatError, match="SCP lead 20"):
        read_ecg(scp_file(bodies))
    assert read_ecg(scp_file(bodies), leads={"SCP lead 20": "V5"}).leads == ("V5",)


@pytest.mark.real_data
def test_samples_of_devices(data_dir):
    folder = data_dir / "formats" / "scp_ecg"
    record = read_ecg(folder / "ecgtoolkit_example.scp")
    assert record.signal.shape == (12, 5000) and record.sampling_rate == 500 and record.sex == "male"
    for name in ("welchallyn_2007_anon000014.scp", "welchallyn_2008_anon000010.scp"):
        record = read_ecg(folder / name)
        assert record.signal.shape == (8, 6000)
        assert record.sampling_rate == pytest.approx(1e6 / 1667, abs=1e-6)  # not 600
        assert 0.5 < np.ptp(record.signal, axis=1).max() < 5


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("edge_corrupt_shifted_sections.scp", "Expected 21910 bytes"),
        ("edge_contec_section6_length_overflow.scp", "at most 65535 bytes"),
        ("edge_healforce_nonconformant_62.scp", "lacks the mark SCPECG"),
    ],
)
def test_wrong_files_of_devices_are_refused(data_dir, name, reason):
    with pytest.raises(EcgFormatError, match=reason):
        read_ecg(data_dir / "formats" / "scp_ecg" / name)
