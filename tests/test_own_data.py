"""Fine-tuning and the data of pre-training on a table of files."""

import json
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_tables import write_table
from script_server import run_script
from tiny_models import build, merit_config

from modeling_merit import MeritFeatureExtractor, MeritForEcgClassification, MeritModel, MeritProcessor
from modeling_merit.processing import EcgRecord
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.table_task import load_table_task
from modeling_merit.processing.training.pairs import EcgReportPairs, load_split
from modeling_merit.processing.training.run import RUN_OPTIONS
from modeling_merit.processing.writers import write_ecg

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A table of 90 ECGs of 45 patients with a split, and a tiny model."""
    folder = tmp_path_factory.mktemp("own")
    table = write_table(folder, 90)
    patients = table.index // 2
    table["split"] = np.select([patients % 5 < 3, patients % 5 == 3], ["train", "validation"], "test")
    table.to_csv(folder / "table.csv", index=False)
    build(MeritModel, merit_config(ecg={"hidden_sizes": [8, 32]})).save_pretrained(folder / "model")
    MeritFeatureExtractor().save_pretrained(folder / "model")
    return folder


@pytest.fixture(autouse=True)
def cache(work, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(work / "cache"))


def options(*arguments: object) -> Namespace:
    parser = option_parser("Test.", *RUN_OPTIONS, "label_columns", "label_fraction")
    return parser.parse_args(list(map(str, arguments)))


def test_a_table_as_a_task(work):
    args = options("--dataset", work / "table.csv", "--label_columns", "AF", "LBBB", "--patient_column", "patient")
    views, task, fingerprint = load_table_task(args)
    table = pd.read_csv(work / "table.csv")
    for split, rows in table.groupby("split"):
        assert np.array_equal(task.labels[split], rows[["AF", "LBBB"]])
        assert len(views[split]) == len(rows) == len(set(task.ecg_ids[split]))
        assert len(set(task.patient_ids[split])) == len(set(rows.patient))
    assert task.classes == ["AF", "LBBB"]
    assert len(np.unique(np.concatenate(list(task.ecg_ids.values())))) == 90
    names = options("--dataset", work / "table.csv", "--label_columns", "finding", "--patient_column", "patient")
    _, named, same = load_table_task(names)
    assert named.classes == ["atrial_fibrillation", "left_bundle_branch_block"] and same == fingerprint
    assert all(np.array_equal(named.labels[split], task.labels[split]) for split in task.labels)
    args.label_fraction = 0.5
    views, half, _ = load_table_task(args)
    kept = half.rows["train"]
    assert 0 < len(kept) < len(task.rows["train"])
    assert np.array_equal(half.labels["train"], task.labels["train"][kept])
    args.label_columns = None
    with pytest.raises(SystemExit, match="Expected labels, got none. Name their columns with --label_columns"):
        load_table_task(args)


@pytest.mark.parametrize("column", ["labels", "sex"])
def test_a_label_column_may_be_named_as_one_of_the_data_set(work, column):
    table = pd.read_csv(work / "table.csv").rename(columns={"AF": column})
    table.to_csv(work / f"{column}.csv", index=False)
    args = options("--dataset", work / f"{column}.csv", "--label_columns", column, "--patient_column", "patient")
    _, task, _ = load_table_task(args)
    assert task.classes == [column]
    assert all(np.array_equal(task.labels[split][:, 0], rows[column]) for split, rows in table.groupby("split"))


@pytest.mark.slow
def test_finetuning_on_a_table(work):
    command = [
        *(EXAMPLES / "finetune.py", "--model", "model", "--dataset", "table.csv", "--label_columns"),
        *("AF", "LBBB", "--patient_column", "patient", "--run", "mine", "--output_dir", "tuned", "--epochs", "1"),
        *("--batch_size", "32", "--output", "rows.json", "--predictions", "predictions"),
    ]
    environment = os.environ | {"HF_HOME": str(work / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = run_script(*command, cwd=work, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row["metric"]: row for row in json.loads((work / "rows.json").read_text())}
    assert rows["macro_auroc"]["n"] == 18 and rows["macro_auroc"]["task"] == "labels"
    model = MeritForEcgClassification.from_pretrained(work / "tuned")
    assert model.config.id2label == {0: "AF", 1: "LBBB"} and len(model.config.thresholds) == 2


def test_finetuning_needs_data(work):
    done = run_script(EXAMPLES / "finetune.py", "--model", work / "model", "--run", "a", "--output_dir", "o")
    assert done.returncode == 2 and "Expected --data_dir, the folder of PTB-XL, or --dataset" in done.stderr


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    assert all(torch.equal(torch.as_tensor(batch[name]), torch.as_tensor(other[name])) for name in batch)


def test_reports_of_a_table_and_masks_of_short_records(work, tmp_path, tiny_tokenizer):
    rng = np.random.default_rng(0)
    rows = []
    for i, (seconds, leads) in enumerate([(10, ("I", "II", "V1")), (4, ("I", "II", "V1")), (4, ("V2",))]):
        write_ecg(EcgRecord(rng.normal(size=(len(leads), 100 * seconds)).round(3), 100, leads), tmp_path / f"{i}.npz")
        rows.append({"path": f"{i}.npz", "said": f"sinus rhythm {i}", "split": "train"})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    args = options("--dataset", tmp_path / "table.csv", "--report_column", "said")
    settings = {"max_report_tokens": 16, "crop_seconds": 3.0, "no_augmentation": False, "lead_dropout": 1.0}
    settings |= {"noise_mv": 0.05, "wander_mv": 0.05, "gap_probability": 0.0, "keep_in_memory": False}
    args = Namespace(**vars(args) | settings)
    table = load_split(args, "train")
    assert table["report"][:] == ["sinus rhythm 0", "sinus rhythm 1", "sinus rhythm 2"]
    processor = MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer)
    pairs = EcgReportPairs(table, processor, args, train=True)
    for epoch in range(20):
        pairs.set_epoch(epoch)
        batch = pairs.__getitems__([0, 1, 2])
        mask, values = batch["ecg_mask"], batch["input_values"]
        assert values.shape == (3, 12, 300) and torch.isfinite(values).all()
        assert (values[~mask] == 0).all() and mask.any(-1).any(-1).all()
        assert not mask[:2, 7:].any() and not mask[2, :7].any() and mask[2, 7].all()  # V2 alone was recorded
        assert all(mask[row, lead].all() or not mask[row, lead].any() for row in range(3) for lead in range(12))
    args.no_augmentation = True
    kept = EcgReportPairs(table, processor, Namespace(**vars(args) | {"keep_in_memory": True}), train=True)
    kept.set_epoch(pairs.epoch)
    for _ in range(2):  # what a batch changes is its own
        assert_equal(kept.__getitems__([2, 0, 1]), pairs.__getitems__([2, 0, 1]))
    padded = processor.tokenizer.pad(
        {"input_ids": [ids.tolist() for ids in pairs.tokens]}, pad_to_multiple_of=8, return_tensors="pt"
    )
    assert_equal(padded, {name: kept.__getitems__([0, 1, 2])[name] for name in padded})
    whole = EcgReportPairs(table, processor, Namespace(**vars(args) | {"crop_seconds": None}), train=False)
    mask = whole.__getitems__([0, 1])["ecg_mask"]
    assert mask[0, 0].all() and mask[1, 0].sum() == pytest.approx(400, abs=1) and not mask[1, 0, 401:].any()


def test_wrong_sources_are_one_line(work, tmp_path, capsys):
    for arguments, message in (
        (("--dataset", "mimic_iv_ecg:nowhere"), "Expected the folder of mimic_iv_ecg behind the colon"),
        (("--dataset", __file__), "Expected a table (.csv, .tsv, .parquet, .jsonl) or a folder"),
        (("--on_error", "ignore"), "invalid choice: 'ignore'"),
    ):
        with pytest.raises(SystemExit):
            options(*arguments)
        assert message in capsys.readouterr().err
    (work / "ecgs" / "unlisted.npz").write_bytes(b"0")
    (tmp_path / "table.csv").write_text("path,split\nabsent.npz,train\n")
    with pytest.raises(SystemExit, match="The train split of .* cannot be read: Expected the files of 1 records"):
        load_split(options("--dataset", tmp_path / "table.csv"), "train")
    with pytest.raises(SystemExit, match="cannot be read: Expected the folder of georgia: georgia:FOLDER"):
        load_split(options("--dataset", "georgia"), "train")
