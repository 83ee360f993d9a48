"""What an ECG array holds besides ECG: padding and markers of missing values, and its quality flags.

Flags: flat and clipped leads, Einthoven's law, reversed limb leads.

This file travels to the Hub beside the weights, so it imports only siblings; it needs numpy alone.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .leads import STANDARD_LEADS, derive_limb_leads
from .resampling import bridge_nan

PLAUSIBLE_HZ = (10.0, 100_000.0)
PLAUSIBLE_MV = (0.05, 20.0)  # largest peak-to-peak amplitude of a record: outside, the unit is probably wrong
FLAT_MV = 0.01  # peak to peak
PADDING_SECONDS, PADDING_SAMPLES = 0.1, 10  # shortest padding at an end of a record, if all leads hold one value there
HELD_SECONDS = 0.2  # the same if each holds its own: every record of PTB-XL ends with 0.1 s of its last values
PAUSE_SECONDS = 2.0  # longest time for which an ECG without noise stands still between two beats
NO_VALUES = (-32768, 29999, 32767, -(2**31), 2**31 - 1)  # markers of a missing sample in integer formats
NO_VALUE_GAP = 1000  # ADC units between a marker and the nearest voltage
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
        `list[dict]`: Per ECG rate, duration, largest amplitude, fraction of missing samples, flat and clipped leads,
        the largest violation of Einthoven's I + III = II in mV, and whether limb-lead reversal is suspected (`None`
        where the leads that would tell are absent, or never recorded together).

    Example:

    >>> ecg = np.zeros((1, 1, 100))
    >>> signal_quality(ecg, ecg > 0, ("V1",), 100.0, np.zeros((1, 1)))[0]["flat_leads"]
    ['V1']
    """
    flat = (peak_to_peak < FLAT_MV) & ~missing.all(axis=-1)
    clipped = _clipped(signal, rate) & (peak_to_peak > CLIP_MV)
    lead = {name: signal[:, i] for i, name in enumerate(leads)}
    gone = {name: missing[:, i] for i, name in enumerate(leads)}
    residual = np.full((len(signal), 1), np.nan)
    if lead.keys() >= {"I", "II", "III"}:
        bridged = gone["I"] | gone["II"] | gone["III"]
        residual = np.where(bridged, np.nan, np.abs(lead["I"] + lead["III"] - lead["II"]))
    return [
        {
            "sampling_rate": rate,
            "duration_s": signal.shape[-1] / rate,
            "peak_to_peak_mv": float(peak_to_peak[i].max()),
            "nan_fraction": float(missing[i].mean()),
            "flat_leads": [name for name, is_flat in zip(leads, flat[i]) if is_flat],
            "clipped_leads": [name for name, is_clipped in zip(leads, clipped[i]) if is_clipped],
            "einthoven_residual_mv": None if np.isnan(residual[i]).all() else float(np.nanmax(residual[i])),
            "limb_lead_reversal": _limb_lead_reversal(
                {name: (lead[name][i], ~gone[name][i]) for name in ("I", "II", "V6") if name in lead}, rate
            ),
        }
        for i in range(len(signal))
    ]


def record_quality(record: Any) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the quality flags that the feature extractor gives of a record of any length, and its warnings.

    Args:
        record (`EcgRecord`): Leads other than the standard twelve are left out, with a note.

    Returns:
        The flags, `None` where the feature extractor cannot use the record, and notes.

    Example:

    >>> from modeling_merit.processing.record import EcgRecord
    >>> flags, notes = record_quality(EcgRecord(np.zeros((2, 1000)), 500, ("I", "II")))
    >>> flags["flat_leads"], flags["derived_leads"], len(notes)
    (['I', 'II'], ['III', 'aVR', 'aVL', 'aVF'], 1)
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            rate = check_sampling_rate(record.sampling_rate)
            rows = known_leads(record.leads, STANDARD_LEADS, "drop")
            leads = tuple(record.leads[row] for row in rows)
            signal = np.asarray(record.signal, dtype=np.float32)[None, rows]
            missing = np.isnan(signal)
            signal, _ = fill_missing(signal, leads, [0], "mask")
        except ValueError as error:
            return None, [f"no quality flags: {error}"]
        peak_to_peak = np.ptp(signal, axis=-1)
        warn_amplitude(peak_to_peak.max(axis=-1), [0])
    flags = signal_quality(signal, missing, leads, rate, peak_to_peak)[0]
    valid = dict(zip(leads, ~missing[0]))
    derived = list(derive_limb_leads(dict(zip(leads, signal[0])), STANDARD_LEADS))
    if derived:
        valid |= dict.fromkeys(derived, valid["I"] & valid["II"])
    flags["derived_leads"] = derived
    flags["absent_leads"] = [lead for lead in STANDARD_LEADS if lead not in valid or not valid[lead].any()]
    return flags, [str(warning.message) for warning in caught]


def unpadded(signal: np.ndarray, rate: float) -> tuple[int, int]:
    """Return from where to where a signal is a recording, without the padding at its ends.

    Padding is a stretch at the start or the end during which every lead stands exactly still, or is NaN, for at least
    `PADDING_SAMPLES` and `PADDING_SECONDS` (several leads, all at one value) or `HELD_SECONDS` (a single lead, or each
    at its own value). An ECG without noise stands still between its beats, too: a stretch shorter than `PAUSE_SECONDS`
    also has to last more than twice as long as any between two changes within the signal, one shorter than half a
    second more than eight times. One lead that is flat while another moves is not padding, nor is a signal that stands
    still from its start to its end.

    Args:
        signal (`np.ndarray` of shape `(leads, samples)`): Of any unit; NaN where a sample is missing.
        rate (`float`): Hz.

    Returns:
        `tuple[int, int]`: First sample of the recording and the one after its last; `(0, samples)` without padding.

    Example:

    >>> signal = np.random.default_rng(0).normal(size=(2, 4000))
    >>> unpadded(np.pad(signal, [(0, 0), (48, 96)]), rate=400)
    (48, 4048)
    """
    samples = signal.shape[-1]
    shortest = max(PADDING_SAMPLES, math.ceil(PADDING_SECONDS * rate))
    if not (_stands_still(signal[:, :shortest]) or _stands_still(signal[:, -shortest:])):
        return 0, samples
    moves = np.zeros(samples - 1, dtype=bool)
    for lead in signal:
        moves |= (lead[1:] != lead[:-1]) & ((lead[1:] == lead[1:]) | (lead[:-1] == lead[:-1]))  # two NaN are no change
    changes = np.flatnonzero(moves)
    if not len(changes):
        return 0, samples
    start, stop = int(changes[0]) + 1, int(changes[-1]) + 1
    pauses = np.diff(changes)
    longest = pauses[pauses < PAUSE_SECONDS * rate].max(initial=1)

    def is_padding(length: int, values: np.ndarray) -> bool:
        values = values[values == values]
        equal = len(signal) > 1 and (values == values[:1]).all()
        enough = shortest if equal else max(PADDING_SAMPLES, HELD_SECONDS * rate)
        times = 2 if length >= 0.5 * rate else 8
        return length >= enough and (length >= PAUSE_SECONDS * rate or length > times * longest)

    if start >= stop:
        return 0, samples
    return (
        start if is_padding(start, signal[:, 0]) else 0,
        stop if is_padding(samples - stop, signal[:, -1]) else samples,
    )


def _stands_still(signal: np.ndarray) -> bool:
    first = signal[:, :1]
    return bool(((signal == first) | ((signal != signal) & (first != first))).all())


def no_value(digital: np.ndarray) -> np.ndarray:
    """Tell the samples that mark a missing value: one of `NO_VALUES`, far from every voltage of the lead.

    Far is more than `NO_VALUE_GAP` and more than the peak-to-peak amplitude of the other samples: the largest sample
    of a lead that is scaled to the full range of its integers, or clipped at it, is a voltage. A lead that holds
    nothing but one marker holds no voltage.

    Args:
        digital (`np.ndarray` of shape `(leads, samples)`): As stored, in ADC units: integers, also as float.

    Returns:
        `np.ndarray` of the same shape: bool.

    Example:

    >>> no_value(np.array([[-32768, 120, 80, 29999], [-32768, -32000, 5000, 32767]])).tolist()
    [[True, False, False, True], [False, False, False, False]]
    """
    marked = np.zeros(digital.shape, dtype=bool)
    lowest, highest = min(map(abs, NO_VALUES)), -min(map(abs, NO_VALUES))
    if not ((digital >= lowest) | (digital <= highest)).any():
        return marked
    for lead, found in zip(digital, marked):
        is_marker = np.isin(lead, NO_VALUES)
        voltages = lead[~is_marker & (lead == lead)]
        if not len(voltages):
            found[:] = is_marker & (len(np.unique(lead[is_marker])) == 1)
            continue
        low, high = float(voltages.min()), float(voltages.max())
        gap = max(NO_VALUE_GAP, high - low)
        found[:] = is_marker & ((lead > high + gap) | (lead < low - gap))
    return marked


def check_sampling_rate(value: Any) -> float:
    """Return a sampling rate in Hz.

    Raises:
        ValueError: If it is not one number within `PLAUSIBLE_HZ`.
    """
    try:
        rate = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        rate = math.nan
    low, high = PLAUSIBLE_HZ
    if not low <= rate <= high:
        raise ValueError(f"Expected `sampling_rate` to be one number from {low:g} to {high:g} Hz, got {value!r}.")
    return rate


def known_leads(leads: Sequence[str], rows: Sequence[str], extra_leads: str, stacklevel: int = 2) -> list[int]:
    """Return which of the leads have a row in the model; drop the others with a warning, or refuse them.

    Raises:
        ValueError: If `extra_leads` is `"raise"` and there are others, or if no lead has a row.
    """
    extra = [lead for lead in leads if lead not in rows]
    known = [i for i, lead in enumerate(leads) if lead in rows]
    if extra and (extra_leads == "raise" or not known):
        raise ValueError(
            f"The model has no row for {', '.join(extra)}; expected leads among {', '.join(rows)}. "
            'Leave those out, or set extra_leads="drop" on the feature extractor to use the others alone.'
        )
    if extra:
        warnings.warn(f"Leads without a row in the model are dropped: {', '.join(extra)}.", stacklevel=stacklevel + 1)
    return known


def fill_missing(
    signal: np.ndarray, leads: Sequence[str], indices: Sequence[int], policy: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Interpolate NaN in `(ecgs, leads, samples)`; return the signal and where it stays unknown (`None`: nowhere).

    Raises:
        ValueError: If a sample is infinite, an ECG holds no valid sample, or one is NaN under the policy `"raise"`.
    """
    finite = np.isfinite(signal)
    if finite.all():
        return signal, None
    invalid = np.isnan(signal)
    for index, lead in np.argwhere((~finite & ~invalid).any(axis=-1)):
        raise ValueError(
            f"ECG {indices[index]}, lead {leads[lead]} holds infinite values; expected voltages. Mark them NaN."
        )
    for index, lead in np.argwhere(invalid.any(axis=-1)):
        bad = invalid[index, lead]
        if policy == "raise":
            raise ValueError(
                f"ECG {indices[index]}, lead {leads[lead]} holds {bad.sum()} NaN of {bad.size} samples. "
                'Pass nan_policy="mask" to mask them in the model, or "interpolate" to bridge them.'
            )
    if invalid.all(axis=(1, 2)).any():
        raise ValueError(f"ECG {indices[int(invalid.all(axis=(1, 2)).argmax())]} holds no valid sample. Leave it out.")
    signal = bridge_nan(signal)
    if policy == "interpolate":
        invalid = np.broadcast_to(invalid.all(axis=-1, keepdims=True), invalid.shape)
    return signal, invalid


def warn_amplitude(peak_to_peak: np.ndarray, indices: Sequence[int], stacklevel: int = 2) -> None:
    """Warn of ECGs whose largest peak-to-peak amplitude in mV is not that of an ECG."""
    low, high = PLAUSIBLE_MV
    odd = (peak_to_peak < low) | (peak_to_peak > high)
    if odd.any():
        first = int(odd.argmax())
        warnings.warn(
            f"Implausible amplitude in {odd.sum()} of {len(odd)} ECGs: expected {low:g} to {high:g} mV peak to peak, "
            f"got {peak_to_peak[first]:.3g} mV in ECG {indices[first]}. Probably `units` is wrong.",
            stacklevel=stacklevel + 1,
        )


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


def _limb_lead_reversal(leads: dict[str, tuple[np.ndarray, np.ndarray]], rate: float) -> bool | None:
    """Suspect limb-lead reversal where I runs against V6, or aVR along with it, in leads with where each was recorded;
    `None` without a second of I and II together.

    I and V6 look at the heart from the same side. The rule holds for 0.6 % of the PTB-XL records as they are, for 86 %
    once the arm electrodes are exchanged in software, for 65 % once right arm and left leg are; left arm with left
    leg is not seen. Without V6: I points down and aVR up (2 %, 80 %, 40 %). Dextrocardia looks the same.
    """
    for names in (("I", "II", "V6"), ("I", "II")):
        if not leads.keys() >= set(names):
            continue
        together = np.all([leads[name][1] for name in names], axis=0)
        if together.sum() < rate:
            continue
        lead_i, lead_ii, *v6 = (leads[name][0][together] for name in names)
        avr = -(lead_i + lead_ii) / 2
        if v6:
            return bool(_correlation(lead_i, v6[0]) < -0.5 or _correlation(avr, v6[0]) > 0.3)
        direction = [x.max() + x.min() - 2 * np.median(x) for x in (lead_i, avr)]
        return bool(direction[0] < 0 < direction[1])
    return None


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1) + 1e-12)


__all__ = [
    "NO_VALUES",
    "PLAUSIBLE_HZ",
    "PLAUSIBLE_MV",
    "check_sampling_rate",
    "fill_missing",
    "known_leads",
    "no_value",
    "record_quality",
    "signal_quality",
    "unpadded",
    "warn_amplitude",
]
