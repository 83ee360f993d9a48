"""WFDB: a header and a signal file that lose at most half a quantisation step."""

import math
import re
from datetime import datetime
from pathlib import Path

import numpy as np

from ..record import EcgRecord
from .arrays import column_names
from .placing import placed

DEFAULT_GAIN = 1000.0  # ADC units per mV: a step of one microvolt


def wfdb_paths(folder: Path, name: str) -> list[Path]:
    """Return signal file and header of a record; what the name of a WFDB record cannot hold becomes "_".

    Example:

    >>> [path.name for path in wfdb_paths(Path("ecgs"), "my rec")]
    ['my_rec.dat', 'my_rec.hea']
    """
    name = re.sub(r"[^-\w]", "_", name, flags=re.ASCII)
    return [folder / f"{name}.dat", folder / f"{name}.hea"]


def write_wfdb(record: EcgRecord, folder: Path, overwrite: bool = True) -> Path:
    """Write header and signal file, in format 16 or, where that is too narrow, 32; NaN becomes the invalid sample.

    Raises:
        ValueError: If the signal does not fit into 32 bits at its gain.
        FileExistsError: If one of the files is there and may not be replaced.
    """
    import wfdb

    gain = abs(record.gain or 0)  # negative, it turns the signal round only in the file
    gain = gain if math.isfinite(gain) and gain else DEFAULT_GAIN
    digital = np.round(record.signal.astype(np.float64) * gain)
    peak = np.nanmax(np.abs(digital), initial=0)
    if peak >= 2**31:
        raise ValueError(f"Expected amplitudes below {2**31 / gain:g} mV at {gain:g} units per mV. Check the unit.")
    fmt, invalid = ("16", -(2**15)) if peak < 2**15 else ("32", -(2**31))
    comments = [f"Age: {record.age:g}"] if record.age is not None and math.isfinite(record.age) else []
    comments += [f"Sex: {record.sex.capitalize()}"] if record.sex else []
    start = record.start_time or datetime.min
    folder.mkdir(parents=True, exist_ok=True)
    targets = wfdb_paths(folder, record.record_id or "ecg")
    with placed(targets, overwrite) as paths:
        wfdb.wrsamp(
            targets[0].stem,
            fs=record.sampling_rate,
            units=["mV"] * len(record.leads),
            sig_name=column_names(record),
            d_signal=np.where(np.isnan(digital), invalid, digital).astype(np.int64).T,
            fmt=[fmt] * len(record.leads),
            adc_gain=[gain] * len(record.leads),
            baseline=[0] * len(record.leads),
            comments=comments,
            base_time=start.time() if record.start_time else None,
            base_date=start.date() if record.start_time else None,
            write_dir=str(paths[0].parent),
        )
    return targets[1]
