"""Records given as named arrays, as NumPy archives and JSON objects hold them.

Layout: `signal` (leads, samples), `sampling_rate` in Hz, `leads` (names) and `units`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..record import EcgFormatError, EcgRecord, check_size
from .fields import age_of, number_of, sex_of, time_of
from .source import Source, millivolts_per

KEYS = ("signal", "sampling_rate", "leads", "units")
OPTIONAL_KEYS = ("record_id", "start_time", "age", "sex")

_ISO_TIMES = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f")


def record_of_arrays(arrays: Mapping[str, np.ndarray], source: Source) -> EcgRecord:
    """Return the record that named arrays describe, with what the caller states of the rest.

    Args:
        arrays (mapping): By `KEYS` and `OPTIONAL_KEYS`; `signal` must be there.
        source (`Source`): The file, for its name and the facts that the caller states.

    Raises:
        EcgFormatError: If an array has another shape or type, or rate, leads or unit are neither there nor stated.
    """
    stated = {"sampling_rate": source.sampling_rate, "leads": source.leads, "units": source.units}
    for key, value in stated.items():
        if key not in arrays and value is None:
            raise EcgFormatError(
                f"{source.name} does not say its {key}: an array of numbers does not. State "
                f"{', '.join(f'`{k}=`' for k in stated)}, "
                f"or save an .npz file with the arrays {', '.join(KEYS)}."
            )
    signal = arrays["signal"]
    if signal.ndim != 2 or signal.dtype.kind not in "iuf":
        raise EcgFormatError(
            f"Expected a signal of numbers (leads, samples), got {signal.dtype} of shape {signal.shape}."
        )
    named = np.atleast_1d(arrays["leads"]) if "leads" in arrays else np.array(list(source.leads or ()), dtype=object)
    if named.shape != signal.shape[:1]:
        raise EcgFormatError(
            f"Expected a signal (leads, samples) with a row for each of the {named.size} leads, got {signal.shape}. "
            "Transpose an array of shape (samples, leads) before saving it."
        )
    check_size(len(signal), signal.shape[1], source.name)
    chosen = source.choose_leads([str(name) for name in named])
    unit = str(arrays["units"]) if "units" in arrays else str(source.units)
    rate = _number(arrays["sampling_rate"], source.name) if "sampling_rate" in arrays else source.sampling_rate
    return source.record(
        to_millivolts(signal, list(chosen), millivolts_per(unit)),
        float(rate or 0),
        tuple(chosen.values()),
        record_id=str(arrays["record_id"]) if "record_id" in arrays else Path(source.name).stem,
        start_time=time_of(str(arrays["start_time"]), *_ISO_TIMES) if "start_time" in arrays else None,
        age=age_of(str(arrays["age"])) if "age" in arrays and arrays["age"].size == 1 else None,
        sex=sex_of(str(arrays["sex"])) if "sex" in arrays and arrays["sex"].size == 1 else None,
        unit=unit,
    )


def to_millivolts(signal: np.ndarray, rows: Sequence[int], scale: float) -> np.ndarray:
    """Return rows of an array times `scale` as float32, computed in float64 row by row to save memory."""
    millivolts = np.empty((len(rows), signal.shape[1]), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is infinite, which `EcgRecord` refuses
        for row, i in zip(millivolts, rows):
            row[:] = signal[i].astype(np.float64) * scale
    return millivolts


def placed_in_time(
    signals: Sequence[np.ndarray], starts: Sequence[int], name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return leads of one length in one float32 array, NaN outside the time of each.

    Args:
        signals (sequence of `np.ndarray` of shape `(samples,)`): In millivolts.
        starts (sequence of `int`): First sample of each, by a common clock.
        name (`str`): The file, for messages.

    Returns:
        `tuple`: The array, and a note if the leads were not recorded at the same time.

    Raises:
        EcgFormatError: If there is more time between the leads than they last together.

    Example:

    >>> placed_in_time([np.ones(2), np.ones(2)], [0, 1], "ecg.xml")[0].tolist()
    [[1.0, 1.0, nan], [nan, 1.0, 1.0]]
    """
    n_samples, first = len(signals[0]), min(starts)
    total = max(starts) - first + n_samples
    if total > n_samples * len(signals):
        raise EcgFormatError(f"Expected leads that follow each other, got offsets of {sorted(set(starts))} samples.")
    check_size(len(signals), total, name)
    placed = np.full((len(signals), total), np.nan, dtype=np.float32)
    for row, start, signal in zip(placed, starts, signals):
        row[start - first : start - first + n_samples] = signal
    if total == n_samples:
        return placed, ()
    return placed, ("Leads were recorded one after the other; samples outside their time are NaN.",)


def missing_notes(leads: Iterable[str], missing: Iterable[np.ndarray]) -> tuple[str, ...]:
    """Return the note on the samples of each lead that `signal_quality.no_value` found to mark a missing value.

    Example:

    >>> missing_notes(["I", "II"], np.array([[False, False], [True, False]]))
    ('1 samples of II hold a marker of no value and are NaN.',)
    """
    counts = {lead: int(row.sum()) for lead, row in zip(leads, missing) if row.any()}
    if not counts:
        return ()
    return (f"{sum(counts.values())} samples of {', '.join(counts)} hold a marker of no value and are NaN.",)


def _number(array: np.ndarray, name: str) -> float:
    if array.size != 1 or array.dtype.kind not in "iufU":
        raise EcgFormatError(
            f"{name}: expected one number for sampling_rate, got {array.dtype} of shape {array.shape}."
        )
    return number_of(str(array.flat[0]), "sampling_rate")
