"""How a frozen encoder and its probe bear what they were not fitted on: corrupted signals, and other data sets.

    python examples/distribution_shift.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint

fits the linear probe on clean PTB-XL and scores fold 10 under every corruption of `shift.py` at severities 0 to 5
(`--output`, and `--plot` for the curves). `lead_absent` drops the same leads as `lead_drop`, but tells the model.

    python examples/distribution_shift.py ... --external cpsc2018=FOLDER csn=FOLDER challenge2021=FOLDER \\
        --csn_labels DATA_SPLIT_FOLDER --reverse --corruptions

reads the recordings under each folder with `read_ecg`, fits the probe on the concepts that PTB-XL shares with that
data set, and scores all of its records (`--transfer_output`); `--reverse` fits on it and scores fold 10. `cpsc2018`
needs its REFERENCE*.csv, `challenge2021` the diagnoses in its headers (leave PTB-XL's own folder out), `csn` the label
files of MERL. `--corruptions` without names leaves the first part out. Not a medical device.
"""

import csv
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_merit.processing import EcgFormatError, read_ecg
from modeling_merit.processing.benchmark.label_sets import CPSC2018_LABELS, SPLITS, label_matrix
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.results import provenance, update_rows
from modeling_merit.processing.benchmark.shift import SEVERITIES, corrupt, to_concepts
from modeling_merit.processing.benchmark.subsets import read_shared_split
from modeling_merit.processing.benchmark.tasks import load_ptb_xl, load_task
from modeling_merit.processing.data import SignalView
from modeling_merit.processing.metrics.bootstrap import bootstrap_interval
from modeling_merit.processing.metrics.classification import metric_value
from modeling_merit.processing.metrics.thresholds import tune_thresholds
from modeling_merit.processing.probing.embeddings import SAMPLING_RATE, embed_signals, embed_tables, load_encoder
from modeling_merit.processing.probing.logistic_probe import logistic_probe
from modeling_merit.processing.units import MICROVOLTS_PER_MILLIVOLT

CORRUPTIONS = (*SEVERITIES, "lead_absent")
METRICS = ("macro_auroc", "macro_f1_tuned")
SHIFT_KEY = ("run", "task", "corruption", "severity", "metric", "seed")
TRANSFER_KEY = ("run", "source", "target", "concept", "metric", "seed")


class CorruptedView:
    """The records of a view, corrupted when they are read."""

    def __init__(self, view, ecg_ids, kind, severity, seed):
        self.view, self.ecg_ids, self.kind, self.severity, self.seed = view, np.asarray(ecg_ids), kind, severity, seed

    def __len__(self):
        return len(self.view)

    def signals(self, indices):
        """(records, leads, samples) in µV, as a `SignalView` gives them."""
        signals = self.view.signals(indices).astype(np.float32) / MICROVOLTS_PER_MILLIVOLT
        kind = "lead_drop" if self.kind == "lead_absent" else self.kind
        return MICROVOLTS_PER_MILLIVOLT * corrupt(
            signals, kind, self.severity, SAMPLING_RATE, self.ecg_ids[np.asarray(indices)], self.seed
        )


def embed_corrupted(args, encoder, extractor, view, ecg_ids, kind, severity):
    """Return the features of all records of a view under one corruption."""

    def encode(signals):
        signals, mask = signals.numpy(), None
        if kind == "lead_absent":
            mask = np.broadcast_to(signals.any(-1, keepdims=True), signals.shape)
        values = torch.from_numpy(extractor.normalize(extractor.condition(signals), mask)).to(args.device)
        mask = None if mask is None else torch.from_numpy(mask.copy()).to(args.device)
        return encoder(values, mask).pooler_output

    corrupted = CorruptedView(view, ecg_ids, kind, severity, args.seed)
    return embed_signals(encode, corrupted, lambda signals: signals, args.batch_size, description=f"{kind} {severity}")


def severity_curves(args, origin, encoder, extractor, tables, features):
    """Return rows of every corruption, severity, task and metric; probe and thresholds are those of clean data."""
    view, ecg_ids = SignalView(tables["test"]), tables["test"]["ecg_id"]
    levels = [("none", 0, None)]
    levels += [
        (kind, severity, SEVERITIES["lead_drop" if kind == "lead_absent" else kind][severity - 1])
        for kind in args.corruptions
        for severity in range(1, 6)
    ]
    embedded = [features["test"]]
    embedded += [embed_corrupted(args, encoder, extractor, view, ecg_ids, kind, s) for kind, s, _ in levels[1:]]
    tables = {split: table.remove_columns("signal") for split, table in tables.items()}
    rows = []
    for name in args.tasks:
        task = load_task(tables, name)
        x = {split: features[split][task.rows[split]] for split in ("train", "validation")}
        y, test_rows = task.labels, task.rows["test"]
        stacked = np.concatenate([part[test_rows] for part in embedded])
        fitted = logistic_probe(x["train"], y["train"], x["validation"], y["validation"], stacked)
        thresholds = tune_thresholds(fitted.val_probabilities, y["validation"])
        for (kind, severity, level), probabilities in zip(levels, np.split(fitted.test_probabilities, len(levels))):
            for metric in METRICS:
                i = bootstrap_interval(
                    metric, y["test"], probabilities, task.patient_ids["test"], thresholds, args.n_resamples
                )
                row = {"run": args.run, "task": name, "corruption": kind, "severity": severity, "level": level}
                row |= {"metric": metric, "value": i.value, "ci_low": i.low, "ci_high": i.high, "n": len(test_rows)}
                rows.append(row | {"seed": args.seed, "command": origin["command"], "commit": origin["commit"]})
            print(f"{args.run} {name} {kind} {severity}: {METRICS[0]} {rows[-2]['value']:.3f}", flush=True)
    return rows


def plot_curves(rows, path):
    """Plot one panel per task: macro AUROC over severity, one line per corruption."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["metric"] == METRICS[0]]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(5 * len(tasks), 4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks):
        curve = {(row["corruption"], row["severity"]): row["value"] for row in rows if row["task"] == task}
        for kind in sorted({kind for kind, _ in curve} - {"none"}):
            axes.plot(range(6), [curve["none", 0]] + [curve[kind, s] for s in range(1, 6)], marker="o", label=kind)
        axes.set(title=task, xlabel="severity", ylabel="macro AUROC")
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


@dataclass(frozen=True)
class DataSet:
    """Frozen features and labels of a data set; `split` says of every record "train", "validation" or "test"."""

    name: str
    features: np.ndarray
    labels: np.ndarray
    classes: list[str]
    split: np.ndarray
    patients: np.ndarray


def find_recordings(name, folder, csn_labels):
    """Return paths and codes of the labelled recordings under a folder, in the order of their names."""
    files = {path.stem: path for path in sorted(folder.rglob("*.mat"))}
    files |= {path.stem: path for path in sorted(folder.rglob("*.hea"))}  # the header says more
    codes = {}
    if name == "challenge2021":
        for stem, path in files.items():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.suffix == ".hea" else []
            stated = [line.split(":", 1)[1] for line in lines if line.lstrip("# ").startswith("Dx:")]
            if stated:
                codes[stem] = [code.strip() for code in stated[0].split(",")]
    elif name == "cpsc2018":
        for path in sorted(folder.rglob("REFERENCE*.csv")):
            with path.open(encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file):
                    numbers = [row[f"{place}_label"] for place in ("First", "Second", "Third")]
                    codes[row["Recording"]] = [CPSC2018_LABELS[int(float(n)) - 1] for n in numbers if n]
    else:
        for shared in (read_shared_split(csn_labels, "csn", split) for split in SPLITS):
            codes |= {Path(recording).stem: row for recording, row in zip(shared.recordings, shared.codes)}
    stems = sorted(files.keys() & codes.keys())
    if not stems:
        raise SystemExit(
            f"Expected labelled recordings of {name} in {folder}, got {len(files)} recordings and {len(codes)} labels "
            "that do not meet. Check the folder and the names."
        )
    return [files[stem] for stem in stems], [codes[stem] for stem in stems]


def load_external(args, name, paths, codes, encoder, extractor):
    """Read, resample and embed every recording; one that cannot be read is named and left out."""
    embedded, kept = [], []
    for place, path in enumerate(tqdm(paths, desc=f"reading {name}", unit="file")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # amplitudes beyond the plausible are part of the shift
                inputs = extractor(read_ecg(path), nan_policy="mask", truncation=True, return_tensors="pt")
        except (EcgFormatError, ValueError) as error:
            print(f"left out {path.name}: {error}", flush=True)
            continue
        with torch.no_grad():
            output = encoder(**inputs.to(args.device))
        embedded.append(output.pooler_output[0].cpu().numpy())
        kept.append(place)
    if not kept:
        raise SystemExit(f"Expected readable recordings of {name}, got none out of {len(paths)}.")
    matrix, classes, in_task = label_matrix([codes[place] for place in kept], name)
    stems = np.array([paths[place].stem for place in kept])
    tenth = np.array([zlib.crc32(stem.encode()) % 10 for stem in stems])  # their own folds are not recorded everywhere
    split = np.where(tenth < 8, "train", np.where(tenth == 8, "validation", "test"))
    return DataSet(name, np.stack(embedded)[in_task], matrix[in_task], classes, split[in_task], stems[in_task])


def transfer(args, origin, source, target, rows_of_target):
    """Fit on the concepts of one data set, score those records of another: rows per concept and their mean."""
    y, concepts = to_concepts(source.labels, source.classes, source.name, target.name)
    labels, same = to_concepts(target.labels, target.classes, target.name, source.name)
    assert concepts == same
    train, val = (source.split == split for split in ("train", "validation"))
    if not (y[train].any() and y[val].any()):
        raise SystemExit(
            f"Expected training and validation records with shared concepts in {source.name}, got {train.sum()} and "
            f"{val.sum()} records without. Give more recordings, or leave out --reverse."
        )
    x = source.features
    fitted = logistic_probe(x[train], y[train], x[val], y[val], target.features[rows_of_target])
    labels, patients = labels[rows_of_target], target.patients[rows_of_target]
    rows = []
    for concept, columns in [("mean", slice(None)), *((c, slice(i, i + 1)) for i, c in enumerate(concepts))]:
        part = labels[:, columns], fitted.test_probabilities[:, columns]
        value = low = high = None
        if not np.isnan(metric_value("macro_auroc", *part)):
            interval = bootstrap_interval("macro_auroc", *part, patients, n_resamples=args.n_resamples)
            value, low, high = interval.value, interval.low, interval.high
        row = {"run": args.run, "source": source.name, "target": target.name, "concept": concept}
        row |= {"metric": "macro_auroc" if concept == "mean" else "auroc", "value": value, "ci_low": low}
        row |= {"ci_high": high, "positives": int(part[0].sum()), "n": len(labels), "seed": args.seed}
        rows.append(row | {"command": origin["command"], "commit": origin["commit"]})
    mean = rows[0]
    text = (
        "undefined" if mean["value"] is None else f"{mean['value']:.3f} [{mean['ci_low']:.3f}, {mean['ci_high']:.3f}]"
    )
    defined = sum(row["value"] is not None for row in rows[1:])
    print(
        f"{args.run} {source.name} -> {target.name}, {len(labels)} records, {defined} of {len(concepts)} concepts "
        f"defined: macro AUROC {text}",
        flush=True,
    )
    return rows


def parse_args():
    parser = option_parser(
        __doc__,
        *("model", "random_init", "data_dir", "run", "n_resamples", "cache_dir", "batch_size", "device"),
        tasks={"default": ("superclass", "rhythm")},
        seed={"help": "Of the corruptions and of --random_init."},
        output={"default": Path("results/shift.json")},
    )
    parser.add_argument("--corruptions", nargs="*", default=CORRUPTIONS, choices=CORRUPTIONS)
    parser.add_argument("--external", nargs="*", default=[], metavar="NAME=FOLDER", help="Other data sets.")
    parser.add_argument("--csn_labels", type=Path, help="MERL's folder data_split, with chapman/.")
    parser.add_argument("--reverse", action="store_true", help="Also fit on each external data set, score fold 10.")
    parser.add_argument("--transfer_output", type=Path, default=Path("results/transfer.json"))
    parser.add_argument("--plot", type=Path, help="PNG of the severity curves.")
    args = parser.parse_args()
    args.external = dict(text.partition("=")[::2] for text in args.external)
    for name, folder in args.external.items():
        if name not in ("cpsc2018", "csn", "challenge2021") or not Path(folder).is_dir():
            parser.error(f"Expected --external cpsc2018|csn|challenge2021=FOLDER, got {name}={folder}.")
    if "csn" in args.external and not (args.csn_labels and args.csn_labels.is_dir()):
        parser.error(f"Expected --csn_labels, the folder data_split of MERL's label files, got {args.csn_labels}.")
    return args


def main():
    args = parse_args()
    origin = provenance(seed=args.seed)
    recordings = {name: find_recordings(name, Path(folder), args.csn_labels) for name, folder in args.external.items()}
    encoder, extractor = load_encoder(args.model, args.random_init, args.seed, args.device)
    tables = load_ptb_xl(args.data_dir)
    features, _, _ = embed_tables(encoder, extractor, tables, args.cache_dir, args.batch_size)
    if args.corruptions:
        rows = severity_curves(args, origin, encoder, extractor, tables, features)
        update_rows(args.output, rows, SHIFT_KEY)
        if args.plot:
            plot_curves(rows, args.plot)
    if args.external:
        task = load_task({split: table.remove_columns("signal") for split, table in tables.items()}, "all")
        ptb_xl = DataSet(
            "ptb_xl",
            np.concatenate([features[split][task.rows[split]] for split in SPLITS]),
            np.concatenate([task.labels[split] for split in SPLITS]),
            task.classes,
            np.concatenate([np.full(len(task.rows[split]), split) for split in SPLITS]),
            np.concatenate([task.patient_ids[split] for split in SPLITS]),
        )
        for name, (paths, codes) in recordings.items():
            external = load_external(args, name, paths, codes, encoder, extractor)
            every = np.ones(len(external.labels), dtype=bool)
            update_rows(args.transfer_output, transfer(args, origin, ptb_xl, external, every), TRANSFER_KEY)
            if args.reverse:
                back = transfer(args, origin, external, ptb_xl, ptb_xl.split == "test")
                update_rows(args.transfer_output, back, TRANSFER_KEY)


if __name__ == "__main__":
    main()
