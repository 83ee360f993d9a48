"""Arrays, text and structs of MATLAB 5 files.

Format: "MAT-File Format", The MathWorks, chapter 1, "Level 5 MAT-File Format". Own code because `scipy.io.loadmat`
(1.17) ends the process on some damaged files; the fuzzer of this project finds one in a thousand.
"""

import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from ..record import EcgFormatError

HEADER_BYTES = 128
MAX_ELEMENTS = 10_000
"""Most elements of a file or of an array: those of 8 bytes take two hundred in memory."""

_MATRIX, _COMPRESSED = 14, 15  # data types, Table 1-1
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_STRUCT, _CHAR, _NUMERIC = 2, 4, range(6, 16)  # array classes, Table 1-3
_COMPLEX = 0x0800
_MAX_DIMENSIONS = 8

Element = tuple[int, memoryview]


def read_variables(data: bytes, names: Collection[str], limit: int) -> dict[str, Any]:
    """Read variables of a MATLAB 5 file.

    Args:
        data (`bytes`): The file.
        names (collection of `str`): The variables to read; others are skipped.
        limit (`int`): Most bytes that the compressed variables may unpack to.

    Returns:
        `dict`: `np.ndarray` for real numbers, `str` for text, `dict` for a struct of one element; what is
        none of these is left out.

    Raises:
        EcgFormatError: If the file is damaged, or unpacks to more than `limit`.
    """
    order = ">" if data[126:128] == b"MI" else "<"
    variables, left = {}, limit
    for kind, content in _elements(memoryview(data)[HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            content = memoryview(_unpack(content, left))
            left -= len(content)
            kind, content = next(_elements(content, order), (0, content))
        if kind == _MATRIX:
            name, value = _matrix(content, order, names)
            if name in names and value is not None:
                variables[name] = value
    return variables


def _unpack(content: memoryview, limit: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        unpacked = decoder.decompress(content, limit + 1)
    except zlib.error as error:
        raise EcgFormatError(f"A variable of the MATLAB file is damaged: {error}.") from error
    if len(unpacked) > limit:
        raise EcgFormatError(
            f"The MATLAB file unpacks to more than is believed: {limit} bytes are left for a variable. Save it "
            "without compression."
        )
    if not decoder.eof:
        raise EcgFormatError("The MATLAB file is truncated: a compressed variable does not end.")
    return unpacked


def _elements(buffer: memoryview, order: str) -> Iterator[Element]:
    """Split a buffer into data elements: type and content. A content of up to four bytes may stand within its tag."""
    at, count = 0, 0
    while at < len(buffer):
        count += 1
        if count > MAX_ELEMENTS:
            raise EcgFormatError(f"The MATLAB file holds more than {MAX_ELEMENTS} elements. Save the signal alone.")
        if at + 8 > len(buffer):
            raise EcgFormatError("The MATLAB file is truncated within a tag.")
        kind, length = struct.unpack_from(f"{order}II", buffer, at)
        start, step = at + 8, 8 + length + (-length % 8 if kind != _COMPRESSED else 0)
        if kind >> 16:
            kind, length, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
        if length > 4 and step == 8 or start + length > len(buffer):
            raise EcgFormatError(f"The MATLAB file is truncated: {length} bytes are announced at {start}.")
        yield kind, buffer[start : start + length]
        at += step


def _matrix(content: memoryview, order: str, names: Collection[str], depth: int = 0) -> tuple[str, Any]:
    """Read one array with its name; at the top only if the name is wanted."""
    elements = _elements(content, order)
    parts = list(islice(elements, 3))
    if len(parts) < 3 or len(parts[0][1]) != 8 or len(parts[1][1]) % 4:
        return "", None
    flags = struct.unpack_from(f"{order}I", parts[0][1])[0]
    name = bytes(parts[2][1][:100]).decode("latin-1")
    if (not depth and name not in names) or depth > 1 or len(parts[1][1]) > 4 * _MAX_DIMENSIONS:
        return name, None
    dims = np.frombuffer(parts[1][1], f"{order}i4").tolist()
    parts += elements
    if len(parts) < 4 or min(dims, default=0) < 0:
        return name, None
    kind, values = parts[3]
    array_class = flags & 0xFF
    if array_class == _STRUCT and prod(dims) == 1 and len(values) == 4 and len(parts) > 4:
        return name, _fields(parts, order, names, depth)
    if array_class == _CHAR and kind in _TEXT:
        encoding = _TEXT[kind] + ({"<": "-le", ">": "-be"}[order] if _TEXT[kind] == "utf-16" else "")
        return name, bytes(values).decode(encoding, errors="replace")
    if array_class in _NUMERIC and not flags & _COMPLEX and kind in _NUMBERS:
        dtype = np.dtype(order + _NUMBERS[kind])
        if prod(dims) * dtype.itemsize != len(values):
            raise EcgFormatError(f"The MATLAB file is damaged: {name or 'a field'} of {dims} has {len(values)} bytes.")
        return name, np.frombuffer(values, dtype).reshape(dims, order="F")
    return name, None


def _fields(parts: list[Element], order: str, names: Collection[str], depth: int) -> dict[str, Any] | None:
    width = struct.unpack_from(f"{order}i", parts[3][1])[0]
    titles = bytes(parts[4][1])
    if width < 1 or len(titles) != width * (len(parts) - 5) or any(kind != _MATRIX for kind, _ in parts[5:]):
        raise EcgFormatError("The MATLAB file is damaged: the fields of a struct do not match their names.")
    keys = [titles[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(titles), width)]
    return {key: _matrix(content, order, names, depth + 1)[1] for key, (_, content) in zip(keys, parts[5:])}
