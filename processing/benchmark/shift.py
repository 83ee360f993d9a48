"""Distribution shift: repeatable corruptions of five severities, and maps between data sets' classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import signal as sps

from .label_sets import package_data

LEAD_REVERSALS = {  # electrode exchanges as permutations of the rows (I, II, III, aVR, aVL, aVF, V1–V6), with signs
    "V1-V2": ((0, 1, 2, 3, 4, 5, 7, 6, 8, 9, 10, 11), {}),
    "V1-V3": ((0, 1, 2, 3, 4, 5, 8, 7, 6, 9, 10, 11), {}),
    "left arm-left leg": ((1, 0, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11), {2: -1}),
    "right arm-left arm": ((0, 2, 1, 4, 3, 5, 6, 7, 8, 9, 10, 11), {0: -1}),
    "right arm-left arm, V1-V6": ((0, 2, 1, 4, 3, 5, 11, 10, 9, 8, 7, 6), {0: -1}),
}
SEVERITIES: dict[str, tuple] = {
    "noise": (0.01, 0.025, 0.05, 0.1, 0.2),  # mV, standard deviation of white noise
    "baseline_wander": (0.05, 0.1, 0.25, 0.5, 1.0),  # mV, amplitude of 0.15–0.4 Hz wander
    "lead_drop": (1, 2, 4, 6, 9),  # leads set to zero
    "lead_reversal": tuple(LEAD_REVERSALS),
    "resampling": (80.0, 60.0, 45.0, 30.0, 20.0),  # Hz, rate to which the record is brought before it is brought back
    "gain": (0.9, 1.25, 0.7, 2.0, 0.5),  # factor; a wrong calibration is 2 or 0.5
}
"""For each corruption what its severities 1 to 5 mean."""


def corrupt(
    signals: np.ndarray,
    kind: str,
    severity: int,
    sampling_rate: float,
    record_ids: Sequence[int] | np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Return corrupted ECGs, the same each time: the random draw depends on seed, kind, severity and record only.

    Args:
        signals (`np.ndarray` of shape `(records, 12, samples)`): In mV, rows in the order of `STANDARD_LEADS`.
        kind (`str`): A key of `SEVERITIES`.
        severity (`int`): 0 (unchanged) to 5.
        sampling_rate (`float`): In Hz.
        record_ids (sequence of `int`): One per record, so that a batch's make-up does not matter.
        seed (`int`): Another seed gives another draw.

    Returns:
        `np.ndarray` of the shape and dtype of `signals`. Dropped leads are zero, as a recorder writes a loose
        electrode; to test absent leads, leave them out of the feature extractor's `leads` instead.

    Raises:
        ValueError: If the kind, the severity or a shape is not as expected.

    Example:

    >>> ecg = np.ones((1, 12, 500), dtype=np.float32)
    >>> corrupt(ecg, "gain", 4, 100, [7])[0, 0, :2].tolist()
    [2.0, 2.0]
    >>> int((corrupt(ecg, "lead_drop", 3, 100, [7]) == 0).all(-1).sum())
    4
    """
    signals = np.asarray(signals)
    if kind not in SEVERITIES or severity not in range(6):
        raise ValueError(
            f"Expected a kind out of {', '.join(SEVERITIES)} and a severity 0 to 5, got {kind!r}, {severity!r}."
        )
    if signals.ndim != 3 or signals.shape[1] != 12 or len(record_ids) != len(signals):
        raise ValueError(
            f"Expected signals (records, 12, samples) and one id each, got {signals.shape}, {len(record_ids)} ids."
        )
    if severity == 0:
        return signals.copy()
    level = SEVERITIES[kind][severity - 1]
    key = [seed, list(SEVERITIES).index(kind), severity]
    rngs = [np.random.default_rng([*key, int(record)]) for record in record_ids]
    return np.stack([_corrupt(one, kind, level, sampling_rate, rng) for one, rng in zip(signals, rngs)]).astype(
        signals.dtype
    )


def _corrupt(signal: np.ndarray, kind: str, level: Any, rate: float, rng: np.random.Generator) -> np.ndarray:
    samples = signal.shape[1]
    if kind == "noise":
        return signal + rng.normal(scale=level, size=signal.shape)
    if kind == "baseline_wander":
        phases, weights = rng.uniform(0, 2 * np.pi, (12, 3, 1)), rng.dirichlet(np.ones(3), 12)[:, :, None]
        frequencies = rng.uniform(0.15, 0.4, (1, 3, 1))
        return signal + level * (weights * np.sin(2 * np.pi * frequencies * np.arange(samples) / rate + phases)).sum(1)
    if kind == "lead_drop":
        dropped = signal.copy()
        dropped[rng.permutation(12)[:level]] = 0
        return dropped
    if kind == "lead_reversal":
        order, signs = LEAD_REVERSALS[level]
        return signal[list(order)] * np.array([signs.get(row, 1) for row in range(12)])[:, None]
    if kind == "resampling":
        if level >= rate:
            return signal
        fewer = max(2, round(samples * level / rate))
        return sps.resample(sps.resample(signal, fewer, axis=1), samples, axis=1)
    return signal * level


def to_concepts(matrix: np.ndarray, names: Sequence[str], data_set: str, other: str) -> tuple[np.ndarray, list[str]]:
    """Return labels or probabilities re-expressed in the concepts that two data sets share.

    Call it for the probabilities with the data set of the training and for the labels with that of the test. Several
    classes that mean one concept are joined by their maximum.

    Args:
        matrix (`np.ndarray` of shape `(rows, classes)`): Labels or probabilities.
        names (sequence of `str`): Its columns, classes of `data_set`.
        data_set (`str`), other (`str`): `"ptb_xl"` (the 71 statements), `"cpsc2018"`, `"csn"` or `"challenge2021"`.

    Returns:
        `tuple`: The matrix (rows, concepts) and the names of the concepts, the same for both data sets if all classes
        are among `names`.

    Raises:
        ValueError: If a data set is unknown, or there is not one name per column.

    Example:

    >>> to_concepts(np.array([[0.2, 0.7, 0.1]]), ["PAC", "PVC", "LMI"], "ptb_xl", "cpsc2018")
    (array([[0.2, 0.7]]), ['atrial premature complex', 'ventricular premature complex'])
    """
    matrix = np.asarray(matrix)
    if matrix.shape[1:] != (len(names),):
        raise ValueError(f"Expected one name per column, got {len(names)} for shape {matrix.shape}.")
    columns = {
        concept: [column for column, name in enumerate(names) if name in row[data_set]]
        for concept, row in sorted(_shared_concepts(data_set, other).items())
    }
    columns = {concept: part for concept, part in columns.items() if part}
    joined = np.zeros((len(matrix), len(columns)), dtype=matrix.dtype)
    for place, part in enumerate(columns.values()):
        joined[:, place] = matrix[:, part].max(1)
    return joined, list(columns)


def _shared_concepts(first: str, second: str) -> dict[str, dict[str, list[str]]]:
    concepts = package_data("class_maps.json")["concepts"]
    known = sorted({name for row in concepts.values() for name in row})
    if first not in known or second not in known:
        raise ValueError(f"Expected two data sets out of {', '.join(known)}, got {first!r} and {second!r}.")
    return {concept: row for concept, row in concepts.items() if first in row and second in row}
