"""Baselines of PTB-XL under the protocol of `linear_probe.py`: no pre-training, no text.

    python examples/baselines.py --baseline classical --data_dir PTB_XL_FOLDER --output results/ptb_xl.json
    accelerate launch examples/baselines.py --baseline cnn --data_dir PTB_XL_FOLDER --output results/ptb_xl.json

`classical`: rates, intervals, axes, amplitudes and spectra, and gradient boosting, one model per class, its number of
trees chosen on fold 9. `cnn` (a residual 1-D network) and `cnn_transformer` (convolutions, then self-attention over
time) are trained on all `--tasks` at once with one output per class (name a single task for a network of its own),
their epoch chosen on fold 9. A random-init encoder is `linear_probe.py --random_init`, MERIT's own encoder from
scratch `finetune.py --from_scratch`.
"""

import inspect

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn
from tqdm.auto import tqdm
from transformers.modeling_outputs import SequenceClassifierOutput

from modeling_merit.processing import MeritFeatureExtractor, delineation, resampling
from modeling_merit.processing.benchmark.evaluation import load_signals, record_run
from modeling_merit.processing.benchmark.options import check_sizes, option_parser
from modeling_merit.processing.benchmark.results import data_fingerprint, provenance
from modeling_merit.processing.benchmark.tasks import load_task
from modeling_merit.processing.probing import classical_features as features
from modeling_merit.processing.probing.embeddings import (
    SAMPLING_RATE,
    cached_features,
    embed_signals,
    weights_fingerprint,
)
from modeling_merit.processing.training.optimizer_groups import parameter_groups
from modeling_merit.processing.training.run import end_at_exit
from modeling_merit.processing.training.supervised import Schedule, train_classifier

OPTIONS = (
    *("data_dir", "tasks", "label_fraction", "epochs", "patience", "batch_size", "mixed_precision", "seed"),
    *("output", "predictions", "cache_dir"),
)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut that averages before it projects (He et al., CVPR 2019, ResNet-D)."""

    def __init__(self, inputs, outputs, stride, kernel=5):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, kernel, 1, kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
        )
        nn.init.zeros_(self.convolutions[-1].weight)  # every block starts as its shortcut
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool1d(stride, ceil_mode=True))
        if inputs != outputs:
            self.shortcut.extend([nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs)])

    def forward(self, x):
        return torch.relu(self.convolutions(x) + self.shortcut(x))


class ResidualCnn(nn.Module):
    """A compact 1-D residual network with a convolutional stem, after He et al., CVPR 2019; ECGs in mV at 100 Hz."""

    def __init__(self, classes, widths=(64, 128, 192, 256), blocks=2, dropout=0.5):
        super().__init__()
        layers, inputs = [nn.BatchNorm1d(12)], 12
        for outputs, stride in ((32, 2), (32, 1), (widths[0], 1)):
            convolution = nn.Conv1d(inputs, outputs, 5, stride, 2, bias=False)
            layers += [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool1d(3, 2, 1))
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(ResidualBlock(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * widths[-1], classes))

    def forward(self, input_values, ecg_mask=None):
        if ecg_mask is not None:
            input_values = input_values * ecg_mask
        maps = self.body(input_values)
        return SequenceClassifierOutput(logits=self.head(torch.cat([maps.mean(-1), maps.amax(-1)], dim=1)))


class CnnTransformer(nn.Module):
    """Convolutions to a token per 80 ms, self-attention over at most 10 s of them, their mean; mV at 100 Hz."""

    def __init__(self, classes, widths=(64, 96, 128), depth=4, heads=4, dropout=0.1):
        super().__init__()
        layers, inputs = [nn.BatchNorm1d(12), nn.Conv1d(12, widths[0], 7, padding=3, bias=False)], widths[0]
        layers += [nn.BatchNorm1d(inputs), nn.ReLU()]
        for width in widths:
            layers.append(ResidualBlock(inputs, width, stride=2))
            inputs = width
        self.convolutions = nn.Sequential(*layers)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 125, inputs))
        block = nn.TransformerEncoderLayer(
            inputs, heads, 4 * inputs, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(block, depth, nn.LayerNorm(inputs), enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(inputs, classes))

    def forward(self, input_values, ecg_mask=None):
        if ecg_mask is not None:
            input_values = input_values * ecg_mask
        tokens = self.convolutions(input_values).transpose(1, 2)
        tokens = self.transformer(tokens + self.positions[:, : tokens.shape[1]])
        return SequenceClassifierOutput(logits=self.head(tokens.mean(dim=1)))


NETWORKS = {"cnn": ResidualCnn, "cnn_transformer": CnnTransformer}


def train_network(args, tasks, views, accelerator):
    """Return the probabilities by split and task, and what identifies the network."""
    set_seed(args.seed)
    model = NETWORKS[args.baseline](sum(len(task.classes) for task in tasks))
    groups = parameter_groups(model, args.learning_rate, args.weight_decay)
    plan = Schedule.from_args(args)
    outcome = train_classifier(model, groups, views, tasks, MeritFeatureExtractor(high_pass=None), plan, accelerator)
    if accelerator.is_main_process:
        parameters = sum(p.numel() for p in model.parameters())
        best = outcome.curve[outcome.best_epoch]["validation_macro_auroc"]
        print(
            f"{args.baseline} of {parameters:,} parameters, epoch {outcome.best_epoch}: "
            f"mean validation macro AUROC {best:.3f}",
            flush=True,
        )
    return outcome.probabilities, {"weights": weights_fingerprint(model)}


def measure(args, views, fingerprint):
    """Return the classical features of every record by split, computed once per version of their code."""
    sources = [inspect.getsource(module).encode() for module in (features, delineation, resampling)]
    code = data_fingerprint([np.frombuffer(source, dtype=np.uint8) for source in sources])
    cache = args.cache_dir / f"classical-{code}-{fingerprint}.safetensors"

    def measure_batch(batch):
        return torch.from_numpy(features.classical_features(batch.numpy(), SAMPLING_RATE))

    def measure_all():
        normalize = MeritFeatureExtractor().normalize
        return {
            split: embed_signals(measure_batch, view, normalize, description=f"measuring {split}")
            for split, view in views.items()
        }

    return cached_features(cache, measure_all), code


def boost(args, tasks, measured):
    """Return the probabilities by split and task of one gradient boosting per class."""
    probabilities = {"validation": {}, "test": {}}
    for task in tasks:
        x = {split: measured[split][rows] for split, rows in task.rows.items()}
        columns = {split: np.zeros(task.labels[split].shape) for split in probabilities}
        for column in tqdm(range(len(task.classes)), desc=f"boosting {task.name}", unit="class"):
            y, val_y = (task.labels[split][:, column] for split in ("train", "validation"))
            if y.min() == y.max():  # nothing to learn: the label that all have
                for split in columns:
                    columns[split][:, column] = y[0]
                continue
            model = HistGradientBoostingClassifier(
                learning_rate=0.05,
                max_iter=args.max_trees,
                max_leaf_nodes=15,
                early_stopping=True,
                n_iter_no_change=15,
                random_state=args.seed,
            )
            model.fit(x["train"], y, X_val=x["validation"], y_val=val_y)
            for split in columns:
                columns[split][:, column] = model.predict_proba(x[split])[:, 1]
        for split in columns:
            probabilities[split][task.name] = columns[split]
    return probabilities


def main():
    parser = option_parser(
        __doc__,
        *OPTIONS,
        run={"required": False, "help": "Name in the results; default: classical or supervised_ and the network."},
        weight_decay={"default": 0.01},
        crop_seconds={"default": 2.5},
    )
    parser.add_argument("--baseline", required=True, choices=("classical", *NETWORKS))
    parser.add_argument("--max_trees", type=int, default=300, help="classical: trees per class at most.")
    parser.add_argument("--learning_rate", type=float, default=5e-3, help="Networks: the highest, after the warm-up.")
    args = parser.parse_args()
    check_sizes(parser, args)
    args.run = args.run or ("classical" if args.baseline == "classical" else f"supervised_{args.baseline}")

    origin = provenance(seed=args.seed)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    end_at_exit(accelerator)
    if args.baseline == "classical" and accelerator.num_processes > 1:
        parser.error("Expected one process for --baseline classical, got several. Start it with python.")
    with accelerator.main_process_first():
        views, tables, fingerprint = load_signals(args.data_dir)
    tasks = [load_task(tables, name, args.label_fraction, args.seed) for name in args.tasks]
    if args.baseline == "classical":
        measured, code = measure(args, views, fingerprint)
        found, made_by = boost(args, tasks, measured), {"features": code}
    else:
        found, made_by = train_network(args, tasks, views, accelerator)
    if accelerator.is_main_process:
        for task in tasks:
            probabilities = {split: by_task[task.name] for split, by_task in found.items()}
            record_run(args, origin, task, probabilities, data_fingerprint=fingerprint, **made_by)


if __name__ == "__main__":
    main()
