"""Write a table with one embedding per ECG."""

import argparse
import json
import os
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..batch_embedding import (
    ENGINES,
    Embedded,
    PartFolder,
    absolute,
    checkpoint_fingerprint,
    embed_to_folder,
    part_schema,
)
from ..inference import FEATURES, embed_ecgs, find_checkpoint, load_checkpoint
from ..inspection import printable
from ..record import DISCLAIMER
from ..record_sources import ECG_SUFFIXES, EcgSource, list_sources
from ..writers import check_free, placed
from .common import counted, each_ecg, facts_of, list_failures, message_of

MOST_NOTES = 20


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "embed",
        parents=[shared.model, shared.output],
        help="write a table with one embedding per ECG",
        description="FILE is an ECG file, a folder, a .parquet table with a column `signal`, @LIST (a text file of "
        "one path per line), or the URL of one of these. After Ctrl-C or a crash the same command goes on. "
        "For a part or windows FILE is an ECG file and OUT ends in .parquet; after Ctrl-C the finished windows are "
        "in OUT.partial.parquet, and the same command begins anew.",
    )
    command.add_argument(
        "--out",
        required=True,
        metavar="OUT.parquet or FOLDER",
        help="a table with a row for every ECG that could be embedded; or a folder or URL, to which parts are added, "
        "with a row for every ECG: embedding or error",
    )
    command.add_argument(
        "--features",
        default="aligned",
        choices=tuple(FEATURES),
        help="aligned: unit vectors to compare with texts; pooled: means and maxima over time inside the ECG encoder, "
        "for classifiers",
    )
    add_source_options(command)
    job = command.add_argument_group("large jobs")
    job.add_argument("--rows-per-part", type=int, default=512, help="ECGs per part, the piece of work of a worker")
    job.add_argument("--retry-failed", action="store_true", help="try again what failed in an earlier run")
    job.add_argument("--engine", default="local", choices=ENGINES, help="ray: on several processes or machines")
    job.add_argument("--workers", type=int, default=1, help="of Ray, each with a CPU and a copy of the model")
    job.add_argument("--address", help="of a Ray cluster, such as auto or ray://host:10001; a local Ray by default")
    command.set_defaults(run=run)


def add_source_options(command: argparse.ArgumentParser) -> None:
    """Add what a command that embeds many ECGs needs besides the options of the model."""
    group = command.add_argument_group("folders and tables")
    group.add_argument("--pattern", metavar="GLOB", help="which files below a folder, such as 'records100/*.hea'")
    group.add_argument("--id-column", metavar="NAME", help="column of a .parquet table with the ids of its records")
    group.add_argument("--batch-size", type=int, default=32, help="ECGs per pass through the model")
    group.add_argument("--device", default="cpu", help="cpu, cuda or another device of torch")


def sources_of(args: argparse.Namespace, places: Sequence[str]) -> list[EcgSource]:
    """Return the ECGs at places of the command line, and say which files below folders are left out."""
    sources = list_sources(places, args.pattern, args.id_column)
    left = Counter[str]()
    for folder in [] if args.pattern is not None else filter(os.path.isdir, places):
        left += _other_formats(folder, {os.path.normpath(source.path) for source in sources})
    if left:
        named = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left.items()))
        print(
            f"merit-ecg: files of other formats are left out ({named}), as a folder gives those of one. Take them "
            f"with --pattern '*{min(left)}' in a call of its own.",
            file=sys.stderr,
        )
    return sources


def _other_formats(folder: str, taken: set[str]) -> Counter[str]:
    """Count the files below a folder that could be ECGs of other formats than those taken, by suffix."""
    others = {".hea", ".parquet", *ECG_SUFFIXES} - {os.path.splitext(path)[1].lower() for path in taken}
    stems = {os.path.splitext(path)[0] for path in taken if path.endswith(".hea")}  # a record's signal may be .mat
    found = Counter[str]()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            stem, suffix = os.path.splitext(os.path.normpath(os.path.join(parent, name)))
            if suffix.lower() in others and stem not in stems and name[0] != ".":
                found[suffix.lower()] += 1
    return found


def run(args: argparse.Namespace) -> int:
    if args.window is not None or args.step is not None or args.start or args.seconds is not None:
        return _embed_parts(args)
    out = str(args.out)
    one_file = Path(out).suffix == ".parquet"
    if not one_file and (Path(out).suffix or out.endswith(".parquet")) and "://" not in out and not Path(out).is_dir():
        raise ValueError(f"Expected --out to end in .parquet, or a folder, got {Path(out).name!r}.")
    if one_file and "://" in out:
        raise ValueError(f"Expected a folder for a URL, got {out!r}. Leave the ending away.")
    folder = out
    if one_file:
        check_free([Path(out)], args.overwrite)
        folder = f"{out}.partial"
    elif not out or "://" not in out and not Path(out).absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(Path(out).parent)!r}. Make it first.")
    sources = sources_of(args, args.files)
    if not sources:
        raise ValueError("Expected ECGs in the folders given, got none. See --pattern.")
    try:
        done = _embed(args, sources, folder)
    except KeyboardInterrupt:
        parts = PartFolder(folder)
        there = parts.fs.isdir(parts.path)  # not yet while the checkpoint is loaded
        kept = sum(len(table) for table in parts.tables(["record_id"])) if there else 0
        print(
            f"\nmerit-ecg: interrupted; {kept} finished rows are kept in {printable(folder)}. The same command goes "
            "on from there.",
            file=sys.stderr,
        )
        return 130
    parts = PartFolder(folder)
    wanted = {source.record_id for source in sources}
    failures = _failures(parts, wanted)
    if one_file:
        _join(parts, Path(out), wanted, len(sources) - len(failures), args.overwrite)
        shutil.rmtree(folder)
    else:
        print(
            f"{printable(out)}: {counted(done.records, 'ECG')}, {done.before} of them done before, "
            f"{done.embedded} embedded now, {done.failed} failed now\n{DISCLAIMER}"
        )
    return list_failures(failures)


def _embed_parts(args: argparse.Namespace) -> int:
    """Write a table with one embedding per part or window of each file."""
    out = Path(args.out)
    if out.suffix != ".parquet" or args.engine != "local":
        raise ValueError("Expected --out to end in .parquet, and no --engine, for parts or windows of files.")
    if args.pattern is not None or args.id_column is not None:
        raise ValueError("Expected files for parts or windows, got --pattern or --id-column of folders and tables.")
    for file in args.files:
        if file.startswith("@") or file.endswith(".parquet") or "://" in file or os.path.isdir(file):
            raise ValueError(f"Expected ECG files for parts or windows, got {file!r}. Name its files one by one.")
    partial = out.with_suffix(".partial.parquet")
    check_free([out, partial], args.overwrite)
    failures: list[str] = []
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {"model": args.model, "weights": checkpoint_fingerprint(find_checkpoint(args.model))}
    about |= {"features": args.features, "disclaimer": DISCLAIMER}
    try:
        model, processor = load_checkpoint(args.model, truncation=args.truncate, device=args.device)
        for place, ecg in each_ecg(args, processor.feature_extractor, failures):
            vector = embed_ecgs(model, processor, ecg, args.features)[0].numpy()
            names = {"record_id": f"{place['file']}@{place['start_s']:.12g}", "file": absolute(place["file"])}
            rows.append(place | names | {"embedding": vector})
    except KeyboardInterrupt:
        if rows:
            _write_windows(rows, partial, about, args.overwrite)
        print(
            f"\nmerit-ecg: interrupted; {len(rows)} finished rows are kept in {printable(str(partial))}. The same "
            "command with --overwrite begins anew.",
            file=sys.stderr,
        )
        return 130
    if rows:
        _write_windows(rows, out, about, args.overwrite)
        print(f"{printable(str(out))}: {counted(len(rows), 'embedding')}\n{DISCLAIMER}")
    else:
        print(f"merit-ecg: no file could be read; {printable(str(out))} is not written.", file=sys.stderr)
    return list_failures(failures)


def _write_windows(rows: list[dict[str, Any]], out: Path, about: dict[str, Any], overwrite: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("record_id", "file", "embedding", "peak_to_peak_mv", "notes")
    fields = [*(part_schema().field(name) for name in names), pa.field("start_s", pa.float64())]
    schema = pa.schema(fields, {"merit_ecg": json.dumps(about)})
    with placed([out], overwrite) as (path,):
        pq.write_table(pa.Table.from_pylist(rows, schema), path)


def _embed(args: argparse.Namespace, sources: Sequence[EcgSource], folder: str) -> Embedded:
    with _Progress(len(sources)) as bar:
        return embed_to_folder(
            sources,
            folder,
            args.model,
            features=args.features,
            facts=facts_of(args),
            truncation=args.truncate,
            batch_size=args.batch_size,
            rows_per_part=args.rows_per_part,
            device=args.device,
            engine=args.engine,
            address=args.address,
            workers=args.workers,
            retry_failed=args.retry_failed,
            overwrite=args.overwrite,
            progress=bar.update,
        )


class _Progress:
    """A bar that appears with the first part, below the one of the weights."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.bar: Any = None

    def update(self, rows: int) -> None:
        from tqdm import tqdm

        self.bar = self.bar or tqdm(total=self.total, unit="ECG", disable=self.total < 2)
        self.bar.update(rows)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _failures(parts: PartFolder, wanted: set[str]) -> list[str]:
    """Return a line for every ECG that failed, and show the first notes on the others."""
    failures, noted = [], 0
    for table in parts.tables(["record_id", "file", "error", "notes"]):
        for row in table.to_pylist():
            if row["record_id"] not in wanted:
                continue
            if row["error"] is not None:
                failures.append(f"{printable(row['file'], 300)}: {message_of(ValueError(row['error']))}")
            for note in row["notes"] or ():
                noted += 1
                if noted <= MOST_NOTES:
                    warnings.warn(f"{printable(row['file'], 300)}: {note}", stacklevel=1)
    if noted > MOST_NOTES:
        print(f"merit-ecg: {noted - MOST_NOTES} more warnings stand in the column `notes`.", file=sys.stderr)
    return failures


def _join(parts: PartFolder, out: Path, wanted: set[str], count: int, overwrite: bool) -> None:
    """Write what the parts hold of the ECGs asked for as one table."""
    if not count:
        print(f"merit-ecg: no file could be read; {printable(str(out))} is not written.", file=sys.stderr)
        return
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    about: dict[str, Any] = parts.about() or {}
    schema = part_schema()
    schema = schema.remove(schema.get_field_index("error")).with_metadata({"merit_ecg": json.dumps(about)})
    ids = pa.array(sorted(wanted))
    with placed([out], overwrite) as (path,), pq.ParquetWriter(path, schema) as writer:
        for table in parts.tables():
            kept = pc.and_(pc.is_null(table["error"]), pc.is_in(table["record_id"], ids))
            writer.write_table(table.filter(kept).select(schema.names).cast(schema))
    print(f"{printable(str(out))}: {counted(count, 'embedding')}\n{DISCLAIMER}")
