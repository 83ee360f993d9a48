"""Label sets: from the codes of a record to a row of a label matrix, always by name.

Three variants of every task:

- `strict` (default): classes by name, in alphabetical order; a code counts whatever its likelihood, 0 included (the
  rule of PTB-XL's authors).
- `legacy`: the column names, the column order and the errors of the label files that the literature shares (MERL), so
  that published numbers can be reproduced. Two errors matter. The training file of PTB-XL SubClass has the columns
  AVB, RAO/RAE, ISC where the other two files have ISC, AVB, RAO/RAE, and programs read positions: a perfect classifier
  scores a macro AUROC of 0.934. CSN labels were made with a substring test ("AF" is found in "AFIB"): a perfect
  classifier scores 0.953.
- `robust`: `strict` without the classes that have fewer than ten positives in the test split.
"""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

PTB_XL_TASKS = ("all", "diagnostic", "superclass", "subclass", "form", "rhythm")
TASKS = (*PTB_XL_TASKS, "cpsc2018", "csn", "challenge2021")
VARIANTS = ("strict", "legacy", "robust")
SPLITS = ("train", "validation", "test")
CPSC2018_LABELS = ("NORM", "AFIB", "1AVB", "CLBBB", "CRBBB", "PAC", "VPC", "STD", "STE")
"""Names of the labels 1 to 9 in REFERENCE.csv of CPSC2018, as the shared label files spell them."""
KEEPS_EMPTY_ROWS = frozenset({"csn", "challenge2021"})
"""Tasks in which a record without any class is a negative of all of them; elsewhere it is not part of the task."""


@dataclass(frozen=True)
class Statement:
    """One row of PTB-XL's scp_statements.csv.

    Args:
        description (`str`): The statement in words.
        diagnostic (`bool`), form (`bool`), rhythm (`bool`): The kinds of statement it is.
        superclass (`str` or `None`), subclass (`str` or `None`): Its diagnostic classes; `None` unless diagnostic.
    """

    description: str
    diagnostic: bool
    form: bool
    rhythm: bool
    superclass: str | None
    subclass: str | None


@cache
def package_data(name: str) -> dict:
    """Return a JSON file that is shipped beside this module. Callers must not change what they get."""
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def load_statements(path: str | Path | None = None) -> dict[str, Statement]:
    """Return the 71 SCP-ECG statements of PTB-XL by code.

    Args:
        path (`str` or `Path`, *optional*): scp_statements.csv of a PTB-XL folder. Without it the copy shipped with
            this package is used (PTB-XL 1.0.3, CC BY 4.0).

    Raises:
        ValueError: If the file has no row or lacks a column.

    Example:

    >>> statements = load_statements()
    >>> len(statements), statements["LAFB"].superclass, statements["LAFB"].subclass
    (71, 'CD', 'LAFB/LPFB')
    """
    if path is None:
        return {code: Statement(**row) for code, row in package_data("ptb_xl_statements.json")["statements"].items()}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = ("", "description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
    missing = [name for name in wanted if not rows or name not in rows[0]]
    if missing:
        raise ValueError(
            f"Expected {path} to be PTB-XL's scp_statements.csv with the columns {wanted}, got none of "
            f"{missing}. Give the file of PTB-XL 1.0.3."
        )
    return {
        row[""]: Statement(
            description=row["description"],
            diagnostic=float(row["diagnostic"] or 0) == 1,
            form=float(row["form"] or 0) == 1,
            rhythm=float(row["rhythm"] or 0) == 1,
            superclass=row["diagnostic_class"] or None,
            subclass=row["diagnostic_subclass"] or None,
        )
        for row in rows
    }


def code_to_class(task: str, statements: Mapping[str, Statement] | None = None) -> dict[str, str]:
    """Return which codes make which class of a task positive; codes that are left out play no part in it.

    Example:

    >>> code_to_class("superclass")["IMI"], code_to_class("challenge2021")["63593006"], "SR" in code_to_class("form")
    ('MI', 'PAC', False)
    """
    if task == "cpsc2018":
        return {name: name for name in CPSC2018_LABELS}
    if task == "csn":
        return {name: name for name in package_data("label_sets.json")["shared_columns"]["csn"]}
    if task == "challenge2021":
        scored = package_data("label_sets.json")["challenge2021"]
        return {code: name for name, codes in scored.items() for code in codes}
    if task not in PTB_XL_TASKS:
        raise ValueError(f"Expected a task out of {', '.join(TASKS)}, got {task!r}.")
    statements = statements or load_statements()
    if task == "all":
        return {code: code for code in statements}
    if task in ("superclass", "subclass"):
        return {code: getattr(row, task) for code, row in statements.items() if getattr(row, task)}
    return {code: code for code, row in statements.items() if getattr(row, task)}


def class_names(
    task: str,
    variant: str = "strict",
    split: str | None = None,
    statements: Mapping[str, Statement] | None = None,
) -> list[str]:
    """Return the classes of a task in the order of the columns of its label matrix.

    Args:
        task (`str`): One of `TASKS`.
        variant (`str`): `"strict"`, `"legacy"` or `"robust"`.
        split (`str`, *optional*): `"train"`, `"validation"` or `"test"`; needed only where the shared files order
            their columns differently from split to split (legacy SubClass).
        statements (mapping, *optional*): What `load_statements` returned.

    Raises:
        ValueError: If the task, the variant or the split is unknown, or no shared label file exists for a legacy task.

    Example:

    >>> class_names("superclass"), class_names("superclass", "legacy")
    (['CD', 'HYP', 'MI', 'NORM', 'STTC'], ['HYP', 'NORM', 'MI', 'CD', 'STTC'])
    """
    names = sorted(set(code_to_class(task, statements).values()))
    data = package_data("label_sets.json")
    if variant == "strict":
        return names
    if variant == "robust":
        if task not in data["rare_test_classes"]:
            raise ValueError(
                f"Expected a task with a fixed test split for variant 'robust', got {task!r}; use 'strict'."
            )
        return [name for name in names if name not in data["rare_test_classes"][task]]
    if variant != "legacy":
        raise ValueError(f"Expected a variant out of {', '.join(VARIANTS)}, got {variant!r}.")
    columns = data["shared_columns"].get(task)
    if columns is None:
        raise ValueError(
            f"Expected a task with shared label files for variant 'legacy' ({', '.join(data['shared_columns'])}), got "
            f"{task!r}. Its labels have no legacy form: use 'strict'."
        )
    if isinstance(columns, list):
        return list(columns)
    if split not in columns:
        raise ValueError(
            f"Expected a split out of {', '.join(SPLITS)}, got {split!r}: columns of legacy {task} differ by split."
        )
    return list(columns[split])


def label_matrix(
    codes: Sequence[Collection[str]],
    task: str,
    scp_statements: str | Path | Mapping[str, Statement] | None = None,
    variant: str = "strict",
    split: str | None = None,
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return the label matrix of a task.

    Args:
        codes (sequence): For each record its codes, as a list or as the keys of a dict (`scp_codes` of PTB-XL: the
            likelihoods are not looked at). SCP-ECG codes for PTB-XL; names of `CPSC2018_LABELS`; acronyms for `csn`;
            SNOMED CT identifiers for `challenge2021`.
        task (`str`): One of `TASKS`.
        scp_statements (path or mapping, *optional*): scp_statements.csv or what `load_statements` returned; the
            packaged copy when left out.
        variant (`str`): `"strict"`, `"legacy"` or `"robust"`.
        split (`str`, *optional*): See `class_names`.

    Returns:
        `tuple`: The matrix (int8, records × classes), the names of its columns, and the mask (bool, records) of the
        records that belong to the task. A record belongs to a PTB-XL or CPSC2018 task when it has at least one of its
        classes (before `robust` leaves some out, so that both variants test on the same records); `csn` and
        `challenge2021` keep every record. Select with `matrix[kept]`.

    Raises:
        ValueError: If a code is unknown to PTB-XL or CPSC2018, or the task, variant or split is unknown.

    Example:

    >>> matrix, names, kept = label_matrix([{"NORM": 100.0, "SR": 0.0}, {"AFIB": 0.0}], "superclass")
    >>> matrix.tolist(), names, kept.tolist()
    ([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], ['CD', 'HYP', 'MI', 'NORM', 'STTC'], [True, False])
    """
    if isinstance(scp_statements, (str, Path)):
        scp_statements = load_statements(scp_statements)
    if any(isinstance(row, str) for row in codes):
        raise ValueError("Expected each record's codes as a list or dict, got text. Parse or split it first.")
    mapping = code_to_class(task, scp_statements)
    if task not in KEEPS_EMPTY_ROWS:
        known = mapping if task == "cpsc2018" else code_to_class("all", scp_statements)
        unknown = sorted({str(code) for row in codes for code in row if code not in known})
        if unknown:
            raise ValueError(
                f"Expected codes of task {task!r}, got {', '.join(unknown[:10])}, which it does not know."
            )
    names = class_names(task, variant, split, scp_statements)
    matrix = np.zeros((len(codes), len(names)), dtype=np.int8)
    kept = np.ones(len(codes), dtype=bool)
    if variant == "legacy" and task == "csn":
        texts = [",".join(row) for row in codes]
        for column, name in enumerate(names):
            matrix[:, column] = [name in text for text in texts]  # the substring test is the point: it is theirs
        return matrix, names, kept
    if variant == "legacy":
        mapping = {code: name.replace("_", "") for code, name in mapping.items()}
    column_of = {name: column for column, name in enumerate(names)}
    for row, record_codes in enumerate(codes):
        classes = {mapping[code] for code in record_codes if code in mapping}
        matrix[row, [column_of[name] for name in classes if name in column_of]] = 1
        kept[row] = bool(classes) or task in KEEPS_EMPTY_ROWS
    return matrix, names, kept


def fold_split(strat_folds: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the split of PTB-XL's folds: 1–8 train, 9 validation, 10 test.

    Example:

    >>> fold_split([8, 9, 10]).tolist()
    ['train', 'validation', 'test']
    """
    folds = np.asarray(strat_folds)
    if not np.isin(folds, np.arange(1, 11)).all():
        raise ValueError(f"Expected folds 1 to 10 (column strat_fold), got {sorted(set(folds.tolist()))}.")
    return np.where(folds == 10, "test", np.where(folds == 9, "validation", "train"))
