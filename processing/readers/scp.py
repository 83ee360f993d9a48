"""SCP-ECG (EN 1064:2005, ISO 11073-91064:2009, ANSI/AAMI EC71): the rhythm data of sections 0 to 6.

Clause numbers below are those of EN 1064. All numbers are little-endian; sample numbers count from 1.
"""

import binascii
import struct
from datetime import datetime

import numpy as np

from ..record import EcgFormatError, EcgRecord, check_size
from .fields import age_at, age_of, time_of
from .lead_codes import LEAD_CODES
from .scp_huffman import decode_lead, huffman_tables, unpack, unpack_rows
from .scp_signal import add_reference_beats, beat_locations, bimodal_pieces, restore_bimodal, signal_section
from .source import Source

_MAX_LEADS = 64
_MAX_CODED_SAMPLES = 2**21  # some two seconds of decoding with a table of up to 7 lengths of code
_AGE_UNITS = {1: "years", 2: "months", 3: "weeks", 4: "days", 5: "hours"}


def matches(head: bytes, name: str) -> bool:
    """Return whether the file has the SCP-ECG mark of section 0."""
    return head[16:22] == b"SCPECG"


def read(source: Source) -> EcgRecord:
    """Read an SCP-ECG file.

    Huffman coding with the default table or tables of the file, first and second differences, subtracted reference
    beats and bimodal compression are undone. A lead that was recorded for a part of the time is NaN elsewhere.

    Raises:
        EcgFormatError: If a length or checksum is wrong, or a lead does not hold the samples that section 3 declares.
    """
    sections = _sections(source)
    flags, starts, ends, codes = _lead_definition(sections)
    names = [LEAD_CODES.get(code, f"SCP lead {code}") for code in codes]
    rows = source.choose_leads(names)
    first, last = min(starts), max(ends)
    lengths = [end - start + 1 for start, end in zip(starts, ends)]
    check_size(len(names), max(max(lengths), last - first + 1), source.name)
    if last - first + 1 > sum(lengths):
        raise EcgFormatError("Expected at least one lead at any time, got a gap in section 3. The file is damaged.")

    tables = huffman_tables(sections.get(2))
    if tables:
        most = _MAX_CODED_SAMPLES // max(1, *(len(table.lengths) // 4 for table in tables))
        if sum(lengths) > most:
            raise EcgFormatError(f"Expected at most {most} Huffman-coded samples, got {sum(lengths)}.")
    rhythm = signal_section(sections, 6, len(names))
    subtracted = bool(flags & 1)
    reference, locations = rhythm, beat_locations(None)
    if rhythm.bimodal or subtracted:
        reference = signal_section(sections, 5, len(names))
        locations = beat_locations(sections.get(4, b""))
    interval, (beats, protected, fiducial) = reference.interval, locations
    factor = rhythm.interval // interval
    if factor * interval != rhythm.interval or (factor > 1) != rhythm.bimodal:
        raise EcgFormatError(
            f"Expected section 6 at the interval of section 5, or at a multiple of it with bimodal compression; got "
            f"{rhythm.interval} us and {interval} us."
        )

    decoded = {}
    for i in rows:
        pieces = bimodal_pieces(protected, starts[i], lengths[i], factor)
        n_stored = sum((stop - start) // step for start, stop, step in pieces)
        samples = decode_lead(rhythm.leads[i], n_stored, rhythm.differences, tables, names[i]) * rhythm.millivolts
        samples = restore_bimodal(samples, pieces)
        if subtracted:
            beat = decode_lead(reference.leads[i], None, reference.differences, tables, names[i])
            add_reference_beats(samples, starts[i], beat * reference.millivolts, beats, fiducial)
        decoded[i] = samples
    signal = np.full((len(rows), last - first + 1), np.nan, dtype=np.float32)
    for row, i in zip(signal, rows):
        row[starts[i] - first : ends[i] - first + 1] = decoded[i]
    notes = []
    if subtracted:
        notes.append("The reference beat that the file subtracts was added again (section 5).")
    if rhythm.bimodal:
        notes.append(
            f"Outside the QRS complexes the file stores every {factor}th sample; the others are interpolated."
        )
    if np.isnan(signal).any():
        notes.append("Leads were recorded one after the other; samples outside their time are NaN.")
    return source.record(
        signal=signal,
        sampling_rate=float(f"{1e6 / interval:.12g}"),
        leads=tuple(rows.values()),
        unit="nV",
        gain=1 / rhythm.millivolts,
        notes=tuple(notes),
        **_header(sections.get(1, b"")),
    )


def _sections(source: Source) -> dict[int, bytes]:
    """Bodies of the sections by number, after checking every length and checksum (clauses 5.2 and 5.3)."""
    data = source.data
    if data[16:22] != b"SCPECG":
        raise EcgFormatError(
            f"{source.name} lacks the mark SCPECG of section 0, so it is not an SCP-ECG (EN 1064) file. Some "
            "vendors use the extension .SCP for another format."
        )
    size = int.from_bytes(data[2:6], "little")
    if size != len(data):
        raise EcgFormatError(f"Expected {size} bytes as declared, got {len(data)}. The file is damaged or cut short.")
    _check_crc(data, "the file")
    table = _section(data, 0, 7, int.from_bytes(data[10:14], "little"))
    sections = {}
    for number, length, position in struct.iter_unpack("<HII", table[: len(table) // 10 * 10]):
        if length and number in (1, 2, 3, 4, 5, 6) and number not in sections:
            sections[number] = _section(data, number, position, length)
    return sections


def _section(data: bytes, number: int, position: int, length: int) -> bytes:
    section = data[max(position - 1, 0) : max(position - 1, 0) + length]
    if position < 1 or length < 16 or len(section) != length:
        raise EcgFormatError(f"Expected section {number} within the file, got {length} bytes from byte {position}.")
    identity, own_length = struct.unpack("<HI", section[2:8])
    if (identity, own_length) != (number, length):
        raise EcgFormatError(
            f"Expected section {number} of {length} bytes, got section {identity} of {own_length} bytes."
        )
    _check_crc(section, f"section {number}")
    return section[16:]


def _check_crc(data: bytes, what: str) -> None:
    """CRC-CCITT over all that follows the two bytes of the checksum (clause 5.2.7)."""
    declared, found = int.from_bytes(data[:2], "little"), binascii.crc_hqx(data[2:], 0xFFFF)
    if declared != found:
        raise EcgFormatError(f"Expected the checksum {declared} of {what}, got {found}. The file is damaged.")


def _lead_definition(sections: dict[int, bytes]) -> tuple[int, list[int], list[int], list[int]]:
    """Flags, first and last sample number and lead code of every lead (clause 5.6)."""
    section = sections.get(3, b"")
    n_leads, flags = unpack("<BB", section, 0, "section 3 (leads)")
    if not 1 <= n_leads <= _MAX_LEADS:
        raise EcgFormatError(f"Expected 1 to {_MAX_LEADS} leads, got {n_leads}.")
    rows = unpack_rows("<IIB", section, 2, n_leads, "section 3 (leads)")
    starts, ends, codes = ([row[column] for row in rows] for column in range(3))
    if any(not 1 <= start <= end for start, end in zip(starts, ends)):
        raise EcgFormatError(f"Expected leads that start before they end, got {list(zip(starts, ends))}.")
    return flags, starts, ends, codes


def _header(section: bytes) -> dict:
    """Time, age, sex, device and filters of section 1 (clause 5.4); names and numbers of the patient are not read."""
    tags: dict[int, bytes] = {}
    offset = 0
    while offset + 3 <= len(section) and section[offset] != 255:
        tag, length = struct.unpack_from("<BH", section, offset)
        tags.setdefault(tag, section[offset + 3 : offset + 3 + length])
        offset += 3 + length
    start = _date(tags.get(25, b""), tags.get(26, b""))
    age = None
    if len(tags.get(4, b"")) == 3:
        value, unit = struct.unpack("<HB", tags[4])
        age = age_of(str(value), _AGE_UNITS.get(unit, ""))
    filters = []
    if len(tags.get(27, b"")) == 2 and any(tags[27]):
        filters.append(f"high-pass {int.from_bytes(tags[27], 'little') / 100:g} Hz")
    if len(tags.get(28, b"")) == 2 and any(tags[28]):
        filters.append(f"low-pass {int.from_bytes(tags[28], 'little')} Hz")
    return {
        "start_time": start,
        "age": age_at(_date(tags.get(5, b"")), start) if age is None else age,
        "sex": {b"\1": "male", b"\2": "female"}.get(tags.get(8, b"")),
        "device": tags.get(14, b"")[8:14].split(b"\0")[0].decode("ascii", errors="ignore").strip() or None,
        "filters": ", ".join(filters) or None,
    }


def _date(date: bytes, time: bytes = b"\0\0\0") -> datetime | None:
    if len(date) != 4 or len(time) != 3:
        return None
    year, month, day = struct.unpack("<HBB", date)
    return time_of(f"{year}-{month}-{day} {time[0]}:{time[1]}:{time[2]}", "%Y-%m-%d %H:%M:%S")
