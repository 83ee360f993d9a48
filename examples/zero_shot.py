"""Zero-shot classification of PTB-XL: which class's prompts an ECG lies closest to, without training on labels.

    python examples/zero_shot.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint --output results/ptb_xl.json

A class is the mean of its prompts (this project's German and English ones, or those of `--prompts`). Its score is the
cosine with the ECG less the mean over all classes of the task: how much nearer an ECG is to this class than to the
others, for InfoNCE leaves open how near it is to all texts (`merit-ecg classify` gives the same). `--score cosine`
takes the cosine itself. Labels of fold 9 choose one threshold per class for F1; fold 10 is scored once. Rows carry the
task `zero_shot_superclass` and so on; `--predictions` receives what `compare.py` reads.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

from modeling_merit.processing.benchmark.evaluation import load_signals, record_run
from modeling_merit.processing.benchmark.label_sets import class_names
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.prompts import LANGUAGES, load_prompts, read_prompt_file
from modeling_merit.processing.benchmark.results import provenance
from modeling_merit.processing.benchmark.tasks import load_task
from modeling_merit.processing.data import PtbXlError
from modeling_merit.processing.inference import embed_prompts, find_checkpoint, score_embeddings
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


def main():
    parser = option_parser(
        __doc__,
        *("model", "data_dir", "run", "output", "predictions", "batch_size", "device"),
        tasks={"default": ("superclass", "subclass", "all")},
        seed={"help": "Seed of the pre-training, for the results."},
    )
    parser.add_argument("--prompts", type=Path, help="JSON of class to text(s), or text lines `CLASS: prompt`.")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES, choices=LANGUAGES, help="Of the own prompts.")
    parser.add_argument("--score", default="relative", choices=("relative", "cosine"))
    args = parser.parse_args()

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
        views, tables, fingerprint = load_signals(args.data_dir, ("validation", "test"))
    except PtbXlError as error:
        parser.error(str(error))
    embeds = {
        split: embed_signals(model.get_ecg_features, view, extractor.prepare, args.batch_size, args.device, split)
        for split, view in views.items()
    }
    fields = {"prompts": str(args.prompts) if args.prompts else "+".join(args.languages), "score": args.score}
    fields |= {"weights": weights_fingerprint(model), "data_fingerprint": fingerprint}
    for name in args.tasks:
        task = load_task(tables, name)
        embedded = embed_prompts(model, processor, prompts[name])
        for note in embedded.notes:
            print(f"{name}: {note}")
        found = {split: score_embeddings(embeds[split][task.rows[split]], embedded) for split in embeds}
        similarities = {split: getattr(scores, f"{args.score}_similarity") for split, scores in found.items()}
        # From [-2, 2] to [0, 1], where thresholds are looked for; the order stays.
        scores = {split: np.clip((2 + similarity) / 4, 0, 1) for split, similarity in similarities.items()}
        note = f" ({len(task.classes)} classes)"
        record_run(args, origin, task, scores, note, task_name=f"zero_shot_{name}", metrics=METRICS, **fields)


if __name__ == "__main__":
    main()
