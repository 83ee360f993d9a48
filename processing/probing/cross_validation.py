"""A linear probe of one's own data: cross-validated over patients, then fitted on all records as a classifier.

Each fold is predicted by a probe that has seen none of its patients: its C and its thresholds come from the next fold,
its weights from the others (`logistic_probe`). The classifier has the C that was best on average.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from sklearn.model_selection import StratifiedGroupKFold

from modeling_merit import MeritEcgModel, MeritForEcgClassification

from ..metrics.bootstrap import Interval, bootstrap_interval
from ..metrics.thresholds import decide, tune_thresholds
from .logistic_probe import DEFAULT_GRID, fit_logistic, logistic_probe

METRICS = ("macro_auroc", "macro_auprc", "macro_f1")


@dataclass(frozen=True)
class LinearClassifier:
    """A logistic regression per class on the features of a frozen encoder.

    Args:
        weight (`np.ndarray` of shape `(classes, features)`), bias (`np.ndarray` of shape `(classes,)`): float64, for
            features as the encoder gives them.
        c (`float`): The inverse regularisation strength.
    """

    weight: np.ndarray
    bias: np.ndarray
    c: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities (rows, classes)."""
        return expit(np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias)


@dataclass(frozen=True)
class CrossValidation:
    """What patients that a probe had not seen say of it.

    Args:
        probabilities (`np.ndarray` of shape `(rows, classes)`): Each row's from the probe of its fold.
        decisions (`np.ndarray` of shape `(rows, classes)`): int8, by the thresholds of that probe, which are tuned on
            other patients than the row's.
        folds (`np.ndarray` of shape `(rows,)`): From 0.
        thresholds (`np.ndarray` of shape `(classes,)`): Of highest F1 over all rows, for the classifier of all rows.
        c (`float`): Of the best mean validation AUROC.
        intervals (`dict` of `str` to `Interval`): `macro_auroc`, `macro_auprc`, `macro_f1`, over patients.
        by_class (`list` of `dict`): For each class its intervals `auroc`, `auprc`, `f1`.
        prior_scale (`float`): Of the best mean validation AUROC, with `c`; 0 without a prior.
    """

    probabilities: np.ndarray
    decisions: np.ndarray
    folds: np.ndarray
    thresholds: np.ndarray
    c: float
    intervals: dict[str, Interval]
    by_class: list[dict[str, Interval]]
    prior_scale: float = 0.0


def check_classes(
    labels: np.ndarray, patient_ids: Sequence | np.ndarray, n_folds: int, names: Sequence[str] | None = None
) -> None:
    """Refuse classes that cannot be cross-validated.

    Raises:
        ValueError: As `patient_folds`; with the name of the class, or else the number of its column.
    """
    patients, most = np.asarray(patient_ids), 0
    for column, of_class in enumerate(np.asarray(labels).T):
        counts = [len(np.unique(patients[of_class == value])) for value in (1, 0)]
        most = max(most, min(counts))
        if min(counts) < 3:
            raise ValueError(
                f"Expected 3 patients with class {(names or range(labels.shape[1]))[column]!r} and 3 without it, got "
                f"{counts[0]} and {counts[1]}. Leave the class out, or add records."
            )
    if most < n_folds:
        raise ValueError(
            f"Expected a class in {n_folds} patients, one for each fold, and its absence in as many, got at most "
            f"{most}. Use {most} folds, or add records."
        )


def patient_folds(labels: np.ndarray, patient_ids: Sequence, n_folds: int = 5, seed: int = 0) -> np.ndarray:
    """Return the fold of every row, no patient in two, the rarest class of each row spread evenly.

    Args:
        labels (`np.ndarray` of shape `(rows, classes)`): 0 or 1.
        patient_ids (sequence): Whose each row is.
        n_folds (`int`): At least 3: one to predict, one to choose C and thresholds by, the others to fit.
        seed (`int`): Of the order of patients.

    Raises:
        ValueError: If there are fewer folds than 3 or patients than folds, a class has fewer than 3 patients with it
            or 3 without it, or none has as many as there are folds.

    Example:

    >>> folds = patient_folds(np.array([[1], [0]] * 6), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], n_folds=3)
    >>> np.bincount(folds).tolist(), bool((folds[::2] == folds[1::2]).all())
    ([4, 4, 4], True)
    """
    labels, patients = np.asarray(labels), np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)[1]
    if not 3 <= n_folds <= patients.max(initial=-1) + 1:
        raise ValueError(f"Expected 3 folds or more, and a patient in each, got {n_folds} for {patients.max() + 1}.")
    check_classes(labels, patients, n_folds)
    rarity = np.where(labels == 1, labels.sum(0), len(labels) + 1)
    rarest = np.where(labels.any(1), rarity.argmin(1), labels.shape[1])
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    folds = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():  # of classes with fewer rows than folds, which the check above allows
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, rows) in enumerate(splitter.split(labels, rarest, patients)):
            folds[rows] = fold
    return folds


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    patient_ids: Sequence,
    n_folds: int = 5,
    seed: int = 0,
    grid: Sequence[float] = DEFAULT_GRID,
    n_resamples: int = 1000,
    prior: np.ndarray | None = None,
) -> CrossValidation:
    """Return how well a linear probe predicts patients that it has not seen.

    Args:
        features (`np.ndarray` of shape `(rows, features)`): Of a frozen encoder.
        labels (`np.ndarray` of shape `(rows, classes)`): 0 or 1.
        patient_ids (sequence): Whose each row is.
        n_folds (`int`), seed (`int`): See `patient_folds`.
        grid (sequence of `float`): Values of C to choose from.
        n_resamples (`int`): Of the bootstrap over patients.
        prior (`np.ndarray` of shape `(rows, classes)`, *optional*): Scores that need no labels, for the probes to
            correct: see `logistic_probe`.

    Raises:
        ValueError: As `patient_folds` and `logistic_probe`.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(300, 4))
    >>> y = (x[:, :1] + 0.5 * rng.normal(size=(300, 1)) > 0).astype(int)
    >>> result = cross_validate(x, y, np.arange(300) // 2, n_resamples=100)
    >>> round(result.intervals["macro_auroc"].value, 1), result.probabilities.shape
    (0.9, (300, 1))
    """
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    folds = patient_folds(labels, patient_ids, n_folds, seed)
    probabilities, decisions = np.empty(labels.shape), np.empty(labels.shape, dtype=np.int8)
    scores: defaultdict[tuple[float, float], list[float]] = defaultdict(list)
    for fold in range(n_folds):
        test, val = folds == fold, folds == (fold + 1) % n_folds
        train = ~test & ~val
        of_fold = None if prior is None else [prior[part] for part in (train, val, test)]
        probe = logistic_probe(
            features[train], labels[train], features[val], labels[val], features[test], grid, of_fold
        )
        probabilities[test] = probe.test_probabilities
        thresholds = tune_thresholds(probe.val_probabilities, labels[val])
        decisions[test] = decide(probe.test_probabilities, thresholds)
        for choice, score in probe.val_macro_auroc.items():
            scores[choice].append(score)

    def intervals(prefix: str, columns: slice) -> dict[str, Interval]:
        # Decisions are their own probabilities: 0 and 1 lie on either side of 0.5.
        measured = {"auroc": probabilities, "auprc": probabilities, "f1": decisions.astype(np.float64)}
        return {
            prefix + name: bootstrap_interval(
                "macro_f1_at_0.5" if name == "f1" else f"macro_{name}",
                labels[:, columns],
                values[:, columns],
                patient_ids,
                n_resamples=n_resamples,
                seed=seed,
            )
            for name, values in measured.items()
        }

    # A value of C that a fold did not try had become worse there.
    tried_by_all = [choice for choice, found in scores.items() if len(found) == n_folds]
    c, prior_scale = max(tried_by_all, key=lambda choice: float(np.mean(scores[choice])))
    return CrossValidation(
        probabilities,
        decisions,
        folds,
        tune_thresholds(probabilities, labels),
        c,
        intervals("macro_", slice(None)),
        [intervals("", slice(column, column + 1)) for column in range(labels.shape[1])],
        prior_scale,
    )


def fit_classifier(
    features: np.ndarray,
    labels: np.ndarray,
    c: float,
    prior_weights: np.ndarray | None = None,
    prior_scale: float = 0.0,
) -> LinearClassifier:
    """Return the probe of all rows; it standardises features with their mean and deviation, as `logistic_probe` does.

    Args:
        features (`np.ndarray` of shape `(rows, features)`), labels (`np.ndarray` of shape `(rows, classes)`): All.
        c (`float`): Inverse regularisation strength.
        prior_weights (`np.ndarray` of shape `(classes, features)`, *optional*): A classifier to correct, such as
            `zero_shot_weights`; its scores `features @ prior_weights.T` are the prior of `logistic_probe`.
        prior_scale (`float`): How much of them the log-odds hold.

    Raises:
        ValueError: If a class has only one label.
        RuntimeError: If the fit does not converge.

    Example:

    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> fit_classifier(x, np.array([[0], [0], [1], [1]]), c=1.0).probabilities([[1.5]]).round(3).tolist()
    [[0.5]]
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if y.all(0).any() or not y.any(0).all():
        raise ValueError("Expected every class to have records with it and without it. Leave the others out.")
    mean, deviation = x.mean(0), x.std(0)
    deviation = np.where(deviation > 1e-12 * np.maximum(1, np.abs(mean)), deviation, np.inf)
    standardised = (x - mean) / deviation
    _, axes = np.linalg.eigh(standardised.T @ standardised)
    scores = x @ (np.zeros((y.shape[1], x.shape[1])) if prior_weights is None else prior_weights).T
    slopes = prior_scale / np.where(scores.std(0) > 0, scores.std(0), 1)
    fitted = fit_logistic(standardised @ axes, y, c, offset=slopes * (scores - scores.mean(0)))
    weight = (axes @ fitted[:-1] / deviation[:, None]).T
    bias = fitted[-1] - weight @ mean
    if prior_weights is not None:
        weight, bias = weight + slopes[:, None] * prior_weights, bias - slopes * scores.mean(0)
    return LinearClassifier(weight, bias, c)


def to_model(
    encoder: MeritEcgModel, classifier: LinearClassifier, classes: Sequence[str], thresholds: Sequence[float]
) -> MeritForEcgClassification:
    """Return encoder and probe as one model that gives the probe's probabilities.

    `config.thresholds` holds one threshold per class, in the order of `config.id2label`.

    Args:
        encoder ([`MeritEcgModel`]): Whose pooled feature the probe was fitted on; its weights are copied.
        classifier ([`LinearClassifier`]): The probe.
        classes (sequence of `str`), thresholds (sequence of `float`): One per class.
    """
    config = type(encoder.config).from_dict(encoder.config.to_dict())
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: index for index, name in enumerate(classes)}
    config.problem_type = "multi_label_classification"
    config.thresholds = [float(threshold) for threshold in thresholds]
    model = MeritForEcgClassification._from_config(config, attn_implementation=encoder.config._attn_implementation)
    model.ecg_model.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(classifier.weight))
        model.classifier.bias.copy_(torch.from_numpy(classifier.bias))
    return model.eval()


__all__ = [
    "METRICS",
    "CrossValidation",
    "LinearClassifier",
    "check_classes",
    "cross_validate",
    "fit_classifier",
    "patient_folds",
    "to_model",
]
