"""Samples of SCP-ECG: sections 2, 4, 5 and 6, Huffman codes, differences, reference beats and bimodal compression.

Clause numbers are those of EN 1064:2005. No file with subtracted reference beats or bimodal compression is openly
available; those two follow the standard and are tested on files written by the tests.
"""

import struct
from dataclasses import dataclass

import numpy as np

from .source import EcgFormatError

_DEFAULT_TABLE_NUMBER = 19999
_MAX_BEATS = 2000


@dataclass(frozen=True)
class HuffmanTable:
    """One Huffman table: `codes` maps a prefix to (table to switch to, bits of a following literal, value)."""

    lengths: tuple[int, ...]
    codes: dict[str, tuple[int | None, int, int]]

    @classmethod
    def from_rows(cls, rows: list[tuple[int, int, int, int, int]]) -> "HuffmanTable":
        """Build a table from (prefix bits, all bits, mode, value, code), the first bit of a code lowest (5.5)."""
        codes = {}
        for n_prefix, n_all, mode, value, code in rows:
            if not 1 <= n_prefix <= 32 or not n_prefix <= n_all <= n_prefix + 32:
                raise EcgFormatError(f"Expected Huffman codes of 1 to 32 bits, got {n_prefix} of {n_all} bits.")
            codes[f"{code:032b}"[::-1][:n_prefix]] = (None if mode else value, n_all - n_prefix, value)
        return cls(tuple(sorted({len(prefix) for prefix in codes})), codes)


DEFAULT_TABLE = HuffmanTable.from_rows(
    [(1, 1, 1, 0, 0)]
    + [(n + 2, n + 2, 1, n, 2**n - 1) for n in range(1, 9)]
    + [(n + 2, n + 2, 1, -n, 2**n - 1 + 2 ** (n + 1)) for n in range(1, 9)]
    + [(10, 18, 1, 0, 0b0111111111), (10, 26, 1, 0, 0b1111111111)]
)
"""Default table (Annex C): "0" is 0; n ones and "00" are n, n ones and "01" -n, to 8; then 8 or 16 literal bits."""


@dataclass(frozen=True)
class SignalSection:
    """Section 5 or 6: amplitude step in mV, sampling interval in us, order of differences, coded bytes by lead."""

    millivolts: float
    interval: int
    differences: int
    bimodal: bool
    leads: tuple[bytes, ...]


def unpack(layout: str, section: bytes, offset: int, what: str) -> tuple:
    """`struct.unpack_from` that refuses a section too short for the layout."""
    if offset + struct.calcsize(layout) > len(section):
        raise EcgFormatError(
            f"Expected {struct.calcsize(layout)} bytes of {what}, got {max(len(section) - offset, 0)}."
        )
    return struct.unpack_from(layout, section, offset)


def huffman_tables(section: bytes | None) -> list[HuffmanTable] | None:
    """Tables of section 2 (clause 5.5), the default table, or `None` for samples that are not coded."""
    if section is None:
        return None
    what = "section 2 (Huffman tables)"
    (n_tables,) = unpack("<H", section, 0, what)
    if n_tables == _DEFAULT_TABLE_NUMBER:
        return [DEFAULT_TABLE]
    tables, offset = [], 2
    for _ in range(n_tables):
        (n_codes,) = unpack("<H", section, offset, what)
        fields = unpack("<" + "BBBhI" * n_codes, section, offset + 2, what)
        tables.append(HuffmanTable.from_rows([fields[i : i + 5] for i in range(0, len(fields), 5)]))
        offset += 2 + 9 * n_codes
    if not tables:
        raise EcgFormatError("Expected a Huffman table in section 2, got none.")
    return tables


def signal_section(sections: dict[int, bytes], number: int, n_leads: int) -> SignalSection:
    """Section 5 (reference beat, clause 5.8) or 6 (rhythm data, clause 5.9)."""
    if number not in sections:
        raise EcgFormatError(f"Expected section {number}, which the rhythm data need; the file has none.")
    section, what = sections[number], f"section {number}"
    nanovolts, interval, differences, bimodal = unpack("<HHBB", section, 0, what)
    if not nanovolts or not interval or differences > 2 or (number == 6 and bimodal > 1):
        raise EcgFormatError(
            f"Expected a step, an interval and differences of order 0 to 2 in {what}, got {section[:6].hex()}."
        )
    lengths = unpack(f"<{n_leads}H", section, 6, what)
    ends = np.cumsum(lengths) + 6 + 2 * n_leads
    if ends[-1] > len(section):
        raise EcgFormatError(f"Expected {ends[-1]} bytes in {what}, got {len(section)}. The file is cut short.")
    leads = tuple(section[end - length : end] for end, length in zip(ends.tolist(), lengths))
    return SignalSection(nanovolts * 1e-6, interval, differences, number == 6 and bimodal == 1, leads)


def beat_locations(section: bytes | None) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int]], int]:
    """Section 4 (5.7): beats (type, first, fiducial, last), protected zones (first, last), reference fiducial."""
    what = "section 4 (QRS locations)"
    _, fiducial, n_beats = unpack("<HHH", section or b"", 0, what)
    if n_beats > _MAX_BEATS:
        raise EcgFormatError(f"Expected at most {_MAX_BEATS} beats, got {n_beats}.")
    beats = unpack("<" + "HIII" * n_beats, section, 6, what)
    zones = unpack("<" + "II" * n_beats, section, 6 + 14 * n_beats, what)
    return list(zip(*[iter(beats)] * 4)), list(zip(*[iter(zones)] * 2)), fiducial


def decode_lead(
    data: bytes, count: int | None, differences: int, tables: list[HuffmanTable] | None, name: str
) -> np.ndarray:
    """Decode the samples of one lead.

    Args:
        data (`bytes`): Coded samples.
        count (`int`, *optional*): Number of samples that must be there; `None`: as many as the bytes hold.
        differences (`int`): 0 (samples), 1 or 2 (first or second differences).
        tables (list of `HuffmanTable`, *optional*): `None` for plain 16-bit numbers.
        name (`str`): Lead name for messages.

    Returns:
        `np.ndarray` of shape `(count,)`: int64, in steps of the file.

    Raises:
        EcgFormatError: If the bytes hold fewer samples, or more than padding can explain.
    """
    if tables is None:
        if len(data) % 2 or (count is not None and len(data) != 2 * count):
            raise EcgFormatError(
                f"Expected {count} samples of 2 bytes in lead {name}, got {len(data)} bytes. A lead has at most 65535 "
                "bytes in SCP-ECG; some devices write longer ones, whose length is lost."
            )
        values = np.frombuffer(data, "<i2").astype(np.int64)
    else:
        values = np.array(_huffman(data, count, tables, name), dtype=np.int64)
    if differences == 2 and len(values) > 1:
        values[1] -= values[0]
        values[1:] = np.cumsum(values[1:])
    if differences:
        values = np.cumsum(values)
    if len(values) and np.abs(values).max() > 2**17:
        raise EcgFormatError(
            f"Expected samples of about 16 bits in lead {name}, got larger ones. The lead is damaged."
        )
    return values


def _huffman(data: bytes, count: int | None, tables: list[HuffmanTable], name: str) -> list[int]:
    bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""
    table, position, values = tables[0], 0, []
    while len(values) != count and (count is not None or position < len(bits)):
        for length in table.lengths:
            entry = table.codes.get(bits[position : position + length])
            if entry is not None:
                break
        else:
            raise EcgFormatError(
                f"Expected {count} samples in lead {name}, got {len(values)} and then no Huffman code."
            )
        switch, n_literal, value = entry
        position += length
        if switch is not None:
            if not 1 <= switch <= len(tables):
                raise EcgFormatError(f"Expected a switch to one of {len(tables)} Huffman tables, got table {switch}.")
            table = tables[switch - 1]
            continue
        if n_literal:
            literal = bits[position : position + n_literal]
            position += n_literal
            if len(literal) < n_literal:
                raise EcgFormatError(
                    f"Expected {count} samples in lead {name}, got {len(values)}. The lead is cut short."
                )
            value = int(literal, 2) - (1 << n_literal if literal[0] == "1" else 0)
        values.append(value)
    # The last byte is filled with bits, and the lead with a byte to an even length.
    if len(bits) - position > 15:
        raise EcgFormatError(
            f"Expected {count} samples in lead {name}, got {len(bits) - position} bits more. It is damaged."
        )
    return values


def bimodal_pieces(
    protected: list[tuple[int, int]], start: int, length: int, factor: int
) -> list[tuple[int, int, int]]:
    """Pieces (first, end, step) of a lead: protected zones whole, elsewhere `factor` samples averaged to one (5.9).

    Args:
        protected (list of pairs): First and last sample number of the zones, counted from 1 in the recording.
        start (`int`): Number of the first sample of the lead.
        length (`int`): Samples of the lead.
        factor (`int`): 1 without bimodal compression.

    Example:

    >>> bimodal_pieces([(5, 8)], start=1, length=16, factor=4)
    [(0, 4, 4), (4, 8, 1), (8, 16, 4)]
    """
    pieces, position = [], 0
    for first, last in sorted(protected) if factor > 1 else ():
        begin, end = max(first - start, position), min(last - start + 1, length)
        if begin < end:
            pieces += [(position, begin, factor), (begin, end, 1)]
            position = end
    pieces = [piece for piece in [*pieces, (position, length, factor)] if piece[0] < piece[1]]
    if any((end - begin) % step for begin, end, step in pieces):
        raise EcgFormatError(
            f"Expected protected zones at a distance of multiples of {factor} samples, got {pieces[:20]}."
        )
    return pieces


def restore_bimodal(stored: np.ndarray, pieces: list[tuple[int, int, int]]) -> np.ndarray:
    """Bring stored samples to full rate, interpolating linearly between the middles of averaged samples."""
    parts, position = [], 0
    for begin, end, step in pieces:
        n_stored = (end - begin) // step
        middles = np.arange(n_stored) * step + (step - 1) / 2
        parts.append(np.interp(np.arange(end - begin), middles, stored[position : position + n_stored]))
        position += n_stored
    return np.concatenate(parts)


def add_reference_beats(
    samples: np.ndarray, start: int, beat: np.ndarray, locations: list[tuple[int, int, int, int]], fiducial: int
) -> None:
    """Add the reference beat again where it was subtracted (clause 5.7: the beats of type 0), in place.

    Args:
        samples (`np.ndarray`): Residual of one lead in mV.
        start (`int`): Number of its first sample.
        beat (`np.ndarray`): Reference beat in mV.
        locations (list): Beats as (type, first, fiducial, last sample number).
        fiducial (`int`): Number of the fiducial sample in the reference beat, from 1.
    """
    end = start
    for kind, first, middle, last in sorted(locations, key=lambda location: location[1]):
        if kind != 0:
            continue
        offset = fiducial - 1 - middle
        if first < end or last < first or first + offset < 0 or last + offset >= len(beat):
            raise EcgFormatError(f"Expected separate beats within the reference beat, got samples {first} to {last}.")
        end = min(last + 1, start + len(samples))
        samples[first - start : end - start] += beat[first + offset : end + offset]
