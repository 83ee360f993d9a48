"""Embeddings of many ECGs into a folder of Parquet parts, on this machine or on a Ray cluster.

The records are cut into units of `rows_per_part`. Whoever embeds a unit writes it to a file `_tmp-...`, which readers
of Parquet leave out; this process alone then renames it to `part-...`. So a part is whole or absent, a worker that is
killed and its unit done again leaves no row twice, and a job that is started again embeds what no part holds yet. Ray
Data (https://docs.ray.io/en/latest/data/batch_inference.html) moves the units to actors that hold the model and gives
those of a killed actor or worker to another.

One job at a time writes to a folder.
"""

import hashlib
import json
import logging
import os
import secrets
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .inference import FEATURES, embed_ecgs, find_checkpoint, load_checkpoint
from .record import DISCLAIMER
from .record_sources import EcgSource, file_system, load_source

if TYPE_CHECKING:
    import pyarrow as pa

JOB_FILE = "_job.json"
ENGINES = ("local", "ray")
REFUSALS = (ValueError, OSError, ImportError)
"""What an ECG that cannot be used raises: its row holds the message in `error`, and the job goes on."""

MOST_TRIES = 10
"""How often a unit is begun on Ray, which gives it to another actor after the loss of one: an ECG that ends every
process that reads it ends the job, in place of holding it for ever."""


class Embedded(NamedTuple):
    """What a job did.

    Args:
        records (`int`): ECGs asked for.
        before (`int`): Of these, how many an earlier run of the job had done.
        embedded (`int`), failed (`int`): What this run added: rows with an embedding, and rows with an `error`.
    """

    records: int
    before: int
    embedded: int
    failed: int


def part_schema() -> "pa.Schema":
    """Return the columns of the parts.

    `record_id` is that of the source, `file` its absolute path or URL, `row` its row in a Parquet table, else -1.
    Either `embedding` (float32) or `error` is there. Quality flags are those of the feature extractor, `age` (years)
    and `sex` those that the file states, `notes` what its reader and the feature extractor warn of.

    Example:

    >>> part_schema().names[:4]
    ['record_id', 'file', 'row', 'embedding']
    """
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    return pa.schema(
        [("record_id", text), ("file", text), ("row", pa.int64()), ("embedding", pa.list_(pa.float32()))]
        + [("error", text), ("age", number), ("sex", text), ("sampling_rate", number), ("duration_s", number)]
        + [("peak_to_peak_mv", number), ("nan_fraction", number), ("einthoven_residual_mv", number)]
        + [("limb_lead_reversal", pa.bool_())]
        + [(f"{kind}_leads", pa.list_(text)) for kind in ("flat", "clipped", "derived", "absent")]
        + [("notes", pa.list_(text))]
    )


def embed_sources(
    model: Any,
    processor: Any,
    sources: Iterable[EcgSource],
    features: str = "aligned",
    facts: Mapping[str, Any] | None = None,
    batch_size: int = 32,
) -> Iterator[list[dict[str, Any]]]:
    """Embed ECGs in batches of one length, so that none is padded and each gets the embedding it gets alone.

    Args:
        model (`MeritModel`), processor (`MeritProcessor`): As from `load_checkpoint`.
        sources (iterable of [`EcgSource`]): They are read as they come; up to `batch_size` of every length wait.
        features (`str`): A key of `inference.FEATURES`.
        facts (mapping, *optional*): Arguments of `read_ecg` for what the files do not say.
        batch_size (`int`): ECGs per pass through the model.

    Yields:
        `list[dict]`: Rows of `part_schema`, in the order in which batches fill; `embedding` is a float32 array.

    Example:

    >>> from modeling_merit import MeritFeatureExtractor
    >>> [[row]] = embed_sources(None, MeritFeatureExtractor(), [EcgSource("a", "absent.edf")])
    >>> row["record_id"], row["error"][:16]
    ('a', 'There is no file')
    """
    import numpy as np

    extractor = getattr(processor, "feature_extractor", processor)
    waiting: dict[int, list[tuple[dict[str, Any], Any]]] = defaultdict(list)

    def finish(length: int) -> list[dict[str, Any]]:
        batch = waiting.pop(length)
        tensors = {name: np.concatenate([ecg[name] for _, ecg in batch]) for name in ("input_values", "ecg_mask")}
        vectors = embed_ecgs(model, processor, _torch(tensors), features).numpy()
        return [row | {"embedding": vector} for (row, _), vector in zip(batch, vectors)]

    for source in sources:
        row: dict[str, Any] = {"record_id": source.record_id, "file": absolute(source.path), "row": source.row}
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                record = load_source(source, facts)
                ecg = extractor(record, return_quality=True, return_tensors="np")
        except REFUSALS as error:
            yield [row | {"error": str(error)}]
            continue
        quality = ecg.pop("quality")[0]
        notes = [*record.notes, *(str(warning.message) for warning in caught)]
        row |= {name: value for name, value in quality.items() if name in part_schema().names}
        row |= {"age": record.age, "sex": record.sex, "notes": notes}
        length = ecg["input_values"].shape[-1]
        waiting[length].append((row, ecg))
        if len(waiting[length]) >= batch_size:
            yield finish(length)
    for length in list(waiting):
        yield finish(length)


def embed_to_folder(
    sources: Sequence[EcgSource],
    out: str | os.PathLike,
    checkpoint: str,
    *,
    features: str = "aligned",
    facts: Mapping[str, Any] | None = None,
    truncation: bool = False,
    batch_size: int = 32,
    rows_per_part: int = 512,
    device: str = "cpu",
    engine: str = "local",
    address: str | None = None,
    workers: int = 1,
    retry_failed: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], Any] = lambda rows: None,
) -> Embedded:
    """Embed what the folder does not hold yet and write it there as parts, a row for every ECG, failed or not.

    Args:
        sources (sequence of [`EcgSource`]): From `record_sources.list_sources`.
        out (`str`): Folder or URL; made when absent.
        checkpoint (`str`): Folder or Hub id; with a cluster, one that every node can read.
        features (`str`): A key of `inference.FEATURES`.
        facts (mapping, *optional*): Arguments of `read_ecg` for what the files do not say.
        truncation (`bool`): Whether ECGs longer than the model accepts are cut instead of refused.
        batch_size (`int`), rows_per_part (`int`): ECGs per pass through the model, and per part.
        device (`str`): Where the model goes; with Ray, `"cuda"` reserves one GPU for every actor.
        engine (`str`): `"local"`: this process; `"ray"`: Ray Data, which needs the extra `ray`.
        address (`str`, *optional*): Of a running Ray cluster (`"auto"`, `"ray://host:10001"`); `None` starts Ray on
            this machine for the time of the job.
        workers (`int`): Ray actors that hold the model, each with one CPU.
        retry_failed (`bool`): Whether ECGs that failed in an earlier run are tried again.
        overwrite (`bool`): Whether the parts of another job (other weights, features, facts, or other files of the
            same ids) are deleted.
        progress (callable): Called with the number of rows of every part that is written.

    Returns:
        [`Embedded`].

    Raises:
        ValueError: If the folder holds parts of another job, or other files of the same ids, or the checkpoint is
            none.
        KeyboardInterrupt: After the rows that were finished have been written.
        ImportError: If the engine is not installed.

    Example:

    >>> embed_to_folder([], "embeddings", "absent")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    FileNotFoundError: There is no folder 'absent', and no model of that name could be had from the Hub
    """
    if engine not in ENGINES:
        raise ValueError(f"Expected engine to be one of {', '.join(ENGINES)}, got {engine!r}.")
    if min(batch_size, rows_per_part, workers) < 1:
        raise ValueError(f"Expected positive sizes, got {batch_size=}, {rows_per_part=} and {workers=}.")
    if features not in FEATURES:
        raise ValueError(f"Expected features to be one of {', '.join(FEATURES)}, got {features!r}.")
    about: dict[str, Any] = {"model": checkpoint, "weights": checkpoint_fingerprint(find_checkpoint(checkpoint))}
    about |= {"features": features, "truncation": truncation, "facts": _plain(facts), "disclaimer": DISCLAIMER}
    folder = PartFolder(out)
    folder.start(about, overwrite)
    try:
        new_sources(sources, folder.files(), os.fspath(out))
    except ValueError as error:
        if not overwrite:
            raise ValueError(f"{error} Or replace what is there with overwrite=True.") from None
        folder.clear()
    if retry_failed:
        folder.drop_failed(source.record_id for source in sources)
    left = new_sources(sources, folder.files(), os.fspath(out))
    units = [left[start : start + rows_per_part] for start in range(0, len(left), rows_per_part)]
    run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    work = {"checkpoint": checkpoint, "features": features, "facts": dict(facts or {}), "truncation": truncation}
    work |= {"batch_size": batch_size, "device": device, "out": os.fspath(out), "about": about, "run": run}
    work |= {"directory": os.getcwd(), "most_tries": MOST_TRIES}
    embedded = failed = 0
    written = _on_ray(units, work, address, workers) if engine == "ray" else _here(units, work)
    for name, rows, errors in written if units else ():
        folder.commit(name)
        embedded, failed = embedded + rows - errors, failed + errors
        progress(rows)
    return Embedded(len(sources), len(sources) - len(left), embedded, failed)


class PartFolder:
    """A folder of parts, on a disk or in an object store.

    Args:
        place (`str`): Path or URL.
    """

    def __init__(self, place: str | os.PathLike) -> None:
        self.fs, path = file_system(place)
        self.path = path.rstrip("/")

    def start(self, about: Mapping[str, Any], overwrite: bool = False) -> None:
        """Say in the folder what job its parts are of; remove what an interrupted run left unfinished.

        Raises:
            ValueError: If they are of another job and may not be replaced, or the folder holds other Parquet files.
        """
        self.fs.makedirs(self.path, exist_ok=True)
        found = self.about()
        compared = ("weights", "features", "truncation", "facts")
        if found is None:
            if self._named("", ".parquet"):
                raise ValueError(f"{self.path!r} holds Parquet files and no {JOB_FILE}. Choose another folder.")
        elif any(found.get(name) != about[name] for name in compared):
            if not overwrite:
                other = ", ".join(f"{name} {found.get(name)!r}" for name in compared if found.get(name) != about[name])
                raise ValueError(
                    f"{self.path!r} holds embeddings of another job ({other}). Choose another name, or replace them "
                    "with overwrite=True."
                )
            self.clear()
        for path in [*self._named("_tmp-"), *self._named("_try-", "")]:
            self.fs.rm_file(path)
        if found != dict(about):
            self.fs.pipe_file(f"{self.path}/{JOB_FILE}", json.dumps(about, indent=1).encode())

    def about(self) -> dict[str, Any] | None:
        """Return what the folder says of its job, `None` if it says nothing."""
        self.fs.invalidate_cache()
        path = f"{self.path}/{JOB_FILE}"
        return json.loads(self.fs.cat_file(path)) if self.fs.isfile(path) else None

    def parts(self) -> list[str]:
        """Return the paths of the parts in the order in which they were written."""
        return self._named("part-")

    def _named(self, start: str, end: str = ".parquet") -> list[str]:
        self.fs.invalidate_cache()
        names = [path.rpartition("/")[2] for path in self.fs.ls(self.path, detail=False)]
        return [f"{self.path}/{name}" for name in sorted(names) if name.startswith(start) and name.endswith(end)]

    def tables(self, columns: Sequence[str] | None = None) -> Iterator["pa.Table"]:
        """Yield one part after the other."""
        import pyarrow.parquet as pq

        for path in self.parts():
            with self.fs.open(path, "rb") as file:
                # In this thread: one of Arrow's that holds a Python file when the interpreter ends aborts the process.
                part = pq.ParquetFile(file, pre_buffer=False)
                yield part.read(None if columns is None else list(columns), use_threads=False)

    def files(self) -> dict[str, str]:
        """Return the files of all records that have a row, with an embedding or an error, by id."""
        found: dict[str, str] = {}
        for table in self.tables(["record_id", "file"]):
            found.update(zip(table["record_id"].to_pylist(), table["file"].to_pylist()))
        return found

    def ids(self) -> set[str]:
        """Return the ids of all records that have a row."""
        return set(self.files())

    def clear(self) -> None:
        """Delete the parts."""
        for path in self.parts():
            self.fs.rm_file(path)

    def write(self, rows: Sequence[Mapping[str, Any]], name: str, about: Mapping[str, Any]) -> None:
        """Write rows as a file that is no part yet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = part_schema().with_metadata({"merit_ecg": json.dumps(about)})
        columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
        with self.fs.open(f"{self.path}/_tmp-{name}.parquet", "wb") as file:
            pq.write_table(pa.table(columns, schema=schema), file)

    def count_try(self, name: str) -> int:
        """Return how often this has been called for a unit, this time counted."""
        path = f"{self.path}/_try-{name}"
        self.fs.invalidate_cache()
        count = 1 + (int(self.fs.cat_file(path)) if self.fs.isfile(path) else 0)
        self.fs.pipe_file(path, str(count).encode())
        return count

    def commit(self, name: str) -> None:
        """Make a written file a part."""
        self.fs.mv(f"{self.path}/_tmp-{name}.parquet", f"{self.path}/part-{name}.parquet")
        if self.fs.isfile(f"{self.path}/_try-{name}"):
            self.fs.rm_file(f"{self.path}/_try-{name}")

    def drop_failed(self, ids: Iterable[str]) -> None:
        """Take the rows of these records that have an error out of the parts."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        tried = pa.array(list(ids), pa.string())
        for path, table in zip(self.parts(), list(self.tables())):
            others = pc.invert(pc.is_in(table["record_id"], tried))
            kept = table.filter(pc.or_(pc.is_null(table["error"]), others))
            if len(kept) == len(table):
                continue
            temporary = f"{self.path}/_tmp-{path.rpartition('/')[2]}"
            with self.fs.open(temporary, "wb") as file:
                pq.write_table(kept, file)
            self.fs.mv(temporary, path)


def new_sources(sources: Sequence[EcgSource], held: Mapping[str, str | None], place: str) -> list[EcgSource]:
    """Return the sources that a place does not hold yet.

    Args:
        sources (sequence of [`EcgSource`]): What is asked for.
        held (mapping of `str` to `str`): The files of the place by id, `None` where it does not say them.
        place (`str`): Its name, for the message.

    Raises:
        ValueError: If it holds another file under the same id.

    Example:

    >>> new_sources([EcgSource("a", "day1/a.edf"), EcgSource("b", "day1/b.edf")], {"a": "./day1/a.edf"}, "out")
    [EcgSource(record_id='b', path='day1/b.edf', row=-1)]
    """
    for source in sources:
        file = held.get(source.record_id)
        if file is not None and not _is_same(file, source.path):
            raise ValueError(
                f"Expected ids that differ, got {source.record_id!r} for {absolute(file)!r}, which {place!r} holds, "
                f"and for {absolute(source.path)!r}. Choose another place, or begin anew with their common folder, "
                "whose ids tell them apart."
            )
    return [source for source in sources if source.record_id not in held]


def absolute(path: str) -> str:
    """Return a path from the root, which means the same in every working folder; a URL as it is."""
    return path if "://" in path else os.path.abspath(path)


def _is_same(file: str, other: str) -> bool:
    file, other = absolute(file), absolute(other)
    return file == other or "://" not in file + other and os.path.realpath(file) == os.path.realpath(other)


def checkpoint_fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the weights and JSON files of a checkpoint, the first 16 hexadecimal digits.

    Example:

    >>> checkpoint_fingerprint(Path("absent"))
    'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json"), *folder.glob("tokenizer.json")]):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(2**22):
                digest.update(block)
    return digest.hexdigest()[:16]


class _UnitEmbedder:
    """Holds the model; embeds a unit of sources and writes its rows. An actor of Ray, and what this process uses."""

    def __init__(self, work: Mapping[str, Any]) -> None:
        if os.path.isdir(work["directory"]):  # paths are those of the process that started the job
            os.chdir(work["directory"])
        self.work = work
        self.folder = PartFolder(work["out"])
        self.model, self.processor = load_checkpoint(
            work["checkpoint"], truncation=work["truncation"], device=work["device"]
        )

    def rows(self, sources: Sequence[EcgSource]) -> Iterator[list[dict[str, Any]]]:
        names = ("features", "facts", "batch_size")
        return embed_sources(self.model, self.processor, sources, **{name: self.work[name] for name in names})

    def write(self, rows: list[dict[str, Any]], unit: int, sources: Sequence[EcgSource]) -> tuple[str, int, int]:
        name, place = f"{self.work['run']}-{unit:06d}", {source.record_id: i for i, source in enumerate(sources)}
        self.folder.write(sorted(rows, key=lambda row: place[row["record_id"]]), name, self.work["about"])
        return name, len(rows), sum("error" in row for row in rows)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed one unit, a row of the data set of Ray."""
        unit = int(batch["unit"][0])
        sources = [EcgSource(*source) for source in json.loads(batch["sources"][0])]
        tries = self.work["most_tries"]
        if self.folder.count_try(f"{self.work['run']}-{unit:06d}") > tries:
            raise RuntimeError(
                f"{tries} processes were lost over the ECGs {sources[0].record_id!r} to {sources[-1].record_id!r}. "
                "Look for too little memory, or embed these one by one."
            )
        rows = [row for rows in self.rows(sources) for row in rows]
        name, count, errors = self.write(rows, unit, sources)
        return {"name": [name], "rows": [count], "errors": [errors]}


def _here(units: Sequence[Sequence[EcgSource]], work: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    embedder = _UnitEmbedder(work)
    for unit, sources in enumerate(units):
        rows: list[dict[str, Any]] = []
        try:
            for finished in embedder.rows(sources):
                rows += finished
            written = embedder.write(rows, unit, sources)
        except BaseException:
            if rows:  # an interrupt, or a fault of the model: what is finished stays
                yield embedder.write(rows, unit, sources)
            raise
        yield written


def _on_ray(
    units: Sequence[Sequence[EcgSource]], work: Mapping[str, Any], address: str | None, workers: int
) -> Iterator[tuple[str, int, int]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError('Ray is not installed. Install it: pip install "ray[data]>=2.50,<3".') from None
    own = not ray.is_initialized()
    if own:
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        here = {"num_cpus": workers, "object_store_memory": 128 * 2**20, "include_dashboard": False}
        ray.init(**({"address": "local"} | here if address is None else {"address": address}), **quiet)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        items = [{"unit": unit, "sources": json.dumps(sources)} for unit, sources in enumerate(units)]
        data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _UnitEmbedder,
            fn_constructor_args=(dict(work),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
            num_cpus=1,
            num_gpus=1 if str(work["device"]).startswith("cuda") else 0,
        )
        for row in data.iter_rows():
            yield row["name"], row["rows"], row["errors"]
    finally:
        if own:
            ray.shutdown()


def _torch(tensors: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value) for name, value in tensors.items()}


def _plain(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return facts as JSON gives them back, without those that are not stated."""
    return json.loads(json.dumps({name: value for name, value in (facts or {}).items() if value is not None}))


__all__ = [
    "ENGINES",
    "Embedded",
    "PartFolder",
    "absolute",
    "checkpoint_fingerprint",
    "embed_sources",
    "embed_to_folder",
    "new_sources",
    "part_schema",
]
