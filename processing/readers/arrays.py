"""Records given as named arrays, as NumPy archives and JSON objects hold them.

Layout: `signal` (leads, samples), `sampling_rate` in Hz, `leads` (names) and `units`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..record import EcgFormatError, EcgRecord, check_size
from .source import Source, millivolts_per

KEYS = ("signal", "sampling_rate", "leads", "units")
OPTIONAL_KEYS = ("record_id", "age", "sex")


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
    names = [str(name) for name in np.atleast_1d(arrays["leads"])] if "leads" in arrays else list(source.leads)
    if len(names) != len(signal):
        raise EcgFormatError(
            f"Expected a signal (leads, samples) with a row for each of the {len(names)} leads, got {signal.shape}. "
            "Transpose an array of shape (samples, leads) before saving it."
        )
    check_size(len(names), signal.shape[1], source.name)
    chosen = source.choose_leads(names)
    unit = str(arrays["units"]) if "units" in arrays else source.units
    scale = millivolts_per(unit)
    try:
        rate = float(arrays["sampling_rate"]) if "sampling_rate" in arrays else source.sampling_rate
        age = float(arrays["age"]) if "age" in arrays else None
    except (TypeError, ValueError):
        raise EcgFormatError(f"{source.name}: expected one number each for sampling_rate and age.") from None
    millivolts = signal[list(chosen)].astype(np.float64, copy=False)
    millivolts *= scale
    return EcgRecord(
        millivolts,
        rate,
        tuple(chosen.values()),
        record_id=str(arrays["record_id"]) if "record_id" in arrays else Path(source.name).stem,
        age=age,
        sex=str(arrays["sex"]) if str(arrays.get("sex")) in ("male", "female") else None,
        unit=unit,
        source=str(source.path) if source.path else None,
    )
