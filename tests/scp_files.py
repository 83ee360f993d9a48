"""Writing of SCP-ECG files for the tests: sections with checksums, Huffman coding, differences."""

import binascii
import struct
from collections.abc import Mapping, Sequence

import numpy as np


def seal(data: bytes) -> bytes:
    """Put the checksum of all that follows in front."""
    return struct.pack("<H", binascii.crc_hqx(data, 0xFFFF)) + data


def scp_file(bodies: Mapping[int, bytes]) -> bytes:
    """Build a file from the bodies of its sections (without their headers)."""
    pointers, sections, position = b"", b"", 7 + 136
    for number in range(12):
        body = bodies.get(number, b"")
        length = 136 if number == 0 else 16 + len(body) if number in bodies else 0
        pointers += struct.pack("<HII", number, length, 7 if number == 0 else position if length else 0)
        if length and number:
            sections += seal(struct.pack("<HIBB6x", number, length, 20, 20) + body)
            position += length
    head = seal(struct.pack("<HIBB6s", 0, 136, 20, 20, b"SCPECG") + pointers)
    content = head + sections
    return seal(struct.pack("<I", 6 + len(content)) + content)


def lead_section(spans: Sequence[tuple[int, int, int]], subtracted: bool = False) -> bytes:
    """Section 3 from (first sample, last sample, lead code)."""
    return struct.pack("<BB", len(spans), subtracted) + b"".join(struct.pack("<IIB", *span) for span in spans)


def signal_section(
    leads: Sequence[bytes], nanovolts: int, microseconds: int, differences: int, bimodal: int = 0
) -> bytes:
    """Section 5 or 6 from coded leads."""
    lengths = struct.pack(f"<{len(leads)}H", *(len(lead) for lead in leads))
    return struct.pack("<HHBB", nanovolts, microseconds, differences, bimodal) + lengths + b"".join(leads)


def difference(samples: np.ndarray, order: int) -> np.ndarray:
    """The samples, or their first or second differences after one or two samples."""
    samples = np.asarray(samples, dtype=np.int64)
    return np.concatenate([samples[:order], np.diff(samples, n=order)]) if order and len(samples) > order else samples


def huffman_bits(value: int) -> str:
    """The code of the default table."""
    if value == 0:
        return "0"
    if abs(value) <= 8:
        return "1" * abs(value) + ("00" if value > 0 else "01")
    return f"1111111110{value & 0xFF:08b}" if -128 <= value <= 127 else f"1111111111{value & 0xFFFF:016b}"


def pack_bits(bits: str) -> bytes:
    """Bits to bytes, the last one filled with zeros."""
    return b"".join(int(bits[i : i + 8].ljust(8, "0"), 2).to_bytes(1, "big") for i in range(0, len(bits), 8))


def huffman(values: Sequence[int]) -> bytes:
    """Code numbers with the default table."""
    return pack_bits("".join(huffman_bits(int(value)) for value in values))
