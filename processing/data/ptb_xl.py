"""PTB-XL as a `datasets` builder: from PhysioNet's folder of WFDB records to one typed table per split.

PTB-XL: Wagner et al., "PTB-XL, a large publicly available electrocardiography dataset", Scientific Data 7:154 (2020),
https://doi.org/10.13026/kfzx-aw45, CC BY 4.0. The folder layout is that of versions 1.0.1 to 1.0.3.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from datasets.exceptions import DatasetGenerationError

from ..leads import STANDARD_LEADS
from .ptb_xl_files import (
    RECORD_SECONDS,
    TABLE,
    PtbXlError,
    fingerprint_sources,
    parse_scp_codes,
    read_signal,
    read_table,
)

logger = logging.getLogger(__name__)

SKIPPED = "skipped_records.jsonl"
SPLIT_FOLDS = {datasets.Split.TRAIN: range(1, 9), datasets.Split.VALIDATION: (9,), datasets.Split.TEST: (10,)}
# The table writes 300 for every age above 89, to protect the privacy of the very old.
AGE_OVER_89 = 300
SEXES = {0: "male", 1: "female"}
CITATION = """\
@article{wagner2020ptbxl,
  title   = {{PTB-XL}, a large publicly available electrocardiography dataset},
  author  = {Wagner, Patrick and Strodthoff, Nils and Bousseljot, Ralf-Dieter and Kreiseler, Dieter and
             Lunze, Fatima I. and Samek, Wojciech and Schaeffter, Tobias},
  journal = {Scientific Data},
  volume  = {7},
  number  = {154},
  year    = {2020},
  doi     = {10.1038/s41597-020-0495-6}
}"""


@dataclass
class PtbXlConfig(datasets.BuilderConfig):
    """Options of [`PtbXl`].

    Args:
        sampling_rate (`int`): 100 or 500 Hz; set by the name of the configuration.
        ecg_ids (sequence of `int`, *optional*):
            Build these records only, for instance `present_ecg_ids(data_dir, "100hz")`. Default: the whole table.
        on_error (`str`, defaults to `"raise"`):
            `"raise"` stops at the first missing or corrupt record. `"skip"` leaves such records out, logs their ids,
            and lists them with the reason in [`PtbXl.skipped_records`].
    """

    sampling_rate: int = 100
    ecg_ids: Sequence[int] | None = None
    on_error: str = "raise"

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Return the name of the cache folder: another one when the table or a record file has changed."""
        if self.data_dir is not None:
            config_kwargs = config_kwargs | {"sources": fingerprint_sources(self.data_dir, self.sampling_rate)}
        return super().create_config_id(config_kwargs, custom_features)

    @property
    def file_column(self) -> str:
        """Return the column of the table with the record's path at this sampling rate."""
        return "filename_lr" if self.sampling_rate == 100 else "filename_hr"


def ecg_features(samples: int) -> datasets.Features:
    """Return the columns every ECG builder of this package yields, for records of `samples` samples per lead.

    `signal` is in µV, its 12 rows are in the order of `STANDARD_LEADS`.

    Example:

    >>> ecg_features(1000)["signal"].shape
    (12, 1000)
    """
    return datasets.Features(
        {
            "ecg_id": datasets.Value("int32"),
            "patient_id": datasets.Value("int32"),
            "age": datasets.Value("float32"),
            "age_over_89": datasets.Value("bool"),
            "sex": datasets.Value("string"),
            "strat_fold": datasets.Value("int8"),
            "signal": datasets.Array2D((len(STANDARD_LEADS), samples), "int16"),
            "report": datasets.Value("string"),
            "scp_codes": {
                "code": datasets.List(datasets.Value("string")),
                "likelihood": datasets.List(datasets.Value("float32")),
            },
            "recording_date": datasets.Value("string"),
            "device": datasets.Value("string"),
            "validated_by_human": datasets.Value("bool"),
        }
    )


class PtbXl(datasets.GeneratorBasedBuilder):
    """PTB-XL: 21,799 clinical 12-lead ECGs of 10 s with reports, at 100 Hz (`"100hz"`) or 500 Hz (`"500hz"`).

    Splits are the recommended ones: `train` is `strat_fold` 1 to 8, `validation` 9 and `test` 10; no patient is in two
    folds. Columns:

    - `ecg_id`, `patient_id` (int32), `strat_fold` (int8, 1 to 10)
    - `age` (float32, years; null when unknown; 90 where the table only says "over 89", then `age_over_89` is true)
    - `sex` (`"male"` or `"female"`)
    - `signal` (int16, (12, 1000) or (12, 5000)): µV, rows in the order of `STANDARD_LEADS`
    - `report` (string, as recorded; null when blank)
    - `scp_codes`: `code` and `likelihood` (percent, 0 when not stated), two lists of equal length
    - `recording_date`, `device` (string, as recorded), `validated_by_human` (bool)

    Every record is checked against its header: leads by name, rate, length, gain and checksums. Nothing is filtered,
    clipped or resampled. Building is a matter of minutes and is done once per state of the folder: the cache is named
    by a hash of the table and of sizes and times of the record files, so a corrected table or record is read anew.

    Args:
        config_name (`str`): `"100hz"` or `"500hz"`.
        data_dir (`str` or `Path`): The folder that holds `ptbxl_database.csv` and `records100/` or `records500/`.
        **config_kwargs: `ecg_ids` and `on_error`, see [`PtbXlConfig`].

    ```python
    builder = PtbXl(config_name="100hz", data_dir="ptb-xl-1.0.3")
    builder.download_and_prepare(num_proc=2)
    dataset = builder.as_dataset()
    dataset.push_to_hub("me/ptb-xl", "100hz")  # Parquet; everywhere else: load_dataset("me/ptb-xl", "100hz")
    ```

    Example:

    >>> builder = PtbXl(config_name="500hz", data_dir="ptb-xl-1.0.3")
    >>> builder.info.features["signal"].shape
    (12, 5000)
    """

    BUILDER_CONFIG_CLASS = PtbXlConfig
    # The cache folder of `datasets` is named by this version, not by the code: raise it when the rows change.
    BUILDER_CONFIGS = [
        PtbXlConfig(name=f"{rate}hz", version="1.0.0", sampling_rate=rate, description=f"Signals at {rate} Hz.")
        for rate in (100, 500)
    ]
    DEFAULT_CONFIG_NAME = "100hz"

    def __init__(self, *args: Any, data_dir: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(*args, data_dir=None if data_dir is None else str(Path(data_dir).absolute()), **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        if self.config.on_error not in ("raise", "skip"):
            raise ValueError(f'Expected on_error="raise" or "skip", got {self.config.on_error!r}.')
        rate = self.config.sampling_rate
        return datasets.DatasetInfo(
            description=f"PTB-XL at {rate} Hz. `signal` holds microvolts, rows: {', '.join(STANDARD_LEADS)}.",
            features=ecg_features(rate * RECORD_SECONDS),
            homepage="https://physionet.org/content/ptb-xl/",
            license="CC BY 4.0",
            citation=CITATION,
        )

    @property
    def skipped_records(self) -> dict[int, str]:
        """Return the records left out of the dataset, as `ecg_id` to reason; empty unless `on_error="skip"`."""
        path = Path(self._output_dir or self.cache_dir) / SKIPPED
        if not path.exists():
            return {}
        return {entry["ecg_id"]: entry["reason"] for entry in map(json.loads, path.read_text().splitlines())}

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Read the records and write the splits to the cache, or to `output_dir`; see `datasets.DatasetBuilder`."""
        super().download_and_prepare(*args, **kwargs)
        skipped = self.skipped_records
        if skipped:
            ecg_ids = ", ".join(map(str, sorted(skipped)[:20])) + (", …" if len(skipped) > 20 else "")
            where = Path(self._output_dir or self.cache_dir) / SKIPPED
            logger.warning("%d PTB-XL records were skipped: ecg_id %s (reasons: %s).", len(skipped), ecg_ids, where)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        table = read_table(self.config.data_dir)
        if self.config.ecg_ids is not None:
            table = _select_rows(table, self.config.ecg_ids)
        skipped_path = None if dl_manager.is_streaming else str(Path(self._output_dir) / SKIPPED)
        table = table[self._is_present(table, skipped_path)]
        rows_by_split = {split: table[table.strat_fold.isin(folds)] for split, folds in SPLIT_FOLDS.items()}
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={
                    # A list, so that `num_proc` and streaming workers can share it: one shard per 1,000 ids.
                    "tables": [shard for _, shard in rows.groupby(rows.index // 1000)],
                    "skipped_path": skipped_path,
                },
            )
            for split, rows in rows_by_split.items()
            if len(rows) > 0
        ]

    def _is_present(self, table: pd.DataFrame, skipped_path: str | None) -> np.ndarray:
        """Find missing records before the first one is read: a partial download is the most common fault."""
        data_dir, files = Path(self.config.data_dir), table[self.config.file_column]
        present = np.array([(data_dir / f"{file}.hea").is_file() for file in files], dtype=bool)
        missing = table.index[~present]
        if len(missing) > 0 and (self.config.on_error == "raise" or not present.any()):
            raise PtbXlError(
                f"Expected {len(table)} records in {data_dir}, got {present.sum()}. Missing are those of ecg_id "
                f"{', '.join(map(str, missing[:5]))}{', …' if len(missing) > 5 else ''} ({files[missing[0]]}.hea). "
                "Complete the download; or build what is there with "
                f'ecg_ids=present_ecg_ids(data_dir, "{self.config.name}"); or pass on_error="skip".'
            )
        for ecg_id in missing:
            _skip(ecg_id, f"{files[ecg_id]}.hea is missing", skipped_path)
        return present

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[tuple]:
        # `datasets` hides every error behind "An error occurred while generating the dataset".
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, PtbXlError):
                raise error.__cause__ from None
            raise

    def _generate_examples(
        self, tables: list[pd.DataFrame], skipped_path: str | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for table in tables:
            for ecg_id, row in table.iterrows():
                try:
                    example = self._example(ecg_id, row)
                except PtbXlError as error:
                    if self.config.on_error == "raise":
                        fix = 'Fetch the record again, or pass on_error="skip" to leave such records out.'
                        raise PtbXlError(f"ecg_id {ecg_id}: {error} {fix}") from error
                    _skip(ecg_id, str(error), skipped_path)
                    continue
                yield ecg_id, example

    def _example(self, ecg_id: int, row: pd.Series) -> dict[str, Any]:
        over_89 = row.age == AGE_OVER_89
        scp_codes = parse_scp_codes(row.scp_codes)
        path = Path(self.config.data_dir) / row[self.config.file_column]
        return {
            "ecg_id": ecg_id,
            "patient_id": int(row.patient_id),
            "age": None if pd.isna(row.age) else (90.0 if over_89 else row.age),
            "age_over_89": over_89,
            "sex": SEXES.get(row.sex),
            "strat_fold": row.strat_fold,
            "signal": read_signal(path, self.config.sampling_rate),
            "report": _text(row.report),
            "scp_codes": {"code": list(scp_codes), "likelihood": list(scp_codes.values())},
            "recording_date": _text(row.recording_date),
            "device": _text(row.device),
            "validated_by_human": row.validated_by_human,
        }


def present_ecg_ids(data_dir: str | Path, config_name: str = "100hz") -> list[int]:
    """Return the ids of the records whose header is in a possibly incomplete PTB-XL folder, for `PtbXl(ecg_ids=...)`.

    Args:
        data_dir (`str` or `Path`): The folder with `ptbxl_database.csv`.
        config_name (`str`, defaults to `"100hz"`): `"100hz"` or `"500hz"`.

    Returns:
        `list[int]`: Ids in ascending order.
    """
    config = PtbXl.builder_configs.get(config_name)
    if config is None:
        raise ValueError(f"Expected one of {', '.join(PtbXl.builder_configs)}, got {config_name!r}.")
    files = read_table(data_dir)[config.file_column]
    return [int(ecg_id) for ecg_id, file in files.items() if (Path(data_dir) / f"{file}.hea").is_file()]


def _text(cell: str | float) -> str | None:
    """Return the text of a cell as recorded; None when it is blank (" ", or NaN from pandas)."""
    return cell if isinstance(cell, str) and cell.strip() else None


def _skip(ecg_id: int, reason: str, skipped_path: str | None) -> None:
    """Note a record that is left out: in the list beside the table, or in the log when streaming makes no table."""
    if skipped_path is None:
        logger.warning("Skipped ecg_id %d: %s", ecg_id, reason)
        return
    with open(skipped_path, "a", encoding="utf-8") as file:  # one short line each: whole, whichever process writes it
        file.write(json.dumps({"ecg_id": int(ecg_id), "reason": reason}) + "\n")


def _select_rows(table: pd.DataFrame, ecg_ids: Sequence[int]) -> pd.DataFrame:
    unknown = sorted(set(ecg_ids) - set(table.index))
    if unknown or len(ecg_ids) == 0:
        raise PtbXlError(f"Expected ecg_ids of {TABLE}, got {len(ecg_ids)}, {len(unknown)} unknown: {unknown[:5]}.")
    return table.loc[sorted(set(ecg_ids))]


__all__ = ["PtbXl", "PtbXlConfig", "PtbXlError", "ecg_features", "present_ecg_ids"]
