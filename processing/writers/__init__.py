"""Writers of ECG files, the mirror of the readers: what `write_ecg` writes, `read_ecg` reads back."""

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from ..record import EcgRecord
from .arrays import write_csv, write_json, write_npz
from .edf import write_edf
from .wfdb_files import write_wfdb

WRITERS: dict[str, Callable[[EcgRecord, Path], Path]] = {
    ".edf": write_edf,
    ".hea": lambda record, path: write_wfdb(replace(record, record_id=path.stem), path.parent),
    ".npz": write_npz,
    ".json": write_json,
    ".csv": write_csv,
}
"""Writer by extension."""


def write_ecg(record: EcgRecord, path: str | PathLike) -> Path:
    """Write a record in the format that the extension of `path` names.

    Args:
        record (`EcgRecord`): Signal in mV, rate and leads. Time, age and sex are written where the format has a place.
        path (path): Name ending in a key of `WRITERS`.

    Returns:
        `Path`: The file to hand to `read_ecg`.

    Raises:
        ValueError: If the extension is unknown, or the format cannot hold the record.

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
    check_suffix(path)
    return WRITERS[path.suffix.lower()](record, path)


def check_suffix(path: Path) -> None:
    """Refuse a name whose extension no writer has.

    Raises:
        ValueError: If there is no writer for it.
    """
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"Expected a name ending in {', '.join(WRITERS)}, got {path.name!r}.")


__all__ = ["WRITERS", "check_suffix", "write_csv", "write_ecg", "write_edf", "write_json", "write_npz", "write_wfdb"]
