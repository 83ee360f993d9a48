"""Classical ECG features: what a cardiologist measures, as a baseline for learned representations.

QRS complexes are found in all leads together (`processing.delineation`). Amplitudes and intervals are taken from the
median beat, rhythm from the RR intervals. Not a medical device: the values serve comparison, not diagnosis.
"""

import numpy as np
from scipy import signal as sps

from ..delineation import BEFORE, find_beats, median_beat, stretch
from ..leads import STANDARD_LEADS
from ..resampling import bridge_nan

BANDS = ((0.5, 3.0), (3.0, 8.0), (8.0, 15.0), (15.0, 25.0), (25.0, 40.0))
SPECTRAL_LEADS = ("II", "V1", "V5")
_BEAT = ("p", "q", "r", "s", "t", "t_area", "qrs_area", "st_j", "st_60")
_WAVES = (
    *("pr_ms", "qrs_ms", "qt_ms", "qtc_ms", "p_ms", "p_template", "beat_deviation"),
    *(
        "qrs_axis_cos",
        "qrs_axis_sin",
        "t_axis_cos",
        "t_axis_sin",
        "sokolow_lyon_mv",
        "cornell_mv",
        "r_v1_plus_s_v5_mv",
    ),
)
_RHYTHM = (
    *("beats", "heart_rate", "rr_mean", "rr_std", "rr_min", "rr_max", "rr_rmssd", "rr_pnn50", "rr_cv"),
    *("rr_entropy", "rr_lag1", "early_beats", "atrial_power_4_9_hz"),
)
FEATURE_NAMES = (
    *_RHYTHM,
    *_WAVES,
    *(f"{name}_{lead}" for lead in STANDARD_LEADS for name in _BEAT),
    *(f"band_{low:g}_{high:g}_{lead}" for lead in SPECTRAL_LEADS for low, high in BANDS),
    *(f"std_{lead}" for lead in STANDARD_LEADS),
)
"""Names of the columns: times in s unless the name ends in `_ms`, amplitudes in mV, areas in mV·s, rate in 1/min."""


def classical_features(signals: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Return the measurements of ECGs.

    Args:
        signals (`np.ndarray` of shape `(12, samples)` or `(records, 12, samples)`): In mV, rows in the order of
            `STANDARD_LEADS`, at least 2 s. NaN samples are bridged; a lead without any sample has NaN features.
        sampling_rate (`float`): In Hz, at least 50.

    Returns:
        `np.ndarray` of shape `(len(FEATURE_NAMES),)` or `(records, len(FEATURE_NAMES))`, float32: NaN where something
        cannot be measured (no beat, absent lead). Gradient boosting takes NaN as it is.

    Raises:
        ValueError: If the shape, the length or the rate does not fit.

    Example:

    >>> time = np.arange(1000) / 100
    >>> beats = 1.2 * np.exp(-0.5 * (((time % 0.8) - 0.4) / 0.015) ** 2)
    >>> values = classical_features(np.tile(beats, (12, 1)), 100)
    >>> round(float(values[FEATURE_NAMES.index("heart_rate")]))
    75
    """
    signals = np.asarray(signals, dtype=np.float64)
    if signals.ndim not in (2, 3) or signals.shape[-2] != 12:
        raise ValueError(f"Expected signals of shape (12, samples) or (records, 12, samples), got {signals.shape}.")
    if sampling_rate < 50 or signals.shape[-1] < 2 * sampling_rate:
        raise ValueError(
            f"Expected at least 50 Hz and 2 s, got {sampling_rate} Hz, {signals.shape[-1] / sampling_rate:.1f} s."
        )
    if signals.ndim == 3:
        return np.stack([classical_features(one, sampling_rate) for one in signals])
    absent = np.isnan(signals).all(1)
    filled = bridge_nan(signals)
    high = min(40.0, 0.45 * sampling_rate)
    clean = sps.sosfiltfilt(sps.butter(2, (0.5, high), "bandpass", fs=sampling_rate, output="sos"), filled, axis=-1)
    peaks = find_beats(clean, sampling_rate)
    beat, deviation = median_beat(clean, peaks, sampling_rate)
    waves, amplitudes = _measure_beat(beat, deviation, peaks, sampling_rate, absent)
    v1 = STANDARD_LEADS.index("V1")
    rhythm = _rhythm(peaks, clean[v1] * (np.nan if absent[v1] else 1), sampling_rate)
    amplitudes[absent] = np.nan
    rows = [STANDARD_LEADS.index(lead) for lead in SPECTRAL_LEADS]
    power = _bands(clean[rows], sampling_rate)
    power[absent[rows]] = np.nan
    size = np.where(absent, np.nan, clean.std(1))
    return np.concatenate([rhythm, waves, amplitudes.ravel(), power.ravel(), size]).astype(np.float32)


def _extreme(part: np.ndarray) -> np.ndarray:
    """Return, per lead, the value farthest from zero."""
    return part[np.arange(len(part)), np.argmax(np.abs(part), axis=1)]


def _measure_beat(
    beat: np.ndarray | None, deviation: float, peaks: np.ndarray, rate: float, absent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if beat is None:
        return np.full(len(_WAVES), np.nan), np.full((12, len(_BEAT)), np.nan)
    peak, samples = round(BEFORE * rate), beat.shape[1]

    def at(seconds: float) -> int:
        return int(np.clip(peak + round(seconds * rate), 0, samples))

    speed = np.sqrt((np.gradient(beat, axis=1) ** 2).sum(0))
    centre = at(-0.04) + int(np.argmax(speed[at(-0.04) : at(0.05)]))
    active = np.convolve(speed > 0.12 * speed[centre], np.ones(max(1, round(0.02 * rate))), mode="same") > 0.5
    onset, end = stretch(active, centre)
    onset, end = max(onset, at(-0.12)), min(end, at(0.14))
    base = beat[:, max(0, onset - round(0.04 * rate)) : max(1, onset)]
    beat = beat - np.median(base, axis=1, keepdims=True)  # the PR segment is the electrical zero
    size = np.sqrt((beat**2).sum(0))
    p_range, t_range = (
        slice(at(-0.28), max(at(-0.28) + 1, onset)),
        slice(min(end + round(0.06 * rate), samples - 2), samples),
    )
    p_peak = p_range.start + int(np.argmax(size[p_range]))
    t_peak = t_range.start + int(np.argmax(size[t_range]))
    p_left, p_right = stretch(size > 0.5 * size[p_peak], p_peak)
    _, t_end = stretch(size > 0.25 * size[t_peak], t_peak)
    rr = np.median(np.diff(peaks)) / rate if len(peaks) > 1 else np.nan
    qt = (t_end - onset) / rate
    qrs, st = beat[:, onset : end + 1], min(end + round(0.06 * rate), samples - 1)
    r_row = np.argmax(qrs, axis=1)
    q = np.array([min(0.0, qrs[lead, : r_row[lead] + 1].min()) for lead in range(12)])
    s = np.array([min(0.0, qrs[lead, r_row[lead] :].min()) for lead in range(12)])
    r, qrs_area = np.maximum(qrs.max(1), 0), qrs.sum(1) / rate
    t_area = beat[:, t_range].sum(1) / rate
    amplitudes = np.stack(
        [_extreme(beat[:, p_range]), q, r, s, _extreme(beat[:, t_range]), t_area, qrs_area, beat[:, end], beat[:, st]],
        axis=1,
    )
    known = np.where(absent, np.nan, 1.0)
    r, depth, qrs_area, t_area = r * known, -s * known, qrs_area * known, t_area * known
    lead = {name: row for row, name in enumerate(STANDARD_LEADS)}
    waves = [(onset - p_left) / rate * 1e3, (end - onset) / rate * 1e3, qt * 1e3, qt / np.sqrt(rr) * 1e3]
    waves += [(p_right - p_left) / rate * 1e3, size[p_peak] / max(size[peak], 1e-9), deviation]
    for area in (qrs_area, t_area):  # axis in the frontal plane from I and aVF, as cosine and sine
        x, y = area[lead["I"]], area[lead["aVF"]] * 2 / np.sqrt(3)
        waves += [x / max(np.hypot(x, y), 1e-9), y / max(np.hypot(x, y), 1e-9)]
    waves.append(depth[lead["V1"]] + np.fmax(r[lead["V5"]], r[lead["V6"]]))
    waves.append(r[lead["aVL"]] + depth[lead["V3"]])
    waves.append(r[lead["V1"]] + depth[lead["V5"]])
    return np.array(waves), amplitudes


def _rhythm(peaks: np.ndarray, v1: np.ndarray, rate: float) -> np.ndarray:
    values = np.full(len(_RHYTHM), np.nan)
    values[0] = len(peaks)
    if len(peaks) < 3:
        return values
    rr = np.diff(peaks) / rate
    steps = np.diff(rr)
    values[1:9] = [60 / np.median(rr), rr.mean(), rr.std(), rr.min(), rr.max(), 0, 0, rr.std() / rr.mean()]
    values[6], values[7] = np.sqrt((steps**2).mean()), (np.abs(steps) > 0.05).mean()
    fraction = np.histogram(rr / np.median(rr), bins=np.arange(0.4, 1.7, 0.1))[0] / len(rr)
    values[9] = -(fraction[fraction > 0] * np.log(fraction[fraction > 0])).sum()
    values[10] = np.corrcoef(rr[:-1], rr[1:])[0, 1] if len(rr) > 3 and rr[:-1].std() > 0 and rr[1:].std() > 0 else 0
    values[11] = (rr < 0.85 * np.median(rr)).mean()
    quiet = np.ones(len(v1), dtype=bool)  # V1 between the T wave and the next QRS shows the atria
    for peak in peaks:
        quiet[max(0, peak - round(0.08 * rate)) : peak + round(0.40 * rate)] = False
    masked = np.where(quiet, v1, 0)
    frequency, power = sps.periodogram(masked, rate)
    values[12] = power[(frequency >= 4) & (frequency <= 9)].sum() / np.maximum(power[frequency >= 0.5].sum(), 1e-12)
    return values


def _bands(leads: np.ndarray, rate: float) -> np.ndarray:
    """Return the logarithm of the power in each band as a fraction of all of them."""
    frequency, power = sps.welch(leads, rate, nperseg=min(leads.shape[1], round(4 * rate)))
    bands = np.stack([power[:, (frequency >= low) & (frequency < high)].sum(1) for low, high in BANDS], axis=1)
    return np.log(np.maximum(bands, 1e-12) / np.maximum(bands.sum(1, keepdims=True), 1e-12))
