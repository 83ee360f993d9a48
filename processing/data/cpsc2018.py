"""CPSC2018 in its own layout: MATLAB structs beside `REFERENCE.csv`, nine classes.

Liu et al., "An Open Access Database for Evaluating the Algorithms of Electrocardiogram Rhythm and Morphology
Abnormality Detection", J Med Imaging Health Inform 8:1368 (2018), http://2018.icbeb.org/Challenge.html.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..readers import read_ecg
from ..record import EcgRecord
from .ecg_builder import EcgBuilder, EcgConfig, EcgSourceError, files_below, read_csv, state_of

CLASSES = ("Normal", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE")
"""Names of the labels 1 to 9."""

LABEL_COLUMNS = ("First_label", "Second_label", "Third_label")


def _references(folder: Path) -> list[Path]:
    return [path for path in files_below(folder, (".csv",)) if path.name.upper().startswith("REFERENCE")]


@dataclass
class Cpsc2018Config(EcgConfig):
    """Options of [`Cpsc2018`], see [`EcgConfig`]."""

    def sources(self) -> str:
        folder = Path(self.data_dir or ".")
        return state_of(files_below(folder, (".mat",)), _references(folder))


class Cpsc2018(EcgBuilder):
    """CPSC2018, with the columns of [`EcgBuilder`]. Recordings of 6 to 144 s at 500 Hz; each of a patient of its own.

    Args:
        data_dir (`str` or `Path`): The folder with `REFERENCE.csv`, the `.mat` files in it or in its folders.
        **config_kwargs: See [`EcgConfig`].
    """

    BUILDER_CONFIG_CLASS = Cpsc2018Config
    HOMEPAGE = "http://2018.icbeb.org/Challenge.html"

    def rows(self) -> pd.DataFrame:
        folder = Path(self.config.data_dir or ".")
        path = next(iter(_references(folder)), folder / "REFERENCE.csv")
        table = read_csv(path, ("Recording", *LABEL_COLUMNS), "CPSC2018")
        files = {file.stem: file.relative_to(folder).as_posix() for file in files_below(folder, (".mat",))}
        return pd.DataFrame(
            {
                "record_id": table["Recording"],
                "patient_id": table["Recording"],
                "file": [files.get(name, f"{name}.mat") for name in table["Recording"]],
                "labels": [_names(cells) for cells in table[list(LABEL_COLUMNS)].itertuples(index=False, name=None)],
            }
        )

    def files(self, row: Mapping[str, Any]) -> Sequence[Path]:
        return [Path(self.config.data_dir, row["file"])]

    def read(self, row: Mapping[str, Any]) -> EcgRecord:
        return read_ecg(self.files(row)[0], "matlab")


def _names(cells: Sequence[str | None]) -> list[str]:
    try:
        numbers = [int(float(cell)) for cell in cells if cell is not None]
        return [CLASSES[(1, 2, 3, 4, 5, 6, 7, 8, 9).index(number)] for number in numbers]
    except ValueError:
        raise EcgSourceError(f"Expected labels of 1 to 9 in the reference of CPSC2018, got {cells}.") from None


__all__ = ["CLASSES", "Cpsc2018", "Cpsc2018Config"]
