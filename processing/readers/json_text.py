"""JSON objects with the fields that `merit-ecg convert` writes; an invalid sample is null."""

import json
from typing import Any

import numpy as np

from ..record import EcgFormatError, EcgRecord
from .arrays import KEYS, OPTIONAL_KEYS, record_of_arrays
from .fields import decode_text
from .source import MAX_TEXT_BYTES, Source


def matches(head: bytes, name: str) -> bool:
    """Say whether a file begins as a JSON object with a field of a record."""
    text = decode_text(head, final=False)
    return text.lstrip().startswith("{") and any(f'"{key}"' in text for key in KEYS)


def read(source: Source) -> EcgRecord:
    """Read a JSON object.

    Raises:
        EcgFormatError: If the text is not a JSON object, its signal not a table of numbers, or its rate, leads or unit
            are neither there nor stated.
    """
    if source.size > MAX_TEXT_BYTES:
        raise EcgFormatError(
            f"{source.name} has {source.size} bytes; expected at most {MAX_TEXT_BYTES}. Convert it to WFDB."
        )
    try:
        fields = json.loads(decode_text(source.data), object_pairs_hook=_once)
    except EcgFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise EcgFormatError(f"{source.name} is not readable as JSON: {str(error)[:100]}.") from None
    if not isinstance(fields, dict) or "signal" not in fields:
        raise EcgFormatError(f"{source.name} holds no field `signal`; expected one object with {', '.join(KEYS)}.")
    fields = {key: fields[key] for key in (*KEYS, *OPTIONAL_KEYS) if fields.get(key) is not None}
    if not _are_numbers(fields["signal"]) or isinstance(fields.get("sampling_rate"), bool):
        raise EcgFormatError(
            f"{source.name}: expected `signal` to be a list of numbers (or null) per lead, all of one length, and "
            "`sampling_rate` a number."
        )
    try:
        arrays = {key: np.asarray(value) for key, value in fields.items() if key != "signal"}
        signal = np.array(fields["signal"], dtype=np.float64)  # null becomes NaN
    except (TypeError, ValueError, OverflowError):
        raise EcgFormatError(
            f"{source.name}: expected `signal` to be a list of numbers (or null) per lead, all of one length."
        ) from None
    return record_of_arrays(arrays | {"signal": signal}, source)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that states a field twice, of which the parser would keep the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise EcgFormatError("Expected every field of a JSON object once, got one of them twice.")
    return fields


def _are_numbers(signal: Any) -> bool:
    """Whether a value is a list of lists of numbers and nulls; text and truth values would be converted in silence."""
    rows = signal if isinstance(signal, list) and any(isinstance(row, list) for row in signal) else [signal]
    return all(isinstance(row, list) and {type(value) for value in row} <= {int, float, type(None)} for row in rows)
