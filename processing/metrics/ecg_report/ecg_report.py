"""Metrics of generated ECG reports as a module of the `evaluate` library, loaded by local path, without network."""

import datasets
import evaluate

from modeling_merit.processing.metrics.reports import report_intervals, report_metrics, report_statistics

_DESCRIPTION = """BLEU-1 to BLEU-4, ROUGE-1/2/L, METEOR (exact and stem matches), CIDEr-D, optionally BERTScore, and
what the reports state: precision, recall and F1 of statements, hallucination and omission rates. Empty reports score
zero. Not a medical device."""

_INPUTS = """
Args:
    predictions (list of `str`): Generated reports, empty strings where there is none.
    references (list of `str`): Recorded reports.
    n_resamples (`int`, defaults to 1000): Bootstrap resamples; 0 for values alone.
    patient_ids (list, *optional*): Whose report each is; patients are resampled.
    bertscore_model (`str`, *optional*): Encoder for BERTScore.
    seed (`int`, defaults to 0): Makes the resamples repeatable.
Returns:
    `dict`: Every metric as a float, and with resamples `<metric>_ci_low` and `<metric>_ci_high` (95 %).
"""

_CITATION = """@misc{merit_ecg, title = {merit-ecg}, note = {Apache-2.0}}"""


class EcgReport(evaluate.Metric):
    """See the module's description. Load with `evaluate.load(<folder of this file>)`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self, predictions, references, n_resamples=1000, patient_ids=None, bertscore_model=None, seed=0
    ) -> dict[str, float]:
        statistics = report_statistics(predictions, references, bertscore_model)
        if not n_resamples:
            return {name: float(value[0]) for name, value in report_metrics(statistics).items()}
        result: dict[str, float] = {}
        for name, interval in report_intervals(statistics, patient_ids, n_resamples, seed=seed).items():
            result |= {name: interval.value, f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}
        return result
