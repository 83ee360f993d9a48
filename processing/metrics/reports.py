"""Metrics of generated reports: overlap of words, agreement of statements, and their bootstrap intervals.

Every metric is computed from per-report statistics, so that resamples of patients cost a matrix product. An empty
report is scored as zero, never left out. Words are those of `report_words`; nothing is downloaded. Results serve
research. Not a medical device.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from ..data.reports import normalize_report
from .bootstrap import Comparison, Interval, bootstrap_comparison, normal_interval, patient_weights
from .statements import extract_statements, report_language, statement_lexicon

MAX_ORDER = 4
CIDER_SIGMA = 6.0
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")

Statistics = Mapping[str, np.ndarray]  # of `report_statistics`, by name; a row per report
PatientIds = Sequence | np.ndarray | None


def report_words(text: str) -> list[str]:
    """Return the words of a normalised report, without punctuation.

    Example:

    >>> report_words("Sinus rhythm.  ST-Senkung V5/6, mÖglich")
    ['sinus', 'rhythm', 'st', 'senkung', 'v5', '6', 'möglich']
    """
    return re.findall(r"\w+", normalize_report(text))


def report_statistics(
    predictions: Sequence[str], references: Sequence[str], bertscore_model: str | None = None
) -> dict[str, np.ndarray]:
    """Return what the metrics need to know of every report.

    Args:
        predictions (sequence of `str`): Generated reports; empty ones count as wrong.
        references (sequence of `str`): One recorded report each.
        bertscore_model (`str`, *optional*): Hub id or folder of an encoder, adds BERTScore (package `bert-score`).

    Returns:
        `dict[str, np.ndarray]`: Arrays of shape `(reports,)` or `(reports, n)`, the argument of `report_metrics`.

    Raises:
        ValueError: If the numbers of reports differ or are 0, or a reference is empty.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"Expected one prediction per reference, got {len(predictions)} for {len(references)}. Score reports that "
            "could not be generated as empty strings; do not drop them."
        )
    hypotheses, truths = [report_words(text) for text in predictions], [report_words(text) for text in references]
    if empty := [row for row, words in enumerate(truths) if not words]:
        raise ValueError(f"Expected references with words, but {len(empty)} have none, such as row {empty[0]}.")
    statistics = {"empty": np.array([not words for words in hypotheses], dtype=float)}
    statistics["exact_match"] = np.array([one == other for one, other in zip(hypotheses, truths)], dtype=float)
    statistics |= _bleu_statistics(hypotheses, truths) | _rouge(hypotheses, truths) | _meteor(hypotheses, truths)
    statistics["cider_d"] = _cider_d(hypotheses, truths)
    statistics |= _statement_statistics(predictions, references)
    if bertscore_model is not None:
        statistics["bertscore_f1"] = _bertscore(predictions, references, bertscore_model)
    return statistics


def report_metrics(statistics: Statistics, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return the metrics of a set of reports, or of resamples of it.

    `bleu_1` to `bleu_4` are corpus BLEU (Papineni et al., 2002), without smoothing; `rouge1`, `rouge2`, `rougeL` mean
    F-measures (Lin, 2004); `meteor_exact_stem` the mean METEOR (Banerjee & Lavie, 2005) with exact and stem matches
    (`meteor_wordnet` where WordNet is installed, too); `cider_d` the mean CIDEr-D (Vedantam et al., 2015, 0 to 10),
    its document frequencies those of all references. Statements are those of `statements.py`: `statement_precision`,
    `statement_recall` and `statement_f1` over all pairs of report and statement, `statement_macro_f1` the mean over
    the statements that occur, `hallucination_rate` the fraction of generated statements that the reference lacks, and
    `omission_rate` the fraction of the reference's statements that the generated report lacks.

    Args:
        statistics (`dict[str, np.ndarray]`): From `report_statistics`.
        weights (`np.ndarray` of shape `(resamples, reports)`, *optional*): How often each report counts.

    Returns:
        `dict[str, np.ndarray]`: Of shape `(resamples,)`; `(1,)` without weights.

    Example:

    >>> statistics = report_statistics(["sinus rhythm", ""], ["sinus rhythm", "atrial fibrillation"])
    >>> metrics = report_metrics(statistics)
    >>> metrics["statement_f1"].round(3), metrics["rougeL"], metrics["omission_rate"]
    (array([0.667]), array([0.5]), array([0.5]))
    """
    if weights is None:
        weights = np.ones((1, len(statistics["empty"])))
    totals = weights.sum(axis=1)
    groups = ("bleu_matches", "bleu_ngrams", "bleu_lengths", "true", "false", "missed")
    metrics = {name: weights @ values / totals for name, values in statistics.items() if name not in groups}
    metrics["empty_rate"] = metrics.pop("empty")
    matches, ngrams, lengths = (weights @ statistics[name] for name in groups[:3])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_precision = np.log(matches) - np.log(ngrams)
        brevity = np.minimum(0.0, 1.0 - lengths[:, 1] / lengths[:, 0])
    for order in range(1, MAX_ORDER + 1):
        mean = log_precision[:, :order].mean(axis=1) + brevity
        metrics[f"bleu_{order}"] = np.where(np.isfinite(mean), np.exp(mean), 0.0)
    by_statement = [weights @ statistics[name] for name in groups[3:]]
    true, false, missed = (counts.sum(axis=1) for counts in by_statement)
    metrics["statement_precision"] = _ratio(true, true + false)
    metrics["statement_recall"] = _ratio(true, true + missed)
    metrics["statement_f1"] = _ratio(2 * true, 2 * true + false + missed)
    metrics["hallucination_rate"] = _ratio(false, true + false)
    metrics["omission_rate"] = _ratio(missed, true + missed)
    f1 = _ratio(2 * by_statement[0], 2 * by_statement[0] + by_statement[1] + by_statement[2])
    occurs = (by_statement[0] + by_statement[2]) > 0
    metrics["statement_macro_f1"] = _ratio((f1 * occurs).sum(axis=1), occurs.sum(axis=1))
    return metrics


def report_intervals(
    statistics: Statistics, patient_ids: PatientIds = None, n_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return every metric with its 95 % bootstrap interval; patients are drawn, or reports where no ids are given."""
    values, resampled = _resample(statistics, patient_ids, n_resamples, seed)
    intervals = {}
    for name, value in values.items():
        low, high = normal_interval(value, resampled[name], bounds=_bounds(name))
        intervals[name] = Interval(value, low, high, 0.95, n_resamples, {})
    return intervals


def compare_reports(
    statistics_a: Statistics,
    statistics_b: Statistics,
    patient_ids: PatientIds = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Return the difference A − B of every metric, both scored on the same resamples of patients."""
    a, resampled_a = _resample(statistics_a, patient_ids, n_resamples, seed)
    b, resampled_b = _resample(statistics_b, patient_ids, n_resamples, seed)
    widest = {name: np.ptp(_bounds(name)) for name in a}
    return {
        name: bootstrap_comparison(
            a[name], b[name], resampled_a[name], resampled_b[name], bounds=(-widest[name], widest[name])
        )
        for name in a
    }


def _bounds(name: str) -> tuple[float, float]:
    return {"cider_d": (0.0, 10.0), "bertscore_f1": (-1.0, 1.0)}.get(name, (0.0, 1.0))


def _resample(
    statistics: Statistics, patient_ids: PatientIds, n_resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    reports = len(statistics["empty"])
    patient_ids = np.arange(reports) if patient_ids is None else patient_ids
    if len(patient_ids) != reports:
        raise ValueError(f"Expected one patient id per report, got {len(patient_ids)} for {reports} reports.")
    values = {name: float(value[0]) for name, value in report_metrics(statistics).items()}
    return values, report_metrics(statistics, patient_weights(patient_ids, n_resamples, seed))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """0 where nothing was counted: a report without statements hallucinates nothing and finds nothing."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=float), where=denominator > 0)


def _ngrams(words: Sequence[str], order: int) -> Counter:
    return Counter(zip(*(words[start:] for start in range(order))))


def _bleu_statistics(hypotheses: list[list[str]], truths: list[list[str]]) -> dict[str, np.ndarray]:
    orders = range(1, MAX_ORDER + 1)
    matches = [[(_ngrams(h, n) & _ngrams(t, n)).total() for n in orders] for h, t in zip(hypotheses, truths)]
    ngrams = [[max(0, len(h) - n + 1) for n in orders] for h in hypotheses]
    lengths = [[len(h), len(t)] for h, t in zip(hypotheses, truths)]
    named = {"bleu_matches": matches, "bleu_ngrams": ngrams, "bleu_lengths": lengths}
    return {name: np.array(values, dtype=float) for name, values in named.items()}


class _Words:
    """The tokenizer of `rouge_score` keeps a-z and 0-9 only and would cut German words at their umlauts."""

    tokenize = staticmethod(str.split)


def _rouge(hypotheses: list[list[str]], truths: list[list[str]]) -> dict[str, np.ndarray]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE_TYPES, tokenizer=_Words())
    scores = [scorer.score(" ".join(t), " ".join(h)) for h, t in zip(hypotheses, truths)]
    return {name: np.array([score[name].fmeasure for score in scores]) for name in ROUGE_TYPES}


class _NoSynonyms:
    @staticmethod
    def synsets(word: str) -> list:
        return []


@cache
def _wordnet():
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


def _meteor(hypotheses: list[list[str]], truths: list[list[str]]) -> dict[str, np.ndarray]:
    from nltk.stem.snowball import SnowballStemmer
    from nltk.translate.meteor_score import single_meteor_score

    wordnet = _wordnet()
    stemmers = {name: SnowballStemmer(name.lower()) for name in ("German", "English", "Swedish")}
    scores = [
        single_meteor_score(t, h, stemmer=stemmers[report_language(" ".join(t))], wordnet=wordnet or _NoSynonyms())
        if h
        else 0.0
        for h, t in zip(hypotheses, truths)
    ]
    return {"meteor_exact_stem" if wordnet is None else "meteor_wordnet": np.array(scores)}


def _cider_d(hypotheses: list[list[str]], truths: list[list[str]]) -> np.ndarray:
    """CIDEr-D of every report against its one reference, without stemming (Vedantam et al., 2015, section 4)."""
    log_reports = np.log(len(truths))
    scores = np.zeros(len(truths))
    penalty = [np.exp(-((len(h) - len(t)) ** 2) / (2 * CIDER_SIGMA**2)) for h, t in zip(hypotheses, truths)]
    for order in range(1, MAX_ORDER + 1):
        reference_counts = [_ngrams(words, order) for words in truths]
        documents = Counter(ngram for counts in reference_counts for ngram in counts)

        def weigh(counts: Counter, documents: Counter = documents) -> dict:
            return {g: count * (log_reports - np.log(max(1, documents[g]))) for g, count in counts.items()}

        for row, (words, counts) in enumerate(zip(hypotheses, reference_counts)):
            hypothesis, reference = weigh(_ngrams(words, order)), weigh(counts)
            norm = np.linalg.norm(list(hypothesis.values())) * np.linalg.norm(list(reference.values()))
            if norm > 0:
                common = hypothesis.keys() & reference.keys()
                clipped = sum(min(hypothesis[g], reference[g]) * reference[g] for g in common)
                scores[row] += 10 / MAX_ORDER * penalty[row] * clipped / norm
    return scores


def _statement_statistics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    keys = list(statement_lexicon())
    said, meant = (
        np.array([[key in statements for key in keys] for statements in map(extract_statements, texts)])
        for texts in (predictions, references)
    )
    return {
        "true": (said & meant).astype(float),
        "false": (said & ~meant).astype(float),
        "missed": (~said & meant).astype(float),
    }


def _bertscore(predictions: Sequence[str], references: Sequence[str], model: str) -> np.ndarray:
    try:
        from bert_score import BERTScorer
        from transformers import AutoConfig
    except ImportError as error:
        raise ImportError("BERTScore needs the package bert-score: pip install bert-score.") from error
    layers = AutoConfig.from_pretrained(model).num_hidden_layers
    scorer = BERTScorer(model_type=model, num_layers=layers)
    f1 = scorer.score([normalize_report(text) for text in predictions], [normalize_report(t) for t in references])[2]
    return np.where([bool(report_words(text)) for text in predictions], f1.numpy(), 0.0)


__all__ = [
    "compare_reports",
    "report_intervals",
    "report_metrics",
    "report_statistics",
    "report_words",
]
