"""Evaluation protocols as named presets: what `strict` does, and what others do, so that numbers can be compared
knowingly.

`strict` is the default. The other presets restate, as far as it bears on the reported numbers, how published results
were made; each says what is wrong with it. They change selection and averaging, not the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..metrics.classification import auroc, decide, f1, f1_max_oracle, metric_value

apply_thresholds = decide


@dataclass(frozen=True)
class Protocol:
    """A way to come from per-epoch outputs to one number per metric.

    Args:
        name (`str`): The key in `PROTOCOLS`.
        label_variant (`str`): Variant for `label_matrix`.
        keeps_empty_rows (`bool`): Whether records without any class of the task stay in the test set as all-zero rows.
        select_epoch_on (`str`): `"validation"` (best macro AUROC there) or `"test"` (best value of each metric on its
            own).
        f1_threshold (`str`): `"validation_tuned"` per class, `"half"` (0.5), or `"test_oracle"` per class.
        undefined_class (`str`): `"named"` (left out and named) or `"counts_half"` (its AUROC enters the mean as 0.5).
        does (`str`), wrong (`str`): In words.
    """

    name: str
    label_variant: Literal["strict", "legacy"]
    keeps_empty_rows: bool
    select_epoch_on: Literal["validation", "test"]
    f1_threshold: Literal["validation_tuned", "half", "test_oracle"]
    undefined_class: Literal["named", "counts_half"]
    does: str
    wrong: str


PROTOCOLS = {
    "strict": Protocol(
        *("strict", "strict", False, "validation", "validation_tuned", "named"),
        does="Labels by name; rows of the task only; epoch, regularisation and one threshold per class chosen on "
        "fold 9; fold 10 is looked at once; undefined classes are named; patient-level bootstrap intervals "
        "and paired tests.",
        wrong="Thresholds of rare classes rest on few validation positives: compare macro-F1 with its interval.",
    ),
    "merl": Protocol(
        *("merl", "legacy", False, "test", "test_oracle", "named"),
        does="Labels of the shared files; after every epoch the test set is scored and the best value of each "
        "metric over the epochs is reported; F1 is the mean over the classes of the best F1 on the test "
        "precision-recall curve.",
        wrong="Epoch and threshold are chosen on the test set, so both numbers are optimistic. Columns are read by "
        "position, so three SubClass columns are exchanged between training and test (a perfect model gets "
        "0.934), and CSN labels come from a substring test (0.953). The encoder's batch statistics move "
        "during its linear probe.",
    ),
    "helme": Protocol(
        *("helme", "strict", False, "validation", "half", "named"),
        does="The PTB-XL benchmark of Strodthoff et al. (IEEE JBHI 25:1519, 2021): 100 Hz, folds 1-8/9/10, macro "
        "AUROC, model chosen on fold 9, bootstrap of the test fold with the 5th and 95th percentile.",
        wrong="Published on PTB-XL 1.0.1 (21,837 records), so its test fold is another one; the interval covers 90 "
        "%, draws records instead of patients, and redraws until every class has a positive, which hides the "
        "spread of rare classes. It reports no F1 on PTB-XL; 0.5 is filled in here.",
    ),
    "ecg_ssl": Protocol(
        *("ecg_ssl", "strict", True, "validation", "half", "counts_half"),
        does="Records without a class of the task stay as all-zero rows; macro AUROC with 0.5 for an undefined "
        "class; macro-F1 at 0.5; model chosen on fold 9.",
        wrong="All-zero rows make another test set (2,198 rows for every task) and 1,318 of them dominate Form; 0.5 "
        "for an undefined class mixes what was not measured into the mean; at 0.5 the F1 of rare classes "
        "measures calibration; its 'linear probe' is a two-layer perceptron; published on PTB-XL 1.0.1.",
    ),
}


@dataclass(frozen=True)
class ProtocolScore:
    """What a protocol reports: the two numbers, the epoch behind each, and the classes without a value."""

    macro_auroc: float
    macro_f1: float
    auroc_epoch: int
    f1_epoch: int
    undefined_classes: list[int]


def tune_thresholds(val_probabilities: np.ndarray, val_labels: np.ndarray) -> np.ndarray:
    """Return, for each class, the threshold with the highest F1 on validation data.

    It lies half-way between the two neighbouring probabilities that it separates; among equal F1 the highest threshold
    is taken. A class without a validation positive gets 0.5: there is nothing to choose by.

    Args:
        val_probabilities (`np.ndarray` of shape `(rows, classes)`): In [0, 1].
        val_labels (`np.ndarray` of shape `(rows, classes)`): 0 or 1.

    Returns:
        `np.ndarray` of shape `(classes,)`.

    Raises:
        ValueError: If the shapes differ.

    Example:

    >>> tune_thresholds(np.array([[0.1], [0.2], [0.4], [0.8]]), np.array([[0], [0], [1], [1]])).round(3).tolist()
    [0.3]
    """
    probabilities, labels = np.asarray(val_probabilities, dtype=np.float64), np.asarray(val_labels)
    if labels.shape != probabilities.shape or labels.ndim != 2:
        raise ValueError(f"Expected two arrays (rows, classes), got {probabilities.shape} and {labels.shape}.")
    thresholds = np.full(labels.shape[1], 0.5)
    for column in np.flatnonzero(labels.any(0)):
        order = np.argsort(-probabilities[:, column], kind="stable")
        falling = probabilities[order, column]
        hits = np.cumsum(labels[order, column])
        scores = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
        below = np.append(falling[1:], 0.0)
        scores[:-1][falling[:-1] == below[:-1]] = -1  # no threshold can part equal probabilities
        best = int(np.argmax(scores))
        thresholds[column] = (falling[best] + below[best]) / 2
    return thresholds


def score_epochs(
    protocol: str | Protocol,
    val_probabilities: Sequence[np.ndarray],
    val_labels: np.ndarray,
    test_probabilities: Sequence[np.ndarray],
    test_labels: np.ndarray,
) -> ProtocolScore:
    """Score the outputs of all epochs as a protocol would.

    Args:
        protocol (`str` or `Protocol`): A key of `PROTOCOLS` or an own one.
        val_probabilities, test_probabilities (sequence of `np.ndarray`): One array (rows, classes) per epoch.
        val_labels, test_labels (`np.ndarray` of shape `(rows, classes)`): 0 or 1; their variant is the caller's
            choice.

    Raises:
        ValueError: If the protocol is unknown or the numbers of epochs differ.

    Example:

    >>> labels = np.array([[0], [1], [0], [1]])
    >>> epochs = [np.array([[0.6], [0.9], [0.1], [0.7]]), np.array([[0.1], [0.4], [0.3], [0.2]])]
    >>> score_epochs("strict", epochs, labels, epochs, labels).macro_f1
    1.0
    """
    if isinstance(protocol, str) and protocol not in PROTOCOLS:
        raise ValueError(f"Expected a protocol out of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    rules = PROTOCOLS[protocol] if isinstance(protocol, str) else protocol
    if len(val_probabilities) != len(test_probabilities) or not len(test_probabilities):
        raise ValueError(f"Expected as many epochs twice, got {len(val_probabilities)} and {len(test_probabilities)}.")
    half = rules.undefined_class == "counts_half"
    aurocs = [auroc(test_labels, probabilities) for probabilities in test_probabilities]
    macro_aurocs = [np.where(np.isnan(a), 0.5, a).mean() if half else np.nanmean(a) for a in aurocs]
    macro_f1s = [
        _macro_f1(rules, *epoch, val_labels, test_labels)
        for epoch in zip(val_probabilities, test_probabilities, strict=True)
    ]
    if rules.select_epoch_on == "test":
        best_auroc, best_f1 = int(np.argmax(macro_aurocs)), int(np.argmax(macro_f1s))
    else:
        chosen = int(np.argmax([metric_value("macro_auroc", val_labels, p) for p in val_probabilities]))
        best_auroc = best_f1 = chosen
    undefined = [] if half else np.flatnonzero(np.isnan(aurocs[0])).tolist()
    return ProtocolScore(float(macro_aurocs[best_auroc]), float(macro_f1s[best_f1]), best_auroc, best_f1, undefined)


def _macro_f1(
    rules: Protocol, val: np.ndarray, test: np.ndarray, val_labels: np.ndarray, test_labels: np.ndarray
) -> float:
    if rules.f1_threshold == "test_oracle":
        return float(np.nanmean(f1_max_oracle(test_labels, test)))
    thresholds = tune_thresholds(val, val_labels) if rules.f1_threshold == "validation_tuned" else 0.5
    values = f1(test_labels, apply_thresholds(test, thresholds))
    return float(np.nan_to_num(values).mean() if rules.undefined_class == "counts_half" else np.nanmean(values))
