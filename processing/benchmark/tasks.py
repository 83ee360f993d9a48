"""One task of PTB-XL from labels to results: which records it has, and how probabilities become rows and files.

Every script that reports on PTB-XL goes through here, so that all runs are scored on the same records in the same way:
thresholds from fold 9, fold 10 scored once, intervals over patients.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ..data import PtbXl, PtbXlError
from ..metrics.bootstrap import Interval, bootstrap_interval
from ..metrics.classification import classification_report
from ..metrics.thresholds import tune_thresholds
from .label_sets import SPLITS, label_matrix
from .results import update_rows, without_nan, write_json
from .subsets import patient_subset

TASK_NAMES = ("all", "superclass", "subclass", "form", "rhythm")
METRICS = ("macro_auroc", "macro_auprc", "macro_f1_tuned", "macro_f1_at_0.5")
STEM = re.compile(r"(?P<run>.+)-(?P<task>[^-]+)-(?P<label_fraction>[\d.]+)-s(?P<seed>\d+)")
ROW_KEY = ("run", "task", "label_fraction", "seed", "metric")


@dataclass(frozen=True)
class PtbXlTask:
    """A task's records and labels, each as one array per split of `SPLITS`.

    Args:
        name (`str`): Such as `"superclass"`.
        classes (`list[str]`): Names of the columns of `labels`.
        rows (`dict` of `np.ndarray` of shape `(records,)`): Rows of the split's table that belong to the task.
        labels (`dict` of `np.ndarray` of shape `(records, classes)`): int8, 0 or 1.
        patient_ids, ecg_ids (`dict` of `np.ndarray` of shape `(records,)`): Whose the records are, and which.
    """

    name: str
    classes: list[str]
    rows: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    patient_ids: dict[str, np.ndarray]
    ecg_ids: dict[str, np.ndarray]


@dataclass(frozen=True)
class Predictions:
    """What a prediction file holds of one run on the test split of one task.

    Args:
        ecg_ids, patient_ids (`np.ndarray` of shape `(records,)`).
        labels, probabilities (`np.ndarray` of shape `(records, classes)`).
        thresholds (`np.ndarray` of shape `(classes,)`): From the validation split.
        classes (`list[str]`): Names of the columns.
        run (`str`), task (`str`), label_fraction (`float`), seed (`int`): As in the rows of results.
    """

    ecg_ids: np.ndarray
    patient_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    thresholds: np.ndarray
    classes: list[str]
    run: str
    task: str
    label_fraction: float
    seed: int


def load_ptb_xl(data_dir: str | Path) -> dict[str, datasets.Dataset]:
    """Return the tables of the three splits at 100 Hz, built once per folder.

    Raises:
        SystemExit: If the folder is not that of PTB-XL, or damaged: one line for the scripts that call this.
        ValueError: If a split has no record.
    """
    builder = PtbXl(config_name="100hz", data_dir=data_dir)
    try:
        builder.download_and_prepare()
    except PtbXlError as error:
        raise SystemExit(str(error)) from error
    tables = builder.as_dataset()
    if missing := [name for name in SPLITS if name not in tables]:
        raise ValueError(
            f"Expected records in folds 1-8, 9 and 10 of {data_dir}, got none for {', '.join(missing)}. Use all folds."
        )
    return {name: tables[name] for name in SPLITS}


def load_task(
    tables: Mapping[str, datasets.Dataset], name: str, label_fraction: float = 1.0, seed: int = 0
) -> PtbXlTask:
    """Return one task's labels out of the tables, those of a fraction of the training patients if wanted.

    Args:
        tables (mapping of `str` to `datasets.Dataset`): One per split, with the columns of [`PtbXl`].
        name (`str`): A PTB-XL task of `label_sets`.
        label_fraction (`float`): Fraction of the training records with labels, drawn by patient (`patient_subset`).
        seed (`int`): Of that draw.

    Raises:
        ValueError: If the task is unknown, or one of its splits has no record.

    Example:

    >>> columns = {"ecg_id": [1, 2], "patient_id": [7, 8], "scp_codes": [{"code": ["IMI"]}, {"code": ["SR"]}]}
    >>> task = load_task(dict.fromkeys(SPLITS, datasets.Dataset.from_dict(columns)), "superclass")
    >>> task.rows["test"].tolist(), task.labels["test"].tolist()
    ([0], [[0, 0, 1, 0, 0]])
    """
    rows, labels, patient_ids, ecg_ids = {}, {}, {}, {}
    for split in SPLITS:
        table = tables[split]
        matrix, classes, kept = label_matrix([row["code"] for row in table["scp_codes"]], name)
        if not kept.any():
            raise ValueError(f"Expected records with a class of task {name!r} in the {split} split, got none.")
        rows[split] = np.flatnonzero(kept)
        if split == "train" and label_fraction < 1:
            patients = np.array(table["patient_id"])[rows[split]]
            rows[split] = rows[split][patient_subset(patients, matrix[rows[split]], label_fraction, seed)]
        labels[split] = matrix[rows[split]]
        patient_ids[split], ecg_ids[split] = (np.array(table[key])[rows[split]] for key in ("patient_id", "ecg_id"))
    return PtbXlTask(name, classes, rows, labels, patient_ids, ecg_ids)


def record_scores(
    task: PtbXlTask,
    val_probabilities: np.ndarray,
    test_probabilities: np.ndarray,
    *,
    run: str,
    origin: Mapping[str, Any],
    output: str | Path,
    predictions: str | Path,
    task_name: str | None = None,
    label_fraction: float = 1.0,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
    n_resamples: int = 1000,
    **fields: Any,
) -> dict[str, Interval]:
    """Tune thresholds on fold 9, score fold 10, leave rows, a full report and the predictions on disk.

    Args:
        task (`PtbXlTask`): Whose validation and test labels count.
        val_probabilities, test_probabilities (`np.ndarray` of shape `(records, classes)`): In [0, 1].
        run (`str`): Name of the model in the results.
        origin (mapping): What `provenance` returned.
        output (`str` or `Path`): JSON list of rows; rows with the same `ROW_KEY` are replaced.
        predictions (`str` or `Path`): Folder for `<run>-<task>-<fraction>-s<seed>.safetensors` and, beside it, a
            `.json` with provenance, intervals, every metric and a table per class.
        task_name (`str`, *optional*): Name of the task in the rows when it is not `task.name`.
        label_fraction (`float`), seed (`int`), fields: Entered in the rows as they are.
        metrics (sequence of `str`): Metrics with an interval.
        n_resamples (`int`): Of the bootstrap.

    Returns:
        `dict[str, Interval]`: By metric.

    Raises:
        ValueError: If probabilities and labels do not fit together.
    """
    name = task_name or task.name
    # What is scored is what is stored: single precision moves a probability across its threshold otherwise.
    val, test = (np.asarray(p, dtype=np.float32) for p in (val_probabilities, test_probabilities))
    thresholds = tune_thresholds(val, task.labels["validation"]).astype(np.float32)
    labels, patients = task.labels["test"], task.patient_ids["test"]
    intervals = {
        metric: bootstrap_interval(metric, labels, test, patients, thresholds, n_resamples) for metric in metrics
    }
    about = {"run": run, "task": name, "label_fraction": label_fraction, "seed": seed}
    common = {"n": len(labels), "command": origin["command"], "commit": origin["commit"], **fields}
    rows = [
        about | {"metric": metric, "value": i.value, "ci_low": i.low, "ci_high": i.high} | common
        for metric, i in intervals.items()
        if not np.isnan(i.value)  # of few records no class may have both labels
    ]
    stem = Path(predictions) / f"{run}-{name}-{label_fraction:g}-s{seed}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"ecg_id": task.ecg_ids["test"], "patient_id": patients, "labels": labels}
    metadata = {key: str(value) for key, value in about.items()} | {"classes": json.dumps(task.classes)}
    save_file(arrays | {"probabilities": test, "thresholds": thresholds}, f"{stem}.safetensors", metadata=metadata)
    report = classification_report(labels, test, task.classes, thresholds)
    details = {"intervals": {metric: asdict(interval) for metric, interval in intervals.items()}, "report": report}
    write_json(f"{stem}.json", without_nan({**origin, **about, **fields, **details}))
    update_rows(output, rows, ROW_KEY)
    return intervals


def read_predictions(path: str | Path) -> Predictions:
    """Return what `record_scores` stored, or an older file that tells run and task by its name alone.

    Raises:
        ValueError: If the file is not a prediction file, or neither it nor its name says of which run.
    """
    arrays = load_file(path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    names = ("ecg_id", "patient_id", "labels", "probabilities", "thresholds")
    if missing := [name for name in (*names, "classes") if name not in arrays and name not in metadata]:
        raise ValueError(
            f"Expected {path} to be a prediction file of an evaluation script, got one without {', '.join(missing)}."
        )
    named = STEM.fullmatch(Path(path).stem)
    about = (named.groupdict() if named else {}) | metadata
    if missing := [name for name in ("run", "task", "label_fraction", "seed") if name not in about]:
        raise ValueError(
            f"Expected {path} to be called <run>-<task>-<label fraction>-s<seed>.safetensors, for it does not hold "
            f"{', '.join(missing)}. Rename it."
        )
    return Predictions(
        ecg_ids=arrays["ecg_id"],
        patient_ids=arrays["patient_id"],
        labels=arrays["labels"],
        probabilities=arrays["probabilities"],
        thresholds=arrays["thresholds"],
        classes=json.loads(metadata["classes"]),
        run=about["run"],
        task=about["task"],
        label_fraction=float(about["label_fraction"]),
        seed=int(about["seed"]),
    )


def describe(intervals: Mapping[str, Interval]) -> str:
    """Return one line of metrics with their intervals.

    Example:

    >>> describe({"macro_auroc": Interval(0.9251, 0.9182, 0.9314, 0.95, 1000, {})})
    'macro_auroc 0.925 [0.918, 0.931]'
    """
    return "  ".join(f"{name} {i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for name, i in intervals.items())


__all__ = [
    "METRICS",
    "ROW_KEY",
    "TASK_NAMES",
    "Predictions",
    "PtbXlTask",
    "describe",
    "load_ptb_xl",
    "load_task",
    "read_predictions",
    "record_scores",
]
