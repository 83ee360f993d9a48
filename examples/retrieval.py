"""Retrieval on PTB-XL: which ECG belongs to a report, and which report to an ECG.

    python examples/retrieval.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint --split validation

All ECGs of one fold and their distinct reports are ranked by cosine. Reports are normalised as in pre-training; equal
ones are one text: every ECG that carries it is a right answer to it, and it stands once among the candidates of an
ECG.
Records without a report are left out. Queries are counted per record, so that frequent reports ("sinusrhythmus
normales ekg") count as often as they are written; rows with `queries: distinct reports` count each text once.
Intervals come from drawing patients; `chance` is the recall of a random order. Choose on fold 9
(`--split validation`), score fold 10 (`--split test`) once.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

from modeling_merit.processing.benchmark.evaluation import load_signals
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.results import provenance, update_rows
from modeling_merit.processing.data import PtbXlError
from modeling_merit.processing.data.reports import normalize_report
from modeling_merit.processing.inference import find_checkpoint
from modeling_merit.processing.metrics.retrieval import DIRECTIONS, chance_recall, recall_interval, retrieval_ranks
from modeling_merit.processing.probing.embeddings import embed_signals, load_extractor, weights_fingerprint
from modeling_merit.processing.record import DISCLAIMER

ROW_KEY = ("run", "task", "metric", "split", "queries", "seed")
KS = (1, 5, 10)


@torch.inference_mode()
def embed_reports(model, processor, texts, batch_size):
    """Return the unit vectors of texts, `(texts, size)`."""
    found = []
    for start in range(0, len(texts), batch_size):
        tokens = processor(text=texts[start : start + batch_size], return_tensors="pt").to(model.device)
        features = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        found.append(features.float().cpu().numpy())
    return np.concatenate(found)


def main():
    parser = option_parser(
        __doc__,
        *("model", "data_dir", "run", "batch_size", "device", "n_resamples"),
        output={"default": Path("results/retrieval.json")},
        seed={"help": "Seed of the pre-training, for the results."},
    )
    parser.add_argument("--split", default="validation", choices=("validation", "test"), help="Fold 9 or fold 10.")
    args = parser.parse_args()

    origin = provenance(seed=args.seed)
    try:
        find_checkpoint(args.model)
        views, tables, fingerprint = load_signals(args.data_dir, (args.split,))
    except (OSError, ValueError, PtbXlError) as error:
        parser.error(str(error))
    extractor, processor = load_extractor(args.model), AutoProcessor.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model, dtype=torch.float32).to(args.device).eval()

    table = tables[args.split]
    reports = np.array([normalize_report(text or "") for text in table["report"]])
    kept = np.flatnonzero(reports != "")
    texts, owners = np.unique(reports[kept], return_inverse=True)
    patients = np.array(table["patient_id"])[kept]
    ecg_embeds = embed_signals(
        lambda *ecgs: model.get_ecg_features(*ecgs).pooler_output,
        views[args.split],
        extractor.prepare,
        args.batch_size,
        args.device,
        args.split,
    )[kept]
    ranks = retrieval_ranks(ecg_embeds, embed_reports(model, processor, texts.tolist(), args.batch_size), owners)

    weighting = {"records": np.ones(len(owners)), "distinct reports": 1 / np.bincount(owners)[owners]}
    about = {"n": len(kept), "n_reports": len(texts), "left_out": len(reports) - len(kept)}
    about |= {"weights": weights_fingerprint(model), "data_fingerprint": fingerprint, "disclaimer": DISCLAIMER}
    about |= {name: origin[name] for name in ("command", "commit")}
    rows = []
    for direction in DIRECTIONS:
        for queries, weights in weighting.items():
            for k in KS:
                found = recall_interval(ranks[direction], k, patients, weights, args.n_resamples)
                names = {"run": args.run, "task": f"retrieval_{direction}", "metric": f"recall@{k}"}
                names |= {"split": args.split, "queries": queries, "seed": args.seed}
                value = {"value": found.value, "ci_low": found.low, "ci_high": found.high}
                chance = chance_recall(owners, k, direction, weights)
                rows.append({**names, **value, "chance": chance, "label_fraction": 1.0, **about})
                print(
                    f"{args.run} {direction}, {queries}, recall@{k}: {found.value:.3f} [{found.low:.3f}, "
                    f"{found.high:.3f}], chance {chance:.4f}",
                    flush=True,
                )
        candidates = f"{len(texts)} distinct reports" if direction == "ecg_to_report" else f"{len(owners)} records"
        print(f"{args.run} {direction}: median rank {np.median(ranks[direction]):g} of {candidates}")
    update_rows(args.output, rows, ROW_KEY)
    print(f"{len(kept)} ECGs, {len(texts)} distinct reports. {DISCLAIMER}")


if __name__ == "__main__":
    main()
