"""Write a table with one embedding per file."""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

from ..inference import FEATURES, embed_ecgs, load_checkpoint
from ..inspection import printable
from ..record import DISCLAIMER
from ..writers import check_free, placed
from .common import each_ecg, list_failures


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "embed", parents=[shared.model, shared.output], help="write a table with one embedding per file or window"
    )
    command.add_argument("--out", type=Path, required=True, metavar="OUT.parquet")
    command.add_argument(
        "--features",
        default="aligned",
        choices=tuple(FEATURES),
        help="aligned: unit vectors to compare with texts; pooled: mean and maximum of the ECG encoder's outputs, for "
        "classifiers",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.out.suffix != ".parquet":
        raise ValueError(f"Expected --out to end in .parquet, got {args.out.name!r}.")
    check_free([args.out], args.overwrite)
    import pandas as pd

    model, processor = load_checkpoint(args.model, truncation=args.truncate)
    failures: list[str] = []
    rows = [
        place | {"embedding": embed_ecgs(model, processor, ecg, args.features)[0].numpy()}
        for place, ecg in each_ecg(args, processor, failures)
    ]
    if rows:
        table = pd.DataFrame(rows)
        table.attrs["disclaimer"] = DISCLAIMER
        with placed([args.out], args.overwrite) as (path,):
            table.to_parquet(path)
        print(f"{printable(str(args.out))}: {len(rows)} embeddings\n{DISCLAIMER}")
    else:
        print(f"merit-ecg: no file could be read; {printable(str(args.out))} is not written.", file=sys.stderr)
    return list_failures(failures)
