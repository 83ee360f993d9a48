"""The cohort of simulated ECGs: a `datasets` builder, and the same records as WFDB files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import wfdb

from ..leads import STANDARD_LEADS
from .ptb_xl import SPLIT_FOLDS, ecg_features
from .simulation import CONDITIONS, FACTORS, SyntheticRecord, parse_condition, simulate_ecg


def _draw_condition(rng: np.random.Generator) -> str:
    """Return sinus rhythm one time in five, else any condition, four in ten with another that it does not exclude."""
    first = "sinus_rhythm" if rng.random() < 0.2 else str(rng.choice(CONDITIONS))
    if first == "sinus_rhythm" or rng.random() < 0.6:
        return first
    pairs = [f"{first}+{name}" for name in CONDITIONS if name != "sinus_rhythm"]
    return str(rng.choice([pair for pair in pairs if _is_possible(pair)]))


def _is_possible(condition: str) -> bool:
    try:
        return bool(parse_condition(condition))
    except ValueError:
        return False


def _synthetic_record(seed: int, ecg_id: int, sampling_rate: float, duration: float) -> SyntheticRecord:
    rng = np.random.default_rng(np.random.SeedSequence([seed, ecg_id]))
    return simulate_ecg(_draw_condition(rng), seed=rng, sampling_rate=sampling_rate, duration=duration)


def _patients(n_records: int, seed: int) -> list[tuple[int, int, str]]:
    """Return patient id, age and sex of records 1, 2, …; those of the first do not depend on `n_records`."""
    draws = np.random.default_rng(np.random.SeedSequence([seed, 0])).random((n_records, 3))
    people = [(i + 1, int(18 + 72 * age), "male" if sex < 0.52 else "female") for i, (_, age, sex) in enumerate(draws)]
    records = 1 + (draws[:, 0] > 0.8) + (draws[:, 0] > 0.95)
    return [person for person, count in zip(people, records) for _ in range(count)][:n_records]


@dataclass
class SyntheticEcgConfig(datasets.BuilderConfig):
    """Configuration of `SyntheticEcg`.

    Args:
        n_records (`int`, defaults to 2000): At least 30, so that each of the ten folds has a patient.
        seed (`int`, defaults to 0): 0 to 2**32 - 1.
        sampling_rate (`float`, defaults to 100.0): Hz.
        duration (`float`, defaults to 10.0): Seconds.
    """

    n_records: int = 2000
    seed: int = 0
    sampling_rate: float = 100.0
    duration: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        # The cache path holds name and version, never a hash of this code: bump the version when a waveform changes.
        self.version = datasets.Version("1.0.0")
        values = f"n{self.n_records}-seed{self.seed}-{self.sampling_rate:g}hz-{self.duration:g}s"
        self.name = values if self.name == "default" else f"{self.name}-{values}"
        if not (self.n_records >= 30 and 0 <= self.seed < 2**32):
            raise ValueError(
                "Expected n_records of at least 30 (each of ten folds needs a patient) and seed of 0 to 2**32 - 1, "
                f"got {self.n_records} and {self.seed}."
            )


class SyntheticEcg(datasets.GeneratorBasedBuilder):
    """Synthetic cohort with the columns of `PtbXl` and the factors that the reports do not mention.

    Splits are those of PTB-XL: train is folds 1-8, validation fold 9, test fold 10; a patient's records share a fold.
    `signal` is int16 in microvolts, shape `(12, samples)`, rows in the order of `STANDARD_LEADS`. The factor columns
    (`FACTORS`) are float32, null where they do not exist (PR interval without P waves). Every record depends only on
    the seed and its own `ecg_id`, so a larger cohort begins with the smaller one.

    Example:

    >>> import tempfile
    >>> cache = tempfile.mkdtemp()
    >>> builder = SyntheticEcg(cache_dir=cache, config_name="tiny", n_records=40, seed=1)
    >>> builder.download_and_prepare()
    >>> cohort = builder.as_dataset()
    >>> sorted(cohort), sum(len(split) for split in cohort.values())
    (['test', 'train', 'validation'], 40)
    """

    BUILDER_CONFIG_CLASS = SyntheticEcgConfig

    def _info(self) -> datasets.DatasetInfo:
        samples = round(self.config.sampling_rate * self.config.duration)
        factors = {name: datasets.Value("float32") for name in FACTORS}
        return datasets.DatasetInfo(
            description=(
                f"Synthetic 12-lead ECGs in microvolts at {self.config.sampling_rate:g} Hz, leads "
                f"{', '.join(STANDARD_LEADS)}. Not recordings of people; not for medical use."
            ),
            features=datasets.Features(ecg_features(samples) | factors),
            license="Apache-2.0",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        patients = _patients(self.config.n_records, self.config.seed)
        rows = [(i, (person[0] - 1) % 10 + 1, *person) for i, person in enumerate(patients, start=1)]
        return [
            datasets.SplitGenerator(split, gen_kwargs={"rows": [row for row in rows if row[1] in members]})
            for split, members in SPLIT_FOLDS.items()
        ]

    def _generate_examples(self, rows: list[tuple[int, int, int, int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.config
        for ecg_id, fold, patient_id, age, sex in rows:
            record = _synthetic_record(config.seed, ecg_id, config.sampling_rate, config.duration)
            yield (
                ecg_id,
                {
                    "ecg_id": ecg_id,
                    "patient_id": patient_id,
                    "age": age,
                    "age_over_89": False,
                    "sex": sex,
                    "strat_fold": fold,
                    "signal": np.rint(record.signal * 1000).astype(np.int16),
                    "report": record.report,
                    "scp_codes": {"code": list(record.scp_codes), "likelihood": list(record.scp_codes.values())},
                    "recording_date": None,
                    "device": "synthetic",
                    "validated_by_human": False,
                    **{name: None if np.isnan(value) else value for name, value in record.factors.items()},
                },
            )


def write_wfdb(
    folder: str | Path, n: int, seed: int = 0, *, sampling_rate: float = 100.0, duration: float = 10.0
) -> list[Path]:
    """Write the first `n` records of the cohort of a seed as WFDB files (format 16, 1000 ADC units per mV).

    The header comments give age, sex and the report; there is no identifier of a person.

    Args:
        folder (`str` or `Path`): Made when absent; gets `synthetic_00001.hea`, `synthetic_00001.dat` and so on.
        n (`int`): Number of records.
        seed (`int`, defaults to 0): As of `SyntheticEcgConfig`: record i equals the row `ecg_id` i of that cohort.
        sampling_rate (`float`, defaults to 100.0): Hz.
        duration (`float`, defaults to 10.0): Seconds.

    Returns:
        `list[Path]`: The headers' paths.

    Example:

    >>> import tempfile
    >>> [path.name for path in write_wfdb(tempfile.mkdtemp(), 2)]
    ['synthetic_00001.hea', 'synthetic_00002.hea']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ecg_id, (_, age, sex) in enumerate(_patients(n, seed), start=1):
        record = _synthetic_record(seed, ecg_id, sampling_rate, duration)
        name = f"synthetic_{ecg_id:05d}"
        wfdb.wrsamp(
            name,
            fs=sampling_rate,
            units=["mV"] * 12,
            sig_name=list(STANDARD_LEADS),
            d_signal=np.rint(record.signal.T * 1000).astype(np.int64),
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            comments=[f"Age: {age}", f"Sex: {sex}", f"Report: {record.report}"],
            write_dir=str(folder),
        )
        paths.append(folder / f"{name}.hea")
    return paths


__all__ = ["SyntheticEcg", "SyntheticEcgConfig", "write_wfdb"]
