"""SPH as a `datasets` builder: 25,770 ECGs of 24,666 patients of Shandong Provincial Hospital, AHA statements.

Liu et al., "A large-scale multi-label 12-lead electrocardiogram database with standardized diagnostic statements",
Sci Data 9:272 (2022), https://doi.org/10.6084/m9.figshare.c.5779802. `metadata.csv` lists the records,
`records/A00001.h5` and so on hold `ecg` (12, samples), in mV at 500 Hz, 10 to 60 s, I to V6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..leads import STANDARD_LEADS
from ..record import EcgRecord
from .code15 import open_hdf5
from .ecg_builder import EcgBuilder, EcgConfig, EcgSourceError, files_below, read_csv, state_of

TABLE = "metadata.csv"
RATE = 500


@dataclass
class SphConfig(EcgConfig):
    """Options of [`Sph`], see [`EcgConfig`]."""

    def sources(self) -> str:
        folder = Path(self.data_dir or ".")
        return state_of(files_below(folder / "records", (".h5",)), [folder / TABLE])


class Sph(EcgBuilder):
    """SPH, with the columns of [`EcgBuilder`]. `labels` are AHA codes with their modifiers, such as `60+310`.

    Args:
        data_dir (`str` or `Path`): The folder that holds `metadata.csv` and `records/`.
        **config_kwargs: See [`EcgConfig`].
    """

    BUILDER_CONFIG_CLASS = SphConfig
    HOMEPAGE = "https://doi.org/10.6084/m9.figshare.c.5779802"

    def rows(self) -> pd.DataFrame:
        columns = ("ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex", "Date")
        table = read_csv(Path(self.config.data_dir or ".", TABLE), columns, "SPH")
        return pd.DataFrame(
            {
                "record_id": table["ECG_ID"],
                "patient_id": table["Patient_ID"],
                "file": "records/" + table["ECG_ID"] + ".h5",
                "labels": [
                    [code.strip() for code in (cell or "").split(";") if code.strip()] for cell in table["AHA_Code"]
                ],
                "age": pd.to_numeric(table["Age"], errors="coerce"),
                "sex": table["Sex"].map({"M": "male", "F": "female"}.get),
                "recording_date": table["Date"],
            }
        )

    def files(self, row: Mapping[str, Any]) -> Sequence[Path]:
        return [Path(self.config.data_dir, row["file"])]

    def read(self, row: Mapping[str, Any]) -> EcgRecord:
        with open_hdf5(self.files(row)[0]) as file:
            if "ecg" not in file:
                raise EcgSourceError(f"Expected an array ecg in {row['file']}, got {list(file)[:5]}.")
            signal = np.asarray(file["ecg"], dtype=np.float32)
        return EcgRecord(signal, RATE, STANDARD_LEADS, record_id=row["record_id"])


__all__ = ["Sph", "SphConfig"]
