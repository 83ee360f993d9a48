"""Fit a classifier of one's own labels on the embeddings of a frozen encoder."""

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..benchmark.prompts import LABEL_SETS, load_prompts, read_prompt_file
from ..inspection import printable
from ..readers import read_ecg
from ..record import DISCLAIMER
from .common import REFUSALS, facts_of, list_failures, message_of, print_json

if TYPE_CHECKING:
    import numpy as np

BATCH = 32
RESULTS = "probe_results.json"
MEANING = (
    "Out-of-fold estimates: each file was scored by a probe that had seen no file of its patient. Thresholds of the "
    "F1 come from other patients, too. Intervals are 95 % bootstrap intervals over patients."
)


def add(commands: argparse._SubParsersAction, shared: SimpleNamespace) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "probe",
        parents=[shared.facts, shared.output],
        help="fit a classifier of your own labels on a table of files",
        description="Embed the files of a table with a frozen encoder, cross-validate a logistic regression over "
        f"patients, fit it on all files and save it as a classifier with the encoder. {MEANING}",
    )
    command.add_argument(
        "table", metavar="TABLE", help=".csv, .tsv, .parquet or .jsonl, or a folder with metadata.csv"
    )
    command.add_argument("--model", required=True, help="folder or Hub id of a checkpoint")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the classifier")
    command.add_argument(
        "--label-columns",
        nargs="+",
        required=True,
        metavar="COLUMN",
        help="one column per class with 0 or 1; or one column with names of classes, several separated by ;",
    )
    command.add_argument(
        "--path-column", metavar="COLUMN", help="of the files; default: file_name, path, file, filename"
    )
    command.add_argument(
        "--patient-column", metavar="COLUMN", help="whose the files are; default: each file counts as a patient"
    )
    command.add_argument(
        "--prompts",
        metavar="SET_OR_FILE",
        help="for few labels: texts of the classes, which the regression corrects instead of starting from nothing; a "
        f"label set with prompts ({', '.join(LABEL_SETS)}) or a .json file of class to texts",
    )
    command.add_argument("--folds", type=int, default=5, help="of the cross-validation, at least 3")
    command.add_argument("--seed", type=int, default=0, help="of folds and bootstrap")
    command.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    command.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="skip: leave out and list what cannot be used"
    )
    command.add_argument("--truncate", action="store_true", help="cut an ECG that is too long for the model")
    command.add_argument("--device", help="where the encoder runs; the CPU by default")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.out.exists() and not args.overwrite and (not args.out.is_dir() or any(args.out.iterdir())):
        raise FileExistsError(f"{str(args.out)!r} exists already. Choose another folder, or pass `--overwrite`.")
    for option, least in (("folds", 3), ("resamples", 2)):
        if getattr(args, option) < least:
            raise ValueError(f"Expected --{option} of at least {least}, got {getattr(args, option)}.")
    from ..data.tables import TableColumns, label_matrix, read_rows
    from ..inference import embed_prompts, load_checkpoint
    from ..probing.cross_validation import check_classes, cross_validate, fit_classifier, to_model
    from ..probing.zero_shot_prior import zero_shot_weights

    columns = TableColumns(path=args.path_column, labels=args.label_columns, patient=args.patient_column)
    rows, classes = read_rows(args.table, columns)
    if classes != args.label_columns and all(re.fullmatch(r"[-+]?\d+(\.\d+)?", name) for name in classes):
        print(
            f"note: the numbers in {printable(repr(args.label_columns[0]))} are taken as names of the classes "
            f"{', '.join(classes[:10])}{', …' * (len(classes) > 10)}. Make classes of a score or an age first.",
            file=sys.stderr,
        )
    prompts = None if args.prompts is None else _prompts(args.prompts, classes)
    if (rows["patient_id"] == rows["record_id"]).all():
        print("note: without --patient-column every file counts as a patient of its own.", file=sys.stderr)
    named = rows[rows["labels"].notna()]
    check_classes(label_matrix(named["labels"], classes), named["patient_id"], args.folds, classes)
    model, processor = load_checkpoint(args.model, truncation=args.truncate, device=args.device)
    failures: list[str] = []
    features, kept = _embed(model.ecg_model, processor, rows.to_dict("records"), args, failures)
    if not kept:
        list_failures(failures)
        raise ValueError("Expected files that can be read, got none; nothing is written.")
    rows = rows.iloc[kept]
    labels, patients = label_matrix(rows["labels"], classes), rows["patient_id"].to_numpy(dtype=str)
    check_classes(labels, patients, args.folds, classes)  # again, without the files that could not be used
    weights = prior = None
    if prompts is not None:
        embedded = embed_prompts(model, processor, prompts)
        for note in embedded.notes:
            print(f"note: {note}", file=sys.stderr)
        weights = zero_shot_weights(model, embedded, features)
        prior = features @ weights.T
    if not args.json:
        print(f"cross-validation in {args.folds} folds and a last fit on all files ...", file=sys.stderr)
    found = cross_validate(features, labels, patients, args.folds, args.seed, n_resamples=args.resamples, prior=prior)
    classifier = fit_classifier(features, labels, found.c, weights, found.prior_scale)
    results = {
        "files": len(rows),
        "patients": len(set(patients)),
        "left_out": len(failures),
        "model": args.model,
        "folds": args.folds,
        "seed": args.seed,
        "c": found.c,
        **({"prompts": args.prompts, "prior_scale": found.prior_scale} if prompts is not None else {}),
        **{name: _numbers(interval) for name, interval in found.intervals.items()},
        "classes": {
            name: {"positives": int(labels[:, i].sum()), "threshold": float(found.thresholds[i])}
            | {metric: _numbers(interval) for metric, interval in found.by_class[i].items()}
            for i, name in enumerate(classes)
        },
        "meaning": MEANING,
        "disclaimer": DISCLAIMER,
    }
    saved = to_model(model.ecg_model, classifier, classes, found.thresholds.tolist())
    _save(args.out, saved, processor, results)
    if args.json:
        print_json(results)
    else:
        _print(results)
        print(f"{printable(str(args.out))}: classifier with encoder and processor\n{MEANING}\n{DISCLAIMER}")
    return list_failures(failures)


def _prompts(place: str, classes: Sequence[str]) -> dict[str, list[str]]:
    """Return the prompts of the classes, from a label set or a file."""
    if place not in LABEL_SETS:
        return read_prompt_file(place, class_names=classes)
    try:
        return load_prompts(place, class_names=classes)
    except ValueError as error:
        codes = load_prompts(place)
        near = {name: sorted(difflib.get_close_matches(name, codes)) for name in classes if name not in codes}
        hints = "; ".join(f"{name} is near {', '.join(found)}" for name, found in near.items() if found)
        hint = f" ({hints})" if hints else ""
        raise ValueError(f"{error} Rename the classes{hint}, or name a .json file of class to texts.") from None


def _embed(
    encoder: Any, processor: Any, rows: Sequence[Mapping[str, Any]], args: argparse.Namespace, failures: list[str]
) -> tuple["np.ndarray", list[int]]:
    """Return the pooled features (files, width) of the rows that can be used, and their numbers.

    Files of one length share a batch: none is padded for the sake of another.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    features: dict[int, np.ndarray] = {}
    waiting: dict[int, list[tuple[int, Any]]] = {}

    def encode(batch: list[tuple[int, Any]]) -> None:
        tensors = [torch.cat([ecg[name] for _, ecg in batch]) for name in ("input_values", "ecg_mask")]
        with torch.inference_mode():
            pooled = encoder(*(tensor.to(encoder.device) for tensor in tensors)).pooler_output.float().cpu().numpy()
        features.update((number, vector) for (number, _), vector in zip(batch, pooled))
        batch.clear()

    for number, row in enumerate(tqdm(rows, unit="ECG", disable=len(rows) < 2)):
        name = printable(str(row["record_id"]), 300)
        try:
            if row["labels"] is None:
                raise ValueError("Expected 0 or 1 in every label column, got a blank cell.")
            ecg = processor.feature_extractor(read_ecg(row["file"], **facts_of(args)), return_tensors="pt")
        except REFUSALS as error:
            if args.on_error == "raise":
                raise ValueError(
                    f"{name}: {error} Pass `--on-error skip` to leave out and list what cannot be used."
                ) from error
            failures.append(f"{name}: {message_of(error)}")
            continue
        batch = waiting.setdefault(ecg["input_values"].shape[-1], [])
        batch.append((number, ecg))
        if len(batch) == BATCH:
            encode(batch)
    for batch in waiting.values():
        if batch:
            encode(batch)
    kept = sorted(features)
    return np.stack([features[number] for number in kept]) if kept else np.empty((0, 0)), kept


def _numbers(interval: Any) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _text(measured: Mapping[str, float]) -> str:
    return f"{measured['value']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}]"


def _print(results: Mapping[str, Any]) -> None:
    rows: list[tuple[str, ...]] = [("class", "positives", "AUROC", "AUPRC", "F1", "threshold")]
    for name, one in results["classes"].items():
        scores = (_text(one[metric]) for metric in ("auroc", "auprc", "f1"))
        rows.append((printable(name, 40), str(one["positives"]), *scores, f"{one['threshold']:.3f}"))
    scores = (_text(results[f"macro_{metric}"]) for metric in ("auroc", "auprc", "f1"))
    rows.append(("mean", "", *scores, ""))
    widths = [max(map(len, column)) for column in zip(*rows)]
    scale = f", prompts counted {results['prior_scale']:g} times" if "prompts" in results else ""
    facts = f"{results['files']} files of {results['patients']} patients, {results['folds']} folds"
    print(f"{facts}, C {results['c']:g}{scale}")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _save(out: Path, model: Any, processor: Any, results: Mapping[str, Any]) -> None:
    """Write the classifier beside its place first, then move its files there."""
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".merit-ecg-", dir=out.parent) as temporary:
        processor.save_pretrained(temporary)
        model.save_pretrained(temporary)
        Path(temporary, RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        Path(temporary, "README.md").write_text(_card(results), encoding="utf-8")
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, out / path.name)  # the configuration last: with it the folder is a checkpoint


def _card(results: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="transformers", tags=["ecg", "electrocardiogram", "merit"], metrics=["roc_auc", "f1"]
    )
    lines = [
        f"| {_cell(name)} | {one['positives']} | {_text(one['auroc'])} | {_text(one['auprc'])} | {_text(one['f1'])} | "
        f"{one['threshold']:.3f} |"
        for name, one in results["classes"].items()
    ]
    macro = " | ".join(_text(results[f"macro_{metric}"]) for metric in ("auroc", "auprc", "f1"))
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---\n",
            "# ECG classifier\n",
            f"A logistic regression on the pooled feature of the frozen encoder `{_cell(results['model'])}`, fitted "
            f"on {results['files']} files of {results['patients']} patients by `merit-ecg probe`. "
            f"{results['disclaimer']}\n",
            f"{results['meaning']} {results['folds']} folds.\n",
            "| class | positives | AUROC | AUPRC | F1 | threshold |\n|---|---|---|---|---|---|",
            *lines,
            f"| mean | | {macro} | |\n",
            "```python",
            "from transformers import AutoProcessor",
            "",
            "from modeling_merit import MeritForEcgClassification",
            "from modeling_merit.processing import read_ecg",
            "",
            'processor = AutoProcessor.from_pretrained("FOLDER")',
            'model = MeritForEcgClassification.from_pretrained("FOLDER")',
            'inputs = processor(ecg=read_ecg("ecg.hea"), return_tensors="pt")',
            "probabilities = model(**inputs).logits.sigmoid()[0]",
            "decisions = [p >= t for p, t in zip(probabilities.tolist(), model.config.thresholds)]",
            "```\n",
            "A probability holds for patients like those of the table: their mix of findings, devices and ages.\n",
        ]
    )


def _cell(text: str) -> str:
    return printable(text, 100).replace("|", "\\|").replace("`", "'")
