"""EDF, EDF+ and BDF files: the header is read with the `edfio` library, the samples here.

Specification: https://www.edfplus.info/specs/edfplus.html. The library maps the file into memory, where a file that is
cut meanwhile ends the process, reads BDF whole and reads what is left of a truncated file.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import edfio
import numpy as np

from ..record import MAX_SAMPLING_RATE, EcgFormatError, EcgRecord, Recording, check_size, later
from ..resampling import resample_invalid, resample_with_gaps
from ..signal_quality import no_value
from ..units import MILLIVOLTS_PER_UNIT
from .arrays import missing_notes
from .fields import age_at, other_channels
from .source import MAX_FILE_BYTES, Source, millivolts_per

_EDF, _BDF = b"0       ", b"\xffBIOSEMI"
_ANNOTATIONS = (b"EDF Annotations", b"BDF Annotations")
_STAMP_BYTES = 32  # of the onset of a data record, before the character 20


def matches(head: bytes, name: str) -> bool:
    """Say whether a file begins like EDF or BDF and its header is as long as its number of signals asks."""
    if head[:8] not in (_EDF, _BDF):
        return False
    return re.fullmatch(rb"\d+ *", head[184:192]) is not None


def read(source: Source) -> EcgRecord:
    """Read the ECG channels of a whole EDF or BDF file.

    Raises:
        EcgFormatError: If the file is truncated, discontinuous or damaged, or a channel or unit is unknown.
    """
    recording = open_recording(source)
    return recording.read(0, recording.n_frames)


def open_recording(source: Source) -> Recording:
    """Open an EDF or BDF file for reading in pieces."""
    layout = _Layout.of(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first data record alone is what it calls truncated
            head = source.part(0, layout.header_bytes + layout.record_bytes)
            read_head = edfio.read_bdf if layout.width == 3 else edfio.read_edf
            edf: edfio.Edf | edfio.Bdf = read_head(head, header_encoding="latin-1")
        # What are not signals are the annotations, which stand among them.
        rows = [i for i, label in enumerate(layout.labels) if label not in _ANNOTATIONS]
        signals: dict[int, edfio.EdfSignal | edfio.BdfSignal] = dict(zip(rows, edf.signals, strict=True))
        names = [_text(signals[i].label) if i in signals else "annotations" for i in range(len(layout.samples))]
        units = [_text(signals[i].physical_dimension) if i in signals else "" for i in range(len(names))]
        ranges = {i: (s.physical_min, s.physical_max, s.digital_min, s.digital_max) for i, s in signals.items()}
        filters = {i: _text(s.prefiltering) for i, s in signals.items()}
        duration = float(edf.data_record_duration)
        if not max((layout.samples[i] for i in rows), default=0) / MAX_SAMPLING_RATE <= duration < np.inf:
            raise ValueError(f"data records of {duration} s, too short for their samples")
        start_time, age, sex, device = _circumstances(edf)
    except Exception as error:  # the library raises whatever its parser meets
        raise EcgFormatError(f"{source.name} is a damaged EDF file: {error}.") from error
    if not layout.is_continuous(source, duration):
        raise EcgFormatError(f"{source.name} has gaps (EDF+D). Expected a continuous recording; split it at its gaps.")
    units = [source.units if source.units and _says_no_unit(unit) else unit for unit in units]
    kept = source.choose_leads(
        [names[i] for i in rows], other_channels(source, [names[i] for i in rows], [units[i] for i in rows])
    )
    chosen = {rows[k]: lead for k, lead in kept.items()}
    left_out = [f"{names[i]} ({units[i]})" for i in rows if i not in chosen]
    notes = [layout.note, f"left out: {', '.join(left_out)}" if left_out else ""]
    for i in chosen:
        if _says_no_unit(units[i]):
            raise EcgFormatError(
                f"{source.name} states no unit of {names[i][:40]} but {units[i][:40]!r}, which is not guessed. State "
                "`units=`."
            )
        _check_calibration(names[i], *ranges[i])
    millivolts = {i: millivolts_per(units[i], names[i]) for i in chosen}
    per_record = max(layout.samples[i] for i in chosen)
    rate = per_record / duration
    steps = {i: (ranges[i][1] - ranges[i][0]) / (ranges[i][3] - ranges[i][2]) for i in chosen}
    gains = {1 / abs(steps[i] * millivolts[i]) for i in chosen}

    def read_frames(start: int, stop: int) -> EcgRecord:
        check_size(len(chosen), stop - start, source.name)
        signal = np.empty((len(chosen), stop - start), dtype=np.float32)
        missing = np.zeros(signal.shape, dtype=bool)
        first_record, last_record = start // per_record, -(-stop // per_record)
        records = layout.read(source, first_record, last_record)
        length = (last_record - first_record) * per_record  # resampled as whole data records, whose ratio is exact
        part = slice(start - first_record * per_record, stop - first_record * per_record)
        for row, marks, i in zip(signal, missing, chosen):
            digital = layout.digital(records, i)
            marked = no_value(digital[None])[0]
            piece = ((digital.astype(np.float64) - ranges[i][3]) * steps[i] + ranges[i][1]) * millivolts[i]
            piece[marked] = np.nan
            if layout.samples[i] != per_record:
                marked = resample_invalid(marked, len(piece), length)
                piece = resample_with_gaps(piece[None], len(piece), length)[0]
            marks[:], row[:] = marked[part], piece[part]
        return source.record(
            signal,
            rate,
            tuple(chosen.values()),
            start_time=later(start_time, start / rate),
            age=age,
            sex=sex,
            device=device,
            unit=units[next(iter(chosen))],
            gain=next(iter(gains)) if len(gains) == 1 else None,
            filters="; ".join(sorted({filters[i] for i in chosen} - {""})) or None,
            notes=(*(note for note in notes if note), *missing_notes(chosen.values(), missing)),
        )

    return Recording(layout.n_records * per_record, rate, read_frames)


def _text(value: str) -> str:
    """Text of a header field, which is ASCII by the standard, UTF-8 in many files and Latin-1 in some."""
    value = value.strip("\0 ")
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _says_no_unit(unit: str) -> bool:
    """Whether a field holds no unit: blank, a filler, or letters lost by a change of encoding (`"?V"`)."""
    return unit.lower() not in MILLIVOLTS_PER_UNIT and not re.fullmatch(
        r"[\w%/°Ωµμ^.* ()-]*[A-Za-z%][\w%/^.* ()-]*", unit
    )


@dataclass(frozen=True)
class _Layout:
    """Where the samples stand: bytes of the header and of a sample, samples of each signal in a data record."""

    header_bytes: int
    n_records: int
    width: int
    samples: tuple[int, ...]
    labels: tuple[bytes, ...]
    note: str

    @classmethod
    def of(cls, source: Source) -> "_Layout":
        """Read the layout and compare the length that the header declares with the file.

        Fields by byte: 184 bytes in the header, 236 number of data records, 252 number of signals (ns), 256 their
        labels, 256 + 216 ns samples of each signal per data record; a sample has two bytes in EDF, three in BDF.
        """
        head = source.head
        try:
            header_bytes, n_records, n_signals = int(head[184:192]), int(head[236:244]), int(head[252:256])
            if not 0 < n_signals <= 4096 or header_bytes != 256 * (n_signals + 1):
                raise ValueError(f"{n_signals} signals in a header of {header_bytes} bytes")
            header = source.part(0, min(header_bytes, source.size))
            labels = tuple(header[256 + 16 * i : 272 + 16 * i].rstrip() for i in range(n_signals))
            fields = header[256 + 216 * n_signals : 256 + 224 * n_signals]
            samples = tuple(int(fields[8 * i : 8 * i + 8]) for i in range(n_signals))
            if min(samples) < 1:
                raise ValueError("a signal without samples")
        except ValueError as error:
            raise EcgFormatError(f"{source.name} has a damaged EDF header: {error}.") from error
        width = 3 if head[:8] == _BDF else 2
        record_bytes, held = width * sum(samples), source.size - header_bytes
        note = ""
        if n_records == -1 and held >= record_bytes and held % record_bytes == 0:
            n_records = held // record_bytes
            note = "the header leaves the length open (-1 data records); it follows from the file size"
        if n_records < 1 or held != n_records * record_bytes:
            raise EcgFormatError(
                f"{source.name} declares {n_records} data records of {record_bytes} bytes but holds {held} bytes of "
                "data. The file is truncated or the recorder never closed it."
            )
        if record_bytes > MAX_FILE_BYTES:
            raise EcgFormatError(f"{source.name} has data records of {record_bytes} bytes; expected shorter ones.")
        return cls(header_bytes, n_records, width, samples, labels, note)

    @property
    def record_bytes(self) -> int:
        """Length of a data record."""
        return self.width * sum(self.samples)

    def read(self, source: Source, first: int, last: int) -> np.ndarray:
        """Read data records as bytes of shape `(records, bytes)`."""
        start = self.header_bytes + first * self.record_bytes
        content = source.part(start, start + (last - first) * self.record_bytes)
        return np.frombuffer(content, np.uint8).reshape(-1, self.record_bytes)

    def digital(self, records: np.ndarray, i: int) -> np.ndarray:
        """Samples of a signal, in ADC units."""
        start = self.width * sum(self.samples[:i])
        own = np.ascontiguousarray(records[:, start : start + self.width * self.samples[i]])
        if self.width == 2:
            return own.view("<i2").reshape(-1)
        padded = np.zeros((own.size // 3, 4), np.uint8)
        padded[:, 1:] = own.reshape(-1, 3)
        return padded.view("<i4")[:, 0] >> 8

    def is_continuous(self, source: Source, duration: float) -> bool:
        """Whether every data record begins where the one before it ends, by their time stamps if there are any.

        The first signal of annotations begins each record with its onset in seconds and the character 20 (EDF+). Where
        the file says that it is continuous (EDF+C), stamps may be rounded to their last digit or to half a sample.
        """
        signal = next((i for i, label in enumerate(self.labels) if label in _ANNOTATIONS), None)
        if signal is None:
            return True
        start = self.width * sum(self.samples[:signal])
        stamp_bytes = min(_STAMP_BYTES, self.width * self.samples[signal])
        step = max(1, 2**22 // self.record_bytes)
        ecg_samples = [n for n, label in zip(self.samples, self.labels) if label not in _ANNOTATIONS]
        half = 0.5 * duration / max(ecg_samples, default=1)
        said_so = source.head[192:197] in (b"EDF+C", b"BDF+C")
        previous = None
        for first in range(0, self.n_records, step):
            records = self.read(source, first, min(first + step, self.n_records))
            for stamp in records[:, start : start + stamp_bytes]:
                text = stamp.tobytes().partition(b"\x14")[0]
                try:
                    onset = float(text)
                except ValueError:
                    raise EcgFormatError(f"{source.name} has a data record without its time: it is damaged.") from None
                rounding = max(half, 1.01 * 0.1 ** len(text.partition(b".")[2])) if said_so else 0.0
                if previous is not None and abs(onset - previous - duration) > rounding + 1e-6 * max(1.0, abs(onset)):
                    return False
                previous = onset
        return True


def _check_calibration(
    label: str, physical_min: float, physical_max: float, digital_min: int, digital_max: int
) -> None:
    if not np.isfinite(physical_max - physical_min) or physical_min == physical_max or digital_min >= digital_max:
        raise EcgFormatError(
            f"Channel {label!r} is not calibrated: physical range {physical_min:g} to {physical_max:g}, digital range "
            f"{digital_min} to {digital_max}. Expected two different values each."
        )


def _circumstances(
    edf: edfio.Edf | edfio.Bdf,
) -> tuple[datetime | None, float | None, str | None, str | None]:
    """Start time, age, sex and device; each `None` where plain EDF has free text or the file is anonymised."""
    start_time = _stated(lambda: edf.startdatetime)
    sex = {"M": "male", "F": "female"}.get(_stated(lambda: edf.patient.sex))
    birth = _stated(lambda: edf.patient.birthdate)
    device = _stated(lambda: edf.recording.equipment_code)
    return start_time, age_at(birth, start_time), sex, None if device == "X" else device


def _stated(value: Callable[[], Any]) -> Any:
    try:
        return value()
    except ValueError:
        return None
