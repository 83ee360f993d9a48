"""Label sets: from the codes of a record to a row of a label matrix, always by name.

Classes are in alphabetical order and found by name, never by position; a code counts whatever its likelihood, 0
included (the rule of PTB-XL's authors). The label files that the literature shares differ in two points, which
`tests/test_benchmark_label_sets.py` measures: three columns of PTB-XL SubClass are exchanged between the training file
and the other two, and CSN labels were made with a substring test ("AF" is found in "AFIB").
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

PTB_XL_TASKS = ("all", "diagnostic", "superclass", "subclass", "form", "rhythm")
TASKS = (*PTB_XL_TASKS, "cpsc2018", "csn", "challenge2021")
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


def load_statements() -> dict[str, Statement]:
    """Return the 71 SCP-ECG statements of PTB-XL 1.0.3 by code.

    Example:

    >>> statements = load_statements()
    >>> len(statements), statements["LAFB"].superclass, statements["LAFB"].subclass
    (71, 'CD', 'LAFB/LPFB')
    """
    return {code: Statement(**row) for code, row in package_data("ptb_xl_statements.json")["statements"].items()}


def code_to_class(task: str) -> dict[str, str]:
    """Return which codes make which class of a task positive; codes that are left out play no part in it.

    Example:

    >>> code_to_class("superclass")["IMI"], code_to_class("challenge2021")["63593006"], "SR" in code_to_class("form")
    ('MI', 'PAC', False)
    """
    if task == "cpsc2018":
        return {name: name for name in CPSC2018_LABELS}
    if task == "csn":
        return {name: name for name in package_data("label_sets.json")["csn"]}
    if task == "challenge2021":
        scored = package_data("label_sets.json")["challenge2021"]
        return {code: name for name, codes in scored.items() for code in codes}
    if task not in PTB_XL_TASKS:
        raise ValueError(f"Expected a task out of {', '.join(TASKS)}, got {task!r}.")
    statements = load_statements()
    if task == "all":
        return {code: code for code in statements}
    if task in ("superclass", "subclass"):
        return {code: getattr(row, task) for code, row in statements.items() if getattr(row, task)}
    return {code: code for code, row in statements.items() if getattr(row, task)}


def class_names(task: str) -> list[str]:
    """Return the classes of a task in the order of the columns of its label matrix.

    Args:
        task (`str`): One of `TASKS`.

    Raises:
        ValueError: If the task is unknown.

    Example:

    >>> class_names("superclass")
    ['CD', 'HYP', 'MI', 'NORM', 'STTC']
    """
    return sorted(set(code_to_class(task).values()))


def label_matrix(codes: Sequence[Collection[str]], task: str) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return the label matrix of a task.

    Args:
        codes (sequence): For each record its codes, as a list or as the keys of a dict (`scp_codes` of PTB-XL: the
            likelihoods are not looked at). SCP-ECG codes for PTB-XL; names of `CPSC2018_LABELS`; acronyms for `csn`;
            SNOMED CT identifiers for `challenge2021`.
        task (`str`): One of `TASKS`.

    Returns:
        `tuple`: The matrix (int8, records × classes), the names of its columns, and the mask (bool, records) of the
        records that belong to the task. A record belongs to a PTB-XL or CPSC2018 task when it has at least one of its
        classes; `csn` and `challenge2021` keep every record. Select with `matrix[kept]`.

    Raises:
        ValueError: If a code is unknown to PTB-XL or CPSC2018, or the task is unknown.

    Example:

    >>> matrix, names, kept = label_matrix([{"NORM": 100.0, "SR": 0.0}, {"AFIB": 0.0}], "superclass")
    >>> matrix.tolist(), names, kept.tolist()
    ([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], ['CD', 'HYP', 'MI', 'NORM', 'STTC'], [True, False])
    """
    if any(isinstance(row, str) for row in codes):
        raise ValueError("Expected each record's codes as a list or dict, got text. Parse or split it first.")
    mapping = code_to_class(task)
    if task not in KEEPS_EMPTY_ROWS:
        known = mapping if task == "cpsc2018" else code_to_class("all")
        unknown = sorted({str(code) for row in codes for code in row if code not in known})
        if unknown:
            raise ValueError(
                f"Expected codes of task {task!r}, got {', '.join(unknown[:10])}, which it does not know."
            )
    names = class_names(task)
    matrix = np.zeros((len(codes), len(names)), dtype=np.int8)
    kept = np.ones(len(codes), dtype=bool)
    column_of = {name: column for column, name in enumerate(names)}
    for row, record_codes in enumerate(codes):
        classes = {mapping[code] for code in record_codes if code in mapping}
        matrix[row, [column_of[name] for name in classes]] = 1
        kept[row] = bool(classes) or task in KEEPS_EMPTY_ROWS
    return matrix, names, kept
