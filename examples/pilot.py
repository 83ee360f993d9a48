"""Compare recipes of pre-training at equal processor time, on fold 9.

    python examples/pilot.py --data_dir PTB_XL_FOLDER --run crops_5 --budget_seconds 900 -- --crop_seconds 5.12

What stands behind `--` goes to `pretrain.py`. Two short runs tell how much processor time a step takes, all threads
together, and so how many steps take `--budget_seconds`: the learning rate falls to the end of these, as in a long run.
The frozen encoder is then probed on the tasks of PTB-XL (logistic regression on folds 1-8, C by fold 9), and, where
reports were used, classes are scored by their prompts. Everything is measured on fold 9; fold 10 is not read. A row
goes to `--output`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

from modeling_merit.processing.benchmark.evaluation import load_signals
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.prompts import load_prompts
from modeling_merit.processing.benchmark.results import provenance, update_rows
from modeling_merit.processing.benchmark.tasks import load_task
from modeling_merit.processing.inference import embed_prompts, score_embeddings
from modeling_merit.processing.metrics.classification import metric_value
from modeling_merit.processing.probing.embeddings import embed_signals
from modeling_merit.processing.probing.logistic_probe import logistic_probe

ZERO_SHOT = ("superclass", "subclass", "all")
SHORT = (5, 35)
"""Steps of the two runs whose difference in processor time tells that of a step."""


def pretrain(args, steps, folder):
    """Return the results of so many steps of pre-training."""
    command = [sys.executable, Path(__file__).parent / "pretrain.py", *args.options]
    command += ["--data_dir", args.data_dir, "--seed", args.seed, "--output_dir", folder, "--max_train_steps", steps]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"Expected pretrain.py to succeed, got:\n{done.stderr[-2000:]}")
    return json.loads((Path(folder) / "pretraining_results.json").read_text(encoding="utf-8"))


def evaluate(folder, args, views, tables):
    """Return the macro-AUROC of fold 9 by task, of probes and of prompts."""
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).to(args.device).eval()
    prepare = processor.feature_extractor.prepare

    def embed(encode, split):
        return embed_signals(encode, views[split], prepare, args.batch_size, args.device, split)

    features = {split: embed(lambda *ecgs: model.ecg_model(*ecgs).pooler_output, split) for split in views}
    with_text = model.config.contrastive_weight and model.config.word_weight
    scores = embed(model.get_score_features, "validation") if with_text else None
    found = {}
    for name in args.tasks:
        task = load_task(tables, name)
        x = {split: features[split][task.rows[split]] for split in views}
        labels = [task.labels[split] for split in ("train", "validation")]
        probe = logistic_probe(x["train"], labels[0], x["validation"], labels[1], x["validation"][:0], args.grid)
        found[name] = max(probe.val_macro_auroc.values())
        if scores is not None and name in ZERO_SHOT:
            prompts = embed_prompts(model, processor, load_prompts(name))
            score = score_embeddings(scores[task.rows["validation"]], prompts).score
            found[f"zero_shot_{name}"] = metric_value("macro_auroc", labels[1], score)
    return {name: round(float(value), 4) for name, value in found.items()}


def main():
    parser = option_parser(
        __doc__,
        *("data_dir", "run", "seed", "tasks", "batch_size", "device"),
        output={"default": Path("results/pilots.json")},
    )
    parser.add_argument("--budget_seconds", type=float, default=1800, help="Processor time of the steps.")
    parser.add_argument(
        "--grid", type=float, nargs="+", default=(1e-3, 1e-2, 1e-1), help="C to choose from on fold 9."
    )
    parser.add_argument("options", nargs="*", help="Behind --: options of pretrain.py.")
    args = parser.parse_args()
    if any(option.startswith("--num_workers") for option in args.options):
        parser.error("Expected no --num_workers: the processor time of other processes would not count.")

    origin = provenance(seed=args.seed)
    views, tables, _ = load_signals(args.data_dir, ("train", "validation"))
    with tempfile.TemporaryDirectory() as folder:
        short = [pretrain(args, steps, Path(folder) / str(steps))["processor_seconds"] for steps in SHORT]
        step_seconds = (short[1] - short[0]) / (SHORT[1] - SHORT[0])  # without what validation takes
        steps = max(1, round(args.budget_seconds / step_seconds))
        print(f"{args.run}: {step_seconds:.3f} processor seconds per step, {steps} steps", flush=True)
        results = pretrain(args, steps, Path(folder) / "pilot")
        records = results["settings"]["batch_size"] * results["settings"]["gradient_accumulation_steps"]
        best = min((curve["validation"] for curve in results["curves"]), key=lambda means: means["loss"])
        row = {
            **origin,
            "run": args.run,
            "options": args.options,
            "budget_seconds": args.budget_seconds,
            "step_seconds": round(step_seconds, 4),
            "processor_seconds": results["processor_seconds"],
            "steps": steps,
            "epochs": round(steps * records / results["train_records"], 2),
            "parameters": results["parameters"],
            "data_fingerprint": results["data_fingerprint"],
            "validation": {name: round(value, 4) for name, value in best.items()},
            "threads": torch.get_num_threads(),
            "macro_auroc_fold_9": evaluate(Path(folder) / "pilot", args, views, tables),
        }
    update_rows(args.output, [row], ("run", "seed", "budget_seconds"))
    print(args.run, row["macro_auroc_fold_9"], flush=True)


if __name__ == "__main__":
    main()
