"""Splits of the literature, read from their files, and patient-stratified low-data subsets."""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .label_sets import CPSC2018_LABELS, SPLITS

_SHARED = {  # task: folder and stem of the shared label files, columns before the labels, columns of id and recording
    "superclass": ("ptbxl/super_class/ptbxl_super_class", 6, "ecg_id", "filename_lr"),
    "subclass": ("ptbxl/sub_class/ptbxl_sub_class", 6, "ecg_id", "filename_lr"),
    "form": ("ptbxl/form/ptbxl_form", 6, "ecg_id", "filename_lr"),
    "rhythm": ("ptbxl/rhythm/ptbxl_rhythm", 6, "ecg_id", "filename_lr"),
    "cpsc2018": ("icbeb/icbeb", 7, "ecg_id", "filename"),
    "csn": ("chapman/chapman", 3, "ecg_path", "ecg_path"),
}


@dataclass(frozen=True)
class SharedSplit:
    """One label file of the literature: ids, names of the recordings, columns, cells, and the codes behind each row.

    The cells are int8, (rows, classes). The codes are what `label_matrix`
    takes: names for CPSC2018, acronyms of the column `diagnose` for CSN. PTB-XL files do not hold SCP-ECG codes, so
    `codes` is `None` there: use ptbxl_database.csv with the ids.
    """

    ids: list[int] | list[str]
    recordings: list[str]
    columns: list[str]
    matrix: np.ndarray
    codes: list[list[str]] | None


def read_shared_split(folder: str | Path, task: str, split: str) -> SharedSplit:
    """Return one of MERL's label files, plain or gzipped.

    Args:
        folder (`str` or `Path`): The folder `data_split`, which holds `ptbxl/`, `icbeb/` and `chapman/`.
        task (`str`): `"superclass"`, `"subclass"`, `"form"`, `"rhythm"`, `"cpsc2018"` or `"csn"`.
        split (`str`): `"train"`, `"validation"` or `"test"`.

    Raises:
        FileNotFoundError: If neither the file nor its gzipped form exists.
        ValueError: If the task or the split is unknown.
    """
    if task not in _SHARED or split not in SPLITS:
        raise ValueError(
            f"Expected a task out of {', '.join(_SHARED)} and a split out of {', '.join(SPLITS)}, got {task}, {split}."
        )
    stem, first, id_column, recording_column = _SHARED[task]
    path = Path(folder) / f"{stem}_{'val' if split == 'validation' else split}.csv"
    opener = open if path.exists() else gzip.open
    with opener(path if path.exists() else f"{path}.gz", "rt", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    matrix = np.array([row[first:] for row in rows], dtype=np.int8)
    ids = [row[header.index(id_column)] for row in rows]
    codes = None
    if task == "csn":
        codes = [row[header.index("diagnose")].split(",") for row in rows]
    elif task == "cpsc2018":
        columns = [(name, header.index(name)) for name in CPSC2018_LABELS]
        codes = [[name for name, column in columns if row[column] == "1"] for row in rows]
    recordings = [row[header.index(recording_column)] for row in rows]
    return SharedSplit(ids if task == "csn" else [int(i) for i in ids], recordings, header[first:], matrix, codes)


def patient_subset(patient_ids: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return a low-data subset of whole patients that keeps the frequencies of the classes.

    Classes are served from the rarest to the most frequent: patients who have one are taken in random order until the
    class has its fraction of positives, at least one; those passed over stay out. Patients are then added at random,
    or not, until the subset has its fraction of records. This is the multi-label stratification of Sechidis et al.
    (ECML 2011) for one part of a partition, in a fixed order of classes and with patients in the place of examples.

    Args:
        patient_ids (`np.ndarray` of shape `(records,)`): Who each record is of.
        labels (`np.ndarray` of shape `(records, classes)`): 0 or 1.
        fraction (`float`): Fraction of the records, in (0, 1].
        seed (`int`): Another seed draws another subset.

    Returns:
        `np.ndarray` of shape `(records,)`, bool: The records of the subset.

    Raises:
        ValueError: If shapes do not fit or the fraction is outside (0, 1].

    Example:

    >>> labels = np.tile([[1, 0], [1, 0], [1, 0], [0, 1]], (100, 1))
    >>> chosen = patient_subset(np.arange(400) // 2, labels, 0.1, seed=0)
    >>> int(chosen.sum()), labels[chosen].sum(0).tolist()
    (40, [30, 10])
    """
    patient_ids, labels = np.asarray(patient_ids), np.asarray(labels)
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected a fraction in (0, 1], got {fraction}.")
    if labels.ndim != 2 or patient_ids.shape != labels.shape[:1]:
        raise ValueError(
            f"Expected labels (records, classes) and one patient each, got {labels.shape}, {patient_ids.shape}."
        )
    patients, owner = np.unique(patient_ids, return_inverse=True)
    positives = np.zeros((len(patients), labels.shape[1]), dtype=np.int64)
    np.add.at(positives, owner, labels)
    records = np.bincount(owner)
    order = np.random.default_rng(seed).permutation(len(patients))
    positives, records = positives[order], records[order]
    wanted = np.maximum(np.round(fraction * positives.sum(0)), positives.any(0)).astype(int)
    undecided, chosen = np.ones(len(patients), dtype=bool), np.zeros(len(patients), dtype=bool)
    for column in np.argsort(positives.sum(0), kind="stable"):
        having = np.flatnonzero(undecided & (positives[:, column] > 0))
        need = wanted[column] - positives[chosen, column].sum()
        before = np.cumsum(positives[having, column]) - positives[having, column]
        chosen[having[before < need]] = True
        undecided[having] = False
    rest = np.flatnonzero(~chosen)
    need = round(fraction * len(owner)) - records[chosen].sum()
    chosen[rest[np.cumsum(records[rest]) <= need]] = True
    keep = np.zeros(len(patients), dtype=bool)
    keep[order] = chosen
    return keep[owner]
