"""Linear probe of a frozen MERIT encoder on the tasks of PTB-XL.

    python examples/linear_probe.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint --output results/ptb_xl.json

The encoder embeds every record once (evaluation mode, weights unchanged, checked by hash). For each task a logistic
regression is fitted on folds 1-8, its C and one threshold per class are chosen on fold 9, and fold 10 is scored once,
with bootstrap intervals over patients. Rows go to `--output`, fold-10 probabilities to `--predictions`, which
`compare.py` reads. `--random_init` draws the weights anew from `--seed`: the baseline that pre-training must beat.
`--pooled_features` leaves fold 10 alone and writes to `--output` the macro-AUROC of fold 9 of parts of the feature: of
the last one, two, ... stages, with and without the largest values over all windows. `--last_stage` probes the mean and
maximum of the last stage alone, which the heads of pre-training read. `--zero_shot_prior` is for few labels: the
regression corrects the zero-shot scores of the classes' prompts instead of starting from nothing; how much of them
stays is chosen on fold 9, too.
"""

import numpy as np
import torch

from modeling_merit.processing.benchmark.evaluation import record_run
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.prompts import load_prompts
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.benchmark.tasks import TASK_NAMES, load_ptb_xl, load_task
from modeling_merit.processing.inference import embed_prompts, load_checkpoint, score_embeddings
from modeling_merit.processing.probing.embeddings import embed_tables, load_encoder
from modeling_merit.processing.probing.logistic_probe import DEFAULT_GRID, logistic_probe

OPTIONS = (
    *("model", "random_init", "data_dir", "run", "label_fraction", "seed", "output", "predictions", "cache_dir"),
    *("batch_size", "device"),
)


def parts_of(config):
    """Return the columns of the pooled feature that a configuration of fewer stages would give, by what they are."""
    sizes = config.hidden_sizes[::-1][: config.pooler_stages]
    ends, largest = np.cumsum(sizes), np.arange(2 * sum(sizes), config.pooler_size)
    parts = {f"last {count} stages": np.arange(2 * end) for count, end in enumerate(ends, start=1)}
    stages = len(sizes)
    for count, with_largest in ((1, 1), (stages, 1), (stages, stages)) if config.pooler_largest else ():
        columns = np.concatenate([np.arange(2 * ends[count - 1]), largest[: ends[with_largest - 1]]])
        parts[f"last {count} stages, largest of last {with_largest}"] = columns
    return parts


def compare_parts(features, tables, args, parts):
    """Return the macro-AUROC of fold 9 by part of the feature and task, printed as they come."""
    found = {}
    for name, columns in parts.items():
        found[name] = {"features": len(columns)}
        for task_name in args.tasks:
            task = load_task(tables, task_name, args.label_fraction, args.seed)
            x = {split: features[split][task.rows[split]][:, columns] for split in ("train", "validation")}
            labels = [task.labels[split] for split in x]
            probe = logistic_probe(x["train"], labels[0], x["validation"], labels[1], x["validation"][:0], args.grid)
            found[name][task_name] = round(max(probe.val_macro_auroc.values()), 4)
        print(name, found[name], flush=True)
    return found


@torch.no_grad()
def zero_shot_scores(model, processor, features, task):
    """Return the zero-shot scores (rows, classes) of the training, validation and test rows of a task."""
    prompts = embed_prompts(model, processor, load_prompts(task.name))
    parts = (torch.from_numpy(features[split][task.rows[split]]) for split in ("train", "validation", "test"))
    return [score_embeddings(model.score_features(part), prompts).score for part in parts]


def main():
    parser = option_parser(__doc__, *OPTIONS, tasks={"choices": (*TASK_NAMES, "diagnostic")})
    parser.add_argument("--pooled_features", action="store_true", help="Compare parts of the feature on fold 9.")
    parser.add_argument("--last_stage", action="store_true", help="Probe what the last stage gives alone.")
    parser.add_argument("--zero_shot_prior", action="store_true", help="Correct scores of prompts: for few labels.")
    parser.add_argument("--grid", type=float, nargs="+", default=DEFAULT_GRID, help="C to choose from on fold 9.")
    args = parser.parse_args()
    if args.pooled_features and args.output == parser.get_default("output"):
        parser.error(f"Expected an --output of its own with --pooled_features: {args.output} holds rows of results.")
    if args.zero_shot_prior and args.random_init:
        parser.error("Expected trained weights with --zero_shot_prior, got --random_init: they know no texts.")

    origin = provenance(seed=args.seed)
    scorer = load_checkpoint(args.model) if args.zero_shot_prior else ()
    tables = load_ptb_xl(args.data_dir)
    encoder, extractor = load_encoder(args.model, args.random_init, args.seed, args.device)
    features, weights, signals = embed_tables(encoder, extractor, tables, args.cache_dir, args.batch_size)
    if args.pooled_features:
        found = compare_parts(features, tables, args, parts_of(encoder.config))
        about = {"run": args.run, "label_fraction": args.label_fraction, "weights": weights}
        return write_json(args.output, origin | about | {"data_fingerprint": signals, "macro_auroc_fold_9": found})
    for name in args.tasks:
        task = load_task(tables, name, args.label_fraction, args.seed)
        prior = zero_shot_scores(*scorer, features, task) if args.zero_shot_prior else None
        x = {split: features[split][rows] for split, rows in task.rows.items()}
        if args.last_stage:
            x = {split: part[:, : encoder.config.aligned_size] for split, part in x.items()}
        labels = [task.labels[split] for split in ("train", "validation")]
        probe = logistic_probe(x["train"], labels[0], x["validation"], labels[1], x["test"], args.grid, prior)
        probabilities = {"validation": probe.val_probabilities, "test": probe.test_probabilities}
        fields = {"weights": weights, "data_fingerprint": signals}
        if prior is not None:
            fields["prior_scale"] = probe.prior_scale
        record_run(args, origin, task, probabilities, f" (C {probe.c:g})", **fields)


if __name__ == "__main__":
    main()
