"""Write reports for ECG files with a model of `train_report_generation.py`. Not a medical device.

    python examples/generate_report.py --model merit-report ecgs/*.hea --language English
    python examples/generate_report.py --model merit-report ecgs/ --format json --output reports.json

Files of any format that `read_ecg` knows, or folders of them. The same files give the same texts, unless `--sample` is
given. A file that cannot be read is named on stderr, and the exit status is then 1.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import set_seed

from modeling_merit.configuration_merit import PROMPTS
from modeling_merit.processing.inference import REPORT_LANGUAGES, generate_reports, load_checkpoint
from modeling_merit.processing.metrics.statements import find_statements, statement_lexicon
from modeling_merit.processing.readers import read_ecg
from modeling_merit.processing.record import DISCLAIMER


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("files", nargs="+", type=Path, help="ECG files, or folders of them.")
    add("--model", required=True, help="Folder or Hub id of a model of train_report_generation.py.")
    add("--task", default="report", choices=tuple(PROMPTS))
    add("--language", default="English", choices=REPORT_LANGUAGES, help="Of the report.")
    add("--question", help="For --task question.")
    add("--format", default="text", choices=("text", "json"))
    add("--output", type=Path, help="File to write; default: standard output.")
    add("--batch_size", type=int, default=16)
    add("--max_new_tokens", type=int, default=128)
    add("--num_beams", type=int, default=1)
    add("--sample", action="store_true", help="Draw the words at random instead of taking the most probable ones.")
    add("--temperature", type=float, default=1.0, help="With --sample.")
    add("--seed", type=int, default=0, help="With --sample.")
    add("--sampling_rate", type=float, help="In Hz, for files that do not say.")
    add("--leads", nargs="+", help="For files that do not say.")
    add("--units", help="mV, uV, nV or V, for files that do not say.")
    args = parser.parse_args()
    if (args.task == "question") != (args.question is not None):
        parser.error("Expected --question TEXT together with --task question, got one without the other.")
    return args


def find_files(paths):
    """Every file that is named, and in folders every file but the signal halves of WFDB records."""
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file())
            yield from (f for f in found if not (f.suffix == ".dat" and f.with_suffix(".hea").exists()))
        else:
            yield path


def main():
    args = parse_args()
    set_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = load_checkpoint(args.model, "AutoModelForMultimodalLM", device=device)
    prompt = model.config.prompts[args.task].replace("{question}", args.question or "")
    options = {"max_new_tokens": args.max_new_tokens, "num_beams": args.num_beams, "do_sample": args.sample}
    if args.sample:
        options["temperature"] = args.temperature
    facts = {"sampling_rate": args.sampling_rate, "leads": args.leads, "units": args.units}
    facts = {name: value for name, value in facts.items() if value is not None}
    records, failed = [], 0
    for path in find_files(args.files):
        try:
            record = read_ecg(path, **facts)
            processor.feature_extractor(record)  # finds now what would stop a whole batch later
            records.append((path, record))
        except (OSError, ValueError) as error:
            failed += 1
            print(f"{path}: {error}", file=sys.stderr)
    results = []
    for start in tqdm(range(0, len(records), args.batch_size), unit="batch", disable=len(records) <= args.batch_size):
        batch = records[start : start + args.batch_size]
        ecgs = [record for _, record in batch]
        texts = generate_reports(model, processor, ecgs, prompt, args.language, **options)
        for (path, _), text in zip(batch, texts):
            mentions = {
                statement_lexicon()[mention.statement]["name"]: mention.status for mention in find_statements(text)
            }
            results.append({"file": str(path), "text": text, "statements": mentions, "notice": DISCLAIMER})
    if args.format == "json":
        content = {
            "notice": DISCLAIMER,
            "model": args.model,
            "task": args.task,
            "language": args.language,
            "question": args.question,
            "generation": options,
            "results": results,
        }
        written = json.dumps(content, indent=1, ensure_ascii=False)
    else:
        written = "\n".join([f"# {DISCLAIMER}", *(f"{result['file']}\t{result['text']}" for result in results)])
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(written + "\n", encoding="utf-8")
    else:
        print(written)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
