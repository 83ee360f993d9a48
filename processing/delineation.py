"""Beats of an ECG: where they are, and their median.

QRS complexes are found in all leads together by band-pass, slope and moving average (after Pan & Tompkins, IEEE TBME
32:230, 1985).
"""

import numpy as np
from scipy import signal as sps

BEFORE, AFTER = 0.30, 0.50  # seconds of the median beat on either side of the R peak


def find_beats(clean: np.ndarray, sampling_rate: float, height: float = 0.35, apart: float = 0.24) -> np.ndarray:
    """Return the samples of the QRS complexes of a filtered signal of shape (leads, samples), all leads together.

    A complex has at least `height` of the slope of the steepest ones; slow ventricular beats have less than others.
    Of two within `apart` seconds the steeper one is returned.

    Example:

    >>> spikes = np.zeros((1, 1000))
    >>> spikes[0, [200, 300, 400, 500, 600]] = 1
    >>> find_beats(spikes, 100).tolist()
    [200, 300, 400, 500, 600]
    """
    high = min(25.0, 0.45 * sampling_rate)
    band = sps.sosfiltfilt(sps.butter(2, (5.0, high), "bandpass", fs=sampling_rate, output="sos"), clean, axis=-1)
    slope = (np.gradient(band, axis=-1) ** 2).sum(0)
    width = max(3, round(0.10 * sampling_rate) | 1)
    energy = np.sqrt(np.convolve(slope, np.ones(width) / width, mode="same"))
    level = np.quantile(energy, 0.98)  # QRS complexes fill more than 2 % of any rhythm above 12 per minute
    if not level > 1e-9:
        return np.zeros(0, dtype=int)
    distance = max(1, round(apart * sampling_rate))
    found, _ = sps.find_peaks(energy, height=height * level, distance=distance, prominence=height / 1.4 * level)
    size = np.abs(band).sum(0)
    reach = round(0.06 * sampling_rate)
    return np.array(
        [max(0, i - reach) + int(np.argmax(size[max(0, i - reach) : i + reach + 1])) for i in found], dtype=int
    )


def median_beat(clean: np.ndarray, peaks: np.ndarray, rate: float) -> tuple[np.ndarray | None, float]:
    """Return the median beat (leads, samples) and how much beats differ from it, as a fraction of its deviation."""
    before, after = round(BEFORE * rate), round(AFTER * rate)
    inside = peaks[(peaks >= before) & (peaks + after <= clean.shape[1])]
    if not len(inside):
        return None, np.nan
    beats = np.stack([clean[:, peak - before : peak + after] for peak in inside])
    beat = np.median(beats, axis=0)
    return beat, float(np.sqrt(((beats - beat) ** 2).mean()) / max(beat.std(), 1e-9))


def stretch(active: np.ndarray, centre: int) -> tuple[int, int]:
    """Return first and last index of the stretch of `active` around `centre`."""
    left = right = centre
    while left > 0 and active[left - 1]:
        left -= 1
    while right < len(active) - 1 and active[right + 1]:
        right += 1
    return left, right


__all__ = ["find_beats", "median_beat", "stretch"]
