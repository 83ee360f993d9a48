"""Write a file in another format."""

import argparse
from pathlib import Path
from types import SimpleNamespace

from ..deidentify import deidentify
from ..inspection import printable
from ..readers import read_ecg
from ..record import DISCLAIMER
from ..writers import WRITERS, check_output, write_ecg
from .common import facts_of, part_of


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "convert",
        parents=[shared.facts, shared.part, shared.output],
        help="write a file, or a part of it, in another format",
    )
    command.add_argument("file", metavar="FILE")
    command.add_argument("out", type=Path, metavar="OUT", help="name ending in " + ", ".join(WRITERS))
    command.add_argument(
        "--deidentify",
        action="store_true",
        help="leave out names, numbers, dates, device, filters and notes, and write 90 for every age above 89; the "
        "signal stays, and the name of OUT is yours to choose",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_output(args.out, args.overwrite)
    record = read_ecg(args.file, **facts_of(args), **part_of(args))
    if args.deidentify:
        record = deidentify(record)
    print(f"{printable(str(write_ecg(record, args.out, args.overwrite)))}\n{DISCLAIMER}")
    return 0
