"""Coding of SCP-ECG samples: Huffman tables of section 2 and differences (EN 1064:2005, clause 5.5 and Annex C)."""

import struct
from dataclasses import dataclass

import numpy as np

from ..record import EcgFormatError

_DEFAULT_TABLE_NUMBER = 19999
_MAX_CODES = 2**16
_MAX_BEAT_SAMPLES = 10_000
_SPARE_SWITCHES = 100  # switches of the table that a lead may have beyond one for each sample


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


def unpack(layout: str, section: bytes, offset: int, what: str) -> tuple:
    """`struct.unpack_from` that refuses a section too short for the layout."""
    return unpack_rows(layout, section, offset, 1, what)[0]


def unpack_rows(layout: str, section: bytes, offset: int, count: int, what: str) -> list[tuple]:
    """Unpack `count` rows of one layout, which have to be there before anything is allocated for them."""
    end = offset + count * struct.calcsize(layout)
    if end > len(section):
        raise EcgFormatError(f"Expected {end - offset} bytes of {what}, got {max(len(section) - offset, 0)}.")
    return list(struct.iter_unpack(layout, section[offset:end]))


def huffman_tables(section: bytes | None) -> list[HuffmanTable] | None:
    """Tables of section 2 (clause 5.5), the default table, or `None` for samples that are not coded."""
    if section is None:
        return None
    what = "section 2 (Huffman tables)"
    (n_tables,) = unpack("<H", section, 0, what)
    if n_tables == _DEFAULT_TABLE_NUMBER:
        return [DEFAULT_TABLE]
    tables: list[HuffmanTable] = []
    offset = 2
    for _ in range(n_tables):
        (n_codes,) = unpack("<H", section, offset, what)
        if n_codes + sum(len(table.codes) for table in tables) > _MAX_CODES:
            raise EcgFormatError(f"Expected at most {_MAX_CODES} Huffman codes, got more.")
        tables.append(HuffmanTable.from_rows(unpack_rows("<BBBhI", section, offset + 2, n_codes, what)))
        offset += 2 + 9 * n_codes
    if not tables:
        raise EcgFormatError("Expected a Huffman table in section 2, got none.")
    return tables


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
    table, position = tables[0], 0
    values: list[int] = []
    most = _MAX_BEAT_SAMPLES if count is None else count
    switches = 0
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
            switches += 1
            if switches > most + _SPARE_SWITCHES:
                raise EcgFormatError(f"Expected {count} samples in lead {name}, got {switches} switches of the table.")
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
        if len(values) > most:
            raise EcgFormatError(f"Expected a beat of at most {most} samples in lead {name}, got more.")
    # The last byte is filled with bits, and the lead with a byte to an even length.
    if len(bits) - position > 15:
        raise EcgFormatError(
            f"Expected {count} samples in lead {name}, got {len(bits) - position} bits more. It is damaged."
        )
    return values
