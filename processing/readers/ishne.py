"""ISHNE Holter files, version 1.0.

Standard: Badilini F., "The ISHNE Holter Standard Output File Format", Ann Noninvasive Electrocardiol 3(3):263-266
(1998). After an 8-byte signature and a 2-byte checksum come a block of 512 bytes of fixed layout, a text block, and
the samples: 16-bit little-endian, lead by lead within each sampling instant. No library that reads the format works
with NumPy 2.
"""

import struct
from binascii import crc_hqx
from datetime import datetime

import numpy as np

from ..record import MAX_SAMPLING_RATE, EcgFormatError, EcgRecord, Recording, check_size, later
from ..signal_quality import no_value
from .arrays import missing_notes
from .fields import age_at
from .source import Source

MAGIC = b"ISHNE1.0"
HEADER_BYTES = 522
# Table 2 of the standard; 0 is an unknown and 1 a generic bipolar lead.
LEAD_CODES = (
    "unknown",
    "bipolar",
    *("X", "Y", "Z", "I", "II", "III", "aVR", "aVL", "aVF"),
    *(f"V{i}" for i in range(1, 7)),
)
LEAD_CODES += ("ES", "AS", "AI")
_NO_VALUE = -9


def matches(head: bytes, name: str) -> bool:
    """Say whether a file begins with the signature of the standard."""
    return head.startswith(MAGIC)


def read(source: Source) -> EcgRecord:
    """Read a whole ISHNE file.

    Raises:
        EcgFormatError: If the checksum is wrong, the file is truncated, or a lead or resolution is not stated.
    """
    recording = open_recording(source)
    return recording.read(0, recording.n_frames)


def open_recording(source: Source) -> Recording:
    """Open an ISHNE file for reading in pieces."""
    head = source.head
    if not head.startswith(MAGIC):
        raise EcgFormatError(
            f"{source.name} is not an ISHNE file: expected it to begin with {MAGIC.decode()}, got {head[:8]!r}."
        )
    if len(head) < HEADER_BYTES:
        raise EcgFormatError(f"{source.name} ends within its header: expected {HEADER_BYTES} bytes, got {len(head)}.")
    checksum, text_bytes, n_samples, text_offset, offset = struct.unpack_from("<Hiiii", head, 8)
    sex, _ = struct.unpack_from("<2h", head, 128)
    birth, date, _, clock = (struct.unpack_from("<3h", head, at) for at in (132, 138, 144, 150))
    (n_leads,) = struct.unpack_from("<h", head, 156)
    codes, resolutions = struct.unpack_from("<12h", head, 158), struct.unpack_from("<12h", head, 206)
    (rate,) = struct.unpack_from("<h", head, 272)
    device = head[232:272].split(b"\0")[0].decode("latin-1").strip()
    if not (text_offset == HEADER_BYTES and text_bytes >= 0 and offset == HEADER_BYTES + text_bytes <= source.size):
        raise EcgFormatError(f"{source.name}: the samples are said to begin at byte {offset} of {source.size}.")
    found = crc_hqx(source.part(10, offset), 0xFFFF)
    if found != checksum:
        raise EcgFormatError(
            f"{source.name}: the header's checksum is {checksum}, its content gives {found}: it is damaged."
        )
    if not 1 <= n_leads <= 12 or not 0 < rate <= MAX_SAMPLING_RATE:
        raise EcgFormatError(
            f"{source.name} claims {n_leads} leads at {rate} Hz; expected 1 to 12 leads and a positive rate."
        )
    expected = offset + 2 * n_leads * n_samples
    if n_samples < 1 or source.size != expected:
        raise EcgFormatError(
            f"{source.name}: expected {expected} bytes for {n_samples} samples of {n_leads} leads, got {source.size}. "
            "The file is truncated or its header is wrong."
        )
    chosen = source.choose_leads([LEAD_CODES[c] if 0 <= c < len(LEAD_CODES) else f"code {c}" for c in codes[:n_leads]])
    if any(resolutions[i] <= 0 for i in chosen):
        raise EcgFormatError(f"{source.name} states no resolution: expected nV per unit, got {resolutions[:n_leads]}.")
    millivolts = np.array([resolutions[i] * 1e-6 for i in chosen])
    start_time = _time(date, clock)
    age = age_at(_time(birth), start_time)

    def read_frames(start: int, stop: int) -> EcgRecord:
        check_size(n_leads, stop - start, source.name)
        content = source.part(offset + 2 * n_leads * start, offset + 2 * n_leads * stop)
        digital = np.frombuffer(content, dtype="<i2").reshape(-1, n_leads)[:, list(chosen)].T
        signal = (digital * millivolts[:, None]).astype(np.float32)
        missing = no_value(digital)
        signal[missing] = np.nan
        return source.record(
            signal,
            rate,
            chosen.values(),
            unit="nV",
            gain=1 / millivolts[0] if len(set(millivolts)) == 1 else None,
            device=device or None,
            start_time=later(start_time, start / rate),
            age=age,
            sex={1: "male", 2: "female"}.get(sex),
            notes=missing_notes(chosen.values(), missing),
        )

    return Recording(n_samples, float(rate), read_frames)


def _time(date: tuple[int, int, int], clock: tuple[int, int, int] = (0, 0, 0)) -> datetime | None:
    """A date (day, month, year) and a time of day; `None` when not stated (-9) or impossible."""
    try:
        return datetime(date[2], date[1], date[0], *clock)
    except ValueError:
        return None
