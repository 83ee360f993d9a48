"""Load a MERIT checkpoint, read an ECG file that it has not seen, score it against prompts, and plot it.

    python examples/quickstart.py --model merit-ecg [--ecg RECORD.hea] [--prompts "atrial fibrillation" "sinus rhythm"]

Without `--ecg`, a synthetic ECG is written as a WFDB file first and read back. Not a medical device.
"""

import argparse
import tempfile
from pathlib import Path

from modeling_merit.processing import EcgRecord, read_ecg
from modeling_merit.processing.benchmark.prompts import SCORE_MEANING
from modeling_merit.processing.data.simulation import FINDINGS, RHYTHMS, simulate_ecg
from modeling_merit.processing.inference import load_checkpoint, score_prompts
from modeling_merit.processing.plotting import plot_ecg
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.writers import write_wfdb

UNSEEN_SEED = 10**6  # the records of the synthetic data set are drawn from pairs of numbers, never from a single one


def write_synthetic_ecg(folder: str, condition: str) -> Path:
    """Write a synthetic ECG as a WFDB record of 16-bit samples; return the path of its header."""
    ecg = simulate_ecg(condition, seed=UNSEEN_SEED)
    return write_wfdb(EcgRecord(ecg.signal, ecg.sampling_rate, ecg.leads, record_id="unseen"), Path(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="merit-ecg", help="Checkpoint folder or Hub id.")
    parser.add_argument("--ecg", help="An ECG file of any format that read_ecg knows; default: a new synthetic one.")
    parser.add_argument("--condition", default="left_bundle_branch_block", choices=(*RHYTHMS, *FINDINGS))
    parser.add_argument("--prompts", nargs="+", help="Two or more texts to score the ECG against.")
    parser.add_argument("--plot", type=Path, default=Path("runs/unseen_ecg.png"), help="Default: %(default)s")
    args = parser.parse_args()

    prompts = args.prompts or {condition.phrases[0]: condition.phrases for condition in (RHYTHMS | FINDINGS).values()}
    try:
        model, processor = load_checkpoint(args.model)
        with tempfile.TemporaryDirectory() as folder:
            path = args.ecg or write_synthetic_ecg(folder, args.condition)
            record = read_ecg(path)
        (scores,) = score_prompts(model, processor, record, prompts).score
    except (OSError, ValueError) as error:
        parser.error(str(error))

    truth = "" if args.ecg else f", simulated with {args.condition.replace('_', ' ')}"
    print(
        f"\n{Path(path).name}: {len(record.leads)} leads, {record.duration_s:g} s, {record.sampling_rate:g} Hz{truth}"
    )
    print(f"{'prompt':<36} score")
    for score, prompt in sorted(zip(scores.tolist(), prompts), reverse=True)[:8]:
        print(f"{prompt:<36} {score:+.3f} {'#' * round(5 * max(score, 0))}")
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    plot_ecg(record, args.plot)
    print(f"{SCORE_MEANING}\n12-lead plot: {args.plot}\n{DISCLAIMER}")


if __name__ == "__main__":
    main()
