"""What the commands share: options, printing, reading every file of a list."""

import argparse
import json
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NoReturn

from ..inspection import finite, printable
from ..readers import FORMATS, read_ecg, windows
from ..record import EcgRecord

MAX_LISTED = 5
"""So many failures of one file are listed one by one."""

REFUSALS = (ValueError, OSError, ImportError)
"""What a file or checkpoint that cannot be used raises; anything else is a fault of this program and shows as one."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors, which quote file names, do not command the terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def shared_options() -> SimpleNamespace:
    """Return the parent parsers of the commands.

    These are `facts` of a file, `part` of a file, `output` files, and `model` with the files to read, their parts
    and windows.
    """
    facts = Parser(add_help=False)
    stated = facts.add_argument_group("what the file does not say")
    stated.add_argument("--format", choices=FORMATS, help="format of the file, when its content does not show it")
    stated.add_argument("--sampling-rate", type=float, metavar="HZ")
    stated.add_argument("--units", metavar="UNIT", help="mV, uV, nV or V")
    stated.add_argument(
        "--leads",
        type=lead_names,
        metavar="NAMES",
        help="names of the channels in order (I,II,V1), or of some (col0=I,col1=II; an empty name leaves one out)",
    )
    stated.add_argument("--index", type=int, help="which recording of a file that holds several, from 0")
    part = Parser(add_help=False)
    chosen = part.add_argument_group("which part of the recording")
    chosen.add_argument("--start", type=seconds, default=0.0, metavar="SECONDS", help="where it begins; default: 0")
    chosen.add_argument("--seconds", type=positive_seconds, metavar="SECONDS", help="its length; default: to the end")
    output = Parser(add_help=False)
    output.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    model = Parser(add_help=False, parents=[facts, part])
    cut = model.add_argument_group("windows of a long recording, each with a result of its own")
    cut.add_argument("--window", type=positive_seconds, metavar="SECONDS", help="length of a window")
    cut.add_argument(
        "--step", type=positive_seconds, metavar="SECONDS", help="from one window to the next; default: --window"
    )
    model.add_argument("files", nargs="+", metavar="FILE")
    model.add_argument("--model", required=True, help="folder or Hub id of a checkpoint")
    model.add_argument("--truncate", action="store_true", help="cut an ECG that is too long for the model")
    return SimpleNamespace(facts=facts, part=part, output=output, model=model)


def seconds(text: str) -> float:
    """Return a time of the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 on, got {text!r}")
    return value


def positive_seconds(text: str) -> float:
    """Return a length of time of the command line."""
    value = seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"expected more than 0 seconds, got {text!r}")
    return value


def print_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(finite(content), allow_nan=False))  # escapes all but ASCII, and with it control characters


def message_of(error: Exception) -> str:
    """Return an error in one line, with the options of the command line in the place of arguments of the library."""
    message = str(error).replace(
        "`leads={'name in the file': 'lead name', 'channel to leave out': None}`",
        '`--leads "name in the file=lead name,channel to leave out="`',
    )
    message = message.replace("truncation=True", "`--truncate`").replace("overwrite=True", "`--overwrite`")
    message = message.partition("\nModel type should be one of")[0]  # a hundred classes of transformers
    return printable(
        re.sub(
            r"`(sampling_rate|leads|units|index|format|path_column)=?`",
            lambda found: f"`--{found[1].replace('_', '-')}`",
            message,
        )
    )


def lead_names(text: str) -> list[str] | dict[str, str | None]:
    parts = [part.strip() for part in text.split(",")]
    if any("=" in part for part in parts):
        return {name: lead or None for name, _, lead in (part.partition("=") for part in parts)}
    return parts


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("format", "sampling_rate", "leads", "units", "index")}


def part_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `read_ecg` and `windows` for `--start` and `--seconds`."""
    return {"start_s": args.start, "seconds": args.seconds}


def each_record(args: argparse.Namespace, failures: list[str]) -> Iterator[tuple[dict[str, Any], EcgRecord]]:
    """Yield each file, or each window of it, with what names it in a result; list the files that are refused.

    A result is named by `file`, and by `start_s` where a part or windows are asked for.
    """
    from tqdm import tqdm

    if args.step is not None and args.window is None:
        raise ValueError("Expected --window beside --step, got --step alone.")
    for file in tqdm(args.files, unit="ECG", disable=len(args.files) < 2):
        pieces, number = _pieces(args, file), 0
        while True:
            try:
                start, record = next(pieces)
            except StopIteration:
                if not number:
                    failures.append(
                        f"{printable(file, 300)}: Expected at least one window of {args.window:g} s, got less."
                    )
                break
            except REFUSALS as error:
                failures.append(f"{printable(file, 300)}: {message_of(error)}")
                break
            number += 1
            yield {"file": file} | ({} if start is None else {"start_s": start}), record


def _pieces(args: argparse.Namespace, file: str) -> Iterator[tuple[float | None, EcgRecord]]:
    if args.window is None:
        whole = args.start == 0 and args.seconds is None
        yield None if whole else args.start, read_ecg(file, **facts_of(args), **part_of(args))
        return
    step = args.step or args.window
    for number, record in enumerate(windows(file, args.window, step, **facts_of(args), **part_of(args))):
        yield round(args.start + number * step, 6), record


def each_ecg(args: argparse.Namespace, extractor: Any, failures: list[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield what `each_record` yields, with the tensors of the ECG in the place of the record.

    A result has `notes`, what reader and feature extractor warn of, and `peak_to_peak_mv`, too.
    """
    refused: dict[str, int] = {}
    for place, record in each_record(args, failures):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                ecg = extractor(record, return_quality=True, return_tensors="pt")
        except REFUSALS as error:
            refused[place["file"]] = count = refused.get(place["file"], 0) + 1
            if count <= MAX_LISTED:
                failures.append(f"{name_of(place, 300)}: {message_of(error)}")
            continue
        notes = [*record.notes, *(str(warning.message) for warning in caught)]
        for note in notes:
            warnings.warn(f"{printable(place['file'], 300)}: {note}", stacklevel=1)
        (quality,) = ecg.pop("quality")
        yield place | {"notes": notes, "peak_to_peak_mv": quality["peak_to_peak_mv"]}, ecg
    for file, count in refused.items():
        if count > MAX_LISTED:
            failures.append(f"{printable(file, 300)}: {count - MAX_LISTED} more windows")


def name_of(place: Mapping[str, Any], limit: int = 1000) -> str:
    """Return what names a result as it is printed: the file, and where its part begins."""
    start = place.get("start_s")
    return printable(place["file"], limit) + ("" if start is None else f" at {start:g} s")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:

    >>> counted(1, "ECG"), counted(0, "ECG")
    ('1 ECG', '0 ECGs')
    """
    return f"{number} {noun}" + "s" * (number != 1)


def list_failures(failures: list[str]) -> int:
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0
