"""The PTB-XL builder: rows equal to the files, every damage reported by its ecg_id, splits of the real data."""

import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_ptb_xl import ECG_IDS, toy_signal, write_record

from modeling_merit.processing.data.ptb_xl import PtbXl, PtbXlError, present_ecg_ids
from modeling_merit.processing.data.ptb_xl_files import read_signal
from modeling_merit.processing.leads import STANDARD_LEADS


@pytest.fixture
def damaged_dir(toy_ptb_xl_dir: Path, tmp_path: Path) -> Path:
    """A copy of the toy folder to be damaged."""
    return Path(shutil.copytree(toy_ptb_xl_dir, tmp_path / "ptb-xl"))


def build(data_dir: Path, cache_dir: Path, num_proc: int | None = None, **options):
    builder = PtbXl(data_dir=data_dir, cache_dir=str(cache_dir), **options)
    builder.download_and_prepare(num_proc=num_proc)
    return builder


def test_rows_equal_the_files(toy_ptb_xl_dir: Path, tmp_path: Path) -> None:
    dataset = build(toy_ptb_xl_dir, tmp_path).as_dataset()
    assert {split: rows["ecg_id"][:] for split, rows in dataset.items()} == {
        "train": [*range(1, 9), *range(1001, 1009)],
        "validation": [9, 1009],
        "test": [10, 1010],
    }
    for rows in dataset.values():
        for row in rows:
            assert np.array_equal(row["signal"], toy_signal(row["ecg_id"], 1000))
    first, second, third = dataset["train"].select(range(3))
    assert (first["age"], first["age_over_89"], first["sex"], first["patient_id"]) == (90.0, True, "female", 15001)
    assert (second["age"], second["age_over_89"], second["sex"], second["report"]) == (None, False, "male", None)
    assert third["report"] == "sinusrhythmus  mÖglich nr 3"
    assert third["scp_codes"] == {"code": ["NORM", "SR"], "likelihood": [80.0, 0.0]}
    assert (third["strat_fold"], third["validated_by_human"]) == (3, True)
    assert (third["device"], third["recording_date"]) == ("CS-12   E", "1990-01-04 09:17:34")


def test_two_processes_write_the_same_rows_in_the_same_order(toy_ptb_xl_dir: Path, tmp_path: Path) -> None:
    one = build(toy_ptb_xl_dir, tmp_path / "one").as_dataset(split="train")
    two = build(toy_ptb_xl_dir, tmp_path / "two", num_proc=2).as_dataset(split="train")
    assert one.data.table.equals(two.data.table)


def test_high_rate_configuration_and_present_ecg_ids(toy_ptb_xl_dir: Path, tmp_path: Path) -> None:
    assert present_ecg_ids(toy_ptb_xl_dir, "100hz") == list(ECG_IDS)
    ecg_ids = present_ecg_ids(toy_ptb_xl_dir, "500hz")
    assert ecg_ids == [1, 2, 3]
    dataset = build(toy_ptb_xl_dir, tmp_path, config_name="500hz", ecg_ids=ecg_ids).as_dataset()
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 3}
    assert np.array_equal(dataset["train"][2]["signal"], toy_signal(3, 5000))
    with pytest.raises(ValueError, match="100hz, 500hz, got '250hz'"):
        present_ecg_ids(toy_ptb_xl_dir, "250hz")


def _corrected_report(folder: Path) -> None:
    table = pd.read_csv(folder / "ptbxl_database.csv")
    table.loc[table.ecg_id == 3, "report"] = "vorhofflimmern"
    table.to_csv(folder / "ptbxl_database.csv", index=False)


def _other_signal(folder: Path) -> None:
    """Of the same size, with the time of the former file."""
    path = folder / "records100" / "00000" / "00004_lr"
    times = path.with_suffix(".dat").stat()
    write_record(path, toy_signal(99, 1000), 100)
    os.utime(path.with_suffix(".dat"), ns=(times.st_atime_ns, times.st_mtime_ns))


def _missing_record(folder: Path) -> None:
    for path in folder.glob("records100/00000/00004_lr.*"):
        path.unlink()


@pytest.mark.parametrize("change", [_corrected_report, _other_signal, _missing_record])
def test_a_changed_folder_is_read_anew(damaged_dir: Path, tmp_path: Path, change) -> None:
    options = {"cache_dir": tmp_path / "cache", "on_error": "skip"}
    before = build(damaged_dir, **options)
    again = build(damaged_dir, **options)
    assert again.cache_dir == before.cache_dir  # unchanged: built once
    change(damaged_dir)
    after = build(damaged_dir, **options)
    rows = {row["ecg_id"]: row for row in after.as_dataset("train")}
    if change is _missing_record:
        assert 4 not in rows and after.skipped_records.keys() == {4}
    elif change is _other_signal:
        assert np.array_equal(rows[4]["signal"], toy_signal(99, 1000))
    else:
        assert rows[3]["report"] == "vorhofflimmern"
    assert before.as_dataset("train")[2]["report"] == "sinusrhythmus  mÖglich nr 3"


def test_streaming_yields_the_same_rows(toy_ptb_xl_dir: Path, tmp_path: Path) -> None:
    builder = build(toy_ptb_xl_dir, tmp_path)
    streamed = list(PtbXl(data_dir=toy_ptb_xl_dir, cache_dir=str(tmp_path / "none")).as_streaming_dataset("train"))
    prepared = list(builder.as_dataset(split="train"))
    assert [row["ecg_id"] for row in streamed] == [row["ecg_id"] for row in prepared]
    assert all(np.array_equal(a["signal"], b["signal"]) for a, b in zip(streamed, prepared))
    assert {**streamed[2], "signal": None} == {**prepared[2], "signal": None}


def _cut_samples(record: Path) -> None:
    path = record.with_suffix(".dat")
    path.write_bytes(path.read_bytes()[:-2000])


def _change_one_sample(record: Path) -> None:
    path = record.with_suffix(".dat")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def _edit_header(old: str, new: str):
    def edit(record: Path) -> None:
        path = record.with_suffix(".hea")
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


DAMAGES = {
    "no samples": (lambda record: record.with_suffix(".dat").unlink(), r"00004_lr\.dat is missing"),
    "truncated": (_cut_samples, "00004_lr is not a readable WFDB record"),
    "one bit": (_change_one_sample, "do not match the header's checksums"),
    "a text file": (lambda record: record.with_suffix(".hea").write_text("<html>"), "not a readable WFDB record"),
    "empty header": (lambda record: record.with_suffix(".hea").write_text(""), "not a readable WFDB record"),
    "rate": (_edit_header("12 100 1000", "12 250 1000"), "expected 1000 samples at 100 Hz, got 1000 at 250 Hz"),
    "unknown lead": (_edit_header(" V6", " V9X"), "Unknown lead 'V9X'"),
    "wrong lead": (_edit_header(" V6", " V7"), "expected the leads I, II, .*, got .*, V7"),
    "repeated lead": (_edit_header(" V6", " V5"), "V5 more than once"),
    "unit": (_edit_header("/mV", "/mmHg"), "expected signals in mV or uV, got mmHg"),
    "gain": (_edit_header("1000.0(0)", "777.0(0)"), "expected whole microvolts below 32768, but the gain is 777/mV"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_named_or_skipped_and_listed(
    damage: str, damaged_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    apply, message = DAMAGES[damage]
    apply(damaged_dir / "records100" / "00000" / "00004_lr")
    with pytest.raises(PtbXlError, match=f"^ecg_id 4: .*{message}"):
        build(damaged_dir, tmp_path / "raise")
    with caplog.at_level(logging.WARNING):
        builder = build(damaged_dir, tmp_path / "skip", on_error="skip")
    assert builder.as_dataset(split="train")["ecg_id"][:] == [1, 2, 3, 5, 6, 7, 8, *range(1001, 1009)]
    assert list(builder.skipped_records) == [4]
    assert re.search(message, builder.skipped_records[4])
    assert "1 PTB-XL records were skipped: ecg_id 4 " in caplog.text


def test_missing_records_are_found_before_reading_starts(damaged_dir: Path, tmp_path: Path) -> None:
    shutil.rmtree(damaged_dir / "records100" / "01000")
    with pytest.raises(PtbXlError, match=r"Expected 20 records .* got 10\. .* 1001, 1002, 1003, 1004, 1005, …"):
        build(damaged_dir, tmp_path / "raise")
    builder = build(damaged_dir, tmp_path / "skip", num_proc=2, on_error="skip")
    assert sorted(builder.skipped_records) == list(range(1001, 1011))
    assert builder.skipped_records[1001] == "records100/01000/01001_lr.hea is missing"
    assert len(builder.as_dataset(split="train")) == 8
    # A second builder finds the cached table, and still knows what is not in it.
    assert len(build(damaged_dir, tmp_path / "skip", on_error="skip").skipped_records) == 10


def test_error_of_a_worker_process_names_the_record(damaged_dir: Path, tmp_path: Path) -> None:
    _change_one_sample(damaged_dir / "records100" / "01000" / "01004_lr")
    with pytest.raises(PtbXlError, match="^ecg_id 1004: "):
        build(damaged_dir, tmp_path, num_proc=2)


def test_streaming_skips_with_a_warning(damaged_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _change_one_sample(damaged_dir / "records100" / "00000" / "00004_lr")
    options = {"data_dir": damaged_dir, "cache_dir": str(tmp_path)}
    with pytest.raises(PtbXlError, match="^ecg_id 4: "):
        list(PtbXl(**options).as_streaming_dataset("train"))
    rows = PtbXl(**options, on_error="skip").as_streaming_dataset("train")
    assert [row["ecg_id"] for row in rows] == [1, 2, 3, 5, 6, 7, 8, *range(1001, 1009)]
    assert "Skipped ecg_id 4: " in caplog.text


def test_wrong_options_and_folders(toy_ptb_xl_dir: Path, damaged_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(PtbXlError, match="Expected data_dir=.*got none"):
        build(None, tmp_path)
    with pytest.raises(PtbXlError, match=r"found none\. Download and unzip PTB-XL"):
        build(tmp_path / "nowhere", tmp_path)
    with pytest.raises(PtbXlError, match=f"found none. Pass data_dir='{damaged_dir}'"):
        build(damaged_dir.parent, tmp_path)
    with pytest.raises(ValueError, match='Expected on_error="raise" or "skip", got \'ignore\''):
        build(toy_ptb_xl_dir, tmp_path, on_error="ignore")
    with pytest.raises(ValueError, match="'1000hz' not found"):
        build(toy_ptb_xl_dir, tmp_path, config_name="1000hz")
    with pytest.raises(PtbXlError, match=r"got 2, 1 unknown: \[77\]"):
        build(toy_ptb_xl_dir, tmp_path, ecg_ids=[1, 77])
    with pytest.raises(PtbXlError, match=r"got 0, 0 unknown"):
        build(toy_ptb_xl_dir, tmp_path, ecg_ids=[])
    table = pd.read_csv(damaged_dir / "ptbxl_database.csv")
    table.drop(columns="strat_fold").to_csv(damaged_dir / "ptbxl_database.csv", index=False)
    with pytest.raises(PtbXlError, match="Expected the columns strat_fold in"):
        build(damaged_dir, tmp_path)


def test_damaged_table(damaged_dir: Path, tmp_path: Path) -> None:
    path = damaged_dir / "ptbxl_database.csv"
    table = pd.read_csv(path)
    table.assign(strat_fold=table.strat_fold.replace({4: 11})).to_csv(path, index=False)
    with pytest.raises(PtbXlError, match="strat_fold of 1 to 10; it is otherwise for ecg_id 4, 1004"):
        build(damaged_dir, tmp_path)
    pd.concat([table, table[:1]]).to_csv(path, index=False)
    with pytest.raises(PtbXlError, match="one row for each ecg_id in .* for ecg_id 1"):
        build(damaged_dir, tmp_path)
    path.write_bytes(b"\xff\xfe\x00not a table")
    with pytest.raises(PtbXlError, match="Expected a table of comma-separated values"):
        build(damaged_dir, tmp_path)
    table.assign(device=None, report=None, age=None).to_csv(path, index=False)
    row = build(damaged_dir, tmp_path).as_dataset(split="test")[0]
    assert (row["device"], row["report"], row["age"], row["ecg_id"]) == (None, None, None, 10)


def test_malformed_codes_name_the_record(damaged_dir: Path, tmp_path: Path) -> None:
    table = pd.read_csv(damaged_dir / "ptbxl_database.csv")
    table.loc[table.ecg_id == 6, "scp_codes"] = "{'NORM': __import__('os')}"
    table.to_csv(damaged_dir / "ptbxl_database.csv", index=False)
    with pytest.raises(PtbXlError, match="^ecg_id 6: expected scp_codes like"):
        build(damaged_dir, tmp_path)


@pytest.mark.parametrize(("gain", "factor"), [("200.0(0)/mV", 5), ("1.0(0)/uV", 1), ("500(0)/mV", 2)])
def test_other_gains_are_converted_exactly(gain: str, factor: int, tmp_path: Path) -> None:
    signal = toy_signal(1, 1000)
    write_record(tmp_path / "r", signal, 100, gain=gain)
    assert np.array_equal(read_signal(tmp_path / "r", 100), signal * factor)


def test_baseline_is_subtracted(tmp_path: Path) -> None:
    write_record(tmp_path / "r", toy_signal(1, 1000), 100, gain="1000.0(50)/mV")
    assert np.array_equal(read_signal(tmp_path / "r", 100), toy_signal(1, 1000) - 50)


def test_invalid_and_too_large_samples_are_refused(tmp_path: Path) -> None:
    signal = toy_signal(1, 1000)
    signal[3, 7] = -32768
    write_record(tmp_path / "invalid", signal, 100)
    with pytest.raises(PtbXlError, match="samples marked invalid"):
        read_signal(tmp_path / "invalid", 100)
    signal[3, 7] = 20000
    write_record(tmp_path / "large", signal, 100, gain="500.0(0)/mV")
    with pytest.raises(PtbXlError, match="whole microvolts below 32768"):
        read_signal(tmp_path / "large", 100)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.binary(min_size=1, max_size=3))
def test_damaged_header_gives_the_signal_or_one_clear_error(tmp_path: Path, place: int, damage: bytes) -> None:
    write_record(tmp_path / "r", toy_signal(1, 1000), 100)
    header = bytearray((tmp_path / "r.hea").read_bytes())
    place %= len(header)
    header[place : place + len(damage)] = damage
    (tmp_path / "r.hea").write_bytes(header)
    try:
        signal = read_signal(tmp_path / "r", 100)
    except PtbXlError:
        return
    assert signal.dtype == np.int16 and signal.shape == (12, 1000)


@pytest.mark.real_data
def test_real_records_equal_wfdb(ptb_xl_dir: Path, tmp_path: Path) -> None:
    for config_name, rate, tag in (("100hz", 100, "lr"), ("500hz", 500, "hr")):
        ecg_ids = present_ecg_ids(ptb_xl_dir, config_name)[:40]
        builder = build(ptb_xl_dir, tmp_path, config_name=config_name, ecg_ids=ecg_ids)
        rows = [row for split in builder.as_dataset().values() for row in split]
        assert sorted(row["ecg_id"] for row in rows) == ecg_ids
        table = pd.read_csv(ptb_xl_dir / "ptbxl_database.csv", index_col="ecg_id")
        for row in rows:
            entry = table.loc[row["ecg_id"]]
            millivolt, fields = wfdb.rdsamp(str(ptb_xl_dir / entry[f"filename_{tag}"]))
            assert fields["fs"] == rate and [name.upper() for name in STANDARD_LEADS] == fields["sig_name"]
            assert np.array_equal(np.array(row["signal"]), np.round(millivolt.T * 1000))
            assert (row["report"], row["recording_date"]) == (entry.report, entry.recording_date)
            assert row["patient_id"] == entry.patient_id and row["strat_fold"] == entry.strat_fold
            assert row["age"] == (90 if entry.age == 300 else entry.age)
            assert row["sex"] == ["male", "female"][entry.sex]


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif("MERIT_PTB_XL_DIR" not in os.environ, reason="set MERIT_PTB_XL_DIR to a complete PTB-XL v1.0.3")
def test_complete_ptb_xl(ptb_xl_dir: Path, tmp_path: Path) -> None:
    dataset = build(ptb_xl_dir, tmp_path, num_proc=2).as_dataset()
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 17418, "validation": 2183, "test": 2198}
    table = pd.read_csv(ptb_xl_dir / "ptbxl_database.csv", index_col="ecg_id")
    columns = ["ecg_id", "patient_id", "age", "age_over_89", "strat_fold", "report", "validated_by_human"]
    rows = pd.concat([split.select_columns(columns).to_pandas() for split in dataset.values()]).set_index("ecg_id")
    rows = rows.loc[table.index]
    assert (rows.patient_id == table.patient_id).all() and (rows.strat_fold == table.strat_fold).all()
    assert (rows.validated_by_human == table.validated_by_human).all()
    assert rows.report.isna().sum() == 2 and (rows.report.fillna(" ") == table.report).all()
    assert rows.age_over_89.sum() == (table.age == 300).sum() == 204 and (rows.age[rows.age_over_89] == 90).all()
    assert (rows.age.isna() == table.age.isna()).all() and rows.age.max() == 90
    patients = [set(rows["patient_id"][:]) for rows in dataset.values()]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
