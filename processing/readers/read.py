"""Readers of ECG files: one module per format, chosen by content first and by extension second.

A reader module has `matches(head: bytes, name: str) -> bool` (`head`: the first bytes of the file) and
`read(source: Source) -> EcgRecord`. Modules are imported when their format is met, so that the optional libraries of
the other formats need not be installed.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from ..record import EcgFormatError, EcgRecord, Recording
from ..signal_quality import NO_VALUES, no_value, unpadded
from .arrays import missing_notes
from .compressed import unpack
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

SEVERAL_RECORDINGS = ("matlab",)
"""Formats whose files may hold more than one recording, which `index` chooses."""

MAX_MESSAGE = 600
"""Most characters of an error message; what a file says of itself in it is not longer either."""

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
    start_s: float = 0.0,
    seconds: float | None = None,
) -> EcgRecord:
    """Read an ECG file of any known format, or a part of it.

    Args:
        file (path, binary file object or `bytes`): The file, also one in `.gz`, `.bz2`, `.xz` or alone in a `.zip`.
            A WFDB record is given by its `.hea`, its signal file or their common path without extension, and only as
            a path.
        format (`str`, *optional*): A key of `FORMATS`. Found by the content of the file when absent.
        sampling_rate (`float`, *optional*): Hz, for a file that does not state it. Never overrides the file.
        leads (sequence or mapping, *optional*): Lead names of the channels, for a file that does not state them; or
            a mapping from names found in the file to lead names, where `None` leaves a channel out.
        units (`str`, *optional*): `"mV"`, `"uV"`, `"nV"` or `"V"`, for a file that does not state it. Never
            overrides the file.
        index (`int`, *optional*): Which recording, for a file that holds several.
        start_s, seconds (`float`): Which part of it. Of WFDB, EDF and ISHNE nothing else is read, and ends of the part
            are not taken for padding.

    Returns:
        `EcgRecord`: Signal in millivolts, sampling rate and lead names; no direct identifiers. Padding at its ends is
        cut (`signal_quality.unpadded`), markers of missing values are NaN (`signal_quality.no_value`); `notes` say
        so.

    Raises:
        EcgFormatError: If the file is missing, damaged, of no known format, or leaves open what nobody stated.
        ValueError: If the part does not lie within the recording.
        ImportError: If the library that reads this format is not installed; the message names the pip line.

    Example:

    >>> record = read_ecg(b"time [s],I [mV],II [mV]\\n0.000,0.5,1.5\\n0.002,0.25,1.0\\n0.004,0.0,0.5\\n")
    >>> record.leads, record.sampling_rate, record.signal.tolist()
    (('I', 'II'), 500.0, [[0.5, 0.25, 0.0], [1.5, 1.0, 0.5]])
    """
    with _safe_messages(file):
        source = open_source(file, sampling_rate=sampling_rate, leads=leads, units=units, index=index)
        format = format or detect_format(source)
        if start_s == 0 and seconds is None:
            return without_padding(_read(source, format))
        recording = _open_recording(source, format)
        return recording.read(*_frames(recording, start_s, seconds))


def _frames(recording: Recording, start_s: float, seconds: float | None) -> tuple[int, int]:
    """Return where a part of a recording begins and ends, in its frames.

    Raises:
        ValueError: If the part is empty or does not lie within the recording.
    """
    length = recording.n_frames / recording.frame_rate
    stop_s = length if seconds is None else start_s + seconds
    if not 0 <= start_s < stop_s <= length + 0.5 / recording.frame_rate:
        wanted = f"{start_s:g} to {stop_s:g} s" if seconds is not None else f"from {start_s:g} s on"
        raise ValueError(f"Expected a part of a recording of {length:g} s, got {wanted}.")
    start, stop = round(start_s * recording.frame_rate), round(stop_s * recording.frame_rate)
    if stop <= start:
        raise ValueError(f"Expected a part of at least a sample, got {stop_s - start_s:g} s.")
    return start, min(stop, recording.n_frames)


def _open_recording(source: Source, format: str) -> Recording:
    """Open a recording for reading in pieces; a format that does not allow it is read whole."""
    reader = _reader(format)
    _check_index(source, format)
    if not hasattr(reader, "open_recording"):
        record = without_padding(_read(source, format))
        rate = record.sampling_rate
        return Recording(record.n_samples, rate, lambda start, stop: record.crop(start / rate, stop / rate))
    recording = reader.open_recording(source)
    return replace(recording, read=lambda start, stop: _as_stated(recording.read(start, stop), source))


def _check_index(source: Source, format: str) -> None:
    if source.index not in (None, 0) and format not in SEVERAL_RECORDINGS:
        raise EcgFormatError(f"{source.name} holds one recording, not one of index {source.index}. Leave `index` out.")


def _read(source: Source, format: str) -> EcgRecord:
    reader = _reader(format)
    _check_index(source, format)
    return _as_stated(reader.read(source), source)


def _as_stated(record: EcgRecord, source: Source) -> EcgRecord:
    """Return the record named as its file.

    Raises:
        EcgFormatError: If it contradicts what the caller stated.
    """
    rate, units = source.sampling_rate, source.units
    if rate is not None and not (abs(record.sampling_rate - rate) <= RATE_TOLERANCE * rate):
        raise EcgFormatError(
            f"{source.name} states {record.sampling_rate:g} Hz, not the {rate:g} Hz given. Leave `sampling_rate` out."
        )
    if units is not None and millivolts_per(units, "`units`") != millivolts_per(record.unit):
        raise EcgFormatError(f"{source.name} is in {record.unit}, not in the {units} given. Leave `units` out.")
    if source.packed is not None:
        name = Path(source.name).stem
        record = replace(record, record_id=record.record_id or name, source=str(source.packed))
    return record


@contextmanager
def _safe_messages(file: Any) -> Iterator[None]:
    """Bound the message of a refusal, escape control characters and leave out the folder, which may be a server's."""
    try:
        yield
    except EcgFormatError as error:
        message = str(error)
        if isinstance(file, (str, PathLike)):
            folder = os.path.dirname(os.fspath(file))
            for name in {folder, os.path.abspath(folder), os.path.realpath(folder)} - {"", "/", "."}:
                message = message.replace(name + os.sep, "")
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message[: 4 * MAX_MESSAGE])
        half = MAX_MESSAGE // 2 - 2
        error.args = (message if len(message) <= MAX_MESSAGE else f"{message[:half]}... {message[-half:]}",)
        raise


def without_padding(record: EcgRecord) -> EcgRecord:
    """Return the record without what is not a recording: padding at its ends is cut, markers of no value become NaN.

    Args:
        record (`EcgRecord`): As a reader gives it.

    Returns:
        `EcgRecord`: With a note for each change, and `start_time` moved by what was cut at the start.

    Example:

    >>> signal = np.random.default_rng(0).normal(size=(2, 1000))
    >>> record = without_padding(EcgRecord(np.pad(signal, [(0, 0), (0, 200)]), 500, ("I", "II")))
    >>> record.n_samples, record.notes
    (1000, ('Cut at the end: 200 samples of padding, during which every lead stands still.',))
    """
    signal, notes = record.signal, list(record.notes)
    steps = {1 / (record.gain or np.inf), millivolts_per(record.unit)} - {0.0}  # mV: that of the ADC, and of the file
    for step in sorted(steps):
        if np.nanmax(np.abs(signal), initial=0) < 0.999 * min(map(abs, NO_VALUES)) * step:
            continue
        marked = no_value(np.rint(signal / np.float64(step)))
        if marked.any():
            signal = np.where(marked, np.float32(np.nan), signal)
            notes += missing_notes(record.leads, marked)
    start, stop = unpadded(signal, record.sampling_rate)
    start = 0 if np.isnan(signal[:, 0]).all() else start  # what the file marks as missing keeps its place
    stop = record.n_samples if np.isnan(signal[:, -1]).all() else stop
    for name, n in (("start", start), ("end", record.n_samples - stop)):
        if n:
            notes.append(f"Cut at the {name}: {n} samples of padding, during which every lead stands still.")
    moved = record.start_time and record.start_time + timedelta(seconds=start / record.sampling_rate)
    return replace(record, signal=signal[:, start:stop], start_time=moved, notes=tuple(notes))


def windows(
    file: str | PathLike,
    window_s: float,
    step_s: float | None = None,
    format: str | None = None,
    *,
    sampling_rate: float | None = None,
    leads: Sequence[str | None] | Mapping[str, str | None] | None = None,
    units: str | None = None,
    index: int | None = None,
    start_s: float = 0.0,
    seconds: float | None = None,
) -> Iterator[EcgRecord]:
    """Read a recording window by window.

    Of WFDB, EDF and ISHNE only the window is read: memory does not grow with the length of the recording. Samples are
    then not checked against the checksums of a WFDB header, which need all of it. Other formats are read whole.

    Args:
        file (path): The file.
        window_s (`float`): Length of a window in seconds.
        step_s (`float`, *optional*): From the start of one window to the next, in seconds; `window_s` when absent.
        format, sampling_rate, leads, units, index: As in `read_ecg`.
        start_s, seconds (`float`): The part of the recording in which the windows lie; all of it when absent.

    Returns:
        iterator of `EcgRecord`: Every window that lies wholly within that part, the one of number `i` from
        `start_s + i * step_s` on; a rest at its end is left out.

    Raises:
        EcgFormatError: As `read_ecg`.
        ValueError: If windows or steps are shorter than a sample, or the part does not lie within the recording.
    """
    step_s = window_s if step_s is None else step_s
    with _safe_messages(file):
        source = open_source(file, sampling_rate=sampling_rate, leads=leads, units=units, index=index)
        recording = _open_recording(source, format or detect_format(source))
    length, step = window_s * recording.frame_rate, step_s * recording.frame_rate
    if not (round(length) >= 1 and round(step) >= 1):
        raise ValueError(f"Expected windows and steps of at least a sample, got {window_s:g} s and {step_s:g} s.")
    first, stop = _frames(recording, start_s, seconds)
    for number in range(int((stop - first) / step) + 1):
        start = first + round(number * step)
        if start + round(length) > stop:
            return
        yield recording.read(start, start + round(length))


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
        if path.name and not _is_file(path):  # a WFDB record is named without extension
            header = path.with_name(path.name + ".hea")
            path = header if _is_file(header) else path
        with _safe_messages(file):
            name = regular_file(path).name
    return unpack(Source(name, path, content, **facts))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


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
    return _is_file(header) and any(line.startswith(path.name.encode()) for line in header.read_bytes().splitlines())


def _reader(format: str) -> ModuleType:
    if format not in FORMATS:
        raise EcgFormatError(f"Unknown format {format!r}. Expected one of {', '.join(FORMATS)}.")
    try:
        return import_module(f".{FORMATS[format]}", __package__)
    except ImportError as error:
        raise ImportError(
            f"Reading {format} files needs {(name := str(error.name).partition('.')[0])}: pip install {name}"
        ) from error


__all__ = ["FORMATS", "detect_format", "open_source", "read_ecg", "windows", "without_padding"]
