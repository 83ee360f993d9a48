"""Show what a file holds and how good it is."""

import argparse
from pathlib import Path
from types import SimpleNamespace

from ..inspection import describe, printable
from ..notebook import LABELS
from ..plotting import FULL_DISCLOSURE, LAYOUTS
from ..readers import detect_format, open_source, read_ecg
from ..record import DISCLAIMER
from ..writers import check_free, placed
from .common import facts_of, part_of, print_json


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "inspect", parents=[shared.facts, shared.part, shared.output], help="show what a file holds and how good it is"
    )
    command.add_argument("file", metavar="FILE")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--plot", metavar="IMAGE", help="draw it on ECG paper (.png, .pdf, .svg)")
    command.add_argument(
        "--layout", default="auto", choices=("auto", *LAYOUTS, FULL_DISCLOSURE), help="of the plot; default: by length"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    args.format = args.format or detect_format(open_source(args.file))
    if args.plot is not None:
        check_free([Path(args.plot)], args.overwrite)
    record = read_ecg(args.file, **facts_of(args), **part_of(args))
    summary = describe(record, args.format)
    if args.plot is not None:
        with placed([Path(args.plot)], args.overwrite) as (path,):
            record.plot(path, layout=args.layout)
    if args.json:
        print_json(summary)
        return 0
    for key in ("format", "record_id", "start_time", "age", "sex", "device", "filters", "unit", "gain"):
        if summary[key] is not None:
            print(f"{key:<14}{printable(str(summary[key]))}")
    print(f"{'signal':<14}{record.n_samples} samples at {record.sampling_rate:g} Hz = {record.duration_s:g} s")
    for lead, peak_to_peak in summary["peak_to_peak_mv"].items():
        print(f"{lead:<14}" + ("no valid sample" if peak_to_peak is None else f"{peak_to_peak:.3f} mV peak to peak"))
    for name, found in summary["measurements"].items():
        if name in LABELS:
            shown = f"{found['value']:.0f} {found['unit']}" if found["valid"] else f"not given: {found['reason']}"
            print(f"{LABELS[name]:<24}{shown}")
    for key, value in (summary["quality"] or {}).items():
        if key not in ("sampling_rate", "duration_s", "peak_to_peak_mv"):  # printed above
            text = ", ".join(value) or "none" if isinstance(value, list) else value
            print(f"{key:<24}{f'{text:.4f}' if isinstance(text, float) else 'unknown' if text is None else text}")
    for note in summary["notes"]:
        print(f"note: {printable(note)}")
    print(DISCLAIMER)
    return 0
