"""What a run of pre-training and one of report training have in common: options, Accelerate, steps and log."""

import argparse
import atexit
import gc
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.data_loader import DataLoaderShard
from accelerate.tracking import GeneralTracker, on_main_process
from accelerate.utils import DataLoaderConfiguration, DistributedType, ProjectConfiguration, broadcast, set_seed
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin, get_cosine_schedule_with_warmup

from .checkpoints import (
    PARTIAL,
    Progress,
    check_same_run,
    cut_log,
    load_checkpoint,
    read_state,
    replace_files,
    save_checkpoint,
)
from .streaming import EcgReportStream

RUN_OPTIONS = (
    *("dataset", "dataset_weights", "path_column", "report_column", "patient_column", "split_column", "seconds"),
    *("on_error", "num_proc", "num_records", "sampling_rate", "max_train_steps", "gradient_accumulation_steps"),
    *("weight_decay", "max_grad_norm", "mixed_precision", "checkpointing_steps", "checkpoints_total_limit"),
    *("resume_from_checkpoint", "overwrite_output_dir", "seed"),
)
"""Names of the options that `start` and `train` read and that mean the same in both scripts."""

MODEL_PARTIAL = f"model{PARTIAL}"

MAY_CHANGE = {
    *("output_dir", "resume_from_checkpoint", "overwrite_output_dir", "checkpointing_steps"),
    *("checkpoints_total_limit", "report_to", "num_workers", "num_proc", "keep_in_memory"),
    *("push_to_hub", "hub_model_id", "hub_private_repo"),
    # Compared by what follows from them: fingerprints of the data, records per batch, steps.
    *("dataset", "data_dir", "num_records", "questions", "text_model", "ecg_model", "language_model"),
    *("batch_size", "epochs", "max_train_steps", "mixed_precision"),
}
"""Names of the options that a resumed run may have otherwise than the interrupted one."""


def check_bfloat16(size: int = 1024) -> float:
    """Return how many times as fast matrix products are in bfloat16 as in float32 on this processor.

    Raises:
        SystemExit: If they are slower. Without AVX-512 bf16 or AMX they were 30 to 300 times slower.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix, best = torch.ones(size, size, dtype=dtype), math.inf
        for _ in range(3):  # the first one also sets the library up
            started = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - started)
        seconds[dtype] = best
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    if ratio < 1:
        raise SystemExit(
            f"Expected a processor with bfloat16 for --mixed_precision bf16, got one on which it is {1 / ratio:.0f} "
            "times slower than float32. Leave it out, or pass --mixed_precision no."
        )
    return ratio


class StopSignals:
    """Notes SIGTERM and Ctrl-C in `received`, so that a run can save first; the second one ends it at once."""

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> "StopSignals":
        numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
        self._former = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(number, self._former[number])


class JsonLinesTracker(GeneralTracker):
    """Writes every logged value as one line of JSON; needs no other package."""

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

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


def start(args: argparse.Namespace, report_to: Iterable[str], unused_parameters: bool) -> Accelerator:
    """Return the accelerator of a run, its output folder made.

    Args:
        args (`argparse.Namespace`): With `RUN_OPTIONS` and `output_dir`.
        report_to (iterable of `str`): Trackers beside `train_log.jsonl`.
        unused_parameters (`bool`): Whether a step may leave parameters without a gradient.
    """
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,
        log_with=[JsonLinesTracker(args.output_dir / "train_log.jsonl"), *report_to],
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        project_config=ProjectConfiguration(str(args.output_dir)),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)],
    )
    # From torch 2.11 on, cuDNN's attention gives NaN gradients where a mask, 64 tokens (modulo 128) and very negative
    # scores meet (pytorch/pytorch#196678): reports cut off at 64 tokens. Its other kernels do not.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Weights without the "module." of several processes, so that another number of them can load a checkpoint.
    accelerator.register_save_state_pre_hook(_save_unwrapped(accelerator))
    accelerator.register_load_state_pre_hook(_load_unwrapped(accelerator))
    if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu":
        check_bfloat16()
    end_at_exit(accelerator)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.overwrite_output_dir and not args.resume_from_checkpoint and accelerator.is_main_process:
        shutil.rmtree(args.output_dir / "checkpoints", ignore_errors=True)
    accelerator.wait_for_everyone()
    return accelerator


def end_at_exit(accelerator: Accelerator) -> None:
    """Finish the trackers and destroy the group of processes when the script ends, however it ends.

    The models go first. Whoever lets go of a gloo group last waits for its threads, and the reducer of
    DistributedDataParallel does so without releasing the interpreter's lock, for which one of those threads may be
    waiting (pytorch/pytorch#56297): such a process never ends.
    """

    @atexit.register
    def end() -> None:
        accelerator.free_memory()
        gc.collect()
        accelerator.end_training()


def _save_unwrapped(accelerator: Accelerator) -> Callable[[list, list, str], None]:
    def hook(models: list, weights: list, folder: str) -> None:
        if weights:  # else FSDP or DeepSpeed have saved them in their own way
            weights[:] = [accelerator.unwrap_model(model).state_dict() for model in models]

    return hook


def _load_unwrapped(accelerator: Accelerator) -> Callable[[list, str], None]:
    def hook(models: list, folder: str) -> None:
        models[:] = [accelerator.unwrap_model(model) for model in models]

    return hook


def save_model(model: PreTrainedModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Save a model so that a run killed meanwhile leaves the former one, and no file is half written.

    Files of a former model that this one does not have, such as adapters, which would be loaded on top of it, are
    removed. `weights` are its own where they do not lie whole in this process.
    """
    partial = folder / MODEL_PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict=weights)
    written = {path.name for path in partial.iterdir()}
    replace_files(partial, folder)
    for pattern in ("adapter_*", "model*.safetensors*", "config.json", "generation_config.json"):
        for path in folder.glob(pattern):
            if path.name not in written:
                path.unlink()


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a model that `train` keeps as the exponential moving average of its weights and statistics.

    After n steps the decay is at most (1 + n) / (10 + n), so that the first weights are soon forgotten.
    """

    def average(averaged: torch.Tensor, now: torch.Tensor, steps: Any) -> torch.Tensor:
        if not averaged.is_floating_point():
            return now
        return torch.lerp(averaged, now, 1 - ((1 + steps) / (10 + steps)).clamp(max=decay))

    return AveragedModel(model, avg_fn=average, use_buffers=True).requires_grad_(False).eval()


def count_steps(args: argparse.Namespace, loader: DataLoaderShard | EcgReportStream) -> tuple[int, int]:
    """Return the optimiser steps of the whole run and those of one epoch."""
    per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
    return args.max_train_steps or args.epochs * per_epoch, per_epoch


def cosine_schedule(
    args: argparse.Namespace, optimizer: torch.optim.Optimizer, loader: DataLoaderShard | EcgReportStream
):
    """Return the schedule of the learning rates: up over `--warmup_ratio` of the steps, then down as a cosine."""
    total, _ = count_steps(args, loader)
    return get_cosine_schedule_with_warmup(optimizer, max(1, int(args.warmup_ratio * total)), total)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    loader: DataLoaderShard | EcgReportStream,
    accelerator: Accelerator,
    args: argparse.Namespace,
    processor: ProcessorMixin,
    *,
    project: str,
    metrics: Sequence[str],
    validate: Callable[[nn.Module], dict[str, float]],
    set_epoch: Callable[[int], None],
    unit: str,
    data: Mapping[str, Any],
    any_processes: bool,
    backward: Callable[[Mapping[str, torch.Tensor]], Any] | None = None,
    averaged: AveragedModel | None = None,
) -> dict[str, Any]:
    """Train from the start or a checkpoint to the last step; the best model lies in the output folder afterwards.

    SIGTERM and Ctrl-C save a checkpoint after the running step and end the process with 143 or 130.

    Args:
        model (`nn.Module`), optimizer (`Optimizer`), loader (`DataLoaderShard`): What `accelerator.prepare` returned;
            the loader may be an `EcgReportStream`.
        scheduler (`LambdaLR`): Stepped once per optimiser step.
        accelerator (`Accelerator`), args (`argparse.Namespace`): See `start`; besides, `epochs` and `warmup_ratio`.
        processor (`ProcessorMixin`): Saved at once, so that an interrupted run leaves a usable model.
        project (`str`): Name of the run in the trackers.
        metrics (sequence of `str`): Fields of the model's output to log, "loss" among them.
        validate (callable): Returns the validation metrics of a model in evaluation mode, "loss" among them.
        set_epoch (callable): Told the number of every epoch before it begins.
        unit (`str`): What a batch holds, for the progress bar and the results.
        data (mapping): Fingerprints and sizes of the data; a run with others is not resumed.
        any_processes (`bool`): Whether the batches of all processes together hold the same records in the same order
            for any number of processes; if not, a run is resumed by the same number alone.
        backward (callable, *optional*): Adds the gradients of a batch and returns the model's output; a forward and
            a backward pass when absent.
        averaged (`AveragedModel`, *optional*): Of `average_weights`, made before `accelerator.prepare`: it, and not
            the model itself, is validated and left in the output folder.

    Returns:
        `dict`: The part of the results file that says how the run went.

    Raises:
        SystemExit: If the loss is no longer finite, a checkpoint is that of another run or cannot be saved, or the
            run was told to stop.
    """
    progress, folder = Progress(), args.resume_from_checkpoint
    shared_out = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if averaged is not None:
        if shared_out:
            raise SystemExit("Expected --ema_decay 0 where weights are shared out over processes (FSDP, DeepSpeed).")
        averaged = accelerator.prepare_model(averaged, evaluation_mode=True)  # so that it is saved with the model
    set_seed(args.seed + accelerator.process_index)  # each process its own masks
    total_steps, epoch_steps = count_steps(args, loader)
    run = {name: value for name, value in settings(args).items() if name not in MAY_CHANGE} | dict(data)
    run |= {"mixed_precision": accelerator.mixed_precision, "steps": total_steps, "steps of an epoch": epoch_steps}
    run |= {"batch_size times processes": loader.total_batch_size, "batches of an epoch": len(loader)}
    if not any_processes:
        run["processes"] = accelerator.num_processes
    if folder:
        state = read_state(folder)
        check_same_run(folder, state["run"], run)
        load_checkpoint(accelerator, folder, args.seed)
        progress.load_state_dict(state["progress"])
        scheduler.load_state_dict(state["scheduler"])
        if not any(args.output_dir.glob("*.safetensors")):  # resumed into another folder: the best of what follows
            progress.best_loss = math.inf
    if accelerator.is_main_process:
        shutil.rmtree(args.output_dir / MODEL_PARTIAL, ignore_errors=True)  # of a run killed while it saved its model
        cut_log(args.output_dir / "train_log.jsonl", progress.step if folder else -1)
        processor.save_pretrained(args.output_dir)
    accelerator.init_trackers(
        project,
        config={name: str(value) for name, value in vars(args).items()},
        init_kwargs={"tensorboard": {"purge_step": progress.step + 1}} if folder else {},
    )
    records = loader.total_batch_size * args.gradient_accumulation_steps
    first_step, started, processor_started = progress.step, time.perf_counter(), time.process_time()
    bar = tqdm(
        total=total_steps * records,
        initial=progress.step * records,
        unit=unit,
        disable=not accelerator.is_main_process,
    )

    def note(terms: tuple[int, list[str], torch.Tensor] | None) -> None:
        """Log the terms of a step, add them to the sums of the epoch and see that the loss is finite."""
        if terms is None:
            return
        step, names, values = terms
        numbers = dict(zip(names, values.tolist()))
        for name, value in (numbers | {"steps": 1}).items():
            progress.sums[name] = progress.sums.get(name, 0) + value
        accelerator.log({f"train/{name}": value for name, value in numbers.items()}, step=step)
        bar.set_postfix(loss=f"{numbers['loss']:.3f}")
        if not math.isfinite(numbers["loss"]):
            raise SystemExit(f"The loss became {numbers['loss']} at step {step}; lower --learning_rate.")

    def one_pass(batch: Mapping[str, torch.Tensor]) -> Any:
        output = model(**batch)
        accelerator.backward(output.loss)
        return output

    backward = backward or one_pass
    pending: tuple[int, list[str], torch.Tensor] | None = None
    with StopSignals() as stop:
        model.train()
        while progress.step < total_steps:
            epoch, done = divmod(progress.step, epoch_steps)
            set_epoch(epoch)
            batches = loader
            if done:
                first = done * args.gradient_accumulation_steps
                if isinstance(loader, EcgReportStream):
                    loader.load_state_dict({"epoch": epoch, "batch": first})
                else:
                    batches = accelerator.skip_first_batches(loader, first)
            for batch in batches:
                with accelerator.accumulate(model):
                    output = backward(batch)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                if not accelerator.sync_gradients:
                    continue
                if averaged is not None:
                    averaged.update_parameters(accelerator.unwrap_model(model))
                scheduler.step()
                # The terms of the step before are read now: a device has had a whole step to work them out.
                note(pending)
                progress.step += 1
                terms = {name: output[name].detach().float() for name in metrics if output.get(name) is not None}
                pending = (progress.step, list(terms), accelerator.reduce(torch.stack(list(terms.values())), "mean"))
                last = progress.step == total_steps
                saves = progress.step % (args.checkpointing_steps or epoch_steps) == 0
                if last or saves or stop.received or progress.step % epoch_steps == 0:
                    note(pending)
                    pending = None
                bar.update(records)
                if progress.step % epoch_steps == 0 or last:
                    steps = progress.sums.pop("steps")
                    train_means = {name: value / steps for name, value in progress.sums.items()}
                    progress.sums = {}
                    model.eval()
                    for statistics in [] if averaged is None else averaged.buffers():
                        statistics.copy_(broadcast(statistics))  # as DDP does with those of the model
                    with torch.no_grad():
                        means = validate(model if averaged is None else averaged)
                    model.train()
                    accelerator.log({f"validation/{name}": value for name, value in means.items()}, step=progress.step)
                    progress.curves.append({"step": progress.step, "train": train_means, "validation": means})
                    if means["loss"] < progress.best_loss:
                        progress.best_loss = means["loss"]
                        weights = accelerator.get_state_dict(model) if shared_out else None
                        if accelerator.is_main_process:
                            best: Any = accelerator.unwrap_model(model) if averaged is None else averaged.module
                            save_model(best, args.output_dir, weights)
                stopped = stop.received
                if accelerator.num_processes > 1:
                    stopped = int(accelerator.gather(torch.tensor([stopped], device=accelerator.device)).max())
                if not last and (stopped or saves):
                    note(pending)
                    pending = None
                    state = {"step": progress.step, "progress": progress.state_dict()}
                    state |= {"scheduler": scheduler.state_dict(), "run": run}
                    saved = save_checkpoint(accelerator, args.output_dir, state, args.checkpoints_total_limit)
                if stopped and not last:
                    if accelerator.is_main_process:
                        print(f"Stopped by {signal.Signals(stopped).name}; saved {saved}.", file=sys.stderr)
                    raise SystemExit(128 + stopped)
                if last:
                    break
    bar.close()
    seconds = time.perf_counter() - started
    return {
        "processes": accelerator.num_processes,
        "seconds": round(seconds, 1),
        "processor_seconds": round(time.process_time() - processor_started, 1),
        f"{unit}s_per_second": round((progress.step - first_step) * records / max(seconds, 1e-9), 1),
        "best_validation_loss": progress.best_loss,
        "curves": progress.curves,
    }


__all__ = [
    "RUN_OPTIONS",
    "average_weights",
    "check_bfloat16",
    "cosine_schedule",
    "count_steps",
    "end_at_exit",
    "settings",
    "start",
    "train",
]
