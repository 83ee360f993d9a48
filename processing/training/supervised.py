"""Supervised training of an ECG classifier through Accelerate: one network for one or several tasks of PTB-XL.

A network for several tasks has one output per class of each; a record outside a task has no say in its outputs. The
epoch is chosen by validation macro AUROC, averaged over the tasks; fold 10 is predicted once, at the end.
"""

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from ..augmentation import augment_ecg
from ..benchmark.tasks import PtbXlTask
from ..data import SignalView
from ..data.microvolts import crop_recorded, mask_recorded
from ..metrics.classification import metric_value
from ..probing.embeddings import SAMPLING_RATE
from .pairs import ConditionedSignals


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Args:
        epochs (`int`), patience (`int`): At most so many; stop when so many in a row brought no better validation.
        batch_size (`int`): Records per process and step.
        warmup_ratio (`float`): Fraction of the steps over which the learning rate rises, before it falls as a cosine.
        crop_seconds (`float`): Length of the random crops trained on; predictions are the mean over consecutive
            crops of this length.
        gain_jitter, wander_mv, noise_mv, lead_dropout (`float`): See `augment_ecg`.
        mixup (`float`): Records are mixed in pairs, with a weight drawn from Beta(mixup, mixup) (Zhang et al., ICLR
            2018); 0 for none.
        freeze_normalization (`bool`): Let batch normalisation keep the means and variances that it came with, in the
            passes of training, too.
        keep_in_memory (`bool`): Condition all signals once, and keep them in memory.
        max_grad_norm (`float`), seed (`int`).
    """

    epochs: int = 20
    patience: int = 5
    batch_size: int = 128
    warmup_ratio: float = 0.1
    crop_seconds: float = 2.5
    gain_jitter: float = 0.1
    wander_mv: float = 0.05
    noise_mv: float = 0.01
    lead_dropout: float = 0.0
    mixup: float = 0.0
    freeze_normalization: bool = False
    keep_in_memory: bool = False
    max_grad_norm: float = 1.0
    seed: int = 0

    @classmethod
    def from_args(cls, args: Namespace) -> "Schedule":
        """Return the schedule that the options of these names ask for; the others keep their defaults."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls) if hasattr(args, field.name)})


@dataclass(frozen=True)
class Outcome:
    """Probabilities by split and task at the chosen epoch, the curve that it was chosen by, and what predicts them
    again, for weights that were changed since."""

    probabilities: dict[str, dict[str, np.ndarray]]
    best_epoch: int
    curve: list[dict[str, Any]]
    predict: Callable[[], dict[str, dict[str, np.ndarray]]]


class LabelledEcgs(Dataset):
    """Whole batches of signals with labels. The augmentation of a batch follows from seed, epoch and first record."""

    def __init__(self, view: SignalView, tasks: Sequence[PtbXlTask], split: str, extractor: Any, plan: Schedule):
        self.extractor, self.plan, self.epoch = extractor, plan, 0
        self.train = split == "train"
        self.rows = np.unique(np.concatenate([task.rows[split] for task in tasks]))
        self.signals = ConditionedSignals(view, SAMPLING_RATE, extractor, plan.keep_in_memory, self.rows)
        self.labels = np.zeros((len(self.rows), sum(len(task.classes) for task in tasks)), dtype=np.float32)
        self.counts = np.zeros_like(self.labels)  # 1 where a record belongs to the output's task
        self.places, start = {}, 0
        for task in tasks:
            columns = slice(start, start + len(task.classes))
            places = np.searchsorted(self.rows, task.rows[split])
            self.labels[places, columns], self.counts[places, columns] = task.labels[split], 1
            self.places[task.name], start = (places, columns), columns.stop

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """One batch: `input_values` (batch, leads, samples), or (batch, crops, leads, samples) when not training."""
        plan = self.plan
        signals = self.signals[indices]
        length = min(round(plan.crop_seconds * SAMPLING_RATE), signals.shape[-1])
        batch = {"index": torch.tensor(indices)}
        mask = None
        if self.train:
            rng = np.random.default_rng([plan.seed, self.epoch, indices[0]])
            if np.isnan(signals).any():  # else crops of short records would hold nothing
                signals = crop_recorded(signals, length, rng)
            signals, mask = augment_ecg(
                signals,
                rng,
                sampling_rate=SAMPLING_RATE,
                crop_seconds=length / SAMPLING_RATE,
                gain_jitter=plan.gain_jitter,
                wander_mv=plan.wander_mv,
                noise_mv=plan.noise_mv,
                lead_dropout=plan.lead_dropout,
            )
            mask = mask_recorded(signals, mask if plan.lead_dropout else None)
            labels, counts = self.labels[indices], self.counts[indices]
            if plan.mixup:
                signals, mask, labels, counts = _mix(signals, mask, labels, counts, plan.mixup, rng)
            batch |= {"labels": torch.from_numpy(labels), "counts": torch.from_numpy(counts)}
        else:
            starts = np.linspace(0, signals.shape[-1] - length, -(-signals.shape[-1] // length)).round().astype(int)
            signals = np.stack([signals[..., start : start + length] for start in starts], axis=1)
            mask = mask_recorded(signals)
        if mask is not None:
            batch["ecg_mask"] = torch.from_numpy(np.ascontiguousarray(mask))
        return batch | {"input_values": torch.from_numpy(self.extractor.normalize(signals, mask))}


def _mix(signals, mask, labels, counts, alpha, rng):
    """Mix every record of a batch with another one; where either lacks a sample, the mixture lacks it."""
    partner = rng.permutation(len(signals))
    first = rng.beta(alpha, alpha, size=(len(signals), 1)).astype(np.float32)
    signals = first[..., None] * signals + (1 - first[..., None]) * signals[partner]
    says, other = first * counts, (1 - first) * counts[partner]
    weights = says + other
    labels = (says * labels + other * labels[partner]) / np.where(weights > 0, weights, 1)
    return signals, None if mask is None else mask & mask[partner], labels, weights


def train_classifier(
    model: nn.Module,
    groups: Iterable[dict],
    views: Mapping[str, SignalView],
    tasks: Sequence[PtbXlTask],
    extractor: Any,
    plan: Schedule,
    accelerator: Accelerator,
    start_counts: bool = False,
) -> Outcome:
    """Train a classifier; it ends with the weights of the chosen epoch.

    Args:
        model (`nn.Module`): Called with `input_values` and `ecg_mask` (batch, leads, samples), returns an object with
            `logits` (batch, classes of all tasks).
        groups (iterable of `dict`): Parameter groups for AdamW, each with its `lr` and `weight_decay`.
        views (mapping of `str` to `SignalView`): Signals by split.
        tasks (sequence of `PtbXlTask`): In the order of the model's outputs.
        extractor (`MeritFeatureExtractor`): Conditions whole records and normalises what is cut from them.
        plan (`Schedule`), accelerator (`Accelerator`).
        start_counts (`bool`): Whether the weights it begins with may be chosen, too, as those of epoch -1.

    Raises:
        ValueError: If the validation split cannot choose an epoch because no class has both labels in it.
        FloatingPointError: If the loss is no longer finite.
    """
    data = {split: LabelledEcgs(view, tasks, split, extractor, plan) for split, view in views.items()}
    loaders: dict[str, Any] = {
        split: DataLoader(
            ecgs,
            min(plan.batch_size, len(ecgs)),
            shuffle=split == "train",
            collate_fn=lambda batch: batch,
            generator=torch.Generator().manual_seed(plan.seed),
        )
        for split, ecgs in data.items()
    }
    optimizer = torch.optim.AdamW(groups)
    model, optimizer, *prepared = accelerator.prepare(model, optimizer, *loaders.values())
    loaders = dict(zip(loaders, prepared))
    steps = plan.epochs * len(loaders["train"])
    scheduler = get_cosine_schedule_with_warmup(optimizer, max(1, int(plan.warmup_ratio * steps)), steps)
    best, best_epoch, best_state, curve = -1.0, -1, {}, []
    epochs = range(-1 if start_counts else 0, plan.epochs)
    for epoch in tqdm(epochs, desc="training", unit="epoch", disable=not accelerator.is_main_process):
        loaders["train"].set_epoch(epoch)
        mean_loss = (
            _train_epoch(model, optimizer, scheduler, loaders["train"], plan, accelerator) if epoch >= 0 else None
        )
        if mean_loss is not None and not np.isfinite(mean_loss):
            raise FloatingPointError(f"The loss became {mean_loss} in epoch {epoch}; lower the learning rate.")
        val = predict(model, loaders["validation"], data["validation"], accelerator)
        scores = {
            task.name: float(metric_value("macro_auroc", task.labels["validation"], val[task.name])) for task in tasks
        }
        if undefined := [name for name, score in scores.items() if np.isnan(score)]:
            raise ValueError(
                "Expected a class with positive and negative records in the validation split, to choose the epoch by, "
                f"got none for {', '.join(undefined)}. Use more records."
            )
        score = float(np.mean(list(scores.values())))
        curve.append({"epoch": epoch, "train_loss": mean_loss, "validation_macro_auroc": score, **scores})
        if score > best:
            best, best_epoch = score, epoch
            best_state = {k: v.detach().clone() for k, v in accelerator.unwrap_model(model).state_dict().items()}
        elif epoch - best_epoch >= plan.patience:
            break
    accelerator.unwrap_model(model).load_state_dict(best_state)

    def predict_both() -> dict[str, dict[str, np.ndarray]]:
        return {split: predict(model, loaders[split], data[split], accelerator) for split in ("validation", "test")}

    return Outcome(predict_both(), best_epoch, curve, predict_both)


def _train_epoch(model, optimizer, scheduler, loader, plan, accelerator):
    """Return the mean loss of an epoch."""
    model.train()
    for module in model.modules() if plan.freeze_normalization else ():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    losses = []
    for batch in loader:
        logits = model(input_values=batch["input_values"], ecg_mask=batch.get("ecg_mask")).logits
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits.float(), batch["labels"], weight=batch["counts"], reduction="sum"
        ) / batch["counts"].sum().clamp(min=1)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


@torch.no_grad()
def predict(
    model: nn.Module, loader: DataLoader, ecgs: LabelledEcgs, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """Return the probabilities (records of the task, classes) of every task, none left out, on every process."""
    model.eval()
    probabilities = np.full(ecgs.labels.shape, np.nan)
    for batch in loader:
        crops, mask = batch["input_values"], batch.get("ecg_mask")
        logits = model(input_values=crops.flatten(0, 1), ecg_mask=None if mask is None else mask.flatten(0, 1)).logits
        by_crop = logits.float().sigmoid().unflatten(0, crops.shape[:2])
        # Crops behind the end of a short record have no say.
        counts = torch.ones_like(by_crop) if mask is None else mask.any(-1).any(-1)[..., None].expand_as(by_crop)
        mean = torch.where(counts > 0, by_crop, 0).sum(dim=1) / counts.sum(dim=1)
        index, mean = accelerator.gather((batch["index"], mean))  # may repeat records at the end, which does no harm
        probabilities[index.cpu().numpy()] = mean.cpu().numpy()
    return {name: probabilities[places][:, columns] for name, (places, columns) in ecgs.places.items()}


__all__ = ["LabelledEcgs", "Outcome", "Schedule", "predict", "train_classifier"]
