"""Make the folder that is published on the Hub: weights, configuration, processor, code, card and endpoint handler.

    python hub_cards/make_hub_folder.py --model hub_cards/merit-ecg --output build/hub/merit-ecg

The code beside the weights is what `save_pretrained` copies, so that `trust_remote_code=True` loads the checkpoint
where merit-ecg is not installed. Inference Endpoints run `handler.py` and install `requirements.txt`. `hf upload NAME
build/hub/merit-ecg` publishes the folder.
"""

import argparse
import re
import shutil
from importlib.metadata import requires
from pathlib import Path

from transformers import AutoConfig, AutoFeatureExtractor, AutoProcessor

import modeling_merit
from modeling_merit.processing.training.publishing import RESULT_FILES

BESIDE_THE_WEIGHTS = ("README.md", *RESULT_FILES, "probe_results.json")
HANDLER = Path(__file__).with_name("handler.py")
NEEDED = ("transformers", "numpy", "scipy", "wfdb")
"""Packages that the code beside the weights imports, but for torch, which the image of an endpoint brings along."""


def requirements() -> str:
    """Return the lines for `NEEDED`, with the versions that this package asks for."""
    lines = [line for line in requires("merit-ecg") or () if "extra ==" not in line]
    names = {re.match(r"[\w-]+", line)[0]: line for line in lines}
    return "".join(f"{names[name]}\n" for name in NEEDED)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("hub_cards/merit-ecg"), help="Folder of a checkpoint.")
    parser.add_argument("--output", type=Path, default=Path("build/hub/merit-ecg"), help="Folder to make anew.")
    args = parser.parse_args()

    if args.output.exists() and not (args.output / "config.json").is_file():
        parser.error(f"Expected --output to be absent or a folder made before, got {args.output}.")
    if args.output.resolve() == args.model.resolve():
        parser.error("Expected --output to differ from --model, got the same folder.")
    architecture = AutoConfig.from_pretrained(args.model).architectures[0]
    model = getattr(modeling_merit, architecture).from_pretrained(args.model)
    with_texts = (args.model / "processor_config.json").is_file()  # else an ECG classifier
    processor = (AutoProcessor if with_texts else AutoFeatureExtractor).from_pretrained(args.model)
    shutil.rmtree(args.output, ignore_errors=True)
    model.save_pretrained(args.output)
    processor.save_pretrained(args.output)
    for name in BESIDE_THE_WEIGHTS:
        if (args.model / name).is_file():
            shutil.copy(args.model / name, args.output)
    if (args.model / ".eval_results").is_dir():
        shutil.copytree(args.model / ".eval_results", args.output / ".eval_results")
    shutil.copy(HANDLER, args.output)
    (args.output / "requirements.txt").write_text(requirements(), encoding="utf-8")
    print("\n".join(str(path) for path in sorted(args.output.iterdir())))


if __name__ == "__main__":
    main()
