"""GE MUSE XML (root `<RestingECG>`).

There is no public standard; the layout is that of the exports of MUSE 7 to 9 (`restecg.dtd`, not distributed): base64
of little-endian int16 per lead, `LeadDataCRC32` over those bytes. The export stores I, II and V1 to V6; the other limb
leads follow from I and II (`modeling_merit.processing.leads`).
"""

import zlib
from xml.etree.ElementTree import Element

import numpy as np

from ..leads import STANDARD_LEADS, derive_limb_leads
from ..record import EcgFormatError, EcgRecord, check_size
from .fields import age_of, number_of, sex_of, time_of
from .source import Source
from .xml_safety import base64_samples, has_root, parse_xml, text_of

_UNITS = {"MICROVOLTS": 1e-3, "MILLIVOLTS": 1.0}


def matches(head: bytes, name: str) -> bool:
    """Return whether the file starts like GE MUSE XML."""
    return has_root(head, "RestingECG")


def read(source: Source) -> EcgRecord:
    """Read the rhythm waveform of a GE MUSE XML file, with III, aVR, aVL and aVF derived where they are not stored.

    Raises:
        EcgFormatError: If there is no rhythm waveform, or its samples do not have the declared number or checksum.
    """
    root = parse_xml(source.data, "RestingECG")
    waveforms = [waveform for waveform in root.findall("Waveform") if waveform.findtext("WaveformType") == "Rhythm"]
    if not waveforms:
        found = [waveform.findtext("WaveformType", "")[:40] for waveform in root.findall("Waveform")]
        raise EcgFormatError(f"Expected a <Waveform> of type Rhythm, found {found or 'none'}.")
    rhythm = waveforms[0]
    exponent = number_of(rhythm.findtext("SampleExponent", "0"), "the exponent of the sampling rate")
    if abs(exponent) > 6:
        raise EcgFormatError(f"Expected an exponent of the sampling rate from -6 to 6, got {exponent:g}.")
    rate = number_of(text_of(rhythm, "SampleBase"), "the sampling rate") * 10**exponent
    elements = rhythm.findall("LeadData")
    declared = number_of(rhythm.findtext("NumberofLeads", str(len(elements))), "the number of leads")
    check_size(len(elements), 1, source.name)
    names = [text_of(element, "LeadID")[:40] for element in elements]
    if declared != len(elements):
        raise EcgFormatError(f"Expected {declared:g} leads, found {len(elements)}. The file is incomplete.")

    rows = source.choose_leads(names)
    stored = {lead: _lead(elements[i], names[i]) for i, lead in rows.items()}
    if len({len(signal) for signal in stored.values()}) > 1:
        raise EcgFormatError(f"Expected leads of one length, got { {lead: len(x) for lead, x in stored.items()} }.")
    derived = derive_limb_leads(stored, STANDARD_LEADS)
    signals = {**stored, **derived}
    if set(signals) == set(STANDARD_LEADS):
        signals = {lead: signals[lead] for lead in STANDARD_LEADS}

    notes = [f"{', '.join(derived)} derived from I and II; the file does not store them."] if derived else []
    off = [lead for i, lead in rows.items() if elements[i].findtext("LeadOff", "").strip().upper() == "TRUE"]
    if off:
        notes.append(f"The device reports a loose electrode in {', '.join(off)}.")
    if len(waveforms) > 1:
        notes.append(f"The first of {len(waveforms)} rhythm waveforms was read.")
    steps = {_millivolts_per_bit(elements[i]) for i in rows}
    test = root.find("TestDemographics")
    test = Element("TestDemographics") if test is None else test
    when = f"{test.findtext('AcquisitionDate')} {test.findtext('AcquisitionTime')}"
    age_unit = root.findtext("PatientDemographics/AgeUnits", "YEARS")
    return source.record(
        signal=np.stack(list(signals.values())),
        sampling_rate=rate,
        leads=tuple(signals),
        start_time=time_of(when, "%m-%d-%Y %H:%M:%S"),
        age=age_of(root.findtext("PatientDemographics/PatientAge"), age_unit),
        sex=sex_of(root.findtext("PatientDemographics/Gender")),
        device=f"GE MUSE {root.findtext('MuseInfo/MuseVersion', '')} {test.findtext('AcquisitionDevice', '')}".strip(),
        unit="uV",
        gain=1 / steps.pop() if len(steps) == 1 else None,
        filters=_filters(rhythm),
        notes=tuple(notes),
    )


def _lead(element: Element, name: str) -> np.ndarray:
    """Decode one lead in mV, checking its length and checksum."""
    n_samples = number_of(text_of(element, "LeadSampleCountTotal"), f"the samples of lead {name}")
    n_bytes = number_of(element.findtext("LeadSampleSize", "2"), f"the sample size of lead {name}")
    data = base64_samples(element.findtext("WaveFormData"), f"lead {name}")
    if n_bytes != 2 or n_samples != int(n_samples) or len(data) != 2 * n_samples:
        raise EcgFormatError(
            f"Expected {n_samples:g} samples of 2 bytes in lead {name}, got {len(data)} bytes and the sample size "
            f"{n_bytes:g}. The file is damaged."
        )
    check_size(1, int(n_samples), f"Lead {name}")
    declared = (element.findtext("LeadDataCRC32") or "").strip()
    if declared and number_of(declared, f"the checksum of lead {name}") != zlib.crc32(data):
        raise EcgFormatError(
            f"Expected the checksum {declared[:20]} in lead {name}, got {zlib.crc32(data)}. It is damaged."
        )
    for field in ("LeadOffsetFirstSample", "LeadTimeOffset", "FirstSampleBaseline"):
        value = element.findtext(field, "0")
        if number_of(value, field) != 0:
            raise EcgFormatError(f"Expected {field} 0 in lead {name}, got {value[:20]!r}.")
    return np.frombuffer(data, "<i2") * _millivolts_per_bit(element)


def _millivolts_per_bit(element: Element) -> float:
    unit = text_of(element, "LeadAmplitudeUnits").upper()
    step = number_of(text_of(element, "LeadAmplitudeUnitsPerBit"), "LeadAmplitudeUnitsPerBit")
    if unit not in _UNITS or step <= 0:
        raise EcgFormatError(f"Expected a step above 0 in {' or '.join(_UNITS)}, got {step:g} {unit[:40]}.")
    return step * _UNITS[unit]


def _filters(rhythm: Element) -> str | None:
    """MUSE gives the high-pass cut-off in hundredths of a hertz."""
    parts = []
    for name, field, scale in (
        ("high-pass", "HighPassFilter", 0.01),
        ("low-pass", "LowPassFilter", 1),
        ("notch", "ACFilter", 1),
    ):
        text = (rhythm.findtext(field) or "").strip()
        if text.isascii() and text.isdigit():
            parts.append(f"{name} {int(text[:9]) * scale:g} Hz")
    return ", ".join(parts) or None
