"""Random changes of ECGs that keep their report true, for training only."""

import numpy as np


def augment_ecg(
    signals: np.ndarray,
    rng: np.random.Generator,
    *,
    sampling_rate: float,
    crop_seconds: float | None = None,
    gain_jitter: float = 0.1,
    wander_mv: float = 0.1,
    noise_mv: float = 0.02,
    lead_dropout: float = 0.5,
    gap_probability: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ECGs cropped, scaled, disturbed and with leads masked, each record with its own random numbers.

    Args:
        signals (`np.ndarray` of shape `(batch, leads, samples)`): ECGs in mV; not changed in place.
        rng (`np.random.Generator`): Source of randomness; the same generator gives the same result.
        sampling_rate (`float`): Rate in Hz.
        crop_seconds (`float`, *optional*): Length of a random crop, the same in all leads; `None` keeps all samples.
        gain_jitter (`float`, defaults to 0.1): Standard deviation of the logarithm of one gain per record, so that
            the ratios of leads, and with them the electrical axis, stay as they are.
        wander_mv (`float`, defaults to 0.1): Largest amplitude in mV of a baseline wander of 0.05 to 0.5 Hz in each
            lead.
        noise_mv (`float`, defaults to 0.02): Largest standard deviation in mV of white noise.
        lead_dropout (`float`, defaults to 0.5): Probability that a record loses a random number of its leads; at
            least one lead always stays.
        gap_probability (`float`, defaults to 0.0): Probability that up to half of a record's time is masked in all
            leads, as missing samples and the padding of short records are.

    Returns:
        `tuple(np.ndarray, np.ndarray)`: Signals, float32 of shape (batch, leads, samples of the crop), and the mask
        of the same shape that is False on lost leads and in gaps.

    Raises:
        ValueError: If a crop longer than the signals is asked for.

    Example:

    >>> ecgs, rng = np.zeros((4, 12, 1000)), np.random.default_rng(0)
    >>> signals, mask = augment_ecg(ecgs, rng, sampling_rate=100, crop_seconds=5)
    >>> signals.shape, mask.any(axis=(1, 2)).tolist()
    ((4, 12, 500), [True, True, True, True])
    """
    batch, leads, samples = signals.shape
    length = samples if crop_seconds is None else round(crop_seconds * sampling_rate)
    if not 0 < length <= samples:
        raise ValueError(f"Expected a crop above 0 and at most {samples / sampling_rate} s, got {crop_seconds} s.")
    starts = rng.integers(0, samples - length + 1, size=batch)
    out = np.stack([signal[:, start : start + length] for signal, start in zip(signals, starts)]).astype(np.float32)
    out *= np.exp(rng.normal(0, gain_jitter, size=(batch, 1, 1))).astype(np.float32)
    seconds = np.arange(length, dtype=np.float32) / sampling_rate
    frequency = rng.uniform(0.05, 0.5, size=(batch, leads, 1)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, size=(batch, leads, 1)).astype(np.float32)
    amplitude = rng.uniform(0, wander_mv, size=(batch, leads, 1)).astype(np.float32)
    out += amplitude * np.sin(2 * np.pi * frequency * seconds + phase)
    out += rng.standard_normal(out.shape, dtype=np.float32) * rng.uniform(0, noise_mv, (batch, 1, 1)).astype(
        np.float32
    )
    lost = rng.random((batch, leads)) < rng.uniform(0, 1, size=(batch, 1))
    lost &= rng.random((batch, 1)) < lead_dropout
    lost[np.arange(batch), rng.integers(0, leads, size=batch)] = False
    mask = np.broadcast_to(~lost[:, :, None], out.shape)
    if gap_probability:
        gaps = rng.uniform(0, length / 2, size=(batch, 1)) * (rng.random((batch, 1)) < gap_probability)
        first, place = rng.uniform(0, length - gaps), np.arange(length)
        mask = mask & ((place < first) | (place >= first + gaps))[:, None]
    return out, mask


__all__ = ["augment_ecg"]
