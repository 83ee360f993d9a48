"""The files of PTB-XL: its table and its WFDB records, read strictly."""

import ast
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb

from ..leads import STANDARD_LEADS, canonical_leads

TABLE = "ptbxl_database.csv"
RECORD_SECONDS = 10
HOW_TO_GET = "Download and unzip PTB-XL from https://physionet.org/content/ptb-xl/ and pass that folder as data_dir."
# Microvolts in one unit, by the unit's name in lower case.
UNITS_IN_MICROVOLT = {"mv": 1000.0, "uv": 1.0, "µv": 1.0}
COLUMNS = (
    *("ecg_id", "patient_id", "age", "sex", "strat_fold", "report", "scp_codes", "recording_date", "device"),
    *("validated_by_human", "filename_lr", "filename_hr"),
)


class PtbXlError(ValueError):
    """The PTB-XL folder, its table or one of its records is not what it must be. The message names the `ecg_id`."""


def find_table(data_dir: str | Path | None) -> Path:
    """Return the path of `ptbxl_database.csv`.

    Raises:
        PtbXlError: If `data_dir` is not a PTB-XL folder.
    """
    if data_dir is None:
        raise PtbXlError(f"Expected data_dir=<the PTB-XL folder with {TABLE}>, got none. {HOW_TO_GET}")
    path = Path(data_dir) / TABLE
    if not path.is_file():
        below = sorted(Path(data_dir).glob(f"*/{TABLE}"))
        fix = f"Pass data_dir={str(below[0].parent)!r}." if below else HOW_TO_GET
        raise PtbXlError(f"Expected {TABLE} in data_dir={str(data_dir)!r}, found none. {fix}")
    return path


def fingerprint_sources(data_dir: str | Path, sampling_rate: int) -> str:
    """Return a hash of the table's bytes and of names, sizes and times of change of the record files of one rate.

    A table that was corrected or a record that was replaced gives another one; the signals themselves are not read.
    A folder that is absent or incomplete has a fingerprint, too.

    Args:
        data_dir (`str` or `Path`): The folder with `ptbxl_database.csv`.
        sampling_rate (`int`): 100 or 500 Hz: the records below `records100` or `records500`.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest, table = hashlib.sha256(), Path(data_dir) / TABLE
    if table.is_file():
        digest.update(table.read_bytes())
    for folder, folders, files in os.walk(Path(data_dir) / f"records{sampling_rate}", followlinks=True):
        folders.sort()
        digest.update(os.path.relpath(folder, data_dir).encode())
        for name in sorted(files):
            try:
                state = os.stat(os.path.join(folder, name))
            except OSError:  # a link whose target is not there
                continue
            # Both times: copying tools set the first one back, nothing sets back the second.
            facts = (name, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            digest.update(repr(facts).encode())
    return digest.hexdigest()[:16]


def read_table(data_dir: str | Path | None) -> pd.DataFrame:
    """Read `ptbxl_database.csv`, indexed by `ecg_id` in ascending order.

    Raises:
        PtbXlError: If `data_dir` is not a PTB-XL folder, or its table is not readable or not whole.
    """
    path = find_table(data_dir)
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' errors of parsing and decoding
        raise PtbXlError(f"Expected a table of comma-separated values in {path}: {error} {HOW_TO_GET}") from error
    absent = [column for column in COLUMNS if column not in table]
    if absent:
        raise PtbXlError(f"Expected the columns {', '.join(absent)} in {path}, got {', '.join(table.columns)}.")
    bad = ~table.strat_fold.isin(range(1, 11)) | table.patient_id.isna() | table.ecg_id.duplicated()
    if bad.any():
        raise PtbXlError(
            f"Expected one row for each ecg_id in {path}, with a patient_id and a strat_fold of 1 to 10; it is "
            f"otherwise for ecg_id {', '.join(map(str, table.ecg_id[bad][:5]))}. {HOW_TO_GET}"
        )
    return table[list(COLUMNS)].set_index("ecg_id").sort_index()


def read_signal(path: str | Path, sampling_rate: int) -> np.ndarray:
    """Read one WFDB record of PTB-XL and check it against its header.

    Args:
        path (`str` or `Path`): The record's path without extension.
        sampling_rate (`int`): The rate the record must have, in Hz; its length must be 10 s.

    Returns:
        `np.ndarray`: int16 of shape (12, 10 * sampling_rate), µV, rows in the order of `STANDARD_LEADS`.

    Raises:
        PtbXlError: If a file is missing or damaged, or the header is not that of a PTB-XL record.
    """
    path = Path(path)
    try:
        record = wfdb.rdrecord(str(path), physical=False, return_res=16)
    except FileNotFoundError as error:
        raise PtbXlError(f"{Path(error.filename).name} is missing.") from error
    except Exception as error:  # wfdb raises whatever a damaged file makes numpy or re raise
        raise PtbXlError(f"{path.name} is not a readable WFDB record ({type(error).__name__}: {error}).") from error
    samples = sampling_rate * RECORD_SECONDS
    if record.fs != sampling_rate or record.d_signal.shape[0] != samples:
        got = f"{record.d_signal.shape[0]} at {record.fs:g} Hz"
        raise PtbXlError(f"{path.name}: expected {samples} samples at {sampling_rate} Hz, got {got}.")
    found = [int(checksum) & 0xFFFF for checksum in record.d_signal.sum(axis=0, dtype=np.int64)]
    stated = [None if checksum is None else checksum & 0xFFFF for checksum in record.checksum]
    if found != stated:
        raise PtbXlError(f"{path.name}: the samples do not match the header's checksums {stated}, got {found}.")
    try:
        leads = canonical_leads(record.sig_name)
    except ValueError as error:
        raise PtbXlError(f"{path.name}: {error}") from error
    if set(leads) != set(STANDARD_LEADS):
        raise PtbXlError(f"{path.name}: expected the leads {', '.join(STANDARD_LEADS)}, got {', '.join(leads)}.")
    microvolt = _to_microvolt(record, path.name)
    return np.ascontiguousarray(microvolt.T[[leads.index(lead) for lead in STANDARD_LEADS]])


def _to_microvolt(record: wfdb.Record, name: str) -> np.ndarray:
    """Return digital samples (time, leads) as int16 µV: unchanged in PTB-XL, which has 1000 ADC units per mV."""
    if (record.d_signal == np.iinfo(np.int16).min).any():
        raise PtbXlError(f"{name}: holds samples marked invalid (-32768), which int16 microvolts cannot express.")
    unknown = sorted({unit for unit in record.units if unit.lower() not in UNITS_IN_MICROVOLT})
    if unknown:
        raise PtbXlError(f"{name}: expected signals in mV or uV, got {', '.join(unknown)}.")
    step = np.array([UNITS_IN_MICROVOLT[unit.lower()] for unit in record.units]) / np.array(record.adc_gain)
    microvolt = (record.d_signal - np.array(record.baseline)) * step
    exact = microvolt.round()
    if (np.abs(microvolt - exact) > 1e-6).any() or np.abs(exact).max() > np.iinfo(np.int16).max:
        raise PtbXlError(f"{name}: expected whole microvolts below 32768, but the gain is {record.adc_gain[0]:g}/mV.")
    return exact.astype(np.int16)


def parse_scp_codes(text: str) -> dict[str, float]:
    """Return `"{'NORM': 100.0, 'SR': 0.0}"` as a dict."""
    try:
        codes = ast.literal_eval(text)
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise PtbXlError(f"expected scp_codes like {{'NORM': 100.0}}, got {str(text)[:80]!r}.") from error


__all__ = ["PtbXlError", "find_table", "fingerprint_sources", "parse_scp_codes", "read_signal", "read_table"]
