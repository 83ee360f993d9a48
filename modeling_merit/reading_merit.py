"""ECGs as the pipelines take them: records, arrays, mappings and files, whole or in windows.

This file travels to the Hub beside the weights, so it imports only siblings. Files are read by the package `merit-ecg`
where it is installed; without it WFDB records (by the package `wfdb`) and `.npz` archives are read, nothing else.
"""

import os
import zipfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

FACTS = ("sampling_rate", "leads", "units")
"""What an array does not say of itself."""

SIGNAL_KEYS = ("signal", "array")
"""Names of the signal in a mapping, such as a row of a data set."""

WITHOUT_PACKAGE = (
    "Without the package merit-ecg, whose readers know the clinical formats, only WFDB records (.hea with its signal "
    "file) and .npz archives with the arrays signal, sampling_rate, leads and units are read. Install the package "
    "from its folder or repository (`pip install PATH`), or pass the signal as an array with `sampling_rate`, `leads` "
    "and `units`."
)


class Piece(NamedTuple):
    """An ECG or a window of one, as the feature extractor takes it."""

    ecg: Any  # a record, or an array (leads, samples)
    facts: dict[str, Any]  # what is said of it beside
    start_s: float
    stop_s: float


def pieces(
    ecg: Any,
    window_seconds: float | None = None,
    step_seconds: float | None = None,
    **facts: Any,
) -> Iterator[Piece]:
    """Yield an ECG whole, or the windows that lie wholly within it; one no longer than a window is yielded whole.

    Args:
        ecg (path, record, array of shape `(leads, samples)` or mapping): A record is anything with `signal` in mV,
            `sampling_rate` and `leads`. A mapping holds `signal` (or `array`) and the facts.
        window_seconds (`float`, *optional*): Length of a window.
        step_seconds (`float`, *optional*): From the start of one window to the next; `window_seconds` when absent.
        facts: `sampling_rate` (Hz), `leads` and `units` of an array, or of a file that does not state them.

    Raises:
        ValueError: If a fact or the signal is missing, or a window or step is not above 0.
        ImportError: If reading the file needs a package that is not installed.
        OSError: If there is no such file.

    Example:

    >>> facts = {"sampling_rate": 100, "leads": ["I", "II"], "units": "mV"}
    >>> [(p.start_s, p.stop_s, p.ecg.shape) for p in pieces(np.zeros((2, 2500)), window_seconds=10, **facts)]
    [(0.0, 10.0, (2, 1000)), (10.0, 20.0, (2, 1000))]
    """
    facts = {name: facts.get(name) for name in FACTS}
    for name, seconds in (("window_seconds", window_seconds), ("step_seconds", step_seconds)):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"Expected `{name}` above 0, got {seconds}.")
    if step_seconds is not None and window_seconds is None:
        raise ValueError("Expected `window_seconds` beside `step_seconds`, got none.")
    step_seconds = step_seconds or window_seconds
    if isinstance(ecg, (str, os.PathLike)):
        if window_seconds is not None and (readers := _package_readers()):
            streamed = _streamed(readers, ecg, window_seconds, step_seconds, facts)
            if (first := next(streamed, None)) is not None:
                yield first
                yield from streamed
                return
        ecg, facts = _read(ecg, facts)
    elif isinstance(ecg, Mapping):
        ecg, facts = _of_mapping(ecg, facts)
    if isinstance(ecg, (list, tuple)):
        ecg = np.asarray(ecg)
    signal, rate = getattr(ecg, "signal", ecg), getattr(ecg, "sampling_rate", facts["sampling_rate"])
    if not hasattr(signal, "shape") or not signal.ndim or not rate:  # the feature extractor says what is wrong
        yield Piece(ecg, facts, 0.0, 0.0)
        return
    samples = signal.shape[-1]
    if window_seconds is None or samples <= round(window_seconds * rate):
        yield Piece(ecg, facts, 0.0, samples / rate)
        return
    length, step = round(window_seconds * rate), max(round(step_seconds * rate), 1)
    for start in range(0, samples - length + 1, step):
        part = signal[..., start : start + length]
        if hasattr(ecg, "signal"):
            part = SimpleNamespace(signal=part, sampling_rate=rate, leads=ecg.leads)
        yield Piece(part, facts, start / rate, (start + length) / rate)


def _of_mapping(ecg: Mapping[str, Any], facts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the signal and the facts of a mapping; what is stated beside it holds for what it does not say."""
    found = [key for key in SIGNAL_KEYS if ecg.get(key) is not None]
    if len(found) != 1:
        raise ValueError(
            f"Expected a mapping with one of {' or '.join(map(repr, SIGNAL_KEYS))} and {', '.join(FACTS)}, got "
            f"{', '.join(map(repr, list(ecg)[:10])) or 'an empty one'}."
        )
    said = {name: ecg[name] for name in FACTS if ecg.get(name) is not None}
    signal = ecg[found[0]]
    return np.asarray(signal) if isinstance(signal, (list, tuple)) else signal, facts | said


def _package_readers() -> ModuleType | None:
    """Return the readers of the package, which do not travel, or `None` where it is not installed."""
    try:
        return import_module("modeling_merit.processing.readers")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("modeling_merit"):
            raise
        return None


def _streamed(
    readers: ModuleType, path: str | os.PathLike, window_s: float, step_s: float, facts: dict[str, Any]
) -> Iterator[Piece]:
    """Yield the windows of a file whose format is read in pieces; nothing of another one, which is then read whole."""
    stated = {name: facts[name] for name in ("sampling_rate", "leads", "units")}
    records = readers.windows(path, window_s, step_s, **stated)
    try:
        first = next(records, None)
    except readers.EcgFormatError:  # reading it whole will say what is wrong with it, if anything is
        return
    number = 0
    while first is not None:
        start = number * step_s
        yield Piece(first, dict.fromkeys(FACTS), start, start + first.duration_s)
        first, number = next(records, None), number + 1


def _read(path: str | os.PathLike, facts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the ECG of a file and what the feature extractor must be told of it."""
    if readers := _package_readers():
        return readers.read_ecg(path, **facts), dict.fromkeys(FACTS)
    file = Path(path)
    header = (
        file.with_suffix(".hea") if file.suffix.lower() in (".hea", ".dat") else file.with_name(file.name + ".hea")
    )
    if file.suffix == ".npz":
        signal, found = _read_npz(file)
    elif header.is_file():
        signal, found = _read_wfdb(header)
    elif file.exists():
        raise ImportError(f"Cannot read {file.name}. {WITHOUT_PACKAGE}")
    else:
        raise FileNotFoundError(f"There is no ECG file {file.name!r}: expected the path of one.")
    return signal, {name: facts[name] if found[name] is None else found[name] for name in FACTS}


def _read_npz(file: Path) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            content = {key: arrays[key] for key in ("signal", *FACTS) if key in arrays}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{file.name} is a damaged .npz file, or holds objects: {error}") from None
    if "signal" not in content:
        raise ValueError(f"{file.name} holds no array 'signal'. {WITHOUT_PACKAGE}")
    leads = [str(lead) for lead in np.atleast_1d(content["leads"])] if "leads" in content else None
    rate = float(content["sampling_rate"]) if "sampling_rate" in content else None
    units = str(content["units"]) if "units" in content else None
    return content["signal"], {"sampling_rate": rate, "leads": leads, "units": units}


def _read_wfdb(header: Path) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        import wfdb
    except ImportError:
        raise ImportError(
            f"Reading {header.name} needs the package wfdb (`pip install wfdb`), or the package merit-ecg."
        ) from None
    try:
        record = wfdb.rdrecord(str(header.with_suffix("")), return_res=64)  # which reads from its own folder alone
    except Exception as error:  # whatever a damaged header or signal file makes wfdb raise
        raise ValueError(f"{header.name} is no WFDB record that can be read: {error}") from None
    if len(set(record.units)) > 1:
        raise ValueError(f"{header.name} has channels in {', '.join(sorted(set(record.units)))}. {WITHOUT_PACKAGE}")
    facts = {"sampling_rate": float(record.fs), "leads": list(record.sig_name), "units": record.units[0]}
    return np.ascontiguousarray(record.p_signal.T, dtype=np.float32), facts


__all__ = ["FACTS", "WITHOUT_PACKAGE", "Piece", "pieces"]
