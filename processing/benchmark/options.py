"""The command-line options that several scripts share, each with one meaning."""

import argparse
from pathlib import Path
from typing import Any

import torch

from .tasks import TASK_NAMES

SIZED = ("num_records", "epochs", "max_train_steps", "batch_size", "gradient_accumulation_steps")
OPTIONS: dict[str, dict[str, Any]] = {
    # Data
    "dataset": {"default": "ptb_xl", "help": "ptb_xl, synthetic, or a folder or Hub id of a Parquet data set."},
    "data_dir": {"required": True, "help": "Folder of PTB-XL (the one with ptbxl_database.csv)."},
    "num_records": {"type": int, "default": 2000, "help": "Records of the synthetic data set."},
    "sampling_rate": {
        "type": int,
        "default": 100,
        "choices": (100, 500),
        "help": "Sampling rate of the data set's signals in Hz.",
    },
    "tasks": {"nargs": "+", "default": TASK_NAMES, "choices": TASK_NAMES, "help": "Label sets of PTB-XL."},
    "label_fraction": {"type": float, "default": 1.0, "help": "Fraction of the training patients with labels."},
    # Model
    "model": {"required": True, "help": "Checkpoint folder or Hub id."},
    "random_init": {"action": "store_true", "help": "Keep the architecture, draw the weights anew."},
    "batch_size": {"type": int, "default": 128, "help": "Records per process and forward pass."},
    "device": {"default": "cuda" if torch.cuda.is_available() else "cpu", "help": "Where the model runs."},
    "seed": {"type": int, "default": 0, "help": "Seed of everything random."},
    # Training
    "epochs": {"type": int, "default": 20, "help": "Epochs at most."},
    "max_train_steps": {"type": int, "help": "Stop after so many optimiser steps; overrides --epochs."},
    "patience": {"type": int, "default": 5, "help": "Epochs without a better validation before the stop."},
    "gradient_accumulation_steps": {"type": int, "default": 1, "help": "Batches per optimiser step."},
    "weight_decay": {"type": float, "default": 0.05, "help": "Of weight matrices alone."},
    "warmup_ratio": {"type": float, "default": 0.08, "help": "Fraction of the steps in which the rate rises."},
    "max_grad_norm": {"type": float, "default": 1.0, "help": "Longer gradients are scaled down to this norm."},
    "crop_seconds": {"type": float, "default": 5.0, "help": "Length of the random crops trained on."},
    "mixed_precision": {"choices": ("no", "bf16", "fp16"), "help": "Default: as `accelerate config` says."},
    "checkpointing_steps": {"type": int, "help": "Save every so many steps; default: after each epoch."},
    "checkpoints_total_limit": {"type": int, "default": 2, "help": "Older checkpoints are deleted."},
    "resume_from_checkpoint": {"help": 'A checkpoint folder, or "latest".'},
    "overwrite_output_dir": {"action": "store_true", "help": "Delete the checkpoints of an earlier run."},
    # Results
    "run": {"required": True, "help": "Name of this model in the results."},
    "output_dir": {"type": Path, "required": True, "help": "Folder for the trained model."},
    "output": {"type": Path, "default": Path("results/ptb_xl.json"), "help": "JSON list of result rows."},
    "predictions": {"type": Path, "default": Path("runs/predictions"), "help": "Folder for the predictions."},
    "cache_dir": {"type": Path, "default": Path("runs/embeddings"), "help": "Folder for features computed once."},
    "n_resamples": {"type": int, "default": 1000, "help": "Resamples of the bootstrap."},
}


def option_parser(description: str | None, *names: str, **changes: dict[str, Any]) -> argparse.ArgumentParser:
    """Return a parser with shared options, to which a script adds its own.

    Args:
        description (`str`): The script's docstring.
        names (`str`): Keys of `OPTIONS`.
        changes (`dict`): By option, what differs in this script, such as `epochs={"default": 10}`.

    Example:

    >>> parser = option_parser("Probe.", "model", seed={"default": 3})
    >>> parser.parse_args(["--model", "merit-ecg"])
    Namespace(model='merit-ecg', seed=3)
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, changed in [*((name, {}) for name in names), *changes.items()]:
        parser.add_argument(f"--{name}", **(OPTIONS[name] | changed))
    return parser


def check_sizes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with the parser's error if a number of records, batches or steps is below 1."""
    for name in SIZED:
        if (value := getattr(args, name, None)) is not None and value < 1:
            parser.error(f"Expected --{name} of at least 1, got {value}.")


__all__ = ["OPTIONS", "check_sizes", "option_parser"]
