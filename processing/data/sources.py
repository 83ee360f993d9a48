"""Data sets by the names of a command line: builders, tables of files, Parquet folders, Hub ids, and mixtures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi, snapshot_download

from .challenge import Challenge2021
from .code15 import Code15
from .cpsc2018 import Cpsc2018
from .ecg_builder import EcgBuilder
from .mimic_iv_ecg import MimicIvEcg
from .ptb_xl import PtbXl
from .sph import Sph
from .synthetic import SyntheticEcg
from .tables import EcgTable, TableColumns, is_table

FAMILIES: dict[str, type[EcgBuilder]] = {
    "mimic_iv_ecg": MimicIvEcg,
    "code15": Code15,
    "chapman_shaoxing_ningbo": Challenge2021,
    "georgia": Challenge2021,
    "challenge2021": Challenge2021,
    "cpsc2018": Cpsc2018,
    "sph": Sph,
}
"""Builders of public data sets by name; `NAME:FOLDER` names one with its folder."""

BUILDERS = ("ptb_xl", "synthetic", *FAMILIES)


@dataclass(frozen=True)
class SourceOptions:
    """What the names of data sets leave open.

    Args:
        data_dir (`str`, *optional*): Folder of a builder that is named without one.
        sampling_rate (`int`), seconds (`float`): Of the signals.
        num_records (`int`), seed (`int`): Of `synthetic`; the seed also of the order of a mixture.
        columns (`TableColumns`): Of tables of files.
        on_error (`str`): `"raise"` or `"skip"`, for files that cannot be read.
        num_proc (`int`, *optional*): Processes that read files.
    """

    data_dir: str | None = None
    sampling_rate: int = 100
    seconds: float = 10.0
    num_records: int = 2000
    seed: int = 0
    columns: TableColumns = field(default_factory=TableColumns)
    on_error: str = "raise"
    num_proc: int | None = None


def split_names(text: str) -> list[str]:
    """Return the data sets of a mixture, named with commas between; a path that exists is one, commas or not.

    Example:

    >>> split_names("ptb_xl:data/ptb-xl,me/ecgs")
    ['ptb_xl:data/ptb-xl', 'me/ecgs']
    """
    return [text] if Path(text).exists() else [name.strip() for name in text.split(",") if name.strip()]


def family_of(name: str) -> tuple[str, str | None] | None:
    """Return builder and folder of a name such as `"ptb_xl"` or `"georgia:FOLDER"`; `None` if it names no builder."""
    builder, colon, folder = name.partition(":")
    if builder not in BUILDERS or (not colon and Path(name).exists() and name not in ("ptb_xl", "synthetic")):
        return None
    return builder, folder if colon else None


def load_source(name: str, split: str, options: SourceOptions = SourceOptions()) -> datasets.Dataset:
    """Return one split of a data set.

    Args:
        name (`str`): A builder (`BUILDERS`, with `:FOLDER` behind it where `data_dir` is not its folder); a table of
            ECG files, see [`EcgTable`]; a folder or Hub id of a Parquet data set with columns `signal` and `report`;
            or a Hub id of a data set of ECG files with `metadata.csv`.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        options (`SourceOptions`): What the name leaves open.

    Raises:
        ValueError, OSError, datasets.exceptions.DatasetsError: If there is no such data set or split.

    Example:

    >>> table = load_source("synthetic", "validation", SourceOptions(num_records=40))
    >>> table.features["signal"].shape
    (12, 1000)
    """
    prepare: dict[str, Any] = {"num_proc": options.num_proc} if options.num_proc else {}
    frame = {name: getattr(options, name) for name in ("sampling_rate", "seconds", "on_error")}
    family = family_of(name)
    builder: datasets.DatasetBuilder
    if family is None:
        table = name if is_table(name) else _hub_table(name)
        if table is None:
            return datasets.load_dataset(name, split=split)
        builder = EcgTable(table, options.columns, **frame)
    else:
        kind, folder = family[0], family[1] or options.data_dir
        if kind == "synthetic":
            rate = float(options.sampling_rate)
            builder = SyntheticEcg(
                n_records=options.num_records, seed=options.seed, sampling_rate=rate, duration=options.seconds
            )
        elif kind == "ptb_xl":
            # The default unnamed: a cache is known by what was named, and evaluation names nothing.
            skips = {} if options.on_error == "raise" else {"on_error": options.on_error}
            builder = PtbXl(config_name=f"{options.sampling_rate}hz", data_dir=folder, **skips)
        elif folder is None:
            raise ValueError(f"Expected the folder of {kind}: {kind}:FOLDER.")
        else:
            builder = FAMILIES[kind](data_dir=folder, **frame)
    builder.download_and_prepare(**prepare)
    return builder.as_dataset(split)


def _hub_table(name: str) -> str | None:
    """Return the folder of a data set of the Hub that is a table of files, downloaded; `None` if it is something else.

    `load_dataset` would take the files of such a repository for tables, where their names allow it.
    """
    if Path(name).exists():
        return None
    try:
        if not any(Path(file).stem == "metadata" for file in HfApi().list_repo_files(name, repo_type="dataset")):
            return None
        folder = snapshot_download(name, repo_type="dataset")
    except (OSError, ValueError):  # no network, or no such data set: what is in the cache, if anything
        try:
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
        except (OSError, ValueError):
            return None
    return folder if is_table(folder) else None


def mix(tables: Sequence[datasets.Dataset], weights: Sequence[float] | None = None, seed: int = 0) -> datasets.Dataset:
    """Return one table that draws from several, with weights, until each has been drawn whole.

    Rows of the smaller tables are repeated. Without weights the tables follow one another, each row once. Only the
    columns that all have with one type are kept: `signal` and `report` at least.

    Args:
        tables (sequence of `datasets.Dataset`): Signals of one shape.
        weights (sequence of `float`, *optional*): How often each is drawn from, one positive number each.
        seed (`int`): Of the draw.

    Raises:
        ValueError: If weights and tables do not fit, or the tables have no common `signal` and `report`.

    Example:

    >>> a, b = (datasets.Dataset.from_dict({"signal": [name] * 2000, "report": [name] * 2000}) for name in "ab")
    >>> mixed = mix([a, b], [3, 1])
    >>> len(mixed) > 6000, 0.7 < mixed["report"][:].count("a") / len(mixed) < 0.8
    (True, True)
    """
    _check_weights(weights, len(tables))
    if len(tables) == 1:
        return tables[0]
    first = tables[0].features
    common = [name for name in first if all(table.features.get(name) == first[name] for table in tables)]
    if absent := [name for name in ("signal", "report") if name not in common]:
        shapes = [str(table.features.get(absent[0])) for table in tables]
        raise ValueError(
            f"Expected the column {absent[0]!r} of one type in all data sets, got {', '.join(shapes)}. Choose one "
            "--sampling_rate and one --seconds."
        )
    tables = [table.select_columns(common) for table in tables]
    if weights is None:
        return datasets.concatenate_datasets(tables)
    total = sum(weights)
    return datasets.interleave_datasets(
        tables, probabilities=[weight / total for weight in weights], seed=seed, stopping_strategy="all_exhausted"
    )


def _check_weights(weights: Sequence[float] | None, number: int) -> None:
    if weights is not None and (len(weights) != number or min(weights) <= 0):
        raise ValueError(f"Expected a positive weight for each of {number} data sets, got {list(weights)}.")


def load_mixture(
    text: str, split: str, weights: Sequence[float] | None = None, options: SourceOptions = SourceOptions()
) -> datasets.Dataset:
    """Return one split of one or several data sets; only the training split is drawn with weights.

    Raises:
        ValueError, OSError, datasets.exceptions.DatasetsError: As `load_source` and `mix`.
    """
    names = split_names(text)
    _check_weights(weights, len(names))
    tables = [load_source(name, split, options) for name in names]
    return mix(tables, weights if split == "train" else None, options.seed)


def options_of(values: Mapping[str, Any]) -> SourceOptions:
    """Return the options that a command line gives under the names of the scripts; absent ones keep their defaults.

    Example:

    >>> options_of({"sampling_rate": 500, "path_column": "file", "label_columns": None}).columns.path
    'file'
    """
    named = ("path", "report", "patient", "split")
    chosen = {name: values.get(f"{name}_column") for name in named}
    columns = TableColumns(labels=tuple(values.get("label_columns") or ()), **chosen)
    given: dict[str, Any] = {
        name: values[name]
        for name in ("data_dir", "sampling_rate", "seconds", "num_records", "seed", "on_error", "num_proc")
        if values.get(name) is not None
    }
    return SourceOptions(columns=columns, **given)


__all__ = [
    "BUILDERS",
    "FAMILIES",
    "SourceOptions",
    "family_of",
    "load_mixture",
    "load_source",
    "mix",
    "options_of",
    "split_names",
]
