"""EDF+, 16 bits per sample."""

from math import sqrt
from pathlib import Path

import numpy as np

from ..record import EcgRecord
from .placing import placed

EDF_RECORD_BYTES = 61440  # EDF+ specification, section 2.1.1: a data record should not be longer
EDF_RATE_TOLERANCE = 1e-5  # less than the error of a recorder's clock


def write_edf(record: EcgRecord, path: Path, overwrite: bool = True) -> Path:
    """Write an EDF+ file in steps of one microvolt, or wider ones for a lead beyond 32 mV, the ends of the range left
    free: readers take them for samples without a value.

    Raises:
        ValueError: If samples are invalid (EDF has no mark for them), the name does not end in .edf, or no data
            record has a duration that the eight characters of the header can hold.
        FileExistsError: If the file is there and may not be replaced.
    """
    import edfio

    if path.suffix.lower() != ".edf":
        raise ValueError(f"Expected a file name ending in .edf, got {path.name!r}.")
    if np.isnan(record.signal).any():
        raise ValueError(
            "EDF cannot mark invalid samples (NaN). Interpolate or crop them, or write WFDB with `write_wfdb`."
        )
    samples, duration = _edf_data_record(record)
    signals = [
        edfio.EdfSignal(
            row * 1000,
            samples / duration,
            label=f"ECG {lead}",
            physical_dimension="uV",
            physical_range=_physical_range(row),
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
    with placed([path], overwrite) as (temporary,):
        edf.write(temporary)
    return path


def _physical_range(row: np.ndarray) -> tuple[float, float]:
    """Return the µV at the ends of the range of a lead in mV: steps of one, or to a twentieth above its largest."""
    largest = np.abs(row).max()
    if largest < 32.767:
        return -32768, 32767
    end = float(np.ceil(1050 * largest))
    return -end, end


def _edf_data_record(record: EcgRecord) -> tuple[int, float]:
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
