"""What the evaluation scripts do before and after their model: load the signals of PTB-XL, record the scores."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..data import SignalView
from .label_sets import SPLITS
from .results import data_fingerprint
from .tasks import PtbXlTask, describe, load_ptb_xl, record_scores


def load_signals(
    data_dir: str | Path, splits: Sequence[str] = SPLITS
) -> tuple[dict[str, SignalView], dict[str, datasets.Dataset], str]:
    """Return the signals of PTB-XL by split, the tables of all splits without them, and the signals' fingerprint.

    Args:
        data_dir (`str` or `Path`): Folder of PTB-XL.
        splits (sequence of `str`): Splits whose signals are wanted.

    Raises:
        ValueError: If a split has no record.
    """
    tables = load_ptb_xl(data_dir)
    views = {split: SignalView(tables[split]) for split in splits}
    fingerprint = data_fingerprint(view.signals(range(len(view))) for view in views.values())
    return views, {split: table.remove_columns("signal") for split, table in tables.items()}, fingerprint


def record_run(
    args: argparse.Namespace,
    origin: Mapping[str, Any],
    task: PtbXlTask,
    probabilities: Mapping[str, np.ndarray],
    note: str = "",
    **fields: Any,
) -> None:
    """Record the scores of one task under the names that the command line gives, and print them.

    Args:
        args (`argparse.Namespace`): With `run`, `seed`, `output`, `predictions` and, where there is one,
            `label_fraction`.
        origin (mapping): What `provenance` returned.
        task (`PtbXlTask`): The task.
        probabilities (mapping of `str` to `np.ndarray` of shape `(records, classes)`): Of "validation" and "test".
        note (`str`): Printed behind the task's name.
        fields: Passed on to `record_scores`.
    """
    intervals = record_scores(
        task,
        probabilities["validation"],
        probabilities["test"],
        run=args.run,
        origin=origin,
        output=args.output,
        predictions=args.predictions,
        label_fraction=getattr(args, "label_fraction", 1.0),
        seed=args.seed,
        **fields,
    )
    print(f"{args.run} {fields.get('task_name', task.name)}{note}: {describe(intervals)}", flush=True)


__all__ = ["load_signals", "record_run"]
