"""Find the ECGs of an index that are nearest to a text or to an ECG."""

import argparse
import sys
import warnings
from types import SimpleNamespace
from typing import Any

from ..inspection import printable
from ..record import DISCLAIMER
from ..search import EcgIndex, embed_text
from .common import facts_of, print_json

MEANING = "Similarity is the cosine of the model's vectors, not a probability and not a diagnosis."


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "search",
        parents=[shared.facts],
        help="find the ECGs of an index that are nearest to a text or an ECG",
        description=MEANING,
    )
    command.add_argument("index_place", metavar="INDEX", help="folder or URL that `merit-ecg index` wrote")
    command.add_argument("text", nargs="?", help="words of a report, such as linksschenkelblock")
    command.add_argument("--ecg", metavar="FILE", help="an ECG in the place of a text")
    command.add_argument("--where", metavar="SQL", help="""condition on the columns, such as "age > 60" """)
    command.add_argument("-k", type=int, default=10, help="how many")
    command.add_argument("--exact", action="store_true", help="look at every ECG, also with an approximate index")
    command.add_argument("--nprobes", type=int, default=20, help="partitions of the approximate index to look at")
    command.add_argument("--columns", nargs="+", metavar="COLUMN", help="which columns to show")
    command.add_argument("--model", help="the checkpoint that made the index, if it is elsewhere now")
    command.add_argument("--truncate", action="store_true", help="cut an ECG that is too long for the model")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..batch_embedding import checkpoint_fingerprint
    from ..inference import embed_ecgs, find_checkpoint, load_checkpoint

    if (args.text is None) == (args.ecg is None):
        raise ValueError("Expected a text or `--ecg FILE`, one of them.")
    index = EcgIndex(args.index_place)
    columns = args.columns or [name for name in ("record_id", "age", "sex", "report") if name in index.columns]
    if unknown := [name for name in columns if name not in index.columns]:
        raise ValueError(f"Expected columns of the index ({', '.join(index.columns)}), got {', '.join(unknown)}.")
    checkpoint = args.model or index.about.get("model")
    if checkpoint is None:
        raise ValueError("Expected --model: the index does not say which checkpoint its vectors are of.")
    index.check_weights(checkpoint_fingerprint(find_checkpoint(checkpoint)))
    model, processor = load_checkpoint(checkpoint, truncation=args.truncate)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if args.text is not None:
            vector = embed_text(model, processor, args.text)
        else:
            from ..readers import read_ecg

            processor.feature_extractor.refuse_flat = True
            vector = embed_ecgs(model, processor, read_ecg(args.ecg, **facts_of(args)))[0].numpy()
    notes = [str(warning.message) for warning in caught]
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    how: dict[str, Any] = {"k": args.k, "where": args.where, "exact": args.exact, "nprobes": args.nprobes}
    found = index.search(vector, columns=columns, **how).to_dict("records")
    if args.json:
        query = {"text": args.text} if args.text is not None else {"ecg": args.ecg}
        about = {"meaning": MEANING, "notes": notes, "disclaimer": DISCLAIMER}
        print_json({**query, "where": args.where, "results": found, **about})
        return 0
    if not found:
        print("No ECG of the index meets the condition.")
    for rank, row in enumerate(found, start=1):
        facts = "  ".join(printable(_shown(row[name]), 100) for name in columns)
        print(f"{rank:3d}  {row['similarity']:+.3f}  {facts}")
    print(f"{MEANING}\n{DISCLAIMER}")
    return 0


def _shown(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
