"""Markdown tables from result rows: one line per run, one column per task.

    python examples/tabulate_results.py results/ptb_xl.json --metric macro_auroc
    python examples/tabulate_results.py results/paired.json --metric macro_f1_tuned

A table holds one kind of uncertainty, which its head names. `--uncertainty patients` gives every run its value with
the 95 % interval over patients; for a run of several seeds, value and limits are means over its seeds, so that the
interval is no narrower than that of the mean value. `--uncertainty seeds` gives the runs of several seeds their mean
with the standard deviation over seeds. Cells of `paired.json` are differences in points: with the interval, or with
the difference of every seed.
"""

import argparse
import json
from pathlib import Path

import numpy as np


def cell(rows, uncertainty):
    """Return what a table says of the rows of one run (or pair of runs) and task, one row per seed."""
    name, factor, form = ("difference", 100, "+.1f") if "difference" in rows[0] else ("value", 1, ".3f")
    values, lows, highs = (factor * np.array([row[key] for row in rows]) for key in (name, "ci_low", "ci_high"))
    if uncertainty == "patients":
        return f"{values.mean():{form}} [{lows.mean():{form}}, {highs.mean():{form}}]"
    if name == "difference":
        return f"{values.mean():{form}} ({', '.join(f'{value:{form}}' for value in values)})"
    return f"{values.mean():{form}} ± {values.std(ddof=1):{form}}"


def line_of(row):
    """Return the name of a row's line: its run, or both of a pair, and what the second learnt from if that differs."""
    if "run" in row:
        return row["run"]
    fraction = row.get("label_fraction_b", row["label_fraction"])
    other = "" if row.get("task_b", row["task"]) == row["task"] else f" ({row['task_b']})"
    share = "" if fraction == row["label_fraction"] else f" ({100 * fraction:g}% of the labels)"
    return f"{row['run_a']} - {row['run_b']}{other}{share}"


def tabulate(rows, metric, label_fraction=1.0, tasks=None, runs=None, uncertainty="patients"):
    """Return the table of one metric; runs and tasks in the order given, or else that of the rows.

    Raises:
        ValueError: If no row fits, or a seed has several rows, as those of subgroups.
    """
    cells = {}
    for row in rows:
        if row["metric"] == metric and row["label_fraction"] == label_fraction:
            cells.setdefault((line_of(row), row["task"]), []).append(row)
    for (name, task), of_seeds in cells.items():
        seeds = [tuple(row.get(field) for field in ("seed", "seed_a", "seed_b")) for row in of_seeds]
        if len(set(seeds)) < len(seeds):
            differ = [field for field in of_seeds[0] if len({str(row.get(field)) for row in of_seeds}) > 1]
            raise ValueError(
                f"Expected one row of each seed for {name}, {task}, got several, which differ in {', '.join(differ)}."
            )
    if uncertainty == "seeds" and cells:
        cells = {key: of_seeds for key, of_seeds in cells.items() if len(of_seeds) > 1}
        if not cells:
            raise ValueError("Expected a run of several seeds, got one seed of each. Use --uncertainty patients.")
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
    over_seeds = "(each seed)" if "run_a" in rows[0] else "± standard deviation over seeds"
    kind = over_seeds if uncertainty == "seeds" else "[95 % interval over patients]"
    head = [f"{metric}, {given} {kind}", *(task.removeprefix("zero_shot_") if zero_shot else task for task in columns)]
    lines = [head, ["---"] * len(head)]
    for name in names:
        lines.append(
            [name, *(cell(cells[name, task], uncertainty) if (name, task) in cells else "" for task in columns)]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="results/ptb_xl.json or results/paired.json.")
    parser.add_argument("--metric", default="macro_auroc")
    parser.add_argument("--label_fraction", type=float, default=1.0)
    parser.add_argument("--tasks", nargs="+", help="Columns; default: all tasks.")
    parser.add_argument("--runs", nargs="+", help="Lines; default: all runs, pairs as 'joint - masked'.")
    parser.add_argument("--uncertainty", choices=("patients", "seeds"), default="patients", help="See above.")
    args = parser.parse_args()
    rows = json.loads(args.rows.read_text(encoding="utf-8"))
    try:
        print(tabulate(rows, args.metric, args.label_fraction, args.tasks, args.runs, args.uncertainty))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
