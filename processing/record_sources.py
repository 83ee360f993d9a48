"""Which ECGs a job works on: files, lists of files, folders, WFDB trees and Parquet, local or in an object store.

A place with `://` in it is a URL of fsspec (`s3://`, `gs://`, `hf://`, `memory://`); its package (`s3fs`, `gcsfs`) has
to be installed and finds its keys where it always does. Everything else is a path.
"""

import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from .readers import read_ecg
from .readers.read import RATE_TOLERANCE
from .readers.source import MAX_FILE_BYTES, millivolts_per
from .readers.wfdb_header import read_header
from .record import EcgFormatError, EcgRecord

ECG_SUFFIXES = (
    *(".edf", ".bdf", ".dcm", ".scp", ".ecg", ".xml", ".npz", ".npy", ".mat", ".h5", ".hdf5"),
    *(".json", ".csv", ".tsv", ".txt"),
)
"""Files that are taken from a folder without WFDB headers and Parquet tables; any of them may be packed, as `.gz`."""

ID_COLUMNS = ("record_id", "ecg_id", "id")
"""Columns of a Parquet table that name its records, in the order in which they are looked for."""


class EcgSource(NamedTuple):
    """Where one ECG is.

    Args:
        record_id (`str`): Its name, unique in a list of sources: the path as given, below a folder the path from
            there, in a table the value of its id column or `file#row`.
        path (`str`): Path or URL of the file.
        row (`int`): Row of a Parquet table; -1 if the file is the ECG.
    """

    record_id: str
    path: str
    row: int = -1


def list_sources(
    places: Iterable[str | os.PathLike], pattern: str | None = None, id_column: str | None = None
) -> list[EcgSource]:
    """Return the ECGs at these places, each once, in the order of the places and by name below a folder.

    Args:
        places (iterable of `str`): Each a file; `@LIST`, a text file of one place per line; a `.parquet` table with a
            column `signal`, and `sampling_rate`, `leads` and `units` where they are not stated for all; or a folder.
            From a folder come the records that its file `RECORDS` lists; else all `.hea` below it; else all
            `.parquet`; else all files that end in one of `ECG_SUFFIXES`. Hidden files and folders are left out.
        pattern (`str`, *optional*): Glob on the path below a folder, such as `"records100/*.hea"` (`*` goes over `/`),
            in the place of that rule.
        id_column (`str`, *optional*): Column of Parquet tables with the record ids; one of `ID_COLUMNS` by default.

    Raises:
        FileNotFoundError: If a list or table does not exist. A missing ECG file fails when it is read, not here.
        ValueError: If two ECGs have the same id.

    Example:

    >>> list_sources(["a.edf", "b/c.hea", "a.edf"])
    [EcgSource(record_id='a.edf', path='a.edf', row=-1), EcgSource(record_id='b/c.hea', path='b/c.hea', row=-1)]
    """
    found: dict[str, EcgSource] = {}
    for source in _sources(places, pattern, id_column):
        if found.setdefault(source.record_id, source) != source:
            raise ValueError(
                f"Expected ids that differ, got {source.record_id!r} in {found[source.record_id].path!r} and in "
                f"{source.path!r}. Pass their common folder, or tables with an id column of their own."
            )
    return list(found.values())


def load_source(source: EcgSource, facts: Mapping[str, Any] | None = None) -> EcgRecord:
    """Read the ECG of a source; files in an object store are copied into a temporary folder for it.

    Args:
        source ([`EcgSource`]): From `list_sources`.
        facts (mapping, *optional*): Arguments of `read_ecg` for what the file does not say.

    Raises:
        EcgFormatError: If it cannot be read as an ECG.
        OSError: If an object store does not deliver it.

    Example:

    >>> load_source(EcgSource("absent.edf", "absent.edf"))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    EcgFormatError: There is no file 'absent.edf': it does not exist. Expected the path of an ECG file.
    """
    facts = dict(facts or {})
    if source.row >= 0:
        return _of_row(source, facts)
    if "://" not in source.path:
        return read_ecg(source.path, **facts)
    with TemporaryDirectory(prefix="merit-ecg-") as folder:
        return read_ecg(_fetch(source.path, Path(folder)), **facts)


def file_system(place: str | os.PathLike) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path in it.

    Raises:
        ImportError: If the package of that kind of URL is not installed; the message names it.

    Example:

    >>> fs, path = file_system("memory://bucket/a.edf")
    >>> type(fs).__name__, path
    ('MemoryFileSystem', '/bucket/a.edf')
    """
    import fsspec

    if "://" not in os.fspath(place):
        return fsspec.filesystem("file"), os.path.abspath(place)
    return fsspec.url_to_fs(os.fspath(place))


def _sources(places: Iterable[str | os.PathLike], pattern: str | None, id_column: str | None) -> Iterator[EcgSource]:
    for place in (str(os.fspath(place)) for place in places):
        if place.startswith("@"):
            fs, path = file_system(place[1:])
            if not fs.isfile(path):
                raise FileNotFoundError(f"There is no list {place[1:]!r}. Expected a text file of one path per line.")
            lines = fs.cat_file(path).decode("utf-8").splitlines()
            yield from _sources(filter(None, map(str.strip, lines)), pattern, id_column)
        elif _is_folder(place):
            yield from _below(place, pattern, id_column)
        elif place.endswith(".parquet"):
            yield from _rows(place, place, id_column)
        else:
            yield EcgSource(place, place)


def _is_folder(place: str) -> bool:
    if "://" in place:
        fs, path = file_system(place)
        return fs.isdir(path)
    try:
        return os.path.isdir(place)
    except ValueError:  # a zero byte in the name
        return False


def _below(folder: str, pattern: str | None, id_column: str | None) -> Iterator[EcgSource]:
    base = folder.rstrip("/")
    names = _walk(folder)
    if pattern is not None:
        chosen = [name for name in names if fnmatch.fnmatch(name, pattern)]
    elif "RECORDS" in names:
        chosen = list(_listed(folder, names, ""))
    else:
        ends: Sequence[tuple[str, ...]] = ((".hea",), (".parquet",), ECG_SUFFIXES)
        chosen = next(filter(None, ([name for name in names if _ends(name, end)] for end in ends)), [])
    for name in chosen:
        if name.endswith(".parquet"):
            yield from _rows(f"{base}/{name}", name, id_column)
        else:
            yield EcgSource(name, f"{base}/{name}")


def _walk(folder: str) -> list[str]:
    """Return the paths of all files below a folder from there, without hidden ones, sorted."""
    if "://" in folder:
        fs, root = file_system(folder)
        paths = [PurePosixPath(path).relative_to(root).as_posix() for path in fs.find(root)]
        return sorted(path for path in paths if not any(part.startswith(".") for part in path.split("/")))
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(parent).relative_to(folder)
        found += [(here / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(found)


def _listed(folder: str, names: Sequence[str], below: str) -> Iterator[str]:
    """Yield the headers that RECORDS names; a line that ends in / names a folder with a RECORDS of its own."""
    fs, root = file_system(folder)
    for line in fs.cat_file(f"{root.rstrip('/')}/{below}RECORDS").decode("utf-8").split():
        if not line.endswith("/"):
            yield below + line if below + line in names else f"{below}{line}.hea"  # r01.edf names a file as it is
        elif f"{below}{line}RECORDS" in names:
            yield from _listed(folder, names, below + line)
        else:
            yield from (name for name in names if name.startswith(below + line) and name.endswith(".hea"))


def _ends(name: str, suffixes: tuple[str, ...]) -> bool:
    name = name.lower()
    return name.endswith((*suffixes, *(suffix + packed for suffix in suffixes for packed in (".gz", ".bz2", ".xz"))))


def _rows(path: str, name: str, id_column: str | None) -> Iterator[EcgSource]:
    for read in (_row_group, _group_ends):
        read.cache_clear()  # the table may have been written anew since
    table = _table(path)
    columns = table.schema_arrow.names
    if "signal" not in columns:
        raise ValueError(f"Expected a column 'signal' in {path!r}, got {', '.join(columns)}.")
    if id_column is not None and id_column not in columns:
        raise ValueError(f"Expected the id column {id_column!r} in {path!r}, got {', '.join(columns)}.")
    column = id_column or next((known for known in ID_COLUMNS if known in columns), None)
    if column is None:
        ids: Iterable[Any] = (f"{name}#{row}" for row in range(table.metadata.num_rows))
    else:
        ids = table.read(columns=[column]).column(0).to_pylist()
    seen: set[str] = set()
    for row, record_id in enumerate(map(str, ids)):
        if record_id in seen:
            raise ValueError(f"Expected ids that differ in {path!r}, got {record_id!r} in two rows of {column!r}.")
        seen.add(record_id)
        yield EcgSource(record_id, path, row)


def _table(path: str) -> Any:
    import pyarrow.parquet as pq

    fs, inner = file_system(path)
    if not fs.isfile(inner):
        raise FileNotFoundError(f"There is no file {path!r}. Expected a Parquet table.")
    return pq.ParquetFile(fs.open(inner, "rb"))


@lru_cache(maxsize=1)  # rows come in order: the group at hand is the one needed next
def _row_group(path: str, group: int) -> Any:
    return _table(path).read_row_group(group)


@lru_cache(maxsize=8)
def _group_ends(path: str) -> tuple[int, ...]:
    metadata = _table(path).metadata
    return tuple(np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]).tolist())


def _of_row(source: EcgSource, facts: Mapping[str, Any]) -> EcgRecord:
    ends = _group_ends(source.path)
    group = int(np.searchsorted(ends, source.row, side="right"))
    table = _row_group(source.path, group)
    place = source.row - (ends[group - 1] if group else 0)
    row = {
        name: table.column(name)[place].as_py()
        for name in ("sampling_rate", "leads", "units", "age", "sex")
        if name in table.column_names
    }
    stated = {
        name: facts.get(name) if row.get(name) is None else row[name] for name in ("sampling_rate", "leads", "units")
    }
    if missing := [f"`{name}`" for name, value in stated.items() if value is None]:
        raise EcgFormatError(
            f"{source.path} says nothing of {', '.join(missing)}: it has no such column. State {', '.join(missing)}."
        )
    leads = stated["leads"]
    for name in stated:
        if row.get(name) is not None and facts.get(name) is not None and not _same(name, row[name], facts[name]):
            raise EcgFormatError(
                f"{source.record_id} has {name} {str(row[name])[:60]} in its table, not {str(facts[name])[:60]} as "
                f"stated. Leave `{name}` out."
            )
    if isinstance(leads, Mapping):
        raise EcgFormatError("Expected names of the rows in order for a Parquet table, got names to rename. List all.")
    value = table.column("signal")[place]
    value = getattr(value, "value", None) if hasattr(value.type, "storage_type") else value
    if value is None or value.values is None:
        raise EcgFormatError(f"{source.record_id} holds no signal.")
    signal = value.values.flatten().to_numpy(zero_copy_only=False).reshape(len(value.values), -1)
    facts_of_person = {name: row[name] for name in ("age", "sex") if row.get(name) is not None}
    millivolts = signal.astype(np.float32) * np.float32(millivolts_per(stated["units"]))
    if np.issubdtype(signal.dtype, np.integer):
        millivolts[signal == np.iinfo(np.int16).min] = np.nan  # `NO_SAMPLE` of the tables of this package
    return EcgRecord(millivolts, stated["sampling_rate"], tuple(leads), record_id=source.record_id, **facts_of_person)


def _same(name: str, of_table: Any, stated: Any) -> bool:
    if name == "units":
        return millivolts_per(of_table) == millivolts_per(stated)
    if name == "leads":
        return isinstance(stated, Mapping) or list(of_table) == list(stated)
    return abs(of_table - stated) <= RATE_TOLERANCE * stated


def _fetch(url: str, folder: Path) -> Path:
    """Copy a file, and with a WFDB header what it names, into a folder; return the copy of the file."""
    fs, path = file_system(url)
    parent, _, name = path.rpartition("/")
    copy = _copy(fs, path, folder / name)
    if copy.suffix == ".hea":
        header = read_header(copy)
        pieces = [_safe(f"{segment}.hea") for segment, _ in header.segments if segment != "~"]
        for piece in dict.fromkeys(pieces):
            header_of_piece = read_header(_copy(fs, f"{parent}/{piece}", folder / piece))
            for file in {_safe(signal.file) for signal in header_of_piece.signals} - {"~"}:
                _copy(fs, f"{parent}/{file}", folder / file)
        for file in {_safe(signal.file) for signal in header.signals} - {"~"}:
            _copy(fs, f"{parent}/{file}", folder / file)
    return copy


def _copy(fs: Any, path: str, target: Path) -> Path:
    try:
        size = fs.size(path)
    except FileNotFoundError:
        raise EcgFormatError(f"There is no file {path!r}. Expected the URL of an ECG file.") from None
    if size is not None and size > MAX_FILE_BYTES:
        raise EcgFormatError(f"{target.name} has {size} bytes; expected at most {MAX_FILE_BYTES}. Split the file.")
    if not target.exists():
        fs.get_file(path, str(target))
    return target


def _safe(name: str) -> str:
    """Refuse what would leave the temporary folder."""
    if not name or name in (".", "..") or any(character in name for character in "/\\:\0"):
        raise EcgFormatError(f"The header names the file {name[:100]!r}; expected a file of its own folder.")
    return name


__all__ = ["ECG_SUFFIXES", "ID_COLUMNS", "EcgSource", "file_system", "list_sources", "load_source"]
