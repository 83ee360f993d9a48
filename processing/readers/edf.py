"""EDF, EDF+ and BDF files, read with the `edfio` library.

Specification: https://www.edfplus.info/specs/edfplus.html. The library reads what is left of a truncated file; the
length is checked here first.
"""

import re
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import edfio
import numpy as np

from ..record import EcgFormatError, EcgRecord, Recording, check_size
from ..resampling import resample_with_gaps
from .fields import age_at
from .source import Source, is_no_ecg, millivolts_per

_EDF, _BDF = b"0       ", b"\xffBIOSEMI"


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
    notes = [_check_length(source)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is in `notes`
            edf: edfio.Edf | edfio.Bdf
            if source.head[:8] == _BDF:  # read whole by the library, EDF on demand
                edf = edfio.read_bdf(source.data, header_encoding="latin-1")
            else:
                edf = edfio.read_edf(source.path or source.data, header_encoding="latin-1")
        signals = edf.signals
        labels, units = [s.label for s in signals], [s.physical_dimension for s in signals]
        rates, filters = [s.sampling_frequency for s in signals], [s.prefiltering for s in signals]
        ranges = [(s.physical_min, s.physical_max, s.digital_min, s.digital_max) for s in signals]
        continuous = edf.is_continuous
    except Exception as error:  # the library raises whatever its parser meets
        raise EcgFormatError(f"{source.name} is a damaged EDF file: {error}.") from error
    if not continuous:
        raise EcgFormatError(f"{source.name} has gaps (EDF+D). Expected a continuous recording; split it at its gaps.")
    chosen = source.choose_leads(labels, [i for i, label in enumerate(labels) if is_no_ecg(label, units[i])])
    left_out = [f"{labels[i]} ({units[i]})" for i in range(len(labels)) if i not in chosen]
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    millivolts = {i: millivolts_per(units[i], labels[i]) for i in chosen}
    for i in chosen:
        _check_calibration(labels[i], *ranges[i])
    if not 0 < edf.data_record_duration < np.inf:
        raise EcgFormatError(f"{source.name} has data records of {edf.data_record_duration} s; expected more than 0.")
    rate = max(rates[i] for i in chosen)
    n_frames = round(edf.num_data_records * edf.data_record_duration * rate)
    steps = {(ranges[i][1] - ranges[i][0]) * millivolts[i] / (ranges[i][3] - ranges[i][2]) for i in chosen}
    start_time, age, sex, device = _circumstances(edf)

    def read_frames(start: int, stop: int) -> EcgRecord:
        check_size(len(chosen), stop - start, source.name)
        signal = np.empty((len(chosen), stop - start), dtype=np.float32)
        for row, i in zip(signal, chosen):
            own = rates[i] / rate
            first, last = round(start * own), round(stop * own)
            piece = signals[i].get_data_slice(first / rates[i], last / rates[i]) * millivolts[i]
            row[:] = (
                piece if own == 1 else resample_with_gaps(piece[None], len(piece), stop - start)[0][: stop - start]
            )
        return EcgRecord(
            signal,
            rate,
            tuple(chosen.values()),
            record_id=source.path.stem if source.path else None,
            start_time=start_time and start_time + timedelta(seconds=start / rate),
            age=age,
            sex=sex,
            device=device,
            unit=units[next(iter(chosen))],
            gain=1 / next(iter(steps)) if len(steps) == 1 else None,
            filters="; ".join(sorted({filters[i] for i in chosen} - {""})) or None,
            source=str(source.path) if source.path else None,
            notes=tuple(note for note in notes if note),
        )

    return Recording(n_frames, rate, read_frames)


def _check_length(source: Source) -> str:
    """Compare the length that the header declares with the file, and return a note if the header leaves it open.

    Fields by byte: 184 bytes in the header, 236 number of data records, 252 number of signals (ns), 256 + 216 ns
    samples of
    each signal per data record; a sample has two bytes in EDF, three in BDF.
    """
    head = source.head
    try:
        header_bytes, n_records, n_signals = int(head[184:192]), int(head[236:244]), int(head[252:256])
        if not 0 < n_signals <= 4096 or header_bytes != 256 * (n_signals + 1):
            raise ValueError(f"{n_signals} signals in a header of {header_bytes} bytes")
        fields = (source.data if header_bytes > len(head) else head)[256 + 216 * n_signals : 256 + 224 * n_signals]
        samples = [int(fields[8 * i : 8 * i + 8]) for i in range(n_signals)]
        if min(samples) < 1:
            raise ValueError("a signal without samples")
    except ValueError as error:
        raise EcgFormatError(f"{source.name} has a damaged EDF header: {error}.") from error
    record_bytes = sum(samples) * (3 if head[:8] == _BDF else 2)
    held = source.size - header_bytes
    if n_records == -1 and held >= record_bytes and held % record_bytes == 0:
        return "the header leaves the length open (-1 data records); it follows from the file size"
    if n_records < 1 or held != n_records * record_bytes:
        raise EcgFormatError(
            f"{source.name} declares {n_records} data records of {record_bytes} bytes but holds {held} bytes of data. "
            "The file is truncated or the recorder never closed it."
        )
    return ""


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
