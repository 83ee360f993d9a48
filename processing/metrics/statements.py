"""What a report states: a rule-based extractor over a lexicon in English, German and some Swedish.

It reads generated and recorded reports alike, so that both can be compared by content. Negation follows NegEx (Chapman
et al., J Biomed Inform 34:301, 2001): a trigger shortly before or after a phrase, and pseudo-triggers ("cannot be
excluded") that mean something else. How far it agrees with the SCP-ECG codes of PTB-XL is measured in
`tests/test_metrics_statements.py`. Not a medical device.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..data.reports import normalize_report

STATUSES = ("present", "possible", "absent")


@dataclass(frozen=True)
class Mention:
    """One phrase of a report: the statement it stands for, its status (`STATUSES`), and where it stands."""

    statement: str
    status: str
    start: int
    end: int


@cache
def statement_lexicon() -> dict[str, dict]:
    """Return the statements by key: `name`, `patterns`, and codes that mean the same (`scp`, or `axis` of PTB-XL)."""
    return _lexicon()["statements"]


def find_statements(text: str) -> list[Mention]:
    """Return every statement found in a report.

    Args:
        text (`str`): A report in English, German or Swedish; it is normalised first, so places count in
            `normalize_report(text)`.

    Returns:
        `list[Mention]`: In the order of the text.

    Example:

    >>> [(m.statement, m.status) for m in find_statements("Sinusrhythmus, keine Ischämie. Inferiorer Infarkt möglich")]
    [('sinus_rhythm', 'present'), ('ischaemia_or_strain', 'absent'), ('inferior_infarction', 'possible')]
    """
    text = normalize_report(text)
    spans = {key: [m.span() for m in pattern.finditer(text)] for key, pattern in _patterns().items()}
    found = []
    for key, entry in statement_lexicon().items():
        covers = [span for other in entry.get("unless", ()) for span in spans[other]]
        found += [
            (start, end, key)
            for start, end in spans[key]
            if not any(first <= start and end <= last for first, last in covers)
        ]
    mentions: list[Mention] = []
    denied_until = None
    context = _context()
    for start, end, key in sorted(found):
        before, after = text[:start], text[end:]
        status = "present"
        if context["uncertain_before"].search(before) or context["uncertain_after"].match(after):
            status = "possible"
        elif (
            context["negated_before"].search(before)
            or context["negated_after"].match(after)
            or (denied_until is not None and context["chain"].fullmatch(text[denied_until:start]))
        ):
            status = "absent"
        denied_until = end if status == "absent" else None
        mentions.append(Mention(key, status, start, end))
    return mentions


def extract_statements(text: str, include_possible: bool = True) -> frozenset[str]:
    """Return the statements that a report affirms, or at least holds possible; what it denies is left out.

    Args:
        text (`str`): A report; an empty one states nothing.
        include_possible (`bool`, defaults to `True`): Whether "possible", "suggesting" and the like count.

    Example:

    >>> sorted(extract_statements("atrial fibrillation. possible old inferior infarct. no ecg evidence of ischaemia."))
    ['atrial_fibrillation', 'inferior_infarction']
    >>> sorted(extract_statements("atrial fibrillation. possible old inferior infarct.", include_possible=False))
    ['atrial_fibrillation']
    """
    kept = ("present", "possible") if include_possible else ("present",)
    return frozenset(mention.statement for mention in find_statements(text) if mention.status in kept)


def report_language(text: str) -> str:
    """Return the language with most words of its own in a report: "German", "English" or "Swedish"; German if none.

    Example:

    >>> report_language("sinus rhythm. normal ecg."), report_language("Sinusrhythmus, Linkstyp")
    ('English', 'German')
    """
    words = re.findall(r"[\w-]+", normalize_report(text))
    counts = {name: sum(bool(own.fullmatch(word)) for word in words) for name, own in _languages().items()}
    return max(counts, key=counts.__getitem__)


@cache
def _lexicon() -> Mapping[str, dict]:
    return json.loads(Path(__file__).with_name("statements.json").read_text(encoding="utf-8"))


@cache
def _patterns() -> dict[str, re.Pattern]:
    terms = _lexicon()["terms"]

    def joined(patterns: list[str]) -> re.Pattern:
        text = "|".join(patterns)
        for name, expression in terms.items():
            text = text.replace(f"<{name}>", expression)
        return re.compile(rf"(?<!\w)(?:{text})(?!\w)")

    return {key: joined(entry["patterns"]) for key, entry in statement_lexicon().items()}


@cache
def _languages() -> dict[str, re.Pattern]:
    return {name: re.compile("|".join(words)) for name, words in _lexicon()["languages"].items()}


@cache
def _context() -> dict[str, re.Pattern]:
    negation, uncertainty = _lexicon()["negation"], _lexicon()["uncertainty"]

    def either(words: list[str]) -> str:
        return rf"(?:{'|'.join(words)})"

    # Reports often lack punctuation, so that only known words, and one unknown, may stand between trigger and phrase.
    filler = rf"(?:{either(negation['filler'])}\s+){{0,4}}"
    gap = rf"\s+{filler}(?:[^\s.;:,]+\s+)?{filler}"
    return {
        "negated_before": re.compile(rf"(?<![\w-]){either(negation['before'])}{gap}$"),
        "negated_after": re.compile(rf"\s+{either(negation['after'])}(?!\w)"),
        "chain": re.compile(rf"\s*{either(negation['chain'])}\s+{filler}"),
        "uncertain_before": re.compile(rf"(?<![\w-]){either(uncertainty['before'])}\s+(?:[^\s.;:,]+\s+){{0,2}}$"),
        "uncertain_after": re.compile(rf"[\s,]+(?:[^\s.;:,]+\s+)?{either(uncertainty['after'])}(?!\w)"),
    }


__all__ = ["STATUSES", "Mention", "extract_statements", "find_statements", "report_language", "statement_lexicon"]
