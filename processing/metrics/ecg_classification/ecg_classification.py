"""Multi-label ECG classification metrics as a module of the `evaluate` library, loaded by its local path."""

import datasets
import evaluate

from modeling_merit.processing.metrics.classification import align_predictions, classification_report

_DESCRIPTION = """Macro, micro and weighted AUROC, AUPRC and F1 (at 0.5, at thresholds tuned on validation data, and
the oracle maximum), Brier score and expected calibration error, overall and per class. Undefined classes are named,
not averaged."""

_INPUTS = """
Args:
    predictions (list of list of `float`): Probabilities, rows × classes.
    references (list of list of `int`): Labels 0 or 1, rows × classes.
    class_names (list of `str`): One per column.
    thresholds (list of `float`, *optional*): One per class, from validation data (`thresholds.tune_thresholds`).
    ids (list, *optional*), expected_ids (list, *optional*): Row of each prediction, and every row of the test set in
        the order of `references`. Given both, a missing, repeated or unexpected row is an error.
    metrics (list of `str`, *optional*): Names out of `metrics.CLASS_METRICS`.
Returns:
    `dict`: As `metrics.classification_report`.
"""

_CITATION = """@misc{merit_ecg, title = {merit-ecg}, note = {Apache-2.0}}"""


class EcgClassification(evaluate.Metric):
    """See the module's description. Load with `evaluate.load(<folder of this file>)`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Sequence(datasets.Value("int8")),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self,
        predictions,
        references,
        class_names,
        thresholds=None,
        ids=None,
        expected_ids=None,
        metrics=None,
    ) -> dict:
        if (ids is None) != (expected_ids is None):
            raise ValueError("Expected ids and expected_ids together or neither, got one of them.")
        if ids is not None:
            predictions = [predictions[row] for row in align_predictions(ids, expected_ids)]
        return classification_report(references, predictions, class_names, thresholds, metrics)
