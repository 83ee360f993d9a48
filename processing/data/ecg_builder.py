"""The frame of the builders: rows of a data set become one typed table per split, whatever the files look like.

A family of data sets says which rows there are and reads one of them; everything else is here. Rows are prepared in
parts of `PART_ROWS`, each kept as a file until all are done: a preparation that was killed goes on with the parts it
has. A part is only used again if its content has the SHA-256 in its name.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError
from datasets.table import table_cast

from ..leads import STANDARD_LEADS
from ..record import EcgFormatError, EcgRecord
from .microvolts import FLAT_POLICIES, POLICIES, to_microvolts

logger = logging.getLogger(__name__)

PART_ROWS = 500
SKIPPED = "skipped_records.jsonl"
SUMS = "SHA256SUMS.txt"
SPLITS = (datasets.Split.TRAIN, datasets.Split.VALIDATION, datasets.Split.TEST)
TEXTS = ("report", "sex", "recording_date", "device")
AGE_OF_THE_OLD = 90.0  # stands for every age above 89, as in PTB-XL and in `deidentify`
_BLOCK = 1 << 20


class EcgSourceError(ValueError):
    """A folder, table or record of a data set is not what it must be. The message names the file."""


@dataclass
class EcgConfig(datasets.BuilderConfig):
    """Options that all builders of this frame have.

    Args:
        sampling_rate (`int`), seconds (`float`): Of every signal of the table. Recordings are resampled; of longer
            ones the first seconds are taken, shorter ones are filled with the marker of no sample.
        on_error (`str`): `"raise"` stops at the first record that cannot be read; `"skip"` leaves such records out and
            lists them with the reason in `skipped_records`.
        missing (`str`), flat_leads (`str`): What is done with invalid samples, absent leads and leads that never move,
            see `microvolts.to_microvolts`.
        checksums (`bool`): Compare the files of every record with `SHA256SUMS.txt` of the folder, as PhysioNet has it.
    """

    sampling_rate: int = 100
    seconds: float = 10.0
    on_error: str = "raise"
    missing: str = "mask"
    flat_leads: str = "keep"
    checksums: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("on_error", ("raise", "skip")), ("missing", POLICIES), ("flat_leads", FLAT_POLICIES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"Expected {name} to be one of {', '.join(choices)}, got {getattr(self, name)!r}.")

    def sources(self) -> str:
        """Return a hash of the state of the files that the table is made from; it names the cache folder."""
        raise NotImplementedError

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Return the name of the cache folder: another one when an option or a file has changed."""
        return super().create_config_id(config_kwargs | {"sources": self.sources()}, custom_features)


def table_features(samples: int) -> datasets.Features:
    """Return the columns of every builder of this frame, for records of `samples` samples per lead.

    Example:

    >>> list(table_features(1000))[:4]
    ['record_id', 'patient_id', 'signal', 'report']
    """
    return datasets.Features(
        {
            "record_id": datasets.Value("string"),
            "patient_id": datasets.Value("string"),
            "signal": datasets.Array2D((len(STANDARD_LEADS), samples), "int16"),
            "report": datasets.Value("string"),
            "labels": datasets.List(datasets.Value("string")),
            "age": datasets.Value("float32"),
            "sex": datasets.Value("string"),
            "recording_date": datasets.Value("string"),
            "device": datasets.Value("string"),
        }
    )


class EcgBuilder(datasets.ArrowBasedBuilder):
    """A data set of ECG files as one typed table per split. A family of data sets defines `rows` and `read`.

    Columns:

    - `record_id`, `patient_id` (string; the id of the record where the patient is not known)
    - `signal` (int16, (12, samples)): µV, rows as in `STANDARD_LEADS`, `NO_SAMPLE` where nothing was recorded
    - `report` (string, null when there is none), `labels` (list of strings)
    - `age` (float32, years, 90 for all above 89; null when unknown), `sex` (`"male"`, `"female"` or null)
    - `recording_date`, `device` (string, as recorded, or null)

    Splits follow the patient: `train` is folds 1 to 8 of `fold_of`, `validation` fold 9 and `test` fold 10, unless the
    rows name a split themselves.
    """

    BUILDER_CONFIG_CLASS = EcgConfig
    VERSION = datasets.Version("1.0.0")  # raise it when the rows change: the cache folder is not named by the code
    LICENSE, HOMEPAGE, CITATION = "", "", ""
    ERRORS: tuple[type[Exception], ...] = (EcgFormatError, EcgSourceError, OSError)

    def __init__(self, *args: Any, data_dir: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(*args, data_dir=None if data_dir is None else str(Path(data_dir).absolute()), **kwargs)

    def rows(self) -> pd.DataFrame:
        """Return one row per record: `record_id`, `patient_id` and what `read` needs; optionally other columns."""
        raise NotImplementedError

    def read(self, row: Mapping[str, Any]) -> EcgRecord:
        """Return the recording of a row."""
        raise NotImplementedError

    def files(self, row: Mapping[str, Any]) -> Sequence[Path]:
        """Return the files of a row."""
        raise NotImplementedError

    def _info(self) -> datasets.DatasetInfo:
        config = self.config
        return datasets.DatasetInfo(
            description=f"{type(self).__name__} at {config.sampling_rate} Hz, {config.seconds:g} s. `signal` holds "
            f"microvolts, rows: {', '.join(STANDARD_LEADS)}; -32768 where nothing was recorded.",
            features=table_features(round(config.sampling_rate * config.seconds)),
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            citation=self.CITATION,
        )

    @property
    def skipped_records(self) -> dict[str, str]:
        """Return the records left out of the data set, as `record_id` to reason; empty unless `on_error="skip"`."""
        path = Path(self._output_dir or self.cache_dir) / SKIPPED
        if not path.exists():
            return {}
        return {entry["record_id"]: entry["reason"] for entry in map(json.loads, path.read_text("utf-8").splitlines())}

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Read the records and write the splits to the cache, or to `output_dir`; see `datasets.DatasetBuilder`."""
        super().download_and_prepare(*args, **kwargs)
        shutil.rmtree(self._parts, ignore_errors=True)
        if skipped := self.skipped_records:
            first, reason = next(iter(skipped.items()))
            where = Path(self._output_dir or self.cache_dir) / SKIPPED
            logger.warning("%d records were skipped, such as %s: %s All: %s.", len(skipped), first, reason, where)

    def as_dataset(self, split: datasets.Split | str | None = None, **kwargs: Any) -> Any:
        """Return the splits, those without any record left out, or one; see `datasets.DatasetBuilder`."""
        if split is not None:
            return super().as_dataset(split, **kwargs)
        names = [name for name, info in self.info.splits.items() if info.num_examples]
        return datasets.DatasetDict({name: super(EcgBuilder, self).as_dataset(name, **kwargs) for name in names})

    @property
    def _parts(self) -> Path:
        return Path(f"{self.cache_dir}.parts")

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        rows = self.rows()
        if "split" not in rows:
            rows = rows.assign(split=[str(split_of(fold_of(patient))) for patient in rows["patient_id"]])
        is_whole = self._is_present(rows)
        parts = skipped = None
        if not dl_manager.is_streaming:
            self._parts.mkdir(parents=True, exist_ok=True)
            parts, skipped = str(self._parts), str(Path(self._output_dir) / SKIPPED)
        _list_skipped(skipped, [(name, "a file of the record is missing") for name in rows["record_id"][~is_whole]])
        rows = rows[is_whole]
        generators = []
        for split in SPLITS:
            chosen = rows[rows["split"] == str(split)]
            # A list, so that `num_proc` can share it.
            shards = [chosen.iloc[start : start + PART_ROWS] for start in range(0, len(chosen), PART_ROWS)]
            if shards:
                arguments = {"shards": shards, "parts": parts, "skipped": skipped}
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs=arguments))
        return generators

    def _is_present(self, rows: pd.DataFrame) -> np.ndarray:
        """Find missing files before the first one is read: a partial download is the most common fault."""
        records = rows.to_dict("records")
        present = np.array([all(path.is_file() for path in self.files(row)) for row in records], dtype=bool)
        missing = rows["record_id"][~present].tolist()
        if missing and (self.config.on_error == "raise" or not present.any()):
            names = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            raise EcgSourceError(
                f"Expected the files of {len(records)} records, got those of {present.sum()}. Missing are those of "
                f'{names}. Complete them, or pass on_error="skip" to leave such records out.'
            )
        return present

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[tuple]:
        # `datasets` hides every error behind "An error occurred while generating the dataset".
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, EcgSourceError):
                raise error.__cause__ from None
            raise

    def _generate_tables(
        self, shards: list[pd.DataFrame], parts: str | None, skipped: str | None
    ) -> Iterator[tuple[Key, pa.Table]]:
        for number, shard in enumerate(shards):
            table, left_out = self._part(shard, parts)
            _list_skipped(skipped, left_out)
            yield Key(number, 0), table

    def _part(self, shard: pd.DataFrame, parts: str | None) -> tuple[pa.Table, list[tuple[str, str]]]:
        """Return the table of a shard and its records left out: as kept from before if that is whole, else made."""
        if parts is None:
            return self._make(shard)
        named = hashlib.sha256(shard.to_json(orient="split", default_handler=str).encode()).hexdigest()[:16]
        for path in Path(parts).glob(f"{named}-*.parquet"):
            if path.stem.partition("-")[2] == sha256_of(path):
                table = pq.read_table(path)
                return table, json.loads(table.schema.metadata[b"skipped"])
        table, left_out = self._make(shard)
        partial = Path(parts) / f"{named}.{os.getpid()}.partial"
        pq.write_table(table.replace_schema_metadata({"skipped": json.dumps(left_out)}), partial)
        partial.rename(partial.with_name(f"{named}-{sha256_of(partial)}.parquet"))
        return table, left_out

    def _make(self, shard: pd.DataFrame) -> tuple[pa.Table, list[tuple[str, str]]]:
        config, examples, left_out = self.config, [], []
        sums = _sums(config.data_dir) if config.checksums else None
        for row in shard.to_dict("records"):
            try:
                if sums is not None:
                    check_sums(self.files(row), Path(config.data_dir), sums)
                record = self.read(row)
                signal = to_microvolts(record, config.sampling_rate, config.seconds, config.missing, config.flat_leads)
            except self.ERRORS as error:
                if config.on_error == "raise":
                    raise EcgSourceError(
                        f'{row["record_id"]}: {error} Correct the record, or pass on_error="skip" to leave such '
                        "records out."
                    ) from error
                left_out.append((str(row["record_id"]), str(error)))
                continue
            examples.append(example(row, record, signal))
        columns = {name: [one[name] for one in examples] for name in self.info.features}
        made = datasets.Dataset.from_dict(columns, features=self.info.features)
        return table_cast(made.data.table, self.info.features.arrow_schema), left_out


def _list_skipped(path: str | None, left_out: Sequence[Sequence[str]]) -> None:
    """Note records that are left out: in the list beside the table, or in the log when streaming makes no table."""
    for record_id, reason in left_out:
        if path is None:
            logger.warning("Skipped %s: %s", record_id, reason)
            continue
        with open(path, "a", encoding="utf-8") as file:  # one short line each: whole, whichever process writes it
            file.write(json.dumps({"record_id": str(record_id), "reason": reason}) + "\n")


def example(row: Mapping[str, Any], record: EcgRecord, signal: np.ndarray) -> dict[str, Any]:
    """Return a row of the table; what the data set's own table says counts more than what the file says."""
    age = row.get("age")
    age = record.age if age is None or pd.isna(age) else float(age)
    said = {"sex": record.sex, "device": record.device}
    said["recording_date"] = None if record.start_time is None else record.start_time.isoformat(" ")
    return {
        "record_id": str(row["record_id"]),
        "patient_id": str(row["patient_id"]),
        "signal": signal,
        "labels": list(row["labels"]) if row.get("labels") is not None else [],
        "age": None if age is None or not 0 <= age < 130 else (AGE_OF_THE_OLD if age > 89 else age),
        **{name: _text(row.get(name)) or said.get(name) for name in TEXTS},
    }


def _text(cell: Any) -> str | None:
    return cell if isinstance(cell, str) and cell.strip() else None


def fold_of(patient_id: Any) -> int:
    """Return the fold, 1 to 10, of a patient: the same in every run and for every record of the patient.

    Example:

    >>> fold_of("10000032"), fold_of("10000032") == fold_of(10000032)
    (9, True)
    """
    return int(hashlib.sha256(str(patient_id).encode()).hexdigest()[:8], 16) % 10 + 1


def split_of(fold: int) -> datasets.Split:
    """Return the split of a fold: train is 1 to 8, validation 9, test 10."""
    return SPLITS[max(0, fold - 8)]


def state_of(paths: Sequence[Path], contents: Sequence[Path] = ()) -> str:
    """Return a hash of the names, sizes and times of change of files, and of the bytes of `contents`.

    Both times are taken: copying tools set that of modification back, nothing sets back the other. Files that are not
    there count as such.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in contents:
        digest.update(path.read_bytes() if path.is_file() else b"absent")
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            digest.update(repr((str(path), "absent")).encode())
            continue
        digest.update(repr((str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)).encode())
    return digest.hexdigest()[:16]


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of a folder and its folders with one of the suffixes, sorted."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        found += [Path(parent, name) for name in sorted(names) if name.lower().endswith(tuple(suffixes))]
    return found


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sums(data_dir: str | None) -> dict[str, str]:
    """Return the SHA-256 by path of the list that PhysioNet puts into the folder of a data set."""
    path = Path(data_dir or ".") / SUMS
    if not path.is_file():
        raise EcgSourceError(f"Expected {SUMS} in {data_dir}, got none. Download it, or leave `checksums` out.")
    lines = (line.split(maxsplit=1) for line in path.read_text("utf-8").splitlines() if line.strip())
    return {name.strip().removeprefix("*").removeprefix("./"): digest for digest, name in lines}


def check_sums(files: Sequence[Path], folder: Path, sums: Mapping[str, str]) -> None:
    """Compare files with their SHA-256.

    Raises:
        EcgSourceError: If a file is not listed, or its content is another one.
    """
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name not in sums:
            raise EcgSourceError(f"Expected {name} in {SUMS}, which does not list it.")
        if sha256_of(path) != sums[name]:
            raise EcgSourceError(f"{name} is not the file that {SUMS} lists: its SHA-256 differs. Download it again.")


def read_csv(path: Path, columns: Sequence[str], data_set: str) -> pd.DataFrame:
    """Return a table of texts, blank cells as None.

    Raises:
        EcgSourceError: If there is no such file, it is no table, or columns are absent.
    """
    if not path.is_file():
        below = sorted(path.parent.glob(f"*/{path.name}")) if path.parent.is_dir() else []
        fix = f"Pass data_dir={str(below[0].parent)!r}." if below else f"Pass the folder of {data_set} as data_dir."
        raise EcgSourceError(f"Expected {path.name} in {str(path.parent)!r}, found none. {fix}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except ValueError as error:  # pandas' errors of parsing and decoding
        raise EcgSourceError(f"Expected a table of comma-separated values in {path}: {error}") from error
    if absent := [column for column in columns if column not in table]:
        raise EcgSourceError(f"Expected the columns {', '.join(absent)} in {path}, got {', '.join(table.columns)}.")
    return table.astype(object).where(table.notna(), None)


__all__ = [
    "EcgBuilder",
    "EcgConfig",
    "EcgSourceError",
    "check_sums",
    "files_below",
    "fold_of",
    "read_csv",
    "sha256_of",
    "split_of",
    "state_of",
    "table_features",
]
