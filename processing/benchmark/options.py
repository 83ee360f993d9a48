"""The command-line options that several scripts share, each with one meaning."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub import HfApi, try_to_load_from_cache

from ..data.ptb_xl_files import PtbXlError, find_table
from ..data.sources import BUILDERS, family_of, split_names
from ..data.tables import SUFFIXES, is_table
from .tasks import TASK_NAMES


def ptb_xl_folder(name: str) -> str:
    """Return the name of a PTB-XL folder as given, for `type=` of an option.

    Raises:
        argparse.ArgumentTypeError: If the table of PTB-XL is not in it.
    """
    try:
        find_table(name)
    except PtbXlError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def fraction(text: str) -> float:
    """Return a number above 0 and up to 1, for `type=` of an option.

    Raises:
        argparse.ArgumentTypeError: If it is another.
    """
    with suppress(ValueError):
        if 0 < (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"Expected a fraction above 0 and up to 1, as 0.1 for a tenth, got {text!r}.")


def model_source(name: str) -> str:
    """Return the name of a checkpoint as given, for `type=` of an option: a folder, else a Hub id.

    The Hub is asked once, where `from_pretrained` would ask for half a minute.

    Raises:
        argparse.ArgumentTypeError: If there is neither.
    """
    if Path(name).is_dir():
        if not any((Path(name) / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise argparse.ArgumentTypeError(f"Expected a model in {name!r}, got a folder without config.json.")
        return name
    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=10)
    except Exception as error:  # whatever the network or the Hub raises
        raise _neither("model", name, error) from error
    return name


def named_model(text: str) -> str:
    """Return `NAME=CHECKPOINT` as given, for `type=` of an option.

    Raises:
        argparse.ArgumentTypeError: If it is otherwise, or there is no such checkpoint.
    """
    name, _, source = text.partition("=")
    if not name or not source:
        raise argparse.ArgumentTypeError(f"Expected NAME=CHECKPOINT, got {text[:200]!r}.")
    model_source(source)
    return text


def dataset_source(text: str) -> str:
    """Return the names of data sets as given, for `type=` of an option: builders, tables, folders, else Hub ids.

    Raises:
        argparse.ArgumentTypeError: If one of them is none, or the folder of a builder is not there.
    """
    for name in split_names(text):
        _check_source(name)
    return text


def _check_source(name: str) -> None:
    family = family_of(name)
    if family is not None:
        if family[1] is not None and not Path(family[1]).is_dir():
            raise argparse.ArgumentTypeError(f"Expected the folder of {family[0]} behind the colon, got {name!r}.")
        if family[0] == "ptb_xl" and family[1] is not None:
            ptb_xl_folder(family[1])
        return
    cached = Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___"))
    if Path(name).is_file() and not is_table(name):
        raise argparse.ArgumentTypeError(f"Expected a table ({', '.join(SUFFIXES)}) or a folder, got {name!r}.")
    if not Path(name).exists() and not cached.is_dir():
        try:
            HfApi().dataset_info(name, timeout=10)
        except Exception as error:  # whatever the network or the Hub raises
            raise _neither("data set", name, error) from error


def _neither(kind: str, name: str, error: Exception) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(
        f"There is no folder {name[:200]!r}, and the Hub did not answer for a {kind} of that name "
        f"({type(error).__name__}). Check the path; for the Hub, the id and the network."
    )


SIZED = (
    *("num_records", "epochs", "max_train_steps", "batch_size", "gradient_accumulation_steps"),
    *("checkpointing_steps", "checkpoints_total_limit", "num_proc"),
)
OPTIONS: dict[str, dict[str, Any]] = {
    # Data
    "dataset": {
        "type": dataset_source,
        "default": "ptb_xl",
        "help": f"One data set, or several with commas between: {', '.join(BUILDERS)} (BUILDER:FOLDER where "
        "--data_dir is not its folder), a table of ECG files (.csv, .tsv, .parquet, .jsonl, a folder with "
        "metadata.csv), or a folder or Hub id of a Parquet data set.",
    },
    "dataset_weights": {
        "nargs": "+",
        "type": float,
        "help": "How often each data set is drawn from in training; default: every record once per epoch.",
    },
    "path_column": {"help": "Of a table: the files. Default: file_name, path or file."},
    "label_columns": {
        "nargs": "+",
        "help": "Of a table: one column per class with 0 or 1, or one column with names of classes, ; between.",
    },
    "report_column": {"help": "Of a table: the reports. Default: report."},
    "patient_column": {"help": "Of a table: whose the files are. Default: patient_id, or each file a patient."},
    "split_column": {"help": "Of a table: train, validation or test. Default: split, else drawn by patient."},
    "seconds": {"type": float, "default": 10.0, "help": "Length of the signals that are made of files."},
    "on_error": {"default": "raise", "choices": ("raise", "skip"), "help": "skip: leave out files that are no ECG."},
    "num_proc": {"type": int, "help": "Processes that read the files of a data set."},
    "data_dir": {
        "type": ptb_xl_folder,
        "required": True,
        "help": "Folder of PTB-XL (the one with ptbxl_database.csv).",
    },
    "num_records": {"type": int, "default": 2000, "help": "Records of the synthetic data set."},
    "sampling_rate": {
        "type": int,
        "default": 100,
        "choices": (100, 500),
        "help": "Sampling rate of the data set's signals in Hz.",
    },
    "tasks": {"nargs": "+", "default": TASK_NAMES, "choices": TASK_NAMES, "help": "Label sets of PTB-XL."},
    "label_fraction": {"type": fraction, "default": 1.0, "help": "Fraction of the training patients with labels."},
    # Model
    "model": {"type": model_source, "required": True, "help": "Checkpoint folder or Hub id."},
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
    "keep_in_memory": {
        "action": "store_true",
        "help": "Condition all signals once and keep them in memory: faster, 1 GB for PTB-XL at 100 Hz.",
    },
    "mixed_precision": {"choices": ("no", "bf16", "fp16"), "help": "Default: as `accelerate config` says."},
    "checkpointing_steps": {"type": int, "help": "Save every so many steps; default: after each epoch."},
    "checkpoints_total_limit": {
        "type": int,
        "default": 2,
        "help": "Older checkpoints are deleted, after the new one was saved.",
    },
    "resume_from_checkpoint": {
        "help": 'A checkpoint folder, or "latest" for the last one that is whole. A checkpoint is trusted code: '
        "resume only from one that you or somebody you trust made, though it is read with weights_only=True.",
    },
    "overwrite_output_dir": {"action": "store_true", "help": "Delete the checkpoints of an earlier run."},
    # Publishing
    "push_to_hub": {"action": "store_true", "help": "Push the trained model to the Hub at the end."},
    "hub_model_id": {"help": "Its id on the Hub, as you/name. Default: the name of the output folder."},
    "hub_private_repo": {"action": "store_true", "help": "Make the repository on the Hub private."},
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

    >>> parser = option_parser("Probe.", "run", seed={"default": 3})
    >>> parser.parse_args(["--run", "joint"])
    Namespace(run='joint', seed=3)
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, changed in [*((name, {}) for name in names), *changes.items()]:
        parser.add_argument(f"--{name}", **(OPTIONS[name] | changed))
    return parser


def check_sizes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with the parser's error if a number of records, batches or steps is below 1, or PTB-XL shall have another
    length than it has."""
    for name in SIZED:
        if (value := getattr(args, name, None)) is not None and value < 1:
            parser.error(f"Expected --{name} of at least 1, got {value}.")
    of_ptb_xl = any(name.partition(":")[0] == "ptb_xl" for name in split_names(getattr(args, "dataset", "")))
    if of_ptb_xl and getattr(args, "seconds", None) != parser.get_default("seconds"):
        parser.error(f"The records of PTB-XL are 10 s long, got --seconds {args.seconds:g}. Leave it out.")


__all__ = ["OPTIONS", "check_sizes", "dataset_source", "model_source", "named_model", "option_parser", "ptb_xl_folder"]
