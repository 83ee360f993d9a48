"""What a run of pre-training and one of report training have in common: options, Accelerate, steps and log."""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.data_loader import DataLoaderShard
from accelerate.tracking import GeneralTracker, on_main_process
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from torch import nn
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from .checkpoints import Progress, resume

RUN_OPTIONS = (
    *("dataset", "num_records", "sampling_rate", "max_train_steps", "gradient_accumulation_steps", "weight_decay"),
    *("max_grad_norm", "mixed_precision", "checkpointing_steps", "checkpoints_total_limit"),
    *("resume_from_checkpoint", "overwrite_output_dir", "seed"),
)
"""Names of the options that `start` and `train` read and that mean the same in both scripts."""


class JsonLinesTracker(GeneralTracker):
    """Writes every logged value as one line of JSON; needs no other package."""

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path, keep: bool):
        super().__init__()
        self.path = path
        if not keep:
            path.unlink(missing_ok=True)

    @property
    def tracker(self):
        return self.path

    @on_main_process
    def store_init_configuration(self, values):
        pass  # the results file holds it

    @on_main_process
    def log(self, values, step=None, **kwargs):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a run as JSON can hold them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def start(args: argparse.Namespace, project: str, report_to: Iterable[str], unused_parameters: bool) -> Accelerator:
    """Return the accelerator of a run, its log open and its output folder ready.

    Args:
        args (`argparse.Namespace`): With `RUN_OPTIONS` and `output_dir`.
        project (`str`): Name of the run in the trackers.
        report_to (iterable of `str`): Trackers beside `train_log.jsonl`.
        unused_parameters (`bool`): Whether a step may leave parameters without a gradient.
    """
    tracker = JsonLinesTracker(args.output_dir / "train_log.jsonl", keep=bool(args.resume_from_checkpoint))
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,
        log_with=[tracker, *report_to],
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        project_config=ProjectConfiguration(
            str(args.output_dir), automatic_checkpoint_naming=True, total_limit=args.checkpoints_total_limit
        ),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)],
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.overwrite_output_dir and not args.resume_from_checkpoint and accelerator.is_main_process:
        shutil.rmtree(args.output_dir / "checkpoints", ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.init_trackers(project, config={name: str(value) for name, value in vars(args).items()})
    return accelerator


def count_steps(args: argparse.Namespace, loader: DataLoaderShard) -> tuple[int, int]:
    """Return the optimiser steps of the whole run and those of one epoch."""
    per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
    return args.max_train_steps or args.epochs * per_epoch, per_epoch


def cosine_schedule(args: argparse.Namespace, optimizer: torch.optim.Optimizer, loader: DataLoaderShard):
    """Return the schedule of the learning rates: up over `--warmup_ratio` of the steps, then down as a cosine."""
    total, _ = count_steps(args, loader)
    return get_cosine_schedule_with_warmup(optimizer, max(1, int(args.warmup_ratio * total)), total)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    loader: DataLoaderShard,
    accelerator: Accelerator,
    args: argparse.Namespace,
    *,
    metrics: Sequence[str],
    validate: Callable[[], dict[str, float]],
    set_epoch: Callable[[int], None],
    unit: str,
) -> dict[str, Any]:
    """Train from the start or a checkpoint to the last step; the best model lies in the output folder afterwards.

    Args:
        model (`nn.Module`), optimizer (`Optimizer`), loader (`DataLoaderShard`): What `accelerator.prepare` returned.
        scheduler (`LambdaLR`): Stepped once per optimiser step.
        accelerator (`Accelerator`), args (`argparse.Namespace`): See `start`; besides, `epochs` and `warmup_ratio`.
        metrics (sequence of `str`): Fields of the model's output to log, "loss" among them.
        validate (callable): Returns the validation metrics, "loss" among them; the model is in evaluation mode.
        set_epoch (callable): Told the number of every epoch before it begins.
        unit (`str`): What a batch holds, for the progress bar and the results.

    Returns:
        `dict`: The part of the results file that says how the run went.

    Raises:
        SystemExit: If the loss is no longer finite.
    """
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, progress)
    set_seed(args.seed + accelerator.process_index)  # each process its own masks
    resume(accelerator, args)
    total_steps, epoch_steps = count_steps(args, loader)
    records = loader.total_batch_size * args.gradient_accumulation_steps
    first_step, started = progress.step, time.perf_counter()
    bar = tqdm(
        total=total_steps * records,
        initial=progress.step * records,
        unit=unit,
        disable=not accelerator.is_main_process,
    )
    model.train()
    while progress.step < total_steps:
        epoch, done = divmod(progress.step, epoch_steps)
        set_epoch(epoch)
        batches = loader
        if done:
            batches = accelerator.skip_first_batches(loader, done * args.gradient_accumulation_steps)
        for batch in batches:
            with accelerator.accumulate(model):
                output = model(**batch)
                accelerator.backward(output.loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            scheduler.step()
            progress.step += 1
            terms = {name: output[name].detach().float() for name in metrics if output.get(name) is not None}
            terms = {name: accelerator.reduce(value, "mean").item() for name, value in terms.items()}
            for name, value in (terms | {"steps": 1}).items():
                progress.sums[name] = progress.sums.get(name, 0) + value
            accelerator.log({f"train/{name}": value for name, value in terms.items()}, step=progress.step)
            bar.update(records)
            bar.set_postfix(epoch=epoch, loss=f"{terms['loss']:.3f}")
            if not math.isfinite(terms["loss"]):
                raise SystemExit(f"The loss became {terms['loss']} at step {progress.step}; lower --learning_rate.")
            last = progress.step == total_steps
            if progress.step % epoch_steps == 0 or last:
                steps = progress.sums.pop("steps")
                train_means = {name: value / steps for name, value in progress.sums.items()}
                progress.sums = {}
                model.eval()
                with torch.no_grad():
                    means = validate()
                model.train()
                accelerator.log({f"validation/{name}": value for name, value in means.items()}, step=progress.step)
                progress.curves.append({"step": progress.step, "train": train_means, "validation": means})
                if means["loss"] < progress.best_loss:
                    progress.best_loss = means["loss"]
                    accelerator.unwrap_model(model).save_pretrained(
                        args.output_dir, is_main_process=accelerator.is_main_process
                    )
            if progress.step % (args.checkpointing_steps or epoch_steps) == 0 and not last:
                accelerator.save_state()
            if last:
                break
    bar.close()
    seconds = time.perf_counter() - started
    return {
        "processes": accelerator.num_processes,
        "seconds": round(seconds, 1),
        f"{unit}s_per_second": round((progress.step - first_step) * records / max(seconds, 1e-9), 1),
        "best_validation_loss": progress.best_loss,
        "curves": progress.curves,
    }


__all__ = ["RUN_OPTIONS", "cosine_schedule", "count_steps", "settings", "start", "train"]
