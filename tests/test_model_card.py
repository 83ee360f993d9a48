"""The model card: what it says comes from the results of one checkpoint."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

HUB_CARDS = Path(__file__).resolve().parent.parent / "hub_cards"


def make_card(folder, *arguments):
    shutil.copy(HUB_CARDS / "merit-ecg" / "pretraining_results.json", folder)
    command = [sys.executable, HUB_CARDS / "make_model_card.py", "--checkpoint", folder, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    return ModelCard.load(folder / "README.md")


def test_card_holds_the_rows_of_its_checkpoint_alone(tmp_path):
    seed = seed_of_the_checkpoint()
    about = {"run": "joint", "metric": "macro_auroc", "label_fraction": 1.0, "seed": seed, "n": 9, "value": 0.8}
    about |= {"ci_low": 0.7, "ci_high": 0.9, "command": "python probe.py", "commit": "abc"}
    rows = [
        about | {"task": "all"},
        about | {"task": "zero_shot_all", "value": 0.6, "command": "python prompts.py"},
        about | {"task": "all", "seed": seed + 1, "value": 0.11},
        about | {"task": "all", "run": "masked", "value": 0.22},
        about | {"task": "all", "label_fraction": 0.1, "value": 0.33},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    card = make_card(tmp_path, "--results", tmp_path / "rows.json", "--repo_id", "someone/heart")
    scores = {(result.dataset_config, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert scores == {("all", "macro_auroc"): 0.8, ("zero_shot_all", "macro_auroc"): 0.6}
    assert card.data.model_name == "heart" and 'from_pretrained("someone/heart"' in card.text
    assert "| all | macro_auroc | 0.800 | 0.700 to 0.900 | 9 |" in card.text and "0.220" not in card.text
    last_step = json.loads((tmp_path / "pretraining_results.json").read_text())["curves"][-1]["step"]
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "ptb_xl.yaml").read_text()))
    assert [(entry.dataset_id, entry.task_id, entry.value) for entry in entries] == [
        ("your-name/ptb-xl", "all", 0.8),
        ("your-name/ptb-xl", "zero_shot_all", 0.6),
    ]
    assert card.text.count("`python probe.py` (commit `abc`)") == 1 and "`python prompts.py`" in card.text
    assert "Not a medical device" in card.text and f"| step {last_step} |" in card.text


def test_card_without_results_says_so(tmp_path):
    card = make_card(tmp_path)
    assert card.data.eval_results is None and "Not evaluated." in card.text


def row(**fields):
    about = {"run": "joint", "metric": "macro_auroc", "label_fraction": 1.0, "seed": 0, "n": 9, "value": 0.8}
    return about | {"task": "all", "ci_low": 0.7, "ci_high": 0.9, "command": "python x.py", "commit": "abc"} | fields


def write(path, *rows):
    path.write_text(json.dumps(rows))
    return path


def seed_of_the_checkpoint():
    return json.loads((HUB_CARDS / "merit-ecg" / "pretraining_results.json").read_text())["seed"]


def test_header_names_data_and_metrics_and_no_emissions(tmp_path):
    seed = seed_of_the_checkpoint()
    rows = write(tmp_path / "rows.json", row(seed=seed), row(metric="macro_f1_tuned", seed=seed))
    card = make_card(tmp_path, "--results", rows)
    assert card.data.datasets == ["ptb_xl"] and card.data.metrics == ["f1", "roc_auc"]
    assert card.data.to_dict().get("co2_eq_emissions") is None and "Energy was not measured" in card.text
    assert "nothing to calibrate" in card.text and "by subgroup" not in card.text


def test_subgroups_and_calibration_stand_in_the_card_when_there_are_rows(tmp_path):
    seed = seed_of_the_checkpoint()
    subgroup = {"subgroup": "sex", "level": "female", "n": 1066, "value": 0.8123, "seed": seed}
    groups = write(tmp_path / "groups.json", row(**subgroup), row(**subgroup | {"metric": "macro_f1_tuned", "n": 77}))
    ece = write(
        tmp_path / "ece.json", row(metric="ece", value=0.0123, seed=seed), row(metric="macro_auroc", seed=seed)
    )
    card = make_card(tmp_path, "--subgroups", groups, "--calibration", ece)
    assert "| all | sex female | 1066 | 0.812 | 0.700 to 0.900 |" in card.text and "| 77 |" not in card.text
    assert "| all | ece | 0.012 | 0.700 to 0.900 | 9 |" in card.text and "macro_auroc" not in card.text
    assert "nothing to calibrate" not in card.text


def test_a_run_that_is_not_in_the_results_is_refused(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        make_card(tmp_path, "--results", write(tmp_path / "rows.json", row()), "--run", "mistyped")
    assert b"Expected rows of run 'mistyped'" in refused.value.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("merit-ecg-statements", ["--results", "ptb_xl.json", "--subgroups", "subgroups.json", "--run", "statements"]),
        ("merit-ecg-report", ["--results", "report_generation.json"]),
    ],
)
def test_cards_of_classifier_and_report_writer_are_those_of_their_results(tmp_path, name, arguments):
    for path in (HUB_CARDS / name).glob("*.json"):
        shutil.copy(path, tmp_path)
    results = HUB_CARDS.parent / "results"
    arguments = [results / text if text.endswith(".json") else text for text in arguments]
    command = [sys.executable, HUB_CARDS / "make_model_card.py", "--checkpoint", tmp_path, *arguments]
    subprocess.run([*map(str, command), "--repo_id", f"your-name/{name}"], check=True, capture_output=True)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card == (HUB_CARDS / name / "README.md").read_text(encoding="utf-8")
    assert "Not a medical device" in card and "{{" not in card


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("merit-ecg-statements", {"dataset": "mine.csv"}),
        ("merit-ecg-statements", {"tasks": ["superclass"]}),
        ("merit-ecg-statements", {"head": "random"}),
        ("merit-ecg-statements", None),  # not calibrated
        ("merit-ecg-report", {"dataset": "mimic_iv_ecg:FOLDER"}),
        ("merit-ecg", {"dataset": "mimic_iv_ecg"}),
        ("merit-ecg", {"dataset": "ptb_xl,mimic_iv_ecg:FOLDER"}),
    ],
)
def test_other_models_get_a_card_without_claims(tmp_path, name, changes):
    for path in (HUB_CARDS / name).glob("*.json"):
        shutil.copy(path, tmp_path)
    (path,) = tmp_path.glob("*_results.json")
    run = json.loads(path.read_text())
    if changes is None:
        del run["calibration_error"]
    else:
        run["settings"] |= changes
    path.write_text(json.dumps(run))
    command = [sys.executable, HUB_CARDS / "make_model_card.py", "--checkpoint", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert "a short card" in done.stdout
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Nobody has written a card" in card and f"`{run['command']}`" in card and "PTB-XL" not in card


def test_a_folder_without_results_is_refused(tmp_path):
    command = [sys.executable, HUB_CARDS / "make_model_card.py", "--checkpoint", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2 and "Expected one of finetuning_results.json" in done.stderr
