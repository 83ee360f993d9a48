"""Paired comparison of two runs on the same records: difference, its bootstrap interval, and a permutation test.

    python examples/compare.py --a runs/predictions/joint-subclass-1-s0.safetensors \\
        --b runs/predictions/contrastive-subclass-1-s0.safetensors --output results/paired.json

Reads prediction files of `linear_probe.py`, `zero_shot.py`, `finetune.py` or `baselines.py`; several files on either
side are compared pair by pair, in the order given. Patients are drawn or exchanged, not records. `p` is that of the
permutation test; with many rows, correct it for their number.
"""

import argparse
from pathlib import Path

import numpy as np

from modeling_merit.processing.benchmark.results import provenance, update_rows
from modeling_merit.processing.benchmark.tasks import read_predictions
from modeling_merit.processing.metrics.bootstrap import compare_models
from modeling_merit.processing.metrics.classification import METRICS, align_predictions

DEFAULT_METRICS = ("macro_auroc", "macro_auprc", "macro_f1_tuned", "macro_f1_at_0.5")
ROW_KEY = ("run_a", "run_b", "task", "task_b", "metric", "label_fraction", "label_fraction_b", "seed_a", "seed_b")


def align(path_a, path_b, a, b):
    """Bring B into the row order of A; both must be of the same records, classes and labels."""
    if a.classes != b.classes:
        raise SystemExit(f"Expected the same classes in {path_a} and {path_b}, got {a.classes} and {b.classes}.")
    try:
        order = align_predictions(b.ecg_ids.tolist(), a.ecg_ids.tolist())
    except ValueError as error:
        raise SystemExit(f"{path_a} and {path_b} are not of the same records. {error}") from None
    if (b.labels[order] != a.labels).any():
        raise SystemExit(f"Expected the same labels in {path_a} and {path_b}, got others. Score both again.")
    return b.probabilities[order]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", type=Path, nargs="+", required=True, help="Prediction files of run A.")
    parser.add_argument("--b", type=Path, nargs="+", required=True, help="Those of run B, one for each of A.")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, help=f"Default: {' '.join(DEFAULT_METRICS)}.")
    parser.add_argument("--n_resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="Of the resampling.")
    parser.add_argument("--output", type=Path, default=Path("results/paired.json"))
    args = parser.parse_args()
    if len(args.a) != len(args.b):
        parser.error(f"Expected as many files for --a as for --b, got {len(args.a)} and {len(args.b)}.")
    if missing := [str(path) for path in (*args.a, *args.b) if not path.is_file()]:
        parser.error(f"Expected prediction files, got none at {', '.join(missing)}. Run linear_probe.py first.")

    origin = provenance(seed=args.seed)
    rows = []
    for path_a, path_b in zip(args.a, args.b):
        a, b = read_predictions(path_a), read_predictions(path_b)
        probabilities_b = align(path_a, path_b, a, b)
        zero_shot = any(run.task.startswith("zero_shot") for run in (a, b))
        # The scores of zero-shot classification are no probabilities: 0.5 means nothing to them.
        metrics = args.metrics or [name for name in DEFAULT_METRICS if not (zero_shot and name.endswith("0.5"))]
        print(f"{a.run} - {b.run}, {a.task}, {len(a.labels)} records")
        for metric in metrics:
            found = compare_models(
                metric,
                a.labels,
                a.probabilities,
                probabilities_b,
                a.patient_ids,
                a.thresholds,
                b.thresholds,
                n_resamples=args.n_resamples,
                seed=args.seed,
            )
            if not np.isfinite(found.difference):
                raise SystemExit(f"Expected a class with positive and negative records for {metric}, got none.")
            rows.append(
                {
                    "run_a": a.run,
                    "run_b": b.run,
                    "task": a.task,
                    "metric": metric,
                    "difference": found.difference,
                    "ci_low": found.low,
                    "ci_high": found.high,
                    "p": found.p_permutation,
                    "p_bootstrap": found.p_bootstrap,
                    "value_a": found.value_a,
                    "value_b": found.value_b,
                    "task_b": b.task,
                    "label_fraction": a.label_fraction,
                    "label_fraction_b": b.label_fraction,
                    "seed_a": a.seed,
                    "seed_b": b.seed,
                    "n": len(a.labels),
                    "n_resamples": args.n_resamples,
                    "command": origin["command"],
                    "commit": origin["commit"],
                }
            )
            print(
                f"  {metric}: {found.value_a:.3f} - {found.value_b:.3f} = {found.difference:+.3f} "
                f"[{found.low:+.3f}, {found.high:+.3f}], p = {found.p_permutation:.3g}",
                flush=True,
            )
    update_rows(args.output, rows, ROW_KEY)


if __name__ == "__main__":
    main()
