"""`examples/pretrain.py` as a user runs it: what it leaves behind, and that a resumed run is the same run."""

import importlib.util
import json
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from script_server import run_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_checkpoints import write_checkpoint
from tiny_models import TRANSFORMER
from transformers import AutoModel, BertConfig, BertModel

import modeling_merit
from modeling_merit.processing.training.checkpoints import find_damage, read_state, saved_checkpoints
from modeling_merit.processing.training.optimizer_groups import parameter_groups
from modeling_merit.processing.training.pairs import load_tables
from modeling_merit.processing.training.run import average_weights, check_bfloat16
from modeling_merit.processing.training.tokenizers import frequent_ngrams, train_wordpiece

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "pretrain.py"
pretrain = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
# 49 training records: 6 batches of 8, and 3 steps an epoch.
RUN = ["--dataset", "synthetic", "--num_records", "60", "--batch_size", "8", "--gradient_accumulation_steps", "2"]
RUN += ["--size", "tiny", "--min_reports", "5"]
STEPS = ["--max_train_steps", "7", "--checkpointing_steps", "1", "--checkpoints_total_limit", "3"]
CODE = {
    "conditioning.py",
    "configuration_merit.py",
    "feature_extraction_merit.py",
    "leads.py",
    "modeling_merit.py",
    "objective_merit.py",
    "processing_merit.py",
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Home of the prepared data set, shared by all runs."""
    return tmp_path_factory.mktemp("hf-home")


def run(
    folder: Path,
    cache: Path,
    *arguments: str | Path,
    processes: int = 1,
    before: Sequence[Path] = (),
    fails: bool = False,
):
    """Return the results of a run, or, if it must fail, its process."""
    command = [*before, SCRIPT, "--output_dir", folder, *arguments]
    environment = os.environ | {"HF_HOME": str(cache), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = run_script(*command, env=environment, processes=processes)
    assert (done.returncode != 0) is fails, done.stderr[-3000:]
    return done if fails else json.loads((folder / "pretraining_results.json").read_text())


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def checkpoints(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in (folder / "checkpoints").iterdir()}


def random_state(checkpoint: Path, process: int) -> bytes:
    return (checkpoint / f"random_states_{process}.pkl").read_bytes()


def assert_same_checkpoint(a: Path, b: Path, processes: int) -> None:
    """Weights, both moments of AdamW, learning rate and the state of the random numbers, bit by bit."""
    weights = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
    optimizers = [torch.load(folder / "optimizer.bin", weights_only=True) for folder in (a, b)]
    assert optimizers[0]["param_groups"] == optimizers[1]["param_groups"]
    for number, state in optimizers[0]["state"].items():
        assert all(torch.equal(state[name], optimizers[1]["state"][number][name]) for name in state)
    for process in range(processes):
        assert random_state(a, process) == random_state(b, process)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, cache) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, cache, *RUN, *STEPS, "--report_to", "tensorboard")


def test_checkpoints_of_an_earlier_run_are_not_met_halfway(monkeypatch, capsys, tmp_path):
    write_checkpoint(tmp_path / "checkpoints" / "checkpoint_5")
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--output_dir", str(tmp_path))
    assert "checkpoints of an earlier run" in capsys.readouterr().err
    for option in (["--overwrite_output_dir"], ["--resume_from_checkpoint", "latest"]):
        assert parse(monkeypatch, "--output_dir", str(tmp_path), *option).output_dir == tmp_path
    for option in ("--checkpoints_total_limit", "--checkpointing_steps"):
        with pytest.raises(SystemExit):
            parse(monkeypatch, "--output_dir", str(tmp_path / "new"), option, "0")
        assert f"{option} of at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_over_an_earlier_one(tmp_path, cache):
    options = [*RUN, "--max_train_steps", "2", "--checkpointing_steps", "1"]
    first = run(tmp_path, cache, *options)
    again = run(tmp_path, cache, *options, "--overwrite_output_dir")
    assert again["curves"] == first["curves"] and set(checkpoints(tmp_path)) == {"checkpoint_0"}


@pytest.mark.slow
def test_tensorboard_shows_the_curves(whole_run):
    folder, results = whole_run
    events = EventAccumulator(str(folder / "merit")).Reload()
    for term in (
        "loss",
        "reconstruction_loss",
        "contrastive_loss",
        "text_information",
        "word_loss",
        "word_information",
    ):
        assert len(events.Scalars(f"train/{term}")) == 7
        shown = [(point.step, point.value) for point in events.Scalars(f"validation/{term}")]
        found = [(point["step"], pytest.approx(point["validation"][term])) for point in results["curves"]]
        assert shown == found


@pytest.mark.slow
def test_output_folder_is_complete(whole_run):
    folder, _ = whole_run
    files = {path.name for path in folder.iterdir() if path.is_file()}
    code = {name for name in files if name.endswith(".py")}
    processor = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    reports = {"pretraining_results.json", "train_log.jsonl"}
    assert files - code == {"config.json", "model.safetensors"} | processor | reports
    assert code >= CODE
    model = AutoModel.from_pretrained(folder)
    loaded = modeling_merit.MeritProcessor.from_pretrained(folder)
    assert model.config.ecg_config.leads == loaded.feature_extractor.leads
    assert model.config.ecg_config.sampling_rate == loaded.feature_extractor.sampling_rate
    assert len(loaded.tokenizer) == model.config.text_config.vocab_size
    text = loaded(text=["Sinus rhythm.", "sinus RHYTHM."], return_tensors="pt")["input_ids"]
    assert torch.equal(text[0], text[1]) and loaded.tokenizer.unk_token_id not in text


@pytest.mark.slow
def test_results_say_what_was_done(whole_run):
    folder, results = whole_run
    assert results["command"].startswith("python ") and "--num_records 60" in results["command"]
    assert set(results["versions"]) >= {"python", "torch", "transformers", "accelerate", "datasets"}
    assert {"commit", "seed"} <= set(results) and len(results["data_fingerprint"]) == 16
    assert results["settings"]["max_train_steps"] == 7 and results["settings"]["output_dir"] == str(folder)
    assert (results["train_records"], results["validation_records"], results["processes"]) == (49, 4, 1)
    assert [point["step"] for point in results["curves"]] == [3, 6, 7]
    names = {"loss", "reconstruction_loss", "contrastive_loss", "word_loss"}
    names |= {"reconstruction_information", "text_information", "word_information"}
    for point in results["curves"]:
        for part in (point["train"], point["validation"]):
            assert set(part) == names and all(math.isfinite(value) for value in part.values())
            terms = ("reconstruction", "contrastive", "word")
            weighed = sum(results["settings"][f"{term}_weight"] * part[f"{term}_loss"] for term in terms)
            assert part["loss"] == pytest.approx(weighed, rel=1e-5)
            assert part["text_information"] < math.log(8)
    losses = [point["validation"]["loss"] for point in results["curves"]]
    assert results["best_validation_loss"] == min(losses)


@pytest.mark.slow
def test_log_has_a_line_per_step(whole_run):
    folder, results = whole_run
    training = [line for line in log(folder) if "train/loss" in line]
    assert [line["step"] for line in training] == list(range(1, 8))
    first = sum(line["train/loss"] for line in training[:3]) / 3
    assert results["curves"][0]["train"]["loss"] == pytest.approx(first, rel=1e-6)


@pytest.mark.slow
def test_only_the_last_checkpoints_are_kept(whole_run):
    folder, _ = whole_run
    assert set(checkpoints(folder)) == {"checkpoint_3", "checkpoint_4", "checkpoint_5"}


@pytest.mark.slow
def test_resumed_run_is_the_same_run(whole_run, tmp_path, cache):
    """From step 4, the first of three in its epoch, each of two accumulated batches, into another folder."""
    folder, results = whole_run
    (tmp_path / "train_log.jsonl").write_text('{"step": 4, "train/loss": 1}\n{"step": 5, "train/loss": 2}\n{"st')
    resumed = run(tmp_path, cache, *RUN, *STEPS, "--resume_from_checkpoint", checkpoints(folder)["checkpoint_3"])
    assert log(tmp_path)[0] == {"step": 4, "train/loss": 1}  # the log is cut at the step resumed from
    assert log(tmp_path)[1:] == [line for line in log(folder) if line["step"] > 4]
    assert resumed["curves"] == results["curves"]
    for ours, theirs in (("checkpoint_0", "checkpoint_4"), ("checkpoint_1", "checkpoint_5")):
        assert_same_checkpoint(checkpoints(tmp_path)[ours], checkpoints(folder)[theirs], processes=1)


def test_averaged_weights_are_the_exponential_moving_average():
    model = torch.nn.BatchNorm1d(2).train()
    averaged = average_weights(model, decay=0.3)
    assert not averaged.training and not any(weight.requires_grad for weight in averaged.parameters())
    expected = None
    for step in range(6):
        model(torch.randn(4, 2))
        model.weight.data += 1
        averaged.update_parameters(model)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        kept = min(0.3, (1 + step) / (10 + step))
        expected = state if expected is None else {n: kept * expected[n] + (1 - kept) * v for n, v in state.items()}
    found = averaged.module.state_dict()
    for name in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(found[name], expected[name])
    assert found["num_batches_tracked"] == 6  # whole numbers, such as the keys of the words, are not averaged


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_resumed_run_with_averaged_weights_is_the_same_run(tmp_path, cache, processes):
    options = [*RUN, *STEPS, "--ema_decay", "0.5", "--lead_dropout", "0"]
    results = run(tmp_path / "whole", cache, *options, processes=processes)
    saved = checkpoints(tmp_path / "whole")
    # What is left is the average, of the epoch with the lowest loss; the weights go on beside it.
    number = min(results["curves"], key=lambda curve: curve["validation"]["loss"])["step"] - 1
    last = (
        load_file(saved["checkpoint_5"] / "model.safetensors"),
        load_file(saved["checkpoint_5"] / "model_1.safetensors"),
    )
    assert any(not torch.equal(last[0][name], last[1][f"module.{name}"]) for name in last[0])
    if f"checkpoint_{number}" in saved:
        averaged = load_file(saved[f"checkpoint_{number}"] / "model_1.safetensors")
        left = load_file(tmp_path / "whole" / "model.safetensors")
        assert all(torch.equal(left[name], averaged[f"module.{name}"]) for name in left)
    resume = ["--resume_from_checkpoint", saved["checkpoint_3"]]
    resumed = run(tmp_path / "resumed", cache, *options, *resume, processes=processes)
    assert resumed["curves"] == results["curves"]
    again = checkpoints(tmp_path / "resumed")["checkpoint_1"]
    assert_same_checkpoint(again, saved["checkpoint_5"], processes)
    other = load_file(again / "model_1.safetensors")
    assert all(torch.equal(value, other[name]) for name, value in last[1].items())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_pairs_encoded_in_parts_are_compared_with_all(tmp_path, cache, processes):
    options = [*RUN, "--max_train_steps", "2", "--lead_dropout", "0", "--dropout", "0"]
    run(tmp_path / "one", cache, *options, processes=processes)
    run(tmp_path / "whole", cache, *options, "--forward_batch_size", "8", processes=processes)
    run(tmp_path / "parts", cache, *options, "--forward_batch_size", "3", processes=processes)
    one, whole, parts = (log(tmp_path / name) for name in ("one", "whole", "parts"))
    for line, other in zip(one, whole, strict=True):
        assert line == pytest.approx(other, rel=1e-4)
    # Parts have other masks and statistics of batch normalisation, but the contrast is over all pairs.
    assert parts[0]["train/contrastive_loss"] == pytest.approx(one[0]["train/contrastive_loss"], rel=0.05)
    assert math.log(3 * processes) < parts[0]["train/contrastive_loss"] < math.log(8 * processes) + 0.1


@pytest.mark.slow
def test_resumed_run_of_two_processes_is_the_same_run(tmp_path, cache):
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    options = [*RUN, *STEPS, "--batch_size", "4", "--drop_path", "0.2"]
    results = run(whole, cache, *options, processes=2)
    assert results["processes"] == 2 and [point["step"] for point in results["curves"]] == [3, 6, 7]
    shutil.copytree(whole / "checkpoints" / "checkpoint_3", rest / "checkpoints" / "checkpoint_3")
    resumed = run(rest, cache, *options, "--resume_from_checkpoint", "latest", processes=2)
    assert log(rest) == [line for line in log(whole) if line["step"] > 4]
    assert resumed["curves"] == results["curves"]
    for name in ("checkpoint_4", "checkpoint_5"):
        assert_same_checkpoint(checkpoints(rest)[name], checkpoints(whole)[name], processes=2)
    last = checkpoints(rest)["checkpoint_5"]
    assert random_state(last, 0) != random_state(last, 1)  # each process its own masks


# An operation that nobody waits for: its thread needs the interpreter's lock while the group of processes goes.
UNFINISHED = """
import torch
from accelerate import Accelerator
from modeling_merit.processing.training.run import end_at_exit
def main():
    accelerator = Accelerator(cpu=True)
    end_at_exit(accelerator)
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    accelerator.backward(model(torch.ones(1, 2)).sum())
    accelerator.wait_for_everyone()
    torch.distributed.all_gather([torch.empty(100_000) for _ in range(2)], torch.ones(100_000), async_op=True)
main()
"""


@pytest.mark.slow
def test_several_processes_end(tmp_path, cache):
    script = tmp_path / "unfinished.py"
    script.write_text(UNFINISHED)
    environment = os.environ | {"HF_HOME": str(cache), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = run_script(script, env=environment, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]


RECORDER = """
import json, os, pathlib, runpy, sys
pathlib.Path(os.environ["SEEN"] + "pid" + os.environ.get("RANK", "0")).write_text(str(os.getpid()))
from modeling_merit.processing.training.pairs import EcgReportPairs
read = EcgReportPairs.__getitems__
def record(self, indices):
    if self.collator.train:
        with open(os.environ["SEEN"] + os.environ.get("RANK", "0"), "a") as file:
            file.write(json.dumps(indices) + chr(10))
    return read(self, indices)
EcgReportPairs.__getitems__ = record
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_number_of_processes_sees_the_same_records_in_the_same_order(tmp_path, cache, monkeypatch):
    """One process for the whole run; then two from step 2, and one again from step 4, with the same global batch."""
    recorder = tmp_path / "record.py"
    recorder.write_text(RECORDER)
    seen = {}
    options = {1: [*RUN, "--batch_size", "8"], 2: [*RUN, "--batch_size", "4"]}
    parts = {
        "whole": (1, None),
        "two": (2, "whole/checkpoints/checkpoint_1"),
        "one": (1, "two/checkpoints/checkpoint_1"),
    }
    for name, (processes, checkpoint) in parts.items():
        monkeypatch.setenv("SEEN", str(tmp_path / f"{name}-"))
        resume = ["--resume_from_checkpoint", tmp_path / checkpoint] if checkpoint else []
        limit = ["--max_train_steps", "7", "--checkpointing_steps", "1", "--checkpoints_total_limit", "9"]
        run(tmp_path / name, cache, *options[processes], *limit, *resume, processes=processes, before=[recorder])
        files = [tmp_path / f"{name}-{process}" for process in range(processes)]
        batches = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        seen[name] = [sum(parts, []) for parts in zip(*batches)]
    whole = seen["whole"]
    assert len(whole) >= 14 and all(len(batch) == 8 for batch in whole)  # 7 steps of two batches
    assert len({*whole[0], *whole[1], *whole[2], *whole[3], *whole[4], *whole[5]}) == 48  # an epoch
    assert seen["two"][:10] == whole[4:14]
    assert seen["one"][:6] == whole[8:14]
    assert [line["step"] for line in log(tmp_path / "one") if "train/loss" in line] == [5, 6, 7]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_to_one_of_two_processes_saves_and_stops_both(tmp_path, cache):
    recorder, folder = tmp_path / "record.py", tmp_path / "run"
    recorder.write_text(RECORDER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, recorder, SCRIPT, "--output_dir", folder, *RUN, "--batch_size", "4", "--epochs", "200"]
    environment = os.environ | {"HF_HOME": str(cache), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["SEEN"] = f"{tmp_path}/"
    with subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not ((folder / "train_log.jsonl").exists() and log(folder)):
            time.sleep(0.1)
        os.kill(int((tmp_path / "pid1").read_text()), signal.SIGTERM)
        printed = process.communicate()[1]
    last = saved_checkpoints(folder)[-1]
    assert find_damage(last) is None and read_state(last)["step"] == log(folder)[-1]["step"], printed[-3000:]
    assert f"Stopped by SIGTERM; saved {last}" in printed
    # The launcher ends the other process when one has ended: that one exits with 143 too, or the signal ends it.
    assert printed.count("exitcode  : 143") >= 1 and printed.count("exitcode  : ") <= 2


@pytest.mark.slow
def test_another_run_is_not_resumed(whole_run, cache, tmp_path):
    folder, _ = whole_run
    shutil.copytree(folder, tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = ["--max_train_steps", "9", "--batch_size", "16", "--seed", "1", "--learning_rate", "1e-4"]
    done = run(tmp_path / "run", cache, *RUN, *options, "--resume_from_checkpoint", "latest", fails=True)
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("Expected the run of") and "Traceback" not in done.stderr
    for change in (
        "batch_size times processes is 16 instead of 8",
        "learning_rate is 0.0001 instead of 0.005",
        "seed is 1 instead of 0",
        "steps is 9 instead of 7",
        "data_fingerprint is",
        "reports_fingerprint is",
    ):
        assert change in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_runs_end_as_the_unbroken_one(tmp_path):
    """The experiment of `results/kill_experiment.json`, with fewer kills."""
    command = [sys.executable, SCRIPT.parent / "kill_and_resume.py", "--kills", "4", "--output", tmp_path / "out.json"]
    environment = os.environ | {"HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["kills"] == results["ended_equal_to_the_unbroken_run"] == 4
    faults = results["faults"]
    assert (faults["SIGTERM"]["exit"], faults["Ctrl-C"]["exit"], faults["full disk"]["exit"]) == (143, 130, 1)
    assert "could not be saved" in faults["full disk"]["printed"][0] and not faults["full disk"]["partial_left"]
    for name in ("flipped bit", "missing random state"):
        assert faults[name]["resume"]["passed_over"] == 1 and faults[name]["resume"]["equal"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "on, extra",
    [
        ("reconstruction", ["--mixed_precision", "bf16", "--num_workers", "1"]),
        ("contrastive", ["--normalization", "record_zscore", "--gradient_checkpointing", "--high_pass", "0"]),
        ("word", ["--no_augmentation", "--max_ngram", "2", "--dropout", "0"]),
    ],
)
def test_one_branch_alone(tmp_path, cache, on, extra):
    off = {"reconstruction", "contrastive", "word"} - {on}
    weights = [part for name in sorted(off) for part in (f"--{name}_weight", "0")]
    if "bf16" in extra:
        try:
            check_bfloat16()
        except SystemExit:  # refused on such a processor: the options beside it count
            extra = ["--mixed_precision", "no", *extra[2:]]
    results = run(tmp_path, cache, *RUN, "--max_train_steps", "2", *weights, *extra)
    means = results["curves"][-1]["validation"]
    information = {"contrastive": "text_information"}.get(on, f"{on}_information")
    assert set(means) == {"loss", f"{on}_loss", information}
    weight = results["settings"][f"{on}_weight"]
    assert means["loss"] == pytest.approx(weight * means[f"{on}_loss"]) and math.isfinite(means["loss"])
    extractor = modeling_merit.MeritProcessor.from_pretrained(tmp_path).feature_extractor
    assert extractor.normalization == results["settings"]["normalization"]
    assert extractor.high_pass == (None if on == "contrastive" else 0.5)
    config = AutoModel.from_pretrained(tmp_path).config
    assert all(getattr(config, f"{name}_weight") == 0 for name in off) and (config.num_words > 0) == (on == "word")


def parse(monkeypatch, *arguments: str):
    monkeypatch.setattr("sys.argv", ["pretrain.py", *arguments])
    return pretrain.parse_args()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--size", "giant"], "invalid choice: 'giant'"),
        (["--batch_size", "many"], "invalid int value: 'many'"),
        (["--batch_size", "0"], "--batch_size of at least 1, got 0"),
        (["--epochs", "0"], "--epochs of at least 1, got 0"),
        (["--max_train_steps", "-3"], "--max_train_steps of at least 1, got -3"),
        (["--ema_decay", "1"], "--ema_decay of at least 0 and below 1, got 1"),
        (["--sampling_rate", "250"], "invalid choice: 250"),
        (["--resume_from_checkpoint", "latest", "--output_dir", "nowhere"], "nowhere/checkpoints to resume from, got"),
        (["--resume_from_checkpoint", "nowhere/checkpoint_1"], "folder or 'latest', got 'nowhere/checkpoint_1'"),
        (["--report_to", "wandb"], "missing ['wandb']: pip install wandb"),
        (["--reconstruction_weigth", "0"], "unrecognized arguments"),
        (["--streaming", "--num_workers", "1"], "without --num_workers, which"),
        (
            ["--streaming", "--dataset_weights", "1", "3", "--seconds", "5"],
            "without --dataset_weights --seconds, which",
        ),
        (["--streaming", "--report_column", "said"], "without --report_column, which"),
        (["--seconds", "5"], "records of PTB-XL are 10 s long, got --seconds 5"),
        (["--crop_seconds", "12"], "--crop_seconds of at most 10, the length of the signals, got 12"),
        (["--dataset", "synthetic", "--seconds", "5", "--crop_seconds", "6"], "of at most 5, the length"),
    ],
)
def test_bad_arguments_are_named(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        parse(monkeypatch, *arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_signals_of_parquet_files_may_be_longer_than_seconds(monkeypatch, tmp_path):
    args = parse(monkeypatch, "--dataset", str(tmp_path), "--crop_seconds", "12", "--output_dir", str(tmp_path / "o"))
    assert args.crop_seconds == 12


def test_data_without_reports_is_named(monkeypatch, tmp_path):
    rows = {"signal": [[[0] * 1000] * 12] * 4, "report": ["", " ", None, "sinus rhythm"]}
    features = Features({"signal": Array2D((12, 1000), "int16"), "report": Value("string")})
    for split in ("train", "validation"):
        Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    args = parse(monkeypatch, "--dataset", str(tmp_path), "--output_dir", str(tmp_path / "run"))
    with pytest.raises(SystemExit, match=r"Expected ECGs with reports in the train split of .*, got 1 of 4"):
        load_tables(args)
    args.contrastive_weight = args.word_weight = 0.0
    assert [len(table) for table in load_tables(args)] == [4, 4]


def test_trained_tokenizer_is_repeatable():
    """Else a resumed run, or the second process, would know the reports by other numbers."""
    words = ["sinus", "rhythm", "normal", "ecg", "atrial", "fibrillation", "bundle", "branch", "block", "prolonged"]
    rng = np.random.default_rng(0)
    corpus = [" ".join(rng.choice(words, 6)) for _ in range(200)]
    tokenizers = [train_wordpiece(corpus, vocab_size=200, max_length=16) for _ in range(5)]
    assert len({tokenizer.backend_tokenizer.to_str() for tokenizer in tokenizers}) == 1
    tokenizer = tokenizers[0]
    assert tokenizer.convert_ids_to_tokens(tokenizer("Normal  ÉCG").input_ids) == ["[CLS]", "normal", "ecg", "[SEP]"]
    assert set(tokenizer.all_special_tokens) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}
    assert len(tokenizer.added_tokens_decoder) == 4 and len(tokenizer) <= 200


def test_only_weight_matrices_decay(monkeypatch, tmp_path):
    """A step without gradients shows what decays: nothing else moves."""
    args = parse(monkeypatch, "--output_dir", str(tmp_path), "--vocab_size", "60", "--min_reports", "1")
    model, _ = pretrain.build(args, {"report": ["sinus rhythm", "sinus bradycardia"]})
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(groups).step()
    moved = {name for name, parameter in model.named_parameters() if not (parameter == 1).all()}
    kept = {name for name, _ in model.named_parameters()} - moved
    assert all(model.state_dict()[name].ndim >= 2 and (model.state_dict()[name] == 0.95).all() for name in moved)
    learned = ("position_embeddings.weight", "word_embeddings.weight")
    for ending in ("bias", "logit_scale", "LayerNorm.weight", "layernorm.weight", "normalization.weight", *learned):
        names = {name for name in kept | moved if name.endswith(ending)}
        assert names and names <= kept, ending
    heads = ("ecg_projection.fc2", "word_head", "decoder.embedding", "decoder.prediction")
    for part in ("stem.convolutions.0.convolution", "shortcut.convolution", "query", *heads):
        assert any(f"{part}.weight" in name for name in moved), part


def test_named_text_model_is_loaded(monkeypatch, tmp_path, tiny_tokenizer):
    torch.manual_seed(1)
    text_model = BertModel(BertConfig(vocab_size=len(tiny_tokenizer) + 3, **TRANSFORMER))  # as of many models
    text_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    args = parse(
        monkeypatch, "--output_dir", str(tmp_path / "run"), "--text_model", str(tmp_path), "--mask_ratio", "0.4",
        "--min_reports", "2", "--max_ngram", "2",
    )  # fmt: skip
    model, processor = pretrain.build(args, {"report": ["sinus rhythm", "normal ecg", "Sinus  rhythm, normal ECG"]})
    loaded = model.merit.text_model.state_dict()
    expected = {name: value for name, value in text_model.state_dict().items() if not name.startswith("pooler.")}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert model.config.text_pooling == "cls" and model.config.mask_ratio == 0.4
    # Of the words, "sinus rhythm" and "normal ecg", and twice [CLS] sinus and ecg [SEP]; [CLS] and [SEP] stand in all
    # reports and tell nothing.
    held = model.merit.get_words(**tiny_tokenizer(["sinus rhythm", "ecg"], padding=True, return_tensors="pt"))
    assert model.config.num_words == held.shape[1] == 8
    assert held.sum(dim=1).tolist() == [4, 2]
    assert torch.allclose(model.merit.word_log_odds.sigmoid(), torch.full((8,), 2 / 3))
    assert processor.tokenizer("sinus rhythm").input_ids == tiny_tokenizer("sinus rhythm").input_ids


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 3)
)
def test_frequent_ngrams_are_those_of_enough_reports_but_not_of_all(texts, min_reports, longest):
    held = [
        {tuple(text[i : i + size]) for size in range(1, longest + 1) for i in range(len(text) - size + 1)}
        for text in texts
    ]
    counts = {ngram: sum(ngram in one for one in held) for ngram in set().union(*held)}
    wanted = {
        sum((token + 1) * 7**place for place, token in enumerate(reversed(ngram))): count / len(texts)
        for ngram, count in counts.items()
        if min_reports <= count < len(texts)
    }
    keys, frequencies = frequent_ngrams(texts, 6, longest, min_reports)
    assert keys.tolist() == sorted(wanted) and keys.dtype == np.int64
    np.testing.assert_allclose(frequencies, [wanted[key] for key in keys.tolist()], rtol=1e-6)


def test_words_of_the_training_reports_have_their_frequencies(monkeypatch, tmp_path):
    """What the model is told of its words is what its own bags of the training reports say."""
    args = parse(monkeypatch, "--output_dir", str(tmp_path), "--size", "tiny", "--min_reports", "3")
    words = ["sinus", "rhythm", "normal", "ecg", "atrial", "fibrillation", "block", "left", "right"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, rng.integers(1, 7))) for _ in range(40)]
    model, processor = pretrain.build(args, {"report": texts})
    bags = model.merit.get_words(**processor(text=texts, return_tensors="pt"))
    assert bags.shape[1] == model.config.num_words > 20 and bags.sum(dim=0).min() >= 3
    torch.testing.assert_close(model.merit.word_log_odds.sigmoid(), bags.mean(dim=0))
