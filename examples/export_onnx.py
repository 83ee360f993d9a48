"""Export a checkpoint to ONNX and measure what that costs and gains on PTB-XL.

    python examples/export_onnx.py --model merit-ecg --data_dir PTB_XL_FOLDER --output_dir onnx

Writes the graphs and their 8-bit copies as `merit-ecg export` does, with prompts for the superclasses; records of
folds 1-8 calibrate the 8 bits. Then, on fold 9: the largest difference between ONNX and PyTorch over records
of several lengths with all and with some leads; macro-AUROC of zero-shot superclasses by PyTorch, ONNX and 8-bit ONNX;
milliseconds per pass for batches of 1 and 32 ECGs of ten seconds (median, in turns, so that what else the machine does
meets all alike) and file sizes. `--classifier` does the same for the logits of a classifier. Fold 10 is not touched.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig

from modeling_merit.processing import EcgRecord
from modeling_merit.processing.benchmark.label_sets import class_names
from modeling_merit.processing.benchmark.options import model_source, option_parser
from modeling_merit.processing.benchmark.prompts import load_prompts
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.benchmark.tasks import TASK_NAMES, load_ptb_xl, load_task
from modeling_merit.processing.data import SignalView
from modeling_merit.processing.export import export_onnx, open_session
from modeling_merit.processing.inference import embed_prompts, load_scorer, score_embeddings
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.metrics.classification import metric_value
from modeling_merit.processing.probing.embeddings import weights_fingerprint
from modeling_merit.processing.units import MICROVOLTS_PER_MILLIVOLT

SECONDS = (2.5, 3.3, 5.0, 7.7, 10.0)
LEADS = (STANDARD_LEADS, ("I", "II", "V1", "V5"), ("II",))
BATCHES = (1, 32)


def read(view, rows):
    signals = view.signals(rows).astype(np.float32) / MICROVOLTS_PER_MILLIVOLT
    return [EcgRecord(signal, 100, STANDARD_LEADS) for signal in signals]


def several(records):
    """Return parts of the records: every length with every choice of leads."""
    kinds = [(seconds, leads) for seconds in SECONDS for leads in LEADS]
    return [
        record.crop(0, kinds[i % len(kinds)][0]).select(kinds[i % len(kinds)][1]) for i, record in enumerate(records)
    ]


def task_of(checkpoint):
    """Return the task of PTB-XL whose classes are the labels of a classifier."""
    labels = list(AutoConfig.from_pretrained(checkpoint).id2label.values())
    if found := [name for name in TASK_NAMES if class_names(name) == labels]:
        return found[0]
    raise SystemExit(f"Expected a classifier of {', '.join(TASK_NAMES)}, got the labels {', '.join(labels[:5])}, …")


class Runner:
    """A model in PyTorch and its graphs, called alike: tensors of ECGs to scores of prompts or logits."""

    def __init__(self, checkpoint, exported, name, prompts, threads):
        self.model, processor = load_scorer(checkpoint)
        self.extractor, self.prompts, self.given = getattr(processor, "feature_extractor", processor), None, {}
        if prompts:
            self.prompts = embed_prompts(self.model, processor, prompts)
            given = {"prompt_embeds": self.prompts.embeddings, "prompt_words": self.prompts.words}
            self.given = {key: value.astype(np.float32) for key, value in given.items() if value is not None}
        paths = {graph.name: graph.path for graph in exported}
        self.sessions = {
            kind: open_session(paths[name + suffix], threads) for kind, suffix in (("onnx", ""), ("int8", ".int8"))
        }

    def __call__(self, kind, inputs):
        if kind != "pytorch":
            return self.sessions[kind].run(None, inputs | self.given)[0]
        tensors = [torch.from_numpy(inputs[name]) for name in ("input_values", "ecg_mask")]
        with torch.inference_mode():
            if self.prompts is None:
                return self.model(*tensors).logits.numpy()
            return score_embeddings(self.model.get_score_features(*tensors), self.prompts).score

    def inputs(self, records):
        return dict(self.extractor(records, return_tensors="np"))


def differences(runner, records):
    """Return the largest difference to PyTorch by kind, over ECGs alone and in batches of 16."""
    batches = [[record] for record in records] + [records[i : i + 16] for i in range(0, len(records), 16)]
    largest = dict.fromkeys(runner.sessions, 0.0)
    for batch in map(runner.inputs, batches):
        expected = runner("pytorch", batch)
        for kind in largest:
            largest[kind] = max(largest[kind], float(np.abs(runner(kind, batch) - expected).max()))
    return largest


def milliseconds(runner, records, repeats):
    """Return the median time of a pass by batch size and kind."""
    table = {}
    for size in BATCHES:
        inputs, times = runner.inputs(records[:size]), {kind: [] for kind in ("pytorch", *runner.sessions)}
        for repeat in range(repeats + 2):  # the first two warm up
            for kind in times:
                start = time.perf_counter()
                runner(kind, inputs)
                times[kind] += [1000 * (time.perf_counter() - start)] if repeat > 1 else []
        table[size] = {kind: statistics.median(values) for kind, values in times.items()}
    return table


def outputs(runner, view, rows, batch_size=64):
    """Return scores or logits of records by kind."""
    found = {kind: [] for kind in ("pytorch", *runner.sessions)}
    for start in range(0, len(rows), batch_size):
        inputs = runner.inputs(read(view, rows[start : start + batch_size]))
        for kind in found:
            found[kind].append(runner(kind, inputs))
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def main():
    parser = option_parser(__doc__, "model", "data_dir", "output_dir", output={"default": Path("results/onnx.json")})
    parser.add_argument("--classifier", type=model_source, help="Checkpoint of a classifier of a PTB-XL task.")
    parser.add_argument("--calibration", type=int, default=100, help="Records of folds 1-8 that calibrate 8 bits.")
    parser.add_argument("--compared", type=int, default=90, help="Records of fold 9 compared with PyTorch.")
    parser.add_argument("--repeats", type=int, default=30, help="Timed passes.")
    parser.add_argument("--threads", type=int, default=1, help="Of PyTorch and of onnxruntime.")
    args = parser.parse_args()
    if args.compared < max(BATCHES):
        parser.error(f"Expected --compared of at least {max(BATCHES)}, which are timed at once, got {args.compared}.")
    torch.set_num_threads(args.threads)

    tables = load_ptb_xl(args.data_dir)
    views = {split: SignalView(tables[split]) for split in ("train", "validation")}
    facts = {split: table.remove_columns("signal") for split, table in tables.items()}
    chosen = np.random.default_rng(0).permutation(len(views["train"]))[: args.calibration]
    calibration = read(views["train"], chosen)
    compared = read(views["validation"], range(args.compared))
    results = provenance(seed=0, threads=args.threads, calibration=args.calibration, compared=args.compared) | {
        "graphs": {}
    }
    jobs = [(args.model, "zero_shot", load_prompts("superclass"), "superclass")]
    jobs += [(args.classifier, "classifier", None, task_of(args.classifier))] if args.classifier else []
    for checkpoint, name, prompts, task_name in jobs:
        task = load_task(facts, task_name)
        exported = export_onnx(
            checkpoint, args.output_dir / name, prompts=prompts, ecgs=calibration, int8=True, overwrite=True
        )
        runner = Runner(checkpoint, exported, name, prompts, args.threads)
        found = {"weights": weights_fingerprint(runner.model), "task": task_name}
        found["bytes"] = {graph.name: graph.size for graph in exported}
        found["max_difference_at_export"] = {graph.name: graph.max_difference for graph in exported}
        found["max_difference_on_fold_9"] = differences(runner, several(compared))
        found["milliseconds"] = milliseconds(runner, compared, args.repeats)
        scores = outputs(runner, views["validation"], task.rows["validation"])
        # From any range to [0, 1] without a change of order, which is all that AUROC sees.
        found["macro_auroc_fold_9"] = {
            kind: float(metric_value("macro_auroc", task.labels["validation"], 1 / (1 + np.exp(-part))))
            for kind, part in scores.items()
        }
        results["graphs"][name] = found
        print(f"{name}: differs from PyTorch by {found['max_difference_on_fold_9']['onnx']:.1e}")
        for size, times in found["milliseconds"].items():
            print(f"  batch {size}: " + ", ".join(f"{kind} {value:.1f} ms" for kind, value in times.items()))
        print(
            "  AUROC " + ", ".join(f"{k} {v:.4f}" for k, v in found["macro_auroc_fold_9"].items()),
            flush=True,
        )
    write_json(args.output, results)


if __name__ == "__main__":
    main()
