"""One ECG in memory: `EcgRecord`, the limits of its size, and `EcgFormatError` for what is not an ECG."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .leads import canonical_leads
from .resampling import resample_with_gaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


DISCLAIMER = "Research software, not a medical device: not for diagnosis or treatment."
"""Stands wherever results are shown."""

MAX_SAMPLES = 2**25
"""Most samples (leads times length) of one `EcgRecord`: 128 MiB as float32, 46 minutes of 12 leads at 1000 Hz."""

MAX_LEADS = 64
"""Most leads of one record; more is a damaged header."""

MAX_SAMPLING_RATE = 100_000.0
"""Highest sampling rate in Hz that is believed."""


MAX_TEXT = 1000
"""Most characters of a text of a record, such as its device or a note."""


class EcgFormatError(ValueError):
    """A file that is not a readable ECG. The only exception a reader raises for a bad file."""


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Return text of a file as it may be shown: control characters escaped, cut at `limit` characters.

    Example:

    >>> printable("Cart 7\\x1b[31m"), printable("abcdef", 3)
    ('Cart 7\\\\x1b[31m', 'abc...')
    """
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[:limit] + "..."


def later(start: datetime | None, seconds: float) -> datetime | None:
    """Return the time so many seconds after `start`; `None` if `start` is unknown or the result has no date.

    Example:

    >>> later(datetime(2001, 2, 3, 4, 5, 6), 10)
    datetime.datetime(2001, 2, 3, 4, 5, 16)
    """
    try:
        return None if start is None else start + timedelta(seconds=seconds)
    except OverflowError:
        return None


def check_size(n_leads: int, n_samples: int, what: str = "The file") -> None:
    """Refuse a declared size that is empty or above the limits, before anything of that size is allocated.

    Raises:
        EcgFormatError: If there is no lead, no sample, more than `MAX_LEADS` leads or more than `MAX_SAMPLES` samples.
    """
    if n_leads < 1 or n_samples < 1:
        raise EcgFormatError(
            f"{what} holds no ECG: expected at least 1 lead and 1 sample, got {n_leads} and {n_samples}."
        )
    if n_leads > MAX_LEADS or n_leads * n_samples > MAX_SAMPLES:
        raise EcgFormatError(
            f"{what} claims {n_leads} leads of {n_samples} samples; expected at most {MAX_LEADS} leads and "
            f"{MAX_SAMPLES} "
            "samples in all. Read a long recording in pieces with `windows`."
        )


@dataclass(frozen=True, eq=False)
class EcgRecord:
    """One ECG recording, free of direct identifiers (no name, no patient number, no birth date).

    Args:
        signal (`np.ndarray` of shape `(leads, samples)`): float32, in millivolts; NaN where the file marks a sample
            invalid.
        sampling_rate (`float`): Hz.
        leads (`tuple[str, ...]`): Canonical lead names (`modeling_merit.processing.leads`), in the order of the rows.
        record_id (`str`, *optional*): Name of the record, usually the file name without extension.
        start_time (`datetime`, *optional*): Time of the first sample.
        age (`float`, *optional*): Years.
        sex (`str`, *optional*): `"male"` or `"female"`.
        device (`str`, *optional*): Manufacturer and model.
        unit (`str`): Unit of voltage in the file.
        gain (`float`, *optional*): ADC units per millivolt in the file, when one number holds for all leads.
        filters (`str`, *optional*): Filters that the file declares.
        source (`str`, *optional*): Path of the file.
        notes (`tuple[str, ...]`): What a careful reader should know: channels left out, samples marked invalid.

    Raises:
        EcgFormatError: If the fields contradict each other.

    Example:

    >>> record = EcgRecord(np.zeros((2, 1000)), sampling_rate=500, leads=("I", "II"))
    >>> record.duration_s, record.select(["II"]).leads, record.resample(100).n_samples
    (2.0, ('II',), 200)
    """

    signal: np.ndarray = field(repr=False)
    sampling_rate: float
    leads: tuple[str, ...]
    record_id: str | None = None
    start_time: datetime | None = None
    age: float | None = None
    sex: str | None = None
    device: str | None = None
    unit: str = "mV"
    gain: float | None = None
    filters: str | None = None
    source: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # refused below as infinity
            signal = np.asarray(self.signal, dtype=np.float32)
        if signal.ndim != 2 or signal.shape[0] != len(self.leads):
            raise EcgFormatError(f"Expected a signal of shape ({len(self.leads)} leads, samples), got {signal.shape}.")
        check_size(signal.shape[0], signal.shape[1], "The record")
        if np.isinf(signal).any():
            raise EcgFormatError("Expected finite samples or NaN, got infinity.")
        rate = float(self.sampling_rate)
        if not 0 < rate <= MAX_SAMPLING_RATE:
            raise EcgFormatError(
                f"Expected a sampling rate above 0 and at most {MAX_SAMPLING_RATE:.0f} Hz, got {rate:g}."
            )
        try:
            leads = canonical_leads(self.leads)
        except ValueError as error:
            raise EcgFormatError(str(error)) from None
        for name, value in (
            ("signal", signal),
            ("sampling_rate", rate),
            ("leads", leads),
            ("notes", tuple(printable(note) for note in self.notes)),
        ):
            object.__setattr__(self, name, value)
        for name in ("record_id", "device", "unit", "filters"):  # text of the file: shown in terminals and pages
            text = getattr(self, name)
            object.__setattr__(self, name, None if text is None else printable(text))

    @property
    def n_samples(self) -> int:
        """Samples per lead."""
        return self.signal.shape[1]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sampling_rate

    def select(self, leads: Sequence[str]) -> "EcgRecord":
        """Return the record with only these leads, in this order.

        Raises:
            ValueError: If a lead is unknown or not in the record.
        """
        wanted = canonical_leads(leads)
        missing = [lead for lead in wanted if lead not in self.leads]
        if missing:
            raise ValueError(f"Expected leads of the record ({', '.join(self.leads)}), got {', '.join(missing)}.")
        return replace(self, signal=self.signal[[self.leads.index(lead) for lead in wanted]], leads=wanted)

    def crop(self, start_s: float, stop_s: float) -> "EcgRecord":
        """Return the record from `start_s` to `stop_s` seconds; its `start_time` moves along.

        Raises:
            ValueError: If the interval is empty or does not lie within the record.

        Example:

        >>> record = EcgRecord(np.zeros((1, 5000)), 500, ("II",), start_time=datetime(2001, 2, 3, 4, 5, 6))
        >>> record.crop(2, 10).start_time
        datetime.datetime(2001, 2, 3, 4, 5, 8)
        """
        limits = np.array([start_s, stop_s], dtype=float) * self.sampling_rate
        start, stop = (round(limit) if abs(limit) < 2**62 else -1 for limit in limits.tolist())
        if not 0 <= start < stop <= self.n_samples:
            raise ValueError(f"Expected 0 <= start < stop <= {self.duration_s:g} s, got {start_s:g} and {stop_s:g}.")
        start_time = later(self.start_time, start / self.sampling_rate)
        return replace(self, signal=self.signal[:, start:stop], start_time=start_time)

    def resample(self, rate: float) -> "EcgRecord":
        """Return the record at another sampling rate in Hz, by polyphase filtering (`scipy.signal.resample_poly`).

        Invalid samples are bridged linearly for the filter and are NaN again in the result.
        """
        if rate == self.sampling_rate:
            return self
        if not 0 < rate <= MAX_SAMPLING_RATE:
            raise ValueError(f"Expected a rate above 0 and at most {MAX_SAMPLING_RATE:.0f} Hz, got {rate}.")
        signal = resample_with_gaps(self.signal, self.sampling_rate, rate)
        return replace(self, signal=signal, sampling_rate=rate)

    def plot(self, path: str | PathLike | None = None, **options: Any) -> "Figure":
        """Draw the record on ECG paper.

        Args:
            path (`str` or path, *optional*): Where to save the figure.
            options: Arguments of `modeling_merit.processing.plotting.plot_ecg`, such as `layout="6x2"` or `title`.

        Example:

        >>> record = EcgRecord(np.zeros((1, 60_000)), 500, ("II",))
        >>> figure = record.plot(layout="full-disclosure", row_seconds=30)
        """
        from .plotting import plot_ecg

        return plot_ecg(self, path, **options)

    def _repr_png_(self) -> bytes | None:
        """Return what a notebook without HTML shows."""
        from .notebook import plot_png

        return plot_png(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from .notebook import record_html

        return record_html(self, DISCLAIMER)


@dataclass(frozen=True)
class Recording:
    """A recording opened for reading in pieces.

    Args:
        n_frames (`int`): Length in frames; a frame is the time in which the slowest channel gives one sample.
        frame_rate (`float`): Frames per second.
        read (callable): `read(start, stop)` returns the frames `start` to `stop` as an `EcgRecord`.
    """

    n_frames: int
    frame_rate: float
    read: Callable[[int, int], "EcgRecord"]


__all__ = [
    "DISCLAIMER",
    "MAX_LEADS",
    "MAX_SAMPLES",
    "MAX_SAMPLING_RATE",
    "EcgFormatError",
    "EcgRecord",
    "Recording",
    "check_size",
    "later",
    "printable",
]
