"""Tables of ECG files as data sets: what is read, what is refused, when the cache is made anew."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from ecg_tables import write_table

from modeling_merit.processing import EcgRecord, read_ecg
from modeling_merit.processing.data.ecg_builder import EcgSourceError, fold_of
from modeling_merit.processing.data.microvolts import (
    NO_SAMPLE,
    crop_recorded,
    mask_recorded,
    to_microvolts,
    to_millivolts,
)
from modeling_merit.processing.data.sources import SourceOptions, load_mixture, load_source, mix
from modeling_merit.processing.data.tables import EcgTable, TableColumns, is_table, label_matrix, read_rows
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.record import EcgFormatError
from modeling_merit.processing.writers import write_ecg

COLUMNS = TableColumns(labels=("AF", "LBBB"), patient="patient")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder, 30)
    return folder


@pytest.fixture
def copy(cohort, tmp_path):
    """A copy of the cohort to be changed."""
    return shutil.copytree(cohort, tmp_path / "cohort")


def build(table, cache, columns=COLUMNS, num_proc=None, **options):
    builder = EcgTable(table, columns, cache_dir=str(cache), **options)
    builder.download_and_prepare(num_proc=num_proc)
    return builder


def test_rows_equal_the_files(cohort, tmp_path):
    dataset = build(cohort / "table.csv", tmp_path).as_dataset()
    table = pd.read_csv(cohort / "table.csv").set_index("path")
    seen = []
    for split, rows in dataset.items():
        for row in rows:
            seen.append(row["record_id"])
            said = table.loc[row["record_id"]]
            record = read_ecg(cohort / row["record_id"]).resample(100)
            order = [record.leads.index(lead) for lead in STANDARD_LEADS]
            assert np.abs(np.array(row["signal"]) - 1000 * record.signal[order, :1000]).max() <= 0.5
            assert (row["report"], row["patient_id"]) == (said.report, said.patient)
            assert row["labels"] == [name for name in ("AF", "LBBB") if said[name]]
            fold = fold_of(row["patient_id"])
            assert split == ("train" if fold <= 8 else "validation" if fold == 9 else "test")
    assert sorted(seen) == sorted(table.index)


def test_two_processes_write_the_same_rows(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_merit.processing.data.ecg_builder.PART_ROWS", 4)
    one = build(cohort / "table.csv", tmp_path / "one").as_dataset("train")
    two = build(cohort / "table.csv", tmp_path / "two", num_proc=2).as_dataset("train")
    assert one.data.table.equals(two.data.table) and len(one) > 8


def test_equal_names_in_folders_of_splits_are_different_files(copy):
    file = pd.read_csv(copy / "table.csv").path[0]
    for split in ("train", "test"):
        (copy / split).mkdir()
        pd.DataFrame({"file_name": [file]}).to_csv(copy / split / "metadata.csv", index=False)
    rows, _ = read_rows(copy)
    assert rows["record_id"].tolist() == [f"train/{file}", f"test/{file}"] and rows["patient_id"].nunique() == 2


def test_a_column_of_patients_and_words_of_sex_are_understood(copy, tmp_path):
    table = pd.read_csv(copy / "table.csv").rename(columns={"patient": "patient_id"})
    table.assign(sex=["F", "male", "0", *["M "] * (len(table) - 3)]).to_csv(copy / "metadata.csv", index=False)
    rows, _ = read_rows(copy)
    assert rows["patient_id"].tolist() == table["patient_id"].astype(str).tolist()
    built = build(copy / "metadata.csv", tmp_path / "cache", TableColumns()).as_dataset()
    said = {row["record_id"]: row["sex"] for part in built.values() for row in part}
    assert [said[name] for name in table.path[:2]] == ["female", "male"] and said[table.path[3]] == "male"
    assert said[table.path[2]] != "0"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_every_kind_of_table_says_the_same(copy, suffix):
    table = pd.read_csv(copy / "table.csv")
    path = copy / f"other{suffix}"
    if suffix in (".csv", ".tsv"):
        table.to_csv(path, index=False, sep="," if suffix == ".csv" else "\t")
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=True)
    rows, classes = read_rows(path, COLUMNS)
    expected, _ = read_rows(copy / "table.csv", COLUMNS)
    assert classes == ["AF", "LBBB"]
    assert rows[["record_id", "patient_id", "labels", "report", "split"]].equals(
        expected[["record_id", "patient_id", "labels", "report", "split"]]
    )


def test_folders_with_metadata(copy):
    table = pd.read_csv(copy / "table.csv").rename(columns={"path": "file_name"})
    assert not is_table(copy)
    for split, part in (("train", table[:20]), ("test", table[20:])):
        (copy / split).mkdir()
        part.assign(file_name="../" + part.file_name).to_csv(copy / split / "metadata.csv", index=False)
    rows, _ = read_rows(copy)
    assert rows["split"].value_counts().to_dict() == {"train": 20, "test": 10}
    assert all(path.is_file() for path in rows["file"].iloc[1:2])
    table.to_csv(copy / "metadata.csv", index=False)  # one above them goes before
    assert set(read_rows(copy)[0]["split"]) == {"train", "validation", "test"}


def test_names_of_classes(copy):
    table = pd.read_csv(copy / "table.csv")
    table.loc[0, "finding"] = "AF; LBBB ;"
    table.to_csv(copy / "table.csv", index=False)
    rows, classes = read_rows(copy / "table.csv", TableColumns(labels=("finding",)))
    assert classes == ["AF", "LBBB", "atrial_fibrillation", "left_bundle_branch_block"]
    assert rows["labels"][0] == ["AF", "LBBB"] and rows["labels"][1] == []
    assert label_matrix(rows["labels"], classes).sum(0).tolist() == [1, 1, 10, 10]


@pytest.mark.parametrize(
    "change, columns, message",
    [
        (
            lambda t: t.drop(columns="path"),
            {},
            "Expected a column of files in table.csv, named file_name, path, file or filename, got",
        ),
        (lambda t: t.assign(path=t.path[0]), {}, "Expected every file once, got 'ecgs/000.hea'"),
        (lambda t: t.assign(split="dev"), {}, "Expected train, validation or test in the column of splits, got 'dev'"),
        (
            lambda t: t.assign(split=["train", "test"] * 15),
            {"patient": "patient"},
            "Expected each patient in one split, got 'p0' in 2",
        ),
        (
            lambda t: t.assign(AF=2),
            {"labels": ("AF", "LBBB")},
            "Expected 0 or 1 in every label column, got '2' in 'AF'",
        ),
        (lambda t: t[:0], {}, "Expected rows in"),
        (lambda t: t.assign(patient=None), {"patient": "patient"}, "Expected a patient in every row"),
    ],
)
def test_wrong_tables_are_named(copy, change, columns, message):
    change(pd.read_csv(copy / "table.csv")).to_csv(copy / "table.csv", index=False)
    with pytest.raises(EcgSourceError, match=message):
        read_rows(copy / "table.csv", TableColumns(**columns))


def test_what_is_no_table(tmp_path):
    (tmp_path / "ecg.edf").write_bytes(b"0")
    for path in (tmp_path, tmp_path / "ecg.edf", tmp_path / "absent"):
        assert not is_table(path)
        with pytest.raises(EcgSourceError, match="Expected a table"):
            EcgTable(path)


def test_bad_files_are_refused_or_listed(copy, tmp_path):
    (copy / "ecgs" / "004.json").write_text("{")
    with pytest.raises(EcgSourceError, match=r"ecgs/004.json: .* on_error=\"skip\""):
        build(copy / "table.csv", tmp_path / "a")
    (copy / "ecgs" / "006.edf").unlink()
    with pytest.raises(EcgSourceError, match=r"files of 30 records, got those of 29. Missing are those of ecgs/006"):
        build(copy / "table.csv", tmp_path / "b")
    builder = build(copy / "table.csv", tmp_path / "c", on_error="skip")
    assert set(builder.skipped_records) == {"ecgs/004.json", "ecgs/006.edf"}
    assert "missing" in builder.skipped_records["ecgs/006.edf"]
    assert sum(map(len, builder.as_dataset().values())) == 28


def test_the_cache_follows_the_files(copy, tmp_path):
    def cache_dir():
        return EcgTable(copy / "table.csv", COLUMNS, cache_dir=str(tmp_path)).cache_dir

    first = cache_dir()
    assert cache_dir() == first
    record = read_ecg(copy / "ecgs" / "000.hea")
    write_ecg(EcgRecord(-record.signal, record.sampling_rate, record.leads), copy / "ecgs" / "000.hea")
    second = cache_dir()
    assert second != first  # the header may be alike: its signal file is another one
    (copy / "ecgs" / "unnamed.txt").write_text("no file of the table")
    assert cache_dir() == second
    text = (copy / "table.csv").read_text()
    (copy / "table.csv").write_text(text.replace("p0", "p100"))
    assert cache_dir() != second


def test_facts_that_files_do_not_say(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(2, 2500)).astype(np.float32))
    (tmp_path / "table.csv").write_text("path,split\na.npy,train\n")
    with pytest.raises(EcgSourceError, match="a.npy"):
        build(tmp_path / "table.csv", tmp_path / "cache", TableColumns())
    facts = {"sampling_rate": 250.0, "leads": ["I", "V1"], "units": "mV"}
    dataset = build(tmp_path / "table.csv", tmp_path / "cache", TableColumns(), facts=facts).as_dataset("train")
    assert (np.array(dataset[0]["signal"]) != NO_SAMPLE).all(1).nonzero()[0].tolist() == [0, 6]


def test_missing_flat_and_short_leads_by_policy():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(3, 2000)).astype(np.float32)
    signal[0, 500:600] = np.nan
    signal[2] = 0.25
    record = EcgRecord(signal, 500, ("V1", "V2", "V3"))
    table = to_microvolts(record, 100, 10)
    rows = {lead: table[i] for i, lead in enumerate(STANDARD_LEADS)}
    assert (rows["V1"][101:119] == NO_SAMPLE).all() and (rows["V1"][122:400] != NO_SAMPLE).all()
    assert (table[:, 400:] == NO_SAMPLE).all() and (rows["II"] == NO_SAMPLE).all()
    assert (rows["V3"][:400] == 250).all()
    assert (to_microvolts(record, 100, 10, flat_leads="mask")[8] == NO_SAMPLE).all()
    bridged = to_microvolts(record, 100, 10, "interpolate")
    assert (bridged[6, :400] != NO_SAMPLE).all() and (bridged[1] == NO_SAMPLE).all()
    with pytest.raises(EcgFormatError, match="invalid in V1"):
        to_microvolts(record, 100, 10, "raise")
    with pytest.raises(EcgFormatError, match="no change at all in V3"):
        to_microvolts(record, 100, 10, flat_leads="raise")
    whole = EcgRecord(np.nan_to_num(signal), 500, ("V1", "V2", "V3"))
    with pytest.raises(EcgFormatError, match="no recording in I, II, III"):
        to_microvolts(whole, 100, 10, "raise")
    late = EcgRecord(
        np.where(np.arange(2000) == 1700, np.nan, np.sin(np.arange(2000))) * np.ones((8, 1)),
        500,
        ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"),
    )
    assert (to_microvolts(late, 100, 3, "raise") != NO_SAMPLE).all()  # what is not kept is not judged
    with pytest.raises(EcgFormatError, match="at least 2.5 s, got 2 s"):
        to_microvolts(whole.crop(0, 2), 100, 10)
    with pytest.raises(EcgFormatError, match="Check the unit"):
        to_microvolts(EcgRecord(1000 * signal, 500, ("V1", "V2", "V3")), 100, 10)
    with pytest.raises(EcgFormatError, match="Expected a lead of I, II"):
        to_microvolts(EcgRecord(signal[:1], 500, ("X",)), 100, 10)


def test_crops_and_masks_of_short_records():
    signals = np.full((50, 2, 1000), np.nan, dtype=np.float32)
    signals[:, :, :700] = np.arange(700)
    crops = crop_recorded(signals, 250, np.random.default_rng(0))
    assert np.isfinite(crops).all() and crops[:, 0, 0].min() < 100 and crops[:, 0, 0].max() > 350
    assert np.isnan(crop_recorded(signals, 800, np.random.default_rng(0))[:, :, 700:]).all()
    assert mask_recorded(crops) is None
    lost = np.ones(crops.shape, dtype=bool)
    lost[:, 0] = False
    assert mask_recorded(crops, lost) is lost
    crops[:, 1] = np.nan  # the lead that the augmentation kept
    assert mask_recorded(crops, lost)[:, 0].all() and not mask_recorded(crops, lost)[:, 1].any()
    assert np.isnan(to_millivolts(np.array([NO_SAMPLE]))).all()


def test_a_mixture_is_drawn_with_weights(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    options = SourceOptions(num_records=100, columns=COLUMNS)
    text = f"synthetic,{cohort / 'table.csv'}"
    parts = [load_source(name, "train", options) for name in text.split(",")]
    mixed = load_mixture(text, "train", [1, 3], options)
    devices = np.array([device == "synthetic" for device in mixed["device"]])
    assert 0.15 < devices.mean() < 0.35
    assert set(mixed["report"]) == set(parts[0]["report"]) | set(parts[1]["report"])  # none is left out
    assert load_mixture(text, "train", [1, 3], options)["report"][:] == mixed["report"][:]
    whole = load_mixture(text, "validation", [1, 3], options)
    assert len(whole) == sum(len(load_source(name, "validation", options)) for name in text.split(","))
    with pytest.raises(ValueError, match="Expected a positive weight"):
        mix(parts, [1, 0])
    monkeypatch.setattr("modeling_merit.processing.data.sources.load_source", None)  # nothing is prepared before
    for weights in ([1], [1, 0], [1, -1, 3]):
        with pytest.raises(ValueError, match="Expected a positive weight for each of 2 data sets"):
            load_mixture(text, "train", weights, options)
    other = load_source("synthetic", "train", SourceOptions(num_records=40, seconds=5))
    with pytest.raises(ValueError, match="'signal' of one type in all data sets"):
        mix([parts[1], other])


LOAD = """
import sys
from modeling_merit.processing.data.sources import load_source
table = load_source("me/ecgs", "train")
print(len(table), table.features["signal"].shape, table["report"][0])
"""


@pytest.mark.slow
def test_a_hub_id_of_files_with_metadata(copy, loopback_hub, tmp_path):
    table = pd.read_csv(copy / "table.csv").rename(columns={"path": "file_name"}).assign(split="train")
    files = {path.relative_to(copy).as_posix(): path.read_bytes() for path in (copy / "ecgs").iterdir()}
    loopback_hub.repos["datasets", "me/ecgs"] = files | {"metadata.csv": table.to_csv(index=False).encode()}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=loopback_hub.environment(tmp_path / "home"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:] + "\n".join(loopback_hub.requests[-20:])
    assert done.stdout.split(" ", 1)[0] == "30" and table.report[0] in done.stdout
