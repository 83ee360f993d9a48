"""How fast signals are read in random order: the training view, `datasets` formats, and WFDB files one by one.

    python examples/benchmark_reading.py --data_dir ptb-xl-1.0.3 --records 1000

builds a table of that many PTB-XL records (once; it is cached) and prints one JSON object: records per second for each
way of reading, and the view's speed as a multiple of `wfdb.rdsamp`. All files are read and compared before the clock
starts, so they are in the page cache for everyone.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable

import datasets
import numpy as np
import torch
import wfdb

from modeling_merit.processing.benchmark.options import ptb_xl_folder
from modeling_merit.processing.data import PtbXl, SignalView, present_ecg_ids


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data_dir",
        type=ptb_xl_folder,
        required=True,
        help="Folder with ptbxl_database.csv; it may be incomplete.",
    )
    parser.add_argument("--config_name", choices=list(PtbXl.builder_configs), default="100hz")
    parser.add_argument("--records", type=int, default=1000, help="Number of records, the first ones of the folder.")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="Least time for each way of reading.")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def records_per_second(read: Callable[[np.ndarray], object], batches: Iterable[np.ndarray], seconds: float) -> float:
    """Call `read` with one batch of indices after another, over and over, for at least `seconds`."""
    count, start = 0, time.perf_counter()
    while True:
        for batch in batches:
            read(batch)
            count += len(batch)
            if time.perf_counter() - start > seconds:
                return count / (time.perf_counter() - start)


def main() -> None:
    args = parse_args()
    ecg_ids = present_ecg_ids(args.data_dir, args.config_name)[: args.records]
    builder = PtbXl(config_name=args.config_name, data_dir=args.data_dir, ecg_ids=ecg_ids)
    builder.download_and_prepare()
    table = datasets.concatenate_datasets(list(builder.as_dataset().values()))
    name = "records100/{:02d}000/{:05d}_lr" if args.config_name == "100hz" else "records500/{:02d}000/{:05d}_hr"
    paths = [f"{args.data_dir}/{name.format(ecg_id // 1000, ecg_id)}" for ecg_id in table["ecg_id"]]

    view = SignalView(table)
    numpy_table = table.select_columns("signal").with_format("numpy")
    readers = {
        "wfdb.rdsamp": lambda batch: [wfdb.rdsamp(paths[i])[0] for i in batch],
        "datasets, numpy format": lambda batch: numpy_table[batch]["signal"],
        "SignalView, one by one": lambda batch: [np.array(view[i][0]) for i in batch],
        "SignalView, batches": view.signals,
        "SignalView, batches to float32 tensors": lambda batch: torch.from_numpy(view.signals(batch)).float(),
    }
    order = np.random.default_rng(args.seed).permutation(len(table))
    batches = [order[i : i + args.batch_size] for i in range(0, len(order), args.batch_size)]
    for (signal, _), path in zip(view, paths):
        np.testing.assert_array_equal(signal, np.round(wfdb.rdsamp(path)[0].T * 1000), err_msg=path)
    speeds = {name: round(records_per_second(read, batches, args.seconds), 1) for name, read in readers.items()}
    result = {
        "records": len(table),
        "samples": view.shape[1],
        "batch_size": args.batch_size,
        "records_per_second": speeds,
        "view_over_wfdb": round(speeds["SignalView, batches"] / speeds["wfdb.rdsamp"], 1),
        "versions": {package.__name__: package.__version__ for package in (datasets, np, torch, wfdb)},
        "machine": platform.platform(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
