"""Measurements of an ECG: heart rate, PR, QRS, QT, QTc and axes, each with whether it can be trusted.

Intervals are global, from the first onset to the last end in all leads together, on the median of the beats of the
most frequent shape (Kligfield et al., Recommendations for the standardization and interpretation of the
electrocardiogram, part I, Circulation 115:1306, 2007). QRS begins and ends where the spatial velocity, the root mean
square of the slopes of all leads, falls to a part of its peak. T ends where the tangent at its steepest return meets
the baseline (Lepeschkin & Surawicz, Circulation 6:378, 1952), in the median over the leads. Axes are those of the net
areas in I and aVF. What fails a check has no value: no PR without a P wave that every beat repeats, no QTc for an
irregular rhythm (Rautaharju et al., part IV, Circulation 119:e241, 2009). Not a medical device.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import signal as sps
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from .delineation import find_beats
from .leads import derive_limb_leads
from .resampling import bridge_nan, resample
from .signal_quality import FLAT_MV

RATE = 500.0  # Hz at which beats are measured: 2 ms
BEFORE, AFTER = 0.42, 0.72  # s of the median beat on either side of the QRS complex
MIN_SECONDS, MAX_SECONDS = 3.0, 300.0
MIN_RATE = 50.0  # Hz
MAX_MISSING = 0.1  # of the samples of a lead that is used
SAME_SHAPE = 0.8  # correlation of beats that are taken together
SPIKE = 0.025  # sharpness per ms of a pacing spike, see `_without_spikes`
MOST = 0.6  # of the range within 16 ms that a pacing spike rises and returns
SPIKE_RATE = 300.0  # Hz; below, a pacing spike is as wide as a part of QRS
SMEARED = 0.18  # sharpness of a pacing spike below `SPIKE_RATE`; that of QRS is less from 100 Hz on
LATEST_QRS = 0.45  # s from an atrial pacing spike to QRS
T_LATEST = 0.36  # s from QRS to the peak of T
T_SLOPE = 0.5  # of the slope of QRS; T has less
FEW_T = 1 / 2  # per beat
FASTEST = 0.15  # s between beats that are too close to be counted
SLOW_BEAT = 0.15  # height of a slow premature beat for `find_beats`
SLOW_SLOPE = 0.25  # least slope of a slow premature beat, as a part of that of the others
LONG_PAUSE = 1.0  # s between beats, above which a slow premature beat may hide even in a regular rhythm
INVERTED = 0.9  # correlation of a pulse with the beats upside down
PEAKED = 0.4  # a rhythm without QRS complexes, such as noise, has a median energy above this part of its peaks
QRS_FAST, QRS_EDGE = 0.15, 0.06  # of the peak velocity: certainly QRS; its onset and end
P_EDGE = 0.15  # of the height of P at its onset and end
MIN_QRS = 50.0  # ms
MIN_P, MAX_P, MIN_T = 0.02, 0.18, 0.05  # mV: root mean square over the leads of P; T in a lead
FLUTTER_RATE = 125.0  # per minute; above, atrial flutter with 2:1 conduction may hide its second wave in QRS or T
P_ALIKE, P_ALIKE_IRREGULAR = 0.65, 0.85  # correlation of P of a beat with the other beats, in the median
TWIN = 0.85  # correlation with P of another atrial wave
IRREGULAR = 0.15  # root mean square of the differences of successive RR, as a part of the mean RR


class HasSignal(Protocol):
    """What is measured: an `EcgRecord`, or whatever else has its signal in mV, its rate in Hz and its leads."""

    @property
    def signal(self) -> np.ndarray: ...

    @property
    def sampling_rate(self) -> float: ...

    @property
    def leads(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
        value (`float`, *optional*): In `unit`; `None` where it cannot be trusted.
        unit (`str`): `"1/min"`, `"ms"` or `"degrees"`.
        reason (`str`, *optional*): Why there is no value.
    """

    value: float | None
    unit: str
    reason: str | None = None

    @property
    def valid(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


@dataclass(frozen=True)
class Measurements:
    """The measurements of one ECG, each a [`Measurement`].

    Attributes:
        heart_rate: Beats per minute, from the mean of all RR intervals.
        pr, qrs, qt: ms. PR runs from the onset of P to that of QRS.
        qtc_bazett, qtc_fridericia: ms; QT over the square root, or the cube root, of the mean RR interval in seconds.
        p_axis, qrs_axis, t_axis: Degrees in the frontal plane, above -180 up to 180; 0 points to the left, 90 down.
        beats: QRS complexes found.
    """

    heart_rate: Measurement
    pr: Measurement
    qrs: Measurement
    qt: Measurement
    qtc_bazett: Measurement
    qtc_fridericia: Measurement
    p_axis: Measurement
    qrs_axis: Measurement
    t_axis: Measurement
    beats: int

    def __iter__(self) -> Iterator[tuple[str, Measurement]]:
        """Give name and measurement, in the order of the attributes."""
        for field in fields(self):
            if field.name != "beats":
                yield field.name, getattr(self, field.name)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: by name `value`, `unit`, `valid` and `reason`, and the number of `beats`."""
        content: dict[str, Any] = {
            name: {"value": found.value, "unit": found.unit, "valid": found.valid, "reason": found.reason}
            for name, found in self
        }
        return content | {"beats": self.beats}


UNITS = {"heart_rate": "1/min"} | dict.fromkeys(("pr", "qrs", "qt", "qtc_bazett", "qtc_fridericia"), "ms")
UNITS |= dict.fromkeys(("p_axis", "qrs_axis", "t_axis"), "degrees")


class Refused(Exception):
    """Why something cannot be measured."""


class Rhythm(NamedTuple):
    """Where the beats are, at `RATE`."""

    clean: np.ndarray  # (leads, samples), mV
    leads: tuple[str, ...]
    peaks: np.ndarray  # samples of all QRS complexes
    usual: np.ndarray  # samples of those of the most frequent shape, aligned with one another
    rr: float  # s, mean
    shortest: float  # s from a usual beat to the next one; a quarter of them are shorter
    irregular: bool


def measure(record: HasSignal) -> Measurements:
    """Measure an ECG.

    Args:
        record (`EcgRecord`): `signal` in mV of shape `(leads, samples)`, `sampling_rate` in Hz, and `leads`. Any
            leads will do but for the axes, which need I and II, or I and aVF.

    Returns:
        `Measurements`: What cannot be trusted has no value, and says why.

    Raises:
        ValueError: If the record is longer than 300 s: one QT does not describe it. Crop it first.

    Example:

    >>> from modeling_merit.processing.data.simulation import simulate_ecg
    >>> ecg = simulate_ecg("sinus_rhythm", seed=0, sampling_rate=500)
    >>> found = measure(ecg)
    >>> round(found.heart_rate.value), round(ecg.factors["heart_rate"])
    (84, 84)
    >>> measure(simulate_ecg("atrial_fibrillation", seed=0)).pr.reason
    'no P wave that the beats repeat'
    """
    duration = np.asarray(record.signal).shape[-1] / record.sampling_rate
    if duration > MAX_SECONDS:
        raise ValueError(
            f"Expected a record of at most {MAX_SECONDS:g} s, got {duration:g} s. Measure a part of it: "
            "record.crop(start_s, stop_s)."
        )
    found: dict[str, float | str] = {}
    beats = 0
    try:
        signal, leads = _known(record)
        clean, leads = _filtered(signal, float(record.sampling_rate), leads)
        peaks = _beats(clean)
        beats = len(peaks)
        rhythm = _rhythm(clean, leads, peaks)
        spikes = _spikes(signal, float(record.sampling_rate), peaks)
        if (spikes[:-1] & (np.diff(peaks) < LATEST_QRS * RATE)).sum() > 1:
            raise Refused("pacing spikes cannot be told from beats at this sampling rate")
        found["heart_rate"] = 60 / rhythm.rr
        if spikes.mean() > 1 / 3:
            raise Refused("pacing spikes cannot be told from QRS at this sampling rate")
        found |= _measure_beat(rhythm)
    except Refused as refused:
        found = {name: found.get(name, str(refused)) for name in UNITS}
    return Measurements(**{name: _measurement(found[name], unit) for name, unit in UNITS.items()}, beats=beats)


def _measurement(found: float | str, unit: str) -> Measurement:
    return Measurement(None, unit, found) if isinstance(found, str) else Measurement(round(float(found), 1), unit)


def _known(record: HasSignal) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the leads without long gaps, as they were recorded but for pacing spikes."""
    signal, rate = np.asarray(record.signal, dtype=np.float64), float(record.sampling_rate)
    if rate < MIN_RATE:
        raise Refused(f"sampled below {MIN_RATE:g} Hz")
    if signal.shape[1] < MIN_SECONDS * rate:
        raise Refused(f"shorter than {MIN_SECONDS:g} s")
    known = np.isfinite(signal).mean(axis=1) >= 1 - MAX_MISSING
    if not known.any():
        raise Refused("no lead without gaps")
    signal = _without_spikes(bridge_nan(signal[known]), rate)
    return signal, tuple(lead for lead, is_known in zip(record.leads, known) if is_known)


def _without_spikes(signal: np.ndarray, rate: float) -> np.ndarray:
    """Bridge pacing spikes, which rise and return within some 4 ms in several leads at once.

    How sharp a sample is, is its fourth difference over 16; that of a spike is a large part of its height, even where
    it falls between two samples. Over 12 ms a spike rises and returns by most of what happens within 32 ms; the tip
    of an R wave, which may be as sharp, does not.
    """
    if rate < SPIKE_RATE:
        return signal
    step, side, wide = round(0.002 * rate), round(0.006 * rate), round(0.016 * rate)
    padded, samples = np.pad(signal, [(0, 0), (wide, wide)], mode="edge"), signal.shape[1]

    def at(shift: int) -> np.ndarray:
        return padded[:, wide + shift : wide + shift + samples]

    sharp = np.abs(6 * signal - 4 * (at(-step) + at(step)) + at(-2 * step) + at(2 * step)) / 16
    up, down = signal - at(-side), signal - at(side)
    rise = np.where(up * down > 0, np.minimum(np.abs(up), np.abs(down)), 0)
    size = 2 * wide + 1
    whole = maximum_filter1d(signal, size, axis=-1) - minimum_filter1d(signal, size, axis=-1)
    brief = (rise > 0.1) & (rise > MOST * whole) & (sharp > SPIKE * 1e3 * step / rate * rise)
    brief &= sharp > 12 * np.median(sharp, axis=1, keepdims=True)  # eight standard deviations of white noise
    spikes = brief.sum(axis=0) >= min(3, len(signal))
    reach = round(0.006 * rate)
    near = np.convolve(spikes, np.ones(2 * reach + 1), mode="same") > 0.5
    return bridge_nan(np.where(near, np.nan, signal))


def _spikes(signal: np.ndarray, rate: float, peaks: np.ndarray) -> np.ndarray:
    """Return which beats are pacing spikes, as a recorder below `SPIKE_RATE` leaves them: one or two sharp samples."""
    if not 100 <= rate < SPIKE_RATE:
        return np.zeros(len(peaks), dtype=bool)
    sharp = np.abs(sps.convolve(signal, np.array([[1, -4, 6, -4, 1]]) / 16, mode="same"))
    found = []
    for at in np.round(peaks * rate / RATE).astype(int):
        near, wide = (slice(max(0, at - round(s * rate)), at + round(s * rate) + 1) for s in (0.04, 0.06))
        height = np.ptp(signal[:, wide], axis=1)
        found.append((sharp[:, near].max(axis=1) ** 2).sum() > SMEARED**2 * (height**2).sum())
    return np.array(found)


def _filtered(signal: np.ndarray, rate: float, leads: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the leads that hold an ECG, between 0.5 and 40 Hz, at `RATE`."""
    filters = sps.butter(2, (0.5, min(40.0, 0.45 * rate)), "bandpass", fs=rate, output="sos")
    clean = resample(sps.sosfiltfilt(filters, signal, axis=-1), rate, RATE)
    alive = np.ptp(clean, axis=-1) >= FLAT_MV
    if not alive.any():
        raise Refused("flat")
    return clean[alive], tuple(lead for lead, is_alive in zip(leads, alive) if is_alive)


def _pieces(clean: np.ndarray, at: np.ndarray, before: float, after: float) -> np.ndarray:
    """Return the stretches around samples, `(beats, leads, samples)`."""
    steps = np.arange(-round(before * RATE), round(after * RATE))
    return clean[:, at[:, None] + steps].transpose(1, 0, 2)


def _inside(clean: np.ndarray, at: np.ndarray, before: float, after: float) -> np.ndarray:
    return (at >= round(before * RATE)) & (at + round(after * RATE) <= clean.shape[1])


def _beats(clean: np.ndarray) -> np.ndarray:
    """Return the samples of all QRS complexes.

    What stands out in a minority of several leads is a loose electrode, not a beat. In a pause, a slow premature beat
    is looked for that is as large as the others.
    """
    found = find_beats(clean, RATE)
    peaks = _without_t(clean, found)
    tall_t = len(peaks) < len(found)
    if len(peaks) < 3:
        return peaks
    padded = np.pad(clean, [(0, 0), (60, 60)], mode="edge")

    def sizes(at: np.ndarray, reach: float = 0.06) -> np.ndarray:  # (beats, leads)
        return np.ptp(_pieces(padded, at + 60, reach, reach), axis=-1)

    usual = np.median(sizes(peaks), axis=0)
    if len(clean) > 2:
        peaks = peaks[(sizes(peaks) > 0.3 * usual).mean(axis=1) > 0.5]
    rr = np.diff(peaks)
    if len(rr) and rr.max() > min(1.45 * np.median(rr), LONG_PAUSE * RATE):
        slow = find_beats(clean, RATE, height=SLOW_BEAT)
        slow = slow[(sizes(slow, 0.10) / np.maximum(usual, 1e-9)).mean(axis=1) > 0.6]
        peaks = np.append(peaks, _slow_beats(clean, peaks, slow))
    return _without_t(clean, np.sort(peaks), 0 if tall_t else FEW_T)


def _slow_beats(clean: np.ndarray, peaks: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """Return which slow waves are premature beats.

    Those in a pause are. In long intervals that are none, as between the sinus beats of bigeminy, those are that most
    of the intervals have, if they are steep and come later than T.
    """
    rr, steep = np.diff(peaks), _steepness(clean, slow) >= SLOW_SLOPE * np.median(_steepness(clean, peaks))
    long, pause = rr > LONG_PAUSE * RATE, rr > 1.45 * np.median(rr)
    inside = (slow > peaks[:-1, None] + 0.28 * RATE) & (slow < peaks[1:, None] - 0.28 * RATE)  # (intervals, waves)
    in_pause = inside[pause].any(axis=0)
    inside = inside[long & ~pause] & steep
    if inside.any(axis=1).sum() <= 0.5 * len(inside):
        return slow[in_pause]
    delay, latest = slow - peaks[:-1, None][long & ~pause], T_LATEST * np.sqrt(rr * RATE)[long & ~pause, None]
    if (inside & (delay > T_LATEST * RATE) & (delay < latest)).any():
        raise Refused("T waves cannot be told from premature beats")
    return slow[in_pause | inside.any(axis=0)]


def _steepness(clean: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return the largest slope within 50 ms of samples, all leads together."""
    speed = np.sqrt((np.gradient(clean, axis=-1) ** 2).sum(axis=0))
    return np.array([speed[max(0, peak - 25) : peak + 25].max() for peak in peaks])


def _without_t(clean: np.ndarray, peaks: np.ndarray, few: float = FEW_T) -> np.ndarray:
    """Leave out T waves: less than half as steep as a beat shortly before them (Pan & Tompkins, 1985).

    Up to `few` per beat are premature beats: T follows every beat.
    """
    steep = _steepness(clean, peaks)
    kept: list[int] = []
    for i, peak in enumerate(peaks):
        if not kept or peak - peaks[kept[-1]] > T_LATEST * RATE or steep[i] >= T_SLOPE * steep[kept[-1]]:
            kept.append(i)
    if len(peaks) - len(kept) <= few * len(kept):
        return peaks
    if few and len(kept) > 1 and steep[kept[0]] < T_SLOPE * steep[kept[1]]:  # the T of a beat before the record
        kept = kept[1:]
    return peaks[kept]


def _rhythm(clean: np.ndarray, leads: tuple[str, ...], peaks: np.ndarray) -> Rhythm:
    """Align the beats of the most frequent shape.

    Raises:
        Refused: If no beats stand out, or too few are alike.
    """
    if len(peaks) < 3:
        raise Refused("fewer than three beats")
    speed = np.sqrt((np.gradient(clean, axis=-1) ** 2).sum(axis=0))
    energy = np.convolve(speed, np.ones(51) / 51, mode="same")
    if np.median(energy) > PEAKED * np.median(energy[peaks]):
        raise Refused("no QRS complexes that stand out")
    reach = round(0.03 * RATE)
    whole = _inside(clean, peaks, 0.14, 0.14)
    at = peaks[whole]

    def shapes(at: np.ndarray) -> np.ndarray:
        pieces = _pieces(clean, at, 0.10, 0.10)
        pieces = (pieces - pieces.mean(axis=-1, keepdims=True)).reshape(len(at), -1)
        return pieces / np.maximum(np.linalg.norm(pieces, axis=1, keepdims=True), 1e-12)

    pieces = shapes(at)
    alike = pieces @ pieces.T > SAME_SHAPE
    usual = alike[int(np.argmax(alike.sum(axis=1)))]
    shifts = np.arange(-reach, reach + 1)
    for _ in range(2):
        template = np.median(shapes(at[usual]), axis=0)
        template /= np.linalg.norm(template)
        scores = np.stack([shapes(at + shift) @ template for shift in shifts])
        at = np.clip(at + shifts[scores.argmax(axis=0)], round(0.14 * RATE), clean.shape[1] - round(0.14 * RATE))
        usual = scores.max(axis=0) > SAME_SHAPE
        if usual.sum() < 3 or usual.mean() < 0.5:
            raise Refused("the beats do not resemble one another")
        if (scores.min(axis=0) < -INVERTED).mean() > 0.2:
            raise Refused("pulses in both directions, as of a calibration")
    close = find_beats(clean, RATE, apart=FASTEST)
    close = close[_inside(clean, close, 0.14, 0.14)]
    alike_close = np.stack([shapes(close + shift) @ template for shift in shifts]).max(axis=0) > SAME_SHAPE
    if alike_close.sum() > usual.sum() + 1:
        raise Refused("beats or pacing spikes too close to be counted")
    rr = np.diff(at) / RATE
    turns = (rr < T_LATEST) & (usual[1:] != usual[:-1])
    if turns.sum() > 0.5 * (~usual).sum() and usual.mean() < 0.6:
        raise Refused("two kinds of beats in turn, as of pacing spikes")
    peaks, same = peaks.copy(), np.zeros(len(peaks), dtype=bool)
    peaks[whole], same[whole] = at, usual
    rr = np.diff(peaks) / RATE
    both = np.convolve(same | ~whole, [1, 1], mode="valid") == 2  # no premature beat at either end
    steps = np.diff(rr)[both[1:] & both[:-1]]
    if not len(steps):  # as in bigeminy
        steps = np.diff(rr)
    irregular = len(steps) > 1 and float(np.sqrt((steps**2).mean())) > IRREGULAR * rr.mean()
    shortest = float(np.quantile(rr[same[:-1]], 0.25))
    return Rhythm(clean, leads, peaks, peaks[same], float(rr.mean()), shortest, irregular)


def _measure_beat(rhythm: Rhythm) -> dict[str, float | str]:
    """Measure the median beat; a text says why something has no value."""
    at = rhythm.usual[_inside(rhythm.clean, rhythm.usual, BEFORE, AFTER)]
    if len(at) < 2:
        raise Refused("fewer than two whole beats of one shape")
    beats = _pieces(rhythm.clean, at, BEFORE, AFTER)
    onset, end = _qrs(np.median(beats, axis=0))
    if end - onset < MIN_QRS / 1e3 * RATE:
        return dict.fromkeys(UNITS, f"a QRS of less than {MIN_QRS:g} ms, as of a pacing spike")
    beats = beats - np.median(beats[..., onset - 10 : onset - 2], axis=-1, keepdims=True)  # the PR segment is zero
    beat = np.median(beats, axis=0)
    outside = np.r_[0:onset, end : beat.shape[1]]
    spread = 1.4826 * np.median(np.abs(beats - beat)[..., outside], axis=(0, 2))
    noise = 1.25 * spread / np.sqrt(len(at))  # mV per lead, of the median
    found: dict[str, float | str] = {}
    size = float(np.sqrt((np.ptp(beat[:, onset : end + 1], axis=-1) ** 2).mean()))
    if size < 10 * np.sqrt((noise**2).mean()):
        raise Refused("too noisy")
    found["qrs"] = (end - onset) / RATE * 1e3
    found["qrs_axis"] = _axis(beat[:, onset : end + 1], rhythm.leads, noise)
    p_wave: tuple[int, int] | str
    try:
        p_wave = _p_wave(beats, beat, noise, onset, rhythm)
    except Refused as refused:
        p_wave = str(refused)
    try:
        next_beat = onset + rhythm.rr * RATE - (0 if isinstance(p_wave, str) else onset - p_wave[0])
        if rhythm.shortest < 0.85 * rhythm.rr:  # a premature beat follows, which may rise slowly
            next_beat = min(next_beat, onset + (rhythm.shortest - 0.08) * RATE)
        t_peak, t_end = _t_wave(beat, noise, onset, end, rhythm.rr, next_beat)
        found["qt"] = qt = (t_end - onset) / RATE * 1e3
        found["t_axis"] = _axis(beat[:, t_peak - 50 : t_end], rhythm.leads, noise)
        for name, power in (("qtc_bazett", 1 / 2), ("qtc_fridericia", 1 / 3)):
            found[name] = "irregular rhythm" if rhythm.irregular else qt / rhythm.rr**power
        if not isinstance(p_wave, str):
            p_wave = _only_p(beat, p_wave, t_end, rhythm.rr)
    except Refused as refused:
        found |= dict.fromkeys(("qt", "t_axis", "qtc_bazett", "qtc_fridericia"), str(refused))
    if not isinstance(p_wave, str) and 60 / rhythm.rr > FLUTTER_RATE:
        p_wave = f"above {FLUTTER_RATE:g}/min flutter with 2:1 conduction cannot be excluded"
    if not isinstance(p_wave, str) and p_wave[0] < _p_start(onset, rhythm.rr) + 5:
        p_wave = "P begins before the part that is searched"
    if isinstance(p_wave, str):
        return found | dict.fromkeys(("pr", "p_axis"), p_wave)
    first, _ = p_wave
    found["pr"] = (onset - first) / RATE * 1e3
    level = beat[:, first, None] * np.linspace(1, 0, onset - first)  # from the level before P to that after it, zero
    found["p_axis"] = _axis(beat[:, first:onset] - level, rhythm.leads, noise)
    return found


def _qrs(beat: np.ndarray) -> tuple[int, int]:
    """Return first and last sample of QRS in a beat."""
    centre = round(BEFORE * RATE)
    slope = np.zeros_like(beat)
    slope[:, 2:-2] = beat[:, 4:] - beat[:, :-4]
    velocity = np.sqrt((slope**2).mean(axis=0))
    top = velocity[centre - 30 : centre + 30].max()
    fast = centre - 45 + np.flatnonzero(velocity[centre - 45 : centre + 55] > QRS_FAST * top)
    middle = int(np.argmin(np.abs(fast - centre)))
    gaps = np.flatnonzero(np.diff(fast) > 15)  # samples without speed: P stands before the QRS of a low voltage
    fast = fast[max(gaps[gaps < middle] + 1, default=0) : min(gaps[gaps >= middle] + 1, default=len(fast))]
    before, after = velocity[centre - 150 : centre - 30], velocity[centre + 40 : centre + 225]
    onset, end, reach = int(fast[0]), int(fast[-1]), 7

    def edge(rest: np.ndarray) -> float:
        return min(max(QRS_EDGE * top, 2 * float(np.quantile(rest, 0.2))), QRS_FAST * top)

    def still(i: int, ahead: np.ndarray) -> bool:  # or a minimum, after which another wave begins
        return velocity[i] <= ahead.min() and velocity[i] < 0.6 * QRS_FAST * top

    while onset > 20 and velocity[onset] >= edge(before) and not still(onset, velocity[onset - reach : onset]):
        onset -= 1
    last = beat.shape[1] - 60
    while end < last and velocity[end] >= edge(after) and not still(end, velocity[end + 1 : end + 1 + reach]):
        end += 1
    return onset, end


def _t_wave(beat: np.ndarray, noise: np.ndarray, onset: int, end: int, rr: float, next_beat: float) -> tuple[int, int]:
    """Return the sample of the peak and of the end of T, each the median over the leads that show a T wave.

    `next_beat` is where the P wave of the next beat begins, or its QRS.

    Raises:
        Refused: If none does, or they disagree.
    """
    start, stop = end + 30, min(onset + round(0.70 * rr * RATE), round(next_beat), beat.shape[1] - 20)
    limit = min(onset + round(0.95 * rr * RATE), round(next_beat) + 20, beat.shape[1] - 5)
    peaks, ends = [], []
    for lead, level in zip(beat, noise):
        if stop - start < 20:
            break
        size = np.abs(lead)
        tops, _ = sps.find_peaks(size[start:stop], height=max(MIN_T, 4 * level), prominence=max(MIN_T / 2, 3 * level))
        if not len(tops):
            continue
        tops = tops + start
        largest = tops[np.argmax(size[tops])]
        late = (size[tops] >= 0.5 * size[largest]) & (tops <= largest + 0.16 * RATE)
        peak = int(tops[late][-1])  # of a biphasic T the last part
        slope = np.gradient(lead * np.sign(lead[peak]))[peak : min(peak + 100, limit)]
        steepest = int(np.argmin(slope))
        if slope[steepest] >= 0:
            continue
        meets = peak + steepest + size[peak + steepest] / -slope[steepest]
        if meets < limit:
            peaks.append(peak)
            ends.append(meets)
    if not ends:
        raise Refused("no T wave of 0.05 mV that ends before the next beat")
    if len(ends) > 2 and np.subtract(*np.quantile(ends, [0.75, 0.25])) > 0.06 * RATE:
        raise Refused("the leads disagree on where T ends")
    return round(float(np.median(peaks))), round(float(np.median(ends)))


def _only_p(beat: np.ndarray, p_wave: tuple[int, int], t_end: int, rr: float) -> tuple[int, int] | str:
    """Return the P wave, or why it is none: it lies in the T of the beat before, or has a twin in the same beat."""
    first, last = p_wave
    if first + rr * RATE < t_end - 10:
        return "P and T are not apart"
    wave = beat[:, first:last] - beat[:, first:last].mean(axis=-1, keepdims=True)
    stop = min(beat.shape[1], first + round(rr * RATE) - 20) - (last - first)
    for at in range(t_end, stop, 2):
        other = beat[:, at : at + last - first]
        other = other - other.mean(axis=-1, keepdims=True)
        product, energy = float((wave * other).sum()), float((wave**2).sum())
        size = float((other**2).sum())
        if product > TWIN * np.sqrt(energy * size) and 0.25 < size / energy < 4:
            return "several atrial waves per beat"
    return first, last


def _p_start(onset: int, rr: float) -> int:
    """Return the sample from which on P is looked for: about where T of the beat before ends, at most 0.34 s early."""
    return max(5, onset - 170, onset - round((rr - 0.40 * np.sqrt(rr)) * RATE))


def _p_wave(beats: np.ndarray, beat: np.ndarray, noise: np.ndarray, onset: int, rhythm: Rhythm) -> tuple[int, int]:
    """Return first and last sample of P.

    Raises:
        Refused: If there is none that every beat repeats.
    """
    rr = rhythm.rr
    start, stop = _p_start(onset, rr), onset - 12
    if stop - start < 25:
        raise Refused("no room for a P wave between T and QRS")
    size = np.sqrt((beat**2).mean(axis=0))
    tops, found = sps.find_peaks(size[start:stop], prominence=0.4 * MIN_P)
    if not len(tops):
        raise Refused("no P wave that the beats repeat")
    peak = start + int(tops[np.argmax(found["prominences"])])
    base = size[max(start, peak - 60) : peak].min()
    edge = base + P_EDGE * (size[peak] - base)
    first = peak
    while first > start and size[first - 1] > edge:
        first -= 1
    last = peak
    while last < onset and size[last + 1] > P_EDGE * size[peak] and size[last + 1] <= size[last] + 1e-4:
        last += 1
    if size[peak] - base > MAX_P:
        raise Refused("the atrial wave is too large for P")
    if size[peak] - base < max(MIN_P, 2.5 * np.sqrt((noise**2).mean())) or last - first < 15:
        raise Refused("no P wave that the beats repeat")
    waves = beats[..., max(0, first - 10) : last + 5]
    waves = (waves - waves.mean(axis=-1, keepdims=True)).reshape(len(beats), -1)
    others = waves.sum(axis=0) - waves
    alike = (waves * others).sum(axis=1) / (np.linalg.norm(waves, axis=1) * np.linalg.norm(others, axis=1) + 1e-12)
    if np.median(alike) < (P_ALIKE_IRREGULAR if rhythm.irregular else P_ALIKE):
        raise Refused("no P wave that the beats repeat")
    return first, last


def _axis(wave: np.ndarray, leads: tuple[str, ...], noise: np.ndarray) -> float | str:
    """Return the frontal axis of a wave `(leads, samples)` in degrees, from its net areas in I and aVF."""
    area = dict(zip(leads, wave.sum(axis=-1) / RATE))
    area |= derive_limb_leads(area, ("aVF",))
    if not {"I", "aVF"} <= area.keys():
        return "needs leads I and II"
    x, y = area["I"], area["aVF"] * 2 / np.sqrt(3)
    uncertain = float(max(noise[i] for i, lead in enumerate(leads) if lead in ("I", "II", "aVF")))
    if np.hypot(x, y) < 3 * uncertain * np.sqrt(wave.shape[-1]) / RATE + 2e-4:
        return "too small in the limb leads"
    return float(np.degrees(np.arctan2(y, x)))


__all__ = ["Measurement", "Measurements", "measure"]
