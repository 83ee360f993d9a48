"""Embed many ECGs on several processes or a Ray cluster, into a folder of Parquet files.

    python examples/embed_with_ray.py PTB_XL/records100 --model merit-ecg --out embeddings --workers 2
    python examples/embed_with_ray.py s3://bucket/ecgs --model merit-ecg --out s3://bucket/embeddings --address auto

A source is an ECG file, a folder, a `.parquet` table, `@LIST` or the URL of one of these, as in `merit-ecg embed`, of
which this is the Python side. Every ECG gets one row: its id, the embedding, quality flags, or the error. A unit of
`--rows_per_part` ECGs whose actor or worker is killed is done again by another; a job that is started again embeds
what the folder does not hold yet. On a cluster every node needs this package, the checkpoint and the files under the
same names (a shared folder, or URLs).
"""

import argparse

from tqdm import tqdm

from modeling_merit.processing.batch_embedding import embed_to_folder
from modeling_merit.processing.inference import FEATURES
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.record_sources import list_sources


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="Files, folders, .parquet tables, @LIST, or URLs of these.")
    parser.add_argument("--model", required=True, help="Checkpoint folder or Hub id.")
    parser.add_argument("--out", required=True, help="Folder or URL for the parts.")
    parser.add_argument("--features", default="aligned", choices=tuple(FEATURES))
    parser.add_argument("--pattern", help="Which files below a folder, such as 'records100/*.hea'.")
    parser.add_argument("--sampling_rate", type=float, help="Hz, for tables that do not say it.")
    parser.add_argument("--units", help="For tables that do not say it, such as uV.")
    parser.add_argument("--leads", nargs="+", help="For tables that do not say them.")
    parser.add_argument("--address", help="Of a Ray cluster; a local Ray by default.")
    parser.add_argument("--workers", type=int, default=2, help="Actors, each with a CPU and a copy of the model.")
    parser.add_argument("--device", default="cpu", help="cuda reserves one GPU for every actor.")
    parser.add_argument("--rows_per_part", type=int, default=512, help="ECGs per unit of work and file.")
    parser.add_argument("--batch_size", type=int, default=32, help="ECGs per pass through the model.")
    parser.add_argument("--retry_failed", action="store_true", help="Try again what failed in an earlier run.")
    args = parser.parse_args()

    sources = list_sources(args.sources, args.pattern)
    with tqdm(total=len(sources), unit="ECG") as bar:
        done = embed_to_folder(
            sources,
            args.out,
            args.model,
            features=args.features,
            facts={"sampling_rate": args.sampling_rate, "units": args.units, "leads": args.leads},
            rows_per_part=args.rows_per_part,
            batch_size=args.batch_size,
            device=args.device,
            engine="ray",
            address=args.address,
            workers=args.workers,
            retry_failed=args.retry_failed,
            progress=bar.update,
        )
    print(
        f"{args.out}: {done.records} ECGs, {done.before} of them done before, {done.embedded} embedded now, "
        f"{done.failed} failed now\n{DISCLAIMER}"
    )


if __name__ == "__main__":
    main()
