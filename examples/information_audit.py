"""What representations keep of what reports name, and of what only the signal knows, on the synthetic cohort.

    python examples/information_audit.py --models joint=runs/joint-s0 contrastive=runs/contrastive-s0 \\
        --output results/information_audit.json

Every synthetic ECG comes with its true heart rate, axis, QRS width, amplitude, PR and QT, which its report never
states. For each checkpoint, and for the first one's architecture with random weights, linear probes measure

- `auroc` and `mi` (nats) of the statements that reports name;
- `r2` and `mi` of the factors, and `r2_given_report` and `mi_given_report` of what is left of them once the statements
  are accounted for: the signal-unique part, I(Z;X|T) in the words of the method.

The run `report` is a probe on the statements themselves: all that a report can tell, so its `given_report` is zero.
Mutual information is scikit-learn's nearest-neighbour estimate between truth and the probe's output on test records.
By the data processing inequality it is what the representation holds at least, up to the estimator's error.
"""

from pathlib import Path

import numpy as np
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from modeling_merit.processing.benchmark.label_sets import SPLITS, label_matrix
from modeling_merit.processing.benchmark.options import named_model, option_parser
from modeling_merit.processing.benchmark.results import provenance, update_rows
from modeling_merit.processing.data import SyntheticEcg
from modeling_merit.processing.data.simulation import FACTORS
from modeling_merit.processing.metrics.bootstrap import bootstrap_interval, normal_interval, patient_weights
from modeling_merit.processing.probing.embeddings import SAMPLING_RATE, embed_tables, load_encoder
from modeling_merit.processing.probing.logistic_probe import logistic_probe

ALPHAS = 10.0 ** np.arange(-2, 6)
ROW_KEY = ("run", "factor", "metric", "seed")


def r2(truth, predicted, weights=None):
    """Return 1 - squared error / variance; with weights (resamples, records) one value per resample."""
    w = np.ones((1, len(truth))) if weights is None else weights
    mean = w @ truth / w.sum(1)
    total = w @ truth**2 - w.sum(1) * mean**2
    values = 1 - w @ (truth - predicted) ** 2 / total
    return float(values[0]) if weights is None else values


def ridge_probe(x, y):
    """Return test predictions of ridge regression on standardised features; validation records choose its penalty."""
    scaler = StandardScaler().fit(x["train"])
    x = {split: scaler.transform(part) for split, part in x.items()}
    fits = [Ridge(alpha=alpha).fit(x["train"], y["train"]) for alpha in ALPHAS]
    best = max(fits, key=lambda fit: fit.score(x["validation"], y["validation"]))
    return best.predict(x["test"])


def residual(statements, y):
    """Return what is left of a factor by split after least squares on the statements of the training split."""
    design = {split: np.column_stack([part, np.ones(len(part))]) for split, part in statements.items()}
    weights = np.linalg.lstsq(design["train"], y["train"], rcond=None)[0]
    return {split: y[split] - design[split] @ weights for split in y}


def audit_factor(x, y, statements, patients, seed, n_resamples):
    """Return {metric: (value, low, high)} of one factor over the records that have it (none has a PR interval in
    atrial fibrillation)."""
    known = {split: ~np.isnan(values) for split, values in y.items()}
    x, y, statements = ({split: part[split][known[split]] for split in SPLITS} for part in (x, y, statements))
    weights = patient_weights(patients[known["test"]], n_resamples, seed)
    found = {}
    for suffix, truth in (("", y), ("_given_report", residual(statements, y))):
        predicted = ridge_probe(x, truth)
        value, drawn = r2(truth["test"], predicted), r2(truth["test"], predicted, weights)
        found[f"r2{suffix}"] = (value, *normal_interval(value, drawn, bounds=(-np.inf, 1.0)))
        mi = mutual_info_regression(predicted[:, None], truth["test"], random_state=seed)[0]
        found[f"mi{suffix}"] = (mi, None, None)
    return found


def audit_statements(x, labels, classes, patients, seed, n_resamples):
    """Return {statement: {metric: (value, low, high)}} of the statements that every split has."""
    fitted = logistic_probe(x["train"], labels["train"], x["validation"], labels["validation"], x["test"])
    found = {}
    for column, name in enumerate(classes):
        truth, probabilities = labels["test"][:, [column]], fitted.test_probabilities[:, [column]]
        i = bootstrap_interval("macro_auroc", truth, probabilities, patients, n_resamples=n_resamples, seed=seed)
        mi = mutual_info_classif(probabilities, truth[:, 0], random_state=seed)[0]
        found[name] = {"auroc": (i.value, i.low, i.high), "mi": (mi, None, None)}
    return found


def load_cohort(args):
    """Return tables by split, labels of the statements that all splits have, their names, and the factors."""
    builder = SyntheticEcg(n_records=args.num_records, seed=args.seed, sampling_rate=float(SAMPLING_RATE))
    builder.download_and_prepare()
    tables = builder.as_dataset()
    labels, classes = {}, []
    for split in SPLITS:
        labels[split], classes, _ = label_matrix([row["code"] for row in tables[split]["scp_codes"]], "all")
    usable = np.all([part.any(0) & ~part.all(0) for part in labels.values()], axis=0)
    if not usable.any():
        raise SystemExit(
            f"Expected statements that occur in all splits, got none in {args.num_records} records. Use more."
        )
    labels = {split: part[:, usable] for split, part in labels.items()}
    factors = {name: {split: np.array(tables[split][name], dtype=np.float64) for split in SPLITS} for name in FACTORS}
    return tables, labels, [name for name, use in zip(classes, usable) if use], factors


def main():
    parser = option_parser(
        __doc__,
        *("n_resamples", "seed", "batch_size", "device"),
        num_records={"default": 5000},
        output={"default": Path("results/information_audit.json")},
    )
    parser.add_argument(
        "--models",
        type=named_model,
        nargs="+",
        required=True,
        metavar="NAME=CHECKPOINT",
        help="Models to compare.",
    )
    args = parser.parse_args()
    models = dict(text.partition("=")[::2] for text in args.models)
    if not all(models.values()) or {"random", "report"} & set(models):
        parser.error(f"Expected --models NAME=CHECKPOINT, names other than random and report, got {args.models}.")

    origin = provenance(seed=args.seed)
    tables, labels, classes, factors = load_cohort(args)
    patients = np.array(tables["test"]["patient_id"])
    runs = {"report": ({split: part.astype(np.float64) for split, part in labels.items()}, None)}
    for run, (model, random_init) in {
        "random": (next(iter(models.values())), True),
        **{run: (model, False) for run, model in models.items()},
    }.items():
        encoder, extractor = load_encoder(model, random_init, args.seed, args.device)
        runs[run] = embed_tables(
            encoder, extractor, {split: tables[split] for split in SPLITS}, None, args.batch_size
        )[:2]

    rows = []
    for run, (x, weights) in runs.items():
        found = {
            ("signal", name): audit_factor(x, y, labels, patients, args.seed, args.n_resamples)
            for name, y in factors.items()
        }
        if run != "report":  # the statements tell themselves
            statements = audit_statements(x, labels, classes, patients, args.seed, args.n_resamples)
            found |= {("report", name): metrics for name, metrics in statements.items()}
        for (known_from, factor), metrics in found.items():
            for metric, (value, low, high) in metrics.items():
                row = {"run": run, "factor": factor, "known_from": known_from, "metric": metric}
                row |= {"value": float(value), "ci_low": None if low is None else float(low)}
                n = int((~np.isnan(factors[factor]["test"])).sum()) if factor in factors else len(patients)
                row |= {"ci_high": None if high is None else float(high), "n": n, "seed": args.seed}
                rows.append(row | {"weights": weights, "command": origin["command"], "commit": origin["commit"]})
        own = [row for row in rows if row["run"] == run]
        means = {
            metric: np.mean([row["value"] for row in own if row["metric"] == metric])
            for metric in ("auroc", "r2", "r2_given_report", "mi_given_report")
            if any(row["metric"] == metric for row in own)
        }
        print(f"{run}: " + "  ".join(f"mean {name} {value:.3f}" for name, value in means.items()), flush=True)
    update_rows(args.output, rows, ROW_KEY)


if __name__ == "__main__":
    main()
