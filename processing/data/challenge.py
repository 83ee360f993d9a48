"""Folders of the PhysioNet/CinC Challenge 2021: WFDB headers whose comments give age, sex and SNOMED CT codes.

Reyna et al., "Will Two Do? Varying Dimensions in Electrocardiography: The PhysioNet/Computing in Cardiology Challenge
2021", CinC 2021, https://doi.org/10.13026/34va-7q14, CC BY 4.0. Chapman/Shaoxing/Ningbo (Zheng et al., Sci Data 7:48,
2020; https://doi.org/10.13026/wgex-er52), Georgia, the unused part of CPSC2018, INCART and PTB are folders of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..readers import read_ecg
from ..record import EcgRecord
from .ecg_builder import EcgBuilder, EcgConfig, EcgSourceError, files_below, state_of


def header_codes(header: Path) -> list[str]:
    """Return the SNOMED CT codes of the comment `Dx` of a WFDB header, in their order, each once.

    Example:

    >>> _ = Path("JS1.hea").write_text("JS1 12 500 5000\\n#Age: 85\\n# Dx: 164889003,59118001, 59118001\\n")
    >>> header_codes(Path("JS1.hea"))
    ['164889003', '59118001']
    """
    for line in header.read_text(encoding="latin-1").splitlines():
        name, _, value = line.lstrip("# ").partition(":")
        if line.startswith("#") and name.strip().lower() == "dx":
            codes = (code.strip() for code in value.split(","))
            return list(dict.fromkeys(code for code in codes if code and code.lower() != "unknown"))
    return []


@dataclass
class ChallengeConfig(EcgConfig):
    """Options of [`Challenge2021`], see [`EcgConfig`]."""

    def sources(self) -> str:
        return state_of(files_below(Path(self.data_dir or "."), (".hea", ".mat", ".dat")))


class Challenge2021(EcgBuilder):
    """A folder of the Challenge 2021, or of one of its data sets, with the columns of [`EcgBuilder`].

    All headers below `data_dir` are taken. `labels` are SNOMED CT codes as recorded; there are no reports. The headers
    name no patient: each record counts as one of its own, which is wrong for PTB and INCART. PTB-XL is part of the
    Challenge without its patients and folds; take [`PtbXl`] for it.

    Args:
        data_dir (`str` or `Path`): Such as `training/georgia`, or `WFDBRecords` of Chapman/Shaoxing/Ningbo.
        **config_kwargs: See [`EcgConfig`].
    """

    BUILDER_CONFIG_CLASS = ChallengeConfig
    HOMEPAGE, LICENSE = "https://physionet.org/content/challenge-2021/", "CC BY 4.0"

    def rows(self) -> pd.DataFrame:
        folder = Path(self.config.data_dir or ".")
        headers = files_below(folder, (".hea",))
        if not headers:
            raise EcgSourceError(f"Expected WFDB headers (.hea) below {str(folder)!r}, got none.")
        names = [header.relative_to(folder).with_suffix("").as_posix() for header in headers]
        files = [header.relative_to(folder).as_posix() for header in headers]
        labels = [header_codes(header) for header in headers]
        return pd.DataFrame({"record_id": names, "patient_id": names, "file": files, "labels": labels})

    def files(self, row: Mapping[str, Any]) -> Sequence[Path]:
        header = Path(self.config.data_dir, row["file"])
        signal = header.with_suffix(".mat")
        return [header, signal if signal.is_file() else header.with_suffix(".dat")]

    def read(self, row: Mapping[str, Any]) -> EcgRecord:
        return read_ecg(self.files(row)[0], "wfdb")


__all__ = ["Challenge2021", "ChallengeConfig", "header_codes"]
