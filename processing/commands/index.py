"""Make an index of ECGs to search in, or add to one."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from ..batch_embedding import PartFolder, checkpoint_fingerprint, embed_sources, new_sources
from ..inspection import printable
from ..record import DISCLAIMER
from ..record_sources import EcgSource
from ..search import ANN_FROM, EcgIndex
from .common import counted, facts_of, list_failures, message_of
from .embed import add_source_options, sources_of

ROWS_AT_ONCE = 1024


RESERVED = ("record_id", "file", "embedding")
"""Columns that the index fills itself."""


class _Metadata(NamedTuple):
    """A table of metadata: its rows by key, the Arrow types of its columns, and which ECG has taken which row."""

    rows: dict[str, dict[str, Any]]
    types: dict[str, Any]
    taken: dict[str, str]

    def of(self, record_id: str) -> dict[str, Any]:
        """Return the row of an ECG, whose key is its id, or that without ending, or without folders either."""
        if not self.types:
            return {}
        names = (record_id, str(Path(record_id).with_suffix("")), Path(record_id).stem)
        key = next((name for name in names if name in self.rows), None)
        if key is None:
            raise ValueError(f"Expected a row for every ECG in the table of metadata, got none for {record_id!r}.")
        if (other := self.taken.setdefault(key, record_id)) != record_id:
            raise ValueError(
                f"Expected a row for each ECG in the table of metadata, got one, {key!r}, for both {other!r} and "
                f"{record_id!r}. Put their folders into the keys."
            )
        return self.rows[key]


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
        from ..inference import find_checkpoint

        weights = checkpoint_fingerprint(find_checkpoint(args.model)) if args.model else None
        for about, tables in filter(None, stored):
            if about.get("features") != "aligned":
                raise ValueError(
                    f"Expected aligned features, which texts are compared with, got {about.get('features')!r}. Embed "
                    "with `--features aligned`."
                )
            if weights not in (None, about["weights"]):
                raise ValueError(f"Expected embeddings of {args.model}, got those of {about['model']}, other weights.")
            index = EcgIndex.create(args.out, {name: about[name] for name in ("model", "weights")})
            there = index.files()
            for table in tables:
                rows = [row for row in table.to_pylist() if row["embedding"] is not None]
                new = new_sources([EcgSource(row["record_id"], row["file"]) for row in rows], there, args.out)
                wanted = {source.record_id for source in new}
                added += index.add(_table_of([row for row in rows if row["record_id"] in wanted], metadata))
    else:
        index, added = _index_ecgs(args, metadata, failures)
    index.optimize()
    print(f"{printable(args.out)}: {counted(added, 'ECG')} added, {len(index)} in all")
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
    left = new_sources(sources_of(args, args.sources), index.files(), args.out)
    # What does not fit is refused before anything is embedded.
    rows_to_be = _table_of([{"record_id": source.record_id, "file": source.path} for source in left], metadata)
    index.as_stored(rows_to_be.drop_columns("embedding"))
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
        return _Metadata({}, {}, {})
    if args.key is None:
        raise ValueError(f"Expected `--key`, the column of {args.metadata.name} with the record ids.")
    if args.metadata.suffix == ".parquet":
        table = pd.read_parquet(args.metadata)
    else:
        table = pd.read_csv(args.metadata, converters={args.key: str.strip})  # 00001 stays what it is
    wanted = [args.key, *(args.columns or ())]
    if missing := [str(name) for name in wanted if name not in table]:
        raise ValueError(f"Expected columns of {args.metadata.name}, got {', '.join(missing)}. See --key, --columns.")
    if reserved := [name for name in args.columns or () if name in RESERVED]:
        raise ValueError(f"Expected --columns other than {', '.join(RESERVED)}, got {', '.join(reserved)}.")
    columns = args.columns or [name for name in table if name not in (args.key, *RESERVED)]
    keys = table[args.key]
    if pd.api.types.is_float_dtype(keys):  # whole numbers, and blanks
        keys = keys.astype("Int64")
    named = keys.notna() & (keys != "")
    table, keys = table[named], keys[named].astype(str)
    if keys.duplicated().any():
        twice = keys[keys.duplicated()].iloc[0]
        raise ValueError(f"Expected every key once in {args.metadata.name}, got {twice!r} more than once.")
    schema = pa.Schema.from_pandas(table[columns], preserve_index=False)
    types = {field.name: pa.string() if pa.types.is_null(field.type) else field.type for field in schema}
    return _Metadata(dict(zip(keys, table[columns].to_dict("records"))), types, {})


def _table_of(rows: Sequence[Mapping[str, Any]], metadata: _Metadata) -> Any:
    """Return rows as the table of an index; what TABLE says goes before what the files say."""
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    types = {"record_id": text, "file": text, "embedding": pa.list_(pa.float32()), "age": number, "sex": text}
    types |= {"sampling_rate": number, "duration_s": number} | metadata.types
    records = [dict(row) | metadata.of(row["record_id"]) for row in rows]
    columns = [
        pa.array([record.get(name) for record in records], kind, from_pandas=True) for name, kind in types.items()
    ]
    return pa.table(columns, names=list(types))
