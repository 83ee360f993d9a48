"""Write the model card of a checkpoint from its own results; every number in it comes from a results file.

python hub_cards/make_model_card.py --checkpoint merit-ecg --results results/ptb_xl.json \\
    --subgroups results/subgroups.json --run joint

`--calibration` takes rows of the metrics `ece` and `brier`, as other result rows. No CO2 is stated: nothing here
measures energy.
"""

import argparse
import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_name("model_card.md")
TERMS = (
    *("reconstruction_loss", "reconstruction_information", "contrastive_loss", "text_information"),
    *("word_loss", "word_information"),
)

HUB_METRICS = {
    "macro_auroc": "roc_auc",
    "macro_auprc": "average_precision",
    "macro_f1": "f1",
    "macro_precision": "precision",
}
"""Names of our metrics, without `_tuned` or a threshold, as the Hub knows them."""
CALIBRATION = ("ece", "brier")


def curve_rows(curves: list[dict]) -> str:
    """One row of validation terms per epoch."""
    rows = []
    for point in curves:
        cells = [f"{point['validation'][term]:.3f}" if term in point["validation"] else "" for term in TERMS]
        rows.append(f"| step {point['step']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def evaluation_rows(results: Path | None, run: str, seed: int) -> list[dict]:
    """The rows of this checkpoint at all labels; other seeds of its run are other checkpoints.

    Raises:
        SystemExit: If the file has no row of it: the name of the run is wrong then.
    """
    rows = json.loads(results.read_text(encoding="utf-8")) if results else []
    found = [row for row in rows if row["run"] == run and row["label_fraction"] == 1 and row["seed"] == seed]
    if results and not found:
        raise SystemExit(f"Expected rows of run {run!r} with seed {seed} in {results}, got none.")
    return found


def evaluation_table(rows: list[dict]) -> str:
    """The rows as a table with the commands that gave them, or a sentence that there are none."""
    if not rows:
        return "Not evaluated."
    lines = ["| task | metric | value | 95 % interval | records |", "|---|---|---|---|---|"]
    for row in rows:
        interval = f"{row['ci_low']:.3f} to {row['ci_high']:.3f}"
        lines.append(f"| {row['task']} | {row['metric']} | {row['value']:.3f} | {interval} | {row['n']} |")
    commands = dict.fromkeys(f"- `{row['command']}` (commit `{row['commit']}`)" for row in rows)
    return "\n".join([*lines, "", "Commands:", "", *commands])


def subgroup_table(rows: list[dict]) -> str:
    """The macro-AUROC by task and subgroup, or nothing."""
    rows = [row for row in rows if row["metric"] == "macro_auroc"]
    if not rows:
        return ""
    lines = ["| task | subgroup | records | macro-AUROC | 95 % interval |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row["task"], f"{row['subgroup']} {row['level']}", row["n"], f"{row['value']:.3f}")
        lines.append(f"| {' | '.join(map(str, cells))} | {row['ci_low']:.3f} to {row['ci_high']:.3f} |")
    return "\n".join(lines)


def hub_metrics(rows: list[dict]) -> list[str] | None:
    """The metrics of the rows by their names on the Hub."""
    names = (next((hub for ours, hub in HUB_METRICS.items() if row["metric"].startswith(ours)), None) for row in rows)
    return sorted({name for name in names if name}) or None


def model_index(rows: list[dict]) -> list[EvalResult]:
    """The rows as the Hub reads them from a card's header."""
    return [
        EvalResult(
            task_type="ecg-classification",
            dataset_type="ptb_xl",
            dataset_name=f"PTB-XL, {row['task']}",
            dataset_config=row["task"],
            dataset_split="fold 10",
            metric_type=row["metric"],
            metric_value=round(row["value"], 4),
        )
        for row in rows
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("merit-ecg"), help="Folder written by pretrain.py.")
    parser.add_argument("--results", type=Path, help="Rows written by linear_probe.py.")
    parser.add_argument("--subgroups", type=Path, help="Rows written by plot_results.py.")
    parser.add_argument("--calibration", type=Path, help="Rows of the metrics ece and brier.")
    parser.add_argument("--run", default="joint", help="Name of this checkpoint in the results.")
    parser.add_argument("--repo_id", default="your-name/merit-ecg")
    args = parser.parse_args()

    run = json.loads((args.checkpoint / "pretraining_results.json").read_text(encoding="utf-8"))
    rows = evaluation_rows(args.results, args.run, run["seed"])
    subgroups = evaluation_rows(args.subgroups, args.run, run["seed"])
    calibration = evaluation_rows(args.calibration, args.run, run["seed"])
    name = args.repo_id.split("/")[-1]
    data = ModelCardData(
        model_name=name,
        eval_results=model_index(rows) or None,
        language=["de", "en"],
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="feature-extraction",
        datasets=sorted(name.partition(":")[0] for name in run["settings"]["dataset"].split(",")),
        metrics=hub_metrics(rows),
        tags=["ecg", "electrocardiogram", "contrastive-learning", "masked-autoencoder", "zero-shot-classification"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=name,
        repo_id=args.repo_id,
        training_records=run["train_records"],
        steps=run["curves"][-1]["step"],
        batch_size=run["settings"]["batch_size"],
        parameters=f"{run['parameters'] / 1e6:.2f} million",
        command=run["command"],
        commit=run["commit"],
        data_fingerprint=run["data_fingerprint"],
        seed=run["seed"],
        versions=", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        curves=curve_rows(run["curves"]),
        evaluation=evaluation_table(rows),
        subgroups=subgroup_table(subgroups),
        calibration=evaluation_table([row for row in calibration if row["metric"] in CALIBRATION])
        if calibration
        else "",
    )
    card.save(args.checkpoint / "README.md")
    print(args.checkpoint / "README.md")


if __name__ == "__main__":
    main()
