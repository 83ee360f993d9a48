"""Fine-tune a MERIT encoder on tasks of PTB-XL, or train the same network from scratch.

    accelerate launch examples/finetune.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint_finetuned \\
        --output_dir runs/joint-finetuned

One network learns all `--tasks` at once, one output per class; name a single task for a network of its own. Learning
rates fall from the head to the patch embedding by `--layer_decay` per block. Fold 9 chooses the epoch (macro AUROC,
with early stopping) and the thresholds, fold 10 is predicted once. The output folder loads with
`MeritForEcgClassification.from_pretrained`.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from modeling_merit import MeritEcgConfig, MeritForEcgClassification
from modeling_merit.processing.benchmark.results import data_fingerprint, provenance, write_json
from modeling_merit.processing.benchmark.tasks import (
    TASK_NAMES,
    describe,
    load_ptb_xl,
    load_task,
    record_scores,
)
from modeling_merit.processing.data import SignalView
from modeling_merit.processing.probing.embeddings import load_extractor, weights_fingerprint
from modeling_merit.processing.training.supervised import Schedule, train_classifier


def build(args, tasks, device):
    """The classifier, its outputs named after the classes."""
    labels = [name if len(tasks) == 1 else f"{task.name}:{name}" for task in tasks for name in task.classes]
    config = MeritEcgConfig.from_pretrained(args.model)
    config.problem_type = "multi_label_classification"
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    attention = "eager" if device.type == "cpu" else "sdpa"  # as in pre-training: faster there
    if args.from_scratch:
        return MeritForEcgClassification._from_config(config, attn_implementation=attention)
    return MeritForEcgClassification.from_pretrained(
        args.model, config=config, dtype=torch.float32, attn_implementation=attention
    )


def layer_groups(model, learning_rate, layer_decay, weight_decay):
    """Parameter groups whose rate falls by `layer_decay` per block from the head down (Clark et al., ICLR 2020)."""
    depth = len(model.ecg_model.layers)
    groups = {}
    for name, parameter in model.named_parameters():
        below_head = 0
        if name.startswith("ecg_model.layers."):
            below_head = depth - int(name.split(".")[2])
        elif name.startswith("ecg_model.embeddings."):
            below_head = depth + 1
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        group = {"params": [], "lr": learning_rate * layer_decay**below_head, "weight_decay": decay}
        groups.setdefault((below_head, decay), group)["params"].append(parameter)
    return list(groups.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Checkpoint folder or Hub id.")
    parser.add_argument("--from_scratch", action="store_true", help="Keep the architecture, draw the weights anew.")
    parser.add_argument("--data_dir", required=True, help="Folder of PTB-XL (the one with ptbxl_database.csv).")
    parser.add_argument("--run", required=True, help="Name of this model in the results.")
    parser.add_argument("--tasks", nargs="+", default=TASK_NAMES, choices=TASK_NAMES)
    parser.add_argument("--label_fraction", type=float, default=1.0, help="Share of training patients with labels.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--patience", type=int, default=5, help="Epochs without a better validation before the stop.")
    parser.add_argument("--batch_size", type=int, default=128, help="Records per process and step.")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="Of the head.")
    parser.add_argument("--layer_decay", type=float, help="Default: 0.75, but 1 from scratch.")
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--crop_seconds", type=float, default=5.0, help="Length of the pieces trained on.")
    parser.add_argument("--lead_dropout", type=float, default=0.0, help="Probability that a record loses leads.")
    parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), help="Default: `accelerate config`.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for the classifier.")
    parser.add_argument("--output", type=Path, default=Path("results/ptb_xl.json"))
    parser.add_argument("--predictions", type=Path, default=Path("runs/predictions"))
    args = parser.parse_args()

    origin = provenance(seed=args.seed)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    with accelerator.main_process_first():
        tables = load_ptb_xl(args.data_dir)
    views = {split: SignalView(table) for split, table in tables.items()}
    fingerprint = data_fingerprint(view.signals(range(len(view))) for view in views.values())
    tables = {split: table.remove_columns("signal") for split, table in tables.items()}
    tasks = [load_task(tables, name, args.label_fraction, args.seed) for name in args.tasks]
    set_seed(args.seed)
    extractor = load_extractor(args.model)
    model = build(args, tasks, accelerator.device)
    layer_decay = args.layer_decay or (1.0 if args.from_scratch else 0.75)
    groups = layer_groups(model, args.learning_rate, layer_decay, args.weight_decay)
    plan = Schedule(
        epochs=args.epochs,
        patience=args.patience,
        batch_size=args.batch_size,
        crop_seconds=args.crop_seconds,
        lead_dropout=args.lead_dropout,
        seed=args.seed,
    )
    outcome = train_classifier(model, groups, views, tasks, extractor.normalize, plan, accelerator)
    if not accelerator.is_main_process:
        return
    model.save_pretrained(args.output_dir)
    extractor.save_pretrained(args.output_dir)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    details = {"settings": settings, "best_epoch": outcome.best_epoch, "curve": outcome.curve}
    write_json(args.output_dir / "finetuning_results.json", origin | {"data_fingerprint": fingerprint} | details)
    for task in tasks:
        intervals = record_scores(
            task,
            outcome.probabilities["validation"][task.name],
            outcome.probabilities["test"][task.name],
            run=args.run,
            origin=origin,
            output=args.output,
            predictions=args.predictions,
            label_fraction=args.label_fraction,
            seed=args.seed,
            weights=weights_fingerprint(model),
            data_fingerprint=fingerprint,
        )
        print(f"{args.run} {task.name} (epoch {outcome.best_epoch}): {describe(intervals)}", flush=True)


if __name__ == "__main__":
    main()
