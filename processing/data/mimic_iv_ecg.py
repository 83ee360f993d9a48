"""MIMIC-IV-ECG as a `datasets` builder: 800,035 ECGs of 10 s of 161,352 patients, with the machine's reports.

Gow et al., "MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset" (version 1.0), PhysioNet,
https://doi.org/10.13026/4nqg-sb35, Open Database License. The folder is PhysioNet's: `record_list.csv`,
`machine_measurements.csv` and WFDB records at 500 Hz below `files/`, aVF before aVL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..readers import read_ecg
from ..record import EcgRecord
from .ecg_builder import EcgBuilder, EcgConfig, EcgSourceError, files_below, read_csv, state_of

RECORDS, MEASUREMENTS = "record_list.csv", "machine_measurements.csv"
REPORT_COLUMNS = tuple(f"report_{line}" for line in range(18))


def join_report(lines: Sequence[str | None]) -> str | None:
    """Return the lines of a machine's report as one text; `None` when all are blank.

    Example:

    >>> join_report(["Sinus rhythm.", " Left axis deviation", None, "", "Abnormal ECG"])
    'Sinus rhythm. Left axis deviation. Abnormal ECG'
    """
    written = [line.strip().rstrip(".") for line in lines if isinstance(line, str)]
    return ". ".join(line for line in written if line) or None


@dataclass
class MimicIvEcgConfig(EcgConfig):
    """Options of [`MimicIvEcg`], see [`EcgConfig`]."""

    def sources(self) -> str:
        folder = Path(self.data_dir or ".")
        files = files_below(folder / "files", (".hea", ".dat"))
        return state_of(files, [folder / RECORDS, folder / MEASUREMENTS])


class MimicIvEcg(EcgBuilder):
    """MIMIC-IV-ECG, with the columns of [`EcgBuilder`]. `report` joins `report_0` to `report_17`; there are no labels.

    Patients are `subject_id`; `record_id` is `study_id`. Age and sex stand in MIMIC-IV, not here.

    Args:
        data_dir (`str` or `Path`): The folder that holds `record_list.csv`.
        **config_kwargs: See [`EcgConfig`].

    ```python
    builder = MimicIvEcg(data_dir="mimic-iv-ecg-1.0", on_error="skip", checksums=True)
    builder.download_and_prepare(num_proc=8)  # killed? The same line goes on where it was.
    dataset = builder.as_dataset()
    ```
    """

    BUILDER_CONFIG_CLASS = MimicIvEcgConfig
    HOMEPAGE, LICENSE = "https://physionet.org/content/mimic-iv-ecg/", "Open Database License v1.0"

    def rows(self) -> pd.DataFrame:
        folder = Path(self.config.data_dir or ".")
        records = read_csv(folder / RECORDS, ("subject_id", "study_id", "path", "ecg_time"), "MIMIC-IV-ECG")
        measured = read_csv(folder / MEASUREMENTS, ("study_id", *REPORT_COLUMNS), "MIMIC-IV-ECG")
        if (twice := records["study_id"].duplicated()).any():
            raise EcgSourceError(
                f"Expected every study_id once in {RECORDS}, got {records['study_id'][twice].iloc[0]}."
            )
        lines = measured[list(REPORT_COLUMNS)].itertuples(index=False, name=None)
        reports = dict(zip(measured["study_id"], map(join_report, lines)))
        return pd.DataFrame(
            {
                "record_id": records["study_id"],
                "patient_id": records["subject_id"],
                "file": records["path"] + ".hea",
                "report": records["study_id"].map(reports.get),
                "recording_date": records["ecg_time"],
            }
        )

    def files(self, row: Mapping[str, Any]) -> Sequence[Path]:
        header = Path(self.config.data_dir, row["file"])
        return [header, header.with_suffix(".dat")]

    def read(self, row: Mapping[str, Any]) -> EcgRecord:
        return read_ecg(self.files(row)[0], "wfdb")


__all__ = ["MimicIvEcg", "MimicIvEcgConfig", "join_report"]
