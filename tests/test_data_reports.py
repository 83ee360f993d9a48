"""Reports: what is repaired, what is left alone, and how often each occurs in PTB-XL."""

import collections
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_merit.processing.data.reports import normalize_report

# Words from the alphabet of the repairs, so that the property meets overlapping stems.
stems = st.lists(
    st.sampled_from(["hoe", "h", "fe", "ue", "ber", "f#r", "#bergang", "mÖgli", "praeter", "moeglich", "aemie", " "])
)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ("MÖglich  ischÄmie,\n\tf#r", "möglich ischämie, für"),
        ("r-s #bergang in v-ableitungen", "r-s übergang in v-ableitungen"),
        ("Ueberdrehter linkstyp, qt-veraenderungen", "überdrehter linkstyp, qt-veränderungen"),
        ("supraventrikulaere extrasystolen", "supraventrikuläre extrasystolen"),
        ("hyperkaliaemie", "hyperkaliämie"),
        ("vÄnster fÖrmaksflimmer pÅ Åt", "vänster förmaksflimmer på åt"),
        ("", ""),
    ],
)
def test_mangled_umlauts_are_repaired(recorded: str, expected: str) -> None:
    assert normalize_report(recorded) == expected


@pytest.mark.parametrize(
    "text",
    [
        "inferior ischaemia due to hypokalaemia, review requested",
        "isoelectric st segment, frequent vpbs, does not matter",
        "neuer infarkt, eventuell",
        "ecg #2, lead #v1",
        "present [complete heart block]. a|b {c}",
        "taquicardia sinusal, bradicárdia, óbito",
    ],
)
def test_other_words_are_left_alone(text: str) -> None:
    assert normalize_report(text) == text


@given(st.one_of(st.text(), stems.map("".join)))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize_report(text)
    assert normalize_report(once) == once


@pytest.mark.real_data
def test_counts_over_all_reports_of_ptb_xl(ptb_xl_dir: Path) -> None:
    recorded = [text for text in pd.read_csv(ptb_xl_dir / "ptbxl_database.csv").report if text.strip()]
    normal = [normalize_report(text) for text in recorded]
    assert len(normal) == 21797
    assert (len(set(recorded)), len(set(normal))) == (9880, 9576)
    assert sum(text.count("#") for text in recorded) == 125 and not any("#" in text for text in normal)
    words = collections.Counter(word for text in normal for word in re.findall(r"[^\W\d_]+", text))
    # Each count is the sum over the spellings with and without an umlaut, and "#", outside the codes that are cut off.
    expected = {"ischämie": 1652, "möglich": 1598, "leitungsstörung": 520, "überdrehter": 1500, "für": 415}
    assert {word: words[word] for word in expected} == expected
    assert {word: words[word] for word in ("ischaemia", "due", "requested")} == {
        "ischaemia": 1012,
        "due": 1056,
        "requested": 363,
    }
    left = {word for word in words if re.search("ae|oe|ue", word)}
    assert left == {
        *("due", "ischaemia", "ischaemic", "requested", "hypokalaemia", "frequent", "query", "does", "true"),
        *("isoelectric", "neuer", "eventuell", "eventuelle", "isoelektrisch"),  # rightly so
        *("ischaem", "ischaemi", "ischae", "pagaende", "voehofflimmern", "extrasystoeln"),  # cut short or misspelt
        *("intraentr", "oschaemia", "normaels"),
    }


def test_codes_of_a_later_reader_are_cut_off():
    assert normalize_report("sinus rhythm. normal ecg. Edit: NORM 100, (ISCIL 50)") == "sinus rhythm. normal ecg."
    assert normalize_report("edited by hand: sinus rhythm") == "edited by hand: sinus rhythm"
