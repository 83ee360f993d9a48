"""Philips Sierra XML, versions 1.03 and 1.04 (TraceMaster, PageWriter, HeartStart).

There is no public standard; the layout is that of the samples in sierra-ecg-tools of C. Watford,
https://github.com/sixlettervariables/sierra-ecg-tools (MIT), the compression is in `xli`.
"""

from xml.etree.ElementTree import Element

import numpy as np

from ..record import EcgFormatError, EcgRecord, check_size
from .calibration import cut_calibration
from .fields import age_at, age_of, number_of, sex_of, time_of
from .source import Source
from .xli import decode_xli, restore_limb_leads
from .xml_safety import base64_samples, has_root, parse_xml, text_of

_VERSIONS = ("1.03", "1.04", "1.04.01", "1.04.02")
_TWELVE_WIRES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def matches(head: bytes, name: str) -> bool:
    """Return whether the file starts like Philips Sierra XML."""
    return has_root(head, "restingecgdata")


def read(source: Source) -> EcgRecord:
    """Read a Philips Sierra XML file; the calibration second that the device appends is cut.

    Raises:
        EcgFormatError: If the file is not Sierra XML of a known version, or its samples are damaged or incomplete.
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
        age = age_of(patient.findtext("age/years"))
        if age is None:
            age = age_at(time_of(patient.findtext("age/dateofbirth"), "%Y-%m-%d"), when)
        sex = sex_of(patient.findtext("sex"))
    return source.record(
        signal=signal,
        sampling_rate=rate,
        leads=tuple(rows.values()),
        start_time=when,
        age=age,
        sex=sex,
        device=f"Philips {root.findtext('dataacquisition/machine', '').strip()}".strip(),
        unit="uV",
        gain=1000 / microvolts,
        filters=_filters(root),
        notes=notes,
    )


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
        raise EcgFormatError(f"Expected Base64 samples, got {str(waveforms.get('dataencoding'))[:40]!r}.")
    data = base64_samples(waveforms.text, "the waveforms")
    compression = waveforms.get("compressmethod") or waveforms.get("compression") or "Uncompressed"
    if compression == "XLI":
        samples = np.array(decode_xli(data, n_leads, n_samples))
        restore_limb_leads(samples)
        return samples
    if compression != "Uncompressed" or len(data) != 2 * n_leads * n_samples:
        raise EcgFormatError(
            f"Expected XLI or {2 * n_leads * n_samples} bytes of uncompressed samples, got {compression[:40]!r} and "
            f"{len(data)} bytes."
        )
    return np.frombuffer(data, "<i2").reshape(n_leads, n_samples).astype(np.int64)


def _filters(root: Element) -> str | None:
    facts = {
        "high-pass": root.findtext("reportinfo/reportbandwidth/highpassfiltersetting"),
        "low-pass": root.findtext("reportinfo/reportbandwidth/lowpassfiltersetting"),
        "notch": root.findtext("reportinfo/reportbandwidth/notchfiltersetting"),
    }
    stated = {name: value.strip() for name, value in facts.items() if value and value.strip()}
    return ", ".join(f"{name} {value} Hz" for name, value in stated.items()) or None
