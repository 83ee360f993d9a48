"""What is taken off an ECG before the model sees it: the electrode offset and slow drift of every lead.

This file travels to the Hub beside the weights, so it imports only siblings; it needs numpy and scipy alone.
"""

from functools import lru_cache

import numpy as np


def remove_drift(signal: np.ndarray, sampling_rate: float, cutoff: float) -> np.ndarray:
    """Return signals less their smooth baseline: offset and line vanish, what is slower than `cutoff` is damped.

    The baseline b of a signal x minimises `|x - b|² + λ |D² b|²`, with D² the second difference (Whittaker, 1923; a
    discrete smoothing spline). In the middle of a long signal this is a filter without phase shift that passes
    `1 - 1 / (1 + (sin(πf/fs) / sin(πf_c/fs))⁴)` of the frequency f: half at `cutoff`, 2.5 % at 0.4 · `cutoff`.
    AHA/ACCF/HRS (Kligfield et al., 2007) recommend 0.67 Hz or less for filters without phase shift.

    Args:
        signal (`np.ndarray` of shape `(..., samples)`): Finite; see `bridge_nan`.
        sampling_rate (`float`): Hz.
        cutoff (`float`): Hz, below half the sampling rate.

    Returns:
        `np.ndarray`: float32 of the same shape.

    Raises:
        ValueError: If `cutoff` is not above 0 and below half the sampling rate.

    Example:

    >>> line = 300 + np.linspace(0, 5, 1000)
    >>> bool(np.abs(remove_drift(line[None], 100, 0.5)).max() < 1e-4)
    True
    """
    if not 0 < cutoff < sampling_rate / 2:
        raise ValueError(f"Expected a cut-off above 0 and below {sampling_rate / 2:g} Hz, got {cutoff}.")
    samples = signal.shape[-1]
    if samples < 3:
        return np.zeros_like(signal, dtype=np.float32)
    from scipy.linalg import cho_solve_banded

    rows = np.asarray(signal, dtype=np.float64).reshape(-1, samples)
    factor = _factor(samples, (2 * np.sin(np.pi * cutoff / sampling_rate)) ** -4)
    # The line through the ends is its own baseline, and without it the equations are better conditioned.
    rows = rows - np.linspace(rows[:, 0], rows[:, -1], samples, axis=1)
    baseline = cho_solve_banded((factor, True), rows.T, overwrite_b=False, check_finite=False)
    return (rows - baseline.T).astype(np.float32).reshape(signal.shape)


@lru_cache(maxsize=8)
def _factor(samples: int, smoothness: float) -> np.ndarray:
    """Return the Cholesky factor of `1 + smoothness · D²ᵀD²`, in the lower banded form."""
    from scipy.linalg import cholesky_banded

    band = np.zeros((3, samples))
    difference = (1, -2, 1)
    for row in range(3):
        for column in range(row + 1):
            band[row - column, column : samples - 2 + column] += difference[row] * difference[column]
    band *= smoothness
    band[0] += 1
    return cholesky_banded(band, lower=True)


__all__ = ["remove_drift"]
