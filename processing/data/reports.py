"""Normalisation of report texts: the reports of pre-training and the prompts of zero-shot classification alike."""

import re

# What happened to umlauts in the 21,797 reports of PTB-XL v1.0.3, and in how many places: capital letters in words of
# lower case ("mÖglich", 17,402 letters), "#" for "ü" ("f#r", "r-s #bergang", 125), German words in ASCII beside the
# same words with umlauts ("leitungsstoerung" 127, "leitungsstÖrung" 385). Two-letter vowels must not be replaced
# everywhere: "ischaemia", "due", "does" and "neuer" are right as they stand. The stems below are German only.
_HASH_FOR_UMLAUT = re.compile(r"(?<![^\W\d])#(?=bergang)|(?<=f)#(?=r\b)")
_GERMAN_IN_ASCII = re.compile(
    r"stoerung|moegli|veraender|staendig|[ck]ulaer|verzoeger|ueber|\bfuer\b|foermig|hoe(?=h)|aemie\b|schaedig|praeter|hoefe"
)
# 555 reports (419 of them in folds 1-8) end in codes that a later reader typed in: "Edit: IMI 80, (LAFB)". These
# are the labels of the data set, not the report; aligning ECGs with them would be supervised training.
_LATER_CODES = re.compile(r"\s*\bedit:.*", re.DOTALL)
_UMLAUTS = (("ae", "ä"), ("oe", "ö"), ("ue", "ü"))


def normalize_report(text: str) -> str:
    """Repair mangled umlauts, make lower case, reduce white space to single blanks, and cut off label codes.

    Nothing is translated or expanded; only what follows "Edit:", the codes of a later reader, is left out. Four
    reports of PTB-XL with other damage (control sequences of a printer, 7-bit Swedish letters, "á" for "ß") stay as
    they are: what would repair them would harm other texts.

    Args:
        text (`str`): A report, or a prompt.

    Returns:
        `str`: The normalised text; normalising it again changes nothing.

    Example:

    >>> normalize_report("Amplitudenkriterien  f#r linkshypertrophie, intraventrikulÄre leitungsstoerung ")
    'amplitudenkriterien für linkshypertrophie, intraventrikuläre leitungsstörung'
    """
    text = _LATER_CODES.sub("", " ".join(text.lower().split()))
    text = _HASH_FOR_UMLAUT.sub("ü", text)
    return _GERMAN_IN_ASCII.sub(lambda stem: _with_umlauts(stem[0]), text)


def _with_umlauts(stem: str) -> str:
    for ascii_vowel, umlaut in _UMLAUTS:
        stem = stem.replace(ascii_vowel, umlaut)
    return stem


__all__ = ["normalize_report"]
