"""Markdown tables from result rows: one line per run, one column per task.

    python examples/tabulate_results.py results/ptb_xl.json --metric macro_auroc
    python examples/tabulate_results.py results/paired.json --metric macro_f1_tuned

A cell of `ptb_xl.json` is the value with its 95 % interval or, where an run was trained from several seeds, the mean
over them and their standard deviation. A cell of `paired.json` is the difference in points with its interval or, over
several seeds, the mean of the differences and each of them.
"""

import argparse
import json
from pathlib import Path

import numpy as np


def cell(rows):
    """What a table says of the rows of one run (or pair of runs) and task, one row per seed."""
    if "difference" in rows[0]:
        points = [100 * row["difference"] for row in rows]
        if len(rows) > 1:
            return f"{np.mean(points):+.1f} ({', '.join(f'{value:+.1f}' for value in points)})"
        return f"{points[0]:+.1f} [{100 * rows[0]['ci_low']:+.1f}, {100 * rows[0]['ci_high']:+.1f}]"
    if len(rows) > 1:
        return f"{np.mean([r['value'] for r in rows]):.3f} ± {np.std([r['value'] for r in rows], ddof=1):.3f}"
    return f"{rows[0]['value']:.3f} [{rows[0]['ci_low']:.3f}, {rows[0]['ci_high']:.3f}]"


def tabulate(rows, metric, label_fraction=1.0, tasks=None, runs=None):
    """The table of one metric; runs and tasks in the order given, or else that of the rows.

    Raises:
        ValueError: If no row fits.
    """
    cells = {}
    for row in rows:
        run = row["run"] if "run" in row else f"{row['run_a']} - {row['run_b']}"
        if row["metric"] == metric and row["label_fraction"] == label_fraction:
            cells.setdefault((run, row["task"]), []).append(row)
    columns = tasks or list(dict.fromkeys(task for _, task in cells))
    present = {run for run, task in cells if task in columns}
    names = [run for run in runs or dict.fromkeys(run for run, _ in cells) if run in present]
    if not names:
        known = sorted({(row["metric"], row["label_fraction"]) for row in rows})
        raise ValueError(
            f"Expected rows of {metric} at label fraction {label_fraction:g}, got none. There are: "
            f"{', '.join(f'{name} at {fraction:g}' for name, fraction in known)}."
        )
    zero_shot = all(task.startswith("zero_shot_") for task in columns)
    given = "zero-shot" if zero_shot else f"{label_fraction:.0%} of the labels"
    head = [f"{metric}, {given}", *(task.removeprefix("zero_shot_") if zero_shot else task for task in columns)]
    lines = [head, ["---"] * len(head)]
    for name in names:
        lines.append([name, *(cell(cells[name, task]) if (name, task) in cells else "" for task in columns)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="results/ptb_xl.json or results/paired.json.")
    parser.add_argument("--metric", default="macro_auroc")
    parser.add_argument("--label_fraction", type=float, default=1.0)
    parser.add_argument("--tasks", nargs="+", help="Columns; default: all tasks.")
    parser.add_argument("--runs", nargs="+", help="Lines; default: all runs, pairs as 'joint - masked'.")
    args = parser.parse_args()
    try:
        print(tabulate(json.loads(args.rows.read_text()), args.metric, args.label_fraction, args.tasks, args.runs))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
