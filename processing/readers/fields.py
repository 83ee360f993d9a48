"""Values of header fields: text, numbers, rates, times, age and sex, as the readers of several formats need them."""

import codecs
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from ..record import MAX_SAMPLING_RATE, EcgFormatError, printable
from ..units import MILLIVOLTS_PER_UNIT
from .source import Source, is_lead, is_no_ecg

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)
_COMMA = re.compile(r"[-+]?(?P<whole>\d*),(?P<rest>\d+)", re.ASCII)
_RATE = re.compile(r"(?P<number>[-+.,\de]*\d[.,]?) ?(?P<unit>1/s|s\^?-1|[^\d.,]*)", re.IGNORECASE | re.ASCII)
_HERTZ = {"hz": 1.0, "hertz": 1.0, "khz": 1000.0, "/s": 1.0, "1/s": 1.0, "s-1": 1.0, "s^-1": 1.0, "sps": 1.0}
_HERTZ |= {f"{name}{per}": 1.0 for name in ("samples", "sample") for per in ("/s", "/sec", "/second", " per second")}
SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
SECONDS |= {"us": 1e-6, "µs": 1e-6, "μs": 1e-6, "microseconds": 1e-6}
_LINE_ENDS = re.compile(r"\r\n|\n|\r")
_AXES = ("X", "Y", "Z")
# English, German, French, Spanish, Italian, Portuguese, Dutch, Chinese and Japanese. A number says nothing by itself:
# 1 is male in ISO 5218 and female in PTB-XL.
_MALE = "m male man mann männlich maennlich homme masculin hombre masculino uomo maschio maschile mannelijk 男 男性"
_FEMALE = (
    "f female w woman frau weiblich femme féminin feminin mujer femenino femenina donna femmina femminile feminino "
    "vrouw vrouwelijk 女 女性"
)
_SEXES = dict.fromkeys(_MALE.split(), "male") | dict.fromkeys(_FEMALE.split(), "female")


def decode_text(content: bytes, final: bool = True) -> str:
    """Return the text of a file in UTF-8 or UTF-16, with or without a byte order mark, else in Latin-1.

    Args:
        content (`bytes`): The file or its beginning.
        final (`bool`): Whether this is the whole file, so that a character cut at its end is an error.

    Example:

    >>> decode_text("\\ufeffµV".encode("utf-16-le")), decode_text(b"\\xb5V")
    ('µV', 'µV')
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif content[1::2].count(0) > len(content) // 4:  # ASCII in UTF-16 without a mark
        encodings = ["utf-16-le"]
    elif content[::2].count(0) > len(content) // 4:
        encodings = ["utf-16-be"]
    else:
        encodings = ["utf-8-sig"]
    for encoding in (*encodings, "latin-1"):
        try:
            return codecs.getincrementaldecoder(encoding)().decode(content, final)
        except UnicodeDecodeError:
            continue
    raise AssertionError("Latin-1 decodes any bytes")


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, without their ends and the blanks around them.

    Only CR and LF end a line: `str.splitlines` also splits at byte 0x85, a letter in many encodings.
    """
    return [line.strip(" \t") for line in _LINE_ENDS.split(text)]


def number_of(text: str | None, what: str) -> float:
    """Return a finite number.

    Raises:
        EcgFormatError: If the text is not a finite number in ASCII digits with a decimal point.

    Example:

    >>> number_of(" 500 ", "the sampling rate")
    500.0
    """
    bare = (text or "").strip()
    number = float(bare) if len(bare) <= 100 and _NUMBER.fullmatch(bare) else float("nan")
    if not np.isfinite(number):
        raise EcgFormatError(f"Expected a number for {what}, got {str(text)[:40]!r}.")
    return number


def rate_of(text: str, what: str, interval: bool = False) -> float:
    """Return the sampling rate in Hz of a text such as `"500"`, `"0.5 kHz"`, `"500 /s"` or, for an interval, `"2 ms"`.

    Args:
        text (`str`): A number, by itself in Hz, or with a unit. A comma is a decimal comma, unless its number could
            be read with either meaning.
        what (`str`): What it is, for the error message.
        interval (`bool`): Whether the text is a sampling interval, which needs its unit.

    Raises:
        EcgFormatError: If the text says no rate above 0, or leaves open which.

    Example:

    >>> rate_of("0.5 kHz", "fs"), rate_of("2 ms", "the interval", interval=True), rate_of("511,5 Hz", "fs")
    (500.0, 500.0, 511.5)
    """
    match = _RATE.fullmatch(" ".join(text.split())) if len(text) <= 100 else None
    unit = match["unit"].strip().lower() if match else ""
    if not match or (unit not in SECONDS if interval else unit and unit not in _HERTZ):
        expected = "a time in s, ms or us" if interval else "a rate such as '500 Hz' or '0.5 kHz'"
        raise EcgFormatError(f"Expected {expected} for {what}, got {text[:40]!r}.")
    scale = SECONDS[unit] if interval else _HERTZ.get(unit, 1.0)
    readings = {number_of(number, what) * scale for number in _readings(match["number"])}
    rates = {(1 / value if interval else value) for value in readings if value > 0}
    rates = {float(f"{rate:.12g}") for rate in rates if rate <= MAX_SAMPLING_RATE}  # 0.002 s is not exact in binary
    if len(rates) != 1:
        why = "can be read in two ways" if rates else f"is not above 0 and at most {MAX_SAMPLING_RATE:.0f} Hz"
        raise EcgFormatError(f"Expected one rate for {what}, got {text[:40]!r}, which {why}. Write it as in '500 Hz'.")
    return rates.pop()


def _readings(number: str) -> set[str]:
    """Return what a number with a comma can mean: `"1,000"` is 1 with decimals or 1000."""
    comma = _COMMA.fullmatch(number)
    if comma is None:
        return {number}
    decimal = number.replace(",", ".")
    thousands = len(comma["rest"]) == 3 and 1 <= len(comma["whole"]) <= 3 and not comma["whole"].startswith("0")
    return {decimal, number.replace(",", "")} if thousands else {decimal}


def other_channels(source: Source, names: Sequence[str], units: Sequence[str | None]) -> list[int]:
    """Return the channels that are not ECG, in a format that holds other signals too.

    X, Y and Z are the Frank leads in a unit of voltage beside limb and chest leads; in another unit they are the axes
    of an accelerometer, and anything else is for the caller to say. VX, VY and VZ are always the Frank leads.

    Args:
        source (`Source`): The file, for what the caller says of its channels.
        names (sequence of `str`): Names of the channels.
        units (sequence of `str` or `None`): Their units; `None` where the file states none.

    Raises:
        EcgFormatError: If there are axes that can be either.
    """
    others = [i for i, name in enumerate(names) if (unit := units[i]) is not None and is_no_ecg(name, unit)]
    axes = [i for i, name in enumerate(names) if name.strip().upper() in _AXES]
    foreign = [i for i in axes if (unit := units[i]) and unit.strip().lower() not in MILLIVOLTS_PER_UNIT]
    leads = {name.strip().upper() for name in names if is_lead(name)}
    is_frank = bool(leads & {"I", "II", "MLII"}) and bool(leads & {f"V{i}" for i in range(1, 7)})
    open_axes = [names[i] for i in axes if i not in foreign and names[i] not in (source.leads or ())]
    if open_axes and not is_frank:
        shown = ", ".join(printable(name, 10) for name in open_axes)
        raise EcgFormatError(
            f"{source.name} holds the channels {shown}, which can be Frank leads or the axes of an accelerometer. Say "
            f"which with `leads={{'{shown[:1]}': '{shown[:1]}', ...}}`, or `None` in its place to leave one out."
        )
    return others + foreign


def time_of(text: str | None, *formats: str) -> datetime | None:
    """Return the time written in the first of `formats` that fits, `None` when none does.

    Example:

    >>> time_of("20021122091000.000", "%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S")
    datetime.datetime(2002, 11, 22, 9, 10)
    """
    for pattern in formats:
        try:
            return datetime.strptime((text or "")[:100].strip(), pattern)
        except ValueError:
            continue
    return None


_DIGITS = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def time_of_digits(text: str | None) -> datetime | None:
    """Return the local time written as digits, from the year to the day, minute or second, as HL7 and DICOM do.

    Their number says how far it goes: `strptime` would take the last digits of a date for an hour and a minute. An
    offset from UTC is left aside.

    Example:

    >>> time_of_digits("20021122091000.25+0100"), time_of_digits("19531225")
    (datetime.datetime(2002, 11, 22, 9, 10, 0, 250000), datetime.datetime(1953, 12, 25, 0, 0))
    """
    found = re.fullmatch(r"(\d{8,14})(\.\d{1,9})?(Z|[+-]\d{4})?", (text or "")[:100].strip(), re.ASCII)
    time = time_of(found[1], _DIGITS[len(found[1])]) if found and len(found[1]) in _DIGITS else None
    if found is None or time is None or not found[2]:
        return time
    return time + timedelta(seconds=float(found[2])) if len(found[1]) == 14 else None


_PER_YEAR = {"y": 1.0, "a": 1.0, "m": 12.0, "w": 52.1775, "d": 365.25, "h": 8766.0}


def age_of(text: str | None, unit: str = "years") -> float | None:
    """Return an age in years between 0 and 130, `None` for anything else: an odd age must not lose the signal.

    Args:
        text (`str`, *optional*): The number.
        unit (`str`): Years, months, weeks, days or hours; its first letter counts (`a` is the year of UCUM).

    Example:

    >>> age_of("46"), age_of("6", "months"), age_of("---")
    (46.0, 0.5, None)
    """
    bare, per_year = (text or "")[:100].strip(), _PER_YEAR.get(unit.strip()[:1].lower())
    age = float(bare) / per_year if per_year and _NUMBER.fullmatch(bare) else -1.0
    return age if 0 <= age <= 130 else None


def age_at(birth: datetime | None, when: datetime | None) -> float | None:
    """Return the completed years from a birth date to a recording; `None` if unknown or not an age.

    The birth date itself is not kept: it identifies a person.

    Example:

    >>> age_at(datetime(1953, 5, 8), datetime(2002, 11, 22))
    49.0
    """
    if birth is None or when is None:
        return None
    return age_of(str(when.year - birth.year - ((when.month, when.day) < (birth.month, birth.day))))


def sex_of(text: str | None) -> str | None:
    """Return `"male"` or `"female"` for M, F, W, Male, männlich, femme and the like, `None` for anything else.

    Example:

    >>> sex_of("F"), sex_of("Männlich"), sex_of("UN"), sex_of("1")
    ('female', 'male', None, None)
    """
    return _SEXES.get((text or "").strip().lower())
