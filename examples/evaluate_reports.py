"""Score generated reports of the test fold, beside the controls that show whether the ECG was looked at.

    python examples/evaluate_reports.py --data_dir PTB_XL_FOLDER --retrieval_model merit-ecg \
        --runs joint=merit-report masked=merit-report-masked --output results/report_generation.json

Runs are models of `train_report_generation.py`, the first one that of the controls: the ECGs of other records
(`shuffled_ecg`), flat ECGs (`zero_ecg`), the most frequent training report of the language (`most_frequent_report`),
and the training report nearest to the ECG by the contrastive heads of `--retrieval_model` (`nearest_report`). All are
told the language of the recorded report, decode greedily, and are scored on every record; empty texts count as zero.
`--output` gets rows of one value each, in the place of those of the same run or control, split and seed; beside it lie
the differences of the first run from the others (`*_paired.json`) and some reports in full (`*_examples.json`).
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoProcessor

from modeling_merit import MeritForConditionalGeneration, MeritModel
from modeling_merit.processing.benchmark.options import model_source, named_model, option_parser
from modeling_merit.processing.benchmark.results import provenance, update_rows, write_json
from modeling_merit.processing.data import SignalView, normalize_report
from modeling_merit.processing.inference import generate_reports
from modeling_merit.processing.metrics.reports import compare_reports, report_intervals, report_statistics
from modeling_merit.processing.metrics.statements import report_language
from modeling_merit.processing.training.report_pairs import id_column, load_reports, read_inputs

NOTICE = "Written by research models; not for clinical use. Not a medical device."
EXAMPLES = 10
ROW_KEY = ("run", "metric", "dataset", "split", "seed", "num_beams")
PAIR_KEY = ("run_a", "run_b", *ROW_KEY[1:])
EARLIER = {"dataset": "ptb_xl", "split": "test", "seed": 0, "num_beams": 1}  # what rows mean that do not say it


def parse_args():
    parser = option_parser(
        __doc__,
        *("dataset", "num_records", "sampling_rate", "n_resamples", "seed", "device"),
        data_dir={"required": False},
        batch_size={"default": 64, "help": "Records per pass."},
        output={"default": Path("results/report_generation.json")},
    )
    add = parser.add_argument
    add(
        "--runs",
        type=named_model,
        nargs="+",
        required=True,
        metavar="NAME=FOLDER",
        help="Models; the first is that of the controls.",
    )
    add(
        "--retrieval_model",
        type=model_source,
        help="MERIT checkpoint with contrastive heads, for the control nearest_report.",
    )
    add("--split", default="test", choices=("validation", "test"))
    add("--max_records", type=int, help="Score the first records only, to try things out.")
    add("--num_beams", type=int, default=1)
    add("--max_new_tokens", type=int, default=128)
    add("--bertscore_model", help="Encoder for BERTScore, Hub id or folder.")
    add("--example_ids", nargs="*", help="Records to quote; default: ten at even distances in the split.")
    args = parser.parse_args()
    if args.max_records and args.output == parser.get_default("output"):
        parser.error(f"Expected an --output of its own with --max_records: {args.output} holds rows of all records.")
    return args


def generate(folder, ecgs, languages, args):
    """Return a report for every ECG of `ecgs`, as `read_inputs` gives them, in the language asked for."""
    model = MeritForConditionalGeneration.from_pretrained(folder).to(args.device)
    processor, texts = AutoProcessor.from_pretrained(folder), [""] * len(languages)
    decoding = {"do_sample": False, "num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
    order = sorted(range(len(languages)), key=lambda row: languages[row])  # prompts of one length, no padding
    for start in tqdm(range(0, len(order), args.batch_size), desc=str(folder), unit="batch"):
        rows = order[start : start + args.batch_size]
        own = [languages[row] for row in rows]
        part = {name: values[rows] for name, values in ecgs.items()}
        written = generate_reports(model, processor, part, language=own, **decoding)
        for row, text in zip(rows, written):
            texts[row] = text
    return texts


@torch.inference_mode()
def nearest_reports(folder, inputs, languages, pool, device, batch_size):
    """Return the training report (of the language) whose text embedding is nearest to the ECG's."""
    model = MeritModel.from_pretrained(folder).to(device).eval()
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    parts = zip(*(part.to(device).split(batch_size) for part in inputs.values()))
    ecgs = torch.cat([model.get_ecg_features(*part).pooler_output for part in parts])
    texts = [""] * len(languages)
    for language in set(languages):
        reports = sorted(pool[language])
        if not reports:
            continue  # as the most frequent report of a language that nobody wrote in
        embeds = []
        for start in range(0, len(reports), batch_size):
            tokens = tokenizer(
                reports[start : start + batch_size], padding=True, truncation=True, return_tensors="pt"
            ).to(device)
            embeds.append(model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output)
        rows = [row for row, own in enumerate(languages) if own == language]
        for row, best in zip(rows, (ecgs[rows] @ torch.cat(embeds).T).argmax(dim=1).tolist()):
            texts[row] = reports[best]
    return texts


def main():
    args = parse_args()
    origin = provenance(seed=args.seed)
    runs = dict(run.split("=", 1) for run in args.runs)
    folder = next(iter(runs.values()))
    table, train = load_reports(args, args.split), load_reports(args, "train")
    if args.max_records:
        table = table.select(range(min(args.max_records, len(table))))
    ids = table[id_column(table)][:]
    places = {str(record_id): row for row, record_id in enumerate(ids)}
    if unknown := [name for name in args.example_ids or () if name not in places]:
        raise SystemExit(f"Expected --example_ids of the {args.split} split, got {', '.join(unknown)}.")
    references = [normalize_report(report) for report in table["report"]]
    languages, patients = [report_language(report) for report in references], np.array(table["patient_id"])

    def signals(of):
        extractor = AutoProcessor.from_pretrained(of).feature_extractor
        return read_inputs(SignalView(table), range(len(table)), args.sampling_rate, extractor)

    pool = {language: Counter() for language in set(languages)}
    for report in map(normalize_report, train["report"]):
        pool.setdefault(report_language(report), Counter())[report] += 1
    values = signals(folder)
    other = np.empty(len(languages), dtype=int)
    circle = np.random.default_rng(args.seed).permutation(len(languages))
    other[circle] = np.roll(circle, 1)  # a random cycle: no record keeps its own ECG
    texts = {name: generate(where, signals(where), languages, args) for name, where in runs.items()}
    shuffled = {name: part[other] for name, part in values.items()}
    texts["shuffled_ecg"] = generate(folder, shuffled, languages, args)
    flat = values | {"input_values": torch.zeros_like(values["input_values"])}
    texts["zero_ecg"] = generate(folder, flat, languages, args)
    texts["most_frequent_report"] = [pool[own].most_common(1)[0][0] if pool[own] else "" for own in languages]
    if args.retrieval_model:
        texts["nearest_report"] = nearest_reports(
            args.retrieval_model, signals(args.retrieval_model), languages, pool, args.device, args.batch_size
        )

    rows, comparisons, scored = [], [], {}
    about = {"n": len(references)} | {name: getattr(args, name) for name in EARLIER}
    about |= {"command": origin["command"], "commit": origin["commit"]}
    for run, written in texts.items():
        scored[run] = report_statistics(written, references, args.bertscore_model)
        intervals = report_intervals(scored[run], patients, args.n_resamples, seed=args.seed)
        for metric, interval in intervals.items():
            interval = {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high}
            rows.append({"run": run, "metric": metric, **interval, **about})
        if run != next(iter(runs)):
            pairs = compare_reports(scored[next(iter(runs))], scored[run], patients, args.n_resamples, seed=args.seed)
            for metric, pair in pairs.items():
                difference = {
                    "difference": pair.difference,
                    "ci_low": pair.low,
                    "ci_high": pair.high,
                    "p": pair.p_bootstrap,
                }
                comparisons.append({"run_a": next(iter(runs)), "run_b": run, "metric": metric, **difference, **about})
        print(f"{run:22s}", *(f"{name} {intervals[name].value:.3f}" for name in ("rougeL", "bleu_4", "statement_f1")))
    every = max(1, len(ids) // EXAMPLES)
    chosen = [places[name] for name in args.example_ids or ()] or range(0, len(ids), every)[:EXAMPLES]
    examples = [
        {"ecg_id": ids[row], "recorded": references[row], **{run: written[row] for run, written in texts.items()}}
        for row in chosen
    ]
    update_rows(args.output, rows, ROW_KEY, EARLIER)
    update_rows(args.output.with_stem(f"{args.output.stem}_paired"), comparisons, PAIR_KEY, EARLIER)
    content = {"notice": NOTICE, "split": args.split, "examples": examples}
    write_json(args.output.with_stem(f"{args.output.stem}_examples"), origin | content)


if __name__ == "__main__":
    main()
