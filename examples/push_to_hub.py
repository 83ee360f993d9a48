"""Publish a checkpoint, PTB-XL as Parquet, or the Space on the Hugging Face Hub; or show what would be published.

    python examples/push_to_hub.py model hub_cards/merit-ecg you/merit-ecg --dry_run
    python examples/push_to_hub.py dataset PTB_XL_FOLDER you/ptb-xl --dry_run
    python examples/push_to_hub.py space hub_cards/space you/merit-ecg-demo --model you/merit-ecg --dry_run

What is published is first made in a folder of its own: a checkpoint is loaded and saved with the code that
`trust_remote_code=True` needs, PTB-XL becomes one Parquet file per split, and the Space gets the package beside it.
`--dry_run` ends there, without a network: it lists the files with their sizes and prints the card. Else the files
become one commit. Log in with `hf auth login` first. Not a medical device.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData, HfApi, ModelCard, RepoCard

import modeling_merit
from modeling_merit import processing
from modeling_merit.processing.data import PtbXl
from modeling_merit.processing.training.publishing import RESULT_FILES

HUB_CARDS = Path(__file__).resolve().parent.parent / "hub_cards"
PLACEHOLDER = "your-name/merit-ecg"
"""What cards and Space say in the place of the id of the model."""
DATASET_PLACEHOLDER = "your-name/ptb-xl"
"""What `.eval_results/` says in the place of the id of the data set."""


def run(script: str, *arguments: str | Path) -> None:
    """Run a script of `hub_cards/`; end with its message if it fails."""
    done = subprocess.run([sys.executable, HUB_CARDS / script, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script} failed: {done.stderr.strip()[-500:]}")


def fill_in(path: Path, repo_id: str, placeholder: str = PLACEHOLDER) -> None:
    """Put an id where a file has the placeholder and nothing longer, as `your-name/merit-ecg-demo`."""
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(re.escape(placeholder) + r"(?![\w-])", repo_id, text), encoding="utf-8")


def stage_model(args: argparse.Namespace, folder: Path) -> None:
    """Make the folder of a checkpoint: weights, processor, code, handler, card."""
    run("make_hub_folder.py", "--model", args.source, "--output", folder)
    if not (folder / "README.md").is_file():
        if not any((folder / name).is_file() for name in RESULT_FILES):
            raise SystemExit(
                f"Expected a card in {args.source}, got no README.md. Write one; quality and limits go in."
            )
        run("make_model_card.py", "--checkpoint", folder, "--repo_id", args.repo_id)
    for placeholder in (PLACEHOLDER, f"your-name/{args.source.resolve().name}"):
        fill_in(folder / "README.md", args.repo_id, placeholder)
    ModelCard.load(folder / "README.md")
    for path in folder.glob(".eval_results/*"):
        if args.dataset_id:
            fill_in(path, args.dataset_id, DATASET_PLACEHOLDER)
        elif DATASET_PLACEHOLDER in path.read_text(encoding="utf-8"):
            print(f"Left out: .eval_results/{path.name}, which needs --dataset_id, the id of PTB-XL on the Hub.")
            path.unlink()


def stage_dataset(args: argparse.Namespace, folder: Path) -> None:
    """Make the Parquet files of PTB-XL and their card. No other data set here may be passed on by everybody."""
    for config in args.configs:
        builder = PtbXl(config_name=config, data_dir=args.source)
        builder.download_and_prepare()
        (folder / config).mkdir(parents=True)
        for split, rows in builder.as_dataset().items():
            rows.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    template = HUB_CARDS / "dataset_card.md"
    card = DatasetCard.from_template(DatasetCardData(), template_path=str(template), repo_id=args.repo_id)
    card.data.configs = [config for config in card.data.configs if config["config_name"] in args.configs]
    card.save(folder / "README.md")


def stage_space(args: argparse.Namespace, folder: Path) -> None:
    """Make the folder of the Space: its page, and the package beside it."""
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(args.source, folder, ignore=without)
    package = folder / "modeling_merit"
    shutil.copytree(Path(modeling_merit.__file__).parent, package, ignore=without)
    shutil.copytree(Path(processing.__file__).parent, package / "processing", ignore=without, dirs_exist_ok=True)
    for path in (folder / "README.md", folder / "handlers.py"):
        fill_in(path, args.model)


STAGE = {"model": stage_model, "dataset": stage_dataset, "space": stage_space}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=STAGE, help="What is published.")
    parser.add_argument("source", type=Path, help="Folder of the checkpoint, of PTB-XL, or of the Space.")
    parser.add_argument("repo_id", help="Where to, as you/name.")
    parser.add_argument("--dry_run", action="store_true", help="List the files and print the card; push nothing.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--configs", nargs="+", default=["100hz"], choices=tuple(PtbXl.builder_configs))
    parser.add_argument("--dataset_id", help="Of PTB-XL on the Hub, for the results that go along with a model.")
    parser.add_argument("--model", help="Of a Space: the id of the model that it shows.")
    args = parser.parse_args()
    needed = {"model": "config.json", "dataset": "ptbxl_database.csv", "space": "app.py"}[args.kind]
    if not (args.source / needed).is_file():
        parser.error(f"Expected a folder with {needed}, got {args.source}.")
    if args.repo_id.count("/") != 1:
        parser.error(f"Expected an id as you/name, got {args.repo_id!r}.")
    if args.kind == "space" and not args.model:
        parser.error("Expected --model with a Space, the id of the model that it shows.")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "staged")
        STAGE[args.kind](args, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            print(f"{path.stat().st_size:>12,}  {path.relative_to(folder).as_posix()}")
        print(f"{sum(path.stat().st_size for path in files):>12,}  bytes in {len(files)} files, for {args.repo_id}")
        if args.dry_run:
            print(f"\n{RepoCard.load(folder / 'README.md', repo_type=args.kind).content}")
            return
        api = HfApi()
        sdk = {"space_sdk": "gradio"} if args.kind == "space" else {}
        api.create_repo(args.repo_id, repo_type=args.kind, private=args.private or None, exist_ok=True, **sdk)
        done = api.upload_folder(
            repo_id=args.repo_id,
            repo_type=args.kind,
            folder_path=folder,
            commit_message="Upload with examples/push_to_hub.py",
        )
        print(f"Pushed: {done.commit_url}")


if __name__ == "__main__":
    main()
