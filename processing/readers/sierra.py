"""Philips Sierra XML, versions 1.03 and 1.04 (TraceMaster, PageWriter, HeartStart).

There is no public standard; the XLI compression (10-bit LZW over second differences, limb leads as residuals of the
Einthoven and Goldberger sums) is as published by C. Watford in sierra-ecg-tools,
https://github.com/sixlettervariables/sierra-ecg-tools (MIT). The library of that project is not used: it follows the
chunk lengths of the file without a bound.
"""

from xml.etree.ElementTree import Element

import numpy as np

from .fields import age_at, age_of, number_of, sex_of, time_of
from .record import EcgRecord
from .source import EcgFormatError, Source, check_size
from .xml_safety import base64_samples, has_root, parse_xml, text_of

_VERSIONS = ("1.03", "1.04", "1.04.01", "1.04.02")
_TWELVE_WIRES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_LZW_BITS = 10


def matches(head: bytes, name: str) -> bool:
    """Return whether the file starts like Philips Sierra XML."""
    return has_root(head, "restingecgdata")


def read(source: Source) -> EcgRecord:
    """Read a Philips Sierra XML file; the calibration second that the device appends is cut.

    Raises:
        EcgFormatError: If the file is no Sierra XML of a known version, or its samples are damaged or incomplete.
    """
    root = parse_xml(source.data, "restingecgdata")
    kind, version = text_of(root, "documentinfo/documenttype"), text_of(root, "documentinfo/documentversion")
    if kind not in ("SierraECG", "PhilipsECG") or version not in _VERSIONS:
        raise EcgFormatError(
            f"Expected SierraECG or PhilipsECG {', '.join(_VERSIONS)}, got {kind[:40]} {version[:40]}."
        )
    acquisition, waveforms = root.find("dataacquisition"), root.find("waveforms/parsedwaveforms")
    signal_facts = root.find("dataacquisition/signalcharacteristics")
    if acquisition is None or signal_facts is None or waveforms is None:
        raise EcgFormatError("Expected <signalcharacteristics> and <parsedwaveforms>, found only one or none.")

    names = _lead_names(signal_facts, waveforms)
    rate = number_of(text_of(signal_facts, "samplingrate"), "the sampling rate")
    resolution = signal_facts.findtext("resolution") or signal_facts.findtext("signalresolution")
    microvolts = number_of(resolution, "the resolution in uV")
    if microvolts <= 0 or number_of(signal_facts.findtext("signaloffset", "0"), "the offset") != 0:
        raise EcgFormatError(
            f"Expected a resolution above 0 uV and no signal offset, got {microvolts:g} uV and an offset."
        )
    duration_ms = number_of(waveforms.get("durationperchannel"), "the duration per channel")
    n_samples = _count(duration_ms * rate / 1000)
    check_size(len(names), n_samples, source.name)

    samples = _samples(waveforms, len(names), n_samples)
    rows = source.choose_leads(names)
    signal, notes = cut_calibration(samples[list(rows)] * (microvolts / 1000), rate)
    when = time_of(f"{acquisition.get('date')} {acquisition.get('time')}", "%Y-%m-%d %H:%M:%S")
    patient = root.find("patient/generalpatientdata")
    age = sex = None
    if patient is not None:
        age = age_of(patient.findtext("age/years")) or age_at(
            time_of(patient.findtext("age/dateofbirth"), "%Y-%m-%d"), when
        )
        sex = sex_of(patient.findtext("sex"))
    return EcgRecord(
        signal=signal,
        sampling_rate=rate,
        leads=tuple(rows.values()),
        record_id=source.path.stem if source.path else None,
        start_time=when,
        age=age,
        sex=sex,
        device=f"Philips {root.findtext('dataacquisition/machine', '').strip()}".strip(),
        unit="uV",
        gain=1000 / microvolts,
        filters=_filters(root),
        source=str(source.path) if source.path else None,
        notes=notes,
    )


def cut_calibration(signal: np.ndarray, rate: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """Cut the last second if it ends in the calibration pulse of Philips devices: 1 mV for 0.2 s, then 0 mV for 0.1 s.

    Args:
        signal (`np.ndarray` of shape `(leads, samples)`): In millivolts.
        rate (`float`): Hz.

    Returns:
        `tuple`: The signal and the notes for its record.
    """
    second, tenth = round(rate), round(rate / 10)
    if tenth < 2 or signal.shape[1] < 2 * second:
        return signal, ()
    # One sample of leeway at each edge, in case the pulse is placed on another multiple of the sampling interval.
    pulse, after = signal[:, -3 * tenth + 1 : -tenth - 1], signal[:, -tenth + 1 :]
    if not (np.abs(pulse - 1).max() <= 0.01 and np.abs(after).max() <= 0.01):
        return signal, ()
    return signal[:, :-second], ("The last second was cut: it ends in the 1 mV calibration pulse of the device.",)


def _lead_names(signal_facts: Element, waveforms: Element) -> list[str]:
    labels = (waveforms.get("leadlabels") or "").split()
    if labels:
        n_leads = _count(number_of(waveforms.get("numberofleads"), "the number of leads"))
        return [label[:40] for label in labels[:n_leads]]
    n_channels = _count(number_of(text_of(signal_facts, "numberchannelsallocated"), "the number of channels"))
    placement = text_of(signal_facts, "acquisitiontype")
    if placement not in ("STD-12", "10-WIRE") or n_channels > len(_TWELVE_WIRES):
        raise EcgFormatError(f"Expected lead labels or a standard 12-lead acquisition, got {placement[:40]!r}.")
    return list(_TWELVE_WIRES[:n_channels])


def _count(number: float) -> int:
    if not 1 <= number < 2**31 or number != int(number):
        raise EcgFormatError(f"Expected a whole number of leads and samples above 0, got {number:g}.")
    return int(number)


def _samples(waveforms: Element, n_leads: int, n_samples: int) -> np.ndarray:
    if waveforms.get("dataencoding") != "Base64":
        raise EcgFormatError(f"Expected Base64 samples, got {waveforms.get('dataencoding')!r}.")
    data = base64_samples(waveforms.text, "the waveforms")
    compression = waveforms.get("compressmethod") or waveforms.get("compression") or "Uncompressed"
    if compression == "XLI":
        samples = np.array(_decode_xli(data, n_leads, n_samples))
        _restore_limb_leads(samples)
        return samples
    if compression != "Uncompressed" or len(data) != 2 * n_leads * n_samples:
        raise EcgFormatError(
            f"Expected XLI or {2 * n_leads * n_samples} bytes of uncompressed samples, got {compression[:40]!r} and "
            f"{len(data)} bytes."
        )
    return np.frombuffer(data, "<i2").reshape(n_leads, n_samples).astype(np.int64)


def _decode_xli(data: bytes, n_leads: int, n_samples: int) -> list[np.ndarray]:
    """One chunk per channel: length (int32), two bytes unused, first delta (int16), then the LZW codes."""
    chunks, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "little")
        first = int.from_bytes(data[position + 6 : position + 8], "little", signed=True)
        chunks.append((first, data[position + 8 : position + 8 + length]))
        position += 8 + length
    # Devices write sixteen channels, the last four unused; all have to be whole, or the file was cut.
    if len(chunks) < n_leads or position != len(data):
        raise EcgFormatError(f"Expected {n_leads} whole compressed leads, got {len(chunks)} chunks and a part of one.")
    leads = []
    for first, chunk in chunks[:n_leads]:
        # The high bytes of all samples come before the low bytes.
        high, low = np.frombuffer(_decode_lzw(chunk, 2 * n_samples), np.uint8).reshape(2, n_samples).astype(np.int64)
        leads.append(_second_sum(((high << 8 | low) ^ 0x8000) - 0x8000, first))
    return leads


def _second_sum(deltas: np.ndarray, first: int) -> np.ndarray:
    """x[0] and x[1] are stored; then x[i] = 2 x[i-1] - x[i-2] - d[i-1] + 64, with `first` in place of d[1] - 64."""
    if len(deltas) < 3:
        return deltas
    steps = -np.concatenate([[first], deltas[2:-1] - 64])
    slopes = (deltas[1] - deltas[0]) + np.cumsum(steps)
    values = np.concatenate([deltas[:2], deltas[1] + np.cumsum(slopes)])
    if np.abs(values).max() > 32768:
        raise EcgFormatError("Expected 16-bit samples, got larger ones. The waveforms are damaged.")
    return values


def _decode_lzw(chunk: bytes, expected: int) -> bytes:
    """LZW with fixed 10-bit codes, highest bit first; stops at `expected` bytes, so it cannot grow without bound."""
    top = (1 << _LZW_BITS) - 2
    words = [bytes([value]) for value in range(256)]
    output, previous = bytearray(), b""
    bits, n_bits = 0, 0
    for byte in chunk:
        bits, n_bits = (bits << 8 | byte) & 0x3FFFF, n_bits + 8
        if n_bits < _LZW_BITS:
            continue
        n_bits -= _LZW_BITS
        code = (bits >> n_bits) & (1 << _LZW_BITS) - 1
        if code > top:
            break
        if code > len(words) or (code == len(words) and not previous):
            raise EcgFormatError(f"Expected an LZW code up to {len(words)}, got {code}. The waveforms are damaged.")
        word = words[code] if code < len(words) else previous + previous[:1]
        if previous and len(words) <= top:
            words.append(previous + word[:1])
        output += word
        previous = word
        if len(output) > expected + 1:
            break
    # A lead with an odd number of bytes is padded by one.
    if len(output) not in (expected, expected + 1):
        raise EcgFormatError(f"Expected {expected} bytes of samples per lead, got {len(output)}. The file is damaged.")
    return bytes(output[:expected])


def _restore_limb_leads(samples: np.ndarray) -> None:
    """III, aVR, aVL and aVF are stored as residuals of the lead sums, rounded down."""
    if len(samples) < 6:
        raise EcgFormatError(f"Expected at least the six limb leads in XLI waveforms, got {len(samples)} leads.")
    i, ii, iii, avr, avl, avf = samples[:6]
    iii[:] = ii - i - iii
    avr[:] = -avr - (i + ii) // 2
    avl[:] = (i - iii) // 2 - avl
    avf[:] = (ii + iii) // 2 - avf


def _filters(root: Element) -> str | None:
    facts = {
        "high-pass": root.findtext("reportinfo/reportbandwidth/highpassfiltersetting"),
        "low-pass": root.findtext("reportinfo/reportbandwidth/lowpassfiltersetting"),
        "notch": root.findtext("reportinfo/reportbandwidth/notchfiltersetting"),
    }
    return ", ".join(f"{name} {value.strip()} Hz" for name, value in facts.items() if (value or "").strip()) or None
