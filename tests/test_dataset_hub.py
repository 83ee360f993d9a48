"""PTB-XL as Parquet: pushed to a loopback Hub with its card, loaded back equal, streamed, and read from a folder."""

import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard, DatasetCardData
from loopback_hub import LoopbackHub
from toy_ptb_xl import HIGH_RATE_ECG_IDS

from modeling_merit.processing.data import PtbXl, SignalView

CARD = Path(__file__).resolve().parent.parent / "hub_cards" / "dataset_card.md"

PUSH = """
import sys
from datasets import load_from_disk
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
HfApi().create_repo("me/ptb-xl", repo_type="dataset")
card = DatasetCard.from_template(DatasetCardData(), template_path=sys.argv[2], repo_id="me/ptb-xl")
card.push_to_hub("me/ptb-xl", repo_type="dataset")
for config in ("100hz", "500hz"):
    load_from_disk(f"{sys.argv[1]}/{config}").push_to_hub("me/ptb-xl", config)
"""
LOAD = """
import sys
from datasets import load_dataset
for config in ("100hz", "500hz"):
    load_dataset("me/ptb-xl", config).save_to_disk(f"{sys.argv[1]}/{config}")
"""
STREAM = """
from datasets import load_dataset
print([row["ecg_id"] for row in load_dataset("me/ptb-xl", "100hz", split="test", streaming=True)])
"""


@pytest.fixture(scope="module")
def built(toy_ptb_xl_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, datasets.DatasetDict]:
    """What the builder makes of the toy folder, by configuration."""
    cache, dataset = str(tmp_path_factory.mktemp("cache")), {}
    for config, ecg_ids in (("100hz", None), ("500hz", HIGH_RATE_ECG_IDS)):
        builder = PtbXl(config_name=config, data_dir=toy_ptb_xl_dir, cache_dir=cache, ecg_ids=ecg_ids)
        builder.download_and_prepare()
        dataset[config] = builder.as_dataset()
    return dataset


def run(script: str, hub: LoopbackHub, home: Path, *arguments: Path) -> str:
    """Run a script as a user of the loopback Hub whose caches are in `home`."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=hub.environment(home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + "\n".join(hub.requests)
    return done.stdout


def assert_equal(loaded: datasets.DatasetDict, built: datasets.DatasetDict) -> None:
    assert list(loaded) == list(built)
    for split, rows in built.items():
        assert loaded[split].features == rows.features
        assert loaded[split].data.table.to_pylist() == rows.data.table.to_pylist()


@pytest.mark.slow
def test_pushed_parquet_loads_back_equal(
    built: dict[str, datasets.DatasetDict], loopback_hub: LoopbackHub, tmp_path: Path
) -> None:
    for config, dataset in built.items():
        dataset.save_to_disk(tmp_path / "built" / config)
    run(PUSH, loopback_hub, tmp_path / "pusher", tmp_path / "built", CARD)
    files = loopback_hub.files("me/ptb-xl", "datasets")
    pushed = ["100hz/test", "100hz/train", "100hz/validation", "500hz/train"]
    assert sorted(name for name in files if "/" in name) == [f"{name}-00000-of-00001.parquet" for name in pushed]

    run(LOAD, loopback_hub, tmp_path / "loader", tmp_path / "loaded")
    for config, dataset in built.items():
        assert_equal(datasets.load_from_disk(tmp_path / "loaded" / config), dataset)
    view = SignalView(datasets.load_from_disk(tmp_path / "loaded" / "100hz")["train"])
    assert (view.signals(range(16)) == SignalView(built["100hz"]["train"]).signals(range(16))).all()

    card = DatasetCard(files["README.md"].decode())  # pushing tables must not lose what the card said before
    assert card.data.license == "cc-by-4.0" and "Not a medical device" in card.text and "me/ptb-xl" in card.text
    assert [info["config_name"] for info in card.data.dataset_info] == ["100hz", "500hz"]

    loopback_hub.requests.clear()
    assert run(STREAM, loopback_hub, tmp_path / "streamer").strip() == "[10, 1010]"
    assert not any("train" in request for request in loopback_hub.requests)


def test_the_same_layout_loads_from_a_folder(built: dict[str, datasets.DatasetDict], tmp_path: Path) -> None:
    for split, rows in built["100hz"].items():
        (tmp_path / "hub" / "100hz").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(tmp_path / "hub" / "100hz" / f"{split}-00000-of-00001.parquet")
    card = DatasetCard.from_template(DatasetCardData(), template_path=str(CARD), repo_id="me/ptb-xl")
    card.save(tmp_path / "hub" / "README.md")
    loaded = datasets.load_dataset(str(tmp_path / "hub"), "100hz", cache_dir=str(tmp_path / "cache"))
    assert_equal(loaded, built["100hz"])


def test_card_states_the_columns_and_splits_of_the_builder(built: dict[str, datasets.DatasetDict]) -> None:
    card = DatasetCard.from_template(DatasetCardData(), template_path=str(CARD), repo_id="me/ptb-xl")
    table = card.text.split("## Columns")[1].split("## Limits")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(built["100hz"]["train"].features)
    front_matter = yaml.safe_load(CARD.read_text(encoding="utf-8").split("---")[1])
    assert [config["config_name"] for config in front_matter["configs"]] == list(PtbXl.builder_configs)
    for count in ("17,418", "2,183", "2,198", "21,799"):
        assert count in card.text
    assert "{{" not in card.text.replace("{{PTB-XL}, a large", "") and "More Information Needed" not in card.text


MODEL_ROUND_TRIP = """
import sys
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel
import torch
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
model = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).eval()
model.push_to_hub("tiny")
tokenizer.push_to_hub("tiny")
inputs = AutoTokenizer.from_pretrained("me/tiny")("sinus rhythm", return_tensors="pt")
assert torch.equal(AutoModel.from_pretrained("me/tiny").eval()(**inputs)[0], model(**inputs)[0])
print(inputs["input_ids"].tolist())
"""


@pytest.mark.slow
def test_loopback_hub_serves_models_and_tokenizers(loopback_hub: LoopbackHub, tmp_path: Path, tiny_tokenizer) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    printed = run(MODEL_ROUND_TRIP, loopback_hub, tmp_path / "home", tmp_path / "tokenizer")
    assert printed.strip() == "[[2, 5, 6, 3]]"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(loopback_hub.files("me/tiny"))
