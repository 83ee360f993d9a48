"""Writers behind `EcgRecord.to_wfdb` and `EcgRecord.to_edf`; both lose at most half a quantisation step."""

import re
from datetime import datetime
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..record import EcgRecord

DEFAULT_GAIN = 1000.0  # ADC units per mV: a step of one microvolt
EDF_RECORD_BYTES = 61440  # EDF+ specification, section 2.1.1: a data record should not be longer
EDF_RATE_TOLERANCE = 1e-5  # less than the error of a recorder's clock


def write_wfdb(record: "EcgRecord", folder: Path) -> Path:
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


def write_edf(record: "EcgRecord", path: Path) -> Path:
    """Write an EDF+ file in steps of one microvolt, or wider ones for a lead beyond 32 mV.

    Raises:
        ValueError: If samples are invalid (EDF has no mark for them), the name does not end in .edf, or no data
            record has a duration that the eight characters of the header can hold.
    """
    import edfio

    if path.suffix.lower() != ".edf":
        raise ValueError(f"Expected a file name ending in .edf, got {path.name!r}.")
    if np.isnan(record.signal).any():
        raise ValueError(
            "EDF cannot mark invalid samples (NaN). Interpolate or crop them, or write WFDB with `to_wfdb`."
        )
    samples, duration = _edf_data_record(record)
    signals = [
        edfio.EdfSignal(
            row * 1000,
            samples / duration,
            label=f"ECG {lead}",
            physical_dimension="uV",
            physical_range=(-32768, 32767) if np.abs(row).max() <= 32.767 else None,
        )
        for lead, row in zip(record.leads, record.signal.astype(np.float64))
    ]
    start = record.start_time
    edf = edfio.Edf(
        signals,
        patient=edfio.Patient(sex="M" if record.sex == "male" else "F" if record.sex == "female" else "X"),
        recording=edfio.Recording(startdate=start.date()) if start and 1985 <= start.year < 2085 else None,
        starttime=start.time() if start else None,
        data_record_duration=duration,
    )
    edf.write(path)
    return path


def _edf_data_record(record: "EcgRecord") -> tuple[int, float]:
    """Choose the samples per data record: a divisor of the length whose duration can be written in 8 characters."""
    length = record.n_samples
    small = [i for i in range(1, int(sqrt(length)) + 1) if length % i == 0]
    divisors = sorted({*small, *(length // i for i in small)}, reverse=True)
    fitting = [n for n in divisors if 2 * n * len(record.leads) <= EDF_RECORD_BYTES] or divisors[:1]
    for samples in [*fitting, *divisors]:
        exact = samples / record.sampling_rate
        duration = round(exact, 7 - len(str(int(exact))))
        if duration > 0 and abs(samples / duration / record.sampling_rate - 1) < EDF_RATE_TOLERANCE:
            return samples, duration
    raise ValueError(
        f"EDF cannot hold {length} samples at {record.sampling_rate:g} Hz: a duration there has 8 characters. "
        "Crop the record by a sample or resample it to a whole rate."
    )
