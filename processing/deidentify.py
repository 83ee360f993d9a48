"""Leave out of a record what could tell whose it is."""

import math
from dataclasses import replace

from .record import EcgRecord

POOLED_AGE = 90.0
"""Stands for every age above 89, which few people reach (as in HIPAA, 45 CFR 164.514(b)(2)(i)(C))."""


def deidentify(record: EcgRecord) -> EcgRecord:
    """Return the record with signal, rate, leads, unit, gain, sex and age alone.

    Dropped are the record's name, the time of the recording (not shifted: nothing in a single record needs it), the
    path, and every text that a file brings along: device (which may name a serial number or a hospital), filters and
    notes. Every age above 89 becomes 90. The signal stays as it is; who has another ECG of the same person may be able
    to tell that they belong together.

    Example:

    >>> import numpy as np
    >>> record = EcgRecord(np.zeros((1, 9)), 500, ("I",), record_id="jane_doe", age=97, sex="female", device="C 4711")
    >>> kept = deidentify(record)
    >>> kept.record_id, kept.device, kept.age, kept.sex
    (None, None, 90.0, 'female')
    """
    age = None if record.age is None or math.isnan(record.age) else record.age
    if age is not None and age > POOLED_AGE - 1:
        age = POOLED_AGE
    return replace(record, record_id=None, start_time=None, source=None, device=None, filters=None, notes=(), age=age)


__all__ = ["deidentify"]
