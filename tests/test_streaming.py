"""Pre-training from Parquet files that are read as a stream."""

import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Array2D, Dataset, Features, Value, concatenate_datasets, load_dataset
from script_server import run_script

from modeling_merit.processing import MeritFeatureExtractor, MeritProcessor
from modeling_merit.processing.data import SyntheticEcg
from modeling_merit.processing.training.streaming import EcgReportStream, ParquetFiles

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "pretrain.py"
ROWS = (10, 7, 12, 11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four files of training, one of validation. The maximum of V6 tells a row's number."""
    builder = SyntheticEcg(n_records=60, seed=0, cache_dir=str(tmp_path_factory.mktemp("cache")))
    builder.download_and_prepare()
    table = builder.as_dataset("train").select(range(sum(ROWS))).select_columns(["signal", "report"])
    folder, start = tmp_path_factory.mktemp("parquet"), 0
    for number, rows in enumerate(ROWS):
        table.select(range(start, start + rows)).to_parquet(folder / f"train-{number:05d}.parquet")
        start += rows
    table.select(range(9)).to_parquet(folder / "validation-00000.parquet")
    return folder


def options(**changed) -> Namespace:
    return Namespace(
        **{
            "seed": 0,
            "batch_size": 8,
            "shuffle_buffer": 16,
            "gradient_accumulation_steps": 1,
            "sampling_rate": 100,
            "max_report_tokens": 16,
            "crop_seconds": 2.56,
            "no_augmentation": False,
            "lead_dropout": 0.5,
            "noise_mv": 0.05,
            "wander_mv": 0.05,
            "gap_probability": 0.1,
        }
        | changed
    )


@pytest.fixture
def stream(folder, tiny_tokenizer):
    def make(train=True, process=0, processes=1, **changed):
        accelerator = Namespace(device=torch.device("cpu"), process_index=process, num_processes=processes)
        processor = MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer)
        files = ParquetFiles(str(folder), "train" if train else "validation")
        return EcgReportStream(files, processor, options(**changed), train, accelerator)

    return make


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys() and all(torch.equal(batch[name], other[name]) for name in batch)


def rows_of(batches, folder) -> list[int]:
    """The numbers of the rows, by their signals."""
    table = Dataset.from_parquet([str(folder / f"train-{number:05d}.parquet") for number in range(len(ROWS))])
    extractor = MeritFeatureExtractor()
    known = extractor.prepare(np.asarray(table["signal"][:], dtype=np.float32) / 1000)[:, :, :256]
    values = np.concatenate([batch["input_values"].numpy() for batch in batches])
    distance = np.abs(known[None] - values[:, None]).max(axis=(2, 3))
    assert (distance.min(1) < 1e-4).all()
    return distance.argmin(1).tolist()


def test_every_row_comes_once_in_an_order_of_its_epoch(stream, folder):
    pairs = stream(no_augmentation=True, batch_size=4)
    assert len(pairs) == sum(ROWS) // 4 and pairs.total_batch_size == 4
    first = rows_of(pairs, folder)
    assert len(set(first)) == len(first) == 4 * len(pairs) and first != sorted(first)
    assert rows_of(pairs, folder) == first
    pairs.set_epoch(1)
    assert rows_of(pairs, folder) != first


def test_the_rest_of_an_epoch_is_what_would_have_come(stream):
    pairs = stream()
    pairs.set_epoch(3)
    whole = list(pairs)
    for first in range(len(pairs)):
        again = stream()
        again.load_state_dict({"epoch": 3, "batch": first})
        rest = iter(again)
        assert_equal([next(rest)], whole[first : first + 1])
        assert again.state_dict() == {"epoch": 3, "batch": first + 1}
        assert_equal(list(rest), whole[first + 1 :])
        assert again.state_dict()["batch"] == len(pairs)
    again.load_state_dict({"epoch": 3, "batch": len(pairs)})
    assert list(again) == []
    assert_equal([next(iter(again)), next(iter(again))], whole[:1] * 2)  # only the iteration after a load goes on


@pytest.mark.parametrize("shuffle_buffer", [5, 8, 16, 64])
def test_files_before_the_rest_are_not_read(stream, folder, shuffle_buffer, monkeypatch):
    pairs = stream(shuffle_buffer=shuffle_buffer, batch_size=4)
    whole, opened = list(pairs), []

    def count(*args, data_files, **kwargs):
        opened.append(len(data_files))
        return load_dataset(*args, data_files=data_files, **kwargs)

    monkeypatch.setattr("modeling_merit.processing.training.streaming.load_dataset", count)
    for first in range(len(pairs)):
        pairs.load_state_dict({"epoch": 0, "batch": first})
        assert_equal(list(pairs), whole[first:])
    assert opened[0] == len(ROWS) and opened == sorted(opened, reverse=True)
    assert opened[-1] == 1 or shuffle_buffer > 16  # one block is as long as the epoch


def test_validation_is_neither_shuffled_nor_augmented(stream):
    pairs = stream(train=False, batch_size=4)
    assert len(pairs) == 2 and all("ecg_mask" not in batch for batch in pairs)
    before = list(pairs)
    pairs.set_epoch(5)
    assert_equal(before, list(pairs))


def test_processes_read_different_rows_and_as_many_batches(stream, folder):
    parts = [stream(process=process, processes=2, batch_size=4, no_augmentation=True) for process in range(2)]
    for epoch in range(3):
        seen = []
        for pairs in parts:
            pairs.set_epoch(epoch)
            batches = list(pairs)
            assert len(batches) == len(pairs) == 2 * min(ROWS) // 4
            seen += rows_of(batches, folder)
        assert len(set(seen)) == len(seen)


def test_batches_fill_whole_steps(stream):
    assert len(stream(batch_size=4)) == 10 and len(stream(batch_size=4, gradient_accumulation_steps=4)) == 8


def test_what_cannot_be_streamed_is_refused(stream, folder, tmp_path):
    with pytest.raises(ValueError, match="that 3 processes share out evenly, got 4"):
        stream(processes=3)
    with pytest.raises(FileNotFoundError, match="train-00000.parquet, got none"):
        ParquetFiles(str(tmp_path), "train")
    Dataset.from_dict({"signal": [[1]]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="missing report"):
        ParquetFiles(str(tmp_path), "train")


def run(output, *arguments, processes=1, fails=False):
    command = [SCRIPT, "--size", "tiny", "--min_reports", "3", "--batch_size", "4", "--output_dir", output, *arguments]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = run_script(*command, env=environment, processes=processes)
    assert (done.returncode != 0) is fails, done.stderr[-3000:]
    return done


def log(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_stream_is_the_same_run(folder, tmp_path, processes):
    options = ["--streaming", "--dataset", folder, "--gradient_accumulation_steps", 2, "--max_train_steps", 7]
    run(tmp_path / "whole", *options, "--checkpointing_steps", 4, processes=processes)
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint_0"
    run(tmp_path / "rest", *options, "--resume_from_checkpoint", checkpoint, processes=processes)
    whole = [line for line in log(tmp_path / "whole") if line["step"] > 4]
    assert whole and log(tmp_path / "rest") == whole
    results = json.loads((tmp_path / "whole" / "pretraining_results.json").read_text())
    assert (results["train_records"], results["validation_records"]) == (sum(ROWS), 9)


@pytest.mark.slow
def test_too_few_reports_to_align_are_refused(tmp_path):
    features = Features({"signal": Array2D((12, 1000), "int16"), "report": Value("string")})
    rows = {"signal": np.zeros((8, 12, 1000), np.int16), "report": ["sinusrhythmus", *[""] * 7]}
    for split in ("train", "validation"):
        Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}.parquet")
    done = run(tmp_path / "out", "--streaming", "--dataset", tmp_path, fails=True)
    assert (
        "Expected ECGs with reports in the train split, got 1 of 8" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.mark.slow
def test_rows_without_a_report_can_be_streamed_where_none_is_needed(folder, tmp_path):
    features = Features({"signal": Array2D((12, 1000), "int16"), "report": Value("string")})
    for split in ("train", "validation"):
        signals = [
            np.asarray(row["signal"], dtype=np.int16)
            for row in load_dataset("parquet", data_files=str(folder / f"{split}-*"), split="train")
        ][:9]
        rows = {"signal": signals, "report": [None, *["sinus rhythm"] * 8]}
        Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}-00000.parquet")
    alone = ["--contrastive_weight", 0, "--word_weight", 0, "--max_train_steps", 2]
    run(tmp_path / "out", "--streaming", "--dataset", tmp_path, *alone)
    assert (tmp_path / "out" / "pretraining_results.json").is_file()


@pytest.fixture(scope="module")
def gaps(folder, tmp_path_factory) -> tuple[Path, Path]:
    """The same files with some rows without a report, all those of the third file among them; and without the rows."""
    gaps, kept = tmp_path_factory.mktemp("gaps"), tmp_path_factory.mktemp("kept")
    for path in folder.glob("*.parquet"):
        table = Dataset.from_parquet(str(path))
        empty = [path.stem == "train-00002" or row % 4 == 1 for row in range(len(table))]
        reports = [(None, "", " ")[row % 3] if empty[row] else text for row, text in enumerate(table["report"])]
        given = Dataset.from_dict({"report": reports}, Features({"report": Value("string")}))
        concatenate_datasets([table.select_columns("signal"), given], axis=1).to_parquet(gaps / path.name)
        if not all(empty):
            table.select(np.flatnonzero(~np.array(empty))).to_parquet(kept / path.name)
    return gaps, kept


@pytest.mark.parametrize("train", [True, False])
def test_rows_without_a_report_are_left_out(gaps, tmp_path, tiny_tokenizer, train):
    """Also where a stream goes on in the middle of a file: the batches are those of files without these rows."""
    processor = MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer)
    accelerator = Namespace(device=torch.device("cpu"), process_index=0, num_processes=1)
    split = "train" if train else "validation"
    expected = ParquetFiles(str(gaps[1]), split)
    for url in expected.urls:  # as many files, for their order follows from their number
        shutil.copy(gaps[0] / Path(url).name, tmp_path)
    found = ParquetFiles(str(tmp_path), split, reported=True)
    assert found.num_rows == expected.num_rows and found["report"] == expected["report"]
    changed = options(batch_size=4 if train else 2, shuffle_buffer=5)
    whole = list(EcgReportStream(expected, processor, changed, train, accelerator))
    assert len(whole) > 2
    for first in range(len(whole)):
        pairs = EcgReportStream(found, processor, changed, train, accelerator)
        pairs.load_state_dict({"epoch": 0, "batch": first})
        assert_equal(list(pairs), whole[first:])


def test_a_file_without_any_report_holds_no_rows(gaps, tiny_tokenizer):
    files = ParquetFiles(str(gaps[0]), "train", reported=True)
    processor = MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer)
    pairs = EcgReportStream(files, processor, options(batch_size=4), True, Accelerator(cpu=True))
    assert files.num_rows[2] == 0 and len(files) == sum(files.num_rows) < sum(ROWS) == files.total
    assert len(list(pairs)) == len(pairs) == len(files) // 4


def test_accelerator_is_what_it_needs(folder, tiny_tokenizer):
    processor = MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer)
    pairs = EcgReportStream(ParquetFiles(str(folder), "train"), processor, options(), True, Accelerator(cpu=True))
    assert next(iter(pairs))["input_values"].shape == (8, 12, 256)
