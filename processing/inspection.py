"""What `merit-ecg inspect` and the Space say of a record, without a model, and how texts of files are shown."""

import math
import unicodedata
from typing import Any

import numpy as np

from .measurements import MAX_SECONDS, measure
from .record import DISCLAIMER, EcgRecord
from .signal_quality import record_quality

MEASURED_SECONDS = 60.0
"""Of a record that is too long for `measure`, so much is measured, from its start."""


def describe(record: EcgRecord, format: str) -> dict[str, Any]:
    """Return what `merit-ecg inspect --json` prints: facts, amplitude per lead, measurements, quality flags and notes.

    Args:
        record (`EcgRecord`): The record.
        format (`str`): Name of the format it was read from.

    Returns:
        `dict`: Of values that JSON has. `quality` is that of the feature extractor, `None` where it cannot use the
        record; amplitudes are in mV. `measurements` are those of [`~measurements.measure`], of the first minute of a
        record above five minutes; a note says so.

    Example:

    >>> summary = describe(EcgRecord(np.array([[0.0, 0.5, np.nan]]), 500, ("II",)), "numpy")
    >>> summary["n_samples"], summary["peak_to_peak_mv"], round(summary["quality"]["nan_fraction"], 3)
    (3, {'II': 0.5}, 0.333)
    """
    valid = [row[~np.isnan(row)].astype(np.float64) for row in record.signal]
    quality, notes = record_quality(record)
    measured = record
    if record.duration_s > MAX_SECONDS:
        measured = record.crop(0, MEASURED_SECONDS)
        notes = [*notes, f"measured from 0 to {MEASURED_SECONDS:g} s"]
    summary = {
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
        "measurements": measure(measured).to_dict(),
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
    return finite(summary)


def finite(value: Any) -> Any:
    """Return a value of JSON with `None` in the place of every number that JSON cannot hold.

    Example:

    >>> finite({"age": float("nan"), "gains": [1000.0, float("inf")]})
    {'age': None, 'gains': [1000.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str, limit: int = 1000) -> str:
    """Return a text in one line, of bounded length, with control characters escaped.

    Files bring texts along that a terminal would obey: escape sequences, characters that turn the direction of
    writing.

    Args:
        text (`str`): From a file, a file name or an error.
        limit (`int`): Characters at most; of a longer text the middle is left out.

    Example:

    >>> printable("a\\x1b[2Jb\\n  c"), printable("0123456789" * 3, limit=10)
    ('a\\\\x1b[2Jb c', '01234 … 789')
    """
    if len(text) > limit:
        text = f"{text[: limit // 2]} … {text[-(limit // 3) :]}"
    return "".join(_escaped(character) for character in " ".join(text.split()))


def _escaped(character: str) -> str:
    controls = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn")
    return character.encode("unicode_escape").decode("ascii") if controls else character


__all__ = ["describe", "finite", "printable"]
