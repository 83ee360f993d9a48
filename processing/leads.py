"""Names of ECG leads: one canonical spelling, the spellings found in files, and the leads that follow from I and II.

Leads are always matched by name, never by position: MIMIC-IV-ECG stores aVF before aVL, CODE-test aVL before aVR, and
an array says nothing of its order. The Einthoven and Goldberger relations are those of any ECG textbook:
III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The twelve standard leads in the order of PTB-XL and of the ECG print-out."""

OTHER_LEADS = (
    *("X", "Y", "Z"),  # Frank, orthogonal
    *("ES", "AS", "AI"),  # EASI
    *("V7", "V8", "V9", "V1R", "V2R", "V3R", "V4R", "V5R", "V6R"),  # posterior and right-sided chest leads
    *("MLI", "MLII", "MLIII", "MCL1", "V"),  # ambulatory and monitor leads; "V": a chest lead, place not stated
)
"""Leads that are known by name but have no row in a twelve-lead model."""

LIMB_LEADS = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
"""The four limb leads that follow from I and II, as the weights of (I, II)."""

_SPELLINGS = {name.upper(): name for name in (*STANDARD_LEADS, *OTHER_LEADS)}
_SPELLINGS |= {f"{prefix}{i}": lead for prefix in ("L", "D", "LEAD") for i, lead in zip("123", STANDARD_LEADS)}
_SPELLINGS |= {"DI": "I", "DII": "II", "DIII": "III"}
_SPELLINGS |= {"VX": "X", "VY": "Y", "VZ": "Z", "ML1": "MLI", "ML2": "MLII", "ML3": "MLIII", "MCLI": "MCL1"}
_SPELLINGS |= {f"C{i}": f"V{i}" for i in range(1, 7)}
_CHEST_OR_SITE = re.compile(r"\s*C[ _]?([1-6])\s*", re.IGNORECASE)
_DECORATION = re.compile(
    r"^(MDC_ECG_LEAD_|MDC_ECG_ELEC_POTL_|ECG[ _:.-]+|EKG[ _:.-]+|LEAD[ _:.-]*|ABL\.?[ _-]*)+", re.IGNORECASE
)


def canonical_lead(name: str) -> str:
    """Return the canonical spelling of a lead name.

    Case, blanks, the prefixes "Lead", "ECG" and "MDC_ECG_LEAD_" and the European "C1" for "V1" are understood.

    Args:
        name (`str`): A lead name as found in a file, such as `"AVR"`, `"Lead II"` or `"MDC_ECG_LEAD_V1"`.

    Returns:
        `str`: A member of `STANDARD_LEADS` or `OTHER_LEADS`.

    Raises:
        ValueError: If the name is not the name of a known lead.

    Example:

    >>> canonical_lead("MDC_ECG_LEAD_AVR"), canonical_lead("lead ii")
    ('aVR', 'II')
    """
    # "Lead 1" is lead I, but "1" and "ECG 1" are only the first channel, so the whole name is looked up too.
    for spelling in (str(name), _DECORATION.sub("", str(name).strip())):
        bare = spelling.upper().replace(" ", "").replace("_", "")
        if bare in _SPELLINGS:
            return _SPELLINGS[bare]
    raise ValueError(
        f"Unknown lead {str(name)[:40]!r}. Expected one of {', '.join(STANDARD_LEADS)} (any case), or "
        f"{', '.join(OTHER_LEADS)}. Rename the lead to say which of these it is."
    )


def canonical_leads(names: Iterable[str]) -> tuple[str, ...]:
    """Return the canonical spellings of several leads, refusing unknown and repeated ones.

    Args:
        names (iterable of `str`): Lead names in the order of the rows of a signal.

    Returns:
        `tuple[str, ...]`: The canonical names in the same order.

    Raises:
        ValueError: If a name is unknown or two names mean the same lead.

    Example:

    >>> canonical_leads(["i", "II", "avf"])
    ('I', 'II', 'aVF')
    """
    names = [names] if isinstance(names, str) else list(names)
    leads = tuple(canonical_lead(name) for name in names)
    repeated = sorted({lead for lead in leads if leads.count(lead) > 1})
    if repeated:
        raise ValueError(f"Expected every lead once, got {', '.join(repeated)} more than once in {names[:20]}.")
    return leads


def undecided_sites(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names C1 to C6 that may be EEG sites of the 10-20 system as well as the chest leads V1 to V6.

    They are chest leads beside another lead (I, II, ...), unless there are only C3 and C4: these are the sites that a
    sleep study records beside one lead of ECG. `"Lead C3"` and `"ECG C3"` say what they are.

    Args:
        names (sequence of `str`): The names of all channels.

    Example:

    >>> undecided_sites(["II", "C3", "C4"]), undecided_sites(["I", "II", "C1", "C3", "C6"])
    (('C3', 'C4'), ())
    """
    sites = {name: match[1] for name in names if (match := _CHEST_OR_SITE.fullmatch(name))}
    others = [name for name in names if name not in sites and _is_lead(name)]
    return () if others and set(sites.values()) - {"3", "4"} else tuple(sites)


def _is_lead(name: str) -> bool:
    try:
        return bool(canonical_lead(name))
    except ValueError:
        return False


def derive_limb_leads(signals: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Compute those of III, aVR, aVL and aVF that are wanted, absent, and follow from the leads I and II.

    Args:
        signals (mapping of `str` to `np.ndarray`): Signals by canonical lead name, all of one length and unit.
        wanted (sequence of `str`): Canonical names of the leads asked for.

    Returns:
        `dict[str, np.ndarray]`: Only the derived leads; empty when I or II is absent.

    Example:

    >>> derived = derive_limb_leads({"I": np.array([1.0]), "II": np.array([3.0])}, ["I", "III", "V1"])
    >>> {lead: signal.tolist() for lead, signal in derived.items()}
    {'III': [2.0]}
    """
    if "I" not in signals or "II" not in signals:
        return {}
    missing = [lead for lead in wanted if lead in LIMB_LEADS and lead not in signals]
    return {lead: LIMB_LEADS[lead][0] * signals["I"] + LIMB_LEADS[lead][1] * signals["II"] for lead in missing}


__all__ = [
    "LIMB_LEADS",
    "OTHER_LEADS",
    "STANDARD_LEADS",
    "canonical_lead",
    "canonical_leads",
    "derive_limb_leads",
    "undecided_sites",
]
