"""CSV and TSV text: a table with lead names in its header, and the ECG export of Apple Health.

A table says its unit in the header (`I [mV]`, `I (uV)`, `I_mV`), in a second header line or in a comment
(`# units: mV`), its rate in a column `time [s]` or `time [ms]` or in a comment (`# sampling_rate: 500`). What stands
nowhere is stated by the caller.
"""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ..record import MAX_LEADS, MAX_SAMPLING_RATE, EcgFormatError, EcgRecord, check_size, printable
from ..units import MILLIVOLTS_PER_UNIT
from .fields import SECONDS, decode_text, lines_of, other_channels, rate_of
from .source import MAX_TEXT_BYTES, Source, is_lead, millivolts_per

MAX_HEADER_LINES = 100
"""Most lines before the first line of numbers."""
MAX_HEADER_LINE = 2**16
"""Most characters of one of them."""
COARSEST_RATE = 20.0
"""Lowest rate in Hz at which a time column without a unit is believed to be in seconds."""

_MISSING = {"", "-", "na", "n/a", "#n/a", "nan", "null", "none", "<na>"}
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?|\d+(:\d\d){1,2}([.,]\d+)?", re.IGNORECASE | re.ASCII)
_HERTZ = re.compile(r"[0-9][.,0-9]{0,20}\s{0,2}(hz|hertz)\b", re.IGNORECASE)
_COMMENT = re.compile(
    r"#\s{0,9}(?P<key>sampl(?:e|ing)[_ ]?(?:rate|frequency|interval)|fs|frequency|units?)\s{0,9}[:=](?P<value>.*)",
    re.IGNORECASE,
)
_COMMENT_LINE = re.compile(r"(?<![^\r\n])[ \t]*#(?!N/A)[^\r\n]*(\r\n|\r|\n)?")
_TIME_NAMES = {"time", "t", "timestamp", "seconds", "elapsed", "elapsed time", "elapsed_time", "zeit", "temps"}
_COUNT_NAMES = {"", "index", "sample", "samples", "sample #", "sample number", "sample_number", "unnamed: 0"}
_SUFFIXES = {*MILLIVOLTS_PER_UNIT, "s", "ms"}
# A comma that can only be a decimal comma: after a leading zero or nothing, or before other than three digits.
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(?:0\d*|),\d|(?<!\d),\d|,\d{1,2}(?!\d)|,\d{4}|\d{4},\d", re.ASCII)
_EMPTY_LINE = re.compile(r"\n\r?\n|\r\r")
_LINE_END = re.compile(r"[\r\n]")


def matches(head: bytes, name: str) -> bool:
    """Say whether a file is text whose first line is a table's header with a lead, or an Apple Health export."""
    text = decode_text(head, final=False)
    if "\0" in text:
        return False
    lines = [line[:1000] for line in lines_of(text) if line and not line.startswith("#")][:13]
    if any(_HERTZ.search(line[:200]) for line in lines[:12]) and len(lines) > 12:
        return True
    return bool(lines) and any(is_lead(_column(cell)[0]) for cell in _split(lines[0]))


def read(source: Source) -> EcgRecord:
    """Read a table or an Apple Health export.

    Raises:
        EcgFormatError: If a value is not a number, can be read in two ways, or the rate, unit or leads are neither in
            the file nor stated.
    """
    if source.size > MAX_TEXT_BYTES:
        raise EcgFormatError(
            f"{source.name} has {source.size} bytes; expected at most {MAX_TEXT_BYTES}. Convert it to WFDB."
        )
    text = decode_text(source.data)
    if "\0" in text:
        raise EcgFormatError(f"{source.name} is not text: it holds zero bytes. Name its format with `format=`.")
    line_end = "\n" if "\n" in text else "\r"
    notes = [] if text.endswith(line_end) else ["the last line does not end: the file may be cut"]
    head, comments, body = _parts(source, text)
    facts = _facts(source, comments)
    if len(head) > 2 and any(_HERTZ.search(line[:200]) for line in head) or _apple_facts(head).get("sample rate"):
        return _read_apple(source, _apple_facts(head), body, notes)
    return _read_table(source, head, body, facts, notes)


def _parts(source: Source, text: str) -> tuple[list[str], list[str], str]:
    """Split a text into the lines of its header, its comments, and the rest, which begins with a line of numbers."""
    head: list[str] = []
    comments: list[str] = []
    position = n_empty = 0
    while max(len(head), len(comments), n_empty) <= MAX_HEADER_LINES and position < len(text):
        end = _LINE_END.search(text, position, position + MAX_HEADER_LINE)
        if end is None and len(text) > position + MAX_HEADER_LINE:
            break
        stop = end.start() if end else len(text)
        line = text[position:stop].strip(" \t")
        if _COMMENT_LINE.match(line):
            comments.append(line)
        elif line and _is_data(line, bool(head)):
            return head, comments, text[position:]
        elif line:
            head.append(line)
        else:
            n_empty += 1
        position = stop + 1
    raise EcgFormatError(
        f"{source.name} holds no line of numbers among its first lines; expected a header and one line per sample."
    )


def _is_data(line: str, headed: bool) -> bool:
    """Whether a line is one of numbers, or, below a header, of missing values."""
    cells = _split(line)
    numbers = sum(bool(_NUMBER.fullmatch(cell)) for cell in cells)
    missing = sum(cell.lower() in _MISSING for cell in cells)
    return numbers + missing == len(cells) and (numbers > 0 or headed and any(cells))


def _facts(source: Source, comments: list[str]) -> dict[str, str]:
    """Return unit, rate and interval that comments state, refusing two that differ."""
    facts: dict[str, str] = {}
    for match in (match for line in comments if (match := _COMMENT.match(line[:1000]))):
        key, value = match["key"].lower(), match["value"].strip()
        key = "unit" if key.startswith("unit") else "interval" if key.endswith("interval") else "rate"
        if facts.setdefault(key, value) != value:
            raise EcgFormatError(f"{source.name} states its {key} twice: {facts[key][:40]!r} and {value[:40]!r}.")
    return facts


def _apple_facts(head: list[str]) -> dict[str, str]:
    try:
        rows = list(csv.reader(head))
    except csv.Error:
        return {}
    return {row[0].strip().lower(): row[1].strip() for row in rows if len(row) == 2}


def _read_apple(source: Source, facts: dict[str, str], body: str, notes: list[str]) -> EcgRecord:
    """Read lines `key,value` with English keys (name and birth date are not kept), then one value per line."""
    stated = facts.get("sample rate", "")
    rate = rate_of(stated, "the sample rate") if _HERTZ.search(stated[:200]) else source.sampling_rate
    unit, lead = facts.get("unit", source.units), facts.get("lead")
    missing = [
        name for name, fact in (("sampling_rate", rate), ("units", unit), ("leads", lead or source.leads)) if not fact
    ]
    if rate is None or unit is None or missing:
        raise EcgFormatError(f"{source.name} does not say its {', '.join(missing)}. State them: `{missing[0]}=`.")
    if "," in stated and "." not in body:
        body = body.replace(",", ".")  # a line holds one value, and the rate too has a decimal comma
    else:
        body = _with_points(source, body)
    signal = _numbers(source, body, ";", 1)
    return _record(source, list(signal), rate, [lead or "lead"], [unit], notes, facts.get("device"))


def _read_table(source: Source, head: list[str], body: str, facts: dict[str, str], notes: list[str]) -> EcgRecord:
    first_row = lines_of(body[: 2 * MAX_HEADER_LINE])[0]
    separator = _separator(head[0] if head else first_row)
    titles = [_columns(source, line, separator) for line in head]
    if not titles:
        if source.leads is None or isinstance(source.leads, dict):
            raise EcgFormatError(
                f"{source.name} has no header. Expected lead names in its first line; or state `leads=`."
            )
        titles = [[f"column {i}" for i in range(len(source.leads))]]
    names, units = map(list, zip(*map(_column, titles[0])))
    if len(titles) > 1:
        units = _units_of_second_line(source, titles, units)
    if separator != ",":
        body = _with_points(source, body)
    timed = next((i for i, name in enumerate(names) if name.lower() in _TIME_NAMES), None)
    table, digits = _table(source, body, separator, len(names), timed)
    rate = _stated_rate(facts) or source.sampling_rate
    if timed is not None:
        rate = _rate_of_times(source, table[timed], digits, units[timed], rate, notes)
    if rate is None:
        raise EcgFormatError(f"{source.name} has no time column and states no rate. State `sampling_rate=` (Hz).")
    counted = [i for i, name in enumerate(names) if name.lower() in _COUNT_NAMES and (np.diff(table[i]) == 1).all()]
    keep = [i for i in range(len(names)) if i != timed and i not in counted]
    units = [_unit(source, names[i], units[i], facts.get("unit")) for i in range(len(names))]
    return _record(source, [table[i] for i in keep], rate, [names[i] for i in keep], [units[i] for i in keep], notes)


def _columns(source: Source, line: str, separator: str) -> list[str]:
    quote = "'" if line.startswith("'") else '"'  # PhysioBank quotes with '
    if line.count(separator) >= 10 * MAX_LEADS:
        raise EcgFormatError(f"{source.name} has {line.count(separator) + 1} columns; expected at most {MAX_LEADS}.")
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, quotechar=quote))]
    except (csv.Error, StopIteration):
        raise EcgFormatError(f"{source.name}: its header cannot be split into columns.") from None


def _units_of_second_line(source: Source, titles: list[list[str]], units: list[str | None]) -> list[str | None]:
    """Return the units with those of a second header line, such as `(seconds),(mV)`."""
    second = [cell.strip("()[] ") for cell in titles[1]]
    timed = [_column(title)[0].lower() in _TIME_NAMES for title in titles[0]]
    known = [cell.lower() in (SECONDS if time else MILLIVOLTS_PER_UNIT) for cell, time in zip(second, timed)]
    clock = [bool(re.fullmatch(r"(h+:)?m+:s+(\.[ms]+)?", cell.lower())) for cell in second]
    # A channel that is not ECG may have any unit, so that one known unit is enough.
    if len(titles) > 2 or len(second) != len(titles[0]) or not any(known):
        raise EcgFormatError(
            f"{source.name} has {len(titles)} header lines, of which the second holds no units; expected one line of "
            "names and at most one of units, such as 'time,II' and 's,mV'."
        )
    stated = [("s" if c else cell) or None for cell, c in zip(second, clock)]
    twice = [i for i, unit in enumerate(units) if unit and stated[i] and unit.lower() != str(stated[i]).lower()]
    if twice:
        raise EcgFormatError(f"{source.name} gives its column {twice[0] + 1} two units in its two header lines.")
    return [stated[i] or unit for i, unit in enumerate(units)]


def _unit(source: Source, name: str, unit: str | None, common: str | None) -> str | None:
    """Return the unit of a column: its own, that of a comment, or the one that the caller states."""
    scale, common_scale = (MILLIVOLTS_PER_UNIT.get((text or "").lower()) for text in (unit, common))
    if scale and common_scale and scale != common_scale:
        raise EcgFormatError(f"{source.name} gives {name[:40]!r} the unit {unit}, but a comment says {common}.")
    return unit or common or source.units


def _stated_rate(facts: dict[str, str]) -> float | None:
    if "rate" in facts:
        return rate_of(facts["rate"], "the sampling rate")
    return rate_of(facts["interval"], "the sampling interval", interval=True) if "interval" in facts else None


def _record(
    source: Source,
    rows: list[np.ndarray],
    rate: float,
    names: list[str],
    units: list[str | None],
    notes: list[str],
    device: str | None = None,
) -> EcgRecord:
    chosen = source.choose_leads(names, other_channels(source, names, units))
    stated = [unit for i in chosen if (unit := units[i]) is not None]
    if len(stated) < len(chosen):
        raise EcgFormatError(
            f"{source.name} states no unit. Write it in the header, as in 'I [mV]', or state `units=`."
        )
    signal = np.empty((len(chosen), len(rows[0])), dtype=np.float32)
    with np.errstate(over="ignore"):  # infinity, which `EcgRecord` refuses
        for row, i, unit in zip(signal, chosen, stated):
            row[:] = rows[i] * millivolts_per(unit, names[i])
    left_out = [printable(names[i], 40) for i in range(len(names)) if i not in chosen]
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    return source.record(
        signal,
        rate,
        tuple(chosen.values()),
        record_id=Path(source.name).stem,
        device=device,
        unit=stated[0],
        notes=tuple(notes),
    )


def _column(title: str) -> tuple[str, str | None]:
    """Return name and unit of a column."""
    title = title.strip()
    if title.endswith((")", "]")):
        start = max(title.rfind("("), title.rfind("["))
        if start >= 0:
            return title[:start].strip(), title[start + 1 : -1].strip() or None
    start = max(title.rfind("_"), title.rfind(" "))
    if start > 0 and title[start + 1 :].lower() in _SUFFIXES and not is_lead(title):
        return title[:start].strip(), title[start + 1 :]
    return title, None


def _separator(line: str) -> str:
    return next((separator for separator in "\t;" if separator in line), ",")


def _split(line: str) -> list[str]:
    return [cell.strip().strip("\"'").strip() for cell in line.split(_separator(line))]


def _with_points(source: Source, body: str) -> str:
    """Return numbers with decimal points for those with decimal commas; refuse commas that can separate thousands."""
    if "," not in body:
        return body
    sample = body if len(body) < 2**20 else body[: body.rfind("\n", 0, 2**20) + 1]
    if "." in body or not _DECIMAL_COMMA.search(sample):
        found = re.search(r"\S{0,9},\S{0,9}", body)
        raise EcgFormatError(
            f"{source.name} holds numbers such as {found[0] if found else ','!r}, whose comma can separate thousands "
            "or decimals. Write them without separators of thousands and with a decimal point."
        )
    return body.replace(",", ".")


def _table(source: Source, body: str, separator: str, n_columns: int, timed: int | None) -> tuple[np.ndarray, float]:
    """Return the numbers as float64 (columns, rows) and the step in which the time column is printed."""
    last = lines_of(body[-1000:].rstrip("\r\n"))[-10:]
    body = body.replace("'", "") if "'" in body else body
    parts = [cell.count(":") for cell in _split(lines_of(body[: 2 * MAX_HEADER_LINE])[0])]
    if timed != 0 or len(parts) != n_columns or not parts[0]:
        table = _numbers(source, body, separator, n_columns)
    else:  # a clock, as in 0:01.250
        table = _numbers(source, body.replace(":", separator), separator, n_columns + parts[0])
        clock = table[: parts[0] + 1]
        times = sum(row * 60.0 ** (parts[0] - i) for i, row in enumerate(clock))
        table = np.vstack([times[None], table[parts[0] + 1 :]])
    cells = [row.split(separator)[timed] for row in last if timed is not None and row.count(separator) >= timed]
    return table, min((_printed_step(cell.strip(" \"'")) for cell in cells[1:] or cells), default=1.0)


def _printed_step(cell: str) -> float:
    """Return the value of the last printed digit of a number.

    Example:

    >>> _printed_step("0.25"), _printed_step("1.250e+01")
    (0.01, 0.01)
    """
    mantissa, _, exponent = cell.lower().partition("e")
    power = int(exponent) if re.fullmatch(r"[-+]?\d{1,3}", exponent) else 0
    return 10.0 ** (power - len(mantissa.partition(".")[2]))


def _numbers(source: Source, body: str, separator: str, n_columns: int) -> np.ndarray:
    """Return the numbers as float64 (columns, rows)."""
    if "#" in body:
        body = _COMMENT_LINE.sub("", body)
    body = body.rstrip("\r\n")
    if n_columns > 10 * MAX_LEADS:
        raise EcgFormatError(f"{source.name} has {n_columns} columns; expected at most {MAX_LEADS} leads.")
    try:
        table = pd.read_csv(
            io.BytesIO(body.encode()),
            sep=separator,
            header=None,
            dtype=np.float64,
            na_values=sorted(_MISSING),
            skipinitialspace=True,
            skip_blank_lines=n_columns > 1 or not _holds_empty_cells(body),
        )
    except (ValueError, OverflowError) as error:
        raise EcgFormatError(
            f"{source.name}: expected {n_columns} columns of numbers only below the header, got {_place(error, body)}."
        ) from None
    if table.shape[1] != n_columns or body.count(separator) != len(table) * (n_columns - 1):
        counts = ((i, row.count(separator) + 1) for i, row in enumerate(lines_of(body), 1) if row)
        line, got = next((found for found in counts if found[1] != n_columns), (len(table), table.shape[1]))
        raise EcgFormatError(
            f"{source.name}: expected {n_columns} columns, got {got} in line {line} below the header. Is the file cut?"
        )
    check_size(n_columns if n_columns <= MAX_LEADS else 1, len(table), source.name)
    return table.to_numpy().T


def _holds_empty_cells(body: str) -> bool:
    """Whether empty lines of a single column are missing samples: not where every second line is empty."""
    return _EMPTY_LINE.search(body) is not None and any(lines_of(body)[1::2])


def _place(error: Exception, body: str) -> str:
    """Say which line pandas could not read, without its text, which can be a name."""
    cell = re.search(r"float: '(.*)'$", str(error), re.DOTALL)
    if cell and cell[1] and cell[1] in body:
        return f"other text in line {len(lines_of(body[: body.index(cell[1]) + 1]))}"
    line = re.search(r"in line (\d{1,9})", str(error))
    return f"other columns in line {line[1]}" if line else "other text"


def _rate_of_times(
    source: Source, times: np.ndarray, step: float, unit: str | None, stated: float | None, notes: list[str]
) -> float:
    """Return the rate in Hz of a time column that is printed in steps of `step`.

    The rate follows from the whole column: it is the whole number at which evenly spaced times, rounded, give the
    column, if there is one. A column too coarse to say which needs `stated`.
    """
    if (unit or "s").lower() not in SECONDS:
        raise EcgFormatError(f"{source.name}: expected times in s or ms, got {str(unit)[:20]!r}.")
    n = len(times)
    if n == 1 and stated is not None and np.isfinite(times).all():
        return stated
    if n < 2 or not np.isfinite(times).all() or times[-1] <= times[0]:
        raise EcgFormatError(f"{source.name}: expected at least two rising times in the time column.")
    index = np.arange(n) - (n - 1) / 2
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        period = float(index @ (times - times.mean()) / (index @ index))
        steps, errors = np.diff(times), times - times.mean() - period * index
    even = max(1.01 * step, 0.3 * abs(period)) + 1e-5 * (times[-1] - times[0])
    # Rounded times jitter by less than a printed step; a lost or repeated sample is a whole period.
    if not 0 < period < np.inf or np.abs(steps - period).max() > 0.5 * period + step or np.abs(errors).max() > even:
        raise EcgFormatError(
            f"{source.name}: the time column has gaps or jumps. Resample it evenly, or split it at the gaps."
        )
    if unit is None:
        return _rate_without_unit(source, times, period, step, stated, notes)
    scale = SECONDS[unit.lower()]
    return _whole_rate(source, times * scale, period * scale, step * scale, stated)


def _rate_without_unit(
    source: Source, times: np.ndarray, period: float, step: float, stated: float | None, notes: list[str]
) -> float:
    """Read times without a unit in the unit that agrees with the stated rate; without one, in seconds if plausible."""
    if stated is not None:
        units = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "samples": 1 / stated}
        unit = next((unit for unit, scale in units.items() if abs(period * scale * stated - 1) <= 0.01), None)
        if unit is not None:
            notes.append(f"the time column states no unit and was read as {unit}")
            return stated
    elif 1 / period >= COARSEST_RATE:
        notes.append("the time column states no unit and was read as seconds")
        return _whole_rate(source, times, period, step, None)
    raise EcgFormatError(
        f"{source.name}: the time column rises by {period:g} per sample and states no unit. Write it in the header, "
        "as in 'time [ms]', or state `sampling_rate=` (Hz)."
    )


def _whole_rate(source: Source, times: np.ndarray, period: float, step: float, stated: float | None) -> float:
    """Return the stated rate if it fits times in seconds, else the whole number that does, else one over `period`."""
    index = np.arange(len(times))

    def misfit(rate: float) -> float:
        return float(np.ptp(times - index / rate))

    measured, whole = 1 / period, round(1 / period)
    leeway = 1.01 * step + 1e-9 * float(np.abs(times).max())
    if stated is not None:
        if abs(measured / stated - 1) > 0.01 and misfit(stated) > leeway:
            raise EcgFormatError(f"{source.name}: the time column says {measured:g} Hz, not {stated:g} Hz.")
        return stated
    if measured > MAX_SAMPLING_RATE or whole < 1:
        return measured
    if misfit(whole) <= 1e-3 * period:
        return float(whole)
    fitting = [rate for rate in (whole - 1, whole, whole + 1) if rate > 0 and misfit(rate) <= leeway]
    if len(fitting) > 1:
        raise EcgFormatError(
            f"{source.name}: the time column is printed in steps of {step:g} s, which is too coarse to tell the rate, "
            f"about {measured:.4g} Hz. State `sampling_rate=` (Hz)."
        )
    return float(fitting[0]) if fitting else measured
