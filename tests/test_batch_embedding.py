"""Embedding many ECGs: sources of every kind, batches of one length, and jobs that are interrupted or killed."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_merit.processing import EcgRecord
from modeling_merit.processing import batch_embedding as batches
from modeling_merit.processing.batch_embedding import PartFolder, embed_sources, embed_to_folder
from modeling_merit.processing.cli import main
from modeling_merit.processing.commands import embed as embed_command
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import embed_ecgs, load_checkpoint
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.record_sources import EcgSource, list_sources, load_source
from modeling_merit.processing.writers import write_ecg, write_edf, write_wfdb

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A WFDB tree of 14 records of two lengths and rates, one of them damaged."""
    folder = tmp_path_factory.mktemp("tree")
    for i in range(14):
        record = simulate_ecg("sinus_rhythm", seed=i, sampling_rate=500 if i % 3 else 100)
        signal = record.signal[:, : int(record.sampling_rate * (4 if i % 2 else 10))]
        place = folder / f"p{i % 2}"
        place.mkdir(exist_ok=True)
        write_wfdb(EcgRecord(signal, record.sampling_rate, record.leads, record_id=f"r{i:02d}", age=30 + i), place)
    (folder / "p1" / "r03.dat").write_bytes(b"cut")
    return folder


@pytest.fixture
def days(tmp_path) -> Path:
    """Two folders with an ECG each, of the same name."""
    for seed, day in enumerate(("day1", "day2")):
        (tmp_path / "days" / day).mkdir(parents=True)
        record = simulate_ecg("sinus_rhythm", seed=seed)
        write_ecg(EcgRecord(record.signal, 100, record.leads), tmp_path / "days" / day / "a.npz")
    return tmp_path / "days"


def table_of_ecgs(path: Path, count: int, seconds: int = 3) -> None:
    """Write a Parquet table of noise, in row groups of 100."""
    rng = np.random.default_rng(0)
    signals = [rng.normal(0, 300, (12, seconds * 100)).astype(np.int16).tolist() for _ in range(count)]
    columns = {"ecg_id": list(range(count)), "signal": signals, "age": [40.0 + i % 50 for i in range(count)]}
    columns |= {"sampling_rate": [100.0] * count, "units": ["uV"] * count, "leads": [list(STANDARD_LEADS)] * count}
    pq.write_table(pa.table(columns), path, row_group_size=100)


class TestSources:
    def test_a_wfdb_tree_is_its_headers(self, tree):
        found = list_sources([tree])
        assert [source.record_id for source in found[:2]] == ["p0/r00.hea", "p0/r02.hea"] and len(found) == 14
        assert load_source(found[1]).record_id == "r02" and load_source(found[1]).age == 32

    def test_records_files(self, tmp_path, tree):
        for name in ("p0", "p1"):
            (tmp_path / name).symlink_to(tree / name)
        (tmp_path / "RECORDS").write_text("p1/r05\np0/r00\n")
        assert [source.record_id for source in list_sources([tmp_path])] == ["p1/r05.hea", "p0/r00.hea"]
        record = simulate_ecg("sinus_rhythm", seed=0)
        write_ecg(EcgRecord(record.signal, 100, record.leads), tmp_path / "a.edf")
        (tmp_path / "RECORDS").write_text("a.edf\np0/r00\n")  # as of the folders of EDF files on PhysioNet
        assert [source.record_id for source in list_sources([tmp_path])] == ["a.edf", "p0/r00.hea"]

    def test_pattern_list_and_other_formats(self, tree, tmp_path, monkeypatch):
        assert [s.record_id for s in list_sources([tree], "p1/r*[57].hea")] == ["p1/r05.hea", "p1/r07.hea"]
        record = simulate_ecg("sinus_rhythm", seed=0)
        for name in ("b.edf", "a.npz", ".hidden.edf"):
            write_ecg(EcgRecord(record.signal, 100, record.leads), tmp_path / name)
        (tmp_path / "picture.png").touch()
        assert [s.record_id for s in list_sources([tmp_path])] == ["a.npz", "b.edf"]
        (tmp_path / "list").write_text("b.edf\n\nnot there.edf\nb.edf\n")
        monkeypatch.chdir(tmp_path)
        assert [s.path for s in list_sources(["@list"])] == ["b.edf", "not there.edf"]
        with pytest.raises(FileNotFoundError, match="no list 'absent'"):
            list_sources(["@absent"])

    def test_a_table_written_anew_is_read_anew(self, tmp_path):
        table_of_ecgs(tmp_path / "ecgs.parquet", 9)
        before = load_source(list_sources([tmp_path])[3]).signal
        pq.write_table(pq.read_table(tmp_path / "ecgs.parquet").slice(1), tmp_path / "ecgs.parquet")
        assert np.array_equal(load_source(list_sources([tmp_path])[2]).signal, before)

    def test_tables(self, tmp_path):
        table_of_ecgs(tmp_path / "ecgs.parquet", 250)
        found = list_sources([tmp_path])
        assert (found[7].record_id, found[7].row, len(found)) == ("7", 7, 250)
        rows = pq.read_table(tmp_path / "ecgs.parquet")["signal"]
        for row in (0, 99, 100, 249):
            record = load_source(found[row])
            np.testing.assert_allclose(record.signal, np.array(rows[row].as_py()) / 1000, rtol=1e-6)
            assert (record.leads, record.age) == (STANDARD_LEADS, 40.0 + row % 50)
        plain = pq.read_table(tmp_path / "ecgs.parquet").drop_columns(["ecg_id", "units", "leads"])
        pq.write_table(plain, tmp_path / "plain.parquet")
        found = list_sources([str(tmp_path / "plain.parquet")])
        assert found[3].record_id.endswith("plain.parquet#3")
        with pytest.raises(ValueError, match="nothing of `leads`, `units`"):
            load_source(found[3])
        facts = {"units": "mV", "leads": STANDARD_LEADS}
        assert load_source(found[3], facts).signal.max() == pytest.approx(np.max(rows[3].as_py()))
        assert load_source(list_sources([str(tmp_path / "ecgs.parquet")])[3], {"units": "uV"}).n_samples
        for stated, what in (
            ({"units": "mV"}, "units uV"),
            ({"sampling_rate": 999}, "sampling_rate"),
            ({"leads": ["I"]}, "leads"),
        ):
            with pytest.raises(ValueError, match=f"has {what}.* in its table, not .* as stated"):
                load_source(list_sources([str(tmp_path / "ecgs.parquet")])[3], stated)
        with pytest.raises(ValueError, match="id column 'name'"):
            list_sources([tmp_path / "plain.parquet"], id_column="name")
        with pytest.raises(ValueError, match="'30.0'|'40.0'"):
            list_sources([tmp_path / "plain.parquet"], id_column="age")
        with pytest.raises(ValueError, match="Expected ids that differ"):
            table_of_ecgs(tmp_path / "more.parquet", 2)
            list_sources([tmp_path / "ecgs.parquet", tmp_path / "more.parquet"])

    def test_a_table_of_this_package(self, tmp_path):
        import datasets

        features = datasets.Features(
            {"ecg_id": datasets.Value("int32"), "signal": datasets.Array2D((12, 300), "int16")}
        )
        signals = np.random.default_rng(0).integers(-900, 900, (3, 12, 300)).astype(np.int16)
        signals[2, 3], signals[2, :, 280:] = -32768, -32768  # an absent lead, and the end of a shorter recording
        rows = {"ecg_id": [5, 6, 7], "signal": list(signals)}
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
        facts = {"units": "uV", "leads": STANDARD_LEADS, "sampling_rate": 100}
        record = load_source(list_sources([tmp_path])[1], facts)
        np.testing.assert_allclose(record.signal, signals[1] / 1000, rtol=1e-6)
        assert record.record_id == "6"
        short = load_source(list_sources([tmp_path])[2], facts).signal
        assert np.isnan(short[3]).all() and np.isnan(short[:, 280:]).all() and np.isnan(short).sum() == 280 + 12 * 20

    def test_an_object_store(self, tree):
        store = fsspec.filesystem("memory")
        store.put(str(tree), "/bucket/tree", recursive=True)
        found = list_sources(["memory://bucket/tree"])
        assert [source.record_id for source in found] == [source.record_id for source in list_sources([tree])]
        np.testing.assert_array_equal(load_source(found[1]).signal, load_source(list_sources([tree])[1]).signal)
        with pytest.raises(ValueError, match="no file"):
            load_source(EcgSource("a", "memory://bucket/absent.edf"))
        store.pipe_file("/bucket/evil.hea", b"evil 1 100 1000\n../../etc/passwd 16 1000 16 0 0 0 0 I\n")
        with pytest.raises(ValueError):
            load_source(EcgSource("a", "memory://bucket/evil.hea"))


class TestBatches:
    def test_every_ecg_has_the_embedding_it_has_alone(self, checkpoint, tree, monkeypatch):
        model, processor = load_checkpoint(checkpoint)
        passes = []
        original = batches.embed_ecgs
        monkeypatch.setattr(
            batches,
            "embed_ecgs",
            lambda m, p, ecgs, f: passes.append(tuple(ecgs["input_values"].shape)) or original(m, p, ecgs, f),
        )
        finished = list(embed_sources(model, processor, list_sources([tree]), batch_size=4))
        assert sorted(shape[::2] for shape in passes) == [(2, 416), (3, 1024), (4, 416), (4, 1024)]
        rows = {row["record_id"]: row for rows in finished for row in rows}
        assert len(rows) == 14 and [name for name, row in rows.items() if "error" in row] == ["p1/r03.hea"]
        for source in list_sources([tree]):
            row = rows[source.record_id]
            if "error" not in row:
                alone = embed_ecgs(model, processor, load_source(source))[0].numpy()
                np.testing.assert_allclose(row["embedding"], alone, atol=1e-6)
                assert row["duration_s"] == pytest.approx(4 if int(source.record_id[4:6]) % 2 else 10)

    def test_no_record_is_too_odd_for_a_row(self, checkpoint, tmp_path):
        signal = np.random.default_rng(0).normal(size=(2, 1000))
        signal[1] = 0
        write_edf(EcgRecord(signal, 100, ("I", "V1")), tmp_path / "flat.edf")
        write_ecg(EcgRecord(signal[:, :100], 100, ("I", "V1")), tmp_path / "short.npz")
        out = tmp_path / "out"
        done = embed_to_folder(list_sources([tmp_path]), out, checkpoint)
        assert done == (2, 0, 1, 1)
        table = pd.read_parquet(out).set_index("record_id")
        assert list(table.loc["flat.edf", "flat_leads"]) == ["V1"] and pd.isna(table.loc["flat.edf", "error"])
        assert "Expected 2.5 to 30 s" in table.loc["short.npz", "error"]
        assert table.loc["short.npz", "embedding"] is None


class TestJobs:
    def test_a_folder_grows_and_nothing_is_done_twice(self, checkpoint, tree, tmp_path):
        out, sources = tmp_path / "out", list_sources([tree])
        assert embed_to_folder(sources[:5], out, checkpoint, rows_per_part=2) == (5, 0, 5, 0)
        before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
        assert len(before) == 3
        assert embed_to_folder(sources, out, checkpoint, rows_per_part=4) == (14, 5, 8, 1)
        assert embed_to_folder(sources, out, checkpoint) == (14, 14, 0, 0)
        assert before.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}.items()
        table = pd.read_parquet(out)
        assert sorted(table["record_id"]) == sorted(source.record_id for source in sources)
        about = json.loads(pq.read_schema(next(out.glob("part-*"))).metadata[b"merit_ecg"])
        assert about["model"] == checkpoint and "not a medical device" in about["disclaimer"]

    def test_another_job_is_refused_or_replaces(self, checkpoint, tree, tmp_path):
        out, sources = tmp_path / "out", list_sources([tree])[:3]
        embed_to_folder(sources, out, checkpoint)
        with pytest.raises(ValueError, match="another job .features 'aligned'.*overwrite=True"):
            embed_to_folder(sources, out, checkpoint, features="pooled")
        assert embed_to_folder(sources[:1], out, checkpoint, features="pooled", overwrite=True) == (1, 0, 1, 0)
        assert len(pd.read_parquet(out)) == 1
        (tmp_path / "other").mkdir()
        pq.write_table(pa.table({"a": [1]}), tmp_path / "other" / "a.parquet")
        with pytest.raises(ValueError, match="no _job.json"):
            embed_to_folder(sources, tmp_path / "other", checkpoint)

    def test_failures_are_tried_again_if_told(self, checkpoint, tree, tmp_path):
        out, place = tmp_path / "out", tmp_path / "in"
        place.mkdir()
        record = simulate_ecg("sinus_rhythm", seed=0)
        whole = write_edf(EcgRecord(record.signal, 100, record.leads), tmp_path / "whole.edf").read_bytes()
        (place / "a.edf").write_bytes(whole)
        (place / "b.edf").write_bytes(b"0       half of it")
        assert embed_to_folder(list_sources([place]), out, checkpoint) == (2, 0, 1, 1)
        (place / "b.edf").write_bytes(whole)
        assert embed_to_folder(list_sources([place]), out, checkpoint) == (2, 2, 0, 0)
        assert embed_to_folder(list_sources([place]), out, checkpoint, retry_failed=True) == (2, 1, 1, 0)
        assert sorted(pd.read_parquet(out)["record_id"]) == ["a.edf", "b.edf"]

    def test_only_failures_of_these_ecgs_are_tried_again(self, checkpoint, days, tmp_path):
        (tmp_path / "bad.edf").write_bytes(b"0       half of it")
        out = tmp_path / "out"
        assert embed_to_folder(list_sources([tmp_path / "bad.edf"]), out, checkpoint) == (1, 0, 0, 1)
        assert embed_to_folder(list_sources([days / "day1"]), out, checkpoint, retry_failed=True) == (1, 0, 1, 0)
        assert PartFolder(out).ids() == {str(tmp_path / "bad.edf"), "a.npz"}

    def test_other_ecgs_of_the_same_ids_are_refused(self, checkpoint, days, monkeypatch, capsys):
        """Below a folder an id is the path from there: two folders may hold the same."""
        monkeypatch.chdir(days)
        command = ["embed", "--model", checkpoint, "--out", str(days / "out")]
        assert main([*command, "day1"]) == 0
        assert main([*command, "day2"]) == 2
        message = capsys.readouterr().err
        assert f"got 'a.npz' for '{days}/day1/a.npz', which '{days}/out' holds, and for '{days}/day2/a.npz'" in message
        assert "common folder" in message and "`--overwrite`" in message
        (days / "link").symlink_to("day1")
        for folder, place in (("day1", days), ("../day1", days / "day2"), ("link", days), (str(days / "day1"), days)):
            monkeypatch.chdir(place)  # the same files under other names
            assert main([*command, folder]) == 0
            assert "1 ECG, 1 of them done before, 0 embedded now" in capsys.readouterr().out
        assert main([*command, "day2", "--overwrite"]) == 0
        assert pd.read_parquet(days / "out")["file"].tolist() == [str(days / "day2" / "a.npz")]

    def test_rows_of_an_interrupted_job_of_other_ecgs_are_refused(self, checkpoint, days, monkeypatch, capsys):
        def interrupted(folder, name, commit=PartFolder.commit):
            commit(folder, name)
            raise KeyboardInterrupt

        monkeypatch.chdir(days)
        command = ["embed", "--model", checkpoint, "--out", "out.parquet"]
        with monkeypatch.context() as patch:
            patch.setattr(PartFolder, "commit", interrupted)
            assert main([*command, "day1"]) == 130
        assert main([*command, "day2"]) == 2
        assert "out.parquet.partial' holds" in capsys.readouterr().err and not Path("out.parquet").exists()
        assert main([*command, "day1"]) == 0
        assert pd.read_parquet("out.parquet")["file"].tolist() == [str(days / "day1" / "a.npz")]

    def test_files_of_other_formats_are_named(self, checkpoint, days, capsys):
        for name in ("a.edf", "r.npy", "notes.pdf"):
            (days / "day1" / name).touch()
        write_wfdb(EcgRecord(simulate_ecg("sinus_rhythm", seed=3).signal, 100, STANDARD_LEADS, "w"), days / "day1")
        command = ["embed", str(days / "day1"), "--model", checkpoint, "--out", str(days / "out.parquet")]
        assert main(command) == 0
        streams = capsys.readouterr()
        assert "1 .edf, 1 .npy, 1 .npz" in streams.err and "--pattern '*.edf'" in streams.err
        assert ": 1 embedding\n" in streams.out
        assert main([*command, "--overwrite", "--pattern", "*.npz"]) == 0
        assert ".edf" not in capsys.readouterr().err

    def test_an_object_store_takes_the_parts(self, checkpoint, tree):
        out = "memory://results/embeddings"
        assert embed_to_folder(list_sources([tree]), out, checkpoint, rows_per_part=5) == (14, 0, 13, 1)
        assert embed_to_folder(list_sources([tree]), out, checkpoint) == (14, 14, 0, 0)
        assert len(PartFolder(out).parts()) == 3 and len(PartFolder(out).ids()) == 14
        assert not [name for name in fsspec.filesystem("memory").ls("/results/embeddings", False) if "_tmp" in name]

    def test_an_interrupt_before_the_first_row(self, checkpoint, tree, tmp_path, monkeypatch, capsys):
        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(embed_command, "embed_to_folder", interrupted)
        out = tmp_path / "out.parquet"
        assert main(["embed", str(tree), "--model", checkpoint, "--out", str(out)]) == 130
        assert "0 finished rows are kept" in capsys.readouterr().err and not out.exists()

    @pytest.mark.parametrize("moment", ["model", "write"])
    def test_an_interrupt_keeps_every_finished_row(self, checkpoint, tree, tmp_path, monkeypatch, capsys, moment):
        out, calls = tmp_path / "out.parquet", []
        owner, name = (batches, "embed_ecgs") if moment == "model" else (PartFolder, "write")
        original = getattr(owner, name)

        def interrupted(*args):
            calls.append(args)
            if len(calls) == (3 if moment == "model" else 1):
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(owner, name, interrupted)
        command = ["embed", str(tree), "--model", checkpoint, "--out", str(out), "--batch-size", "3"]
        assert main(command) == 130
        kept = 7 if moment == "model" else 14  # of a unit of 14: two batches of three and one failure
        assert f"{kept} finished rows are kept" in capsys.readouterr().err
        assert not out.exists() and len(PartFolder(f"{out}.partial").ids()) == kept
        monkeypatch.undo()
        assert main(command) == 1  # one of the tree is damaged
        table = pd.read_parquet(out)
        assert table["record_id"].is_unique and len(table) == 13 and not Path(f"{out}.partial").exists()

    def test_ctrl_c_in_the_terminal(self, checkpoint, tmp_path):
        """A real SIGINT to a real process; then the same command to the end."""
        table_of_ecgs(tmp_path / "ecgs.parquet", 2000)
        out = tmp_path / "out.parquet"
        command = [sys.executable, "-m", "modeling_merit.processing.cli", "embed", str(tmp_path / "ecgs.parquet")]
        command += ["--model", checkpoint, "--out", str(out), "--rows-per-part", "20", "--batch-size", "4"]
        # A shell that starts the tests in the background has them ignore SIGINT, and what they start, too.
        heed = (
            f"import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv({command[0]!r}, {command!r})"
        )
        heeding = [sys.executable, "-c", heed, *command]
        job = subprocess.Popen(heeding, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        partial = tmp_path / "out.parquet.partial"
        while job.poll() is None and len(list(partial.glob("part-*"))) < 2:
            time.sleep(0.01)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate()
        assert job.returncode == 130, said
        kept = PartFolder(partial).ids()
        assert 40 <= len(kept) < 2000 and f"{len(kept)} finished rows are kept" in said
        assert main(command[3:]) == 0
        table = pd.read_parquet(out)
        assert sorted(map(int, table["record_id"])) == list(range(2000))

    def test_a_table_names_the_files_that_failed(self, checkpoint, tree, tmp_path, capsys):
        out = tmp_path / "parts"
        command = ["embed", str(tree), "--model", checkpoint, "--out", str(out)]
        assert main(command) == 1
        streams = capsys.readouterr()
        assert "14 ECGs, 0 of them done before, 13 embedded now, 1 failed now" in streams.out
        assert "r03.hea: " in streams.err
        assert main([*command, "--features", "pooled"]) == 2
        assert "`--overwrite`" in capsys.readouterr().err
        assert main(["embed", str(tmp_path), "--pattern", "none", "--model", checkpoint, "--out", str(out)]) == 2
        assert main(["embed", str(tree), "--model", checkpoint, "--out", str(tmp_path / "absent" / "parts")]) == 2

    def test_sizes_are_checked(self, checkpoint, tmp_path):
        with pytest.raises(ValueError, match="positive sizes"):
            embed_to_folder([], tmp_path / "o", checkpoint, workers=0)
        with pytest.raises(ValueError, match="local, ray"):
            embed_to_folder([], tmp_path / "o", checkpoint, engine="dask")


@pytest.mark.slow
@pytest.mark.timeout(900)  # every process of Ray imports torch
class TestRay:
    def test_equals_the_local_engine(self, checkpoint, tree, tmp_path, monkeypatch, capsys):
        pytest.importorskip("ray")
        monkeypatch.chdir(tree.parent)  # a relative path reaches the actors
        command = ["embed", tree.name, "--model", checkpoint, "--rows-per-part", "5"]
        assert main([*command, "--out", str(tmp_path / "ray"), "--engine", "ray"]) == 1
        assert main([*command, "--out", str(tmp_path / "local")]) == 1
        tables = [pd.read_parquet(tmp_path / name).set_index("record_id") for name in ("ray", "local")]
        assert tables[0]["error"].notna().sum() == 1
        for name, vector in tables[1]["embedding"].dropna().items():
            np.testing.assert_allclose(tables[0].loc[name, "embedding"], vector, atol=1e-6)
        pd.testing.assert_frame_equal(tables[0].drop(columns="embedding"), tables[1].drop(columns="embedding"))

    def test_an_ecg_that_ends_every_process_ends_the_job(self, checkpoint, tree, tmp_path):
        pytest.importorskip("ray")
        code = (
            "import os, modeling_merit.processing.batch_embedding as batches\n"
            "batches.MOST_TRIES = 2\n"
            "class Deadly(batches._UnitEmbedder):\n"
            "    def __init__(self, work): self.work, self.folder = work, batches.PartFolder(work['out'])\n"
            "    def rows(self, sources): os._exit(1)\n"
            "    __module__ = '__main__'\n"
            "batches._UnitEmbedder = Deadly\n"
            f"sources = batches.__dict__['EcgSource']('a', {str(tree / 'p0' / 'r00.hea')!r})\n"
            f"batches.embed_to_folder([sources], {str(tmp_path / 'out')!r}, {checkpoint!r}, engine='ray')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=800)
        assert done.returncode == 1 and "processes were lost over the ECGs 'a' to 'a'" in done.stderr

    def test_killed_actors_and_a_killed_job_lose_and_double_nothing(self, checkpoint, tmp_path):
        pytest.importorskip("ray")
        if not Path("/proc/self/stat").is_file():
            pytest.skip("finds the actors through /proc")
        table_of_ecgs(tmp_path / "ecgs.parquet", 3000)
        out = tmp_path / "out"
        command = [sys.executable, ROOT / "benchmarks" / "ray_kill.py", tmp_path / "ecgs.parquet"]
        command += ["--model", checkpoint, "--out", out, "--output", tmp_path / "r.json"]
        command += ["--kills", "2", "--workers", "1", "--rows_per_part", "50"]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
        log = json.loads((tmp_path / "r.json").read_text())
        assert [event["event"] for event in log["log"]].count("actor killed") == 2
        kept = log["records_kept_at_the_kill_of_the_job"]
        assert 100 <= kept < 3000
        assert log["restarted"].startswith(f"3000 ECGs, {kept} of them done before, {3000 - kept} embedded now")
        assert log["once_more"].startswith("3000 ECGs, 3000 of them done before, 0 embedded now")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = pd.read_parquet(out)
        assert sorted(map(int, table["record_id"])) == list(range(3000))
        assert table["embedding"].notna().all()
