"""What the commands share: options, printing, reading every file of a list."""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NoReturn

from ..inspection import finite, printable
from ..readers import FORMATS, read_ecg

REFUSALS = (ValueError, OSError, ImportError)
"""What a file or checkpoint that cannot be used raises; anything else is a fault of this program and shows as one."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors, which quote file names, do not command the terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def shared_options() -> SimpleNamespace:
    """Return the parent parsers of the commands: `facts` of a file, `output` files, and `model` with files to read."""
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
    output = Parser(add_help=False)
    output.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    model = Parser(add_help=False, parents=[facts])
    model.add_argument("files", nargs="+", metavar="FILE")
    model.add_argument("--model", required=True, help="folder or Hub id of a checkpoint")
    model.add_argument("--truncate", action="store_true", help="cut an ECG that is too long for the model")
    return SimpleNamespace(facts=facts, output=output, model=model)


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
            r"`(sampling_rate|leads|units|index|format)=?`", lambda found: f"`--{found[1].replace('_', '-')}`", message
        )
    )


def lead_names(text: str) -> list[str] | dict[str, str | None]:
    parts = [part.strip() for part in text.split(",")]
    if any("=" in part for part in parts):
        return {name: lead or None for name, _, lead in (part.partition("=") for part in parts)}
    return parts


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("format", "sampling_rate", "leads", "units", "index")}


def each_ecg(args: argparse.Namespace, processor: Any, failures: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield each file with the tensors of its ECG; list the files that are refused."""
    from tqdm import tqdm

    for file in tqdm(args.files, unit="ECG", disable=len(args.files) < 2):
        try:
            ecg = processor.feature_extractor(read_ecg(file, **facts_of(args)), return_tensors="pt")
        except REFUSALS as error:
            failures.append(f"{printable(file, 300)}: {message_of(error)}")
            continue
        yield file, ecg


def list_failures(failures: list[str]) -> int:
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0
