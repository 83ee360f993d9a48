"""Values of header fields: numbers, times, age and sex, as the readers of several formats need them."""

from datetime import datetime

import numpy as np

from ..record import EcgFormatError


def number_of(text: str | None, what: str) -> float:
    """Return a finite number.

    Raises:
        EcgFormatError: If the text is no finite number.

    Example:

    >>> number_of(" 500 ", "the sampling rate")
    500.0
    """
    try:
        number = float(text or "")
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise EcgFormatError(f"Expected a number for {what}, got {str(text)[:40]!r}.")
    return number


def time_of(text: str | None, *formats: str) -> datetime | None:
    """Return the time written in the first of `formats` that fits, `None` when none does.

    Example:

    >>> time_of("20021122091000.000", "%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S")
    datetime.datetime(2002, 11, 22, 9, 10)
    """
    for pattern in formats:
        try:
            return datetime.strptime((text or "").strip(), pattern)
        except ValueError:
            continue
    return None


def age_of(years: str | None) -> float | None:
    """Return an age in years between 0 and 130, `None` for anything else: an odd age must not lose the signal.

    Example:

    >>> age_of("46"), age_of("---")
    (46.0, None)
    """
    try:
        age = float(years or "")
    except ValueError:
        return None
    return age if 0 <= age <= 130 else None


def age_at(birth: datetime | None, when: datetime | None) -> float | None:
    """Return the completed years from a birth date to a recording; `None` if either is unknown or the result no age.

    The birth date itself is not kept: it identifies a person.

    Example:

    >>> age_at(datetime(1953, 5, 8), datetime(2002, 11, 22))
    49.0
    """
    if birth is None or when is None:
        return None
    return age_of(str(when.year - birth.year - ((when.month, when.day) < (birth.month, birth.day))))


def sex_of(text: str | None) -> str | None:
    """Return `"male"` or `"female"` for M, F, Male, FEMALE and the like, `None` for anything else.

    Example:

    >>> sex_of("F"), sex_of("Male"), sex_of("UN")
    ('female', 'male', None)
    """
    return {"m": "male", "male": "male", "f": "female", "female": "female"}.get((text or "").strip().lower())
