"""Write a checkpoint as ONNX graphs."""

import argparse
from pathlib import Path
from types import SimpleNamespace

from ..benchmark.prompts import LABEL_SETS, load_prompts, read_prompt_file
from ..inspection import printable
from ..readers import read_ecg
from ..record import DISCLAIMER


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "export", parents=[shared.output], help="write a checkpoint as ONNX graphs, to be used without torch"
    )
    command.add_argument("model", metavar="MODEL", help="folder or Hub id of a checkpoint")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made if absent")
    command.add_argument(
        "--prompts",
        help=f"classes whose embeddings are stored: a label set ({', '.join(LABEL_SETS)}) or a .json file of class to "
        "texts",
    )
    command.add_argument("--int8", action="store_true", help="write quantised copies, too")
    command.add_argument(
        "--ecgs",
        nargs="+",
        metavar="FILE",
        help="ECGs to compare the graphs with PyTorch and to calibrate int8; default: simulated ones",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    prompts = None
    if args.prompts is not None:
        prompts = load_prompts(args.prompts) if args.prompts in LABEL_SETS else read_prompt_file(args.prompts)
    ecgs = None if args.ecgs is None else [read_ecg(file) for file in args.ecgs]
    from ..export import export_onnx

    exported = export_onnx(args.model, args.out, prompts=prompts, ecgs=ecgs, int8=args.int8, overwrite=args.overwrite)
    for graph in exported:
        size, difference = f"{graph.size / 1e6:.1f} MB", f"differs from PyTorch by at most {graph.max_difference:.1e}"
        print(f"{printable(str(graph.path))}: {size}, {difference}")
    print(DISCLAIMER)
    return 0
