"""WFDB headers, read strictly: the `wfdb` library skips what it does not understand, so that a damaged number would
pass.

Standard: https://physionet.org/physiotools/wag/header-5.htm
"""

import re
from collections.abc import Collection
from pathlib import Path

import wfdb

from ..record import MAX_LEADS, MAX_SAMPLES, EcgFormatError
from .source import regular_file, sibling_file

MAX_HEADER_BYTES = 2**20
# Bits per sample on disk and the value that marks an invalid sample, per storage format. FLAC (5xx) has no fixed size.
STORAGE = {
    "8": (8, None),
    "80": (8, -(2**7)),
    "310": (32 / 3, -(2**9)),
    "311": (32 / 3, -(2**9)),
    "212": (12, -(2**11)),
}
STORAGE |= {
    "16": (16, -(2**15)),
    "61": (16, -(2**15)),
    "160": (16, -(2**15)),
    "24": (24, -(2**23)),
    "32": (32, -(2**31)),
}
STORAGE["0"] = (0, None)  # a signal of a layout header, which has no file
STORAGE |= {"508": (None, -(2**7)), "516": (None, -(2**15)), "524": (None, -(2**23))}

RECORD_LINE = re.compile(r"[-\w]+(/\d+)?\s+\d+(\s+(?P<rate>\d+\.?\d*|\.\d+)(/\S+)?(\s+\d+(\s+.*)?)?)?")
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)\s+\d+(x[1-9]\d*)?(:\d+)?(\+\d+)?"
    r"(\s+(?P<gain>\d+\.?\d*(e[+-]?\d+)?)(\(-?\d+\))?(/(?P<unit>\S+))?(\s+\d+(\s+-?\d+){0,4}(\s.*)?)?)?",
    re.IGNORECASE,
)
_CLOCK_AND_DATE = re.compile(r"\s\d+:\d\d:[\d.]+\s+\d+/\d+/\d+$")
_AGE = re.compile(r"age>?\s*:\s*(\d+(\.\d+)?)", re.IGNORECASE)
_SEX = re.compile(r"sex>?\s*:\s*(male|female|m|f)\b", re.IGNORECASE)
_MIT_BIH = re.compile(r"(?P<age>\d{1,3}) (?P<sex>[MF]) \d+ \d+ \w+$")  # first comment of an MIT-BIH header


def read_header(path: Path, sampling_rate: float | None = None) -> wfdb.Record | wfdb.MultiRecord:
    """Read and check a header.

    Args:
        path (`Path`): The `.hea` file.
        sampling_rate (`float`, *optional*): Hz, for a header that states none.

    Returns:
        `wfdb.Record` or `wfdb.MultiRecord`: With `fs` as float, units filled in, and the additional fields `notes`
        (list of
        `str`) and `start_time` (`datetime` or `None`).

    Raises:
        EcgFormatError: If a line is not of the form that the standard gives.
    """
    if regular_file(path).stat().st_size > MAX_HEADER_BYTES:
        raise EcgFormatError(
            f"{path.name} has {path.stat().st_size} bytes; a WFDB header has at most {MAX_HEADER_BYTES}."
        )
    content = path.read_bytes()
    # The library drops the micro sign of "µV", which stands in one byte (Latin-1) or two (UTF-8).
    lines = [line.strip() for line in content.replace(b"\xc2\xb5", b"\xb5").decode("latin-1").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    record_line = RECORD_LINE.fullmatch(lines[0]) if lines else None
    if record_line is None:
        found = lines[0][:60] if lines else ""
        raise EcgFormatError(
            f"{path.name} is no WFDB header: expected a first line like '100 2 360 650000', got {found!r}."
        )
    described = int(lines[0].split()[0].partition("/")[2] or lines[0].split()[1])
    if len(lines) - 1 != described:
        raise EcgFormatError(f"{path.name} announces {described} signals or segments but describes {len(lines) - 1}.")
    try:
        header = wfdb.rdheader(str(path.with_suffix("")))
    except Exception as error:  # the library raises whatever its parser meets
        raise EcgFormatError(f"{path.name} is a damaged WFDB header: {error}.") from error
    rate = float(record_line["rate"] or 0) or sampling_rate
    if rate is None:
        raise EcgFormatError(f"{path.name} states no sampling rate. State it with `sampling_rate=` (Hz).")
    header.fs, header.notes = float(rate), []
    header.start_time = getattr(header, "base_datetime", None) if _CLOCK_AND_DATE.search(lines[0]) else None
    if isinstance(header, wfdb.Record):
        _check_signals(path, header, lines[1:])
    return header


def _check_signals(path: Path, header: wfdb.Record, lines: list[str]) -> None:
    if not 1 <= len(lines) <= MAX_LEADS:
        raise EcgFormatError(f"{path.name} describes {len(lines)} signals; expected 1 to {MAX_LEADS}.")
    for i, line in enumerate(lines):
        fields = _SIGNAL_LINE.fullmatch(line)
        if not fields:
            raise EcgFormatError(
                f"{path.name}: damaged signal line {line[:80]!r}; expected 'FILE FORMAT GAIN/UNIT BITS ZERO "
                "FIRST CHECKSUM 0 NAME'."
            )
        if header.fmt[i] not in STORAGE:
            raise EcgFormatError(
                f"{path.name}: unknown storage format {header.fmt[i]}; expected {', '.join(STORAGE)}."
            )
        # A gain that is absent or 0 means uncalibrated, 200 units per unit; an absent unit means mV.
        header.units[i] = fields["unit"] or "mV"
        header.sig_name[i] = header.sig_name[i] or f"signal {i}"
        if float(fields["gain"] or 0) == 0:
            header.notes.append(f"{header.sig_name[i]}: uncalibrated, read with the standard's 200 ADC units per mV")
        header.samps_per_frame[i] = header.samps_per_frame[i] or 1
        header.skew[i] = header.skew[i] or 0
        header.byte_offset[i] = header.byte_offset[i] or 0


def count_frames(path: Path, header: wfdb.Record, channels: Collection[int]) -> int:
    """Return the length in frames, after checking that the signal files of these channels hold it.

    Raises:
        EcgFormatError: If a file is missing, outside the folder or shorter than the header says.
    """
    frames = header.sig_len
    for name in dict.fromkeys(header.file_name[i] for i in channels):
        rows = [i for i, file_name in enumerate(header.file_name) if file_name == name]
        if name == "~":
            raise EcgFormatError(
                f"{path.name} is the layout of a record of several segments and holds no samples. Read the header "
                "that names its segments."
            )
        file = sibling_file(path, name)
        if len({(header.fmt[i], header.byte_offset[i]) for i in rows}) > 1:
            raise EcgFormatError(
                f"{path.name} gives {name} more than one storage format or offset; expected one per file."
            )
        bits, _ = STORAGE[header.fmt[rows[0]]]
        per_frame = sum(header.samps_per_frame[i] for i in rows)
        if per_frame > MAX_SAMPLES:
            raise EcgFormatError(f"{path.name} claims {per_frame} samples per frame in {name}.")
        if bits is None:
            held = _flac_frames(file) // header.samps_per_frame[rows[0]]
        else:
            held = int((file.stat().st_size - header.byte_offset[rows[0]]) * 8 / bits / per_frame + 1e-9)
        frames = held if frames is None else frames
        if held < frames:
            raise EcgFormatError(
                f"{path.name} claims {frames} samples per signal, but {name} holds only {max(held, 0)}. "
                "The file is truncated or belongs to another header."
            )
        if held > frames + 3:  # packed formats round up to whole blocks
            header.notes.append(f"{name} holds {held - frames} samples more than the header says; they are not read")
    return frames


def _flac_frames(file: Path) -> int:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError('Reading FLAC-coded WFDB files needs soundfile: pip install "merit-ecg[formats]"') from error
    try:
        return soundfile.info(str(file)).frames
    except soundfile.LibsndfileError as error:
        raise EcgFormatError(f"{file.name} is no FLAC file: {error}.") from error


def age_and_sex(comments: list[str]) -> tuple[float | None, str | None]:
    """Return age in years and sex from the comments of a header, as PhysioNet's databases and challenges write them.

    Example:

    >>> age_and_sex(["Age: 59", "Sex: Female"]), age_and_sex(["69 M 1085 1629 x1"])
    ((59.0, 'female'), (69.0, 'male'))
    """
    text = "\n".join(comments)
    mit_bih = next((match for match in map(_MIT_BIH.match, comments) if match), None)
    age, sex = _AGE.search(text), _SEX.search(text)
    years = float(age[1]) if age else float(mit_bih["age"]) if mit_bih else None
    letter = sex[1] if sex else mit_bih["sex"] if mit_bih else ""
    return (
        years if years is not None and years <= 120 else None,
        {"m": "male", "f": "female"}.get(letter[:1].lower()),
    )


__all__ = ["RECORD_LINE", "STORAGE", "age_and_sex", "count_frames", "read_header"]
