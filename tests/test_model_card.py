"""The model card: what it says comes from the results of one checkpoint."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from huggingface_hub import ModelCard

HUB_CARDS = Path(__file__).resolve().parent.parent / "hub_cards"


def make_card(folder, *arguments):
    shutil.copy(HUB_CARDS / "merit-ecg" / "pretraining_results.json", folder)
    command = [sys.executable, HUB_CARDS / "make_model_card.py", "--checkpoint", folder, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    return ModelCard.load(folder / "README.md")


def test_card_holds_the_rows_of_its_checkpoint_alone(tmp_path):
    about = {"run": "joint", "metric": "macro_auroc", "label_fraction": 1.0, "seed": 0, "n": 9, "value": 0.8}
    about |= {"ci_low": 0.7, "ci_high": 0.9, "command": "python probe.py", "commit": "abc"}
    rows = [
        about | {"task": "all"},
        about | {"task": "zero_shot_all", "value": 0.6, "command": "python prompts.py"},
        about | {"task": "all", "seed": 1, "value": 0.11},
        about | {"task": "all", "run": "masked", "value": 0.22},
        about | {"task": "all", "label_fraction": 0.1, "value": 0.33},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    card = make_card(tmp_path, "--results", tmp_path / "rows.json", "--repo_id", "someone/heart")
    scores = {(result.dataset_config, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert scores == {("all", "macro_auroc"): 0.8, ("zero_shot_all", "macro_auroc"): 0.6}
    assert card.data.model_name == "heart" and 'from_pretrained("someone/heart"' in card.text
    assert "| all | macro_auroc | 0.800 | 0.700 to 0.900 | 9 |" in card.text and "0.220" not in card.text
    assert card.text.count("`python probe.py` (commit `abc`)") == 1 and "`python prompts.py`" in card.text
    assert "Not a medical device" in card.text and "| step 1360 |" in card.text


def test_card_without_results_says_so(tmp_path):
    card = make_card(tmp_path)
    assert card.data.eval_results is None and "Not evaluated." in card.text
