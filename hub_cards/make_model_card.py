"""Write the model card of a checkpoint from its own results; every number in it comes from a results file.

python hub_cards/make_model_card.py --checkpoint merit-ecg --results results/ptb_xl.json \\
    --subgroups results/subgroups.json --run joint

The folder's file of results chooses the card: pretraining_results.json that of a dual encoder, finetuning_results.json
that of a classifier, report_training_results.json that of a report writer, whose `--results` are the rows of
evaluate_reports.py; a model of other data gets a short card without claims. Beside a card with
results, `.eval_results/` says them as leaderboards of the Hub read them; they show where the data set's repository
declares itself a benchmark. `--calibration` takes rows of the metrics `ece` and `brier`, as other result rows. No CO2
is stated: nothing here measures energy.
"""

import argparse
import json
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from modeling_merit.processing.training.publishing import training_card

FOLDER = Path(__file__).parent
TAGS = ["ecg", "electrocardiogram"]
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
REPORT_METRICS = {
    "rougeL": "ROUGE-L",
    "meteor_exact_stem": "METEOR (words and stems)",
    "bleu_4": "BLEU-4",
    "cider_d": "CIDEr-D",
    "statement_f1": "statement F1",
    "hallucination_rate": "statements of the text that the recorded one lacks",
    "omission_rate": "statements of the recorded text that it lacks",
}
"""What a card says of written reports, of the metrics of evaluate_reports.py."""


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


def report_table(results: Path | None) -> str:
    """The scores of the reports of the model and of its controls, one line each."""
    if results is None:
        return "Not evaluated."
    rows = [row for row in json.loads(results.read_text(encoding="utf-8")) if row.get("split", "test") == "test"]
    runs = list(dict.fromkeys(row["run"] for row in rows))
    cells = {(row["run"], row["metric"]): row for row in rows}
    lines = [f"| | {' | '.join(REPORT_METRICS.values())} |", f"|---{'|---' * len(REPORT_METRICS)}|"]
    for run in runs:
        found = [cells[run, metric] for metric in REPORT_METRICS]
        values = (f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]" for row in found)
        lines.append(f"| {run} | {' | '.join(values)} |")
    return "\n".join([*lines, "", f"Command: `{rows[0]['command']}` (commit `{rows[0]['commit']}`)"])


def dual_encoder_card(args: argparse.Namespace, run: dict) -> tuple[str, dict, dict]:
    """Return the template, what the header says, and what the template is filled with."""
    rows = evaluation_rows(args.results, args.run, run["seed"])
    calibration = evaluation_rows(args.calibration, args.run, run["seed"])
    header = {
        "eval_results": model_index(rows) or None,
        "pipeline_tag": "feature-extraction",
        "datasets": ["ptb_xl"],
        "metrics": hub_metrics(rows),
        "tags": [*TAGS, "contrastive-learning", "masked-autoencoder", "zero-shot-classification"],
    }
    return (
        "model_card.md",
        header,
        {
            "training_records": run["train_records"],
            "steps": run["curves"][-1]["step"],
            "batch_size": run["settings"]["batch_size"],
            "parameters": f"{run['parameters'] / 1e6:.2f} million",
            "curves": curve_rows(run["curves"]),
            "evaluation": evaluation_table(rows),
            "subgroups": subgroup_table(evaluation_rows(args.subgroups, args.run, run["seed"])),
            "calibration": evaluation_table([row for row in calibration if row["metric"] in CALIBRATION])
            if calibration
            else "",
        },
    )


def classifier_card(args: argparse.Namespace, run: dict) -> tuple[str, dict, dict]:
    """As `dual_encoder_card`, of a classifier of finetune.py."""
    rows = evaluation_rows(args.results, args.run, run["seed"])
    config = json.loads((args.checkpoint / "config.json").read_text(encoding="utf-8"))
    ece = {
        when: [error for found in run["calibration_error"].values() for error in found[when].values()]
        for when in ("before", "after")
    }
    header = {
        "eval_results": model_index(rows) or None,
        "pipeline_tag": "audio-classification",
        "datasets": ["ptb_xl"],
        "metrics": hub_metrics(rows),
        "tags": [*TAGS, "ecg-classification"],
    }
    return (
        "statements_card.md",
        header,
        {
            "classes": len(config["id2label"]),
            "best_epoch": run["best_epoch"],
            "validation_auroc": f"{max(point['validation_macro_auroc'] for point in run['curve']):.3f}",
            "evaluation": evaluation_table(rows),
            **{f"ece_{when}": f"{sum(errors) / len(errors):.4f}" for when, errors in ece.items()},
            "subgroups": subgroup_table(evaluation_rows(args.subgroups, args.run, run["seed"])),
        },
    )


def report_writer_card(args: argparse.Namespace, run: dict) -> tuple[str, dict, dict]:
    """As `dual_encoder_card`, of a model of train_report_generation.py."""
    header = {"pipeline_tag": "text-generation", "datasets": ["ptb_xl"], "tags": [*TAGS, "report-generation"]}
    filled = {
        "parameters": f"{run['trained_parameters'] / 1e6:.2f} million",
        "loss": f"{run['best_validation_loss']:.3f}",
        "evaluation": report_table(args.results),
    }
    return "report_card.md", header, filled


def unlike_ours(kind: str, run: dict) -> str | None:
    """Return what a run would have to be for the text of its card to be true, `None` if it is."""
    settings = run.get("settings", {})
    if kind == "finetuning_results.json":
        if settings.get("dataset") != "ptb_xl" or settings.get("tasks") != ["all"] or "calibration_error" not in run:
            return "the statements of PTB-XL (--tasks all --calibrate)"
        if settings.get("head") != "probe":
            return "the statements of PTB-XL that began as a probe (--head probe)"
    elif settings.get("dataset") != "ptb_xl":
        return "the reports of PTB-XL"
    return None


CARDS = {
    "finetuning_results.json": classifier_card,
    "report_training_results.json": report_writer_card,
    "pretraining_results.json": dual_encoder_card,
}
"""By the file of results in the folder of a checkpoint."""


def eval_results(rows: list[dict], dataset_id: str) -> str:
    """The macro-AUROC of every task as the Hub reads it from `.eval_results/`."""
    entries = [
        EvalResultEntry(dataset_id, row["task"], round(row["value"], 4), notes="macro-AUROC, fold 10")
        for row in rows
        if row["metric"] == "macro_auroc"
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("merit-ecg"), help="Folder of a training script.")
    parser.add_argument("--results", type=Path, help="Rows written by an evaluation script.")
    parser.add_argument("--subgroups", type=Path, help="Rows written by plot_results.py.")
    parser.add_argument("--calibration", type=Path, help="Rows of the metrics ece and brier.")
    parser.add_argument("--run", default="joint", help="Name of this checkpoint in the results.")
    parser.add_argument("--repo_id", default="your-name/merit-ecg")
    parser.add_argument("--dataset_id", default="your-name/ptb-xl", help="Of PTB-XL on the Hub, for .eval_results/.")
    args = parser.parse_args()

    kind = next((name for name in CARDS if (args.checkpoint / name).is_file()), None)
    if kind is None:
        parser.error(f"Expected one of {', '.join(CARDS)} in {args.checkpoint}, got none.")
    run = json.loads((args.checkpoint / kind).read_text(encoding="utf-8"))
    name = args.repo_id.split("/")[-1]
    if expected := unlike_ours(kind, run):
        training_card(name, run).save(args.checkpoint / "README.md")
        print(f"{args.checkpoint / 'README.md'}: a short card, for the long one is of a model of {expected}")
        return
    template, header, filled = CARDS[kind](args, run)
    data = ModelCardData(
        model_name=name, language=["de", "en"], license="apache-2.0", library_name="transformers", **header
    )
    card = ModelCard.from_template(
        data,
        template_path=str(FOLDER / template),
        model_name=name,
        repo_id=args.repo_id,
        versions=", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        **{key: run[key] for key in ("command", "commit", "data_fingerprint", "seed")},
        **filled,
    )
    card.save(args.checkpoint / "README.md")
    print(args.checkpoint / "README.md")
    if args.results and kind != "report_training_results.json":
        path = args.checkpoint / ".eval_results" / "ptb_xl.yaml"
        path.parent.mkdir(exist_ok=True)
        rows = evaluation_rows(args.results, args.run, run["seed"])
        path.write_text(eval_results(rows, args.dataset_id), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
