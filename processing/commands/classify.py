"""Compare files with prompts, or give the probabilities of a classifier's statements."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ..benchmark.label_sets import load_statements
from ..benchmark.prompts import LABEL_SETS, LANGUAGES, SCORE_MEANING, load_prompts, read_prompt_file
from ..inference import embed_ecgs, embed_prompts, load_checkpoint, load_scorer, score_embeddings
from ..inspection import printable
from ..record import DISCLAIMER
from ..signal_quality import PLAUSIBLE_MV
from .common import each_ecg, list_failures, name_of, print_json

PROBABILITY_MEANING = (
    "Probability that the model gives to each statement by itself; several can hold. Marked * where it reaches the "
    "statement's threshold, of the highest F1 on records that it was not fitted to."
)
CALIBRATED = (
    "Calibrated: of many records that it was not fitted to and gave 0.3, about 30 % had the statement. Other "
    "populations have other frequencies."
)
UNCALIBRATED = "Not calibrated: 0.3 need not mean that 30 % of such records have the statement."
UNRELIABLE = (
    "Unreliable, as noted: the amplitude is not that of an ECG, probably for a wrong unit, and the probabilities mean "
    "nothing."
)
LISTED = 5
"""So many statements are printed at least."""


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "classify",
        parents=[shared.model],
        help="probabilities of a classifier, or scores of prompts, for each file",
        description=f"Without --prompts, for a classifier such as merit-ecg-statements: {PROBABILITY_MEANING} With "
        f"--prompts, for a dual encoder such as merit-ecg: {SCORE_MEANING}",
    )
    command.add_argument(
        "--prompts",
        nargs="+",
        help=f"two or more texts; or a label set with prompts of its own ({', '.join(LABEL_SETS)}), as in the "
        "published results; or a .json file of class to texts",
    )
    command.add_argument(
        "--languages", nargs="+", default=LANGUAGES, choices=LANGUAGES, help="of the prompts of a label set"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object per file")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return _classify(args) if args.prompts is None else _score(args)


def _classify(args: argparse.Namespace) -> int:
    """Print what a classifier says of each file."""
    import torch

    model, extractor = load_scorer(args.model, truncation=args.truncate)
    extractor.refuse_flat = True
    config = model.config
    if config.model_type == "merit":
        raise ValueError(
            f"Expected --prompts, texts to compare with, got a model without statements of its own in {args.model!r}. "
            "Or name a classifier, as examples/finetune.py and `merit-ecg probe` leave one."
        )
    if config.problem_type != "multi_label_classification":
        raise ValueError(
            f"Expected a classifier of statements that can hold together, got {config.problem_type!r} in "
            f"{args.model!r}. Use the pipeline `ecg-classification`."
        )
    names = [config.id2label[number] for number in range(config.num_labels)]
    thresholds = getattr(config, "thresholds", None) or [0.5] * len(names)
    calibration = CALIBRATED if getattr(config, "calibrated", False) else UNCALIBRATED
    statements = load_statements()
    described = statements.keys() >= set(names)
    meanings: dict[str, None] = {}  # of the results, each once
    failures: list[str] = []
    for place, ecg in each_ecg(args, extractor, failures):
        with torch.inference_mode():
            found = model(**ecg).logits.float().sigmoid()[0].tolist()
        plausible = PLAUSIBLE_MV[0] <= place["peak_to_peak_mv"] <= PLAUSIBLE_MV[1]
        meaning = calibration if plausible else UNRELIABLE
        if args.json:
            content: dict[str, Any] = place | {"probabilities": dict(zip(names, found))}
            content["reached"] = [name for name, p, least in zip(names, found, thresholds) if p >= least]
            content["thresholds"] = dict(zip(names, thresholds))
            print_json(content | {"meaning": f"{PROBABILITY_MEANING} {meaning}", "disclaimer": DISCLAIMER})
            continue
        meanings[meaning] = None
        print(name_of(place) + ("" if plausible else "  (unreliable)"))
        rows = sorted(zip(found, thresholds, names), reverse=True)
        for number, (probability, threshold, name) in enumerate(rows):
            if number < LISTED or probability >= threshold:
                line = f"  {probability:.3f} {'*' if probability >= threshold else ' '} {printable(name)}"
                print(f"{line:18}  {statements[name].description}" if described else line)
    if meanings:
        print(" ".join([PROBABILITY_MEANING, *meanings]), DISCLAIMER, sep="\n")
    return list_failures(failures)


def _score(args: argparse.Namespace) -> int:
    """Print how prompts score for each file."""
    prompts = _prompts(args)
    model, processor = load_checkpoint(args.model, truncation=args.truncate)
    processor.feature_extractor.refuse_flat = True
    embedded = embed_prompts(model, processor, prompts)
    for note in embedded.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    failures: list[str] = []
    printed = False
    for place, ecg in each_ecg(args, processor.feature_extractor, failures):
        scores = score_embeddings(embed_ecgs(model, processor, ecg, "scores"), embedded)
        found = scores.score[0].tolist()
        if args.json:
            content = place | {"scores": dict(zip(embedded.names, found))}
            content["cosine_similarity"] = dict(zip(embedded.names, scores.cosine_similarity[0].tolist()))
            notes = [*embedded.notes, *place["notes"]]
            print_json(content | {"meaning": SCORE_MEANING, "notes": notes, "disclaimer": DISCLAIMER})
            continue
        printed = True
        print(name_of(place))
        for score, name in sorted(zip(found, embedded.names), reverse=True):
            print(f"  {score:+.3f}  {printable(name)}")
    if printed:
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
