"""ECGs on millimetre paper, true to scale: 25 mm/s and 10 mm/mV unless asked otherwise.

The whole figure is one axes whose unit is the millimetre, so that 1 mm of the plot is 1 mm of a print at 100 %. Lead
arrangement, speed, gain and calibration follow the recommendations for the standardization of the electrocardiogram
(Kligfield et al., Circulation 115:1306, 2007).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from .leads import LIMB_LEADS, STANDARD_LEADS, derive_limb_leads
from .measurements import MAX_SECONDS, HasSignal, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYOUTS = {"3x4": (3, 0), "3x4+1": (3, 1), "3x4+3": (3, 3), "6x2": (6, 0), "6x2+1": (6, 1), "12x1": (12, 0)}
"""Layouts by name (rows x columns for twelve leads + rhythm strips): number of rows, number of rhythm strips."""

FULL_DISCLOSURE = "full-disclosure"
"""Layout of a long record: one lead, line below line."""

RHYTHM_LEADS = ("II", "V1", "V5")
"""Leads of the rhythm strips."""

DPI = 254.0
"""Pixels per inch: 10 per millimetre, so that every line of the grid falls on a pixel."""

MAX_PIXELS = 2**16 - 1
"""Longest side of an image that matplotlib can render."""

PAPER, THIN_LINE, THICK_LINE, INK, DERIVED_INK = "#fffafa", "#fadcdc", "#efb0b0", "#111116", "#2f4b8f"
# All in mm and multiples of 5, so that every baseline lies on a thick line of the grid.
LEFT, RIGHT, TOP, BOTTOM = 15, 5, 15, 10
MIN_SPACING, MAX_SPACING = 25, 50
MIN_WIDTH = 100  # of the footer
LINE_SPACING = 15  # of full disclosure
LONG_SECONDS = 30.0  # a longer record is shown in full disclosure
MAX_FILTER = 40  # characters of the filters that a file declares

Cell = tuple[int, float, float]  # row of the signal, first and last second shown


def plot_ecg(
    record: HasSignal,
    path: Any = None,
    *,
    title: str | None = None,
    speed: float | None = None,
    gain: float | None = None,
    layout: str = "auto",
    row_seconds: float | None = None,
    lead: str | None = None,
    dpi: float = DPI,
) -> "Figure":
    """Draw an ECG on millimetre paper.

    Columns follow each other in time, as on a printed ECG: in four columns of a ten-second record each lead shows 2.5
    s, and the rhythm strip below shows all of it. Leads beyond twelve get further columns; a record with no more
    leads than the layout has rows is shown in one column over its whole length. Where I, II and chest leads, but not
    the other limb leads were recorded, those are derived, in another colour, with an asterisk. The constant offset
    (median) of a lead is left out, as an ECG amplifier is AC-coupled. NaN samples are gaps in the trace. The heart
    rate of the footer is that of `measure`, where it can be trusted; filters are those that the file declares: none
    is applied here.

    Args:
        record (`EcgRecord`): `signal` in mV of shape `(leads, samples)`, `sampling_rate` in Hz and `leads`, the names.
        path (`str`, path or binary file, *optional*): Where to save the figure; the suffix says how (`.png`, `.pdf`,
            `.svg`).
        title (`str`, *optional*): Printed above. Nothing of the record's identity is printed by itself.
        speed (`float`, *optional*): Paper speed in mm/s: 25, or what fits a line of full disclosure.
        gain (`float`, *optional*): mm per mV: 10, or 5 in lines of more than 10 s of full disclosure.
        layout (`str`, defaults to `"auto"`): One of `LAYOUTS`; or `"full-disclosure"`, one lead line below line; or
            `"auto"`: full disclosure of more than 30 s, a row for each of up to four leads, else `"3x4+1"`.
        row_seconds (`float`, *optional*): Length of a line of full disclosure, 10 to 60 s; the shortest of 10, 30 and
            60 s of which 20 lines suffice when absent.
        lead (`str`, *optional*): Lead of full disclosure; the first of II, V1 and V5 that there is when absent.
        dpi (`float`, defaults to 254.0): Pixels per inch.

    Returns:
        `matplotlib.figure.Figure`: One axes in mm, on its own Agg canvas; pyplot and its backend stay as they are.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the signal does not fit the leads, the layout is unknown, a number is not positive, or the
            record is too long for one image.

    Example:

    >>> from modeling_merit.processing.data.simulation import simulate_ecg
    >>> figure = plot_ecg(simulate_ecg("sinus_rhythm", seed=0), title="Sinus rhythm, simulated")
    >>> [round(float(inches) * 25.4) for inches in figure.get_size_inches()]  # mm
    [270, 120]
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'Plotting needs matplotlib, which is not installed. Install it with: pip install "matplotlib>=3.8,<4"'
        ) from error
    signal = _checked_signal(record, speed, gain, layout, row_seconds, dpi)
    rate, duration = float(record.sampling_rate), signal.shape[1] / float(record.sampling_rate)
    if layout == FULL_DISCLOSURE or (layout == "auto" and duration > LONG_SECONDS):
        figure, facts = _draw_lines(record, signal, speed, gain, row_seconds, lead, dpi)
    else:
        figure, facts = _draw_grid_of_leads(record, signal, speed or 25.0, gain or 10.0, layout, dpi)
    (axes,) = figure.axes
    height = axes.get_ylim()[1]
    if title:
        axes.text(LEFT, height - 7.5, title, fontsize=11, fontweight="bold", color=INK, va="center", parse_math=False)
    beats = _heart_rate(record)
    first = " · ".join([facts[0], *([f"{beats:.0f} beats/min"] if beats else []), "not a medical device"])
    filters = " ".join(str(getattr(record, "filters", None) or "none stated").split())
    filters = filters if len(filters) <= MAX_FILTER else filters[: MAX_FILTER - 1] + "…"
    second = " · ".join([f"{duration:g} s", f"{rate:g} Hz", f"filter: {filters}", *facts[1:]])
    axes.text(LEFT, 5, f"{first}\n{second}", fontsize=8, color=INK, va="center", linespacing=1.4, parse_math=False)
    if path is not None:
        figure.savefig(path, dpi=dpi)
    return figure


def _checked_signal(
    record: HasSignal,
    speed: float | None,
    gain: float | None,
    layout: str,
    row_seconds: float | None,
    dpi: float,
) -> np.ndarray:
    names = (*LAYOUTS, FULL_DISCLOSURE, "auto")
    if layout not in names:
        raise ValueError(f"Expected layout to be one of {', '.join(names)}, got {layout!r}.")
    for name, value in (("speed", speed), ("gain", gain), ("dpi", dpi), ("sampling_rate", record.sampling_rate)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"Expected {name} to be a positive number, got {value}.")
    if row_seconds is not None and not 10 <= row_seconds <= 60:
        raise ValueError(f"Expected row_seconds from 10 to 60, got {row_seconds}.")
    signal = np.asarray(record.signal, dtype=float)
    if signal.ndim != 2 or 0 in signal.shape or len(signal) != len(record.leads):
        raise ValueError(
            f"Expected a signal in mV of shape (leads, samples) with a name for each row, got {signal.shape} and "
            f"{len(record.leads)} names. Transpose a signal of shape (samples, leads)."
        )
    return signal


def _heart_rate(record: HasSignal) -> float | None:
    """Return the rate of a record that is short enough to have one."""
    if np.asarray(record.signal).shape[1] > MAX_SECONDS * record.sampling_rate:
        return None
    return measure(record).heart_rate.value


def _paper(width: float, height: float, dpi: float) -> tuple["Figure", "Axes"]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 25.4, height / 25.4), dpi=dpi, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    _draw_grid(axes, round(width), round(height))
    return figure, axes


def _draw_pulse(axes: "Axes", baseline: float, gain: float) -> None:
    pulse = [baseline, baseline, baseline + gain, baseline + gain, baseline, baseline]
    axes.plot([3, 5, 5, 10, 10, 12], pulse, color=INK, linewidth=0.8, gid="calibration")


def _heights(signal: np.ndarray, gain: float) -> np.ndarray:
    """Return mm above the baseline, the median of each lead."""
    centred = [row - np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else row for row in signal]
    return gain * np.array(centred)


def _draw_grid_of_leads(
    record: HasSignal, signal: np.ndarray, speed: float, gain: float, layout: str, dpi: float
) -> tuple["Figure", list[str]]:
    """Draw all leads in rows and columns; return the figure and facts for its footer."""
    rate = float(record.sampling_rate)
    duration = signal.shape[1] / rate
    leads = tuple(record.leads)
    rows, rhythm_strips = LAYOUTS["3x4+1" if layout == "auto" else layout]
    if layout == "auto" and len(leads) == 4:
        rows = 4
    derived: tuple[str, ...] = ()
    if len(leads) > 4 and any(lead in STANDARD_LEADS[6:] for lead in leads):
        more = derive_limb_leads(dict(zip(leads, signal)), tuple(LIMB_LEADS))
        derived = tuple(more)
        signal, leads = np.stack([*signal, *more.values()]), (*leads, *derived)
    width = max(LEFT + _up_to_5(duration * speed) + RIGHT, MIN_WIDTH)
    if width / 25.4 * dpi > MAX_PIXELS:
        longest = int((MAX_PIXELS / dpi * 25.4 - LEFT - RIGHT - 5) / speed)
        raise ValueError(
            f"Expected at most {longest} s at {speed:g} mm/s and {dpi:g} dpi, got {duration:g} s. Plot a part of it: "
            f'record.crop(start_s, stop_s), or one lead of it: layout="{FULL_DISCLOSURE}".'
        )
    heights = _heights(signal, gain)
    strips = _arrange(leads, duration, rows, rhythm_strips)
    depths, bottom = _baseline_depths(heights, rate, strips, gain)
    height = TOP + bottom + BOTTOM
    figure, axes = _paper(width, height, dpi)
    for cells, depth in zip(strips, depths):
        baseline = height - TOP - depth
        _draw_pulse(axes, baseline, gain)
        for row, start, stop in cells:
            first, last = round(start * rate), round(stop * rate)
            x = LEFT + speed * np.arange(first, last) / rate
            y = baseline + heights[row, first:last]
            _draw_lead(axes, leads[row], LEFT + speed * first / rate, x, y, baseline, leads[row] in derived)
            if start > 0:
                axes.vlines(LEFT + speed * start, baseline - 2, baseline + 2, colors=INK, linewidths=0.6)
    return figure, [f"{speed:g} mm/s {gain:g} mm/mV", *(["* derived from I and II"] if derived else [])]


def _draw_lines(
    record: HasSignal,
    signal: np.ndarray,
    speed: float | None,
    gain: float | None,
    row_seconds: float | None,
    lead: str | None,
    dpi: float,
) -> tuple["Figure", list[str]]:
    """Draw one lead, line below line, each with the time at which it begins."""
    rate, leads = float(record.sampling_rate), tuple(record.leads)
    duration = signal.shape[1] / rate
    lead = lead or next((name for name in RHYTHM_LEADS if name in leads), leads[0])
    if lead not in leads:
        raise ValueError(f"Expected lead to be one of {', '.join(leads)}, got {lead!r}.")
    row_seconds = row_seconds or next((length for length in (10.0, 30.0) if duration <= 20 * length), 60.0)
    speed = speed or (25.0 if row_seconds <= 12 else 300 / row_seconds)
    gain = gain or (10.0 if row_seconds <= 10 else 5.0)
    spacing = LINE_SPACING * max(1, round(gain / 5 - 0.25))
    lines = int(np.ceil(duration / row_seconds - 1e-9))
    width = max(LEFT + _up_to_5(row_seconds * speed) + RIGHT, MIN_WIDTH)
    height = TOP + _up_to_5(spacing * (lines - 1) + gain + 5) + 10 + BOTTOM
    if max(width, height) / 25.4 * dpi > MAX_PIXELS:
        longest = int((MAX_PIXELS / dpi * 25.4 - TOP - BOTTOM - gain - 20) / spacing + 1) * row_seconds
        raise ValueError(
            f"Expected at most {longest:g} s in lines of {row_seconds:g} s at {dpi:g} dpi, got {duration:g} s. Plot a "
            "part of it: record.crop(start_s, stop_s)."
        )
    (heights,) = _heights(signal[[leads.index(lead)]], gain)
    figure, axes = _paper(width, height, dpi)
    samples = row_seconds * rate
    for line in range(lines):
        baseline = height - TOP - _up_to_5(gain + 5) - spacing * line
        first, last = round(line * samples), min(round((line + 1) * samples), len(heights))
        piece = heights[first:last] - (
            np.nanmedian(heights[first:last]) if np.isfinite(heights[first:last]).any() else 0
        )
        y = baseline + np.clip(piece, -2 * spacing, 2 * spacing)
        x = LEFT + speed * (np.arange(first, last) / rate - line * row_seconds)
        axes.plot(x, y, color=INK, linewidth=0.7, solid_joinstyle="round", gid=f"lead {lead}")
        axes.text(LEFT - 2, baseline, _clock(line * row_seconds), fontsize=8, color=INK, va="center", ha="right")
    return figure, [f"lead {lead} · {speed:g} mm/s {gain:g} mm/mV", f"lines of {row_seconds:g} s"]


def _clock(seconds: float) -> str:
    """Return minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _up_to_5(millimetres: float) -> int:
    return 5 * int(np.ceil(millimetres / 5 - 1e-9))


def _arrange(leads: tuple[str, ...], duration: float, rows: int, rhythm_strips: int) -> list[list[Cell]]:
    """What stands in each strip of the paper, from the top: cells filled column by column, then the rhythm strips."""
    order = sorted(range(len(leads)), key=lambda row: (*STANDARD_LEADS, leads[row]).index(leads[row]))
    columns = -(-len(leads) // rows)
    seconds = duration / columns
    grid = [
        [(row, column * seconds, (column + 1) * seconds) for column, row in enumerate(order[i::rows])]
        for i in range(min(rows, len(leads)))
    ]
    if columns == 1:  # every lead is already shown over the whole length
        return grid
    named = [leads.index(lead) for lead in RHYTHM_LEADS if lead in leads] or order[:1]
    return grid + [[(row, 0.0, duration)] for row in named[:rhythm_strips]]


def _baseline_depths(
    heights: np.ndarray, sampling_rate: float, strips: list[list[Cell]], gain: float
) -> tuple[list[int], int]:
    """Depth in mm of every strip's baseline below the top margin, with room for its traces, and of the lower end."""
    depths: list[int] = []
    below = 0.0
    for cells in strips:
        shown = [heights[row, round(a * sampling_rate) : round(b * sampling_rate)] for row, a, b in cells]
        values = np.concatenate(shown)
        above = max(gain, np.nanmax(values, initial=0.0))
        spacing = _up_to_5(min(max(below + above + 2, MIN_SPACING), MAX_SPACING))
        depths.append((depths[-1] + spacing) if depths else _up_to_5(min(above, MAX_SPACING / 2)))
        below = -np.nanmin(values, initial=0.0)
    return depths, depths[-1] + _up_to_5(min(max(below, 10), MAX_SPACING / 2))


def _draw_grid(axes: "Axes", width: int, height: int) -> None:
    for step, colour, thickness in ((1, THIN_LINE, 0.25), (5, THICK_LINE, 0.5)):
        lines = [
            axes.vlines(np.arange(0, width + 1, step), 0, height, colors=colour, linewidths=thickness),
            axes.hlines(np.arange(0, height + 1, step), 0, width, colors=colour, linewidths=thickness),
        ]
        for collection in lines:
            collection.set(antialiased=False, zorder=step / 10, gid=f"grid {step} mm")


def _draw_lead(
    axes: "Axes", lead: str, left: float, x: np.ndarray, y: np.ndarray, baseline: float, derived: bool
) -> None:
    from matplotlib.patheffects import withStroke

    ink = DERIVED_INK if derived else INK
    axes.plot(x, y, color=ink, linewidth=0.8, solid_joinstyle="round", gid=f"lead {lead}")
    halo = [withStroke(linewidth=2, foreground=PAPER)]
    beside = y[(x < left + 9) & np.isfinite(y)]
    above = min(max(beside, default=baseline) + 1, baseline + MAX_SPACING / 2)  # the name does not hide the trace
    name = f"{lead}*" if derived else lead
    axes.text(left + 1, max(baseline + 7, above), name, fontsize=9, fontweight="bold", color=ink, path_effects=halo)
    if not np.isfinite(y).any():
        axes.text(left + 1, baseline, "no signal", fontsize=8, style="italic", color=INK, va="center")


__all__ = ["FULL_DISCLOSURE", "LAYOUTS", "plot_ecg"]
