"""Files made to exhaust time or memory are dealt with in 2 s and 300 MB, and 50 ns and 40 bytes for each byte."""

import bz2
import gzip
import lzma
import struct
import sys
import time
import zipfile
import zlib
from io import BytesIO

import edfio
import h5py
import numpy as np
import pytest
from dicom_files import channel, dicom, group
from fuzz_readers import LARGE_BYTES, LARGE_BYTES_PER_BYTE, SLOW_S, SLOW_S_PER_BYTE, npy, peak_memory, zipped
from scp_files import lead_section, scp_file, signal_section

from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import EcgFormatError, read_ecg
from modeling_merit.processing.readers.source import most_unpacked

MASS = bytes(20 * 2**20)  # more than a small file may unpack to
FACTS = {"sampling_rate": 500, "leads": STANDARD_LEADS, "units": "mV"}
HEAD = {
    "sampling_rate.npy": npy(np.array(500.0)),
    "leads.npy": npy(np.array(["I", "II"])),
    "units.npy": npy(np.array("mV")),
}


def npz(method: int, array: np.ndarray, **others: np.ndarray) -> bytes:
    members = HEAD | {"signal.npy": npy(array)} | {f"{name}.npy": npy(value) for name, value in others.items()}
    return zipped({"signal.npy": members.pop("signal.npy"), **members}, method)


def hdf5(array: np.ndarray, filters: int = 1, chunk: bytes | None = None, **how) -> bytes:
    """HDF5 with the array `tracings` through several gzip filters, or with a chunk packed by the caller."""
    file = BytesIO()
    with h5py.File(file, "w") as content:
        if filters == 1:
            made = content.create_dataset(
                "tracings",
                data=None if chunk else array,
                shape=array.shape,
                dtype=array.dtype,
                chunks=array.shape,
                **how,
            )
        else:
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk(array.shape)
            for _ in range(filters):
                plist.set_deflate(9)
            space = h5py.h5s.create_simple(array.shape)
            made = h5py.Dataset(
                h5py.h5d.create(content.id, b"tracings", h5py.h5t.py_create(array.dtype), space, plist)
            )
            made[...] = array
        if chunk:
            made.id.write_direct_chunk((0, 0, 0), chunk)
    return file.getvalue()


def mat5(content: bytes) -> bytes:
    packed = zlib.compress(content)
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed


def matrix(name: bytes, rest: bytes) -> bytes:
    """A numeric MATLAB array of 12 x 100 with anything for its values."""
    head = (
        struct.pack("<IIII", 6, 8, 6, 0)
        + struct.pack("<IIii", 5, 8, 12, 100)
        + struct.pack("<II", 1, len(name))
        + name.ljust(8, b"\0")
    )
    return struct.pack("<II", 14, len(head) + len(rest)) + head + rest


def elements(n: int) -> bytes:
    """DICOM elements without a value."""
    return b"".join(struct.pack("<HH2sH", 0x0009, i % 2**16, b"LO", 0) for i in range(n))


def dicom_with(n: int, inside: bytes) -> bytes:
    """A DICOM file whose waveform sequence begins with an item repeated many times."""
    data = dicom([group(np.zeros((1, 500)), [channel("I")])])
    at = data.index(b"\x00\x54\x00\x01SQ")
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inside)) + inside
    return data[: at + 8] + struct.pack("<I", n * len(item)) + item * n


def edf(n_records: int, n_signals: int = 1) -> bytes:
    """EDF+ with data records of one sample and a time stamp."""
    first = edfio.EdfSignal(np.zeros(2), 1, label="ECG II", physical_dimension="uV", physical_range=(-9, 9))
    plain = edfio.Edf(
        [first] * n_signals, data_record_duration=1, annotations=[edfio.EdfAnnotation(0, None, "")]
    ).to_bytes()
    header = bytearray(plain[: 256 * (n_signals + 2)])
    header[236:244] = str(n_records).encode().ljust(8)
    at = 256 + 216 * (n_signals + 1) + 8 * n_signals
    header[at : at + 8] = b"6".ljust(8)
    stamps = (f"+{i}\x14\x14".encode().ljust(12, b"\0") for i in range(n_records))
    return bytes(header) + b"".join(b"\0\0" * n_signals + stamp for stamp in stamps)


def scp_with_switches() -> bytes:
    """Leads of Huffman codes that only switch the table."""
    rows = [(1, 1, 0, 1, 0), (2, 2, 1, 5, 1)]
    table = struct.pack("<HH", 1, len(rows)) + b"".join(struct.pack("<BBBhI", *row) for row in rows)
    spans = [(1, 10, code) for code in range(1, 13)]
    return scp_file({2: table, 3: lead_section(spans), 6: signal_section([b"\0" * 65000] * 12, 1000, 2000, 0)})


def scp_with_long_codes() -> bytes:
    """Samples that take all of 32 looks into the table."""
    rows = [(k, k, 1, 5, 2**k - 1) for k in range(1, 32)] + [(32, 32, 1, 7, 0)]
    table = struct.pack("<HH", 1, len(rows)) + b"".join(struct.pack("<BBBhI", *row) for row in rows)
    codes = [*range(1, 15), 16, 17, 18]
    spans = [(1, 16_000, code) for code in codes]
    return scp_file(
        {2: table, 3: lead_section(spans), 6: signal_section([b"\0" * 64_000] * len(codes), 1000, 2000, 0)}
    )


SMALL = np.zeros((1, 1000, 12), np.float32)
FILES = {
    "gzip": lambda: gzip.compress(MASS, 1),
    "bzip2": lambda: bz2.compress(MASS),
    "xz": lambda: lzma.compress(MASS, preset=0),
    "zip": lambda: zipped({"a.csv": MASS}),
    "zip of many": lambda: zipped({str(i): b"" for i in range(5000)}),
    "gzip text": lambda: gzip.compress(b"I,II\n" + b"0.1,0.2\n" * 1_100_000, 1),
    "gzip streams": lambda: gzip.compress(b"") * 20_000,
    "zip by bzip2": lambda: zipped({"a.csv": MASS}, zipfile.ZIP_BZIP2),
    "zip by lzma": lambda: zipped({"a.csv": MASS}, zipfile.ZIP_LZMA),
    **{
        f"npz by {method}": lambda method=method: npz(method, np.zeros((2, 10**7), np.int8))
        for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    },
    "npz of many": lambda: zipped({"signal.npy": b"", **{str(i): b"" for i in range(5000)}}),
    "npz names": lambda: npz(zipfile.ZIP_DEFLATED, np.zeros((2, 100)), leads=np.array(["I"] * 10**6)),
    "hdf5 gzip": lambda: hdf5(np.zeros((1, 10**6, 12), np.int16), compression="gzip"),
    "hdf5 lzf": lambda: hdf5(np.zeros((1, 10**6, 12), np.int16), compression="lzf"),
    "hdf5 twice": lambda: hdf5(SMALL, filters=2),
    "hdf5 long piece": lambda: hdf5(SMALL, chunk=zlib.compress(MASS), compression="gzip"),
    "mat5": lambda: mat5(matrix(b"feats", struct.pack("<II", 9, len(MASS)) + MASS)),
    "mat5 elements": lambda: mat5(matrix(b"ECG", bytes(2**22))),
    "mat5 other elements": lambda: mat5(matrix(b"other", bytes(2**22))),
    "mat5 file of elements": lambda: mat5(b"") + bytes(2**22),
    "dicom items": lambda: dicom_with(20_000, b""),
    "dicom elements": lambda: dicom_with(2, elements(60_000)),
    "dicom top": lambda: dicom([group(np.zeros((1, 500)), [channel("I")])]) + elements(200_000),
    "edf records": lambda: edf(200_000),
    "edf signals": lambda: edf(2, n_signals=4000),
    "scp switches": scp_with_switches,
    "scp long codes": scp_with_long_codes,
}  # fmt: skip
READ = {"edf records": (1, 200_000)}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("name", FILES)
def test_time_and_memory_stay_within_the_budget(name):
    data = FILES[name]()
    read_ecg(npz(zipfile.ZIP_STORED, np.ones((2, 500))))
    memory, began = peak_memory(reset=True), time.process_time()
    if name in READ:
        assert read_ecg(data).signal.shape == READ[name]
    else:
        with pytest.raises(EcgFormatError) as found:
            read_ecg(data, **(FACTS if "hdf5" in name or "mat5" in name else {}))
        assert len(str(found.value)) < 700
    assert time.process_time() - began < SLOW_S + SLOW_S_PER_BYTE * len(data)
    assert peak_memory() - memory < LARGE_BYTES + LARGE_BYTES_PER_BYTE * len(data)


def test_what_is_packed_as_recordings_are_is_read():
    signal = np.round(np.random.default_rng(0).normal(scale=300, size=(12, 100_000))).astype(np.int16)
    facts = {"sampling_rate": 500.0, "leads": STANDARD_LEADS, "units": "uV"}
    file = BytesIO()
    np.savez_compressed(file, signal=signal, **facts)
    np.testing.assert_allclose(read_ecg(file.getvalue()).signal, signal / 1000, rtol=1e-6)
    for how in ({"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"}, {}):
        file = BytesIO()
        with h5py.File(file, "w") as content:
            content.create_dataset("tracings", data=signal.T[None], chunks=(1, 3000, 5), **how)
        np.testing.assert_allclose(read_ecg(file.getvalue(), **facts).signal, signal / 1000, rtol=1e-6)
    assert most_unpacked(100) == 2**23 + 400 and most_unpacked(10**10) == 2**28


def test_a_damaged_piece_of_hdf5_is_refused():
    data = hdf5(SMALL + np.arange(1000, dtype=np.float32)[None, :, None], compression="gzip", fletcher32=True)
    assert read_ecg(data, **FACTS).n_samples == 1000
    at = data.rindex(b"\x78", 0, len(data) - 500) + 100  # within the deflated piece
    with pytest.raises(EcgFormatError, match="damaged HDF5"):
        read_ecg(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :], **FACTS)
