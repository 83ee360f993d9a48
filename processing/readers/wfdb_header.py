"""WFDB headers, read strictly: a damaged number never passes as a missing one.

Standard: https://physionet.org/physiotools/wag/header-5.htm
"""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from ..record import MAX_LEADS, MAX_SAMPLES, MAX_SAMPLING_RATE, EcgFormatError, printable
from .fields import age_of, decode_text, lines_of, sex_of, time_of
from .source import regular_file, sibling_file
from .wfdb_signals import STORAGE, held_frames

MAX_HEADER_BYTES = 2**20
MAX_LINE = 1000
"""Most characters of a line that describes a record, signal or segment."""
MAX_SEGMENTS = 10_000

RECORD_LINE = re.compile(
    r"(?P<name>[-\w]+)(/(?P<segments>\d{1,9}))?\s+(?P<signals>\d{1,9})"
    r"(\s+(?P<rate>(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?)(/\S+)?(\s+(?P<length>\d{1,30})(\s+(?P<when>.*))?)?)?",
    re.ASCII | re.IGNORECASE,
)
_SIGNAL_FIELDS = (
    r"\s(?P<fmt>\d{1,3})(x(?P<per_frame>[1-9]\d{0,11}))?(:(?P<skew>\d{1,9}))?(\+(?P<offset>\d{1,18}))?"
    r"(\s(?P<gain>[-+]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)(\((?P<baseline>-?\d{1,10})\))?(/(?P<unit>\S+))?"
    r"(\s\d{1,9}(\s(?P<zero>-?\d{1,10})(\s(?P<first>-?\d{1,10})(\s(?P<checksum>-?\d{1,10})(\s-?\d{1,10})?)?)?)?"
    r"(\s(?P<name>.*))?)?)?"
)
_SEGMENT_FIELDS = r"\s(?P<length>\d{1,18})"
_AGE = re.compile(
    r"(?<![^\W_])age>?\s{0,9}[:=]\s{0,9}(\d{1,3}(?:\.\d{1,9})?)(?![\d.])[ \t]{0,9}([a-z]*)", re.IGNORECASE
)
_SEX = re.compile(r"(?<![^\W_])(?:sex|gender|sexe|sexo|geschlecht)>?\s{0,9}[:=]\s{0,9}([^\W\d_]+)", re.IGNORECASE)
_NO_YEARS = re.compile(r"d|mos?|(month|mth|week|wk|day|hour|monat|woche|tag|mois|jour)\w*", re.IGNORECASE)
_MIT_BIH = re.compile(r"(?P<age>\d{1,3}) (?P<sex>[MF]) \d+ \d+ \w+$", re.ASCII)  # first comment of an MIT-BIH header


@dataclass(frozen=True)
class Signal:
    """A line of a header: where the samples of a signal stand and what they mean.

    Args:
        file (`str`): Name of the signal file; `"~"` if there is none.
        fmt (`str`): Storage format, a key of `wfdb_signals.STORAGE`.
        per_frame (`int`): Samples per frame.
        skew (`int`): Frames by which the samples stand too late in the file.
        offset (`int`): Bytes before the first sample.
        gain (`float`): ADC units per unit; never 0.
        baseline (`int`): ADC value of 0.
        unit (`str`): Unit of the signal.
        first (`int`): Value before the first sample, for format 8.
        checksum (`int`, *optional*): Sum of all samples, modulo 65536.
        name (`str`): Name of the signal.
    """

    file: str
    fmt: str
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    first: int
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Header:
    """A header of a record, of one or, with `segments`, several pieces.

    Args:
        path (`Path`): The `.hea` file.
        rate (`float`): Frames per second.
        n_frames (`int`, *optional*): Length; `None` if the header leaves it open.
        start_time (`datetime`, *optional*): Time of the first sample.
        comments (`tuple[str, ...]`): Without their `#`.
        signals (`tuple[Signal, ...]`): Empty for a record of segments.
        segments (`tuple[tuple[str, int], ...]`): Name and length; the name `"~"` is a gap.
        notes (`tuple[str, ...]`): What a reader should know.
    """

    path: Path
    rate: float
    n_frames: int | None
    start_time: datetime | None
    comments: tuple[str, ...]
    signals: tuple[Signal, ...]
    segments: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the signals."""
        return tuple(signal.name for signal in self.signals)


def read_header(path: Path, sampling_rate: float | None = None) -> Header:
    """Read and check a header.

    Args:
        path (`Path`): The `.hea` file.
        sampling_rate (`float`, *optional*): Hz, for a header that states none.

    Raises:
        EcgFormatError: If a line is not of the form that the standard gives.
    """
    size = regular_file(path).stat().st_size
    if size > MAX_HEADER_BYTES:
        raise EcgFormatError(f"{path.name} has {size} bytes; a WFDB header has at most {MAX_HEADER_BYTES}.")
    text = [line for line in lines_of(decode_text(path.read_bytes())) if line]
    lines = [re.sub(r"[ \t]+", " ", line) for line in text if not line.startswith("#") and len(line) <= MAX_LINE]
    if len(lines) < sum(not line.startswith("#") for line in text):
        raise EcgFormatError(f"{path.name} has lines of more than {MAX_LINE} characters, so it is not a WFDB header.")
    record = _record_line(path, lines)
    described = int(record["segments"] or record["signals"])
    if len(lines) - 1 != described:
        raise EcgFormatError(f"{path.name} announces {described} signals or segments but describes {len(lines) - 1}.")
    rate = float(record["rate"] or 0) or sampling_rate
    if rate is None:
        raise EcgFormatError(f"{path.name} states no sampling rate. State it with `sampling_rate=` (Hz).")
    if not 0 < rate <= MAX_SAMPLING_RATE:
        raise EcgFormatError(
            f"{path.name}: expected a sampling rate above 0 and at most {MAX_SAMPLING_RATE:.0f} Hz, got {rate:g}."
        )
    notes: list[str] = []
    return Header(
        path,
        float(rate),
        int(record["length"] or 0) or None,
        time_of(record["when"], "%H:%M:%S %d/%m/%Y", "%H:%M:%S.%f %d/%m/%Y"),
        tuple(line.strip(" \t#") for line in text if line.startswith("#")),
        () if record["segments"] else tuple(_signals(path, lines[1:], notes)),
        tuple(_segments(path, lines[1:])) if record["segments"] else (),
        tuple(notes),
    )


def _record_line(path: Path, lines: list[str]) -> re.Match[str]:
    """Read the first line. A name with a blank is told by the file's name and the number of lines that follow."""
    first = lines[0] if lines else ""
    found = []
    plain = RECORD_LINE.fullmatch(first)
    if plain and int(plain["segments"] or plain["signals"]) == len(lines) - 1:
        found.append((plain["name"], plain))
    words = first.split(" ")
    for n in range(2, min(len(words), 10)):
        joined = RECORD_LINE.fullmatch(" ".join(["_".join(words[:n]), *words[n:]]))
        if joined and joined["rate"] and int(joined["segments"] or joined["signals"]) == len(lines) - 1:
            found.append((" ".join(words[:n]).partition("/")[0], joined))
    own = [match for name, match in found if name == path.stem]
    if len(found) > 1 and len(own) != 1:
        raise EcgFormatError(
            f"{path.name} begins with {first[:60]!r}, which can be read in two ways if the name of the record has a "
            "blank in it. Rename the record without blanks."
        )
    match = own[0] if own else found[0][1] if found else plain
    if match is None:
        raise EcgFormatError(
            f"{path.name} is not a WFDB header: expected a first line like '100 2 360 650000', got {first[:60]!r}."
        )
    return match


def _signals(path: Path, lines: list[str], notes: list[str]) -> list[Signal]:
    if not 1 <= len(lines) <= MAX_LEADS:
        raise EcgFormatError(f"{path.name} describes {len(lines)} signals; expected 1 to {MAX_LEADS}.")
    pattern = re.compile(_file_name(path) + _SIGNAL_FIELDS, re.IGNORECASE | re.ASCII)
    signals = []
    for i, line in enumerate(lines):
        fields = pattern.fullmatch(line)
        if not fields or not np.isfinite(float(fields["gain"] or 0)):
            raise EcgFormatError(
                f"{path.name}: damaged signal line {line[:80]!r}; expected 'FILE FORMAT GAIN/UNIT BITS ZERO "
                "FIRST CHECKSUM 0 NAME'."
            )
        if fields["fmt"] not in STORAGE:
            raise EcgFormatError(
                f"{path.name}: unknown storage format {fields['fmt']}; expected {', '.join(STORAGE)}."
            )
        per_frame = int(fields["per_frame"] or 1)
        if per_frame > MAX_SAMPLES:
            raise EcgFormatError(f"{path.name} claims {per_frame} samples per frame.")
        name, gain, zero = fields["name"] or f"signal {i}", float(fields["gain"] or 0), int(fields["zero"] or 0)
        if gain == 0:  # uncalibrated: 200 units per unit; an absent unit means mV
            notes.append(f"{printable(name, 40)}: uncalibrated, read with the standard's 200 ADC units per mV")
        signals.append(
            Signal(
                fields["file"],
                fields["fmt"],
                per_frame,
                int(fields["skew"] or 0),
                int(fields["offset"] or 0),
                gain or 200.0,
                int(fields["baseline"] or zero),
                fields["unit"] or "mV",
                int(fields["first"] or zero),
                None if fields["checksum"] is None else int(fields["checksum"]),
                name,
            )
        )
    return signals


def _segments(path: Path, lines: list[str]) -> list[tuple[str, int]]:
    if not 1 <= len(lines) <= MAX_SEGMENTS:
        raise EcgFormatError(f"{path.name} describes {len(lines)} segments; expected 1 to {MAX_SEGMENTS}.")
    pattern = re.compile(_file_name(path) + _SEGMENT_FIELDS, re.ASCII)
    matches = [(line, pattern.fullmatch(line)) for line in lines]
    damaged = next((line for line, match in matches if match is None), None)
    if damaged is not None:
        raise EcgFormatError(f"{path.name}: damaged segment line {damaged[:80]!r}; expected 'NAME LENGTH'.")
    return [(match["file"], int(match["length"])) for _, match in matches if match]


def _file_name(path: Path) -> str:
    """Pattern of the name of a file in a header, which has a blank only where the name of the header has one."""
    return rf"(?P<file>\S+|{re.escape(path.stem)}\S*)" if " " in path.stem else r"(?P<file>\S+)"


def named_file(path: Path, name: str) -> Path:
    """Return the file `name` beside the header `path`; where only the case of letters differs, that one.

    A record copied from a medium without case has a header that says `rec.dat` and a file `REC.DAT`.

    Raises:
        EcgFormatError: As `sibling_file`.
    """
    plain = not any(character in name for character in "/\\:\0") and len(name) < 256
    if plain and not (path.parent / name).exists():
        same = [other.name for other in path.parent.iterdir() if other.name.lower() == name.lower()]
        name = same[0] if len(same) == 1 else name
    return sibling_file(path, name)


def count_frames(header: Header, signals: list[Signal]) -> tuple[int, list[str]]:
    """Return the length in frames and notes, after checking that the files of these signals hold it.

    Raises:
        EcgFormatError: If a file is missing, outside the folder or shorter than the header says.
    """
    frames, notes = header.n_frames, []
    for name in dict.fromkeys(signal.file for signal in signals):
        if name == "~":
            raise EcgFormatError(
                f"{header.path.name} is the layout of a record of several segments and holds no samples. Read the "
                "header that names its segments."
            )
        held = held_frames(named_file(header.path, name), [s for s in header.signals if s.file == name], header.path)
        frames = held if frames is None else frames
        if held < frames:
            raise EcgFormatError(
                f"{header.path.name} claims {frames} samples per signal, but {name[:60]} holds only {max(held, 0)}. "
                "The file is truncated or belongs to another header."
            )
        if held > frames + 3:  # packed formats round up to whole blocks
            notes.append(f"{name} holds {held - frames} samples more than the header says; they are not read")
    if not frames or frames < 0:
        raise EcgFormatError(f"{header.path.name}: the signal files hold no sample.")
    return frames, notes


def age_and_sex(comments: tuple[str, ...] | list[str]) -> tuple[float | None, str | None]:
    """Return age in years and sex from the comments of a header, as PhysioNet's databases and challenges write them.

    Example:

    >>> age_and_sex(["Age: 59", "Sex: Female"]), age_and_sex(["69 M 1085 1629 x1"])
    ((59.0, 'female'), (69.0, 'male'))
    """
    text = "\n".join(comments)
    mit_bih = next((match for match in map(_MIT_BIH.match, comments) if match), None)
    age, sex = _AGE.search(text), _SEX.search(text)
    years = age[1] if age and not _NO_YEARS.fullmatch(age[2]) else mit_bih["age"] if mit_bih and not age else None
    known = age_of(years)
    return (
        known if known is not None and known <= 120 else None,
        sex_of(sex[1] if sex else mit_bih["sex"] if mit_bih else None),
    )


__all__ = ["RECORD_LINE", "Header", "Signal", "age_and_sex", "count_frames", "named_file", "read_header"]
