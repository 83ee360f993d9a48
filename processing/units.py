"""Units of voltage: millivolts everywhere inside, one table for everything that comes in."""

MILLIVOLTS_PER_UNIT = {"nv": 1e-6, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "mv": 1.0, "v": 1e3}
"""Millivolts per unit of voltage, by the lower-case name of the unit (both Unicode characters for micro)."""

MICROVOLTS_PER_MILLIVOLT = 1000
"""The `datasets` builders of this package store int16 microvolts."""


def millivolts_per(unit: str) -> float:
    """Return the millivolts in one unit of voltage.

    Args:
        unit (`str`): `"mV"`, `"uV"`, `"nV"` or `"V"`, in any case.

    Raises:
        KeyError: If the unit is not a unit of voltage.

    Example:

    >>> millivolts_per("uV")
    0.001
    """
    return MILLIVOLTS_PER_UNIT[str(unit).strip().lower()]


__all__ = ["MICROVOLTS_PER_MILLIVOLT", "MILLIVOLTS_PER_UNIT", "millivolts_per"]
