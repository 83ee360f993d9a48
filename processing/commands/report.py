"""Write a report of every file."""

import argparse
from types import SimpleNamespace

from ..inference import REPORT_LANGUAGES, generate_reports, load_checkpoint
from ..inspection import printable
from ..record import DISCLAIMER
from .common import each_ecg, list_failures, name_of, print_json


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("report", parents=[shared.model], help="write a report of each file")
    command.add_argument("--language", default="English", help=f"of the report: {', '.join(REPORT_LANGUAGES)}")
    command.add_argument("--prompt", help="what the model is asked, with {ecg} in the place of the ECG")
    command.add_argument("--max-new-tokens", type=int, default=128)
    command.add_argument("--json", action="store_true", help="print one JSON object per file")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.prompt is None and args.language not in REPORT_LANGUAGES:
        raise ValueError(
            f"Expected --language to be one of {', '.join(REPORT_LANGUAGES)}, in which models learn to write, got "
            f"{args.language!r}. Ask a model that was taught another one with --prompt."
        )
    model, processor = load_checkpoint(args.model, "AutoModelForMultimodalLM", args.truncate)
    processor.feature_extractor.refuse_flat = True
    options = {"prompt": args.prompt, "language": args.language, "max_new_tokens": args.max_new_tokens}
    failures: list[str] = []
    for place, ecg in each_ecg(args, processor.feature_extractor, failures):
        (text,) = generate_reports(model, processor, ecg, **options)
        if args.json:
            print_json(place | {"report": text, "disclaimer": DISCLAIMER})
        else:
            print("\n  ".join((name_of(place), *map(printable, text.splitlines()))))
    if not args.json:
        print(DISCLAIMER)
    return list_failures(failures)
