"""WFDB records of PhysioNet: a text header (`.hea`) and signal files.

The header is read by `wfdb_header`, the signal files by `wfdb_signals`; what the header says is checked against the
files before a sample is read. A `.mat` file with a header beside it is a WFDB signal file that begins with 24 bytes
more.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..record import EcgFormatError, EcgRecord, Recording, check_size, later, printable
from ..resampling import resample_with_gaps
from ..signal_quality import no_value
from .fields import decode_text, lines_of, other_channels
from .source import Source, millivolts_per, regular_file
from .wfdb_header import RECORD_LINE, Header, Signal, age_and_sex, count_frames, named_file, read_header
from .wfdb_signals import STORAGE, read_frames

_Key = tuple[str, int]


@dataclass(frozen=True)
class _Segment:
    """A piece of a record between two frames."""

    start: int
    stop: int
    header: Header


def matches(head: bytes, name: str) -> bool:
    """Say whether a file is a WFDB header (by its record line) or a signal file with the MATLAB 4 variable `val`."""
    if head[20:24] == b"val\0" or name.lower().endswith(".hea"):
        return True
    lines = [line for line in lines_of(decode_text(head, final=False)) if line and not line.startswith("#")]
    return len(lines) > 1 and bool(RECORD_LINE.fullmatch(lines[0][:1000])) and len(lines[1].split(maxsplit=2)) > 1


def read(source: Source) -> EcgRecord:
    """Read a whole WFDB record and verify the checksums in its header.

    Raises:
        EcgFormatError: If header and signal files do not fit together, or a lead or unit is unknown.
    """
    recording = open_recording(source)
    return recording.read(0, recording.n_frames)


def open_recording(source: Source) -> Recording:
    """Open a WFDB record for reading in pieces."""
    header = read_header(_header_path(source), source.sampling_rate)
    parts = _open_segments(header) if header.segments else [header]
    layout = next(part for part in parts if part is not None)
    units = [signal.unit for signal in layout.signals]
    chosen = source.choose_leads(layout.names, other_channels(source, layout.names, units))
    keys = _keys(layout)
    rows = {keys[i]: row for row, i in enumerate(chosen)}
    lengths = [length for _, length in header.segments] if header.segments else [header.n_frames]
    segments, notes = _place_segments(header, parts, lengths, rows)
    left_out = [f"{printable(name, 40)} ({units[i]})" for i, name in enumerate(layout.names) if i not in chosen]
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    age, sex = age_and_sex(header.comments)
    gains = {
        abs(signal.gain) / millivolts_per(signal.unit, signal.name)
        for part in {id(segment.header): segment.header for segment in segments}.values()
        for key, signal in zip(_keys(part), part.signals)
        if key in rows
    }
    per_frame = max(layout.signals[i].per_frame for i in chosen)
    length = sum(n or 0 for n in lengths) if header.segments else segments[0].stop

    def read_piece(start: int, stop: int) -> EcgRecord:
        check_size(len(rows), (stop - start) * per_frame, header.path.name)
        signal = np.full((len(rows), (stop - start) * per_frame), np.nan, dtype=np.float32)
        held: tuple[Any, dict[_Key, np.ndarray]] = (None, {})  # a header can repeat one segment a thousand times
        for segment in segments:
            first, last = max(start, segment.start), min(stop, segment.stop)
            if first >= last:
                continue
            n_samples = (last - first) * per_frame
            wanted = (segment.header.path, first - segment.start, last - segment.start)
            if held[0] != wanted:
                held = (wanted, _read_segment(segment, *wanted[1:], rows))
            for key, piece in held[1].items():
                if len(piece) != n_samples:
                    piece = resample_with_gaps(piece[None], len(piece), n_samples)[0]
                signal[rows[key], (first - start) * per_frame : (last - start) * per_frame] = piece
        invalid = zip(chosen.values(), np.isnan(signal).sum(axis=1))
        return EcgRecord(
            signal,
            header.rate * per_frame,
            tuple(chosen.values()),
            record_id=header.path.stem,
            start_time=later(header.start_time, start / header.rate),
            age=age,
            sex=sex,
            unit=units[next(iter(chosen))],
            gain=next(iter(gains)) if len(gains) == 1 else None,
            source=str(source.path),
            notes=(*notes, *(f"{lead}: {n} of {signal.shape[1]} samples invalid" for lead, n in invalid if n)),
        )

    return Recording(length, header.rate, read_piece)


def _keys(header: Header) -> list[_Key]:
    """Return what tells the signals of a header apart: their names, and of several of one name which it is."""
    counts: Counter[str] = Counter()
    keys = []
    for name in header.names:
        keys.append((name, counts[name]))
        counts[name] += 1
    return keys


def _header_path(source: Source) -> Path:
    if source.path is None:
        raise EcgFormatError("A WFDB record is several files: pass the path of its .hea file, not its bytes.")
    path = source.path.absolute()
    if path.suffix.lower() == ".hea":
        return regular_file(path)
    try:
        return named_file(path, f"{path.stem}.hea")
    except EcgFormatError:
        raise EcgFormatError(
            f"{path.name} lacks its WFDB header. Expected {path.stem}.hea in the same folder."
        ) from None


def _open_segments(header: Header) -> list[Header | None]:
    """Read the header of every segment (`None` for a gap); the first gives the layout, which the others must fit."""
    name, read = header.path.name, {}
    for segment in dict.fromkeys(segment for segment, _ in header.segments if segment != "~"):
        part = read_header(named_file(header.path, f"{segment}.hea"), header.rate)
        if part.segments or abs(part.rate - header.rate) > 1e-6 * header.rate:
            raise EcgFormatError(
                f"{name}: expected segment {segment[:60]} to be a plain record of {header.rate:g} Hz."
            )
        read[segment] = part
    if not read:
        raise EcgFormatError(f"{name} consists of gaps only.")
    layout = next(iter(read.values()))
    known = {signal.name: signal.per_frame for signal in layout.signals}
    for part in read.values():
        if any(known.get(signal.name) != signal.per_frame for signal in part.signals):
            raise EcgFormatError(f"{name}: segment {part.path.stem} does not fit the layout {list(known)[:20]}.")
    return [read.get(segment) for segment, _ in header.segments]


def _place_segments(
    header: Header, parts: Sequence[Header | None], lengths: Sequence[int | None], wanted: Collection[_Key]
) -> tuple[list[_Segment], list[str]]:
    """Check the signal files of the named signals and put the segments one after the other."""
    segments, start = [], 0
    notes: dict[str, None] = {}
    counted: dict[int, int] = {}
    for part, length in zip(parts, lengths):
        if part is not None and length != 0:
            held = counted.get(id(part))
            if held is None:
                signals = [signal for key, signal in zip(_keys(part), part.signals) if key in wanted]
                held, surplus = count_frames(part, signals) if signals else (length or part.n_frames or 0, [])
                counted[id(part)] = held
                notes |= dict.fromkeys([*part.notes, *surplus])
            if length not in (None, held):
                raise EcgFormatError(f"{part.path.name} holds {held} samples; the header of the record says {length}.")
            length = held
            segments.append(_Segment(start, start + length, part))
        start += length or 0
    if header.n_frames not in (None, start):
        raise EcgFormatError(f"The header claims {header.n_frames} samples; its segments hold {start}.")
    return segments, list(notes)


def _read_segment(segment: _Segment, start: int, stop: int, wanted: Collection[_Key]) -> dict[_Key, np.ndarray]:
    """Read the wanted signals of a segment between two frames, in millivolts at their own rate."""
    header, n_frames = segment.header, segment.stop - segment.start
    keyed = dict(zip(_keys(header), header.signals))
    pieces = {}
    for file in dict.fromkeys(signal.file for key, signal in keyed.items() if key in wanted):
        held = {key: signal for key, signal in keyed.items() if signal.file == file}
        signals = list(held.values())
        skew = max(signal.skew for key, signal in held.items() if key in wanted)
        last = min(stop + skew, n_frames)
        frames = read_frames(named_file(header.path, file), signals, start, last)
        for (key, signal), digital in zip(held.items(), frames):
            if key in wanted:
                if header.n_frames and (start, last) == (0, n_frames) and signal.checksum is not None:
                    _verify_checksum(header.path, signal, digital)  # not checked where the length is left open
                pieces[key] = _millivolts(signal, digital, stop - start)
    return pieces


def _millivolts(signal: Signal, digital: np.ndarray, n_frames: int) -> np.ndarray:
    """Return so many frames of a signal in mV; a skewed signal was stored late and lacks its last frames."""
    scale = millivolts_per(signal.unit, signal.name) / signal.gain
    with np.errstate(over="ignore"):  # infinity, which `EcgRecord` refuses
        values = ((digital - float(signal.baseline)) * scale).astype(np.float32)
    values[(digital == STORAGE[signal.fmt][1]) | no_value(digital[None])[0]] = np.nan
    # Sample n + skew belongs to time n (header(5)).
    piece = values[signal.skew * signal.per_frame :][: n_frames * signal.per_frame]
    missing = n_frames * signal.per_frame - len(piece)
    return np.concatenate([piece, np.full(missing, np.nan, np.float32)]) if missing else piece


def _verify_checksum(path: Path, signal: Signal, digital: np.ndarray) -> None:
    found, expected = int(digital.sum(dtype=np.int64)), signal.checksum or 0
    if (found - expected) % 2**16:
        raise EcgFormatError(
            f"{path.name}: the checksum of {signal.name[:40]} is {expected} in the header but {found % 2**16} in the "
            "signal file. The signal file is damaged or belongs to another header."
        )
