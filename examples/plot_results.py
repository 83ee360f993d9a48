"""ROC, precision-recall and calibration curves of prediction files, and their metrics by subgroup.

    python examples/plot_results.py --predictions runs/predictions/joint-superclass-1-s0.safetensors \\
        --data_dir PTB_XL_FOLDER --output_dir runs/plots --output results/subgroups.json

Each file of an evaluation script becomes one PNG of three panels with the classes of most positives. With `--data_dir`
the test records are also scored by sex, age band, device and whether a human validated the statements; every row names
the classes that its subgroup leaves undefined. Not a medical device.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from modeling_merit.processing.benchmark.options import ptb_xl_folder
from modeling_merit.processing.benchmark.results import provenance, update_rows
from modeling_merit.processing.benchmark.tasks import read_predictions
from modeling_merit.processing.data.ptb_xl_files import read_table
from modeling_merit.processing.metrics.bootstrap import bootstrap_interval

METRICS = ("macro_auroc", "macro_f1_tuned")
ROW_KEY = ("run", "task", "label_fraction", "seed", "subgroup", "level", "metric")
AGE_BANDS = ((0, 40), (40, 55), (55, 70), (70, 85), (85, 301))
BINS = 10


def plot(predictions, path, max_classes):
    """Draw the three panels and return the classes shown."""
    positives = predictions.labels.sum(0)
    columns = [c for c in np.argsort(-positives, kind="stable") if 0 < positives[c] < len(predictions.labels)]
    columns = columns[:max_classes]
    figure = Figure(figsize=(15, 5), layout="constrained")
    roc, recall, calibration = figure.subplots(1, 3)
    for column in columns:
        y, p, name = predictions.labels[:, column], predictions.probabilities[:, column], predictions.classes[column]
        RocCurveDisplay.from_predictions(y, p, ax=roc, name=name)
        PrecisionRecallDisplay.from_predictions(y, p, ax=recall, name=name)
        CalibrationDisplay.from_predictions(y, p, n_bins=BINS, strategy="quantile", ax=calibration, name=name)
    calibration.set(xlabel="Mean probability", ylabel="Fraction of positives", title="Calibration")
    roc.set_title("ROC")
    recall.set_title("Precision and recall")
    for axes in (roc, recall, calibration):
        axes.legend(fontsize="x-small")
    figure.suptitle(f"{predictions.run}, {predictions.task}: not a medical device")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return [predictions.classes[column] for column in columns]


def subgroups(table, min_records):
    """Return {(subgroup, level): mask} over the rows of a PTB-XL table; levels with too few records are left out."""
    device = table["device"].fillna("").str.split().str.join(" ")
    masks = {("sex", name): table["sex"] == code for code, name in enumerate(("male", "female"))}
    masks |= {("age", f"{low}-{high - 1}"): table["age"].between(low, high - 1) for low, high in AGE_BANDS[:-1]}
    masks["age", f"{AGE_BANDS[-1][0]}+"] = table["age"] >= AGE_BANDS[-1][0]
    masks |= {("device", name): device == name for name in sorted(Counter(device))}
    masks |= {("validated_by_human", str(flag)): table["validated_by_human"] == flag for flag in (True, False)}
    return {key: mask.to_numpy(bool) for key, mask in masks.items() if mask.sum() >= min_records}


def score_subgroups(predictions, table, args, origin):
    """Return the rows of every subgroup and metric, which name the classes without a positive or negative there."""
    rows, about = [], {name: getattr(predictions, name) for name in ("run", "task", "label_fraction", "seed")}
    for (subgroup, level), mask in subgroups(table.loc[predictions.ecg_ids], args.min_records).items():
        labels, probabilities = predictions.labels[mask], predictions.probabilities[mask]
        positives = labels.sum(0)
        undefined = [c for c, p in zip(predictions.classes, positives) if p == 0 or p == len(labels)]
        if len(undefined) == len(predictions.classes):
            continue
        for metric in METRICS:
            i = bootstrap_interval(
                metric, labels, probabilities, predictions.patient_ids[mask], predictions.thresholds, args.n_resamples
            )
            row = about | {"subgroup": subgroup, "level": level, "metric": metric, "value": i.value}
            row |= {"ci_low": i.low, "ci_high": i.high, "n": len(labels), "undefined_classes": undefined}
            rows.append(row | {"command": origin["command"], "commit": origin["commit"]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, nargs="+", required=True, help="Prediction files.")
    parser.add_argument("--data_dir", type=ptb_xl_folder, help="Folder of PTB-XL, for the subgroups.")
    parser.add_argument("--max_classes", type=int, default=8, help="Classes per plot, the most frequent ones.")
    parser.add_argument("--min_records", type=int, default=50, help="Smaller subgroups are left out.")
    parser.add_argument("--n_resamples", type=int, default=1000)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/plots"))
    parser.add_argument("--output", type=Path, default=Path("results/subgroups.json"))
    args = parser.parse_args()

    origin = provenance()
    table = read_table(args.data_dir) if args.data_dir else None
    rows = []
    for path in args.predictions:
        predictions = read_predictions(path)
        picture = args.output_dir / f"{path.stem}.png"
        shown = plot(predictions, picture, args.max_classes)
        print(f"{picture}: {', '.join(shown)}", flush=True)
        if table is not None:
            rows += score_subgroups(predictions, table, args, origin)
    for row in rows:
        if row["metric"] == METRICS[0]:
            where = f"{row['run']} {row['task']} {row['subgroup']}={row['level']}"
            print(f"{where}: {row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}], n={row['n']}")
    if rows:
        update_rows(args.output, rows, ROW_KEY)


if __name__ == "__main__":
    main()
