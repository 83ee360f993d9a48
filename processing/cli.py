"""Command line `merit-ecg`: inspect, convert, embed, classify and report, a thin layer over the library.

Exit codes: 0 all well; 1 some of several files failed (they are listed); 2 a file or the command was refused.

No file is replaced without `--overwrite`. What files say is printed with control characters escaped.
"""

import argparse
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from modeling_merit import __version__

from .benchmark.prompts import LABEL_SETS, LANGUAGES, SCORE_MEANING, load_prompts, read_prompt_file
from .deidentify import deidentify
from .inference import FEATURES, embed_ecgs, embed_prompts, generate_reports, load_checkpoint, score_embeddings
from .inspection import describe, finite, printable
from .readers import FORMATS, detect_format, open_source, read_ecg
from .record import DISCLAIMER
from .writers import WRITERS, check_free, check_output, placed, write_ecg

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
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return args.run(args)
        except REFUSALS as error:
            message = _message(error)
            if getattr(args, "json", False):
                _print_json({"error": {"type": type(error).__name__, "message": message}})
            else:
                print(f"merit-ecg: {message}", file=sys.stderr)
            return 2


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"merit-ecg: warning: {printable(str(message))}", file=sys.stderr)


def _print_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(finite(content), allow_nan=False))  # escapes all but ASCII, and with it control characters


def _message(error: Exception) -> str:
    """Return an error in one line, with the options of the command line in the place of arguments of the library."""
    message = str(error).replace(
        "`leads={'name in the file': 'lead name', 'channel to leave out': None}`",
        '`--leads "name in the file=lead name,channel to leave out="`',
    )
    message = message.replace("truncation=True", "`--truncate`").replace("overwrite=True", "`--overwrite`")
    message = message.partition("\nModel type should be one of")[0]  # a hundred classes of transformers
    return printable(
        re.sub(
            r"`(sampling_rate|leads|units|index|format)=?`", lambda found: f"`--{found[1].replace('_', '-')}`", message
        )
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose errors, which quote file names, do not command the terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> _Parser:
    parser = _Parser(prog="merit-ecg", description=f"ECG-text foundation models. {DISCLAIMER}")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    facts = _Parser(add_help=False)
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
    output = _Parser(add_help=False)
    output.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    model = _Parser(add_help=False, parents=[facts])
    model.add_argument("files", nargs="+", metavar="FILE")
    model.add_argument("--model", required=True, help="folder or Hub id of a checkpoint")
    model.add_argument("--truncate", action="store_true", help="cut an ECG that is too long for the model")

    command = commands.add_parser("inspect", parents=[facts, output], help="show what a file holds and how good it is")
    command.add_argument("file", metavar="FILE")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--plot", metavar="IMAGE", help="draw it on ECG paper (.png, .pdf, .svg)")
    command.set_defaults(run=_inspect)
    command = commands.add_parser("convert", parents=[facts, output], help="write a file in another format")
    command.add_argument("file", metavar="FILE")
    command.add_argument("out", type=Path, metavar="OUT", help="name ending in " + ", ".join(WRITERS))
    command.add_argument(
        "--deidentify",
        action="store_true",
        help="leave out names, numbers, dates, device, filters and notes, and write 90 for every age above 89; the "
        "signal stays, and the name of OUT is yours to choose",
    )
    command.set_defaults(run=_convert)
    command = commands.add_parser("embed", parents=[model, output], help="write a table with one embedding per file")
    command.add_argument("--out", type=Path, required=True, metavar="OUT.parquet")
    command.add_argument(
        "--features",
        default="aligned",
        choices=tuple(FEATURES),
        help="aligned: unit vectors to compare with texts; pooled: the mean of the ECG encoder's outputs, for "
        "classifiers; leads: that mean for each lead, one after the other",
    )
    command.set_defaults(run=_embed)
    command = commands.add_parser(
        "classify", parents=[model], help="compare each file with prompts", description=SCORE_MEANING
    )
    command.add_argument(
        "--prompts",
        nargs="+",
        required=True,
        help=f"two or more texts; or a label set with prompts of its own ({', '.join(LABEL_SETS)}), as in the "
        "published results; or a .json file of class to texts",
    )
    command.add_argument(
        "--languages", nargs="+", default=LANGUAGES, choices=LANGUAGES, help="of the prompts of a label set"
    )
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
    if args.plot is not None:
        check_free([Path(args.plot)], args.overwrite)
    record = read_ecg(args.file, **_facts(args))
    summary = describe(record, args.format)
    if args.plot is not None:
        with placed([Path(args.plot)], args.overwrite) as (path,):
            record.plot(path)
    if args.json:
        _print_json(summary)
        return 0
    for key in ("format", "record_id", "start_time", "age", "sex", "device", "filters", "unit", "gain"):
        if summary[key] is not None:
            print(f"{key:<14}{printable(str(summary[key]))}")
    print(f"{'signal':<14}{record.n_samples} samples at {record.sampling_rate:g} Hz = {record.duration_s:g} s")
    for lead, peak_to_peak in summary["peak_to_peak_mv"].items():
        print(f"{lead:<14}" + ("no valid sample" if peak_to_peak is None else f"{peak_to_peak:.3f} mV peak to peak"))
    for key, value in (summary["quality"] or {}).items():
        if key not in ("sampling_rate", "duration_s", "peak_to_peak_mv"):  # printed above
            text = ", ".join(value) or "none" if isinstance(value, list) else value
            print(f"{key:<24}{f'{text:.4f}' if isinstance(text, float) else 'unknown' if text is None else text}")
    for note in summary["notes"]:
        print(f"note: {printable(note)}")
    print(DISCLAIMER)
    return 0


def _convert(args: argparse.Namespace) -> int:
    check_output(args.out, args.overwrite)
    record = read_ecg(args.file, **_facts(args))
    if args.deidentify:
        record = deidentify(record)
    print(f"{printable(str(write_ecg(record, args.out, args.overwrite)))}\n{DISCLAIMER}")
    return 0


def _embed(args: argparse.Namespace) -> int:
    if args.out.suffix != ".parquet":
        raise ValueError(f"Expected --out to end in .parquet, got {args.out.name!r}.")
    check_free([args.out], args.overwrite)
    import pandas as pd

    model, processor = load_checkpoint(args.model, truncation=args.truncate)
    failures: list[str] = []
    rows = [
        {"file": file, "embedding": embed_ecgs(model, processor, ecg, args.features)[0].numpy()}
        for file, ecg in _each_ecg(args, processor, failures)
    ]
    if rows:
        table = pd.DataFrame(rows, columns=["file", "embedding"])
        table.attrs["disclaimer"] = DISCLAIMER
        with placed([args.out], args.overwrite) as (path,):
            table.to_parquet(path)
        print(f"{printable(str(args.out))}: {len(rows)} embeddings\n{DISCLAIMER}")
    else:
        print(f"merit-ecg: no file could be read; {printable(str(args.out))} is not written.", file=sys.stderr)
    return _list_failures(failures)


def _classify(args: argparse.Namespace) -> int:
    prompts = _prompts(args)
    model, processor = load_checkpoint(args.model, truncation=args.truncate)
    embedded = embed_prompts(model, processor, prompts)
    for note in embedded.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    failures: list[str] = []
    for file, ecg in _each_ecg(args, processor, failures):
        scores = score_embeddings(embed_ecgs(model, processor, ecg), embedded)
        relative = scores.relative_similarity[0].tolist()
        if args.json:
            content = {"file": file, "scores": dict(zip(embedded.names, relative))}
            content["cosine_similarity"] = dict(zip(embedded.names, scores.cosine_similarity[0].tolist()))
            _print_json(content | {"meaning": SCORE_MEANING, "notes": embedded.notes, "disclaimer": DISCLAIMER})
            continue
        print(printable(file))
        for score, name in sorted(zip(relative, embedded.names), reverse=True):
            print(f"  {score:+.3f}  {printable(name)}")
    if not args.json:
        print(f"{SCORE_MEANING}\n{DISCLAIMER}")
    return _list_failures(failures)


def _prompts(args: argparse.Namespace) -> Sequence[str] | Mapping[str, Sequence[str]]:
    """Return free texts, the prompts of a label set or those of a file."""
    only = args.prompts[0]
    if len(args.prompts) > 1:
        if sets := [text for text in args.prompts if text in LABEL_SETS or text.lower().endswith(".json")]:
            raise ValueError(f"Expected texts, or one label set or file alone, got {sets[0]!r} beside others.")
        return args.prompts
    if only in LABEL_SETS:
        return load_prompts(only, args.languages)
    if only.lower().endswith(".json"):
        return read_prompt_file(only)
    raise ValueError(
        f"Expected two or more prompts, the name of a label set ({', '.join(LABEL_SETS)}) or a .json file of class to "
        f"texts, got {only!r}. A score compares prompts with one another."
    )


def _report(args: argparse.Namespace) -> int:
    model, processor = load_checkpoint(args.model, "AutoModelForMultimodalLM", args.truncate)
    options = {"prompt": args.prompt, "language": args.language, "max_new_tokens": args.max_new_tokens}
    failures: list[str] = []
    for file, ecg in _each_ecg(args, processor, failures):
        (text,) = generate_reports(model, processor, ecg, **options)
        if args.json:
            _print_json({"file": file, "report": text, "disclaimer": DISCLAIMER})
        else:
            print("\n  ".join(printable(line) for line in (file, *text.splitlines())))
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
            failures.append(f"{printable(file, 300)}: {_message(error)}")
            continue
        yield file, ecg


def _list_failures(failures: list[str]) -> int:
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
