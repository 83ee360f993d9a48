"""Label sets: counts, equality with the statements file and, cell by cell, with the label files of the literature."""

import ast
import csv
from pathlib import Path

import numpy as np
import pytest

from modeling_merit.processing.benchmark.label_sets import (
    CPSC2018_LABELS,
    PTB_XL_TASKS,
    SPLITS,
    class_names,
    label_matrix,
    load_statements,
)
from modeling_merit.processing.benchmark.subsets import patient_subset, read_shared_split
from modeling_merit.processing.metrics.classification import auroc, metric_value

CLASSES = {"all": 71, "diagnostic": 44, "superclass": 5, "subclass": 23, "form": 19, "rhythm": 12}
CLASSES |= {"cpsc2018": 9, "csn": 38, "challenge2021": 26}
ROWS = {
    "all": (17418, 2183, 2198),
    "diagnostic": (17084, 2146, 2158),
    "superclass": (17084, 2146, 2158),
    "subclass": (17084, 2146, 2158),
    "form": (7197, 901, 880),
    "rhythm": (16832, 2100, 2098),
    "cpsc2018": (4950, 551, 1376),
    "csn": (16546, 1860, 4620),
}


@pytest.fixture(scope="module")
def database(ptb_xl_dir: Path) -> dict[str, np.ndarray]:
    with open(ptb_xl_dir / "ptbxl_database.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    codes = np.empty(len(rows), dtype=object)
    codes[:] = [ast.literal_eval(row["scp_codes"]) for row in rows]
    folds = np.array([int(row["strat_fold"]) for row in rows])
    return {
        "ecg_id": np.array([int(row["ecg_id"]) for row in rows]),
        "patient_id": np.array([int(float(row["patient_id"])) for row in rows]),
        "codes": codes,
        "split": np.select([folds < 9, folds == 9], ["train", "validation"], "test"),
    }


@pytest.fixture(scope="module")
def protocol_dir(data_dir: Path) -> Path:
    folder = data_dir.parent / "protocol"
    if not (folder / "merl").is_dir():
        pytest.skip(f"no label files of the literature in {folder}")
    return folder


@pytest.fixture(scope="module")
def shared_dir(protocol_dir: Path) -> Path:
    return protocol_dir / "merl" / "finetune" / "data_split"


@pytest.mark.parametrize("task", CLASSES)
def test_number_of_classes(task):
    names = class_names(task)
    assert len(names) == CLASSES[task] and names == sorted(set(names))


def test_statement_kinds_overlap_as_published():
    statements = load_statements()
    both = {code for code, row in statements.items() if row.diagnostic and row.form}
    assert both == {"NDT", "NST_", "DIG", "LNGQT"}
    assert all((row.superclass is not None) == row.diagnostic for row in statements.values())


@pytest.mark.parametrize("order", [1, -1])
def test_matrix_depends_on_names_not_on_order(order):
    codes = [{"SR": 0.0, "AFLT": 0.0}, ["WPW", "ISC_"][::order], {"LVOLT": 100.0}]
    matrix, names, kept = label_matrix(codes, "subclass")
    assert [names[column] for column in np.flatnonzero(matrix[1])] == ["ISC_", "WPW"]
    assert kept.tolist() == [False, True, False] and matrix.dtype == np.int8 and matrix.sum() == 2


def test_unknown_codes_and_text_are_refused():
    with pytest.raises(ValueError, match="XYZ"):
        label_matrix([{"NORM": 100.0, "XYZ": 0.0}], "rhythm")
    with pytest.raises(ValueError, match="got text"):
        label_matrix(["{'NORM': 100.0}"], "all")
    with pytest.raises(ValueError, match="task out of all"):
        class_names("super")


def test_csn_acronyms_are_whole_words():
    matrix, names, kept = label_matrix([["AFIB"], ["1AVB", "SB"], ["SB"]], "csn")
    assert [[names[c] for c in np.flatnonzero(row)] for row in matrix] == [["AFIB"], ["1AVB"], []]
    assert kept.all()


def test_challenge_joins_the_pairs_scored_as_one():
    codes = [["284470004"], ["63593006"], ["713427006", "59118001"], ["10370003", "164861001"]]
    matrix, names, kept = label_matrix(codes, "challenge2021")
    assert [[names[c] for c in np.flatnonzero(row)] for row in matrix] == [["PAC"], ["PAC"], ["CRBBB"], ["PR"]]
    assert kept.all()


@pytest.mark.real_data
def test_packaged_statements_equal_the_file(ptb_xl_dir):
    with open(ptb_xl_dir / "scp_statements.csv", encoding="utf-8", newline="") as file:
        rows = {row[""]: row for row in csv.DictReader(file)}
    assert list(rows) == list(load_statements())
    for code, statement in load_statements().items():
        row = rows[code]
        assert statement.description == row["description"]
        assert [float(row[kind] or 0) == 1 for kind in ("diagnostic", "form", "rhythm")] == [
            statement.diagnostic,
            statement.form,
            statement.rhythm,
        ]
        expected = (row["diagnostic_class"] or None, row["diagnostic_subclass"] or None)
        assert (statement.superclass, statement.subclass) == expected


@pytest.mark.real_data
@pytest.mark.parametrize("task", PTB_XL_TASKS)
def test_ptb_xl_counts(task, database):
    matrix, _, kept = label_matrix(database["codes"], task)
    assert tuple(int((kept & (database["split"] == split)).sum()) for split in SPLITS) == ROWS[task]
    assert matrix[kept].any(1).all() and not matrix[~kept].any()


@pytest.mark.real_data
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", ["superclass", "subclass", "form", "rhythm"])
def test_ptb_xl_equals_the_shared_files_but_for_their_order_of_columns(task, split, database, shared_dir):
    shared = read_shared_split(shared_dir, task, split)
    inside = database["split"] == split
    matrix, names, kept = label_matrix(database["codes"][inside], task)
    assert database["ecg_id"][inside][kept].tolist() == shared.ids
    assert len(shared.ids) == ROWS[task][SPLITS.index(split)]
    columns = [shared.columns.index(name.replace("_", "")) for name in names]
    assert (matrix[kept] != shared.matrix[:, columns]).sum() == 0 and len(columns) == len(shared.columns)


@pytest.mark.real_data
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", ["cpsc2018", "csn"])
def test_other_data_sets_equal_the_shared_files(task, split, shared_dir):
    """In CSN, theirs are what a search for the acronym in the text of all acronyms finds."""
    shared = read_shared_split(shared_dir, task, split)
    matrix, names, kept = label_matrix(shared.codes, task)
    assert kept.sum() == ROWS[task][SPLITS.index(split)] and names == sorted(shared.columns)
    if task == "csn":
        matrix = np.array([[name in ",".join(row) for name in names] for row in shared.codes])
    assert (matrix != shared.matrix[:, [shared.columns.index(name) for name in names]]).sum() == 0


@pytest.mark.real_data
def test_cpsc2018_equals_its_reference_file(data_dir, shared_dir):
    with open(data_dir / "external/cpsc2018_original/REFERENCE_all6877.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("First_label", "Second_label", "Third_label")
    codes = {r["Recording"]: [CPSC2018_LABELS[int(float(r[c])) - 1] for c in columns if r[c]] for r in rows}
    splits = [read_shared_split(shared_dir, "cpsc2018", split) for split in SPLITS]
    recordings = [name for split in splits for name in split.recordings]
    assert len(recordings) == len(codes) == 6877
    matrix, _, kept = label_matrix([codes[name] for name in recordings], "cpsc2018")
    assert kept.all()
    assert (matrix == np.concatenate([label_matrix(split.codes, "cpsc2018")[0] for split in splits])).all()


def _oracle(train_names: list[str], test_names: list[str], truth: np.ndarray, truth_names: list[str]) -> np.ndarray:
    """Scores of a perfect classifier whose outputs, trained on the training columns, are read by position."""
    assert len(train_names) == len(test_names)
    return truth[:, [truth_names.index(name) for name in train_names]].astype(float)


@pytest.mark.real_data
def test_a_perfect_classifier_fails_on_the_shared_subclass_files(database, shared_dir):
    train, test = (read_shared_split(shared_dir, "subclass", split) for split in ("train", "test"))
    scores = _oracle(train.columns, test.columns, test.matrix, test.columns)
    assert metric_value("macro_auroc", test.matrix, scores) == pytest.approx(0.9337, abs=5e-5)
    by_name = dict(zip(test.columns, auroc(test.matrix, scores)))
    low = {name: round(float(value), 3) for name, value in by_name.items() if value < 1}
    assert low == {"ISC": 0.501, "AVB": 0.504, "RAO/RAE": 0.47}
    matrix, _, kept = label_matrix(database["codes"][database["split"] == "test"], "subclass")
    assert metric_value("macro_auroc", matrix[kept], matrix[kept].astype(float)) == 1


@pytest.mark.real_data
def test_a_perfect_classifier_fails_on_the_shared_csn_files(shared_dir):
    test = read_shared_split(shared_dir, "csn", "test")
    strict, names, _ = label_matrix(test.codes, "csn")
    scores = _oracle(test.columns, test.columns, strict, names)
    assert metric_value("macro_auroc", test.matrix, scores) == pytest.approx(0.9534, abs=5e-5)
    assert metric_value("macro_auroc", strict, strict.astype(float)) == 1
    assert [name for name, count in zip(names, strict.sum(0)) if count == 0] == ["VB"]
    assert (test.matrix != scores).any(1).sum() == 772 and int((~strict.any(1)).sum()) == 19


@pytest.mark.real_data
@pytest.mark.parametrize("fraction", [0.01, 0.1])
def test_patient_subsets_of_ptb_xl(fraction, database):
    train = database["split"] == "train"
    matrix, _, _ = label_matrix(database["codes"][train], "all")
    patients = database["patient_id"][train]
    drawn = [patient_subset(patients, matrix, fraction, seed) for seed in range(3)]
    for chosen in drawn:
        assert abs(chosen.sum() / (fraction * train.sum()) - 1) < 0.15
        assert not set(patients[chosen]) & set(patients[~chosen])
        assert (matrix[chosen].sum(0) >= 1).all()
        assert np.abs(matrix[chosen].mean(0) - matrix.mean(0)).max() < 0.06
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], patient_subset(patients, matrix, fraction, 0))


def test_patient_subset_of_everything_is_everything():
    labels = np.eye(4, dtype=int)[np.arange(40) % 4]
    assert patient_subset(np.arange(40) // 4, labels, 1.0, seed=3).all()
