"""Zero-shot classification of PTB-XL: which class's prompts an ECG lies closest to, without training on labels.

    python examples/zero_shot.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint --output results/ptb_xl.json

A class is the mean of its prompts (this project's German and English ones, or those of `--prompts`). Its score says
how much likelier their words are with the ECG than without, plus how much nearer the ECG is to them than to all
classes of the task (`merit-ecg classify` gives the same). `--score relative_similarity` takes the second part alone,
`--score cosine_similarity` the cosine itself. Labels of fold 9 choose one threshold per class for F1; fold 10 is
scored once. Rows carry the task `zero_shot_superclass` and so on; `--predictions` receives what `compare.py` reads.
`--similarity_weights` leaves fold 10 alone and writes the macro-AUROC of fold 9 for other weights of the similarity in
the score to `--output`.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from transformers import AutoModel, AutoProcessor

from modeling_merit.processing.benchmark.evaluation import load_signals, record_run
from modeling_merit.processing.benchmark.label_sets import class_names
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.prompts import LANGUAGES, load_prompts, read_prompt_file
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.benchmark.tasks import load_task
from modeling_merit.processing.data import PtbXlError
from modeling_merit.processing.inference import (
    SIMILARITY_WEIGHT,
    PromptScores,
    embed_prompts,
    find_checkpoint,
    score_embeddings,
)
from modeling_merit.processing.metrics.classification import metric_value
from modeling_merit.processing.probing.embeddings import embed_signals, load_extractor, weights_fingerprint

METRICS = ("macro_auroc", "macro_auprc", "macro_f1_tuned")  # a cosine is not a probability: 0.5 means nothing to it


def read_prompts(path, classes):
    """Return prompts by class from JSON (the CKEPE file too), or from text with one `CLASS: prompt` per line."""
    if path.suffix.lower() == ".json":
        return read_prompt_file(path, classes)
    prompts = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, text = (part.strip() for part in line.partition(":"))
        if not name and not text or name.startswith("#"):
            continue
        if not text:
            raise ValueError(f"Expected `CLASS: prompt` in line {number} of {path}, got {line!r}.")
        prompts[name].append(text)
    if missing := [name for name in classes if name not in prompts]:
        raise ValueError(f"Expected a prompt for every class, got none for {', '.join(missing)} in {path}. Add them.")
    return {name: prompts[name] for name in classes}


def compare_weights(scores, task, logit_scale, weights):
    """Return the macro-AUROC of fold 9 of the relative similarity alone, and of the words plus so much of it."""
    similarity = logit_scale * scores.relative_similarity
    words = scores.score - SIMILARITY_WEIGHT * similarity
    variants = {"similarity": similarity} | {f"words + {w:g} similarity": words + w * similarity for w in weights}
    labels = task.labels["validation"]
    return {kind: round(float(metric_value("macro_auroc", labels, part)), 4) for kind, part in variants.items()}


def main():
    parser = option_parser(
        __doc__,
        *("model", "data_dir", "run", "output", "predictions", "batch_size", "device"),
        tasks={"default": ("superclass", "subclass", "all")},
        seed={"help": "Seed of the pre-training, for the results."},
    )
    parser.add_argument("--prompts", type=Path, help="JSON of class to text(s), or text lines `CLASS: prompt`.")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES, choices=LANGUAGES, help="Of the own prompts.")
    parser.add_argument("--score", default="score", choices=PromptScores._fields)
    parser.add_argument("--similarity_weights", nargs="+", type=float, help="Weights to compare on fold 9.")
    args = parser.parse_args()
    if args.similarity_weights and args.output == parser.get_default("output"):
        parser.error(
            f"Expected an --output of its own with --similarity_weights: {args.output} holds rows of results."
        )

    origin = provenance(seed=args.seed)
    prompts = {}
    for task in args.tasks:
        classes = class_names(task)
        prompts[task] = read_prompts(args.prompts, classes) if args.prompts else load_prompts(task, args.languages)
    try:
        find_checkpoint(args.model)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    extractor = load_extractor(args.model)
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model, dtype=torch.float32).to(args.device).eval()

    try:
        splits = ("validation",) if args.similarity_weights else ("validation", "test")
        views, tables, fingerprint = load_signals(args.data_dir, splits)
    except PtbXlError as error:
        parser.error(str(error))
    embeds = {
        split: embed_signals(model.get_score_features, view, extractor.prepare, args.batch_size, args.device, split)
        for split, view in views.items()
    }
    fields = {"prompts": str(args.prompts) if args.prompts else "+".join(args.languages), "score": args.score}
    fields |= {"weights": weights_fingerprint(model), "data_fingerprint": fingerprint}
    compared = {}
    for name in args.tasks:
        task = load_task(tables, name)
        embedded = embed_prompts(model, processor, prompts[name])
        for note in embedded.notes:
            print(f"{name}: {note}")
        found = {split: score_embeddings(embeds[split][task.rows[split]], embedded) for split in embeds}
        if args.similarity_weights:
            compared[name] = compare_weights(found["validation"], task, embedded.logit_scale, args.similarity_weights)
            print(name, compared[name], flush=True)
            continue
        similarities = {split: getattr(scores, args.score) for split, scores in found.items()}
        # To [0, 1], where thresholds are looked for; the order stays, which 32 bits do not keep near 1.
        scores = {split: expit(similarity.astype(np.float64)) for split, similarity in similarities.items()}
        note = f" ({len(task.classes)} classes)"
        record_run(args, origin, task, scores, note, task_name=f"zero_shot_{name}", metrics=METRICS, **fields)
    if compared:
        write_json(args.output, origin | fields | {"macro_auroc_fold_9": compared})


if __name__ == "__main__":
    main()
