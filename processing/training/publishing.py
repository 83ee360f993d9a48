"""Push what a training script leaves in its output folder to the Hugging Face Hub."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

from ..record import DISCLAIMER

PUSH_OPTIONS = ("push_to_hub", "hub_model_id", "hub_private_repo")
"""Names of the options that `check_push` and `push_output` read."""

RESULT_FILES = ("pretraining_results.json", "finetuning_results.json", "report_training_results.json")
"""What the training scripts write beside a model, of which its card is made."""

LEFT_OUT = ("checkpoints/**", "*.partial/**", "runs/**")
"""What stays on this machine: checkpoints to resume from, unfinished files, logs of trackers."""


def check_push(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with the parser's error if the model could not be pushed, before it is trained."""
    if not args.push_to_hub:
        if args.hub_model_id or args.hub_private_repo:
            parser.error("Expected --push_to_hub together with --hub_model_id or --hub_private_repo, got it not.")
        return
    try:
        HfApi().whoami()
    except Exception as error:  # whatever the network or the Hub raises
        parser.error(
            f"Expected a login and a network for --push_to_hub, got {type(error).__name__}: {str(error)[:200]} "
            "Run `hf auth login`, or set HF_TOKEN."
        )


def training_card(name: str, about: Mapping[str, Any]) -> ModelCard:
    """Return a short model card that states how the model was made and makes no claim on its quality.

    Args:
        name (`str`): Its title.
        about (mapping): What the results file of the run says: `command`, `commit`, `data_fingerprint`, `seed`.

    Example:

    >>> card = training_card("mine", {"command": "python examples/pretrain.py", "commit": "abc", "seed": 0})
    >>> card.data.library_name, "`python examples/pretrain.py`" in card.text
    ('transformers', True)
    """
    facts = [
        f"- {key.replace('_', ' ')}: `{about[key]}`"
        for key in ("command", "commit", "seed", "data_fingerprint")
        if key in about
    ]
    text = [
        f"# {name}",
        f"> **{DISCLAIMER}**",
        "A model of merit-ecg, as its training script left it. Nobody has written a card of it: quality, population "
        "and limits are not stated, and no CO2 was measured.",
        "\n".join(facts),
    ]
    data = ModelCardData(library_name="transformers", tags=["ecg", "electrocardiogram", "merit"])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(text) + "\n")


def push_output(args: argparse.Namespace, about: Mapping[str, Any]) -> None:
    """Push the output folder of a finished run, if the run was told to; with a short card if it has none.

    Args:
        args (`argparse.Namespace`): With `PUSH_OPTIONS` and `output_dir`. Without `hub_model_id` the repository has
            the name of the folder, and belongs to the user who is logged in.
        about (mapping): See `training_card`.

    Raises:
        SystemExit: If pushing fails; the trained model stays in its folder, and the message says how to push it.
    """
    if not args.push_to_hub:
        return
    folder = Path(args.output_dir)
    name = args.hub_model_id or folder.resolve().name
    if not (folder / "README.md").is_file():
        training_card(name.split("/")[-1], about).save(folder / "README.md")
    api = HfApi()
    try:
        repo = api.create_repo(name, private=args.hub_private_repo or None, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            ignore_patterns=list(LEFT_OUT),
            commit_message=f"Upload what {Path(sys.argv[0]).name} trained",
        )
    except Exception as error:  # whatever the network or the Hub raises: the model is there, and must not be lost
        raise SystemExit(
            f"The trained model is in {folder}, but could not be pushed ({type(error).__name__}: {str(error)[:200]}). "
            f"Push it with: hf upload {name} {folder} --exclude 'checkpoints/**'"
        ) from error
    print(f"Pushed {folder} to {api.endpoint}/{repo}")


__all__ = ["LEFT_OUT", "PUSH_OPTIONS", "RESULT_FILES", "check_push", "push_output", "training_card"]
