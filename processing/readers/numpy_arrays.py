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
from .source import MAX_FILE_BYTES, Source


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
    try:
        with zipfile.ZipFile(BytesIO(source.data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [key for key in KEYS[:1] if key not in members]
            if missing:
                raise EcgFormatError(f"{source.name} holds {sorted(members)}; expected the arrays {', '.join(KEYS)}.")
            wanted = {key: info for key, info in members.items() if key in (*KEYS, *OPTIONAL_KEYS)}
            if sum(info.file_size for info in wanted.values()) > MAX_FILE_BYTES:
                raise EcgFormatError(
                    f"{source.name} unpacks to more than {MAX_FILE_BYTES} bytes. Split the recording."
                )
            return {key: _array(archive.read(info), f"{source.name}: {key}") for key, info in wanted.items()}
    except EcgFormatError:
        raise
    except Exception as error:  # a damaged archive raises from zipfile, zlib and struct
        raise EcgFormatError(f"{source.name} is a damaged .npz file: {error}.") from error


def _array(content: bytes, name: str) -> np.ndarray:
    """Read one array, after comparing the size that its header claims with the bytes that are there."""
    stream = BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, _, dtype = read_header(stream)
    except Exception as error:  # a damaged header raises whatever its parser meets
        raise EcgFormatError(f"{name} is no NumPy array: {error}.") from error
    expected = prod(shape) * dtype.itemsize
    if dtype.hasobject or expected != len(content) - stream.tell():
        raise EcgFormatError(
            f"{name}: the array of {dtype} and shape {shape} takes {expected} bytes, the file has "
            f"{len(content) - stream.tell()}. "
            "It is truncated, or holds Python objects, which are never read."
        )
    array = np.load(BytesIO(content), allow_pickle=False)
    # NumPy makes text of any 32-bit numbers; Python fails later on what is no character.
    if dtype.kind == "U" and np.frombuffer(array.tobytes(), dtype.str[0] + "u4").max(initial=0) > sys.maxunicode:
        raise EcgFormatError(f"{name} holds text that is none. The file is damaged.")
    return array
