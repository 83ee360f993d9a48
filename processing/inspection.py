"""What `merit-ecg inspect` and the Space say of a record, without a model."""

from typing import Any

import numpy as np

from .record import DISCLAIMER, EcgRecord
from .signal_quality import record_quality


def describe(record: EcgRecord, format: str) -> dict[str, Any]:
    """Return what `merit-ecg inspect --json` prints: facts, amplitude per lead, quality flags and notes.

    Args:
        record (`EcgRecord`): The record.
        format (`str`): Name of the format it was read from.

    Returns:
        `dict`: Of values that JSON has. `quality` is that of the feature extractor, `None` where it cannot use the
        record; amplitudes are in mV.

    Example:

    >>> summary = describe(EcgRecord(np.array([[0.0, 0.5, np.nan]]), 500, ("II",)), "numpy")
    >>> summary["n_samples"], summary["peak_to_peak_mv"], round(summary["quality"]["nan_fraction"], 3)
    (3, {'II': 0.5}, 0.333)
    """
    valid = [row[~np.isnan(row)] for row in record.signal]
    quality, notes = record_quality(record)
    return {
        "format": format,
        "leads": list(record.leads),
        "sampling_rate": record.sampling_rate,
        "n_samples": record.n_samples,
        "duration_s": record.duration_s,
        "unit": record.unit,
        "gain": record.gain,
        "peak_to_peak_mv": {
            lead: round(float(np.ptp(row)), 6) if len(row) else None for lead, row in zip(record.leads, valid)
        },
        "quality": quality,
        "notes": [*record.notes, *notes],
        "record_id": record.record_id,
        "start_time": record.start_time.isoformat() if record.start_time else None,
        "age": record.age,
        "sex": record.sex,
        "device": record.device,
        "filters": record.filters,
        "disclaimer": DISCLAIMER,
    }


__all__ = ["describe"]
