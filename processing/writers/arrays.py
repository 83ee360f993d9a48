"""NumPy archives, JSON and CSV: for programs that know no ECG format."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..record import DISCLAIMER, EcgRecord
from .placing import placed


def write_npz(record: EcgRecord, out: Path, overwrite: bool = True) -> Path:
    """Write `signal` and the fields of `_fields` to a compressed archive."""
    with placed([out], overwrite) as (path,), open(path, "wb") as file:  # by name, numpy would add its own extension
        np.savez_compressed(file, signal=record.signal, **_fields(record))
    return out


def write_json(record: EcgRecord, out: Path, overwrite: bool = True) -> Path:
    """Write one JSON object with `signal` to the nanovolt and the fields of `_fields`; an invalid sample is null."""
    samples = [
        [None if math.isnan(x) else x for x in row] for row in record.signal.astype(np.float64).round(6).tolist()
    ]
    content = _fields(record) | {"signal": samples, "disclaimer": DISCLAIMER}
    text = json.dumps(content, allow_nan=False)
    with placed([out], overwrite) as (path,):
        path.write_text(text, encoding="utf-8")
    return out


def _fields(record: EcgRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"sampling_rate": record.sampling_rate, "leads": list(record.leads), "units": "mV"}
    age = None if record.age is None or not math.isfinite(record.age) else record.age
    optional = {"record_id": record.record_id, "age": age, "sex": record.sex}
    return fields | {key: value for key, value in optional.items() if value is not None}


def write_csv(record: EcgRecord, out: Path, overwrite: bool = True) -> Path:
    """Write a time column in seconds and one column in mV per lead; an invalid sample is an empty cell."""
    time = np.arange(record.n_samples) / record.sampling_rate
    header = ",".join(["time [s]", *(f"{lead} [mV]" for lead in record.leads)])
    rows = [
        ",".join([repr(second), *("" if math.isnan(x) else f"{x:.6f}" for x in samples)])
        for second, samples in zip(time.tolist(), record.signal.T.tolist())
    ]
    with placed([out], overwrite) as (path,):
        path.write_text("\n".join([f"# fs: {record.sampling_rate!r}", header, *rows]) + "\n", encoding="utf-8")
    return out
