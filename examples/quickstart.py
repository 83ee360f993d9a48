"""Load a MERIT checkpoint, read an ECG file that it has not seen, score it against prompts, and plot it.

    python examples/quickstart.py --model merit-ecg [--ecg RECORD.hea] [--prompts "atrial fibrillation" "sinus rhythm"]

Without `--ecg`, a synthetic ECG is written as a WFDB file first and read back. Not a medical device.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

import modeling_merit  # noqa: F401  registers MERIT with the Auto classes
from modeling_merit.processing import EcgRecord, read_ecg
from modeling_merit.processing.data.simulation import FINDINGS, RHYTHMS, simulate_ecg
from modeling_merit.processing.plotting import plot_ecg
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.writers import write_wfdb

UNSEEN_SEED = 10**6  # the records of the synthetic data set are drawn from pairs of numbers, never from a single one


def write_synthetic_ecg(folder: str, condition: str) -> Path:
    """Write a synthetic ECG as a WFDB record of 16-bit samples; return the path of its header."""
    ecg = simulate_ecg(condition, seed=UNSEEN_SEED)
    return write_wfdb(EcgRecord(ecg.signal, ecg.sampling_rate, ecg.leads, record_id="unseen"), folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="merit-ecg", help="Checkpoint folder or Hub id.")
    parser.add_argument("--ecg", help="An ECG file of any format that read_ecg knows; default: a new synthetic one.")
    parser.add_argument("--condition", default="left_bundle_branch_block", choices=(*RHYTHMS, *FINDINGS))
    parser.add_argument("--prompts", nargs="+", help="Texts to score the ECG against.")
    parser.add_argument("--plot", type=Path, default=Path("merit-ecg/unseen_ecg.png"))
    args = parser.parse_args()

    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model)
    prompts = args.prompts or [condition.phrases[0] for condition in (RHYTHMS | FINDINGS).values()]
    with tempfile.TemporaryDirectory() as folder:
        path = args.ecg or write_synthetic_ecg(folder, args.condition)
        record = read_ecg(path)
    inputs = processor(ecg=record, text=prompts, return_tensors="pt")
    with torch.no_grad():
        similarities = model(**inputs).logits_per_ecg[0].softmax(dim=0)

    truth = "" if args.ecg else f", simulated with {args.condition.replace('_', ' ')}"
    print(
        f"\n{Path(path).name}: {len(record.leads)} leads, {record.duration_s:g} s, {record.sampling_rate:g} Hz{truth}"
    )
    print(f"{'prompt':<36} fraction")
    for fraction, prompt in sorted(zip(similarities.tolist(), prompts), reverse=True)[:8]:
        print(f"{prompt:<36} {fraction:5.3f} {'#' * round(40 * fraction)}")
    plot_ecg(record, args.plot)
    print(f"12-lead plot: {args.plot}\n{DISCLAIMER}")


if __name__ == "__main__":
    main()
