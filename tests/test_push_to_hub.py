"""Publishing: what `push_to_hub.py` and `--push_to_hub` upload loads back from a Hub; a dry run asks nothing of it."""

import argparse
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, RepoCard
from loopback_hub import LoopbackHub
from tiny_models import build, merit_config

from modeling_merit import MeritFeatureExtractor, MeritModel, MeritProcessor
from modeling_merit.processing.training import publishing

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "push_to_hub.py"

LOAD_MODEL = """
import sys
sys.modules["modeling_merit"] = None  # as where it is not installed
import numpy as np
from transformers import AutoModel, AutoProcessor
signal = np.random.default_rng(0).normal(size=(2, 1000))
def embed(source):
    processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
    inputs = processor(ecg=signal, sampling_rate=100, leads=["I", "II"], units="mV", return_tensors="pt")
    return AutoModel.from_pretrained(source, trust_remote_code=True).eval().get_ecg_features(**inputs).pooler_output
assert (embed("me/heart") == embed(sys.argv[1])).all()
"""
LOAD_DATASET = """
from datasets import load_dataset
rows = load_dataset("me/ptb-xl", "100hz")
print({split: list(rows[split]["ecg_id"]) for split in ("validation", "test")}, rows["train"].features["signal"].dtype)
"""


def run(hub: LoopbackHub, home: Path, *arguments: str | Path, fails: bool = False) -> str:
    environment = hub.environment(home) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) is fails, done.stderr[-3000:] + "\n".join(hub.requests[-20:])
    return done.stderr if fails else done.stdout


def listed(printed: str) -> dict[str, int]:
    """Names and sizes of the files that were printed, and their sum."""
    rows = [line.split(maxsplit=1) for line in printed.split("\n\n")[0].splitlines() if line[:12].strip()]
    return {name: int(size.replace(",", "")) for size, name in rows if size.replace(",", "").isdigit()}


@pytest.fixture(scope="module")
def checkpoint(tiny_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    build(MeritModel, merit_config()).save_pretrained(folder)
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder)
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\nA heart.\n\n`your-name/merit-ecg`, not `your-name/merit-ecg-demo`\n"
    )
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)  # starts several processes
def test_a_model_is_listed_then_pushed_and_loads_back(checkpoint, loopback_hub, tmp_path):
    dry = run(loopback_hub, tmp_path, SCRIPT, "model", checkpoint, "me/heart", "--dry_run")
    assert loopback_hub.requests == [] and "license: apache-2.0" in dry and "A heart." in dry
    sizes = listed(dry)
    assert sizes.pop(f"bytes in {len(sizes) - 1} files, for me/heart") == sum(sizes.values())
    assert sizes["model.safetensors"] == (checkpoint / "model.safetensors").stat().st_size

    assert "Pushed: " in run(loopback_hub, tmp_path, SCRIPT, "model", checkpoint, "me/heart")
    files = loopback_hub.files("me/heart")
    assert {name: len(data) for name, data in files.items() if name != ".gitattributes"} == sizes
    assert {"modeling_merit.py", "handler.py", "requirements.txt", "tokenizer.json"} <= set(files)
    assert b"`me/heart`, not `your-name/merit-ecg-demo`" in files["README.md"]
    run(loopback_hub, tmp_path, "-c", LOAD_MODEL, checkpoint)


@pytest.mark.parametrize("name", ["merit-ecg", "merit-ecg-statements", "merit-ecg-report"])
def test_no_placeholder_of_a_shipped_checkpoint_is_published(name, tmp_path, monkeypatch, capsys):
    """The results leave with the id of the data set, or not at all."""
    source, script = ROOT / "hub_cards" / name, runpy.run_path(str(SCRIPT))

    def copy(script, *arguments):
        shutil.copytree(source, arguments[-1])

    monkeypatch.setitem(script["stage_model"].__globals__, "run", copy)
    for dataset_id in (None, "me/ptb-xl"):
        folder = tmp_path / str(bool(dataset_id))
        script["stage_model"](argparse.Namespace(source=source, repo_id="me/heart", dataset_id=dataset_id), folder)
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "your-name" not in card and card.count("me/heart") >= 2
        results = [path.read_text() for path in folder.glob(".eval_results/*")]
        assert len(results) == int(dataset_id is not None and (source / ".eval_results").is_dir())
        assert all("your-name" not in text and f"id: {dataset_id}" in text for text in results)
        assert ("--dataset_id" in capsys.readouterr().out) == (dataset_id is None and name != "merit-ecg-report")


@pytest.mark.parametrize("kind", ["pretraining", "finetuning", "report_training"])
def test_a_checkpoint_without_a_card_gets_one_of_its_name(kind, tmp_path, monkeypatch):
    script, folder = runpy.run_path(str(SCRIPT)), tmp_path / "staged"
    about = {"command": "c", "commit": "0", "data_fingerprint": "f", "seed": 0, "settings": {"dataset": "own"}}
    folder.mkdir()
    (folder / f"{kind}_results.json").write_text(json.dumps(about))
    names = script["stage_model"].__globals__
    made = names["run"]
    monkeypatch.setitem(names, "run", lambda name, *rest: name == "make_hub_folder.py" or made(name, *rest))
    script["stage_model"](argparse.Namespace(source=tmp_path / "own", repo_id="me/heart", dataset_id=None), folder)
    assert "# heart\n" in (folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)  # starts several processes
def test_ptb_xl_is_pushed_as_parquet_and_loads_back(toy_ptb_xl_dir, loopback_hub, tmp_path):
    printed = run(loopback_hub, tmp_path, SCRIPT, "dataset", toy_ptb_xl_dir, "me/ptb-xl")
    files = loopback_hub.files("me/ptb-xl", "datasets")
    names = {f"100hz/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")} | {"README.md"}
    assert set(files) - {".gitattributes"} == names == {name for name in listed(printed) if " " not in name}
    card = RepoCard(files["README.md"].decode())
    assert [config["config_name"] for config in card.data.configs] == ["100hz"] and "me/ptb-xl" in card.text
    assert "'test': [10, 1010]" in run(loopback_hub, tmp_path / "other", "-c", LOAD_DATASET)


@pytest.mark.slow
@pytest.mark.timeout(900)  # starts several processes
def test_the_space_is_pushed_with_the_package_beside_it(loopback_hub, tmp_path):
    space = ROOT / "hub_cards" / "space"
    run(loopback_hub, tmp_path, SCRIPT, "space", space, "me/page", "--model", "me/heart")
    files = loopback_hub.files("me/page", "spaces")
    assert {"app.py", "handlers.py", "requirements.txt", "modeling_merit/processing/readers/edf.py"} <= set(files)
    assert not any("__pycache__" in name for name in files)
    assert RepoCard(files["README.md"].decode(), ignore_metadata_errors=True).data.models == ["me/heart"]
    assert '"me/heart"' in files["handlers.py"].decode()
    for name, data in files.items():
        (tmp_path / "page" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "page" / name).write_bytes(data)
    where = "import modeling_merit.processing.cli as cli; print(cli.__file__)"
    alone = subprocess.run([sys.executable, "-c", where], cwd=tmp_path / "page", capture_output=True, text=True)
    assert Path(alone.stdout.strip()) == tmp_path / "page" / "modeling_merit" / "processing" / "cli.py", alone.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "{nowhere}", "me/heart"], "Expected a folder with config.json"),
        (["space", "{space}", "me/page"], "Expected --model with a Space"),
        (["space", "{space}", "page", "--model", "me/heart"], "Expected an id as you/name, got 'page'"),
    ],
)
def test_what_cannot_be_published_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    places = {"nowhere": tmp_path, "space": ROOT / "hub_cards" / "space"}
    monkeypatch.setattr(sys, "argv", ["push_to_hub.py", *(text.format(**places) for text in arguments)])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)  # starts several processes
def test_pretraining_pushes_its_model_and_not_its_checkpoints(loopback_hub, tmp_path, monkeypatch):
    data = ("--dataset", "synthetic", "--num_records", 60, "--batch_size", 8, "--size", "tiny", "--min_reports", 5)
    push = ("--push_to_hub", "--hub_model_id", "me/trained", "--max_train_steps", 2, "--checkpointing_steps", 1)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    out = tmp_path / "trained"
    printed = run(loopback_hub, tmp_path, ROOT / "examples" / "pretrain.py", *data, *push, "--output_dir", out)
    assert "Pushed " in printed and "me/trained" in printed and (out / "checkpoints").is_dir()
    files = loopback_hub.files("me/trained")
    assert {"config.json", "model.safetensors", "tokenizer.json", "modeling_merit.py"} <= set(files)
    assert not any("checkpoint" in name for name in files)
    card = ModelCard(files["README.md"].decode())
    commit = json.loads(files["pretraining_results.json"])["commit"]
    assert card.data.library_name == "transformers" and f"commit: `{commit}`" in card.text
    assert "not a medical device" in card.text


@pytest.mark.parametrize("script", ["pretrain.py", "finetune.py", "train_report_generation.py"])
def test_training_scripts_refuse_what_they_could_not_push_before_they_train(script, tmp_path, monkeypatch, capsys):
    needed = {"finetune.py": ["--model", tmp_path, "--run", "x", "--data_dir", tmp_path]}
    needed["train_report_generation.py"] = ["--ecg_model", tmp_path]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "ptbxl_database.csv").write_text("")
    given = [*needed.get(script, []), "--output_dir", tmp_path / "out", "--hub_model_id", "me/heart"]
    main = runpy.run_path(str(ROOT / "examples" / script))["main"]
    wrong = [([], "Expected --push_to_hub"), (["--push_to_hub"], "Run `hf auth login`")]
    if script == "train_report_generation.py":
        wrong.append((["--push_to_hub", "--train_language_model", "lora"], "would not load from the Hub"))
    for more, message in wrong:
        monkeypatch.setattr(publishing.HfApi, "whoami", lambda self: (_ for _ in ()).throw(OSError("no login")))
        monkeypatch.setattr(sys, "argv", [script, *map(str, [*given, *more])])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_pushed_stays_and_is_named(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("the Hub is down")

    monkeypatch.setattr(publishing.HfApi, "create_repo", refuse)
    args = argparse.Namespace(push_to_hub=True, hub_model_id="me/x", hub_private_repo=False, output_dir=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(SystemExit, match=r"the Hub is down\). Push it with: hf upload me/x"):
        publishing.push_output(args, {"command": "python x.py"})
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
    publishing.push_output(argparse.Namespace(push_to_hub=False), {})
