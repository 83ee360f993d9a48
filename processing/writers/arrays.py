"""NumPy archives, JSON and CSV: for programs that know no ECG format."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..readers.source import MAX_TEXT_BYTES, most_unpacked
from ..record import DISCLAIMER, EcgRecord
from .placing import placed


def write_npz(record: EcgRecord, out: Path, overwrite: bool = True) -> Path:
    """Write `signal` and the fields of `_fields` to an archive, compressed unless it would unpack to more than readers
    allow, as hours without a signal do."""
    arrays = {"signal": record.signal, **_fields(record)}
    with placed([out], overwrite) as (path,):
        for save in (np.savez_compressed, np.savez):
            with open(path, "wb") as file:  # by name, numpy would add its own extension
                save(file, **arrays)
            if record.signal.nbytes + 2**16 < most_unpacked(path.stat().st_size):
                break
    return out


def write_json(record: EcgRecord, out: Path, overwrite: bool = True) -> Path:
    """Write one JSON object with `signal` to the nanovolt and the fields of `_fields`; an invalid sample is null.

    Raises:
        ValueError: If the text is longer than `read_ecg` takes.
    """
    samples = [
        [None if math.isnan(x) else x for x in row] for row in record.signal.astype(np.float64).round(6).tolist()
    ]
    content = _fields(record) | {"signal": samples, "disclaimer": DISCLAIMER}
    text = json.dumps(content, allow_nan=False)
    _check_length(text)
    with placed([out], overwrite) as (path,):
        path.write_text(text, encoding="utf-8")
    return out


def _fields(record: EcgRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"sampling_rate": record.sampling_rate, "leads": list(record.leads), "units": "mV"}
    age = None if record.age is None or not math.isfinite(record.age) else record.age
    start = None if record.start_time is None else record.start_time.isoformat()
    optional = {"record_id": record.record_id, "start_time": start, "age": age, "sex": record.sex}
    return fields | {key: value for key, value in optional.items() if value is not None}


def column_names(record: EcgRecord) -> list[str]:
    """Return names of channels that cannot be mistaken: X, Y and Z could be the axes of an accelerometer."""
    return [f"V{lead}" if lead in ("X", "Y", "Z") else lead for lead in record.leads]


def write_csv(record: EcgRecord, out: Path, overwrite: bool = True) -> Path:
    """Write a time column in seconds and one column in mV per lead; an invalid sample is an empty cell.

    Raises:
        ValueError: If the text is longer than `read_ecg` takes.
    """
    time = np.arange(record.n_samples) / record.sampling_rate
    header = ",".join(["time [s]", *(f"{name} [mV]" for name in column_names(record))])
    rows = [
        ",".join([repr(second), *("" if math.isnan(x) else f"{x:.6f}" for x in samples)])
        for second, samples in zip(time.tolist(), record.signal.T.tolist())
    ]
    text = "\n".join([f"# fs: {record.sampling_rate!r}", header, *rows]) + "\n"
    _check_length(text)
    with placed([out], overwrite) as (path,):
        path.write_text(text, encoding="utf-8")
    return out


def _check_length(text: str) -> None:
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError(
            f"Expected a text of at most {MAX_TEXT_BYTES} characters, which can be read again, got {len(text)}. Write "
            "WFDB, EDF or .npz, or a part of the record."
        )
