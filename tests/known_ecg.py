"""Twelve-lead ECGs of known rate, axis and intervals."""

import numpy as np

from modeling_merit.processing.leads import LIMB_LEADS, STANDARD_LEADS


def synthetic_ecg(rate=100.0, heart_rate=75.0, axis=60.0, seconds=10.0, qrs_scale=1.0, pr=0.16, jitter=0.0, seed=0):
    """Twelve leads (mV) of Gaussian waves, whose frontal axis, rate and intervals are known."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    beats = np.cumsum(60 / heart_rate * (1 + jitter * rng.uniform(-1, 1, 60))) - 0.3
    beats = beats[beats < seconds + 1]

    def wave(delay, width, height):
        return height * np.exp(-0.5 * ((time[:, None] - beats - delay) / width) ** 2).sum(1)

    p, t = wave(-pr, 0.02, 0.12), wave(0.28, 0.04, 0.3)
    qrs = wave(0, 0.018 * qrs_scale, 1.0)
    angle = np.deg2rad(axis)
    signals = {"I": qrs * np.cos(angle), "II": qrs * np.cos(angle - np.pi / 3)}
    signals = {lead: signal + 0.7 * p + 0.7 * t for lead, signal in signals.items()}
    for lead, (first, second) in LIMB_LEADS.items():
        signals[lead] = first * signals["I"] + second * signals["II"]
    for index, size in enumerate((-0.8, -0.4, 0.3, 1.2, 1.4, 1.0), start=1):
        signals[f"V{index}"] = size * qrs + 0.5 * p + t
    return np.stack([signals[lead] for lead in STANDARD_LEADS]) + rng.normal(scale=0.005, size=(12, len(time)))
