"""Linear probe of a frozen MERIT encoder on the tasks of PTB-XL.

    python examples/linear_probe.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint --output results/ptb_xl.json

The encoder embeds every record once (evaluation mode, weights unchanged, checked by hash). For each task a logistic
regression is fitted on folds 1-8, its C and one threshold per class are chosen on fold 9, and fold 10 is scored once,
with bootstrap intervals over patients. Rows go to `--output`, fold-10 probabilities to `--predictions`, which
`compare.py` reads. `--random_init` draws the weights anew from `--seed`: the baseline that pre-training must beat.
`--per_lead` probes the mean over time of every lead instead of the mean over time and leads: twelve times as many
features, which keep what was seen where.
"""

import argparse
from pathlib import Path

import torch

from modeling_merit.processing.benchmark.results import provenance
from modeling_merit.processing.benchmark.tasks import (
    TASK_NAMES,
    describe,
    load_ptb_xl,
    load_task,
    record_scores,
)
from modeling_merit.processing.probing.embeddings import embed_tables, load_encoder
from modeling_merit.processing.probing.logistic_probe import logistic_probe


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Checkpoint folder or Hub id.")
    parser.add_argument("--random_init", action="store_true", help="Keep the architecture, draw the weights anew.")
    parser.add_argument("--per_lead", action="store_true", help="Features of every lead instead of their mean.")
    parser.add_argument("--data_dir", required=True, help="Folder of PTB-XL (the one with ptbxl_database.csv).")
    parser.add_argument("--run", required=True, help="Name of this model in the results.")
    parser.add_argument("--tasks", nargs="+", default=TASK_NAMES, choices=(*TASK_NAMES, "diagnostic"))
    parser.add_argument("--label_fraction", type=float, default=1.0, help="Share of training records with labels.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/ptb_xl.json"))
    parser.add_argument("--predictions", type=Path, default=Path("runs/predictions"))
    parser.add_argument("--cache_dir", type=Path, default=Path("runs/embeddings"))
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    origin = provenance(seed=args.seed)
    tables = load_ptb_xl(args.data_dir)
    encoder, extractor = load_encoder(args.model, args.random_init, args.seed, args.device)
    features, weights, signals = embed_tables(
        encoder, extractor, tables, args.cache_dir, args.batch_size, args.per_lead
    )
    for name in args.tasks:
        task = load_task(tables, name, args.label_fraction, args.seed)
        x = {split: features[split][rows] for split, rows in task.rows.items()}
        probe = logistic_probe(x["train"], task.labels["train"], x["validation"], task.labels["validation"], x["test"])
        intervals = record_scores(
            task,
            probe.val_probabilities,
            probe.test_probabilities,
            run=args.run,
            origin=origin,
            output=args.output,
            predictions=args.predictions,
            label_fraction=args.label_fraction,
            seed=args.seed,
            weights=weights,
            data_fingerprint=signals,
        )
        print(f"{args.run} {name} (C {probe.c:g}): {describe(intervals)}", flush=True)


if __name__ == "__main__":
    main()
