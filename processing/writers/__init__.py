"""Writers of ECG files, the mirror of the readers: what `write_ecg` writes, `read_ecg` reads back."""

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from ..record import EcgRecord
from .arrays import write_csv, write_json, write_npz
from .edf import write_edf
from .placing import check_free, placed
from .wfdb_files import wfdb_paths, write_wfdb

WRITERS: dict[str, Callable[[EcgRecord, Path, bool], Path]] = {
    ".edf": write_edf,
    ".hea": lambda record, path, overwrite: write_wfdb(replace(record, record_id=path.stem), path.parent, overwrite),
    ".npz": write_npz,
    ".json": write_json,
    ".csv": write_csv,
}
"""Writer by extension."""


def write_ecg(record: EcgRecord, path: str | PathLike, overwrite: bool = True) -> Path:
    """Write a record in the format that the extension of `path` names.

    A file is written beside its place and moved there when it is whole.

    Args:
        record (`EcgRecord`): Signal in mV, rate and leads. Time, age and sex are written where the format has a place.
        path (path): Name ending in a key of `WRITERS`.
        overwrite (`bool`): Whether files of that name are replaced (of WFDB, header and signal file) or refused.

    Returns:
        `Path`: The file to hand to `read_ecg`.

    Raises:
        ValueError: If the extension is unknown, or the format cannot hold the record.
        FileExistsError: If a file of that name is there and is not to be replaced.
        FileNotFoundError: If there is no such folder.

    Example:

    >>> import tempfile
    >>> import numpy as np
    >>> from modeling_merit.processing import EcgRecord, read_ecg
    >>> record = EcgRecord(np.array([[0.0, 0.5, 1.0]]), 500, ("II",))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     back = read_ecg(write_ecg(record, f"{folder}/ecg.json"))
    >>> back.signal.tolist(), back.leads
    ([[0.0, 0.5, 1.0]], ('II',))
    """
    path = Path(path)
    check_output(path, overwrite)
    return WRITERS[path.suffix.lower()](record, path, overwrite)


def check_output(path: Path, overwrite: bool = False) -> None:
    """Refuse a name to which `write_ecg` would not write, before any work is done for it.

    Raises:
        ValueError: If there is no writer for its extension.
        FileExistsError, FileNotFoundError: As `write_ecg`.
    """
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"Expected a name ending in {', '.join(WRITERS)}, got {path.name!r}.")
    check_free(wfdb_paths(path.parent, path.stem) if path.suffix.lower() == ".hea" else [path], overwrite)


__all__ = [
    "WRITERS",
    "check_free",
    "check_output",
    "placed",
    "write_csv",
    "write_ecg",
    "write_edf",
    "write_json",
    "write_npz",
    "write_wfdb",
]
