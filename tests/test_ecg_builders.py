"""Builders of public data sets on trees of their layouts and on real records; a preparation that is killed."""

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from ecg_trees import (
    CODE_COLUMNS,
    LEADS,
    wave,
    write_code15,
    write_cpsc2018,
    write_mimic,
    write_sph,
    write_sums,
)

from modeling_merit.processing import read_ecg
from modeling_merit.processing.data.challenge import Challenge2021
from modeling_merit.processing.data.code15 import Code15
from modeling_merit.processing.data.cpsc2018 import Cpsc2018
from modeling_merit.processing.data.ecg_builder import EcgSourceError, fold_of, sha256_of
from modeling_merit.processing.data.microvolts import NO_SAMPLE
from modeling_merit.processing.data.mimic_iv_ecg import MimicIvEcg
from modeling_merit.processing.data.signal_view import SignalView
from modeling_merit.processing.data.sources import load_source
from modeling_merit.processing.data.sph import Sph
from modeling_merit.processing.leads import STANDARD_LEADS


def build(kind, data_dir, cache, num_proc=None, **options):
    builder = kind(data_dir=data_dir, cache_dir=str(cache), **options)
    builder.download_and_prepare(num_proc=num_proc)
    return builder


def rows_of(builder):
    """Rows by `record_id`, with their split; the same patient is nowhere in two splits."""
    rows, homes = {}, {}
    for split, table in builder.as_dataset().items():
        for row in table:
            rows[row["record_id"]] = row | {"split": split, "signal": np.array(row["signal"], dtype=np.int16)}
            assert homes.setdefault(row["patient_id"], split) == split
            fold = fold_of(row["patient_id"])
            assert split == ("train" if fold <= 8 else "validation" if fold == 9 else "test")
    return rows


def assert_wave(stored, seed, rate, seconds, tolerance=4):
    """The stored signal is the wave, apart from its ends, where the filter of resampling meets them."""
    time = np.arange(stored.shape[1]) / 100
    n = round(min(seconds, 10) * 100)
    exact = np.stack([np.interp(time, np.arange(lead.size) / rate, lead) for lead in wave(seed, rate, seconds)])
    assert tuple(LEADS) == STANDARD_LEADS
    assert np.abs(stored[:, 20 : n - 20] - exact[:, 20 : n - 20]).max() <= tolerance
    assert (stored[:, n:] == NO_SAMPLE).all() and (stored[:, :n] != NO_SAMPLE).all()


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder)
    write_sums(folder)
    return folder


def test_mimic_iv_ecg(mimic, tmp_path):
    rows = rows_of(build(MimicIvEcg, mimic, tmp_path, checksums=True))
    assert sorted(rows) == [str(40000000 + i) for i in range(40)]
    for i in (0, 2, 39):
        row = rows[str(40000000 + i)]
        assert_wave(row["signal"], i, 500, 10)  # aVF stood before aVL in the file
        assert row["report"] == f"Sinus rhythm. Record number {i}"
        assert row["patient_id"] == str(10000032 + i // 2)
        assert row["recording_date"] == f"2180-07-{i % 28 + 1:02d} 08:44:00"
        assert (row["labels"], row["age"], row["sex"]) == ([], None, None)
    assert rows["40000005"]["report"] is None
    assert (rows["40000001"]["signal"][7] == NO_SAMPLE).all() and (rows["40000003"]["signal"][8] == 0).all()


def test_policies_of_missing_and_flat_leads(mimic, tmp_path):
    builder = build(MimicIvEcg, mimic, tmp_path, missing="raise", flat_leads="raise", on_error="skip")
    assert set(builder.skipped_records) == {"40000001", "40000003"}
    assert "samples marked invalid in V2" in builder.skipped_records["40000001"]
    assert "no change at all in V3" in builder.skipped_records["40000003"]
    assert len(rows_of(builder)) == 38
    with pytest.raises(EcgSourceError, match="40000001: .* on_error"):
        build(MimicIvEcg, mimic, tmp_path, missing="raise")
    with pytest.raises(ValueError, match="missing to be one of mask, raise, interpolate, got 'drop'"):
        MimicIvEcg(data_dir=mimic, missing="drop")


def test_two_processes_write_the_same_rows(mimic, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_merit.processing.data.ecg_builder.PART_ROWS", 7)
    one = build(MimicIvEcg, mimic, tmp_path / "one").as_dataset("train")
    two = build(MimicIvEcg, mimic, tmp_path / "two", num_proc=2).as_dataset("train")
    assert one.data.table.equals(two.data.table)
    assert SignalView(one).shape == (12, 1000)


def test_checksums_and_incomplete_folders(mimic, tmp_path):
    folder = shutil.copytree(mimic, tmp_path / "copy")
    path = next(folder.rglob("40000010.dat"))
    path.write_bytes(b"\0\0" + path.read_bytes()[2:])
    with pytest.raises(EcgSourceError, match="40000010: .*40000010.dat is not the file that SHA256SUMS.txt lists"):
        build(MimicIvEcg, folder, tmp_path / "cache", checksums=True)
    path.unlink()
    with pytest.raises(EcgSourceError, match="files of 40 records, got those of 39. Missing are those of 40000010"):
        build(MimicIvEcg, folder, tmp_path / "cache")
    (folder / "SHA256SUMS.txt").unlink()
    with pytest.raises(EcgSourceError, match="Expected SHA256SUMS.txt in"):
        build(MimicIvEcg, folder, tmp_path / "cache", checksums=True, on_error="skip")
    with pytest.raises(EcgSourceError, match=r"Expected record_list.csv in .* Pass data_dir=.*copy"):
        build(MimicIvEcg, tmp_path, tmp_path / "cache")


KILLED = """
import os, signal, sys
from modeling_merit.processing.data import ecg_builder
from modeling_merit.processing.data.mimic_iv_ecg import MimicIvEcg
ecg_builder.PART_ROWS = 4
read, reads = MimicIvEcg.read, []
def counted(self, row):
    reads.append(row["record_id"])
    if len(reads) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, row)
MimicIvEcg.read = counted
builder = MimicIvEcg(data_dir=sys.argv[1], cache_dir=sys.argv[2], on_error="skip", missing="raise")
builder.download_and_prepare()
print(len(reads), sum(map(len, builder.as_dataset().values())), sorted(builder.skipped_records))
"""


def test_a_killed_preparation_goes_on(mimic, tmp_path):
    def prepare(cache, limit):
        command = [sys.executable, "-c", KILLED, str(mimic), str(tmp_path / cache), str(limit)]
        return subprocess.run(command, capture_output=True, text=True)

    done = prepare("whole", 1000)
    assert done.stdout.split("\n")[0] == "40 39 ['40000001']", done.stderr[-2000:]
    assert prepare("killed", 13).returncode == -signal.SIGKILL
    parts = sorted((tmp_path / "killed").rglob("*.parquet"))
    assert len(parts) == 3 and all(path.stem.partition("-")[2] == sha256_of(path) for path in parts)
    parts[0].write_bytes(parts[0].read_bytes()[:-100])  # a part that was not written whole is made again
    done = prepare("killed", 1000)
    assert done.stdout.split("\n")[0] == "32 39 ['40000001']", done.stderr[-2000:]
    assert not list((tmp_path / "killed").rglob("*.parts"))
    whole, killed = (
        MimicIvEcg(data_dir=mimic, cache_dir=str(tmp_path / name), on_error="skip", missing="raise").as_dataset()
        for name in ("whole", "killed")
    )
    assert all(killed[split].data.table.equals(table.data.table) for split, table in whole.items())


def test_code15(tmp_path):
    pytest.importorskip("h5py")
    folder = tmp_path / "code15"
    folder.mkdir()
    write_code15(folder)
    rows = rows_of(build(Code15, folder, tmp_path / "cache"))
    assert sorted(rows, key=int) == [str(1000 + i) for i in range(12)]
    for i in range(12):
        row = rows[str(1000 + i)]
        assert_wave(row["signal"], i, 400, 7 if i % 4 == 1 else 10, tolerance=6)
        assert row["labels"] == [CODE_COLUMNS[i % 6]]
        assert row["sex"] == ("male" if i % 2 == 0 else "female") and row["age"] == min(40 + 5 * i, 90)
    (folder / "exams_part1.hdf5").unlink()
    with pytest.raises(EcgSourceError, match="files of 12 records, got those of 6"):
        build(Code15, folder, tmp_path / "cache")
    builder = build(Code15, folder, tmp_path / "cache", on_error="skip")
    assert len(rows_of(builder)) == 6 and len(builder.skipped_records) == 6


def test_sph(tmp_path):
    pytest.importorskip("h5py")
    folder = tmp_path / "sph"
    folder.mkdir()
    write_sph(folder)
    rows = rows_of(build(Sph, folder, tmp_path / "cache"))
    assert len(rows) == 12 and rows["A00002"]["labels"] == ["22", "23"] and rows["A00003"]["labels"] == ["60+310"]
    assert (rows["A00002"]["age"], rows["A00002"]["sex"], rows["A00002"]["patient_id"]) == (51.0, "female", "S00000")
    assert_wave(rows["A00002"]["signal"], 1, 500, 11)


def test_cpsc2018(tmp_path):
    folder = tmp_path / "cpsc"
    folder.mkdir()
    write_cpsc2018(folder)
    rows = rows_of(build(Cpsc2018, folder, tmp_path / "cache"))
    assert len(rows) == 12 and rows["A0004"]["labels"] == ["LBBB", "RBBB"] and rows["A0010"]["labels"] == ["Normal"]
    assert (rows["A0002"]["age"], rows["A0002"]["sex"]) == (41.0, "female")
    assert_wave(rows["A0001"]["signal"], 0, 500, 6)
    assert_wave(rows["A0012"]["signal"], 11, 500, 17)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "folder, known, codes",
    [
        ("georgia", "E00001", ["426783006"]),
        ("chapman_shaoxing_ningbo", "JS00001", ["164889003", "59118001", "164934002"]),
        ("cpsc2018", "A0001", ["59118001"]),
        ("ptb", "S0001", ["251146004", "426783006"]),
        ("", "georgia/E00001", ["426783006"]),
    ],
)
def test_real_records_of_the_challenge(data_dir, tmp_path, folder, known, codes):
    source = data_dir / "external" / "cinc2021" / folder
    rows = rows_of(build(Challenge2021, source, tmp_path))
    assert len(rows) == len(list(source.rglob("*.hea")))
    assert rows[known]["labels"] == codes
    for name, row in rows.items():
        record = read_ecg(source / f"{name}.hea").resample(100)
        order = [record.leads.index(lead) for lead in STANDARD_LEADS]
        expected, stored = 1000 * record.signal[order, :900], row["signal"][:, : min(900, record.n_samples)]
        assert np.nanmax(np.abs(expected[:, : stored.shape[1]] - stored)) < 1, name
    if folder == "georgia":
        assert load_source(f"georgia:{source}", "train").features["signal"].shape == (12, 1000)


@pytest.mark.real_data
def test_real_records_of_cpsc2018(data_dir, tmp_path):
    source = data_dir / "external" / "cpsc2018_original"
    builder = build(Cpsc2018, source, tmp_path, on_error="skip")
    rows = rows_of(builder)
    assert {name: row["labels"] for name, row in rows.items()} == {
        "A1980": ["PAC"],
        "A1981": ["STD"],
        "A1982": rows["A1982"]["labels"],
    }
    assert len(builder.skipped_records) == 6877 - 3 and rows["A1981"]["age"] == 48
