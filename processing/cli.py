"""Command line `merit-ecg`: inspect, convert, embed, classify and report, a thin layer over the library.

Exit codes: 0 all well; 1 some of several files failed (they are listed); 2 a file or the command was refused.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modeling_merit import __version__

from .inference import FEATURES, embed_ecgs, generate_reports, load_checkpoint, score_prompts
from .inspection import describe
from .readers import FORMATS, detect_format, open_source, read_ecg
from .record import DISCLAIMER
from .writers import WRITERS, check_suffix, write_ecg

REFUSALS = (ValueError, OSError, ImportError)
"""What a file or checkpoint that cannot be used raises; anything else is a fault of this program and shows as one."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv (`list[str]`, *optional*): Arguments; those of the process when absent.

    Example:

    >>> main(["inspect", "absent.edf", "--json"])  # doctest: +ELLIPSIS
    {"error": {"type": "EcgFormatError", "message": "There is no file 'absent.edf'..."}}
    2
    """
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except REFUSALS as error:
        message = _as_options(str(error))
        if getattr(args, "json", False):
            print(json.dumps({"error": {"type": type(error).__name__, "message": message}}))
        else:
            print(f"merit-ecg: {message}", file=sys.stderr)
        return 2


def _as_options(message: str) -> str:
    """Name the options of the command line where a message of the library names arguments of `read_ecg`."""
    message = message.replace(
        "`leads={'name in the file': 'lead name', 'channel to leave out': None}`",
        '`--leads "name in the file=lead name,channel to leave out="`',
    )
    message = message.replace("truncation=True", "`--truncate`")
    message = message.partition("\nModel type should be one of")[0]  # a hundred classes of transformers
    return re.sub(
        r"`(sampling_rate|leads|units|index|format)=?`", lambda found: f"`--{found[1].replace('_', '-')}`", message
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="merit-ecg", description=f"ECG-text foundation models. {DISCLAIMER}")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    facts = argparse.ArgumentParser(add_help=False)
    stated = facts.add_argument_group("what the file does not say")
    stated.add_argument("--format", choices=FORMATS, help="format of the file, when its content does not show it")
    stated.add_argument("--sampling-rate", type=float, metavar="HZ")
    stated.add_argument("--units", metavar="UNIT", help="mV, uV, nV or V")
    stated.add_argument(
        "--leads",
        type=_lead_names,
        metavar="NAMES",
        help="names of the channels in order (I,II,V1), or of some (col0=I,col1=II; an empty name leaves one out)",
    )
    stated.add_argument("--index", type=int, help="which recording of a file that holds several, from 0")
    model = argparse.ArgumentParser(add_help=False, parents=[facts])
    model.add_argument("files", nargs="+", metavar="FILE")
    model.add_argument("--model", required=True, help="folder or Hub id of a checkpoint")
    model.add_argument("--truncate", action="store_true", help="cut an ECG that is too long for the model")

    command = commands.add_parser("inspect", parents=[facts], help="show what a file holds and how good it is")
    command.add_argument("file", metavar="FILE")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--plot", metavar="IMAGE", help="draw it on ECG paper (.png, .pdf, .svg)")
    command.set_defaults(run=_inspect)
    command = commands.add_parser("convert", parents=[facts], help="write a file in another format")
    command.add_argument("file", metavar="FILE")
    command.add_argument("out", type=Path, metavar="OUT", help="name ending in " + ", ".join(WRITERS))
    command.set_defaults(run=_convert)
    command = commands.add_parser("embed", parents=[model], help="write a table with one embedding per file")
    command.add_argument("--out", type=Path, required=True, metavar="OUT.parquet")
    command.add_argument(
        "--features",
        default="aligned",
        choices=tuple(FEATURES),
        help="aligned: unit vectors to compare with texts; pooled: the mean of the ECG encoder's outputs, for "
        "classifiers; leads: that mean for each lead, one after the other",
    )
    command.set_defaults(run=_embed)
    command = commands.add_parser("classify", parents=[model], help="compare each file with prompts")
    command.add_argument("--prompts", nargs="+", required=True)
    command.add_argument("--json", action="store_true", help="print one JSON object per file")
    command.set_defaults(run=_classify)
    command = commands.add_parser("report", parents=[model], help="write a report of each file")
    command.add_argument("--language", default="English", help="of the report, as the model was taught it")
    command.add_argument("--prompt", help="what the model is asked, with {ecg} in the place of the ECG")
    command.add_argument("--max-new-tokens", type=int, default=128)
    command.add_argument("--json", action="store_true", help="print one JSON object per file")
    command.set_defaults(run=_report)
    return parser


def _lead_names(text: str) -> list[str] | dict[str, str | None]:
    parts = [part.strip() for part in text.split(",")]
    if any("=" in part for part in parts):
        return {name: lead or None for name, _, lead in (part.partition("=") for part in parts)}
    return parts


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("format", "sampling_rate", "leads", "units", "index")}


def _inspect(args: argparse.Namespace) -> int:
    args.format = args.format or detect_format(open_source(args.file))
    record = read_ecg(args.file, **_facts(args))
    summary = describe(record, args.format)
    if args.plot:
        record.plot(args.plot)
    if args.json:
        print(json.dumps(summary, allow_nan=False))
        return 0
    for key in ("format", "record_id", "start_time", "age", "sex", "device", "filters", "unit", "gain"):
        if summary[key] is not None:
            print(f"{key:<14}{summary[key]}")
    print(f"{'signal':<14}{record.n_samples} samples at {record.sampling_rate:g} Hz = {record.duration_s:g} s")
    for lead, peak_to_peak in summary["peak_to_peak_mv"].items():
        print(f"{lead:<14}" + ("no valid sample" if peak_to_peak is None else f"{peak_to_peak:.3f} mV peak to peak"))
    for key, value in (summary["quality"] or {}).items():
        if key not in ("sampling_rate", "duration_s", "peak_to_peak_mv"):  # printed above
            text = ", ".join(value) or "none" if isinstance(value, list) else value
            print(f"{key:<24}{f'{text:.4f}' if isinstance(text, float) else 'unknown' if text is None else text}")
    for note in summary["notes"]:
        print(f"note: {note}")
    print(DISCLAIMER)
    return 0


def _convert(args: argparse.Namespace) -> int:
    check_suffix(args.out)
    if args.out.exists():
        raise ValueError(f"{args.out} exists already. Remove it or choose another name.")
    _check_folder(args.out)
    print(f"{write_ecg(read_ecg(args.file, **_facts(args)), args.out)}\n{DISCLAIMER}")
    return 0


def _check_folder(out: Path) -> None:
    """Refuse a file in a folder that does not exist before any work is done for it."""
    if not out.parent.is_dir():
        raise ValueError(f"There is no folder {str(out.parent)!r}. Make it first.")


def _embed(args: argparse.Namespace) -> int:
    if args.out.suffix != ".parquet":
        raise ValueError(f"Expected --out to end in .parquet, got {args.out.name!r}.")
    _check_folder(args.out)
    import pandas as pd

    model, processor = load_checkpoint(args.model, truncation=args.truncate)
    failures: list[str] = []
    rows = [
        {"file": file, "embedding": embed_ecgs(model, processor, ecg, args.features)[0].numpy()}
        for file, ecg in _each_ecg(args, processor, failures)
    ]
    table = pd.DataFrame(rows, columns=["file", "embedding"])
    table.attrs["disclaimer"] = DISCLAIMER
    table.to_parquet(args.out)
    print(f"{args.out}: {len(rows)} embeddings\n{DISCLAIMER}")
    return _list_failures(failures)


def _classify(args: argparse.Namespace) -> int:
    model, processor = load_checkpoint(args.model, truncation=args.truncate)
    failures: list[str] = []
    for file, ecg in _each_ecg(args, processor, failures):
        fractions = score_prompts(model, processor, ecg, args.prompts).fractions[0].tolist()
        if args.json:
            print(json.dumps({"file": file, "scores": dict(zip(args.prompts, fractions)), "disclaimer": DISCLAIMER}))
            continue
        print(file)
        for fraction, prompt in sorted(zip(fractions, args.prompts), reverse=True):
            print(f"  {fraction:6.3f}  {prompt}")
    if not args.json:
        print(
            f"The fractions compare the prompts with each other; they are not probabilities of disease.\n{DISCLAIMER}"
        )
    return _list_failures(failures)


def _report(args: argparse.Namespace) -> int:
    model, processor = load_checkpoint(args.model, "AutoModelForMultimodalLM", args.truncate)
    options = {"prompt": args.prompt, "language": args.language, "max_new_tokens": args.max_new_tokens}
    failures: list[str] = []
    for file, ecg in _each_ecg(args, processor, failures):
        (text,) = generate_reports(model, processor, ecg, **options)
        if args.json:
            print(json.dumps({"file": file, "report": text, "disclaimer": DISCLAIMER}))
        else:
            print(f"{file}\n  {text}")
    if not args.json:
        print(DISCLAIMER)
    return _list_failures(failures)


def _each_ecg(args: argparse.Namespace, processor: Any, failures: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield each file with the tensors of its ECG; list the files that are refused."""
    from tqdm import tqdm

    for file in tqdm(args.files, unit="ECG", disable=len(args.files) < 2):
        try:
            ecg = processor.feature_extractor(read_ecg(file, **_facts(args)), return_tensors="pt")
        except REFUSALS as error:
            failures.append(f"{file}: {_as_options(str(error))}")
            continue
        yield file, ecg


def _list_failures(failures: list[str]) -> int:
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
