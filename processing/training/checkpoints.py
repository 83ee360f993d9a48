"""Checkpoints of a training run: where they are, whether a run may start beside them, and what they hold."""

import argparse
import math
from pathlib import Path
from typing import Any

from accelerate import Accelerator


class Progress:
    """What a checkpoint must hold beside weights, optimiser and random states."""

    def __init__(self) -> None:
        self.step, self.best_loss = 0, math.inf
        self.curves: list[dict] = []
        self.sums: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def saved_checkpoints(output_dir: Path) -> list[Path]:
    """Return the folders of the checkpoints of a run, oldest first."""
    return sorted(output_dir.glob("checkpoints/checkpoint_*"), key=_number)


def check_output_dir(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with the parser's error if the run would meet checkpoints of another, or there is none to resume from."""
    found, wanted = saved_checkpoints(args.output_dir), args.resume_from_checkpoint
    if found and not wanted and not args.overwrite_output_dir:
        parser.error(
            f"Expected --output_dir without checkpoints of an earlier run, got some in {args.output_dir}. Go on with "
            "it by --resume_from_checkpoint latest, delete them by --overwrite_output_dir, or name another folder."
        )
    if wanted == "latest" and not found:
        parser.error(f"Expected checkpoints in {args.output_dir / 'checkpoints'} to resume from, got none.")
    if wanted not in (None, "latest") and not Path(wanted).is_dir():
        parser.error(f"Expected a checkpoint folder or 'latest', got {wanted!r}.")


def resume(accelerator: Accelerator, args: argparse.Namespace) -> None:
    """Load the checkpoint that `--resume_from_checkpoint` names, if any; the next one gets the next number."""
    if args.resume_from_checkpoint:
        accelerator.load_state(None if args.resume_from_checkpoint == "latest" else args.resume_from_checkpoint)
        if saved := saved_checkpoints(args.output_dir):
            accelerator.project_configuration.iteration = _number(saved[-1]) + 1


def _number(folder: Path) -> int:
    return int(folder.name.split("_")[-1])


__all__ = ["Progress", "check_output_dir", "resume", "saved_checkpoints"]
