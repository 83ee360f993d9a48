"""Make an index of ECGs to search in, or add to one."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from ..batch_embedding import PartFolder, checkpoint_fingerprint, embed_sources
from ..inspection import printable
from ..record import DISCLAIMER
from ..record_sources import list_sources
from ..search import ANN_FROM, EcgIndex
from .common import facts_of, list_failures, message_of
from .embed import add_source_options

ROWS_AT_ONCE = 1024


class _Metadata(NamedTuple):
    """A table of metadata: its rows by record id, and the Arrow types of its columns."""

    rows: dict[str, dict[str, Any]]
    types: dict[str, Any]


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "index",
        parents=[shared.facts],
        help="make an index of ECGs to search in, or add to one",
        description="SOURCE is what `merit-ecg embed --features aligned` wrote, or what that command takes: ECG "
        "files, folders, .parquet tables with a column `signal`, @LIST, URLs. ECGs that are in the index are passed "
        "over, so the same command adds what is new.",
    )
    command.add_argument("sources", nargs="+", metavar="SOURCE")
    command.add_argument("--out", required=True, metavar="INDEX", help="folder or URL of the index")
    command.add_argument("--model", help="folder or Hub id of a checkpoint; not needed for embeddings")
    command.add_argument("--truncate", action="store_true", help="cut an ECG that is too long for the model")
    add_source_options(command)
    group = command.add_argument_group("metadata")
    group.add_argument("--metadata", type=Path, metavar="TABLE", help=".csv or .parquet with a row per ECG")
    group.add_argument(
        "--key", metavar="COLUMN", help="column of TABLE with the record ids; their ending may be absent"
    )
    group.add_argument("--columns", nargs="+", metavar="COLUMN", help="columns of TABLE to keep; all by default")
    command.add_argument(
        "--ann",
        default="auto",
        choices=("auto", "yes", "no"),
        help=f"whether to build an approximate index; auto: from {ANN_FROM} ECGs",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    metadata = _metadata(args)
    failures: list[str] = []
    stored = [_embeddings(place) for place in args.sources]
    if any(stored) and not all(stored):
        raise ValueError("Expected embeddings or ECGs, got both. Index one after the other.")
    added = 0
    if all(stored):
        for about, tables in filter(None, stored):
            if about.get("features") != "aligned":
                raise ValueError(
                    f"Expected aligned features, which texts are compared with, got {about.get('features')!r}. Embed "
                    "with `--features aligned`."
                )
            index = EcgIndex.create(args.out, {name: about[name] for name in ("model", "weights")})
            for table in tables:
                rows = [row for row in table.to_pylist() if row["embedding"] is not None]
                added += index.add(_table_of(rows, metadata))
    else:
        index, added = _index_ecgs(args, metadata, failures)
    index.optimize()
    print(f"{printable(args.out)}: {added} ECGs added, {len(index)} in all")
    if len(index) and (args.ann == "yes" or args.ann == "auto" and len(index) >= ANN_FROM):
        if added or not index.has_ann:
            index.build_ann()
        recall = index.measure_recall()
        print(f"approximate index: recall@{recall.k} {recall.value:.3f} over {recall.queries} ECGs of the index")
    print(DISCLAIMER)
    return list_failures(failures)


def _index_ecgs(args: argparse.Namespace, metadata: _Metadata, failures: list[str]) -> tuple[EcgIndex, int]:
    from ..inference import find_checkpoint, load_checkpoint

    if args.model is None:
        raise ValueError("Expected `--model` to embed ECGs with, or what `merit-ecg embed` wrote as SOURCE.")
    weights = checkpoint_fingerprint(find_checkpoint(args.model))
    index = EcgIndex.create(args.out, {"model": args.model, "weights": weights})
    sources = list_sources(args.sources, args.pattern, args.id_column)
    there = index.ids()
    left = [source for source in sources if source.record_id not in there]
    added, waiting = 0, []
    if left:
        from tqdm import tqdm

        model, processor = load_checkpoint(args.model, truncation=args.truncate, device=args.device)
        with tqdm(total=len(left), unit="ECG", disable=len(left) < 2) as bar:
            try:
                for rows in embed_sources(model, processor, left, facts=facts_of(args), batch_size=args.batch_size):
                    bar.update(len(rows))
                    waiting += [row for row in rows if "error" not in row]
                    failures += [
                        f"{printable(row['file'], 300)}: {message_of(ValueError(row['error']))}"
                        for row in rows
                        if "error" in row
                    ]
                    if len(waiting) >= ROWS_AT_ONCE:
                        now, waiting = waiting, []
                        added += index.add(_table_of(now, metadata))
            finally:  # after Ctrl-C, too
                added += index.add(_table_of(waiting, metadata))
    if not len(index):
        print(f"merit-ecg: no file could be read; {printable(args.out)} is empty.", file=sys.stderr)
    return index, added


def _embeddings(place: str) -> tuple[dict[str, Any], Iterator[Any]] | None:
    """Return the description and tables of what `merit-ecg embed` wrote, `None` for anything else."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    if place.startswith("@"):
        return None
    if place.endswith(".parquet") and "://" not in place and Path(place).is_file():
        described = (pq.read_schema(place).metadata or {}).get(b"merit_ecg")
        if described is None:
            return None
        return json.loads(described), (
            pa.Table.from_batches([batch]) for batch in pq.ParquetFile(place).iter_batches(ROWS_AT_ONCE)
        )
    folder = PartFolder(place)
    about = folder.about() if folder.fs.isdir(folder.path) else None
    return None if about is None else (about, folder.tables())


def _metadata(args: argparse.Namespace) -> _Metadata:
    import pandas as pd
    import pyarrow as pa

    if args.metadata is None:
        return _Metadata({}, {})
    if args.key is None:
        raise ValueError(f"Expected `--key`, the column of {args.metadata.name} with the record ids.")
    reader = pd.read_parquet if args.metadata.suffix == ".parquet" else pd.read_csv
    table = reader(args.metadata)
    wanted = [args.key, *(args.columns or ())]
    if missing := [str(name) for name in wanted if name not in table]:
        raise ValueError(f"Expected columns of {args.metadata.name}, got {', '.join(missing)}. See --key, --columns.")
    columns = args.columns or [name for name in table if name != args.key]
    schema = pa.Schema.from_pandas(table[columns], preserve_index=False)
    types = {field.name: pa.string() if pa.types.is_null(field.type) else field.type for field in schema}
    return _Metadata({str(key): row for key, row in zip(table[args.key], table[columns].to_dict("records"))}, types)


def _table_of(rows: Sequence[Mapping[str, Any]], metadata: _Metadata) -> Any:
    """Return rows as the table of an index; what TABLE says goes before what the files say."""
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    types = {"record_id": text, "file": text, "embedding": pa.list_(pa.float32()), "age": number, "sex": text}
    types |= {"sampling_rate": number, "duration_s": number} | metadata.types
    records = []
    for row in rows:
        name = row["record_id"]
        names = (name, str(Path(name).with_suffix("")), Path(name).stem)
        found = next((metadata.rows[each] for each in names if each in metadata.rows), None)
        if metadata.types and found is None:
            raise ValueError(f"Expected a row for every ECG in the table of metadata, got none for {name!r}.")
        records.append(dict(row) | (found or {}))
    columns = [
        pa.array([record.get(name) for record in records], kind, from_pandas=True) for name, kind in types.items()
    ]
    return pa.table(columns, names=list(types))
