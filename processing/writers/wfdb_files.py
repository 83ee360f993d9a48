"""WFDB: a header and a signal file that lose at most half a quantisation step."""

import re
from datetime import datetime
from pathlib import Path

import numpy as np

from ..record import EcgRecord

DEFAULT_GAIN = 1000.0  # ADC units per mV: a step of one microvolt


def write_wfdb(record: EcgRecord, folder: Path) -> Path:
    """Write header and signal file, in format 16 or, where that is too narrow, 32; NaN becomes the invalid sample.

    Raises:
        ValueError: If the signal does not fit into 32 bits at its gain.
    """
    import wfdb

    gain = record.gain or DEFAULT_GAIN
    digital = np.round(record.signal.astype(np.float64) * gain)
    peak = np.nanmax(np.abs(digital), initial=0)
    if peak >= 2**31:
        raise ValueError(f"Expected amplitudes below {2**31 / gain:g} mV at {gain:g} units per mV. Check the unit.")
    fmt, invalid = ("16", -(2**15)) if peak < 2**15 else ("32", -(2**31))
    comments = [f"Age: {record.age:g}"] if record.age is not None else []
    comments += [f"Sex: {record.sex.capitalize()}"] if record.sex else []
    name = re.sub(r"[^-\w]", "_", record.record_id or "ecg", flags=re.ASCII)
    start = record.start_time or datetime.min
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=record.sampling_rate,
        units=["mV"] * len(record.leads),
        sig_name=list(record.leads),
        d_signal=np.where(np.isnan(digital), invalid, digital).astype(np.int64).T,
        fmt=[fmt] * len(record.leads),
        adc_gain=[gain] * len(record.leads),
        baseline=[0] * len(record.leads),
        comments=comments,
        base_time=start.time() if record.start_time else None,
        base_date=start.date() if record.start_time else None,
        write_dir=str(folder),
    )
    return folder / f"{name}.hea"
