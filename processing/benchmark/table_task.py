"""A data set of one's own as a task: labels of a table of ECG files, or of any data set with patients and labels."""

import argparse

import datasets
import numpy as np
from datasets.exceptions import DatasetsError

from ..data import SignalView
from ..data.sources import SourceOptions, load_source, options_of
from ..data.tables import is_table, label_matrix, read_rows
from .label_sets import SPLITS
from .results import data_fingerprint
from .subsets import patient_subset
from .tasks import PtbXlTask


def load_table_task(args: argparse.Namespace) -> tuple[dict[str, SignalView], PtbXlTask, str]:
    """Return the signals by split, the task and the signals' fingerprint of the data set that `--dataset` names.

    Classes are the label columns, or the names that the training split holds. `ecg_ids` number the rows of the splits,
    `patient_ids` the patients.

    Args:
        args (`argparse.Namespace`): With `dataset` and the options of `data.sources.options_of`, `label_fraction` and
            `seed`.

    Raises:
        SystemExit: If the data set cannot be read, lacks a split or labels, or has a patient in two splits: one line.
    """
    options = options_of(vars(args))
    try:
        tables = {split: load_source(args.dataset, split, options) for split in SPLITS}
        labels, classes = _labels(args.dataset, tables, options)
        views = {split: SignalView(table, report_column=None) for split, table in tables.items()}
    except (OSError, ValueError, DatasetsError) as error:
        text = str(error).splitlines() or [type(error).__name__]
        raise SystemExit(f"The data set {args.dataset} cannot be read: {text[0][:500]}") from error
    column = next((name for name in (options.columns.patient, "patient_id") if name in tables["train"].features), None)
    if column is None:
        raise SystemExit(f"Expected a column of patients in {args.dataset}: name it with --patient_column.")
    names = [np.array(tables[split][column][:], dtype=str) for split in SPLITS]
    numbers = np.split(np.unique(np.concatenate(names), return_inverse=True)[1], np.cumsum(list(map(len, names)))[:-1])
    patients = dict(zip(SPLITS, numbers))
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if np.isin(patients[one], patients[other]).any():
            raise SystemExit(f"Expected each patient in one split of {args.dataset}, got some in {one} and {other}.")
    rows = {split: np.arange(len(table)) for split, table in tables.items()}
    starts = dict(zip(SPLITS, np.cumsum([0, *map(len, names)])))
    ecg_ids = {split: rows[split] + starts[split] for split in SPLITS}
    if args.label_fraction < 1:
        chosen = patient_subset(patients["train"], labels["train"], args.label_fraction, args.seed)
        rows["train"] = np.flatnonzero(chosen)
        labels["train"], patients["train"] = labels["train"][rows["train"]], patients["train"][rows["train"]]
        ecg_ids["train"] = ecg_ids["train"][rows["train"]]
    fingerprint = data_fingerprint(view.signals(range(len(view))) for view in views.values())
    return views, PtbXlTask("labels", classes, rows, labels, patients, ecg_ids), fingerprint


def _labels(
    name: str, tables: dict[str, datasets.Dataset], options: SourceOptions
) -> tuple[dict[str, np.ndarray], list[str]]:
    wanted = list(options.columns.labels)
    # Numbers, in a data set of signals. That of a table of files (`EcgTable`, in the module `tables`) has columns of
    # its own, `labels` and `sex` among them, whatever the table calls its.
    of_signals = tables["train"].builder_name != "tables"
    if wanted and of_signals and set(wanted) <= set(tables["train"].column_names):
        matrices = {split: np.stack([table[name][:] for name in wanted], axis=1) for split, table in tables.items()}
        if any(not np.isin(matrix, (0, 1)).all() for matrix in matrices.values()):
            raise ValueError(f"Expected 0 or 1 in the columns {', '.join(wanted)}.")
        return {split: matrix.astype(np.int8) for split, matrix in matrices.items()}, wanted
    texts = {split: table["labels"][:] if "labels" in table.features else [] for split, table in tables.items()}
    classes = read_rows(name, options.columns)[1] if wanted and is_table(name) else []
    classes = classes or sorted({label for row in texts["train"] for label in row})
    if not classes:
        raise ValueError("Expected labels, got none. Name their columns with --label_columns.")
    return {split: label_matrix(rows, classes) for split, rows in texts.items()}, classes


__all__ = ["load_table_task"]
