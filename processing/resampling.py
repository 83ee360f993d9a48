"""From one sampling rate to another: the only resampling of records, of training signals and of model inputs."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

WINDOW = ("kaiser", 5.0)
"""Window of the anti-aliasing filter, as `scipy.signal.resample_poly` takes it."""


def resampling_ratio(rate: float, new_rate: float) -> Fraction:
    """Return new_rate / rate as a fraction of moderate terms; the time it errs by is below 2 ms in 30 s.

    Raises:
        ValueError: If the ratio is below 1 in 20,000.

    Example:

    >>> resampling_ratio(500, 100)
    Fraction(1, 5)
    """
    exact = Fraction(new_rate).limit_denominator(1000) / Fraction(rate).limit_denominator(1000)
    ratio = exact.limit_denominator(20_000)
    if ratio == 0:
        raise ValueError(f"Cannot resample from {rate:g} to {new_rate:g} Hz: the ratio is below 1 in 20000.")
    return ratio


def resample(signal: np.ndarray, rate: float, new_rate: float, window: Sequence[Any] = WINDOW) -> np.ndarray:
    """Resample finite signals from `rate` to `new_rate` Hz by polyphase filtering.

    The line through the ends is taken off before filtering: a record with an offset would ring at both ends.

    Args:
        signal (`np.ndarray` of shape `(..., samples)`): Finite; see `bridge_nan`.
        rate, new_rate (`float`): Hz.
        window (sequence): As `scipy.signal.resample_poly` takes it.

    Returns:
        `np.ndarray` of shape `(..., round(samples · new_rate / rate))`, at least one sample, of the type of `signal`.

    Example:

    >>> resample(np.ones((1, 1000)), 500, 100).shape
    (1, 200)
    """
    from scipy.signal import resample_poly

    ratio = resampling_ratio(rate, new_rate)
    if ratio == 1:
        return signal
    samples = max(1, round(signal.shape[-1] * ratio))
    resampled = resample_poly(
        signal, ratio.numerator, ratio.denominator, axis=-1, window=tuple(window), padtype="line"
    )
    return resampled[..., :samples]


def resample_invalid(invalid: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
    """Mark each new sample that has an invalid old one within half a new period, or next to it.

    Args:
        invalid (`np.ndarray` of shape `(..., samples)`): True where a sample is invalid.
        rate, new_rate (`float`): Hz.

    Returns:
        `np.ndarray`: bool, of the length that `resample` gives.

    Example:

    >>> resample_invalid(np.array([[False] * 5 + [True] + [False] * 14]), 500, 100).tolist()
    [[False, True, False, False]]
    """
    ratio = resampling_ratio(rate, new_rate)
    if ratio == 1:
        return invalid
    samples, step = max(1, round(invalid.shape[-1] * ratio)), float(1 / ratio)
    centre = np.arange(samples) * step
    first = np.clip(np.floor(centre - step / 2), 0, None).astype(int)
    last = np.clip(np.ceil(centre + step / 2), None, invalid.shape[-1] - 1).astype(int)
    before = np.concatenate([np.zeros_like(invalid[..., :1], dtype=int), invalid.cumsum(axis=-1)], axis=-1)
    return before[..., last + 1] > before[..., first]


def bridge_nan(signal: np.ndarray) -> np.ndarray:
    """Return a copy of `(..., samples)` with NaN interpolated linearly within each row; a row of NaN becomes 0.

    Example:

    >>> bridge_nan(np.array([[0.0, np.nan, 1.0], [np.nan] * 3])).tolist()
    [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    """
    bridged = np.array(signal)
    invalid = np.isnan(bridged)
    for row, bad in zip(bridged.reshape(-1, bridged.shape[-1]), invalid.reshape(-1, bridged.shape[-1])):
        if bad.any():
            row[bad] = 0.0 if bad.all() else np.interp(np.flatnonzero(bad), np.flatnonzero(~bad), row[~bad])
    return bridged


def resample_with_gaps(signal: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
    """Resample `(..., samples)`: NaN is bridged linearly for the filter and is NaN again in the result (float32).

    Example:

    >>> bool(np.isnan(resample_with_gaps(np.array([[1.0] * 9 + [np.nan] * 11]), 500, 100))[0, -1])
    True
    """
    resampled = resample(bridge_nan(signal).astype(np.float64), rate, new_rate).astype(np.float32)
    invalid = np.isnan(signal)
    if invalid.any():
        resampled[resample_invalid(invalid, rate, new_rate)] = np.nan
    return resampled


__all__ = ["WINDOW", "bridge_nan", "resample", "resample_invalid", "resample_with_gaps", "resampling_ratio"]
