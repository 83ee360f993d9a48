"""Checkpoints of a training run: saved whole or not at all, checked before they are loaded, refused by another run.

A checkpoint is written to `checkpoint_N.partial`, brought to the disk, given a list of its files with sizes and hashes
as the last one, and renamed to `checkpoint_N`; the oldest are deleted after that. Whenever a run is killed, the last
checkpoint that stood before still stands.
"""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, load, set_seed

FILES, STATE = "files.json", "state.json"
PARTIAL = ".partial"


class Progress:
    """What a checkpoint must hold beside weights, optimiser and random states; JSON can hold it."""

    def __init__(self) -> None:
        self.step, self.best_loss = 0, math.inf
        self.curves: list[dict] = []
        self.sums: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def saved_checkpoints(output_dir: Path) -> list[Path]:
    """Return the folders of the checkpoints of a run, oldest first, without those that were not saved to the end."""
    folders = (output_dir / "checkpoints").glob("checkpoint_*")
    return sorted((folder for folder in folders if re.fullmatch(r"checkpoint_\d+", folder.name)), key=_number)


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, `None` if every file is there and as it was saved."""
    try:
        files = json.loads((folder / FILES).read_text(encoding="utf-8"))
        for name, saved in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != saved["size"]:
                return f"{name} has {path.stat().st_size} bytes instead of {saved['size']}"
            if _sha256(path) != saved["sha256"]:
                return f"{name} has changed since it was saved"
    except FileNotFoundError:
        return f"{FILES}, which is written last, is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its files cannot be checked ({type(error).__name__})"
    return None if STATE in files else f"{FILES} does not list {STATE}"


def check_output_dir(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with the parser's error if the run would meet checkpoints of another, or there is none to resume from.

    `--resume_from_checkpoint latest` becomes the folder of the last checkpoint that is whole; what was passed over
    is printed with the reason.
    """
    found, wanted = saved_checkpoints(args.output_dir), args.resume_from_checkpoint
    if found and not wanted and not args.overwrite_output_dir:
        parser.error(
            f"Expected --output_dir without checkpoints of an earlier run, got some in {args.output_dir}. Go on with "
            "it by --resume_from_checkpoint latest, delete them by --overwrite_output_dir, or name another folder."
        )
    if wanted == "latest":
        passed_over = [
            f"{folder}: its saving or its deletion was interrupted"
            for folder in args.output_dir.glob(f"checkpoints/*{PARTIAL}")
        ]
        for folder in reversed(found):
            if (damage := find_damage(folder)) is None:
                args.resume_from_checkpoint = str(folder)
                break
            passed_over.append(f"{folder}: {damage}")
        if passed_over and os.environ.get("RANK", "0") == "0":
            print("Passed over", "; ".join(passed_over), file=sys.stderr)
        if args.resume_from_checkpoint == "latest":
            parser.error(
                f"Expected checkpoints in {args.output_dir / 'checkpoints'} to resume from, got none that is whole. "
                "Start anew without --resume_from_checkpoint, with --overwrite_output_dir if there are damaged ones."
            )
    elif wanted:
        if not Path(wanted).is_dir():
            parser.error(f"Expected a checkpoint folder or 'latest', got {wanted!r}.")
        if damage := find_damage(Path(wanted)):
            parser.error(
                f"Expected a whole checkpoint, got {wanted}: {damage}. Name another one, or 'latest' for the last "
                "one that is whole."
            )


def save_checkpoint(
    accelerator: Accelerator, output_dir: Path, state: Mapping[str, Any], total_limit: int | None
) -> Path:
    """Save a checkpoint and delete the oldest ones above the limit; every process calls this.

    Args:
        accelerator (`Accelerator`): Holds model and optimiser.
        output_dir (`Path`): Folder of the run.
        state (mapping): What JSON can hold, "step" among it.
        total_limit (`int`, *optional*): How many checkpoints are kept, the new one included.

    Raises:
        SystemExit: If it cannot be written, for instance because the disk is full; the earlier ones still stand.
    """
    saved = saved_checkpoints(output_dir)
    [number] = broadcast_object_list([_number(saved[-1]) + 1 if saved else 0])
    folder = output_dir / "checkpoints" / f"checkpoint_{number}"
    partial = folder.with_name(folder.name + PARTIAL)
    error = ""
    if accelerator.is_main_process:
        try:
            for left in output_dir.glob(f"checkpoints/*{PARTIAL}"):
                _delete(left)
            partial.mkdir(parents=True)
        except OSError as failure:
            error = _one_line(failure)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
    except Exception as failure:  # torch and safetensors have exceptions of their own for a full disk
        error = error or _one_line(failure)
    errors = [text for text in gather_object([error]) if text]
    if accelerator.is_main_process and not errors:
        try:
            (partial / STATE).write_text(json.dumps({**state, "processes": accelerator.num_processes}))
            _write_list(partial)
            partial.rename(folder)
            _sync(folder.parent)
        except OSError as failure:
            errors = [_one_line(failure)]
    [errors] = broadcast_object_list([errors])
    if accelerator.is_main_process:
        if errors:
            shutil.rmtree(partial, ignore_errors=True)
        elif total_limit:
            for old in saved_checkpoints(output_dir)[:-total_limit]:
                old.rename(old.with_name(old.name + PARTIAL))  # else one that is half deleted would look like one
                _delete(old.with_name(old.name + PARTIAL))
    accelerator.wait_for_everyone()
    if errors:
        raise SystemExit(
            f"The checkpoint of step {state['step']} could not be saved: {errors[0]}. "
            + (f"{saved[-1]} still stands. " if saved else "There is no earlier one. ")
            + "Make room on the disk"
            + (" and go on with --resume_from_checkpoint latest." if saved else " and start again.")
        )
    return folder


def read_state(folder: str | Path) -> dict[str, Any]:
    """Return what `save_checkpoint` was given as the state of a run."""
    return json.loads((Path(folder) / STATE).read_text(encoding="utf-8"))


def check_same_run(folder: str | Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume what would not be the same run.

    Args:
        folder (`str` or `Path`): The checkpoint, for the message.
        saved (mapping), now (mapping): What the run follows from, as it was and as it is.

    Raises:
        SystemExit: If they differ.

    Example:

    >>> check_same_run("checkpoint_3", {"seed": 0}, {"seed": 1})
    Traceback (most recent call last):
    SystemExit: Expected the run of checkpoint_3, got another one: seed is 1 instead of 0. Resume with ...
    """
    now = json.loads(json.dumps(now))  # tuples as JSON knows them
    differences = [
        f"{name} is {_short(now.get(name))} instead of {_short(saved.get(name))}"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]
    if differences:
        raise SystemExit(
            f"Expected the run of {folder}, got another one: {'; '.join(differences)}. Resume with the data and "
            "options that it was started with, or start a new run in another --output_dir."
        )


def load_checkpoint(accelerator: Accelerator, folder: str | Path, seed: int) -> None:
    """Load weights, optimiser and random states of a whole checkpoint, with `weights_only=True`.

    For another number of processes than it was saved by, the random states follow from seed, step and process.

    Raises:
        SystemExit: If the checkpoint is that of another model, or a random state is missing or cannot be read: the
            run would go on with other masks.
    """
    state = read_state(folder)
    try:
        accelerator.load_state(str(folder), load_kwargs={"weights_only": True})
    except (RuntimeError, ValueError, KeyError) as error:
        raise SystemExit(
            f"Expected a checkpoint of this model in {folder}, got one that does not fit it ({_one_line(error)}). "
            "Resume with the models that the run was started with."
        ) from error
    if state["processes"] != accelerator.num_processes:
        accelerator.step = 0  # saved after an optimiser step: no batch waits for others
        set_seed(seed + (state["step"] + 1) * accelerator.num_processes + accelerator.process_index)
        return
    path = Path(folder) / f"random_states_{accelerator.process_index}.pkl"
    try:  # Accelerate goes on without a word when it cannot read them
        same = torch.equal(load(path)["torch_manual_seed"], torch.get_rng_state())
    except Exception as error:
        raise SystemExit(
            f"Expected random states in {path}, got {_one_line(error)}. Use another checkpoint."
        ) from error
    if not same:
        raise SystemExit(
            f"Expected random states in {path}, got some that cannot be restored. Use another checkpoint."
        )


def replace_files(source: Path, target: Path) -> None:
    """Move the files of one folder into another and remove the first; a reader never meets half a file."""
    for path in sorted(source.iterdir()):
        _sync(path)
        os.replace(path, target / path.name)
    source.rmdir()
    _sync(target)


def cut_log(path: Path, step: int) -> None:
    """Leave out the lines of a log of JSON lines that are of later steps, or that were not written to the end."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            continue
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def _write_list(folder: Path) -> None:
    """Bring the files of a folder to the disk, and then a list of them with sizes and hashes."""
    files = {}
    for path in sorted(folder.iterdir()):
        _sync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    (folder / FILES).write_text(json.dumps(files, indent=1), encoding="utf-8")
    _sync(folder / FILES)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _delete(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def _number(folder: Path) -> int:
    return int(folder.name.split("_")[-1])


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = [
    "Progress",
    "check_output_dir",
    "check_same_run",
    "cut_log",
    "find_damage",
    "load_checkpoint",
    "read_state",
    "replace_files",
    "save_checkpoint",
    "saved_checkpoints",
]
