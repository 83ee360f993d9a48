"""How fast pairs are loaded for pre-training, and how much memory that takes as the data set grows.

    python benchmarks/loading.py --records 5000 50000 --folder FOLDER --output results/benchmarks/loading.json

Writes Parquet files of generated ECGs (random walks of the size of a 10-s ECG at 100 Hz, and a report each) into
FOLDER, once, and then measures, each in a process of its own, for every number of records: batches of 128 from the
stream (`EcgReportStream`), and from the table that `datasets` maps into memory (`EcgReportPairs`), with signals
conditioned as they come and, where they fit, kept in memory, with augmentation and without. Resident memory is that
of the process less what it had before, so pages of the mapped file count, which the system takes back at need;
`anonymous` is what it cannot take back. Beside these: the smallest of what a WFDB reader does, `wfdb.rdsamp` of one
record after the other.

From the two largest sizes, the time to the first batch and the memory that cannot be taken back are drawn on in a
line to `--extrapolate` records; what an epoch takes follows from the speed at the largest size. They hold as long as
what grows with the records (reports and their tokens, the list of files) grows evenly, and the disk delivers what it
did here, where the files of the measured sizes were in the memory of the system.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Array2D, Dataset, Features, Value, load_dataset

from modeling_merit import MeritFeatureExtractor, MeritProcessor
from modeling_merit.processing import EcgRecord
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.training.pairs import EcgReportPairs
from modeling_merit.processing.training.streaming import EcgReportStream, ParquetFiles
from modeling_merit.processing.training.tokenizers import train_wordpiece
from modeling_merit.processing.writers import write_ecg

PER_FILE = 2500
REPORTS = ("sinusrhythmus. normales ekg.", "vorhofflimmern. linksschenkelblock.", "sinus rhythm. left axis deviation.")
ARGS = {
    "seed": 0,
    "batch_size": 128,
    "shuffle_buffer": 2048,
    "gradient_accumulation_steps": 1,
    "sampling_rate": 100,
    "max_report_tokens": 64,
    "crop_seconds": 2.56,
    "lead_dropout": 0.3,
    "noise_mv": 0.05,
    "wander_mv": 0.05,
    "gap_probability": 0.1,
}


def write_files(folder: Path, records: int) -> Path:
    """Return the folder with so many records, written if it is not there."""
    folder = folder / str(records)
    features = Features({"signal": Array2D((12, 1000), "int16"), "report": Value("string")})
    for number, start in enumerate(range(0, records, PER_FILE)):
        path = folder / f"train-{number:05d}.parquet"
        if path.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        rows = min(PER_FILE, records - start)
        steps = np.random.default_rng(number).integers(-30, 31, size=(rows, 12, 1000), dtype=np.int16)
        reports = list(islice(cycle(REPORTS), rows))
        table = Dataset.from_dict(
            {"signal": list(np.cumsum(steps, axis=2, dtype=np.int16)), "report": reports}, features
        )
        table.to_parquet(path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return folder


def memory() -> dict[str, float]:
    """Resident memory of this process in MB, and the part that lies in no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {
        line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss") or "VmRSS" in line
    }
    return {"resident": found["VmRSS"], "anonymous": found["RssAnon"]}


def measure(kind: str, folder: Path, batches: int) -> dict[str, float]:
    """Return seconds until the first batch, ECGs per second after it, and the growth of memory."""
    processor = MeritProcessor(MeritFeatureExtractor(), train_wordpiece(REPORTS, 200, 64))
    kept = {"keep_in_memory": kind.startswith("kept"), "no_augmentation": kind == "kept, not augmented"}
    args = Namespace(**ARGS | kept)
    before, started = memory(), time.perf_counter()
    if kind == "stream":
        iterator = iter(
            EcgReportStream(ParquetFiles(str(folder), "train"), processor, args, True, Accelerator(cpu=True))
        )
    else:
        table = load_dataset("parquet", data_files=str(folder / "train-*.parquet"), split="train")
        pairs = EcgReportPairs(table, processor, args, train=True)
        order = np.random.default_rng(0).permutation(len(pairs))
        rows = (order[start : start + 128].tolist() for start in cycle(range(0, len(order) - 127, 128)))
        iterator = (pairs.__getitems__(indices) for indices in rows)
    next(iterator)
    first, counted, started_at = time.perf_counter() - started, 0, time.perf_counter()
    for batch in islice(iterator, batches):
        counted += len(batch["input_ids"])
    seconds, after = time.perf_counter() - started_at, memory()
    growth = {f"{name}_mb": round(after[name] - before[name]) for name in before}
    return {"first_batch_s": round(first, 1), "ecgs_per_s": round(counted / seconds), **growth}


def read_wfdb(records: int = 200) -> float:
    """Return records per second of `wfdb.rdsamp`."""
    import wfdb

    with tempfile.TemporaryDirectory() as folder:
        ecg = simulate_ecg("sinus_rhythm", seed=0)
        write_ecg(EcgRecord(ecg.signal, ecg.sampling_rate, ecg.leads), f"{folder}/ecg.hea")
        started = time.perf_counter()
        for _ in range(records):
            wfdb.rdsamp(f"{folder}/ecg")
        return records / (time.perf_counter() - started)


def extrapolate(rows: list[dict], records: int, wfdb_rate: float) -> list[dict]:
    """Return what `records` would take by kind, by a line through the two largest sizes; none of it was measured."""
    found = []
    for kind in ("stream", "mapped"):
        before, last = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["records"])[-2:]

        def drawn_on(name, before=before, last=last):
            slope = max(0, last[name] - before[name]) / (last["records"] - before["records"])
            return last[name] + slope * (records - last["records"])

        found.append(
            {
                "records": records,
                "kind": kind,
                "disk_gb": round(records * 12 * 1000 * 2 / 1e9, 1),
                "first_batch_s": round(drawn_on("first_batch_s"), 1),
                "anonymous_mb": round(drawn_on("anonymous_mb")),
                "epoch_processor_hours": round(records / last["ecgs_per_s"] / 3600, 2),
                "wfdb_to_parquet_processor_hours_at_least": round(records / wfdb_rate / 3600, 2),
            }
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[5000, 50000], help="Sizes of the data set.")
    parser.add_argument("--folder", type=Path, required=True, help="For the generated files, 25 MB per 1,000 records.")
    parser.add_argument("--extrapolate", type=int, nargs="*", default=[800_000, 10_000_000], help="Larger sizes.")
    parser.add_argument("--batches", type=int, default=35, help="Timed batches of 128.")
    parser.add_argument("--most_kept", type=int, default=10000, help="Keep in memory up to so many records.")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/loading.json"))
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one:
        print(json.dumps(measure(args.one[0], Path(args.one[1]), args.batches)))
        return

    rows = []
    for records in args.records:
        folder = write_files(args.folder, records)
        for kind in ("stream", "mapped", "kept", "kept, not augmented"):
            if kind.startswith("kept") and records > args.most_kept:
                continue
            command = [
                sys.executable,
                __file__,
                "--folder",
                args.folder,
                "--batches",
                args.batches,
                "--one",
                kind,
                folder,
            ]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
            rows.append({"records": records, "kind": kind} | json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    rate = read_wfdb()
    print(f"wfdb.rdsamp: {rate:.0f} records/s")
    measured = {"rows": rows, "wfdb_records_per_s": round(rate)}
    if len(args.records) > 1:
        measured["extrapolated"] = [row for size in args.extrapolate for row in extrapolate(rows, size, rate)]
    write_json(args.output, provenance(threads=1) | measured)


if __name__ == "__main__":
    main()
