"""CODE-15% as a `datasets` builder: 345,779 ECGs of 233,770 patients in HDF5 parts, six findings of cardiologists.

Ribeiro et al., "CODE-15%: a large scale annotated dataset of 12-lead ECGs", https://doi.org/10.5281/zenodo.4916206,
CC BY 4.0. `exams.csv` lists the exams, `exams_part0.hdf5` to `exams_part17.hdf5` hold `exam_id` and `tracings` (exams,
4096, 12) at 400 Hz: DI to V6 in units of 0.1 mV (1e-4 V), recordings of 7 or 10 s with zeros at both ends.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..leads import STANDARD_LEADS
from ..record import EcgRecord
from .ecg_builder import EcgBuilder, EcgConfig, EcgSourceError, files_below, read_csv, state_of

if TYPE_CHECKING:
    import h5py

TABLE = "exams.csv"
RATE = 400
MILLIVOLTS_PER_STEP = 0.1
LABELS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
COLUMNS = ("exam_id", "patient_id", "age", "is_male", "trace_file", *LABELS)


@lru_cache(maxsize=4)
def _open(path: str, process: int) -> "h5py.File":
    """Return an open part; each process opens its own."""
    return open_hdf5(path)


def open_hdf5(path: str | Path) -> "h5py.File":
    """Open an HDF5 file for reading.

    Raises:
        ImportError: If `h5py` is not installed.
        OSError: If the file is absent or damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Reading HDF5 files needs h5py: pip install h5py") from error
    return h5py.File(path, "r")


@dataclass
class Code15Config(EcgConfig):
    """Options of [`Code15`], see [`EcgConfig`]."""

    def sources(self) -> str:
        folder = Path(self.data_dir or ".")
        return state_of(files_below(folder, (".hdf5",)), [folder / TABLE])


class Code15(EcgBuilder):
    """CODE-15%, with the columns of [`EcgBuilder`]. `labels` are of `LABELS`, and `normal_ecg`; there are no reports.

    The zeros at both ends of a tracing are cut off; recordings of 7 s end with the marker of no sample.

    Args:
        data_dir (`str` or `Path`): The folder that holds `exams.csv` and the unzipped parts.
        **config_kwargs: See [`EcgConfig`]; with `on_error="skip"` parts that are not there are left out.
    """

    BUILDER_CONFIG_CLASS = Code15Config
    HOMEPAGE, LICENSE = "https://doi.org/10.5281/zenodo.4916206", "CC BY 4.0"

    def rows(self) -> pd.DataFrame:
        folder = Path(self.config.data_dir or ".")
        table = read_csv(folder / TABLE, COLUMNS, "CODE-15%")
        index: dict[tuple[str, str], int] = {}
        for name in sorted(set(table["trace_file"])):
            if (folder / name).is_file():
                with open_hdf5(folder / name) as file:
                    index |= {(name, str(exam)): i for i, exam in enumerate(file["exam_id"][:].tolist())}
        names = [name for name in (*LABELS, "normal_ecg") if name in table]
        present = np.array([table[name].map(lambda cell: str(cell).lower() in ("true", "1")) for name in names]).T
        return pd.DataFrame(
            {
                "record_id": table["exam_id"],
                "patient_id": table["patient_id"],
                "file": table["trace_file"],
                "index": [index.get(key, -1) for key in zip(table["trace_file"], table["exam_id"])],
                "labels": [[name for name, has in zip(names, row) if has] for row in present],
                "age": pd.to_numeric(table["age"], errors="coerce"),
                "sex": table["is_male"].map({"True": "male", "False": "female"}.get),
            }
        ).sort_values(["file", "index"], ignore_index=True)  # neighbours in a part are read together

    def files(self, row: Mapping[str, Any]) -> Sequence[Path]:
        return [Path(self.config.data_dir, row["file"])]

    def read(self, row: Mapping[str, Any]) -> EcgRecord:
        if row["index"] < 0:
            raise EcgSourceError(f"Expected exam {row['record_id']} in {row['file']}, which is absent or lacks it.")
        tracing = np.asarray(_open(str(self.files(row)[0]), os.getpid())["tracings"][row["index"]], dtype=np.float32)
        if tracing.ndim != 2 or tracing.shape[1] != len(STANDARD_LEADS):
            raise EcgSourceError(f"Expected tracings (exams, samples, 12) in {row['file']}, got {tracing.shape}.")
        moving = np.flatnonzero(tracing.any(axis=1))
        if not len(moving):
            raise EcgSourceError(f"Expected a tracing, got zeros alone for exam {row['record_id']}.")
        signal = tracing[moving[0] : moving[-1] + 1].T * np.float32(MILLIVOLTS_PER_STEP)
        return EcgRecord(signal, RATE, STANDARD_LEADS, record_id=row["record_id"], unit="0.1 mV")


__all__ = ["LABELS", "Code15", "Code15Config", "open_hdf5"]
