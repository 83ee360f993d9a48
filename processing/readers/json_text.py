"""JSON objects with the fields that `merit-ecg convert` writes; an invalid sample is null."""

import json

import numpy as np

from ..record import EcgFormatError, EcgRecord
from .arrays import KEYS, OPTIONAL_KEYS, record_of_arrays
from .source import MAX_TEXT_BYTES, Source


def matches(head: bytes, name: str) -> bool:
    """Say whether a file begins as a JSON object with a field of a record."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and any(
        f'"{key}"'.encode() in head for key in KEYS
    )


def read(source: Source) -> EcgRecord:
    """Read a JSON object.

    Raises:
        EcgFormatError: If the text is no JSON object, its signal no table of numbers, or its rate, leads or unit are
            neither there nor stated.
    """
    if source.size > MAX_TEXT_BYTES:
        raise EcgFormatError(
            f"{source.name} has {source.size} bytes; expected at most {MAX_TEXT_BYTES}. Convert it to WFDB."
        )
    try:
        fields = json.loads(source.data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise EcgFormatError(f"{source.name} is not readable as JSON: {error}.") from None
    if not isinstance(fields, dict) or "signal" not in fields:
        raise EcgFormatError(f"{source.name} holds no field `signal`; expected one object with {', '.join(KEYS)}.")
    fields = {key: fields[key] for key in (*KEYS, *OPTIONAL_KEYS) if fields.get(key) is not None}
    try:
        arrays = {key: np.asarray(value) for key, value in fields.items() if key != "signal"}
        signal = np.array(fields["signal"], dtype=np.float64)  # null becomes NaN
    except (TypeError, ValueError, OverflowError):
        raise EcgFormatError(
            f"{source.name}: expected `signal` to be a list of numbers (or null) per lead, all of one length."
        ) from None
    return record_of_arrays(arrays | {"signal": signal}, source)
