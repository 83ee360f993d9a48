"""Linear probe of a frozen MERIT encoder on the tasks of PTB-XL.

    python examples/linear_probe.py --model merit-ecg --data_dir PTB_XL_FOLDER --arm joint --output results/ptb_xl.json

The encoder embeds every record once (evaluation mode, weights unchanged, checked by hash). For each task a logistic
regression is fitted on folds 1-8, its C and one threshold per class are chosen on fold 9, and fold 10 is scored once,
with bootstrap intervals over patients. Rows go to `--output`, fold-10 probabilities to `--predictions`, which
`compare.py` reads. `--random_init` draws the weights anew from `--seed`: the baseline that pre-training must beat.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoFeatureExtractor

from modeling_merit import MeritEcgModel
from modeling_merit.processing.builders import PtbXl, SignalView
from modeling_merit.processing.evaluation.bootstrap import bootstrap_interval
from modeling_merit.processing.evaluation.embeddings import embed_signals, weights_fingerprint
from modeling_merit.processing.evaluation.label_sets import label_matrix
from modeling_merit.processing.evaluation.probe import logistic_probe
from modeling_merit.processing.evaluation.protocols import tune_thresholds
from modeling_merit.processing.evaluation.results import data_fingerprint, provenance, update_rows
from modeling_merit.processing.evaluation.subsets import patient_subset

TASKS = ("all", "superclass", "subclass", "form", "rhythm")
METRICS = ("macro_auroc", "macro_auprc", "macro_f1_tuned", "macro_f1_at_0.5")
SPLITS = ("train", "validation", "test")


def embed_splits(args, splits):
    """Features of the three splits by name, from the cache when weights and signals are those it was made from."""
    extractor = AutoFeatureExtractor.from_pretrained(args.model)
    model = MeritEcgModel.from_pretrained(args.model, dtype=torch.float32)
    if args.random_init:
        torch.manual_seed(args.seed)
        model = MeritEcgModel(model.config)
    model = model.to(args.device).eval()
    before = weights_fingerprint(model)
    views = {name: SignalView(splits[name]) for name in SPLITS}
    fingerprint = data_fingerprint(view.signals(range(len(view))) for view in views.values())
    cache = args.cache_dir / f"{before}-{fingerprint}.safetensors"
    if cache.is_file():
        return load_file(cache), before, fingerprint

    def encode(batch):
        return model(batch).pooler_output

    features = {
        name: embed_signals(encode, view, extractor.normalize, args.batch_size, args.device, name)
        for name, view in views.items()
    }
    if weights_fingerprint(model) != before:
        raise RuntimeError("Expected the frozen encoder to stay as it is, but its weights changed while embedding.")
    cache.parent.mkdir(parents=True, exist_ok=True)
    save_file(features, cache)
    return features, before, fingerprint


def probe_task(args, task, features, splits):
    """Fit, choose and score one task; returns its metrics and the predictions of fold 10."""
    x, y, kept = {}, {}, {}
    for name in SPLITS:
        codes = [row["code"] for row in splits[name]["scp_codes"]]
        matrix, classes, kept[name] = label_matrix(codes, task, split={"validation": "val"}.get(name, name))
        x[name], y[name] = features[name][kept[name]], matrix[kept[name]]
    if args.label_fraction < 1:
        patients = np.array(splits["train"]["patient_id"])[kept["train"]]
        rows = patient_subset(patients, y["train"], args.label_fraction, args.seed)
        x["train"], y["train"] = x["train"][rows], y["train"][rows]
    result = logistic_probe(x["train"], y["train"], x["validation"], y["validation"], x["test"])
    thresholds = tune_thresholds(result.val_probabilities, y["validation"])
    predictions = {
        "ecg_id": np.array(splits["test"]["ecg_id"])[kept["test"]],
        "patient_id": np.array(splits["test"]["patient_id"])[kept["test"]],
        "labels": y["test"],
        "probabilities": result.test_probabilities.astype(np.float32),
        "thresholds": np.asarray(thresholds, dtype=np.float32),
    }
    return result, classes, predictions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Checkpoint folder or Hub id.")
    parser.add_argument("--random_init", action="store_true", help="Keep the architecture, draw the weights anew.")
    parser.add_argument("--data_dir", required=True, help="Folder of PTB-XL (the one with ptbxl_database.csv).")
    parser.add_argument("--arm", required=True, help="Name of this model in the results.")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=(*TASKS, "diagnostic"))
    parser.add_argument("--label_fraction", type=float, default=1.0, help="Share of training patients with labels.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/ptb_xl.json"))
    parser.add_argument("--predictions", type=Path, default=Path("runs/predictions"))
    parser.add_argument("--cache_dir", type=Path, default=Path("runs/embeddings"))
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    origin = provenance(seed=args.seed)
    builder = PtbXl(config_name="100hz", data_dir=args.data_dir)
    builder.download_and_prepare()
    splits = builder.as_dataset()
    features, weights, fingerprint = embed_splits(args, splits)
    splits = {name: splits[name].remove_columns("signal") for name in SPLITS}
    rows = []
    for task in args.tasks:
        result, classes, predictions = probe_task(args, task, features, splits)
        scores = {}
        for metric in METRICS:
            interval = bootstrap_interval(
                metric,
                predictions["labels"],
                predictions["probabilities"],
                predictions["patient_id"],
                thresholds=predictions["thresholds"],
            )
            scores[metric] = interval
            rows.append(
                {
                    "arm": args.arm,
                    "task": task,
                    "label_fraction": args.label_fraction,
                    "seed": args.seed,
                    "metric": metric,
                    "value": interval.value,
                    "ci_low": interval.low,
                    "ci_high": interval.high,
                    "n": len(predictions["labels"]),
                    "command": origin["command"],
                    "commit": origin["commit"],
                    "weights": weights,
                    "data_fingerprint": fingerprint,
                }
            )
        line = "  ".join(
            f"{name} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" for name, score in scores.items()
        )
        print(f"{args.arm} {task} (C={result.c}): {line}", flush=True)
        stem = f"{args.arm}-{task}-{args.label_fraction:g}-s{args.seed}"
        args.predictions.mkdir(parents=True, exist_ok=True)
        save_file(predictions, args.predictions / f"{stem}.safetensors", metadata={"classes": json.dumps(classes)})
    update_rows(args.output, rows, key=("arm", "task", "label_fraction", "seed", "metric"))


if __name__ == "__main__":
    main()
