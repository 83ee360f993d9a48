"""Fine-tune a MERIT encoder on tasks of PTB-XL or on data of your own, or train the same network from scratch.

    accelerate launch examples/finetune.py --model merit-ecg --data_dir PTB_XL_FOLDER --run joint_finetuned \\
        --output_dir runs/joint-finetuned

    accelerate launch examples/finetune.py --model merit-ecg --dataset TABLE.csv --label_columns AF LBBB \\
        --patient_column patient --run mine --output_dir runs/mine --output runs/mine.json

A table names ECG files of any readable format and their labels; without a column `split` the patients are split 8:1:1.
One network learns all `--tasks` at once, one output per class; name a single task for a network of its own. Learning
rates fall from the head to the patch embedding by `--layer_decay` per block. `--head probe` begins with the linear
probe of the frozen encoder, so that training does not spoil the features for a head of random weights (Kumar et al.,
ICLR 2022), and keeps it where training does not help. Fold 9, or the validation split, chooses the epoch (macro
AUROC, with early stopping) and the thresholds, which go into the configuration; fold 10, or the test split, is
predicted once. `--calibrate` also fits, on the validation split, how often a class is there at each probability, and
builds that into the head. The output folder loads with `MeritForEcgClassification.from_pretrained`.
"""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from modeling_merit import MeritEcgConfig, MeritEcgModel, MeritForEcgClassification
from modeling_merit.processing.benchmark.evaluation import load_signals, record_run
from modeling_merit.processing.benchmark.options import check_sizes, option_parser
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.benchmark.table_task import load_table_task
from modeling_merit.processing.benchmark.tasks import load_task
from modeling_merit.processing.data.sources import family_of, split_names
from modeling_merit.processing.data.tables import SUFFIXES
from modeling_merit.processing.metrics.calibration import fit_calibration
from modeling_merit.processing.metrics.classification import ece
from modeling_merit.processing.metrics.thresholds import tune_thresholds
from modeling_merit.processing.probing.cross_validation import fit_classifier
from modeling_merit.processing.probing.embeddings import embed_signals, load_extractor, weights_fingerprint
from modeling_merit.processing.probing.logistic_probe import DEFAULT_GRID, logistic_probe
from modeling_merit.processing.training.optimizer_groups import parameter_groups
from modeling_merit.processing.training.publishing import PUSH_OPTIONS, check_push, push_output
from modeling_merit.processing.training.run import end_at_exit, settings
from modeling_merit.processing.training.supervised import Schedule, train_classifier

OPTIONS = (
    *("model", "run", "tasks", "label_fraction", "epochs", "patience", "batch_size", "weight_decay"),
    *("path_column", "label_columns", "patient_column", "split_column", "seconds", "on_error", "num_proc"),
    *("crop_seconds", "keep_in_memory", "mixed_precision", "seed", "output_dir", "output", "predictions"),
    *PUSH_OPTIONS,
)


def build(args, tasks):
    """Return the classifier with a new head, its outputs named after the classes."""
    labels = [name if len(tasks) == 1 else f"{task.name}:{name}" for task in tasks for name in task.classes]
    config = MeritEcgConfig.from_pretrained(args.model)
    if args.dropout is not None:
        config.hidden_dropout = args.dropout
    if args.drop_path is not None:
        config.drop_path_rate = args.drop_path
    config.problem_type = "multi_label_classification"
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.calibrated = False  # whatever the head of the checkpoint was
    model = MeritForEcgClassification(config)
    if not args.from_scratch:
        model.ecg_model.load_state_dict(MeritEcgModel.from_pretrained(args.model, dtype=torch.float32).state_dict())
    return model


def start_from_probe(model, views, tasks, extractor, args, device):
    """Give the classifier's head the weights of the linear probe of every task; classes without two labels start
    from zero."""
    encoder = model.ecg_model.to(device).eval()
    features = {
        split: embed_signals(
            lambda *ecgs: encoder(*ecgs).pooler_output, views[split], extractor.prepare, args.batch_size, device, split
        )
        for split in ("train", "validation")
    }
    weights, biases = [], []
    for task in tasks:
        x, y = ({split: array[split] for split in features} for array in (features, task.labels))
        x = {split: values[task.rows[split]] for split, values in x.items()}
        both = y["train"].any(0) & ~y["train"].all(0)
        probe = logistic_probe(x["train"], y["train"], x["validation"], y["validation"], x["validation"], args.grid)
        fitted = fit_classifier(x["train"], y["train"][:, both], probe.c)
        weight, bias = np.zeros((len(both), x["train"].shape[1])), np.zeros(len(both))
        weight[both], bias[both] = fitted.weight, fitted.bias
        weights.append(weight)
        biases.append(bias)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(np.concatenate(weights)))
        model.classifier.bias.copy_(torch.from_numpy(np.concatenate(biases)))


def calibrate_head(model, tasks, outcome):
    """Build into the head what makes its probabilities right on the validation split, and return those it gives then,
    with the expected calibration error of every class on the test split before and after."""
    before = outcome.probabilities
    parts = [fit_calibration(before["validation"][task.name], task.labels["validation"]) for task in tasks]
    slopes, shifts = (torch.from_numpy(array).to(model.classifier.bias) for array in np.concatenate(parts, axis=1))
    with torch.no_grad():
        model.classifier.weight.mul_(slopes[:, None])
        model.classifier.bias.mul_(slopes).add_(shifts)
    after = outcome.predict()
    errors = {
        task.name: {
            when: dict(zip(task.classes, ece(task.labels["test"], probabilities["test"][task.name]).tolist()))
            for when, probabilities in (("before", before), ("after", after))
        }
        for task in tasks
    }
    return after, errors


def layer_rate(model, learning_rate, layer_decay):
    """Return the rate of a parameter by its name, which falls by `layer_decay` per stage from the head down (after
    Clark et al., ICLR 2020)."""
    depth = len(model.ecg_model.stages)

    def rate(name):
        below_head = 0
        if name.startswith("ecg_model.stages."):
            below_head = depth - int(name.split(".")[2])
        elif name.startswith("ecg_model.stem."):
            below_head = depth + 1
        return learning_rate * layer_decay**below_head

    return rate


def parse_args():
    parser = option_parser(
        __doc__,
        *OPTIONS,
        data_dir={"required": False},
        dataset={
            "help": "ptb_xl, with --data_dir, or one data set with labels: another builder with its folder "
            f"(NAME:FOLDER), a table of ECG files ({', '.join(SUFFIXES)}, a folder with metadata.csv), or a folder "
            "or Hub id of a Parquet data set.",
        },
    )
    parser.add_argument("--from_scratch", action="store_true", help="Keep the architecture, draw the weights anew.")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="Of the head.")
    parser.add_argument("--layer_decay", type=float, help="Default: 0.75, but 1 from scratch.")
    parser.add_argument("--head", default="random", choices=("random", "probe"), help="What the head begins with.")
    parser.add_argument("--grid", type=float, nargs="+", default=DEFAULT_GRID, help="C of the probe to choose from.")
    parser.add_argument("--calibrate", action="store_true", help="Make probabilities mean how often a class is there.")
    parser.add_argument("--freeze_normalization", action="store_true", help="Keep the statistics of the checkpoint.")
    parser.add_argument("--lead_dropout", type=float, default=0.0, help="Probability that a record loses leads.")
    parser.add_argument("--noise_mv", type=float, default=0.01, help="Largest added white noise.")
    parser.add_argument("--mixup", type=float, default=0.0, help="α of the mixing of records in pairs; 0 for none.")
    parser.add_argument("--dropout", type=float, help="Of the pooled feature; default: as the checkpoint says.")
    parser.add_argument("--drop_path", type=float, help="Of the residual blocks; default: as the checkpoint says.")
    args = parser.parse_args()
    check_sizes(parser, args)
    if len(split_names(args.dataset)) > 1:
        parser.error(f"Expected one data set, got {args.dataset}. Make one table of several.")
    family, folder = family_of(args.dataset) or (None, None)
    if family == "ptb_xl" and folder:
        args.dataset, args.data_dir = family, folder
    if args.dataset == "ptb_xl" and args.data_dir is None:
        parser.error("Expected --data_dir, the folder of PTB-XL, or --dataset, a data set of your own.")
    if args.from_scratch and args.head == "probe":
        parser.error("Expected --head random with --from_scratch, got probe: random features need no probe.")
    if args.calibrate and args.crop_seconds < args.seconds:
        parser.error(
            f"Expected --crop_seconds {args.seconds:g}, whole records, with --calibrate, got {args.crop_seconds:g}: "
            "the mean over crops is not what the saved model gives."
        )
    check_push(parser, args)
    return args


def main():
    args = parse_args()
    origin = provenance(seed=args.seed)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    end_at_exit(accelerator)
    with accelerator.main_process_first():
        if args.dataset == "ptb_xl":
            views, tables, fingerprint = load_signals(args.data_dir)
            tasks = [load_task(tables, name, args.label_fraction, args.seed) for name in args.tasks]
        else:
            views, task, fingerprint = load_table_task(args)
            tasks = [task]
    set_seed(args.seed)
    extractor = load_extractor(args.model)
    model = build(args, tasks)
    if args.head == "probe":
        start_from_probe(model, views, tasks, extractor, args, accelerator.device)
    layer_decay = args.layer_decay or (1.0 if args.from_scratch else 0.75)
    groups = parameter_groups(model, layer_rate(model, args.learning_rate, layer_decay), args.weight_decay)
    plan = Schedule.from_args(args)
    outcome = train_classifier(model, groups, views, tasks, extractor, plan, accelerator, args.head == "probe")
    probabilities = outcome.probabilities
    about = origin | {"data_fingerprint": fingerprint, "settings": settings(args)}
    if args.calibrate:
        probabilities, about["calibration_error"] = calibrate_head(model, tasks, outcome)
        model.config.calibrated = True
    if not accelerator.is_main_process:
        return
    model.config.thresholds = [
        float(threshold)
        for task in tasks
        for threshold in tune_thresholds(probabilities["validation"][task.name], task.labels["validation"])
    ]
    model.save_pretrained(args.output_dir)
    extractor.save_pretrained(args.output_dir)
    about |= {"best_epoch": outcome.best_epoch, "curve": outcome.curve}
    write_json(args.output_dir / "finetuning_results.json", about)
    fields = {"weights": weights_fingerprint(model), "data_fingerprint": fingerprint}
    for task in tasks:
        of_task = {split: by_task[task.name] for split, by_task in probabilities.items()}
        record_run(args, origin, task, of_task, f" (epoch {outcome.best_epoch})", **fields)
    push_output(args, about)


if __name__ == "__main__":
    main()
