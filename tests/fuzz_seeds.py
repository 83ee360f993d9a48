"""The valid files that `fuzz_readers.py` damages: small files of every format, and real samples."""

import os
import struct
from binascii import crc_hqx
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
from dicom_files import channel, dicom, group
from scipy.io import savemat
from scp_files import difference, huffman, lead_section, scp_file, signal_section
from xml_files import aecg, mortara, muse, sierra, xli_chunk

from modeling_merit.processing.readers import EcgRecord
from modeling_merit.processing.writers import write_ecg, write_edf, write_wfdb

Seed = bytes | dict[str, bytes]
"""A file, or for WFDB the files of a record by their names; the header comes first."""

SIGNAL = np.round(300 * np.sin(np.arange(2 * 250).reshape(2, 250) / 9)).astype(np.int64)
LEADS = ("I", "II")
DATA_DIR = Path(os.environ.get("MERIT_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
LARGEST_SAMPLE = 250_000


def scp_bodies() -> list[dict[int, bytes]]:
    """Sections of SCP-ECG files: second differences, and subtracted reference beats with bimodal compression."""
    signal = [np.resize(row, 400) for row in SIGNAL]
    spans = [(1, 400, 1), (1, 400, 2)]
    table = struct.pack("<H", 19999)
    leads = [huffman(difference(row, 2)) for row in signal]
    header = b"\x04\3\0\x2e\0\1" + b"\x19\4\0\xe4\7\x02\x1d" + b"\x1a\3\0\x0c\0\0" + b"\xff\0\0"
    simple = {1: header, 2: table, 3: lead_section(spans), 6: signal_section(leads, 2500, 2000, 2)}
    stored = [np.concatenate([row[:100:4], row[100:140], row[140::4]]) for row in signal]
    locations = struct.pack("<HHHHIIIII", 80, 21, 1, 0, 101, 121, 140, 101, 140)
    full = {2: table, 3: lead_section(spans, subtracted=True), 4: locations}
    full[5] = signal_section([huffman(difference(row[:40], 1)) for row in signal], 2500, 2000, 1)
    full[6] = signal_section([huffman(difference(row, 1)) for row in stored], 2500, 8000, 1, bimodal=1)
    rows = struct.pack("<HH", 1, 2) + struct.pack("<BBBhI", 1, 1, 1, 0, 0) + struct.pack("<BBBhI", 1, 9, 1, 0, 1)
    return [simple, full, {**simple, 2: rows, 6: signal_section([b"\0" * 50] * 2, 1000, 2000, 0)}]


def ishne(samples: np.ndarray = SIGNAL) -> bytes:
    """An ISHNE file of the leads I and II at 500 Hz."""
    block = bytearray(512)
    struct.pack_into("<iiii", block, 0, 0, samples.shape[1], 522, 522)
    struct.pack_into("<3h3h", block, 128 - 10 + 14, 1, 1, 1950, 1, 1, 2000)
    struct.pack_into("<h", block, 156 - 10, 2)
    struct.pack_into("<12h", block, 158 - 10, 5, 6, *[-9] * 10)
    struct.pack_into("<12h", block, 206 - 10, 5000, 5000, *[-9] * 10)
    struct.pack_into("<h", block, 272 - 10, 500)
    return (
        b"ISHNE1.0"
        + struct.pack("<H", crc_hqx(bytes(block), 0xFFFF))
        + bytes(block)
        + samples.T.astype("<i2").tobytes()
    )


def _written(write: Callable[[EcgRecord, Path], object]) -> dict[str, bytes]:
    record = EcgRecord(SIGNAL / 1000, 250, LEADS, record_id="rec", age=46, sex="male")
    with TemporaryDirectory() as folder:
        write(record, Path(folder))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir(), reverse=True)}


def _npz() -> bytes:
    file = BytesIO()
    np.savez(file, signal=(SIGNAL / 1000).astype(np.float32), sampling_rate=250.0, leads=np.array(LEADS), units="mV")
    return file.getvalue()


def _matlab() -> list[bytes]:
    data = np.resize(SIGNAL / 1000, (12, 100)).astype(np.float32)
    files = []
    for compressed in (True, False):
        file = BytesIO()
        savemat(file, {"ECG": {"sex": "Male", "age": 46, "data": data}}, do_compression=compressed)
        files.append(file.getvalue())
    hdf5 = BytesIO()
    with h5py.File(hdf5, "w") as file:
        file["tracings"] = data.T[None]
    return [*files, hdf5.getvalue()]


def _csv() -> list[bytes]:
    rows = "".join(f"{i / 250:.3f},{a / 1000:.3f},{b / 1000:.3f}\n" for i, (a, b) in enumerate(SIGNAL.T))
    apple = "Name,x\nDate of Birth,x\nRecorded Date,2020-02-29 12:00:00 +0000\nClassification,Sinus Rhythm\n"
    apple += 'Symptoms,\nSoftware Version,1.90\nDevice,"Watch5,1"\nSample Rate,512 hertz\n\n\nLead,Lead I\nUnit,µV\n\n'
    apple += "".join(f"{value:.3f}\n" for value in SIGNAL[0])
    return [f"time [s],I [mV],II [mV]\n{rows}".encode(), apple.encode()]


@lru_cache
def small_seeds() -> dict[str, list[Seed]]:
    """Small valid files of every format, by format."""
    item = group(SIGNAL, [channel("I"), channel("II", "mV", 0.0025)], padding=-32768)
    other = group(SIGNAL[:, :60], [channel("I"), channel("II")], label="MEDIAN BEAT")
    stored = np.resize(SIGNAL, (6, 120)) // 10
    chunks = b"".join(xli_chunk(row) for row in stored)
    edf = _written(lambda record, folder: write_edf(record, folder / "rec.edf"))
    return {
        "dicom": [dicom([item, other], PatientAge="046Y"), dicom([item], "1.2.840.10008.1.2")],
        "scp": [scp_file(bodies) for bodies in scp_bodies()],
        "ishne": [ishne()],
        "edf": list(edf.values()),
        "numpy": [_npz()],
        "matlab": _matlab(),
        "aecg": [aecg(digits=SIGNAL)],
        "muse": [muse(SIGNAL)],
        "sierra": [sierra(chunks, 120), sierra(stored.astype("<i2").tobytes(), 120, compression="Uncompressed")],
        "mortara": [mortara(SIGNAL, DURATION="250")],
        "wfdb": [_written(lambda record, folder: write_wfdb(record, folder))],
        "json": list(_written(lambda record, folder: write_ecg(record, folder / "rec.json")).values()),
        "csv": _csv(),
    }


def sample_seeds() -> dict[str, list[Seed]]:
    """Real and derived samples of the formats below 250 kB that are read, by format; empty without the data folder."""
    folders = {
        "dicom": "dicom",
        "scp": "scp_ecg",
        "ishne": "ishne",
        "edf": "edf",
        "aecg": "hl7_aecg",
        "muse": "muse_xml",
    }
    folders |= {"sierra": "sierra_xml", "mortara": "mortara_xml", "csv": "csv"}
    seeds: dict[str, list[Seed]] = {}
    for name, folder in folders.items():
        files = sorted((DATA_DIR / "formats" / folder).glob("*"))
        seeds[name] = [path.read_bytes() for path in files if path.stat().st_size < LARGEST_SAMPLE]
    record = DATA_DIR / "formats" / "wfdb" / "100_3chan"
    if record.with_suffix(".hea").is_file():
        seeds["wfdb"] = [{f"rec{end}": record.with_suffix(end).read_bytes() for end in (".hea", ".dat")}]
        seeds["wfdb"][0]["rec.hea"] = seeds["wfdb"][0]["rec.hea"].replace(b"100_3chan", b"rec")
    return seeds
