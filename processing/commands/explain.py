"""Show which leads and which tenths of a second drove a score."""

import argparse
from pathlib import Path
from types import SimpleNamespace

from ..inference import load_scorer
from ..inspection import printable
from ..readers import read_ecg
from ..record import DISCLAIMER
from ..writers import check_free, placed
from .common import facts_of, print_json

SUFFIXES = (".png", ".pdf", ".svg")


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "explain",
        parents=[shared.facts, shared.output],
        help="show which leads and tenths of a second drove a score",
        description="Integrated gradients of a classifier's logit, or of the similarity with a text.",
    )
    command.add_argument("file", metavar="FILE")
    command.add_argument("--model", required=True, help="folder or Hub id of a checkpoint")
    command.add_argument("--truncate", action="store_true", help="cut an ECG that is too long for the model")
    target = command.add_mutually_exclusive_group(required=True)
    target.add_argument("--label", help="of a classifier: what the ECG is scored for")
    target.add_argument("--prompt", help="of a model with texts: what the ECG is compared with")
    command.add_argument(
        "--against",
        nargs="+",
        default=(),
        metavar="PROMPT",
        help="explain what speaks for --prompt rather than for the mean of it and these; by similarity alone, which "
        "is part of the score of `classify`",
    )
    command.add_argument("--out", type=Path, metavar="OUT.png", help=f"picture, ending in {', '.join(SUFFIXES)}")
    command.add_argument("--json", action="store_true", help="print all attributions as one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.out is not None:
        if args.out.suffix not in SUFFIXES:
            raise ValueError(f"Expected --out to end in {', '.join(SUFFIXES)}, got {args.out.name!r}.")
        check_free([args.out], args.overwrite)
    from ..explanation import MEANING, explain, plot_explanation

    record = read_ecg(args.file, **facts_of(args))
    model, processor = load_scorer(args.model, truncation=args.truncate)
    getattr(processor, "feature_extractor", processor).refuse_flat = True
    if args.label is not None and hasattr(model, "get_text_features"):
        raise ValueError("Expected --prompt: this model compares ECGs with texts and has no labels.")
    if args.prompt is not None and not hasattr(model, "get_text_features"):
        raise ValueError("Expected --label: this model is a classifier and reads no texts.")
    target = args.prompt if args.label is None else args.label
    explanation = explain(model, processor, record, target, against=args.against)
    if args.out is not None:
        with placed([args.out], args.overwrite) as (path,):
            plot_explanation(record, explanation, path)
    if args.json:
        print_json({"file": args.file} | explanation.to_dict())
        return 0
    kind = explanation.kind.replace("_", " ")
    print(f"{printable(args.file)}: {printable(explanation.target)}")
    print(f"  {kind} {explanation.score:+.3f}, of flat lines {explanation.baseline_score:+.3f}")
    shares = sorted(explanation.lead_shares().items(), key=lambda item: -item[1])
    print("  leads      " + "  ".join(f"{lead} {share:.0%}" for lead, share in shares[:6]))
    for part in explanation.strongest(5):
        place = f"{part['lead']:4} {part['start_s']:5.1f} to {part['stop_s']:.1f} s"
        print(f"  strongest  {place}  {part['attribution']:+.4f}")
    if args.out is not None:
        print(f"  picture    {printable(str(args.out))}")
    print(f"{MEANING}\n{DISCLAIMER}")
    return 0
