"""Take what a training left into hub_cards/, small enough for the repository: without code, weights in 16 bits.

    python hub_cards/store_checkpoint.py --model runs/statements --output hub_cards/merit-ecg-statements

Matrices but those of a classifier's head, whose weights can be large, are rounded to float16, which halves the file;
`from_pretrained` reads them as float32, as the configuration says. What is published is this folder, so its results
are those to state: score it, not what was trained (score_classifier.py, evaluate_reports.py).
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from modeling_merit.processing.training.publishing import RESULT_FILES


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Output folder of a training script.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the checkpoint.")
    args = parser.parse_args()
    if not (args.model / "model.safetensors").is_file():
        parser.error(f"Expected the output folder of a finished training, got {args.model}.")

    weights = load_file(args.model / "model.safetensors")
    stored = {
        name: value.half() if value.dim() > 1 and not name.startswith("classifier.") else value
        for name, value in weights.items()
    }
    if damaged := [name for name, value in stored.items() if not torch.isfinite(value.float()).all()]:
        parser.error(f"Expected weights within the range of float16, got larger ones in {', '.join(damaged[:3])}.")
    args.output.mkdir(parents=True, exist_ok=True)
    for path in args.model.glob("*.json"):
        if path.name in RESULT_FILES or "results" not in path.name:
            shutil.copy(path, args.output)
    config = json.loads((args.output / "config.json").read_text(encoding="utf-8")) | {"dtype": "float32"}
    (args.output / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(stored, args.output / "model.safetensors", metadata={"format": "pt"})
    size = (args.output / "model.safetensors").stat().st_size / 1e6
    largest = max((weights[name] - value).abs().max().item() for name, value in stored.items())
    print(f"{args.output}: {size:.1f} MB of weights, changed by at most {largest:.1g}")


if __name__ == "__main__":
    main()
