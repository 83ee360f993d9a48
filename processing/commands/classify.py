"""Compare files with prompts."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from ..benchmark.prompts import LABEL_SETS, LANGUAGES, SCORE_MEANING, load_prompts, read_prompt_file
from ..inference import embed_ecgs, embed_prompts, load_checkpoint, score_embeddings
from ..inspection import printable
from ..record import DISCLAIMER
from .common import each_ecg, list_failures, name_of, print_json


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "classify", parents=[shared.model], help="compare each file with prompts", description=SCORE_MEANING
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
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    prompts = _prompts(args)
    model, processor = load_checkpoint(args.model, truncation=args.truncate)
    embedded = embed_prompts(model, processor, prompts)
    for note in embedded.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    failures: list[str] = []
    for place, ecg in each_ecg(args, processor, failures):
        scores = score_embeddings(embed_ecgs(model, processor, ecg, "scores"), embedded)
        found = scores.score[0].tolist()
        if args.json:
            content = place | {"scores": dict(zip(embedded.names, found))}
            content["cosine_similarity"] = dict(zip(embedded.names, scores.cosine_similarity[0].tolist()))
            print_json(content | {"meaning": SCORE_MEANING, "notes": embedded.notes, "disclaimer": DISCLAIMER})
            continue
        print(name_of(place))
        for score, name in sorted(zip(found, embedded.names), reverse=True):
            print(f"  {score:+.3f}  {printable(name)}")
    if not args.json:
        print(f"{SCORE_MEANING}\n{DISCLAIMER}")
    return list_failures(failures)


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
