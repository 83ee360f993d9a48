"""CSV and TSV text: a table with lead names in its header, and the ECG export of Apple Health.

A table says its unit in the header (`I [mV]`, `I (uV)`, `I_mV`) or in a comment (`# units: mV`), its rate in a
column `time [s]` or `time [ms]` or in a comment (`# sampling_rate: 500`). What stands nowhere is stated by the caller.
"""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ..record import EcgFormatError, EcgRecord, check_size
from .fields import number_of
from .source import MAX_TEXT_BYTES, Source, is_lead, is_no_ecg, millivolts_per

_NUMBER = re.compile(r"\s*([-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?|nan)?\s*", re.IGNORECASE)
_HERTZ = re.compile(r"(\d+([.,]\d+)?)\s*(hz|hertz)\b", re.IGNORECASE)
_COLUMN = re.compile(r"(?P<name>.*?)\s*(?:[\[(](?P<unit>[^\])]*)[\])]|[_ ](?P<suffix>[mnuµμ]?V|m?s))?", re.IGNORECASE)
_COMMENT = re.compile(r"#\s*(?P<key>sampling[_ ]?rate|fs|units?)\s*[:=]\s*(?P<value>\S+)", re.IGNORECASE)
_TIME_NAMES = {"time", "t", "timestamp", "seconds", "elapsed"}
_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3}


def matches(head: bytes, name: str) -> bool:
    """Say whether a file is text whose first line is a table's header with a lead, or an Apple Health export."""
    if b"\0" in head:
        return False
    lines = [line for line in _decode(head).splitlines() if line.strip() and not line.startswith("#")]
    if any(_HERTZ.search(line) for line in lines[:12]) and len(lines) > 12:
        return True
    return bool(lines) and any(is_lead(_column(cell)[0]) for cell in _split(lines[0]))


def read(source: Source) -> EcgRecord:
    """Read a table or an Apple Health export.

    Raises:
        EcgFormatError: If a value is no number, or the rate, unit or leads are neither in the file nor stated.
    """
    if source.size > MAX_TEXT_BYTES:
        raise EcgFormatError(
            f"{source.name} has {source.size} bytes; expected at most {MAX_TEXT_BYTES}. Convert it to WFDB."
        )
    if b"\0" in source.data:
        raise EcgFormatError(f"{source.name} is no text: it holds zero bytes. Name its format with `format=`.")
    text = _decode(source.data)
    notes = [] if text.endswith("\n") else ["the last line does not end: the file may be cut"]
    lines = [line for line in text.splitlines() if line.strip()]
    comments = [match for line in lines if (match := _COMMENT.match(line))]
    facts = {"unit" if match["key"].lower().startswith("unit") else "rate": match["value"] for match in comments}
    lines = [line for line in lines if not line.startswith("#")]
    first = next((i for i, line in enumerate(lines) if all(map(_NUMBER.fullmatch, _split(line)))), None)
    if first is None:
        raise EcgFormatError(f"{source.name} holds no line of numbers; expected a header and one line per sample.")
    if first > 1:
        return _read_apple(source, lines[:first], lines[first:], notes)
    return _read_table(source, lines[:first], lines[first:], facts, notes)


def _read_apple(source: Source, head: list[str], values: list[str], notes: list[str]) -> EcgRecord:
    """Read lines `key,value` with English keys (name and birth date are not kept), then one value per line."""
    facts = {row[0].strip().lower(): row[1].strip() for row in csv.reader(head) if len(row) == 2}
    hertz = _HERTZ.search(facts.get("sample rate", ""))
    rate = float(hertz[1].replace(",", ".")) if hertz else source.sampling_rate
    unit, lead = facts.get("unit", source.units), facts.get("lead")
    missing = [
        name for name, fact in (("sampling_rate", rate), ("units", unit), ("leads", lead or source.leads)) if not fact
    ]
    if missing:
        raise EcgFormatError(f"{source.name} does not say its {', '.join(missing)}. State them: `{missing[0]}=`.")
    # A line holds one value, so that its comma can only be a decimal comma.
    signal = _numbers(source, [value.replace(",", ".") for value in values], ",", 1)
    return _record(source, signal, rate, [lead or "lead"], [unit], notes, facts.get("device"))


def _read_table(
    source: Source, head: list[str], rows: list[str], facts: dict[str, str], notes: list[str]
) -> EcgRecord:
    separator = _separator(head[0] if head else rows[0])
    if separator != ",":
        rows = [row.replace(",", ".") for row in rows]
    columns = [column.strip() for column in next(csv.reader(head, delimiter=separator))] if head else None
    if columns is None:
        if source.leads is None or isinstance(source.leads, dict):
            raise EcgFormatError(
                f"{source.name} has no header. Expected lead names in its first line; or state `leads=`."
            )
        columns = [f"column {i}" for i in range(len(source.leads))]
    table = _numbers(source, rows, separator, len(columns))
    names, units = map(list, zip(*map(_column, columns)))
    rate = number_of(facts["rate"], "the sampling rate") if "rate" in facts else source.sampling_rate
    timed = [i for i, name in enumerate(names) if name.lower() in _TIME_NAMES]
    if timed:
        measured = _rate_of_times(source, table[timed[0]], rows, separator, timed[0], units[timed[0]])
        notes += [] if units[timed[0]] else ["the time column states no unit and was read as seconds"]
        if rate is not None and abs(measured / rate - 1) > 0.01:
            raise EcgFormatError(f"{source.name}: the time column says {measured:g} Hz, not {rate:g} Hz.")
        rate = rate or measured
    if rate is None:
        raise EcgFormatError(f"{source.name} has no time column and states no rate. State `sampling_rate=` (Hz).")
    units = [unit or facts.get("unit") or source.units for unit in units]
    keep = [i for i in range(len(names)) if i not in timed[:1]]
    return _record(source, table[keep], rate, [names[i] for i in keep], [units[i] for i in keep], notes)


def _record(
    source: Source,
    signal: np.ndarray,
    rate: float,
    names: list[str],
    units: list[str | None],
    notes: list[str],
    device: str | None = None,
) -> EcgRecord:
    chosen = source.choose_leads(names, [i for i, name in enumerate(names) if units[i] and is_no_ecg(name, units[i])])
    if any(units[i] is None for i in chosen):
        raise EcgFormatError(
            f"{source.name} states no unit. Write it in the header, as in 'I [mV]', or state `units=`."
        )
    scale = np.array([[millivolts_per(units[i], names[i])] for i in chosen])
    left_out = [names[i] for i in range(len(names)) if i not in chosen]
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    return EcgRecord(
        signal[list(chosen)] * scale,
        rate,
        tuple(chosen.values()),
        record_id=Path(source.name).stem,
        device=device,
        unit=units[next(iter(chosen))],
        source=str(source.path) if source.path else None,
        notes=tuple(notes),
    )


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _column(title: str) -> tuple[str, str | None]:
    """Return name and unit of a column."""
    match = re.fullmatch(_COLUMN, title)
    return (match["name"].strip(), match["unit"] or match["suffix"]) if match else (title, None)


def _separator(line: str) -> str:
    return next((separator for separator in "\t;" if separator in line), ",")


def _split(line: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(_separator(line))]


def _numbers(source: Source, rows: list[str], separator: str, n_columns: int) -> np.ndarray:
    """Return the numbers as float64 (columns, rows)."""
    check_size(n_columns, len(rows), source.name)
    short = next((row for row in rows if row.count(separator) != n_columns - 1), None)
    if short is not None:
        raise EcgFormatError(
            f"{source.name}: expected {n_columns} columns, got the line {short[:80]!r}. Is the file cut?"
        )
    try:
        table = pd.read_csv(io.StringIO("\n".join(rows)), sep=separator, header=None, dtype=np.float64)
    except ValueError as error:
        raise EcgFormatError(f"{source.name}: expected numbers only below the header: {error}.") from error
    return table.to_numpy().T


def _rate_of_times(
    source: Source, times: np.ndarray, rows: list[str], separator: str, column: int, unit: str | None
) -> float:
    """Return the rate of a time column in Hz: the whole number that fits the printed digits, if there is one."""
    if (unit or "s").lower() not in _SECONDS:
        raise EcgFormatError(f"{source.name}: expected times in s or ms, got {unit!r}.")
    steps = np.diff(times)
    if len(steps) < 1 or not np.isfinite(steps).all() or np.median(steps) <= 0:
        raise EcgFormatError(f"{source.name}: expected at least two rising times in the time column.")
    # Rounded times jitter by less than half a step; a lost or repeated sample is a whole step.
    if (np.abs(steps / np.median(steps) - 1) > 0.5).any():
        raise EcgFormatError(
            f"{source.name}: the time column has gaps or jumps. Resample it evenly, or split it at the gaps."
        )
    scale = _SECONDS[(unit or "s").lower()]
    span = (times[-1] - times[0]) * scale
    rate = len(steps) / span
    digits = max(len(row.split(separator)[column].strip().partition(".")[2]) for row in rows[-10:])
    whole = round(rate)
    return float(whole) if whole and abs(len(steps) / whole - span) <= scale * 10.0**-digits else rate
