"""Checkpoints: only whole ones are loaded, an old one goes after the new one stands, another run is refused."""

import argparse
import errno
import json
import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny_models import ENCODER, build

from modeling_merit import MeritEcgConfig, MeritEcgModel
from modeling_merit.processing.training import checkpoints
from modeling_merit.processing.training.checkpoints import (
    check_output_dir,
    check_same_run,
    cut_log,
    find_damage,
    load_checkpoint,
    read_state,
    save_checkpoint,
    saved_checkpoints,
)
from modeling_merit.processing.training.run import save_model


def write_checkpoint(folder: Path, step: int = 1) -> None:
    """Write a whole checkpoint without any weights."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "random_states_0.pkl").write_bytes(b"states")
    (folder / "state.json").write_text(json.dumps({"step": step, "processes": 1}))
    checkpoints._write_list(folder)


@pytest.fixture
def training():
    """An accelerator that holds a model and its optimiser after one step."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    yield accelerator, model
    accelerator.free_memory()


def save(training, folder: Path, step: int, limit: int | None = 2) -> Path:
    return save_checkpoint(training[0], folder, {"step": step}, limit)


def resolve(folder: Path, wanted: str | None = "latest") -> str:
    args = argparse.Namespace(output_dir=folder, resume_from_checkpoint=wanted, overwrite_output_dir=False)
    check_output_dir(argparse.ArgumentParser(), args)
    return args.resume_from_checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_saved_checkpoint_is_whole_and_loads(training, tmp_path):
    accelerator, model = training
    folder = save(training, tmp_path, 7)
    assert folder == tmp_path / "checkpoints" / "checkpoint_0" and find_damage(folder) is None
    assert read_state(folder) == {"step": 7, "processes": 1}
    listed = json.loads((folder / "files.json").read_text())
    assert listed.keys() == {path.name for path in folder.iterdir()} - {"files.json"}
    weights, drawn = model.weight.detach().clone(), torch.rand(3)
    with torch.no_grad():
        model.weight.zero_()
    load_checkpoint(accelerator, folder, seed=0)
    assert torch.equal(model.weight, weights) and torch.equal(torch.rand(3), drawn)


def test_no_file_of_a_checkpoint_needs_pickled_code(training, tmp_path):
    for path in save(training, tmp_path, 1).iterdir():
        assert path.suffix in (".json", ".safetensors", ".bin", ".pkl")
        if path.suffix == ".bin":
            torch.load(path, weights_only=True)
        if path.suffix == ".pkl":
            checkpoints.load(path)  # weights_only=True, and NumPy's arrays


def flip_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def cut_list(folder: Path) -> None:
    content = (folder / "files.json").read_bytes()
    (folder / "files.json").write_bytes(content[:-40])


DAMAGES = {
    "flipped bit": (flip_bit, "model.safetensors has changed since it was saved"),
    "no random state": (lambda folder: (folder / "random_states_0.pkl").unlink(), "random_states_0.pkl is missing"),
    "cut file": (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors has 1 bytes"),
    "no list": (lambda folder: (folder / "files.json").unlink(), "files.json, which is written last, is missing"),
    "cut list": (cut_list, "its files cannot be checked"),
    "empty list": (lambda folder: (folder / "files.json").write_text("{}"), "files.json does not list state.json"),
    "another list": (lambda folder: (folder / "files.json").write_text("[1]"), "its files cannot be checked"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_latest_passes_over_what_is_damaged_and_says_so(tmp_path, capsys, name):
    damage, reason = DAMAGES[name]
    first, last = (tmp_path / "checkpoints" / f"checkpoint_{number}" for number in (9, 10))
    write_checkpoint(first)
    write_checkpoint(last)
    (tmp_path / "checkpoints" / "checkpoint_11.partial").mkdir()
    assert resolve(tmp_path) == str(last)
    assert "checkpoint_11.partial: its saving or its deletion was interrupted" in capsys.readouterr().err
    damage(last)
    assert resolve(tmp_path) == str(first)
    assert f"{last}: {reason}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        resolve(tmp_path, str(last))
    assert reason in capsys.readouterr().err
    damage(first)
    with pytest.raises(SystemExit):
        resolve(tmp_path)
    assert "got none that is whole" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [1, 2])
def test_an_old_one_is_deleted_after_the_new_one_stands(training, tmp_path, monkeypatch, limit):
    for step in range(limit):
        save(training, tmp_path, step, limit)
    before = names(tmp_path)
    assert len(before) == limit
    seen = []

    def delete(folder: Path) -> None:
        seen.append([path.name for path in saved_checkpoints(tmp_path) if find_damage(path) is None])

    monkeypatch.setattr(checkpoints, "_delete", delete)
    save(training, tmp_path, 5, limit)
    assert seen == [[*before[1:], f"checkpoint_{limit}"]]
    monkeypatch.undo()
    save(training, tmp_path, 6, limit)  # the one that was not deleted to the end goes, too
    assert names(tmp_path) == [f"checkpoint_{number}" for number in range(2, limit + 2)]


@pytest.mark.parametrize("part", ["save_state", "_write_list"])
def test_a_full_disk_ends_the_run_and_leaves_the_former_checkpoint(training, tmp_path, monkeypatch, part):
    kept = save(training, tmp_path, 3, limit=1)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training[0] if part == "save_state" else checkpoints, part, fail)
    with pytest.raises(SystemExit, match=f"step 4 could not be saved: OSError: .*No space left.*{kept} still stands"):
        save(training, tmp_path, 4, limit=1)
    assert names(tmp_path) == [kept.name] and resolve(tmp_path) == str(kept)


def test_a_random_state_that_cannot_be_read_is_not_passed_over(training, tmp_path):
    folder = save(training, tmp_path, 1)
    (folder / "random_states_0.pkl").write_bytes(b"not a pickle")
    checkpoints._write_list(folder)
    with pytest.raises(SystemExit, match="Expected random states in .*random_states_0.pkl"):
        load_checkpoint(training[0], folder, seed=0)


def test_a_checkpoint_of_another_model_is_refused_in_one_line(training, tmp_path):
    folder = save(training, tmp_path, 1)
    training[0].free_memory()
    training[0].prepare(torch.nn.Linear(5, 3))
    with pytest.raises(SystemExit, match="^Expected a checkpoint of this model in .* does not fit it"):
        load_checkpoint(training[0], folder, seed=0)


def test_another_run_is_refused():
    saved = {"seed": 0, "steps": 100, "tasks": ["report"], "data_fingerprint": "f00"}
    check_same_run("c", saved, saved | {"tasks": ("report",)})
    with pytest.raises(SystemExit) as refused:
        check_same_run("c", saved, {"seed": 1, "steps": 100, "tasks": ["report"], "data_fingerprint": "x" * 1000})
    assert 'data_fingerprint is "xxx' in str(refused.value) and "seed is 1 instead of 0" in str(refused.value)
    assert "steps is" not in str(refused.value) and len(str(refused.value)) < 500


def test_log_is_cut_at_the_step_resumed_from(tmp_path):
    path = tmp_path / "train_log.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 1}\nnot JSON\n{"step": 3, "a": 1}\n{"step": 2, "a"')
    cut_log(path, 2)
    assert path.read_text() == '{"step": 1, "a": 1}\n{"step": 2, "a": 1}\n'
    cut_log(path, -1)
    assert path.read_text() == ""
    cut_log(tmp_path / "none.jsonl", 2)
    assert sorted(tmp_path.iterdir()) == [path]


def test_progress_survives_json():
    progress = checkpoints.Progress()
    progress.sums["loss"] = 0.1 + 0.2
    state = json.loads(json.dumps(progress.state_dict()))
    assert state["best_loss"] == math.inf and state["sums"]["loss"] == 0.1 + 0.2


def test_no_file_of_a_former_model_is_left_to_be_loaded(tmp_path):
    """Adapters beside whole weights would be loaded on top of them."""
    for name in ("adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text("of a former run")
    (tmp_path / "train_log.jsonl").write_text("kept")
    save_model(build(MeritEcgModel, MeritEcgConfig(**ENCODER)), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "train_log.jsonl"} <= names
    assert not [name for name in names if name.startswith(("adapter", "model-"))]
