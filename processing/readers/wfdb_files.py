"""WFDB records of PhysioNet: a text header (`.hea`) and signal files, read with the `wfdb` library.

Storage formats: https://physionet.org/physiotools/wag/signal-5.htm. The library trusts the header; what the header
says is checked in `wfdb_header` against the files before a sample is read. A `.mat` file with a header beside it is
a WFDB signal file that begins with 24 bytes more.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import wfdb

from ..record import EcgFormatError, EcgRecord, Recording, check_size
from ..resampling import resample_with_gaps
from .source import Source, is_no_ecg, millivolts_per, regular_file, sibling_file
from .wfdb_header import RECORD_LINE, STORAGE, age_and_sex, count_frames, read_header


@dataclass(frozen=True)
class _Segment:
    """A piece of a record between two frames."""

    start: int
    stop: int
    path: Path
    header: wfdb.Record


def matches(head: bytes, name: str) -> bool:
    """Say whether a file is a WFDB header (by its record line) or a signal file with the MATLAB 4 variable `val`."""
    if head[20:24] == b"val\0" or name.lower().endswith(".hea"):
        return True
    lines = [line.strip() for line in head.decode("latin-1").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    return len(lines) > 1 and bool(RECORD_LINE.fullmatch(lines[0])) and len(lines[1].split()) > 1


def read(source: Source) -> EcgRecord:
    """Read a whole WFDB record and verify the checksums in its header.

    Raises:
        EcgFormatError: If header and signal files do not fit together, or a lead or unit is unknown.
    """
    recording = open_recording(source)
    return recording.read(0, recording.n_frames)


def open_recording(source: Source) -> Recording:
    """Open a WFDB record for reading in pieces."""
    path = _header_path(source)
    header = read_header(path, source.sampling_rate)
    multi = isinstance(header, wfdb.MultiRecord)
    parts, layout = _open_segments(path, header) if multi else ([(path, header)], header)
    skip = [i for i, name in enumerate(layout.sig_name) if is_no_ecg(name, layout.units[i])]
    chosen = source.choose_leads(layout.sig_name, skip)
    names = {layout.sig_name[i]: row for row, i in enumerate(chosen)}
    segments = _place_segments(header, parts, names)
    left_out = [f"{name} ({layout.units[i]})" for i, name in enumerate(layout.sig_name) if i not in chosen]
    notes = list(dict.fromkeys(note for segment in segments for note in segment.header.notes))
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    age, sex = age_and_sex(header.comments)
    gains = {
        segment.header.adc_gain[i] / millivolts_per(segment.header.units[i], name)
        for segment in segments
        for i, name in enumerate(segment.header.sig_name)
        if name in names
    }
    per_frame = max(layout.samps_per_frame[i] for i in chosen)

    def read_frames(start: int, stop: int) -> EcgRecord:
        check_size(len(names), (stop - start) * per_frame, path.name)
        signal = np.full((len(names), (stop - start) * per_frame), np.nan, dtype=np.float32)
        for segment in segments:
            first, last = max(start, segment.start), min(stop, segment.stop)
            if first >= last:
                continue
            length = (last - first) * per_frame
            for name, piece in _read_piece(segment, first - segment.start, last - segment.start, names).items():
                if len(piece) != length:
                    piece = resample_with_gaps(piece[None], len(piece), length)[0]
                signal[names[name], (first - start) * per_frame : (last - start) * per_frame] = piece
        invalid = zip(chosen.values(), np.isnan(signal).sum(axis=1))
        return EcgRecord(
            signal,
            header.fs * per_frame,
            tuple(chosen.values()),
            record_id=path.stem,
            start_time=header.start_time and header.start_time + timedelta(seconds=start / header.fs),
            age=age,
            sex=sex,
            unit=layout.units[next(iter(chosen))],
            gain=next(iter(gains)) if len(gains) == 1 else None,
            source=str(source.path),
            notes=(*notes, *(f"{lead}: {n} of {signal.shape[1]} samples invalid" for lead, n in invalid if n)),
        )

    return Recording(sum(header.seg_len) if multi else segments[0].stop, header.fs, read_frames)


def _header_path(source: Source) -> Path:
    if source.path is None:
        raise EcgFormatError("A WFDB record is several files: pass the path of its .hea file, not its bytes.")
    path = source.path.absolute()
    header = path if path.suffix.lower() == ".hea" else path.with_suffix(".hea")
    if not header.exists():
        raise EcgFormatError(f"{path.name} lacks its WFDB header. Expected {header.name} in the same folder.")
    return regular_file(header)


def _open_segments(path: Path, header: wfdb.MultiRecord) -> tuple[list[tuple[Path, wfdb.Record] | None], wfdb.Record]:
    """Read the header of every segment (`None` for a gap); the first gives the layout, which the others must fit."""
    parts: list[tuple[Path, wfdb.Record] | None] = []
    for name in header.seg_name:
        if name == "~":
            parts.append(None)
            continue
        part_path = sibling_file(path, f"{name}.hea")
        part = read_header(part_path, header.fs)
        if not isinstance(part, wfdb.Record) or abs(part.fs - header.fs) > 1e-6 * header.fs:
            raise EcgFormatError(f"{path.name}: expected segment {name} to be a plain record of {header.fs:g} Hz.")
        parts.append((part_path, part))
    headers = [part[1] for part in parts if part is not None]
    if not headers:
        raise EcgFormatError(f"{path.name} consists of gaps only.")
    layout = headers[0]
    known = dict(zip(layout.sig_name, layout.samps_per_frame))
    for part in headers:
        if any(known.get(name) != per_frame for name, per_frame in zip(part.sig_name, part.samps_per_frame)):
            raise EcgFormatError(f"{path.name}: segment {part.record_name} does not fit the layout {list(known)}.")
    return parts, layout


def _place_segments(
    header: wfdb.Record | wfdb.MultiRecord, parts: list[tuple[Path, wfdb.Record] | None], names: Collection[str]
) -> list[_Segment]:
    """Check the signal files of the named signals and put the segments one after the other."""
    lengths = header.seg_len if isinstance(header, wfdb.MultiRecord) else [None]
    segments, start = [], 0
    for part, length in zip(parts, lengths):
        if part is not None and length != 0:
            channels = [i for i, name in enumerate(part[1].sig_name) if name in names]
            held = count_frames(*part, channels) if channels else length
            if length not in (None, held):
                raise EcgFormatError(f"{part[0].name} holds {held} samples; the header of the record says {length}.")
            length = held
            segments.append(_Segment(start, start + length, *part))
        start += length
    if header.sig_len not in (None, start):
        raise EcgFormatError(f"The header claims {header.sig_len} samples; its segments hold {start}.")
    return segments


def _read_piece(segment: _Segment, start: int, stop: int, names: dict[str, int]) -> dict[str, np.ndarray]:
    """Read the named signals of a segment between two frames, in millivolts at their own rate."""
    header = segment.header
    channels = [i for i, name in enumerate(header.sig_name) if name in names]
    if not channels:
        return {}
    whole = header.sig_len is None or "8" in header.fmt  # the library reads only all of these
    # Signals of one sample per frame are asked for as one array: as a list the library fails on big-endian samples.
    plain = all(header.samps_per_frame[i] == 1 for i in channels)
    n_frames = segment.stop - segment.start
    first, last = (0, n_frames) if whole else (start, min(stop + max(header.skew), n_frames))
    try:
        record = wfdb.rdrecord(
            str(segment.path.with_suffix("")),
            sampfrom=first,
            sampto=None if whole else last,
            channels=channels,
            physical=False,
            smooth_frames=plain,
            ignore_skew=True,
            return_res=64 if plain else 32,
        )
    except Exception as error:  # the library raises whatever numpy or the decoder meets
        raise EcgFormatError(f"The signal file of {segment.path.name} cannot be decoded: {error}.") from error
    pieces = {}
    for i, digital in zip(channels, record.d_signal.T if plain else record.e_d_signal):
        name, per_frame = header.sig_name[i], header.samps_per_frame[i]
        if (first, last) == (0, n_frames) and header.checksum[i] is not None:
            _verify_checksum(segment.path, name, digital, header.checksum[i])
        scale = millivolts_per(header.units[i], name) / header.adc_gain[i]
        signal = ((digital - float(header.baseline[i])) * scale).astype(np.float32)
        signal[digital == STORAGE[header.fmt[i]][1]] = np.nan
        # A skewed signal was stored late: its sample n + skew belongs to time n (header(5)).
        offset = (start - first + header.skew[i]) * per_frame
        piece = signal[offset : offset + (stop - start) * per_frame]
        pieces[name] = np.pad(piece, (0, (stop - start) * per_frame - len(piece)), constant_values=np.nan)
    return pieces


def _verify_checksum(path: Path, name: str, digital: np.ndarray, expected: int) -> None:
    found = int(digital.sum(dtype=np.int64))
    if (found - expected) % 2**16:
        raise EcgFormatError(
            f"{path.name}: the checksum of {name} is {expected} in the header but {found % 2**16} in the signal file. "
            "The signal file is damaged or belongs to another header."
        )
