"""Readers of ECG files: one module per format, chosen by content first and by extension second.

A reader module has `matches(head: bytes, name: str) -> bool` (`head`: the first bytes of the file) and
`read(source: Source) -> EcgRecord`. Modules are imported when their format is met, so that the optional libraries of
the other formats need not be installed.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from ..record import EcgFormatError, EcgRecord
from .source import MAX_FILE_BYTES, Source, millivolts_per, regular_file

FORMATS = {
    "dicom": "dicom",
    "scp": "scp",
    "ishne": "ishne",
    "edf": "edf",
    "numpy": "numpy_arrays",
    "matlab": "matlab",
    "aecg": "aecg",
    "muse": "muse",
    "sierra": "sierra",
    "mortara": "mortara",
    "wfdb": "wfdb_files",
    "json": "json_text",
    "csv": "csv_text",
}
"""Reader module by format name, in the order in which they are tried: formats with a signature first, text last."""

RATE_TOLERANCE = 1e-3  # relative; clocks of real recorders state 499.9 for 500

_EXTENSIONS = {
    ".dcm": "dicom", ".scp": "scp", ".ecg": "ishne", ".edf": "edf", ".bdf": "edf", ".npy": "numpy", ".npz": "numpy",
    ".hdf5": "matlab", ".h5": "matlab", ".hea": "wfdb", ".dat": "wfdb", ".mat": "matlab", ".json": "json",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv",
}  # fmt: skip


def read_ecg(
    file: str | PathLike | BinaryIO | bytes,
    format: str | None = None,
    *,
    sampling_rate: float | None = None,
    leads: Sequence[str | None] | Mapping[str, str | None] | None = None,
    units: str | None = None,
    index: int | None = None,
) -> EcgRecord:
    """Read an ECG file of any known format.

    Args:
        file (path, binary file object or `bytes`): The file. A WFDB record is given by its `.hea`, its signal file
            or their common path without extension, and only as a path.
        format (`str`, *optional*): A key of `FORMATS`. Found by the content of the file when absent.
        sampling_rate (`float`, *optional*): Hz, for a file that does not state it. Never overrides the file.
        leads (sequence or mapping, *optional*): Lead names of the channels, for a file that does not state them; or
            a mapping from names found in the file to lead names, where `None` leaves a channel out.
        units (`str`, *optional*): `"mV"`, `"uV"`, `"nV"` or `"V"`, for a file that does not state it. Never
            overrides the file.
        index (`int`, *optional*): Which recording, for a file that holds several.

    Returns:
        `EcgRecord`: Signal in millivolts, sampling rate and lead names; no direct identifiers.

    Raises:
        EcgFormatError: If the file is missing, damaged, of no known format, or leaves open what nobody stated.
        ImportError: If the library that reads this format is not installed; the message names the pip line.

    Example:

    >>> record = read_ecg(b"time [s],I [mV],II [mV]\\n0.000,0.5,1.5\\n0.002,0.25,1.0\\n0.004,0.0,0.5\\n")
    >>> record.leads, record.sampling_rate, record.signal.tolist()
    (('I', 'II'), 500.0, [[0.5, 0.25, 0.0], [1.5, 1.0, 0.5]])
    """
    source = open_source(file, sampling_rate=sampling_rate, leads=leads, units=units, index=index)
    record = _reader(format or detect_format(source)).read(source)
    if sampling_rate is not None and not (abs(record.sampling_rate - sampling_rate) <= RATE_TOLERANCE * sampling_rate):
        raise EcgFormatError(
            f"{source.name} states {record.sampling_rate:g} Hz, not the {sampling_rate:g} Hz given. Leave "
            "`sampling_rate` out."
        )
    if units is not None and millivolts_per(units, "`units`") != millivolts_per(record.unit):
        raise EcgFormatError(f"{source.name} is in {record.unit}, not in the {units} given. Leave `units` out.")
    return record


def windows(
    file: str | PathLike,
    window_s: float,
    step_s: float | None = None,
    format: str | None = None,
    *,
    sampling_rate: float | None = None,
    leads: Sequence[str | None] | Mapping[str, str | None] | None = None,
) -> Iterator[EcgRecord]:
    """Read a long recording (WFDB, EDF, ISHNE) window by window; memory does not grow with its length.

    Samples are not checked against the checksums of a WFDB header, which need the whole recording.

    Args:
        file (path): The file.
        window_s (`float`): Length of a window in seconds.
        step_s (`float`, *optional*): From the start of one window to the next, in seconds; `window_s` when absent.
        format, sampling_rate, leads: As in `read_ecg`.

    Returns:
        iterator of `EcgRecord`: Every window that lies wholly within the recording; a rest at its end is left out.

    Raises:
        EcgFormatError: As `read_ecg`, or if the format cannot be read in pieces.
    """
    step_s = window_s if step_s is None else step_s
    source = open_source(file, sampling_rate=sampling_rate, leads=leads)
    format = format or detect_format(source)
    reader = _reader(format)
    if not hasattr(reader, "open_recording"):
        raise EcgFormatError(f"{format} files are read whole: use `read_ecg` and `EcgRecord.crop`.")
    recording = reader.open_recording(source)
    length, step = round(window_s * recording.frame_rate), round(step_s * recording.frame_rate)
    if length < 1 or step < 1:
        raise ValueError(f"Expected windows and steps of at least a sample, got {window_s:g} s and {step_s:g} s.")
    for start in range(0, recording.n_frames - length + 1, step):
        yield recording.read(start, start + length)


def open_source(file: str | PathLike | BinaryIO | bytes, **facts: Any) -> Source:
    """Return the `Source` of a path, file object or `bytes`, with the facts that the caller states.

    Raises:
        EcgFormatError: If a path is not that of a regular file.
    """
    name, path, content = "ECG", None, None
    if isinstance(file, (bytes, bytearray, memoryview)):
        content = bytes(file)
    elif hasattr(file, "read"):
        # Only the extension of a file object's name is used: for an upload the name comes from its sender.
        name = Path(str(getattr(file, "name", "ECG"))).name
        content = file.read(MAX_FILE_BYTES + 1)
        if not isinstance(content, bytes):
            raise TypeError('Expected a file object opened in binary mode ("rb"), got one in text mode.')
    else:
        path = Path(file)
        header = path.with_name(path.name + ".hea")
        path = header if header.is_file() and not path.is_file() else path  # a WFDB record is named without extension
        name = regular_file(path).name
    return Source(name, path, content, **facts)


def detect_format(source: Source) -> str:
    """Return the key of `FORMATS` for a file, by its content, else by its extension.

    Raises:
        EcgFormatError: If neither says what it is.
    """
    if source.size == 0:
        raise EcgFormatError(f"{source.name} is empty.")
    missing = []
    for name in FORMATS:
        try:
            if _reader(name).matches(source.head, source.name):
                return name
        except ImportError as error:  # that format is then known by its extension only
            missing.append(f"{name} ({error})")
    if Path(source.name).suffix.lower() in _EXTENSIONS:
        return _EXTENSIONS[Path(source.name).suffix.lower()]
    if source.path and _is_named_by_header(source.path):
        return "wfdb"
    raise EcgFormatError(
        f"{source.name} is of no known ECG format; expected one of {', '.join(FORMATS)}. "
        "Name the format with `format=` if the file has lost its extension."
        + (f" Not tried, for want of a library: {'; '.join(missing)}." if missing else "")
    )


def _is_named_by_header(path: Path) -> bool:
    """Say whether a WFDB header beside a file names it as one of its signal files, whose extension can be any."""
    header = path.with_suffix(".hea")
    return header.is_file() and any(line.startswith(path.name.encode()) for line in header.read_bytes().splitlines())


def _reader(format: str) -> ModuleType:
    if format not in FORMATS:
        raise EcgFormatError(f"Unknown format {format!r}. Expected one of {', '.join(FORMATS)}.")
    try:
        return import_module(f".{FORMATS[format]}", __package__)
    except ImportError as error:
        raise ImportError(f'Reading {format} files needs {error.name}: pip install "merit-ecg[formats]"') from error


__all__ = ["FORMATS", "detect_format", "open_source", "read_ecg", "windows"]
