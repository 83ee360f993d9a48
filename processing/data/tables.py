"""Data of one's own: a table of ECG files with labels or reports, as a `datasets` table.

The table is a CSV, TSV, Parquet or JSON Lines file, or a folder with `metadata.csv` (`.parquet`, `.jsonl`) in it or in
folders `train`, `validation` and `test`, as `imagefolder` of `datasets` has it. The files are in any format that
`read_ecg` reads; relative paths start at the folder of the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..readers import read_ecg
from ..record import EcgRecord
from .ecg_builder import SPLITS, EcgBuilder, EcgConfig, EcgSourceError, fold_of, read_csv, split_of, state_of

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
PATH_COLUMNS = ("file_name", "path", "file", "filename")
"""Names under which the column of files is found when none is given."""

FACTS = ("format", "sampling_rate", "leads", "units", "index")
SEPARATOR = ";"
SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}
POSITIVE, NEGATIVE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table mean what.

    Args:
        path (`str`, *optional*): The file of each record; by default the first of `PATH_COLUMNS` that is there.
        labels (sequence of `str`): Either one column per class with 0 or 1 (true, false, yes, no), or one column with
            names of classes, several of them separated by `;`. A blank cell of names is a record without any class.
        report (`str`, *optional*): The text; by default `report` if there is such a column.
        patient (`str`, *optional*): Who the record is of, `patient_id` where there is such a column. Without it every
            record counts as a patient of its own.
        split (`str`, *optional*): `train`, `validation` or `test`; by default `split` if there is such a column.
    """

    path: str | None = None
    labels: Sequence[str] = ()
    report: str | None = None
    patient: str | None = None
    split: str | None = None


def find_tables(source: str | Path) -> dict[str | None, Path]:
    """Return the tables of a source by split, `None` for one that is not of a single split.

    Raises:
        EcgSourceError: If the source is neither a table nor a folder that holds one.
    """
    source = Path(source)
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise EcgSourceError(f"Expected a table ({', '.join(SUFFIXES)}), got {source.name!r}.")
        return {None: source}
    found: dict[str | None, Path] = {}
    for split in (None, *map(str, SPLITS)):
        paths = [source / (split or "") / f"metadata{suffix}" for suffix in SUFFIXES]
        if present := [path for path in paths if path.is_file()]:
            found[split] = present[0]
    if not found:
        raise EcgSourceError(
            f"Expected a table of ECG files in {str(source)!r}, got none: name a file ({', '.join(SUFFIXES)}), or a "
            f"folder with metadata.csv in it or in its folders {', '.join(map(str, SPLITS))}."
        )
    return {None: found[None]} if None in found else found


def is_table(source: str | Path) -> bool:
    """Say whether a source is a table of ECG files, or a folder that holds one."""
    try:
        return bool(find_tables(source))
    except EcgSourceError:
        return False


def read_rows(source: str | Path, columns: TableColumns = TableColumns()) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of a table of ECG files, and the names of the classes.

    Returns:
        `tuple`: A `DataFrame` with `record_id` (the path as the table has it, behind its split for folders of splits),
        `file` (`Path`), `patient_id`, `labels` (list of names, `None` where the cells leave the labels open; absent
        without label columns), `report`, `split` and the other columns as text; and the classes, in the order of the
        columns, or sorted names.

    Raises:
        EcgSourceError: If the table cannot be read, lacks a column, names a file twice or a split that there is not,
            or a label column holds something else than labels.
    """
    parts = []
    for split, path in find_tables(source).items():
        part = _read(path)
        chosen = columns.path or next((name for name in PATH_COLUMNS if name in part), None)
        if chosen is None:
            raise EcgSourceError(
                f"Expected a column of files in {path.name}, named {', '.join(PATH_COLUMNS[:-1])} or "
                f"{PATH_COLUMNS[-1]}, got {', '.join(map(str, part.columns))}. Name another with `path_column`."
            )
        wanted = [chosen, *columns.labels, *filter(None, (columns.report, columns.patient, columns.split))]
        if absent := [name for name in wanted if name not in part]:
            raise EcgSourceError(
                f"Expected the column{'s' * (len(absent) > 1)} {', '.join(absent)} in {path.name}, got "
                f"{', '.join(map(str, part.columns))}."
            )
        if (blank := part[chosen].isna()).any():
            raise EcgSourceError(f"Expected a file in every row of {path.name}, got none in row {blank.argmax() + 1}.")
        # In folders of splits equal names are different files.
        names = part[chosen] if split is None else split + "/" + part[chosen]
        part = part.assign(record_id=names, file=[path.parent / name for name in part[chosen]])
        if split is not None:
            part["split"] = split
        parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    if not len(rows):
        raise EcgSourceError(f"Expected rows in {str(source)!r}, got none.")
    if (twice := rows["file"].duplicated()).any():
        raise EcgSourceError(f"Expected every file once, got {rows['record_id'][twice].iloc[0]!r} more than once.")
    known = columns.patient or ("patient_id" if "patient_id" in rows else None)
    patient = rows[known] if known else rows["record_id"]
    if (blank := patient.isna()).any():
        raise EcgSourceError(f"Expected a patient in every row, got none for {rows['record_id'][blank].iloc[0]!r}.")
    rows["patient_id"] = patient
    rows["report"] = rows[columns.report or "report"] if columns.report or "report" in rows else None
    if columns.split or "split" in rows:
        rows["split"] = rows[columns.split or "split"].replace({"val": "validation", "valid": "validation"})
        if (wrong := ~rows["split"].isin(list(map(str, SPLITS)))).any():
            raise EcgSourceError(
                f"Expected train, validation or test in the column of splits, got {rows['split'][wrong].iloc[0]!r}."
            )
        homes = rows.groupby("patient_id")["split"].nunique()
        if (homes > 1).any():
            raise EcgSourceError(f"Expected each patient in one split, got {homes.idxmax()!r} in {homes.max()}.")
    else:
        rows["split"] = [str(split_of(fold_of(patient))) for patient in rows["patient_id"]]
    if not columns.labels:
        return rows.drop(columns="labels", errors="ignore"), []
    rows["labels"], classes = _labels(rows, columns.labels)
    return rows, classes


def _read(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".csv":
        return read_csv(path, (), "the table")
    try:
        if path.suffix.lower() == ".tsv":
            table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, na_values=[""])
        elif path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_json(path, lines=True, dtype=False)
    except (ValueError, OSError) as error:
        raise EcgSourceError(f"Expected a table in {path.name}: {str(error).splitlines()[0][:300]}") from error
    texts = table.apply(lambda column: column.map(_as_text))
    return texts.astype(object).where(texts.notna(), None)


def _as_text(cell: Any) -> str | None:
    if isinstance(cell, (list, tuple, np.ndarray)):
        return SEPARATOR.join(map(str, cell))
    return None if cell is None or pd.isna(cell) or cell == "" else str(cell)


def _labels(rows: pd.DataFrame, names: Sequence[str]) -> tuple[list[list[str] | None], list[str]]:
    """Return the classes of every row, and all classes."""
    cells = [rows[name].map(lambda cell: None if cell is None else cell.strip().lower()) for name in names]
    numbers = [column.isna() | column.isin(POSITIVE | NEGATIVE) for column in cells]
    if all(column.all() for column in numbers):
        known = ~np.any([column.isna() for column in cells], axis=0)
        present = np.array([column.isin(POSITIVE) for column in cells]).T
        chosen = [
            [name for name, has in zip(names, row) if has] if is_known else None
            for row, is_known in zip(present, known)
        ]
        return chosen, list(names)
    if len(names) > 1:
        name, column = next((name, column) for name, column in zip(names, numbers) if not column.all())
        raise EcgSourceError(
            f"Expected 0 or 1 in every label column, got {rows[name][~column].iloc[0]!r} in {name!r}. A column with "
            "names of classes stands alone."
        )
    parts = [[part.strip() for part in (cell or "").split(SEPARATOR) if part.strip()] for cell in rows[names[0]]]
    return parts, sorted({part for row in parts for part in row})


def label_matrix(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """Return int8 (rows, classes): 1 where a row has a class.

    Example:

    >>> label_matrix([["AF"], [], ["AF", "LBBB"]], ["AF", "LBBB"]).tolist()
    [[1, 0], [0, 0], [1, 1]]
    """
    return np.array([[name in row for name in classes] for row in labels], dtype=np.int8).reshape(-1, len(classes))


@dataclass
class EcgTableConfig(EcgConfig):
    """Options of [`EcgTable`], with those of [`EcgConfig`].

    Args:
        table (`str`): The table, or its folder.
        columns (`TableColumns`): Which columns mean what.
        facts (mapping): What the files do not say, as arguments of `read_ecg`: `format`, `sampling_rate`, `leads`,
            `units` or `index`.
    """

    table: str = ""
    columns: TableColumns = field(default_factory=TableColumns)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def sources(self) -> str:
        """Return a hash of the tables and of the state of every file, the signal files of WFDB headers among them."""
        rows, _ = read_rows(self.table, self.columns)
        named: dict[tuple[Path, str], list[Path]] = {}
        for folder in {path.parent for path in rows["file"]}:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                named.setdefault((folder, path.name.partition(".")[0]), []).append(path)
        files = [
            path
            for file in rows["file"]
            for path in (file, *named.get((file.parent, file.name.partition(".")[0]), ()))
        ]
        return state_of(files, list(find_tables(self.table).values()))


class EcgTable(EcgBuilder):
    """A table of ECG files as a data set with the columns of [`EcgBuilder`].

    The cache is named by a hash of the table and of sizes and times of its files: a changed file is read anew.

    Args:
        table (`str` or `Path`): A CSV, TSV, Parquet or JSON Lines file, or a folder with `metadata.csv`.
        columns (`TableColumns`): Which columns mean what.
        **config_kwargs: `facts`, `sampling_rate`, `seconds`, `on_error`, `missing`, `flat_leads`, see
            [`EcgTableConfig`]; `cache_dir`.

    Raises:
        EcgSourceError: If the table cannot be used, or a file cannot be read under `on_error="raise"`.

    Example:

    >>> from modeling_merit.processing.data.simulation import simulate_ecg
    >>> from modeling_merit.processing.writers import write_ecg
    >>> for name in ("a", "b", "c"):
    ...     simulated = simulate_ecg("sinus_rhythm", seed=ord(name))
    ...     _ = write_ecg(EcgRecord(simulated.signal, simulated.sampling_rate, simulated.leads), f"{name}.npz")
    >>> lines = "file_name,report,split", "a.npz,normal,train", "b.npz,,train", "c.npz,,test"
    >>> _ = Path("metadata.csv").write_text("\\n".join(lines))
    >>> builder = EcgTable(".", cache_dir="cache")
    >>> builder.download_and_prepare()
    >>> builder.as_dataset("train")["report"][:]
    ['normal', None]
    """

    BUILDER_CONFIG_CLASS = EcgTableConfig

    def __init__(self, table: str | Path, columns: TableColumns = TableColumns(), **kwargs: Any) -> None:
        find_tables(table)
        super().__init__(table=str(Path(table).absolute()), columns=columns, **kwargs)

    def rows(self) -> pd.DataFrame:
        rows, _ = read_rows(self.config.table, self.config.columns)
        names = ["record_id", "file", "patient_id", "report", "split", "labels", "age", "sex"]
        rows = rows[[name for name in names if name in rows]]
        if "sex" in rows:
            rows = rows.assign(sex=rows["sex"].astype(str).str.strip().str.lower().map(SEXES))
        if "age" in rows:
            rows = rows.assign(age=pd.to_numeric(rows["age"], errors="coerce"))
        return rows.assign(file=rows["file"].astype(str))

    def read(self, row: Mapping[str, Any]) -> EcgRecord:
        if "labels" in row and row["labels"] is None:
            raise EcgSourceError("Expected a label in every label column, got a blank cell.")
        return read_ecg(row["file"], **self.config.facts)

    def files(self, row: Mapping[str, Any]) -> Sequence[Path]:
        path = Path(row["file"])
        return [path if path.is_file() else path.with_name(path.name + ".hea")]  # as WFDB names a record


__all__ = [
    "EcgTable",
    "EcgTableConfig",
    "TableColumns",
    "find_tables",
    "is_table",
    "label_matrix",
    "read_rows",
]
