"""Score a saved classifier on one task of PTB-XL: what is published, not what was trained.

    python examples/score_classifier.py --model merit-ecg-statements --data_dir PTB_XL_FOLDER --run statements

The labels of the classifier must be the classes of the task. Thresholds are chosen on fold 9 and fold 10 is scored
once, with bootstrap intervals over patients; the expected calibration error of every class is printed as their mean.
Not a medical device.
"""

import numpy as np
import torch

from modeling_merit import MeritForEcgClassification
from modeling_merit.processing.benchmark.evaluation import load_signals, record_run
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.results import provenance
from modeling_merit.processing.benchmark.tasks import TASK_NAMES, load_task
from modeling_merit.processing.metrics.classification import ece
from modeling_merit.processing.probing.embeddings import embed_signals, load_extractor, weights_fingerprint

OPTIONS = ("model", "data_dir", "run", "seed", "output", "predictions", "batch_size", "device")


def main():
    parser = option_parser(__doc__, *OPTIONS)
    parser.add_argument("--task", default="all", choices=TASK_NAMES)
    args = parser.parse_args()

    origin = provenance(seed=args.seed)
    model = MeritForEcgClassification.from_pretrained(args.model).to(args.device).eval()
    views, tables, fingerprint = load_signals(args.data_dir, ("validation", "test"))
    task = load_task(tables, args.task)
    labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    if labels != task.classes:
        raise SystemExit(
            f"Expected a classifier of the classes of {args.task} ({', '.join(task.classes[:5])}, …), got one of "
            f"{', '.join(labels[:5])}, … (--task names another)."
        )

    def classify(*ecgs: torch.Tensor) -> torch.Tensor:
        return model(*ecgs).logits.float().sigmoid()

    extractor = load_extractor(args.model)
    probabilities = {
        split: embed_signals(classify, view, extractor.prepare, args.batch_size, args.device, split)[task.rows[split]]
        for split, view in views.items()
    }
    fields = {"weights": weights_fingerprint(model), "data_fingerprint": fingerprint}
    record_run(args, origin, task, probabilities, **fields)
    error = np.nanmean(ece(task.labels["test"], probabilities["test"]))
    print(f"expected calibration error on fold 10, mean over the classes: {error:.4f}")


if __name__ == "__main__":
    main()
