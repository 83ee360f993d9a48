"""DICOM waveforms: 12-lead, General and Ambulatory ECG (PS3.3 section A.34, Waveform Module C.10.9).

Value = stored * ChannelSensitivity * ChannelSensitivityCorrectionFactor + ChannelBaseline (C.10.9.1.4.2), in the unit
of ChannelSensitivityUnitsSequence (UCUM). Parsing is done by pydicom.
"""

import re
import warnings
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.waveforms.numpy_handler import multiplex_array

from ..record import EcgFormatError, EcgRecord, check_size
from ..signal_quality import no_value
from ..units import MILLIVOLTS_PER_UNIT
from .arrays import missing_notes, placed_in_time
from .fields import age_at, age_of, sex_of, time_of_digits
from .lead_codes import LEAD_CODES
from .source import Source

_IMPLICIT = b"1.2.840.10008.1.2"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TAGS = [
    *("WaveformSequence", "SOPClassUID", "AcquisitionDateTime", "ContentDate", "ContentTime"),
    *("PatientAge", "PatientBirthDate", "PatientSex", "Manufacturer", "ManufacturerModelName", "SpecificCharacterSet"),
]
_LINEAR = ("SS", "US", "SB", "UB", "SL", "UL")
_BEAT_LABELS = ("MEDIAN", "BEAT", "REPRESENTATIVE", "AVERAGE", "TEMPLATE")
_ITEM = b"\xfe\xff\x00\xe0"
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
MAX_ELEMENTS = 10_000
"""Most elements of a file; a 12-lead ECG has some two thousand."""


def matches(head: bytes, name: str) -> bool:
    """Return whether the file has the DICOM prefix (PS3.10 section 7.1)."""
    return head[128:132] == b"DICM"


def read(source: Source) -> EcgRecord:
    """Read the rhythm of a DICOM ECG: all multiplex groups of one rate and length, without representative beats.

    Raises:
        EcgFormatError: If the file is not a DICOM waveform, is compressed, or its samples are incomplete or not
            calibrated.
    """
    data = source.data
    _check_elements(data)
    if not matches(data[:132], source.name):
        raise EcgFormatError(f"{source.name} lacks the prefix DICM at byte 128, so it is not a DICOM file.")
    if _DEFLATED in data:
        raise EcgFormatError(
            "Expected an uncompressed DICOM file, got one in the deflated transfer syntax. Inflate it, for example "
            "with dcmconv --write-xfer-little."
        )
    try:
        with config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of spelling, such as a malformed UID; what matters is checked here
            dataset = dcmread(BytesIO(data), specific_tags=_TAGS)
            if not dataset.original_encoding[1]:
                raise EcgFormatError(
                    "Expected a little-endian DICOM file, got the big-endian syntax, retired in 2006."
                )
            return _record(dataset, source)
    except EcgFormatError:
        raise
    except Exception as error:  # pydicom raises what its parsing steps raise: struct.error, KeyError, TypeError, ...
        raise EcgFormatError(
            f"Expected a whole DICOM file, pydicom found: {type(error).__name__}: {error}"[:300]
        ) from None


def _record(dataset: Dataset, source: Source) -> EcgRecord:
    groups = list(dataset.get("WaveformSequence") or [])
    if not groups:
        kind = dataset.get("SOPClassUID")
        raise EcgFormatError(f"Expected a DICOM waveform, got {kind.name if kind else 'no SOP class'} without one.")
    candidates = [(i, group) for i, group in enumerate(groups) if not _is_beat(group)]
    notes = [f"Group {i + 1} was left out: {_label(group)}." for i, group in enumerate(groups) if _is_beat(group)]
    if not candidates:
        raise EcgFormatError(
            f"Expected a rhythm, got only representative beats: {[_label(group) for group in groups]}."
        )
    shape = max(
        ((_rate(group), int(group.NumberOfWaveformSamples)) for _, group in candidates), key=lambda x: x[1] / x[0]
    )
    rate, n_samples = shape

    names, signals, starts, gains, units = [], [], [], [], []
    for i, group in candidates:
        if (_rate(group), int(group.NumberOfWaveformSamples)) != shape:
            notes.append(f"Group {i + 1} was left out: {_label(group)}, of another rate or length.")
            continue
        start = round(float(group.get("MultiplexGroupTimeOffset") or 0) / 1000 * rate)
        for name, signal, gain, unit in _channels(dataset, i, source.units, notes):
            names.append(name)
            signals.append(signal)
            starts.append(start)
            gains.append(gain)
            units.append(unit)
    if not signals:
        raise EcgFormatError("Expected channels of a voltage, got none.")
    rows = source.choose_leads(names)
    full, in_turn = placed_in_time([signals[i] for i in rows], [starts[i] for i in rows], source.name)
    when = str(
        dataset.get("AcquisitionDateTime") or f"{dataset.get('ContentDate', '')}{dataset.get('ContentTime', '')}"
    )
    start_time = time_of_digits(when)
    age = re.fullmatch(r"(\d{3})([DWMY])", str(dataset.get("PatientAge") or ""))  # PS3.5 section 6.2, AS
    birth = time_of_digits(str(dataset.get("PatientBirthDate") or ""))
    return source.record(
        signal=full,
        sampling_rate=rate,
        leads=tuple(rows.values()),
        start_time=start_time,
        age=age_of(*age.groups()) if age else age_at(birth, start_time),
        sex=sex_of(str(dataset.get("PatientSex") or "")),
        device=f"{dataset.get('Manufacturer') or ''} {dataset.get('ManufacturerModelName') or ''}".strip() or None,
        unit=units[0],
        gain=gains[0] if len(set(gains)) == 1 else None,
        notes=tuple(dict.fromkeys([*notes, *in_turn])),
    )


def _check_elements(data: bytes) -> None:
    """Refuse more than `MAX_ELEMENTS` data elements and items, over which pydicom would take minutes.

    Walks through the elements of PS3.5 section 7.1 in one level: the header of a sequence or item is an element, its
    content follows. Where the structure is damaged the walk ends; pydicom then says what is wrong.
    """
    syntax = data.find(b"\x02\x00\x10\x00UI", 132, 1024) + 8
    length = int.from_bytes(data[syntax - 2 : syntax], "little")
    is_implicit = syntax > 8 and data[syntax : syntax + length].strip(b"\0 ") == _IMPLICIT
    at, count, size = 132, 0, len(data)
    while at + 8 <= size:
        count += 1
        if count > MAX_ELEMENTS:
            raise EcgFormatError(
                f"The DICOM file holds more than {MAX_ELEMENTS} elements. Save the waveform without the other data."
            )
        if data[at : at + 2] == b"\xfe\xff":  # an item or the end of one: no value representation
            at += 8
            continue
        if is_implicit and data[at : at + 2] != b"\x02\x00":  # the group of the file's own header is explicit
            length, start = int.from_bytes(data[at + 4 : at + 8], "little"), at + 8
        elif data[at + 4 : at + 6] in _LONG:
            length, start = int.from_bytes(data[at + 8 : at + 12], "little"), at + 12
        else:
            length, start = int.from_bytes(data[at + 6 : at + 8], "little"), at + 8
        is_sequence = length == 0xFFFFFFFF or data[start : start + 4] == _ITEM
        at = start if is_sequence else start + length


def _rate(group: Dataset) -> float:
    rate = float(group.get("SamplingFrequency") or 0)
    if not 0 < rate < 1e6:
        raise EcgFormatError(f"Expected a sampling frequency above 0, got {rate:g}.")
    return rate


def _label(group: Dataset) -> str:
    return str(group.get("MultiplexGroupLabel") or "no label")[:40]


def _is_beat(group: Dataset) -> bool:
    return any(word in _label(group).upper() for word in _BEAT_LABELS)


def _channels(
    dataset: Dataset, index: int, stated_unit: str | None, notes: list[str]
) -> Iterator[tuple[str, np.ndarray, float, str]]:
    """Yield (lead name in the file, signal in mV, ADC units per mV, unit) of the voltage channels of a group."""
    group = dataset.WaveformSequence[index]
    n_channels, n_samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    definitions = list(group.ChannelDefinitionSequence)
    check_size(n_channels, n_samples, f"Group {index + 1}")
    expected = n_channels * n_samples * int(group.WaveformBitsAllocated) // 8
    # An odd number of bytes is padded by one (PS3.5 section 7.1.1).
    if len(group.WaveformData) != expected + expected % 2 or len(definitions) != n_channels:
        raise EcgFormatError(
            f"Expected {expected} bytes of {n_channels} channels in group {index + 1}, got {len(group.WaveformData)} "
            f"bytes of {len(definitions)}. The file is damaged or cut short."
        )
    if group.WaveformSampleInterpretation not in _LINEAR:
        raise EcgFormatError(
            f"Expected linear samples ({', '.join(_LINEAR)}), got {group.WaveformSampleInterpretation}."
        )
    stored = multiplex_array(dataset, index, as_raw=True)
    invalid = np.zeros(stored.shape, bool)
    padding = group.get("WaveformPaddingValue")
    if padding is not None:
        value = np.frombuffer(padding, stored.dtype)[0] if isinstance(padding, bytes) else padding
        if value == 0:
            notes.append("WaveformPaddingValue 0 was not believed: it would make every true zero invalid.")
        else:
            invalid = stored == value
    missing: dict[str, np.ndarray] = {}
    for channel, definition in enumerate(definitions):
        name = _lead_name(definition)
        unit = _unit(definition) or stated_unit
        if not unit:
            raise EcgFormatError(f"Channel {name} has no unit, which is not guessed. State `units=`.")
        if unit.lower() not in MILLIVOLTS_PER_UNIT:
            notes.append(f"Channel {name} was left out: its unit is {unit[:20]}.")
            continue
        correction = definition.get("ChannelSensitivityCorrectionFactor")
        sensitivity = float(definition.get("ChannelSensitivity") or 0)
        factor = sensitivity * (1.0 if correction in (None, "") else float(correction))
        if not factor or not np.isfinite(factor):
            raise EcgFormatError(f"Channel {name} is not calibrated: expected a sensitivity other than 0.")
        if float(definition.get("ChannelSampleSkew") or 0) or float(definition.get("ChannelTimeSkew") or 0):
            notes.append(f"The skew of channel {name} was not undone.")
        millivolts = MILLIVOLTS_PER_UNIT[unit.lower()]
        signal = (stored[:, channel] * factor + float(definition.get("ChannelBaseline") or 0)) * millivolts
        missing[name] = no_value(stored[:, channel][None])[0]
        invalid[:, channel] |= missing[name]
        yield name, np.where(invalid[:, channel], np.nan, signal), abs(1 / (factor * millivolts)), unit
    notes += missing_notes(missing, list(missing.values()))


def _unit(definition: Dataset) -> str:
    codes = definition.get("ChannelSensitivityUnitsSequence") or [Dataset()]
    return str(codes[0].get("CodeValue") or "").strip("\0 ")


def _lead_name(definition: Dataset) -> str:
    """Lead by its code (MDC 2:n or SCPECG 5.6.3-9-n; PS3.16 CID 3001), else by the name of the code or the channel."""
    code = definition.ChannelSourceSequence[0] if definition.get("ChannelSourceSequence") else Dataset()
    number = re.fullmatch(r"(?:2:|5\.6\.3-9-)(\d{1,3})", str(code.get("CodeValue", "")))
    if number and int(number[1]) in LEAD_CODES:
        return LEAD_CODES[int(number[1])]
    return str(code.get("CodeMeaning") or definition.get("ChannelLabel") or "no name")[:40]
