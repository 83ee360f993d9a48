"""Linear probe of a frozen MERIT encoder on the tasks of PTB-XL.

    python examples/linear_probe.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint --output results/ptb_xl.json

The encoder embeds every record once (evaluation mode, weights unchanged, checked by hash). For each task a logistic
regression is fitted on folds 1-8, its C and one threshold per class are chosen on fold 9, and fold 10 is scored once,
with bootstrap intervals over patients. Rows go to `--output`, fold-10 probabilities to `--predictions`, which
`compare.py` reads. `--random_init` draws the weights anew from `--seed`: the baseline that pre-training must beat.
"""

from modeling_merit.processing.benchmark.evaluation import record_run
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.results import provenance
from modeling_merit.processing.benchmark.tasks import TASK_NAMES, load_ptb_xl, load_task
from modeling_merit.processing.probing.embeddings import embed_tables, load_encoder
from modeling_merit.processing.probing.logistic_probe import logistic_probe

OPTIONS = (
    *("model", "random_init", "data_dir", "run", "label_fraction", "seed", "output", "predictions", "cache_dir"),
    *("batch_size", "device"),
)


def main():
    parser = option_parser(__doc__, *OPTIONS, tasks={"choices": (*TASK_NAMES, "diagnostic")})
    args = parser.parse_args()

    origin = provenance(seed=args.seed)
    tables = load_ptb_xl(args.data_dir)
    encoder, extractor = load_encoder(args.model, args.random_init, args.seed, args.device)
    features, weights, signals = embed_tables(encoder, extractor, tables, args.cache_dir, args.batch_size)
    for name in args.tasks:
        task = load_task(tables, name, args.label_fraction, args.seed)
        x = {split: features[split][rows] for split, rows in task.rows.items()}
        probe = logistic_probe(x["train"], task.labels["train"], x["validation"], task.labels["validation"], x["test"])
        probabilities = {"validation": probe.val_probabilities, "test": probe.test_probabilities}
        fields = {"weights": weights, "data_fingerprint": signals}
        record_run(args, origin, task, probabilities, f" (C {probe.c:g})", **fields)


if __name__ == "__main__":
    main()
