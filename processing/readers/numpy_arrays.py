"""NumPy files: `.npz` with the arrays that `merit-ecg convert` writes, and bare `.npy` arrays with the facts stated.

The archive holds what `arrays` lists. Pickled objects are never read.
"""

import sys
import zipfile
from io import BytesIO
from math import prod

import numpy as np

from ..record import EcgFormatError, EcgRecord
from .arrays import KEYS, OPTIONAL_KEYS, record_of_arrays
from .compressed import MAX_MEMBERS, read_member
from .source import Source


def matches(head: bytes, name: str) -> bool:
    """Say whether a file is one NumPy array, or an archive whose first member is one."""
    return head.startswith(b"\x93NUMPY") or (head.startswith(b"PK\x03\x04") and b".npy" in head[30:128])


def read(source: Source) -> EcgRecord:
    """Read an `.npz` or `.npy` file.

    Raises:
        EcgFormatError: If the file is damaged, holds objects, or leaves open its rate, leads or unit.
    """
    arrays = {"signal": _array(source.data, source.name)} if source.head[:1] == b"\x93" else _archive(source)
    return record_of_arrays(arrays, source)


def _archive(source: Source) -> dict[str, np.ndarray]:
    if source.data.count(b"PK\x01\x02") > MAX_MEMBERS:
        raise EcgFormatError(f"{source.name} holds more than {MAX_MEMBERS} arrays; expected {', '.join(KEYS)}.")
    arrays: dict[str, np.ndarray] = {}
    left = source.most_unpacked
    try:
        with zipfile.ZipFile(BytesIO(source.data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if KEYS[0] not in members:
                held = ", ".join(repr(name[:40]) for name in sorted(members)[:10])
                raise EcgFormatError(f"{source.name} holds {held}; expected the arrays {', '.join(KEYS)}.")
            for key in (*KEYS, *OPTIONAL_KEYS):
                if key in members:
                    content = read_member(archive, members[key], left, f"{source.name}: {key}")
                    left -= len(content)
                    arrays[key] = _array(content, f"{source.name}: {key}")
    except EcgFormatError:
        raise
    except Exception as error:  # a damaged archive raises from zipfile, zlib and struct
        raise EcgFormatError(f"{source.name} is a damaged .npz file: {error}.") from error
    return arrays


def _array(content: bytes, name: str) -> np.ndarray:
    """Read one array, after comparing the size that its header claims with the bytes that are there."""
    stream = BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = read_header[version](stream)
    except Exception as error:  # a damaged header raises whatever its parser meets
        raise EcgFormatError(f"{name} is not a NumPy array: {error}.") from error
    offset = stream.tell()
    if dtype.kind not in "biufUS" or not dtype.itemsize or len(shape) > 2 or min(shape, default=1) < 1:
        raise EcgFormatError(
            f"{name}: expected numbers or text, of at most two dimensions and not empty, got {str(dtype)[:40]} of "
            f"shape {str(shape)[:60]}. Python objects are never read."
        )
    expected = prod(shape) * dtype.itemsize
    if expected != len(content) - offset:
        raise EcgFormatError(
            f"{name}: the array of {dtype} and shape {shape} takes {expected} bytes, the file has "
            f"{len(content) - offset}. It is truncated."
        )
    array = np.frombuffer(content, dtype, offset=offset).reshape(shape, order="F" if is_fortran else "C")
    # NumPy makes text of any 32-bit numbers; Python fails later on what is not a character.
    if dtype.kind == "U" and np.frombuffer(array.tobytes(), dtype.str[0] + "u4").max(initial=0) > sys.maxunicode:
        raise EcgFormatError(f"{name} holds text that is none. The file is damaged.")
    return array
