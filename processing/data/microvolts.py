"""Signals as tables store them: int16 microvolts of the twelve standard leads, with a marker where there is no sample.

The marker is the one of WFDB's 16-bit formats, -32768. It stands at samples that the file marks invalid, in leads that
were not recorded, and behind the end of a short recording, so that every record of a table has one shape.
"""

from dataclasses import replace

import numpy as np

from ..leads import STANDARD_LEADS, derive_limb_leads
from ..record import EcgFormatError, EcgRecord
from ..resampling import bridge_nan
from ..signal_quality import FLAT_MV
from ..units import MICROVOLTS_PER_MILLIVOLT

NO_SAMPLE = np.int16(-32768)
MIN_SECONDS = 2.5
"""Shortest recording that is taken, as of the feature extractor."""

POLICIES = ("mask", "raise", "interpolate")
FLAT_POLICIES = ("keep", "mask", "raise")


def to_microvolts(
    record: EcgRecord, sampling_rate: int, seconds: float, missing: str = "mask", flat_leads: str = "keep"
) -> np.ndarray:
    """Return the first seconds of a record as a table stores them.

    Leads are placed by name, whatever their order in the file; leads that are no standard lead are left out; III, aVR,
    aVL and aVF are computed from I and II where they are absent.

    Args:
        record (`EcgRecord`): Of any rate, length and leads.
        sampling_rate (`int`), seconds (`float`): Of the result; a shorter recording is filled with `NO_SAMPLE`.
        missing (`str`): For samples marked invalid and leads that are absent: `"mask"` puts `NO_SAMPLE`,
            `"interpolate"` does so for absent leads and bridges invalid samples linearly, `"raise"` refuses them.
        flat_leads (`str`): For leads that never move: `"keep"`, `"mask"` or `"raise"`.

    Returns:
        `np.ndarray`: int16 of shape (12, seconds · sampling_rate), µV, rows in the order of `STANDARD_LEADS`.

    Raises:
        EcgFormatError: If the record holds no standard lead or no sample, is shorter than `MIN_SECONDS`, exceeds
            ±32.767 mV, or a policy refuses it.

    Example:

    >>> signal = np.sin(np.arange(1500) / 50)
    >>> record = EcgRecord([signal, 2 * signal, signal], 500, ("V1", "II", "I"))
    >>> table = to_microvolts(record, 100, 4.0)
    >>> table.shape, sorted(np.array(STANDARD_LEADS)[(table[:, :300] != NO_SAMPLE).all(1)].tolist())
    ((12, 400), ['I', 'II', 'III', 'V1', 'aVF', 'aVL', 'aVR'])
    """
    known = [lead for lead in record.leads if lead in STANDARD_LEADS]
    if not known:
        raise EcgFormatError(f"Expected a lead of {', '.join(STANDARD_LEADS)}, got {', '.join(record.leads)}.")
    if record.duration_s < MIN_SECONDS - 0.5 / record.sampling_rate:
        raise EcgFormatError(f"Expected at least {MIN_SECONDS:g} s, got {record.duration_s:g} s.")
    record = record.select(known)
    if record.duration_s > seconds:
        record = record.crop(0, min(seconds + 1, record.duration_s))  # a second more, for the filter
    kept = record.signal[:, : round(seconds * record.sampling_rate)]
    if np.isnan(kept).all():
        raise EcgFormatError("Expected a recorded sample, got none in any standard lead.")
    _refuse(missing == "raise", known, np.isnan(kept).any(axis=1), "samples marked invalid", "missing")
    still = np.ptp(bridge_nan(kept), axis=1) < FLAT_MV
    _refuse(flat_leads == "raise", known, still, "no change at all", "flat_leads")
    if flat_leads == "mask":
        record = replace(record, signal=np.where(still[:, None], np.float32(np.nan), record.signal))
    signal = record.resample(sampling_rate).signal
    if missing == "interpolate":
        gone = np.isnan(signal).all(axis=1)
        signal = bridge_nan(signal)
        signal[gone] = np.nan
    rows = dict(zip(known, signal))
    rows |= derive_limb_leads(rows, STANDARD_LEADS)
    absent = np.array([lead not in rows for lead in STANDARD_LEADS])
    _refuse(missing == "raise", STANDARD_LEADS, absent, "no recording", "missing")
    samples = round(seconds * sampling_rate)
    out = np.full((len(STANDARD_LEADS), samples), np.nan, dtype=np.float32)
    for row, lead in zip(out, STANDARD_LEADS):
        if lead in rows:
            taken = rows[lead][:samples]
            row[: len(taken)] = taken
    microvolts = np.rint(out * MICROVOLTS_PER_MILLIVOLT)
    if np.nanmax(np.abs(microvolts), initial=0) > -(int(NO_SAMPLE) + 1):
        raise EcgFormatError(
            f"Expected at most 32.767 mV, got {np.nanmax(np.abs(out)):.1f} mV. Check the unit, or the recording."
        )
    return np.where(np.isnan(microvolts), np.float32(NO_SAMPLE), microvolts).astype(np.int16)


def to_millivolts(signals: np.ndarray) -> np.ndarray:
    """Return signals of a table in mV: float32 of the same shape, NaN where there is no sample.

    Example:

    >>> to_millivolts(np.array([[1500, -32768]], dtype=np.int16)).tolist()
    [[1.5, nan]]
    """
    millivolts = signals.astype(np.float32) / np.float32(MICROVOLTS_PER_MILLIVOLT)
    gone = signals == NO_SAMPLE
    if gone.any():
        millivolts[gone] = np.nan
    return millivolts


def split_missing(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return signals of a table in mV, gaps bridged linearly, and where they have no sample; `None` if nowhere.

    Example:

    >>> bridged, missing = split_missing(np.array([[1500, -32768, 500]], dtype=np.int16))
    >>> bridged.tolist(), missing.tolist()
    ([[1.5, 1.0, 0.5]], [[False, True, False]])
    """
    millivolts = to_millivolts(signals)
    missing = signals == NO_SAMPLE
    return (bridge_nan(millivolts), missing) if missing.any() else (millivolts, None)


def crop_recorded(signals: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return random crops that begin early enough to be full of samples where the recording is long enough.

    Args:
        signals (`np.ndarray` of shape `(batch, leads, samples)`): NaN where nothing was recorded.
        samples (`int`): Of a crop, at most those of the signals.
        rng (`np.random.Generator`): Where the crops begin, one number for each record.

    Example:

    >>> signal = np.full((1, 1, 10), np.nan)
    >>> signal[..., :4] = [1, 2, 3, 4]
    >>> bool(np.isnan(crop_recorded(signal, 4, np.random.default_rng(0))).any())
    False
    """
    recorded = ~np.isnan(signals).all(axis=1)
    ends = signals.shape[-1] - recorded[:, ::-1].argmax(axis=1)
    starts = rng.integers(0, np.maximum(ends - samples, 0) + 1)
    return np.stack([signal[:, start : start + samples] for signal, start in zip(signals, starts)])


def mask_recorded(signals: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray | None:
    """Return the mask of a batch without what was not recorded; a record of which nothing would stay keeps it all.

    Args:
        signals (`np.ndarray` of shape `(batch, leads, samples)`): NaN where nothing was recorded.
        mask (`np.ndarray` of the same shape, *optional*): False at samples that an augmentation masked.

    Returns:
        `np.ndarray`: True at samples that count; `None` if all do and no mask was given.

    Example:

    >>> signals = np.array([[[1.0, np.nan], [np.nan, np.nan]]])
    >>> mask_recorded(signals, np.array([[[False, False], [True, True]]])).tolist()
    [[[True, False], [False, False]]]
    """
    recorded = ~np.isnan(signals)
    if recorded.all():
        return mask
    if mask is None:
        return recorded
    both = recorded & mask
    return np.where(both.any(axis=(1, 2), keepdims=True), both, recorded)


def _refuse(refuses: bool, leads, found: np.ndarray, what: str, policy: str) -> None:
    if refuses and found.any():
        names = ", ".join(lead for lead, is_found in zip(leads, found) if is_found)
        raise EcgFormatError(f'Expected every standard lead whole, got {what} in {names} ({policy}="raise").')


__all__ = [
    "FLAT_POLICIES",
    "MIN_SECONDS",
    "NO_SAMPLE",
    "POLICIES",
    "crop_recorded",
    "mask_recorded",
    "split_missing",
    "to_microvolts",
    "to_millivolts",
]
