"""Quality flags of an ECG as recorded: flat and clipped leads, Einthoven's law, exchanged limb electrodes."""

import math
from typing import Any

import numpy as np

FLAT_MV = 0.01  # peak to peak
CLIP_SECONDS, CLIP_SAMPLES, CLIP_MV = 0.02, 4, 0.5  # time at the extreme, and the peak-to-peak amplitude it takes


def signal_quality(
    signal: np.ndarray, missing: np.ndarray, leads: tuple[str, ...], rate: float, peak_to_peak: np.ndarray
) -> list[dict[str, Any]]:
    """Describe what may be wrong with ECGs, before anything is resampled or normalised.

    Args:
        signal (`np.ndarray` of shape `(ecgs, leads, samples)`): mV, finite: missing samples are bridged.
        missing (`np.ndarray` of shape `(ecgs, leads, samples)`): True where a sample is missing.
        leads (`tuple[str, ...]`): Canonical names of the rows.
        rate (`float`): Hz.
        peak_to_peak (`np.ndarray` of shape `(ecgs, leads)`): mV.

    Returns:
        `list[dict]`: Per ECG rate, duration, largest amplitude, share of missing samples, flat and clipped leads, the
        largest violation of Einthoven's I + III = II in mV, and whether the limb electrodes look exchanged (`None`
        where the leads that would tell are absent).

    Example:

    >>> ecg = np.zeros((1, 1, 100))
    >>> signal_quality(ecg, ecg > 0, ("V1",), 100.0, np.zeros((1, 1)))[0]["flat_leads"]
    ['V1']
    """
    flat, clipped = peak_to_peak < FLAT_MV, _clipped(signal, rate) & (peak_to_peak > CLIP_MV)
    lead = {name: signal[:, i] for i, name in enumerate(leads)}
    residual = None
    if lead.keys() >= {"I", "II", "III"}:
        bridged = missing[:, [leads.index(name) for name in ("I", "II", "III")]].any(axis=1)
        residual = np.where(bridged, 0.0, np.abs(lead["I"] + lead["III"] - lead["II"]))
    swap = _limb_lead_swap(lead["I"], lead["II"], lead.get("V6")) if lead.keys() >= {"I", "II"} else None
    return [
        {
            "sampling_rate": rate,
            "duration_s": signal.shape[-1] / rate,
            "peak_to_peak_mv": float(peak_to_peak[i].max()),
            "nan_fraction": float(missing[i].mean()),
            "flat_leads": [name for name, is_flat in zip(leads, flat[i]) if is_flat],
            "clipped_leads": [name for name, is_clipped in zip(leads, clipped[i]) if is_clipped],
            "einthoven_residual_mv": None if residual is None else float(residual[i].max()),
            "limb_lead_swap": None if swap is None else bool(swap[i]),
        }
        for i in range(len(signal))
    ]


def _clipped(signal: np.ndarray, rate: float) -> np.ndarray:
    """Tell the leads that stay at their own maximum or minimum for at least 20 ms and 4 samples."""
    run = max(CLIP_SAMPLES, math.ceil(CLIP_SECONDS * rate))
    clipped = np.zeros(signal.shape[:-1], dtype=bool)
    for extreme in (signal.max(axis=-1, keepdims=True), signal.min(axis=-1, keepdims=True)):
        count = (signal == extreme).cumsum(axis=-1)
        clipped |= (count[..., run - 1 :] - np.pad(count, [(0, 0), (0, 0), (1, 0)])[..., : -run or None] == run).any(
            axis=-1
        )
    return clipped


def _limb_lead_swap(lead_i: np.ndarray, lead_ii: np.ndarray, v6: np.ndarray | None) -> np.ndarray:
    """Suspect exchanged limb electrodes where I runs against V6, or aVR along with it.

    I and V6 look at the heart from the same side. The rule holds for 0.6 % of the PTB-XL records as they are, for 86 %
    once the arms are exchanged in software, for 65 % once right arm and left leg are; left arm with left leg is not
    seen. Without V6: I points down and aVR up (2 %, 80 %, 40 %). Dextrocardia looks the same.
    """
    avr = -(lead_i + lead_ii) / 2
    if v6 is not None:
        return (_correlation(lead_i, v6) < -0.5) | (_correlation(avr, v6) > 0.3)
    direction = [x.max(axis=-1) + x.min(axis=-1) - 2 * np.median(x, axis=-1) for x in (lead_i, avr)]
    return (direction[0] < 0) & (direction[1] > 0)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1) + 1e-12)


__all__ = ["signal_quality"]
