"""HL7 annotated ECG (aECG, HL7 V3 PORT_MT020001, ANSI/HL7 V3 ECG R1-2004).

A `series` of code RHYTHM holds `sequenceSet`s; one sequence of a set gives the time (`GLIST_TS` or `GLIST_PQ`: head
and increment), the others the leads (`SLIST_PQ`: value = origin + scale * digit). Series derived from it, such as
representative beats, lie in `derivation` and are not read.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from xml.etree.ElementTree import Element

import numpy as np

from ..record import EcgFormatError, EcgRecord, check_size
from .arrays import placed_in_time
from .calibration import cut_calibration
from .fields import SECONDS, age_at, age_of, number_of, sex_of, time_of_digits
from .source import Source, millivolts_per
from .xml_safety import has_root, parse_xml

_FILTER = "MDC_ECG_CTL_VBL_ATTR_FILTER_"


def matches(head: bytes, name: str) -> bool:
    """Return whether the file starts like an HL7 annotated ECG."""
    return has_root(head, "AnnotatedECG")


def read(source: Source) -> EcgRecord:
    """Read the rhythm series of an HL7 aECG file.

    Raises:
        EcgFormatError: If there is no rhythm series, or its leads differ in length or lack a scale or a unit.
    """
    root = parse_xml(source.data, "AnnotatedECG")
    found = [series for series in root.findall("component/series") if series.find("component/sequenceSet") is not None]
    all_series = [series for series in found if _code(series) == "RHYTHM"]
    if not all_series:
        raise EcgFormatError(
            f"Expected a series of code RHYTHM, found {[_code(series)[:40] for series in found] or 'none'}."
        )
    series = all_series[0]
    sets, left_out = _in_turn([_sequences(found) for found in series.findall("component/sequenceSet")])
    rate, start = sets[0].rate, sets[0].start
    leads = [lead for part in sets for lead in part.leads]
    first_samples = [round(part.seconds_after(sets[0]) * rate) for part in sets for _ in part.leads]
    check_size(len(leads), 1, source.name)
    rows = source.choose_leads([_code(lead)[:40] for lead in leads])
    signals = {i: _lead(leads[i]) for i in rows}
    lengths = [len(signal) for signal in signals.values()]
    if len(set(lengths)) > 1:
        raise EcgFormatError(f"Expected leads of one length, got {lengths[:12]}.")
    scales = {(_value(leads[i], "value/scale"), _value(leads[i], "value/scale", "unit") or "") for i in rows}
    step, unit = next(iter(scales))
    signal, notes = placed_in_time(list(signals.values()), [first_samples[i] for i in rows], source.name)
    if not notes:
        signal, notes = cut_calibration(signal, rate)

    notes += tuple(f"A derived series was left out: {_code(derived)}." for derived in series.iter("derivedSeries"))
    if len(all_series) > 1 or left_out:
        notes += (f"The first of {len(all_series)} rhythm series was read, and {left_out} of its sequence sets not.",)
    age, sex = _subject(root, start)
    return source.record(
        signal=signal,
        sampling_rate=rate,
        leads=tuple(rows.values()),
        start_time=start or time_of_digits(_value(series, "effectiveTime/low")),
        age=age,
        sex=sex,
        device=_device(series),
        unit=unit,
        gain=1 / (number_of(step, "the scale") * millivolts_per(unit)) if len(scales) == 1 else None,
        filters=_filters(series),
        notes=notes,
    )


@dataclass(frozen=True)
class _Sequences:
    """Leads of a sequence set, their rate in Hz, and when they begin: as a time, or in seconds of the series."""

    leads: list[Element]
    rate: float
    start: datetime | None
    offset: float

    def seconds_after(self, other: "_Sequences") -> float:
        """Return by how much these leads begin later than others."""
        if self.start is not None and other.start is not None:
            return (self.start - other.start).total_seconds()
        return self.offset - other.offset


def _sequences(found: Element) -> _Sequences:
    sequences = found.findall("component/sequence")
    times = [sequence for sequence in sequences if _code(sequence).startswith("TIME_")]
    if len(times) != 1:
        raise EcgFormatError(f"Expected one time sequence in the rhythm series, found {len(times)}.")
    leads = [sequence for sequence in sequences if not _code(sequence).startswith("TIME_")]
    return _Sequences(leads, *_time(times[0]))


def _in_turn(sets: list[_Sequences]) -> tuple[list[_Sequences], int]:
    """Return the sets whose leads were recorded in turn, by time, and how many others there are.

    Sets of another rate or kind of time than the first, or with a lead that another holds already, stay apart.
    """
    kept: dict[str, _Sequences] = {}
    for part in sets:
        codes = {_code(lead) for lead in part.leads}
        fits = part.rate == sets[0].rate and (part.start is None) == (sets[0].start is None)
        if fits and not codes & kept.keys():
            kept |= dict.fromkeys(codes, part)
    chosen = [part for part in sets if any(part is other for other in kept.values())] or sets[:1]
    return sorted(chosen, key=lambda part: part.seconds_after(chosen[0])), len(sets) - len(chosen)


def _code(element: Element) -> str:
    return _value(element, "code", "code") or ""


def _value(element: Element, path: str, attribute: str = "value") -> str | None:
    found = element.find(path)
    return None if found is None else found.get(attribute)


def _time(sequence: Element) -> tuple[float, datetime | None, float]:
    """Sampling rate in Hz, and the time of the first sample, if it is absolute, or its seconds in the series."""
    value = sequence.find("value")
    kind = None if value is None else value.get("type")
    unit = _value(sequence, "value/increment", "unit")
    if kind not in ("GLIST_TS", "GLIST_PQ") or unit not in SECONDS:
        raise EcgFormatError(
            f"Expected GLIST_TS or GLIST_PQ with an increment in s, ms or us, got {str(kind)[:9]!r} in {unit!r:.20}."
        )
    interval = number_of(_value(sequence, "value/increment"), "the time increment") * SECONDS[unit]
    if not 1e-6 <= interval <= 10:
        raise EcgFormatError(f"Expected a time increment from 1 us to 10 s, got {interval:g} s.")
    # 0.002 s is not exact in binary; twelve digits of the rate are what the text can mean.
    rate, head = float(f"{1 / interval:.12g}"), _value(sequence, "value/head")
    if kind == "GLIST_TS":
        return rate, time_of_digits(head), 0.0
    scale = SECONDS.get(_value(sequence, "value/head", "unit") or unit, 0.0)
    return rate, None, number_of(head, "the head of the time") * scale if head else 0.0


def _lead(sequence: Element) -> np.ndarray:
    value, name = sequence.find("value"), _code(sequence)[:40]
    if value is None or value.get("type") != "SLIST_PQ":
        raise EcgFormatError(
            f"Expected SLIST_PQ samples in {name}, got {'none' if value is None else str(value.get('type'))[:40]}."
        )
    scale = number_of(_value(value, "scale"), f"the scale of {name}")
    origin = number_of(_value(value, "origin"), f"the origin of {name}")
    if scale == 0:
        raise EcgFormatError(f"Expected a scale other than 0 in {name}.")
    scale *= millivolts_per(_value(value, "scale", "unit") or "", f"the scale of {name}")
    origin *= millivolts_per(_value(value, "origin", "unit") or "", f"the origin of {name}")
    return origin + scale * _digits(value.findtext("digits") or "", name)


def _digits(text: str, name: str) -> np.ndarray:
    odd = re.search(r"[^-+0-9\s]|[-+](?![0-9])|[0-9][-+]|[0-9]{10}", text)
    if odd or not text.isascii():
        found = text[max(0, odd.start() - 9) : odd.start() + 10] if odd else "other digits than 0 to 9"
        raise EcgFormatError(f"Expected whole numbers as the digits of {name}, got: {found[:40]!r}.")
    return np.fromstring(text, dtype=np.int64, sep=" ") if text.strip() else np.array([], dtype=np.int64)


def _subject(root: Element, when: datetime | None) -> tuple[float | None, str | None]:
    """Age in years, reported or from the birth date, and sex."""
    age = sex = None
    person = next(root.iter("subjectDemographicPerson"), None)
    if person is not None:
        age = age_at(time_of_digits(_value(person, "birthTime")), when)
        gender = "administrativeGenderCode"
        sex = sex_of(_value(person, gender, "code")) or sex_of(_value(person, gender, "displayName"))
    for observation in root.iter("relatedObservation"):
        if _code(observation) == "21612-7":  # LOINC: reported age
            reported = age_of(_value(observation, "value"), _value(observation, "value", "unit") or "")
            age = age if reported is None else reported
    return age, sex


def _device(series: Element) -> str | None:
    author = series.find("author/seriesAuthor")
    if author is None:
        return None
    parts = (
        author.findtext("manufacturerOrganization/name"),
        author.findtext("manufacturedSeriesDevice/manufacturerModelName"),
    )
    return " ".join(part.strip() for part in parts if part) or None


def _filters(series: Element) -> str | None:
    parts = []
    for variable in series.findall("controlVariable/controlVariable"):
        if _code(variable).startswith(_FILTER):
            name = _code(variable)[len(_FILTER) :].lower().replace("_", "-")
            facts = [item.find("value") for item in variable.findall("component/controlVariable")]
            values = [
                f"{fact.get('value')} {fact.get('unit')}" for fact in facts if fact is not None and fact.get("value")
            ]
            parts.append(" ".join([name, *values]))
    return ", ".join(parts) or None
