"""Time building and asking an index of ECGs at several sizes, and measure what the approximate search loses.

    nice -n 10 python benchmarks/search.py --embeddings embeddings.parquet --output results/benchmarks/search.json

`--embeddings` is a table of `merit-ecg embed` (PTB-XL, say). `--real_queries` of its vectors are held out as queries;
the others come first into the index, and random unit vectors fill it up to each size. Random directions have no
clusters and are the worst case for an approximate index: no neighbour is much nearer than the rest. So recall@10, the
share of the 10 exact neighbours found, is given for the held-out real queries and for random queries apart. A time is
the median over the queries, one at a time; both ways of searching are asked in the same run. Where other processes
share the cores, wall times say little: ratios are of processor times.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.search import EcgIndex

BATCH = 50_000


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fill(index, real, size, rng):
    """Add the real vectors and random ones up to `size`, in batches."""
    start = 0
    while start < size:
        count = min(BATCH, size - start)
        vectors = unit(rng.standard_normal((count, real.shape[1]), dtype=np.float32))
        here = real[start : start + count]
        vectors[: len(here)] = here
        ids = [f"r{start + i:08d}" for i in range(count)]
        stored = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        ages = rng.integers(18, 90, count).astype(float)
        index.add(pa.table({"record_id": ids, "embedding": stored, "age": ages}))
        start += count


def ask(index, queries, **how):
    """Return the ids found for every query, and median times of one: wall and processor time, of all threads."""
    index.search(queries[0], **how)  # opens files
    found, wall, cpu = [], [], []
    for query in queries:
        begun = time.perf_counter(), time.process_time()
        found.append(set(index.search(query, columns=["record_id"], **how)["record_id"]))
        wall.append(time.perf_counter() - begun[0])
        cpu.append(time.process_time() - begun[1])
    return found, {"median_ms": 1e3 * float(np.median(wall)), "cpu_ms": 1e3 * float(np.median(cpu))}


@contextmanager
def timed(row, name):
    """Enter wall and processor time of a block into a row."""
    begun = time.perf_counter(), time.process_time()
    yield
    row[f"{name}_s"], row[f"{name}_cpu_s"] = time.perf_counter() - begun[0], time.process_time() - begun[1]


def disk_mb(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6


def measure(size, real, queries, quantizers, probes, seed):
    rng, folder = np.random.default_rng(seed), tempfile.mkdtemp(prefix="merit-search-")
    try:
        row = {"vectors": size, "real": min(size, len(real))}
        with timed(row, "add"):
            index = EcgIndex.create(folder, {"weights": "benchmark"})
            fill(index, real, size, rng)
            index.optimize()
        exact = {name: ask(index, vectors, exact=True) for name, vectors in queries.items()}
        row["searches"] = [
            {"queries": name, "search": "exact", "recall@10": 1.0, **times} for name, (_, times) in exact.items()
        ]
        condition = "age > 60"
        times = ask(index, queries["real"][:10], exact=True, where=condition)[1]
        row["searches"].append({"queries": "real", "search": "exact", "where": condition, **times})
        data = disk_mb(folder)
        row["data_mb"] = data
        for quantizer in quantizers:
            build = {"search": f"ann, {quantizer}"}
            with timed(build, "build"):
                index.build_ann(quantizer)
            build["index_mb"], data = disk_mb(folder) - data, disk_mb(folder)
            for name, vectors in queries.items():
                for nprobes in probes:
                    found, times = ask(index, vectors, nprobes=nprobes)
                    recall = float(np.mean([len(a & b) / len(a) for a, b in zip(exact[name][0], found)]))
                    times["exact_cpu_over_ann_cpu"] = exact[name][1]["cpu_ms"] / times["cpu_ms"]
                    row["searches"].append(
                        {"queries": name, **build, "nprobes": nprobes, "recall@10": recall, **times}
                    )
        row["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return row
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, help="Parquet table with a column `embedding`.")
    parser.add_argument("--sizes", type=int, nargs="+", default=(10_000, 100_000, 1_000_000))
    parser.add_argument(
        "--dimension", type=int, help="Longer vectors than the real ones: these are padded with zeros."
    )
    parser.add_argument("--quantizers", nargs="+", default=("sq", "pq"), choices=("sq", "pq"))
    parser.add_argument("--nprobes", type=int, nargs="+", default=(5, 20, 50))
    parser.add_argument("--real_queries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/search.json"))
    args = parser.parse_args()
    origin = provenance(seed=args.seed)
    rng = np.random.default_rng(args.seed)
    real = unit(np.stack(pd.read_parquet(args.embeddings, columns=["embedding"])["embedding"]).astype(np.float32))
    if args.dimension:
        real = np.pad(real, [(0, 0), (0, args.dimension - real.shape[1])])
    real = real[rng.permutation(len(real))]
    held_out, real = real[: args.real_queries], real[args.real_queries :]
    queries = {"real": held_out, "random": unit(rng.standard_normal(held_out.shape, dtype=np.float32))}
    about = {"dimension": real.shape[1], "metric": "cosine", "cores": os.cpu_count()}
    rows = []
    for size in args.sizes:
        load = os.getloadavg()[0]
        rows.append(
            measure(size, real, queries, args.quantizers, args.nprobes, args.seed) | {"load_average_before": load}
        )
        print(rows[-1], flush=True)
        write_json(args.output, {**about, "rows": rows, "disclaimer": DISCLAIMER, **origin})


if __name__ == "__main__":
    main()
