"""Mortara (Baxter, Hill-Rom) ELI XML: root `<ECG>` with one `<CHANNEL>` per lead.

There is no public standard and no openly licensed device export; the layout follows the test fixture of
UMMISCO/ECGDataKit (Apache-2.0), so a file of a device may hold variations that are refused here.
"""

from xml.etree.ElementTree import Element

import numpy as np

from ..record import EcgFormatError, EcgRecord, check_size
from .fields import age_of, number_of, sex_of, time_of_digits
from .source import Source
from .xml_safety import base64_samples, has_root, parse_xml


def matches(head: bytes, name: str) -> bool:
    """Return whether the file starts like Mortara XML."""
    return has_root(head, "ECG") and b"ACQUISITION_TIME" in head.replace(b"\0", b"")


def read(source: Source) -> EcgRecord:
    """Read a Mortara XML file.

    Raises:
        EcgFormatError: If a channel is not base64 of signed 16-bit samples, has another number of samples than it
            declares, or the channels differ in rate or length.
    """
    root = parse_xml(source.data, "ECG")
    channels = root.findall("CHANNEL")
    check_size(len(channels), 1, source.name)
    rows = source.choose_leads([channel.get("NAME", "")[:40] for channel in channels])
    rates = {number_of(channel.get("SAMPLE_FREQ"), "SAMPLE_FREQ") for channel in channels}
    lengths = {number_of(channel.get("DURATION"), "DURATION") for channel in channels}
    if len(rates) > 1 or len(lengths) > 1:
        raise EcgFormatError(
            f"Expected channels of one rate and length, got {sorted(rates)[:9]} Hz and {sorted(lengths)[:9]} samples."
        )
    n_samples = lengths.pop()
    check_size(len(rows), int(n_samples), source.name)
    gains = {_gain(channels[i]) for i in rows}
    device = root.find("SOURCE")
    device = Element("SOURCE") if device is None else device
    subject = root.find("SUBJECT")
    return source.record(
        signal=np.stack([_samples(channels[i], n_samples) for i in rows]),
        sampling_rate=rates.pop(),
        leads=tuple(rows.values()),
        start_time=time_of_digits(root.get("ACQUISITION_TIME")),
        age=age_of(root.get("AGE")) if root.get("AGE_UNITS", "Y").upper() in ("Y", "YEARS") else None,
        sex=None if subject is None else sex_of(subject.get("GENDER")),
        device=f"{device.get('MANUFACTURER', '')} {device.get('MODEL', '')}".strip() or None,
        unit="mV",
        gain=gains.pop() if len(gains) == 1 else None,
        filters=f"low-pass {device.get('LOW_PASS_FILTER')} Hz" if device.get("LOW_PASS_FILTER") else None,
    )


def _gain(channel: Element) -> float:
    gain = number_of(channel.get("UNITS_PER_MV"), "UNITS_PER_MV")
    if gain <= 0:
        raise EcgFormatError(f"Expected UNITS_PER_MV above 0, got {gain:g}.")
    return gain


def _samples(channel: Element, n_samples: float) -> np.ndarray:
    name = channel.get("NAME", "")[:40]
    layout = tuple(channel.get(field, "")[:20].upper() for field in ("ENCODING", "FORMAT", "BITS"))
    if layout != ("BASE64", "SIGNED", "16"):
        raise EcgFormatError(f"Expected base64 of signed 16-bit samples in channel {name}, got {layout}.")
    offset = channel.get("OFFSET", "0")
    if number_of(offset, "OFFSET") != 0:
        raise EcgFormatError(f"Expected OFFSET 0 in channel {name}, got {offset[:20]!r}.")
    data = base64_samples(channel.get("DATA"), f"channel {name}")
    if n_samples != int(n_samples) or len(data) != 2 * n_samples:
        raise EcgFormatError(
            f"Expected {n_samples:g} samples in channel {name}, got {len(data) / 2:g}. The file is damaged."
        )
    return np.frombuffer(data, "<i2") / _gain(channel)
