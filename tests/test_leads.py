"""Lead names and the limb leads that follow from I and II."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_merit.processing.leads import (
    OTHER_LEADS,
    STANDARD_LEADS,
    canonical_lead,
    canonical_leads,
    derive_limb_leads,
    undecided_sites,
)


@pytest.mark.parametrize(
    ("spelling", "lead"),
    [
        ("AVR", "aVR"),
        ("avl", "aVL"),
        (" ii ", "II"),
        ("Lead II", "II"),
        ("LEAD_aVF", "aVF"),
        ("Lead 1", "I"),
        ("L3", "III"),
        ("D2", "II"),
        ("DIII", "III"),
        ("ECG I", "I"),
        ("EKG V4", "V4"),
        ("MDC_ECG_LEAD_V1", "V1"),
        ("MDC_ECG_LEAD_AVR", "aVR"),
        ("C6", "V6"),
        ("vx", "X"),
        ("MLII", "MLII"),
        ("ML2", "MLII"),
        ("v4r", "V4R"),
    ],
)
def test_spellings(spelling, lead):
    assert canonical_lead(spelling) == lead


@pytest.mark.parametrize(
    "name", ["", "V10", "1", "ECG 1", "ECG1", "-aVR", "VR", "Resp", "PLETH", "III aVF", "MDC_ECG_LEAD_"]
)
def test_a_name_that_is_no_lead_is_refused(name):
    with pytest.raises(ValueError, match="Unknown lead .*Expected one of I, II, III"):
        canonical_lead(name)


@given(st.sampled_from(STANDARD_LEADS + OTHER_LEADS), st.lists(st.booleans(), min_size=5, max_size=5))
def test_case_never_matters(lead, upper):
    spelled = "".join(c.upper() if up else c.lower() for c, up in zip(lead, upper))
    assert canonical_lead(spelled) == lead


def test_canonical_names_are_fixed_points():
    assert canonical_leads(STANDARD_LEADS + OTHER_LEADS) == STANDARD_LEADS + OTHER_LEADS


def test_one_name_is_one_lead():
    assert canonical_leads("avr") == ("aVR",)


def test_two_names_of_one_lead_are_refused():
    with pytest.raises(ValueError, match="every lead once, got V1 more than once"):
        canonical_leads(["V1", "V2", "C1"])


@pytest.mark.parametrize(
    ("names", "undecided"),
    [
        (["C3", "C4"], ("C3", "C4")),
        (["II", "C3", "C4"], ("C3", "C4")),
        (["c4", "ECG"], ("c4",)),
        (["C1", "C2", "C3", "C4", "C5", "C6"], ("C1", "C2", "C3", "C4", "C5", "C6")),
        (["I", "II", "C1", "C2", "C3", "C4", "C5", "C6"], ()),
        (["II", "C1"], ()),
        (["II", "Lead C3", "ECG C4"], ()),
        (["II", "V3", "V4"], ()),
    ],
)
def test_sites_of_eeg_are_told_from_chest_leads_by_what_stands_beside_them(names, undecided):
    assert undecided_sites(names) == undecided


def test_limb_leads_from_electrode_potentials():
    right, left, foot = np.random.default_rng(0).normal(size=(3, 100))
    leads = {"I": left - right, "II": foot - right}
    derived = derive_limb_leads(leads, STANDARD_LEADS)
    np.testing.assert_allclose(derived["III"], foot - left, atol=1e-12)
    np.testing.assert_allclose(derived["aVR"], right - (left + foot) / 2, atol=1e-12)
    np.testing.assert_allclose(derived["aVL"], left - (right + foot) / 2, atol=1e-12)
    np.testing.assert_allclose(derived["aVF"], foot - (right + left) / 2, atol=1e-12)
    assert list(derived) == ["III", "aVR", "aVL", "aVF"]


def test_only_wanted_and_absent_leads_are_derived():
    leads = {"I": np.zeros(3), "II": np.ones(3), "aVR": np.full(3, 7.0)}
    assert list(derive_limb_leads(leads, ["I", "aVR", "aVF", "V1"])) == ["aVF"]
    assert derive_limb_leads({"II": np.ones(3)}, STANDARD_LEADS) == {}
