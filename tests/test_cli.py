"""The command line `merit-ecg`, on written files and on real ones."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tiny_models import build, merit_config

from modeling_merit import MeritForEcgClassification, MeritModel
from modeling_merit.processing import EcgRecord, MeritFeatureExtractor, MeritProcessor, read_ecg
from modeling_merit.processing.benchmark.prompts import SCORE_MEANING, load_prompts
from modeling_merit.processing.cli import main
from modeling_merit.processing.commands import embed as embed_command
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import (
    REPORT_LANGUAGES,
    SIMILARITY_WEIGHT,
    embed_ecgs,
    load_checkpoint,
    score_prompts,
)
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.metrics.statements import report_language
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.writers import write_edf, write_wfdb


@pytest.fixture
def record() -> EcgRecord:
    """Ten seconds of a wave of 1 mV in I and 2 mV in II, at 100 Hz, with the leads that follow."""
    wave = np.round(np.sin(np.arange(1000) / 5), 3)
    signal = np.zeros((12, 1000))
    signal[0], signal[1], signal[2] = wave, 2 * wave, wave
    signal[3:] = -1.5 * wave
    return EcgRecord(signal, 100, STANDARD_LEADS, record_id="wave", age=61, sex="female")


@pytest.fixture
def wave_file(record, tmp_path) -> str:
    return str(write_wfdb(record, tmp_path))


@pytest.fixture(scope="session")
def checkpoint(tiny_tokenizer, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    build(MeritModel, merit_config()).save_pretrained(folder)
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder)
    return str(folder)


class TestInspect:
    def test_json(self, wave_file, capsys):
        assert main(["inspect", wave_file, "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["format"], summary["leads"]) == ("wfdb", list(STANDARD_LEADS))
        assert (summary["sampling_rate"], summary["n_samples"], summary["duration_s"]) == (100, 1000, 10)
        assert (summary["unit"], summary["gain"], summary["age"], summary["sex"]) == ("mV", 1000, 61, "female")
        assert summary["peak_to_peak_mv"]["I"] == pytest.approx(2, abs=0.01)
        assert summary["peak_to_peak_mv"]["II"] == pytest.approx(4, abs=0.01)
        assert summary["quality"]["einthoven_residual_mv"] == pytest.approx(0, abs=1e-6)
        assert summary["quality"]["flat_leads"] == []
        assert (summary["notes"], summary["disclaimer"]) == ([], DISCLAIMER)
        assert summary["measurements"]["heart_rate"]["valid"] is False  # a sine is no ECG

    def test_measurements(self, tmp_path, capsys):
        ecg = simulate_ecg("atrial_fibrillation", seed=1, sampling_rate=250)
        path = str(write_wfdb(EcgRecord(ecg.signal, 250, ecg.leads), tmp_path))
        assert main(["inspect", path, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["measurements"]
        assert found["heart_rate"]["value"] == pytest.approx(ecg.factors["heart_rate"], abs=0.5)
        assert main(["inspect", path]) == 0
        printed = capsys.readouterr().out
        assert f"heart rate              {found['heart_rate']['value']:.0f} 1/min\n" in printed
        assert "PR                      not given: no P wave that the beats repeat\n" in printed

    def test_refused_file(self, tmp_path, capsys):
        (tmp_path / "a.edf").write_bytes(b"0       nonsense")
        assert main(["inspect", str(tmp_path / "a.edf"), "--json"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["type"] == "EcgFormatError"
        assert "EDF" in error["message"]
        assert main(["inspect", str(tmp_path / "a.edf")]) == 2
        streams = capsys.readouterr()
        assert streams.out == ""
        assert streams.err.startswith("merit-ecg: ")

    def test_text_and_plot(self, wave_file, tmp_path, capsys):
        image = tmp_path / "wave.png"
        assert main(["inspect", wave_file, "--plot", str(image)]) == 0
        printed = capsys.readouterr().out
        assert "1000 samples at 100 Hz = 10 s" in printed
        assert printed.count("sampling_rate") == 0 and printed.count("duration_s") == 0  # said once, as "signal"
        assert re.search(r"flat_leads +none\nclipped_leads +none\neinthoven_residual_mv +0.0000\n", printed)
        assert printed.endswith(DISCLAIMER + "\n")
        assert image.read_bytes().startswith(b"\x89PNG")

    def test_flags_and_warnings_are_shown(self, tmp_path, capsys):
        signal = np.random.default_rng(0).normal(size=(2, 1000))
        signal[1] = 0
        signal[0, 200:300] = np.nan
        path = write_wfdb(EcgRecord(signal * 1000, 100, ("I", "V1")), tmp_path)
        assert main(["inspect", str(path), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["quality"]["flat_leads"] == ["V1"]
        assert summary["quality"]["nan_fraction"] == pytest.approx(0.05)
        assert summary["notes"][0] == "I: 100 of 1000 samples invalid"
        assert any("unit" in note for note in summary["notes"][1:])

    def test_leads_without_a_row_in_the_model(self, tmp_path, capsys):
        path = write_wfdb(EcgRecord(np.random.default_rng(0).normal(size=(1, 1000)), 100, ("MLII",)), tmp_path)
        assert main(["inspect", str(path), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["quality"] is None
        assert summary["notes"][0].startswith("no quality flags: ")

    @pytest.mark.parametrize("leads", ["I,II", "col 0=I,col 1=II"])
    def test_stated_facts(self, tmp_path, capsys, leads):
        (tmp_path / "a.csv").write_text("col 0,col 1\n" + "0.5,0.1\n0.1,0.5\n" * 50)
        command = ["inspect", str(tmp_path / "a.csv"), "--json", "--format", "csv", "--units", "mV"]
        assert main(command) == 2
        assert "--sampling-rate" in json.loads(capsys.readouterr().out)["error"]["message"]
        assert main([*command, "--sampling-rate", "250", "--leads", leads]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["leads"], summary["sampling_rate"]) == (["I", "II"], 250)

    @pytest.mark.slow
    def test_as_a_process(self, wave_file):
        command = [sys.executable, "-m", "modeling_merit.processing.cli", "inspect"]
        good = subprocess.run([*command, wave_file, "--json"], capture_output=True, text=True)
        assert (good.returncode, good.stderr) == (0, "")
        assert json.loads(good.stdout)["n_samples"] == 1000
        bad = subprocess.run([*command, wave_file + "x", "--json"], capture_output=True, text=True)
        assert (bad.returncode, bad.stderr) == (2, "")
        assert json.loads(bad.stdout)["error"]["type"] == "EcgFormatError"


class TestConvert:
    @pytest.mark.parametrize("name", ["out.edf", "out.hea", "out.npz"])
    def test_what_is_written_reads_back(self, wave_file, record, tmp_path, capsys, name):
        out = tmp_path / "new" / name
        out.parent.mkdir()
        assert main(["convert", wave_file, str(out)]) == 0
        assert capsys.readouterr().out == f"{out}\n{DISCLAIMER}\n"
        back = read_ecg(out)
        assert (back.leads, back.sampling_rate, back.sex) == (STANDARD_LEADS, 100, "female")
        np.testing.assert_allclose(back.signal, record.signal, atol=0.00051)

    def test_json(self, tmp_path):
        signal = np.array([[0.5, np.nan, -0.25]])
        path = write_wfdb(EcgRecord(signal, 100, ("II",)), tmp_path)
        assert main(["convert", str(path), str(tmp_path / "out.json")]) == 0
        content = json.loads((tmp_path / "out.json").read_text())
        assert content.pop("disclaimer") == DISCLAIMER
        assert content == {
            "sampling_rate": 100,
            "leads": ["II"],
            "units": "mV",
            "record_id": "ecg",
            "signal": [[0.5, None, -0.25]],
        }

    def test_messages_name_the_options_of_the_command_line(self, tmp_path, capsys):
        (tmp_path / "a.csv").write_text("time [s],I\n0.00,0.5\n0.01,0.1\n")
        assert main(["convert", str(tmp_path / "a.csv"), str(tmp_path / "a.npz")]) == 2
        assert "state `--units`" in capsys.readouterr().err
        (tmp_path / "a.csv").write_text("time [s],I [mV],arm [mV]\n0.00,0.5,1\n0.01,0.1,1\n")
        assert main(["inspect", str(tmp_path / "a.csv"), "--json"]) == 2
        assert '--leads "name in the file=lead name' in json.loads(capsys.readouterr().out)["error"]["message"]
        assert main(["inspect", str(tmp_path / "a.csv"), "--leads", "arm="]) == 0

    @pytest.mark.parametrize("name", ["out.edf", "out.npz", "out.json"])
    def test_a_folder_that_is_not_there_is_named(self, wave_file, tmp_path, capsys, name):
        assert main(["convert", wave_file, str(tmp_path / "absent" / name)]) == 2
        assert "There is no folder" in capsys.readouterr().err

    def test_refuses_other_names(self, wave_file, tmp_path, capsys):
        assert main(["convert", wave_file, str(tmp_path / "out.gif")]) == 2
        assert ".edf, .hea, .npz, .json" in capsys.readouterr().err


def contents(folder) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestNothingIsLost:
    @pytest.mark.parametrize(
        ("out", "there"),
        [
            ("out.edf", "out.edf"),
            ("out.npz", "out.npz"),
            ("out.json", "out.json"),
            ("out.csv", "out.csv"),
            ("out.hea", "out.hea"),
            ("out.hea", "out.dat"),
            ("my out.hea", "my_out.hea"),
            ("my out.hea", "my_out.dat"),
            ("out.v2.HEA", "out_v2.dat"),
        ],
    )
    def test_convert_replaces_a_file_only_if_told(self, wave_file, tmp_path, capsys, out, there):
        (tmp_path / there).write_bytes(b"years of work")
        before = contents(tmp_path)
        assert main(["convert", wave_file, str(tmp_path / out)]) == 2
        message = capsys.readouterr().err
        assert "exists already" in message and there in message and "`--overwrite`" in message
        assert contents(tmp_path) == before
        assert main(["convert", wave_file, str(tmp_path / out), "--overwrite"]) == 0
        after = contents(tmp_path)
        assert after[there] != b"years of work" and len(after) <= len(before) + 1
        written = capsys.readouterr().out.splitlines()[0]
        assert read_ecg(written).leads == STANDARD_LEADS

    @pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
    def test_convert_does_not_write_through_a_link(self, wave_file, tmp_path, capsys):
        (tmp_path / "out.npz").symlink_to(tmp_path / "absent.npz")
        assert main(["convert", wave_file, str(tmp_path / "out.npz")]) == 2
        (tmp_path / "kept.txt").write_text("years of work")
        (tmp_path / "link.npz").symlink_to(tmp_path / "kept.txt")
        assert main(["convert", wave_file, str(tmp_path / "link.npz"), "--overwrite"]) == 0
        assert (tmp_path / "kept.txt").read_text() == "years of work"

    @pytest.mark.parametrize("name", ["out.edf", "out.npz", "out.json", "out.csv", "out.hea"])
    def test_a_failure_while_writing_leaves_what_was_there(self, wave_file, tmp_path, capsys, monkeypatch, name):
        """A full disk, say: what was there stays to the bit, and no half-written file beside it."""
        import edfio
        import wfdb

        def fail(*args, **kwargs):
            raise OSError("No space left on device")

        assert main(["convert", wave_file, str(tmp_path / name)]) == 0
        before = contents(tmp_path)
        if name == "out.hea":
            write = wfdb.wrsamp
            monkeypatch.setattr(wfdb, "wrsamp", lambda *args, **kwargs: fail(write(*args, **kwargs)))
        else:
            monkeypatch.setattr("os.replace", fail)  # after all is written
            monkeypatch.setattr(edfio.Edf, "write", fail)
        assert main(["convert", wave_file, str(tmp_path / name), "--overwrite"]) == 2
        assert "No space left" in capsys.readouterr().err
        assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == len(before)

    def test_input_and_output_may_be_the_same_file(self, record, tmp_path, capsys):
        path = str(write_edf(record, tmp_path / "wave.edf"))
        assert main(["convert", path, path]) == 2
        assert main(["convert", path, path, "--overwrite"]) == 0
        np.testing.assert_allclose(read_ecg(path).signal, record.signal, atol=0.00051)

    def test_embed_replaces_a_table_only_if_told(self, checkpoint, wave_file, tmp_path, capsys):
        out = tmp_path / "a.parquet"
        out.write_bytes(b"years of work")
        command = ["embed", wave_file, "--model", checkpoint, "--out", str(out)]
        assert main(command) == 2
        assert "exists already" in capsys.readouterr().err
        assert out.read_bytes() == b"years of work"
        assert main([*command, "--overwrite"]) == 0
        assert len(pd.read_parquet(out)) == 1

    @pytest.mark.parametrize("there", [True, False])
    def test_embed_of_nothing_leaves_the_table(self, checkpoint, tmp_path, capsys, there):
        out = tmp_path / "a.parquet"
        if there:
            out.write_bytes(b"years of work")
        before = contents(tmp_path)
        command = ["embed", str(tmp_path / "absent.edf"), "--model", checkpoint, "--out", str(out), "--overwrite"]
        assert main(command) == 1
        assert "is not written" in capsys.readouterr().err
        assert contents(tmp_path) == before

    def test_a_failing_table_leaves_the_one_before(self, checkpoint, wave_file, tmp_path, monkeypatch, capsys):
        out = tmp_path / "a.parquet"
        command = ["embed", wave_file, "--model", checkpoint, "--out", str(out), "--overwrite"]
        assert main(command) == 0
        before = contents(tmp_path)

        def fail(path, schema):
            path.write_bytes(b"half")
            raise OSError("No space left on device")

        monkeypatch.setattr("pyarrow.parquet.ParquetWriter", fail)
        assert main(command) == 2
        after = contents(tmp_path)  # and beside it what was computed
        assert {name: after[name] for name in before} == before
        assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"a.parquet.partial"}
        monkeypatch.undo()
        assert main(command) == 0
        assert contents(tmp_path).keys() == before.keys()

    def test_a_plot_replaces_an_image_only_if_told(self, wave_file, tmp_path, capsys):
        image = tmp_path / "scan.png"
        image.write_bytes(b"years of work")
        assert main(["inspect", wave_file, "--plot", str(image)]) == 2
        assert image.read_bytes() == b"years of work"
        assert main(["inspect", wave_file, "--plot", str(image), "--overwrite"]) == 0
        assert image.read_bytes().startswith(b"\x89PNG")


ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\x00\x7f\r\nfake line"


class TestTerminal:
    """What files say cannot command the terminal, forge lines of output, or fill it."""

    def clean(self, capsys) -> str:
        streams = capsys.readouterr()
        for text in streams:
            text = re.sub(r"(^|\r|\n)[^\r\n]*?(?:(?:it|ECG)/s|s/(?:it|ECG))\]", r"\n", text)  # bars of progress
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), repr(text)
            assert not re.search("^fake", text, re.MULTILINE)
        return streams.out + streams.err

    def archive(self, tmp_path, name="a.npz", **fields) -> str:
        fields = {"signal": np.ones((1, 1000)), "sampling_rate": 100, "leads": ["I"], "units": "mV"} | fields
        with open(tmp_path / name, "wb") as file:
            np.savez(file, **fields)
        return str(tmp_path / name)

    def test_record_id(self, tmp_path, capsys):
        path = self.archive(tmp_path, record_id="jane" + ESCAPES)
        assert main(["inspect", path]) == 0
        assert r"jane\x1b[2J\x1b]0;owned\x07\x9b31m\u202e" in self.clean(capsys)
        assert main(["inspect", path, "--json"]) == 0
        text = capsys.readouterr().out
        assert text.isascii() and text.count("\n") == 1
        assert json.loads(text)["record_id"].startswith("jane")

    def test_every_text_of_a_record(self, tmp_path, capsys, monkeypatch):
        texts = {name: name + ESCAPES for name in ("record_id", "device", "filters", "sex", "unit")}
        record = EcgRecord(np.ones((1, 1000)), 100, ("I",), notes=("note" + ESCAPES,), **texts)
        monkeypatch.setattr("modeling_merit.processing.commands.inspect.read_ecg", lambda *args, **facts: record)
        assert main(["inspect", self.archive(tmp_path)]) == 0
        text = self.clean(capsys)
        assert all(rf"{name}\x1b[2J" in text for name in (*texts, "note"))

    @pytest.mark.parametrize("command", ["inspect", "convert", "embed"])
    def test_file_names(self, checkpoint, tmp_path, capsys, command):
        name = "a" + ESCAPES.replace("\0", "").replace("/", "") + ".npz"
        path = self.archive(tmp_path, name)
        rest = {"convert": [str(tmp_path / (name[:-4] + ".json"))]}
        rest["embed"] = [path + "absent", "--model", checkpoint, "--out", str(tmp_path / (name + ".parquet"))]
        assert main([command, path, *rest.get(command, [])]) in (0, 1)
        self.clean(capsys)
        assert main([command, path + "absent", *rest.get(command, [])]) in (1, 2)
        assert r"\x1b[2J" in self.clean(capsys)
        with pytest.raises(SystemExit):
            main(["inspect", path, path])
        assert r"\x1b[2J" in self.clean(capsys)

    def test_error_texts(self, tmp_path, capsys):
        """Channel names of a file stand in the message, in one line of bounded length."""
        (tmp_path / "a.csv").write_text(f"I [mV],{ESCAPES[:-11]}x{'y' * 5000} [mV]\n" + "1,2\n" * 100)
        assert main(["inspect", str(tmp_path / "a.csv"), "--sampling-rate", "100"]) == 2
        text = self.clean(capsys)
        assert len(text) < 1200 and text.count("\n") == 1
        assert main(["inspect", str(tmp_path / "a.csv"), "--sampling-rate", "100", "--json"]) == 2
        assert len(capsys.readouterr().out) < 6000

    @pytest.mark.parametrize("path", ["", ".", "/", "a\0b", "x" * 5000, "/".join(["d" * 200] * 50)])
    @pytest.mark.parametrize("command", ["inspect", "convert", "embed", "model", "out", "table", "plot", "prompts"])
    def test_paths(self, checkpoint, wave_file, tmp_path, capsys, monkeypatch, command, path):
        out, table = str(tmp_path / "o.json"), str(tmp_path / "o.parquet")
        argv = {
            "inspect": ["inspect", path],
            "convert": ["convert", path, out],
            "embed": ["embed", path, "--model", checkpoint, "--out", table],
            "model": ["embed", wave_file, "--model", path, "--out", table],
            "out": ["convert", wave_file, path + ".json" if len(path) > 1 else path],
            "table": ["embed", wave_file, "--model", checkpoint, "--out", path + ".parquet"],
            "plot": ["inspect", wave_file, "--plot", path],
            "prompts": ["classify", wave_file, "--model", checkpoint, "--prompts", path + ".json"],
        }[command]
        if command == "embed":  # whose files may be folders
            monkeypatch.setattr("os.walk", lambda folder: iter([(folder, [], ["picture.png"])]))
        before = contents(tmp_path)
        if (command, path) == ("table", "."):
            argv[-1] = str(tmp_path / "absent" / ".parquet")
        elif (command, path) == ("table", ""):
            argv[-1] = ""
        assert main(argv) in (1, 2)
        streams = capsys.readouterr()
        lines = [line for line in re.sub(r"\r[^\r\n]*it/s\]", "", streams.err).split("\n") if line]
        assert 1 <= len(lines) <= 2 and all(len(line) < 1500 for line in lines)
        assert contents(tmp_path) == before

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
    def test_forbidden_paths(self, wave_file, tmp_path, capsys):
        (tmp_path / "shut").mkdir(mode=0o500)
        assert main(["convert", wave_file, str(tmp_path / "shut" / "o.json")]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    @pytest.mark.parametrize("age", [np.nan, np.inf, -np.inf])
    def test_json_of_odd_numbers(self, tmp_path, capsys, age, monkeypatch):
        signal = np.array([[3e38, -3e38] * 500], np.float32)
        record = EcgRecord(signal, 100, ("I",), age=age, gain=age)
        monkeypatch.setattr("modeling_merit.processing.commands.inspect.read_ecg", lambda *args, **facts: record)
        assert main(["inspect", self.archive(tmp_path), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert (summary["age"], summary["gain"]) == (None, None)
        assert summary["peak_to_peak_mv"]["I"] == pytest.approx(6e38)
        for name in ("o.json", "o.npz", "o.hea"):
            small = EcgRecord(np.ones((1, 1000)), 100, ("I",), age=age, gain=age)
            reader = "modeling_merit.processing.commands.convert.read_ecg"
            monkeypatch.setattr(reader, lambda *args, small=small, **facts: small)
            assert main(["convert", "x", str(tmp_path / name)]) == 0
            assert read_ecg(tmp_path / name).age is None

    def test_an_age_that_is_no_number(self, tmp_path, capsys):
        assert main(["inspect", self.archive(tmp_path, age=np.nan), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["age"] is None


class TestModelCommands:
    def test_embed_lists_what_fails_and_goes_on(self, checkpoint, wave_file, record, tmp_path, capsys):
        edf = str(write_edf(record, tmp_path / "wave.edf"))
        out = tmp_path / "embeddings.parquet"
        files = [wave_file, str(tmp_path / "absent.edf"), edf]
        assert main(["embed", *files, "--model", checkpoint, "--out", str(out)]) == 1
        streams = capsys.readouterr()
        assert f"failed: {files[1]}: There is no file" in streams.err
        assert DISCLAIMER in streams.out
        table = pd.read_parquet(out)
        assert table["file"].tolist() == [wave_file, edf]
        first, second = (torch.tensor(np.array(row)) for row in table["embedding"])
        assert first.shape == (8,)
        assert torch.linalg.vector_norm(first).item() == pytest.approx(1, abs=1e-5)
        assert torch.dot(first, second).item() > 0.999

    def test_embed_writes_the_features_asked_for(self, checkpoint, wave_file, tmp_path):
        rows = {}
        for kind in ("pooled", "aligned"):
            out = tmp_path / f"{kind}.parquet"
            assert main(["embed", wave_file, "--model", checkpoint, "--out", str(out), "--features", kind]) == 0
            rows[kind] = pd.read_parquet(out)["embedding"][0]
        model = MeritModel.from_pretrained(checkpoint)
        assert rows["pooled"].size == model.config.ecg_config.pooler_size != rows["aligned"].size
        aligned = model.ecg_projection(torch.tensor(rows["pooled"])).detach()
        np.testing.assert_allclose(aligned, rows["aligned"], atol=1e-5)

    def test_embed_wants_parquet(self, checkpoint, wave_file, capsys):
        assert main(["embed", wave_file, "--model", checkpoint, "--out", "a.csv"]) == 2
        assert ".parquet" in capsys.readouterr().err
        assert main(["embed", wave_file, "--model", checkpoint, "--out", "absent/a.parquet"]) == 2
        assert "There is no folder 'absent'" in capsys.readouterr().err

    def test_a_folder_that_is_no_checkpoint(self, wave_file, tmp_path, capsys):
        command = ["classify", wave_file, "--model", str(tmp_path), "--prompts", "superclass", "--json"]
        assert main(command) == 2
        assert str(tmp_path) in json.loads(capsys.readouterr().out)["error"]["message"]
        assert main(["report", wave_file, "--model", str(tmp_path / "absent")]) == 2
        message = capsys.readouterr().err
        assert message.startswith("merit-ecg: There is no folder") and message.count("\n") == 1

    def test_classify_equals_the_library(self, checkpoint, wave_file, capsys):
        prompts = ["sinus rhythm", "atrial fibrillation", "left bundle branch block"]
        assert main(["classify", wave_file, "--model", checkpoint, "--json", "--prompts", *prompts]) == 0
        result = json.loads(capsys.readouterr().out)
        model = transformers.AutoModel.from_pretrained(checkpoint)
        processor = transformers.AutoProcessor.from_pretrained(checkpoint)
        with torch.no_grad():
            outputs = model(**processor(ecg=read_ecg(wave_file), text=prompts, return_tensors="pt"))
        cosine = (outputs.ecg_embeds @ outputs.text_embeds.T)[0]
        assert list(result["scores"]) == prompts
        assert list(result["cosine_similarity"].values()) == pytest.approx(cosine.tolist(), abs=1e-5)
        scaled = SIMILARITY_WEIGHT * model.get_logit_scale() * (cosine - cosine.mean())
        assert list(result["scores"].values()) == pytest.approx(scaled.tolist(), abs=1e-5)
        assert (result["meaning"], result["notes"], result["disclaimer"]) == (SCORE_MEANING, [], DISCLAIMER)
        assert main(["classify", wave_file, "--model", checkpoint, "--prompts", *prompts]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == wave_file and printed[-2:] == [SCORE_MEANING, DISCLAIMER]
        scores = [float(line.split()[0]) for line in printed[1:4]]
        assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(0, abs=0.005)
        assert "not a probability" in SCORE_MEANING

    @pytest.mark.parametrize("languages", [[], ["de"]])
    def test_classify_with_a_label_set(self, checkpoint, wave_file, capsys, languages):
        command = ["classify", wave_file, "--model", checkpoint, "--json", "--prompts", "superclass"]
        assert main([*command, *(["--languages", *languages] if languages else [])]) == 0
        result = json.loads(capsys.readouterr().out)
        prompts = load_prompts("superclass", languages or ("en", "de"))
        with pytest.warns(UserWarning, match="1 of .* texts have words that the model does not know"):  # the "&"
            expected = score_prompts(*load_checkpoint(checkpoint), read_ecg(wave_file), prompts).score[0]
        assert list(result["scores"]) == ["CD", "HYP", "MI", "NORM", "STTC"]
        assert list(result["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-6)

    def test_classify_with_a_file_of_prompts(self, checkpoint, wave_file, tmp_path, capsys):
        prompts = {"AFIB": ["atrial fibrillation", "atrial"], "SR": "sinus rhythm"}
        (tmp_path / "p.json").write_text(json.dumps(prompts))
        command = ["classify", wave_file, "--model", checkpoint, "--json", "--prompts"]
        assert main([*command, str(tmp_path / "p.json")]) == 0
        result = json.loads(capsys.readouterr().out)
        given = prompts | {"SR": ["sinus rhythm"]}
        expected = score_prompts(*load_checkpoint(checkpoint), read_ecg(wave_file), given).score[0]
        assert result["scores"] == pytest.approx(dict(zip(prompts, expected.tolist())), abs=1e-6)
        for content in ("{", "[]", '{"AFIB": []}', '{"AFIB": ["a"], "AFIB": ["b"]}', "[" * 100_000, "\ud800"):
            (tmp_path / "p.json").write_text(content, errors="surrogatepass")
            assert main([*command, str(tmp_path / "p.json")]) == 2
            assert "p.json" in json.loads(capsys.readouterr().out)["error"]["message"]

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            (["sinus rhythm"], "Expected two or more prompts"),
            (["superclass", "rhythm"], "one label set or file alone"),
            (["sinus rhythm", "p.json"], "one label set or file alone"),
            (["sinus rhythm", "sinus rhythm"], "more than once"),
            (["sinus rhythm", "Sinus Rhythm"], "the same to the model"),
            (["心电图", "sinus rhythm"], "of which it knows none"),
            (["absent.json"], "absent.json"),
        ],
    )
    def test_prompts_without_a_meaning_are_refused(self, checkpoint, wave_file, capsys, prompts, message):
        assert main(["classify", wave_file, "--model", checkpoint, "--prompts", *prompts]) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("calibrated", [True, False])
    def test_classify_with_a_classifier(self, wave_file, tmp_path, capsys, calibrated):
        config = merit_config().ecg_config
        config.id2label, config.problem_type = {0: "AFIB", 1: "\x1b[2JLBBB", 2: "NORM"}, "multi_label_classification"
        config.thresholds, config.calibrated = [0.0, 1.0, 0.0], calibrated
        model = build(MeritForEcgClassification, config)
        model.save_pretrained(tmp_path)
        MeritFeatureExtractor().save_pretrained(tmp_path)
        assert main(["classify", wave_file, "--model", str(tmp_path), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        with torch.no_grad():
            logits = model.eval()(**MeritFeatureExtractor()(read_ecg(wave_file), return_tensors="pt")).logits[0]
        assert list(result["probabilities"].values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
        assert result["reached"] == ["AFIB", "NORM"] and list(result["thresholds"].values()) == [0, 1, 0]
        assert ("Not calibrated" not in result["meaning"]) == calibrated and result["disclaimer"] == DISCLAIMER
        assert main(["classify", wave_file, "--model", str(tmp_path)]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert [line.split()[1] for line in printed[1:4]].count("*") == 2 and printed[-1] == DISCLAIMER
        assert not any("\x1b" in line or "fibrillation" in line for line in printed)

    def test_statements_of_ptb_xl_are_said_in_words(self, wave_file, tmp_path, capsys):
        config = merit_config().ecg_config
        config.id2label, config.problem_type = {0: "AFIB", 1: "LAO/LAE"}, "multi_label_classification"
        build(MeritForEcgClassification, config).save_pretrained(tmp_path)
        MeritFeatureExtractor().save_pretrained(tmp_path)
        assert main(["classify", wave_file, "--model", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert re.search(r"AFIB +atrial fibrillation\n", printed) and re.search(r"LAO/LAE +left atrial over", printed)

    def test_amplitudes_that_are_none_of_an_ecg(self, record, wave_file, tmp_path, capsys):
        config = merit_config().ecg_config
        config.id2label, config.problem_type = {0: "AFIB", 1: "NORM"}, "multi_label_classification"
        config.calibrated = True
        build(MeritForEcgClassification, config).save_pretrained(tmp_path / "model")
        MeritFeatureExtractor().save_pretrained(tmp_path / "model")
        odd = str(write_edf(EcgRecord(record.signal / 1000, 100, STANDARD_LEADS), tmp_path / "odd.edf"))
        command = ["classify", "--model", str(tmp_path / "model"), odd]
        assert main([*command, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert "Implausible amplitude" in result["notes"][0] and "Unreliable" in result["meaning"]
        assert "Calibrated" not in result["meaning"]
        assert main(command) == 0
        streams = capsys.readouterr()
        assert "Calibrated" not in streams.out and "Unreliable" in streams.out and "odd.edf: Impl" in streams.err
        assert main([*command, wave_file]) == 0
        printed = capsys.readouterr().out
        assert f"{odd}  (unreliable)\n" in printed and f"{wave_file}\n" in printed
        assert "Calibrated" in printed and "Unreliable" in printed

    def test_an_ecg_without_any_signal_is_refused(
        self, checkpoint, report_checkpoint, record, wave_file, tmp_path, capsys
    ):
        """Next to one that has a signal; it is still embedded."""
        config = merit_config().ecg_config
        config.problem_type = "multi_label_classification"
        build(MeritForEcgClassification, config).save_pretrained(tmp_path / "model")
        MeritFeatureExtractor().save_pretrained(tmp_path / "model")
        np.savez(
            flat := tmp_path / "flat.npz",
            signal=0 * record.signal,
            sampling_rate=100,
            leads=STANDARD_LEADS,
            units="mV",
        )
        for command in (
            ["classify", "--model", str(tmp_path / "model")],
            ["classify", "--model", checkpoint, "--prompts", "sinus", "atrial"],
            ["report", "--model", report_checkpoint, "--max-new-tokens", "3"],
        ):
            assert main([command[0], str(flat), wave_file, *command[1:]]) == 1
            streams = capsys.readouterr()
            assert "flat.npz: ECG 0 holds no signal" in streams.err
            assert wave_file in streams.out and "flat.npz" not in streams.out

    def test_nothing_is_explained_where_no_file_could_be_read(self, checkpoint, tmp_path, capsys):
        command = ["classify", str(tmp_path / "absent.edf"), "--model", checkpoint, "--prompts", "sinus", "atrial"]
        assert main(command) == 1
        streams = capsys.readouterr()
        assert streams.out == "" and "absent.edf: There is no file" in streams.err

    def test_classify_without_prompts_needs_a_classifier(self, checkpoint, report_checkpoint, wave_file, capsys):
        for model in (checkpoint, report_checkpoint):
            assert main(["classify", wave_file, "--model", model]) == 2
            assert "Expected" in capsys.readouterr().err

    def test_prompts_that_are_cut_are_noted(self, checkpoint, wave_file, capsys):
        command = ["classify", wave_file, "--model", checkpoint, "--prompts", "sinus rhythm " * 40, "atrial"]
        assert main(command) == 0
        assert "1 of 2 texts have more than the 64 tokens that the model reads" in capsys.readouterr().err
        assert main([*command, "--json"]) == 0
        assert "64 tokens" in json.loads(capsys.readouterr().out)["notes"][0]

    def test_too_long_is_a_failure_or_cut(self, checkpoint, tmp_path, capsys):
        path = str(
            write_wfdb(EcgRecord(np.random.default_rng(0).normal(size=(12, 6000)), 100, STANDARD_LEADS), tmp_path)
        )
        command = ["classify", path, "--model", checkpoint, "--prompts", "sinus rhythm", "atrial", "--json"]
        assert main(command) == 1
        assert "pass `--truncate` to crop it" in capsys.readouterr().err
        assert main([*command, "--truncate"]) == 0

    def test_report_with_a_model_that_writes_none(self, checkpoint, wave_file, report_checkpoint, capsys):
        assert main(["report", wave_file, "--model", checkpoint]) == 2
        message = capsys.readouterr().err
        assert "a model that writes reports" in message and "train_report_generation.py" in message
        assert message.count("\n") == 1 and len(message) < 400
        assert main(["classify", wave_file, "--model", report_checkpoint, "--prompts", "rhythm"]) == 2
        assert "a model that compares ECGs with texts" in capsys.readouterr().err

    def test_report(self, wave_file, report_checkpoint, capsys):
        command = ["report", wave_file, "--model", report_checkpoint, "--max-new-tokens", "7"]
        assert main([*command, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["file"], result["disclaimer"]) == (wave_file, DISCLAIMER)
        processor = transformers.AutoProcessor.from_pretrained(report_checkpoint)
        model = transformers.AutoModelForMultimodalLM.from_pretrained(report_checkpoint)
        prompt = model.config.prompts["report"].format(ecg=processor.ecg_token, language="English")
        inputs = processor(ecg=read_ecg(wave_file), text=prompt, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=7)[0, inputs["input_ids"].shape[1] :]
        assert result["report"] == processor.tokenizer.decode(ids, skip_special_tokens=True).strip() != ""
        assert main(command) == 0
        assert capsys.readouterr().out == f"{wave_file}\n  {result['report']}\n{DISCLAIMER}\n"

    def test_languages_of_reports_are_those_of_training(self):
        text = {"English": "normal ecg", "German": "linkstyp", "Swedish": "sinusrytm, vänster förmak"}
        assert [report_language(text[name]) for name in REPORT_LANGUAGES] == list(text)

    def test_report_of_another_prompt(self, wave_file, report_checkpoint, capsys):
        command = ["report", wave_file, "--model", report_checkpoint, "--max-new-tokens", "7", "--json"]
        assert main([*command, "--language", "French"]) == 2
        assert "English, German, Swedish" in json.loads(capsys.readouterr().out)["error"]["message"]
        assert main([*command, "--language", "French", "--prompt", "{ecg} Rapport en {language}:"]) == 0
        capsys.readouterr()
        outputs = []
        for options in ([], ["--prompt", "{ecg} Report in {language}:"], ["--prompt", "Rhythm?"]):
            assert main([*command, *options]) == 0
            outputs.append(json.loads(capsys.readouterr().out)["report"])
        assert outputs[0] == outputs[1] != outputs[2]


class TestParts:
    """Parts and windows of a recording."""

    @pytest.fixture
    def long_file(self, tmp_path) -> str:
        signal = np.random.default_rng(0).normal(size=(12, 3000)).round(3)
        return str(write_wfdb(EcgRecord(signal, 100, STANDARD_LEADS, record_id="long"), tmp_path))

    def test_inspect_and_convert(self, long_file, tmp_path, capsys):
        assert main(["inspect", long_file, "--json", "--start", "5", "--seconds", "12.5"]) == 0
        assert json.loads(capsys.readouterr().out)["duration_s"] == 12.5
        assert main(["convert", long_file, str(tmp_path / "o.npz"), "--start", "25"]) == 0
        part = read_ecg(tmp_path / "o.npz")
        np.testing.assert_allclose(part.signal, read_ecg(long_file).signal[:, 2500:], atol=1e-6)

    def test_embed_windows(self, checkpoint, long_file, tmp_path):
        out = tmp_path / "o.parquet"
        command = ["embed", long_file, "--model", checkpoint, "--out", str(out), "--window", "10", "--step", "4"]
        assert main([*command, "--start", "2"]) == 0
        table = pd.read_parquet(out)
        assert table["start_s"].tolist() == [2, 6, 10, 14, 18] and set(table["file"]) == {long_file}
        record = read_ecg(long_file).crop(14, 24)
        expected = embed_ecgs(*load_checkpoint(checkpoint), record)[0]
        np.testing.assert_allclose(table["embedding"][3], expected, atol=1e-5)
        assert table["record_id"][3] == f"{long_file}@14"

    def test_an_interrupt_keeps_the_finished_windows(self, checkpoint, long_file, tmp_path, monkeypatch, capsys):
        calls = []

        def interrupted(*args):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return embed_ecgs(*args)

        monkeypatch.setattr(embed_command, "embed_ecgs", interrupted)
        out = tmp_path / "o.parquet"
        assert main(["embed", long_file, "--model", checkpoint, "--out", str(out), "--window", "10"]) == 130
        assert "2 finished rows are kept" in capsys.readouterr().err and not out.exists()
        assert pd.read_parquet(tmp_path / "o.partial.parquet")["start_s"].tolist() == [0, 10]

    @pytest.mark.parametrize("source", ["folder", "@list", "table.parquet", "memory://a.edf"])
    def test_windows_are_of_files(self, checkpoint, tmp_path, monkeypatch, capsys, source):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        assert main(["embed", source, "--model", checkpoint, "--out", "o.parquet", "--window", "10"]) == 2
        assert f"Expected ECG files for parts or windows, got '{source}'" in capsys.readouterr().err

    def test_classify_windows(self, checkpoint, long_file, capsys):
        command = ["classify", long_file, "--model", checkpoint, "--prompts", "sinus rhythm", "atrial"]
        assert main([*command, "--window", "10", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["start_s"] for row in rows] == [0, 10, 20] and rows[0]["scores"] != rows[1]["scores"]
        assert main([*command, "--start", "20", "--seconds", "5"]) == 0
        assert capsys.readouterr().out.splitlines()[0] == f"{long_file} at 20 s"

    def test_report_windows(self, long_file, report_checkpoint, capsys):
        command = ["report", long_file, "--model", report_checkpoint, "--max-new-tokens", "3", "--window", "15"]
        assert main([*command, "--json"]) == 0
        assert [json.loads(line)["start_s"] for line in capsys.readouterr().out.splitlines()] == [0, 15]

    @pytest.mark.parametrize(
        ("options", "code", "message"),
        [
            (["--step", "2"], 2, "--window beside --step"),
            (["--window", "40"], 1, "at least one window of 40 s"),
            (["--start", "31"], 1, "part of a recording of 30 s"),
            (["--window", "0.05"], 1, " 595 more windows"),
        ],
    )
    def test_windows_that_there_are_not(self, checkpoint, long_file, tmp_path, capsys, options, code, message):
        command = ["embed", long_file, "--model", checkpoint, "--out", str(tmp_path / "o.parquet")]
        assert main([*command, *options]) == code
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        "options", [["--start", "-1"], ["--seconds", "0"], ["--seconds", "nan"], ["--start", "x"]]
    )
    def test_times_that_are_none(self, long_file, capsys, options):
        with pytest.raises(SystemExit):
            main(["inspect", long_file, *options])
        assert "expected" in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("wfdb/cinc2021_mat/HR06000.mat", [], ("wfdb", 12, 500, 5000)),
        ("wfdb/100.dat", [], ("wfdb", 2, 360, 650_000)),
        ("wfdb/multi-segment/s25047/s25047-2704-05-04-10-44.hea", ["--leads", "V="], ("wfdb", 1, 125, 543_240)),
        ("edf/derived_ptbxl_12lead_edfplus.edf", [], ("edf", 12, 500, 5000)),
        ("edf/derived_georgia_12lead_24bit.bdf", [], ("edf", 12, 500, 5000)),
        ("ishne/derived_mitdb100_2lead_360hz.ecg", [], ("ishne", 2, 360, 10_800)),
        ("csv/derived_applewatch_layout_en.csv", [], ("csv", 1, 512, 5120)),
        ("csv/derived_12lead_header_time_mV.csv", ["--units", "mV"], ("csv", 12, 500, 5000)),
        ("dicom/ecgtoolkit_example_12lead.dcm", [], ("dicom", 12, 500, 5000)),
        ("scp_ecg/ecgtoolkit_example.scp", [], ("scp", 12, 500, 5000)),
        ("hl7_aecg/hl7_example_aecg.xml", [], ("aecg", 12, 500, 5000)),
        ("muse_xml/braveheart_example1.xml", [], ("muse", 12, 500, 5000)),
        ("sierra_xml/v1_04_ad4d3d80-d165_1-04_orig.xml", [], ("sierra", 12, 500, 5000)),
        ("mortara_xml/synthetic_ptbxl_12lead_500hz.xml", [], ("mortara", 12, 500, 5000)),
    ],
)
def test_inspect_real_files(data_dir, capsys, name, options, expected):
    assert main(["inspect", str(data_dir / "formats" / name), "--json", *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["format"], len(summary["leads"]), summary["sampling_rate"], summary["n_samples"]) == expected
    assert all(0.1 < peak_to_peak < 20 for peak_to_peak in summary["peak_to_peak_mv"].values())
