"""Twelve leads on ECG paper, true to scale: 25 mm/s and 10 mm/mV unless asked otherwise.

The whole figure is one axes whose unit is the millimetre, so that 1 mm of the plot is 1 mm of a print at 100 %. Lead
arrangement, speed, gain and calibration follow the recommendations for the standardization of the electrocardiogram
(Kligfield et al., Circulation 115:1306, 2007).
"""

from os import PathLike
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .leads import STANDARD_LEADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYOUTS = {"3x4": (3, 0), "3x4+1": (3, 1), "3x4+3": (3, 3), "6x2": (6, 0), "6x2+1": (6, 1), "12x1": (12, 0)}
"""Layouts by name (rows x columns for twelve leads + rhythm strips): number of rows, number of rhythm strips."""

RHYTHM_LEADS = ("II", "V1", "V5")
"""Leads of the rhythm strips."""

DPI = 254.0
"""Pixels per inch: 10 per millimetre, so that every line of the grid falls on a pixel."""

MAX_PIXELS = 2**16 - 1
"""Longest side of an image that matplotlib can render."""

PAPER, THIN_LINE, THICK_LINE, INK = "#fffafa", "#fadcdc", "#efb0b0", "#111116"
# All in mm and multiples of 5, so that every baseline lies on a thick line of the grid.
LEFT, RIGHT, TOP, BOTTOM = 15, 5, 15, 10
MIN_SPACING, MAX_SPACING = 25, 50
MIN_WIDTH = 85  # of the footer

Cell = tuple[int, float, float]  # row of the signal, first and last second shown


class HasSignal(Protocol):
    """What is plotted: an `EcgRecord`, or whatever else has its signal in mV, its rate in Hz and its leads."""

    @property
    def signal(self) -> np.ndarray: ...

    @property
    def sampling_rate(self) -> float: ...

    @property
    def leads(self) -> tuple[str, ...]: ...


def plot_ecg(
    record: HasSignal,
    path: str | PathLike | None = None,
    *,
    title: str | None = None,
    speed: float = 25.0,
    gain: float = 10.0,
    layout: str = "3x4+1",
    dpi: float = DPI,
) -> "Figure":
    """Draw an ECG on millimetre paper.

    Columns follow each other in time, as on a printed ECG: in four columns of a ten-second record each lead shows 2.5
    s, and the rhythm strip below shows all of it. Leads beyond twelve get further columns; a record with no more
    leads than the layout has rows is shown in one column over its whole length. The constant offset (median) of a
    lead is left out, as an ECG amplifier is AC-coupled. NaN samples are gaps in the trace.

    Args:
        record (`EcgRecord`): `signal` in mV of shape `(leads, samples)`, `sampling_rate` in Hz and `leads`, the names.
        path (`str` or path, *optional*): Where to save the figure; the suffix says how (`.png`, `.pdf`, `.svg`).
        title (`str`, *optional*): Printed above. Nothing of the record's identity is printed by itself.
        speed (`float`, defaults to 25.0): Paper speed in mm/s.
        gain (`float`, defaults to 10.0): mm per mV.
        layout (`str`, defaults to `"3x4+1"`): One of `LAYOUTS`.
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
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Plotting needs matplotlib, which is not installed. Install it with: pip install "merit-ecg[plot]"'
        ) from error
    signal = _checked_signal(record, speed, gain, layout, dpi)
    duration = signal.shape[1] / record.sampling_rate
    width = max(LEFT + _up_to_5(duration * speed) + RIGHT, MIN_WIDTH)
    if width / 25.4 * dpi > MAX_PIXELS:
        longest = int((MAX_PIXELS / dpi * 25.4 - LEFT - RIGHT - 5) / speed)
        raise ValueError(
            f"Expected at most {longest} s at {speed:g} mm/s and {dpi:g} dpi, got {duration:g} s. Plot a part of it: "
            "record.crop(start_s, stop_s)."
        )
    centred = [row - np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else row for row in signal]
    heights = gain * np.array(centred)  # mm above the baseline
    strips = _arrange(tuple(record.leads), duration, *LAYOUTS[layout])
    depths, bottom = _baseline_depths(heights, record.sampling_rate, strips, gain)
    height = TOP + bottom + BOTTOM

    figure = Figure(figsize=(width / 25.4, height / 25.4), dpi=dpi, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    _draw_grid(axes, width, height)
    for cells, depth in zip(strips, depths):
        baseline = height - TOP - depth
        pulse = [baseline, baseline, baseline + gain, baseline + gain, baseline, baseline]
        axes.plot([3, 5, 5, 10, 10, 12], pulse, color=INK, linewidth=0.8, gid="calibration")
        for row, start, stop in cells:
            first, last = round(start * record.sampling_rate), round(stop * record.sampling_rate)
            seconds = np.arange(first, last) / record.sampling_rate
            left = LEFT + speed * first / record.sampling_rate
            _draw_lead(
                axes, record.leads[row], left, LEFT + speed * seconds, baseline + heights[row, first:last], baseline
            )
            if start > 0:
                axes.vlines(LEFT + speed * start, baseline - 2, baseline + 2, colors=INK, linewidths=0.6)

    if title:
        axes.text(LEFT, height - 7.5, title, fontsize=11, fontweight="bold", color=INK, va="center")
    facts = f"{speed:g} mm/s {gain:g} mm/mV · not a medical device\n{duration:g} s · {record.sampling_rate:g} Hz"
    axes.text(LEFT, 5, facts, fontsize=8, color=INK, va="center")
    if path is not None:
        figure.savefig(path, dpi=dpi)
    return figure


def _checked_signal(record: HasSignal, speed: float, gain: float, layout: str, dpi: float) -> np.ndarray:
    if layout not in LAYOUTS:
        raise ValueError(f"Expected layout to be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    for name, value in (("speed", speed), ("gain", gain), ("dpi", dpi), ("sampling_rate", record.sampling_rate)):
        if not 0 < value < np.inf:
            raise ValueError(f"Expected {name} to be a positive number, got {value}.")
    signal = np.asarray(record.signal, dtype=float)
    if signal.ndim != 2 or 0 in signal.shape or len(signal) != len(record.leads):
        raise ValueError(
            f"Expected a signal in mV of shape (leads, samples) with a name for each row, got {signal.shape} and "
            f"{len(record.leads)} names. Transpose a signal of shape (samples, leads)."
        )
    return signal


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


def _draw_lead(axes: "Axes", lead: str, left: float, x: np.ndarray, y: np.ndarray, baseline: float) -> None:
    from matplotlib.patheffects import withStroke

    axes.plot(x, y, color=INK, linewidth=0.8, solid_joinstyle="round", gid=f"lead {lead}")
    halo = [withStroke(linewidth=2, foreground=PAPER)]
    beside = y[(x < left + 9) & np.isfinite(y)]
    above = min(max(beside, default=baseline) + 1, baseline + MAX_SPACING / 2)  # the name does not hide the trace
    axes.text(left + 1, max(baseline + 7, above), lead, fontsize=9, fontweight="bold", color=INK, path_effects=halo)
    if not np.isfinite(y).any():
        axes.text(left + 1, baseline, "no signal", fontsize=8, style="italic", color=INK, va="center")


__all__ = ["LAYOUTS", "plot_ecg"]
