"""The Space in `hub_cards/space`: what its buttons do, what it keeps, what it says of itself, and once served."""

import base64
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import setuptools
import torch
import transformers
from browser import CHROMIUM, Browser
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import RepoCard
from tiny_models import build, merit_config

from modeling_merit import MeritForEcgClassification, MeritModel
from modeling_merit.processing import EcgRecord, MeritFeatureExtractor, MeritProcessor
from modeling_merit.processing.batch_embedding import checkpoint_fingerprint
from modeling_merit.processing.benchmark.prompts import load_prompts
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.explanation import explain
from modeling_merit.processing.inference import (
    SIMILARITY_WEIGHT,
    embed_ecgs,
    embed_prompts,
    load_checkpoint,
    score_embeddings,
)
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.measurements import measure
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.search import EcgIndex
from modeling_merit.processing.writers import write_wfdb

REPOSITORY = Path(__file__).resolve().parent.parent
SPACE = REPOSITORY / "hub_cards" / "space"
REQUIREMENTS = SPACE / "requirements.txt"
CSV = b"time [s],I [mV],II [mV]\n" + b"".join(b"%.2f,%.1f,0.5\n" % (i / 100, i % 7 / 10) for i in range(400))


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    """Where the server keeps uploads."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def app(tiny_tokenizer, report_checkpoint, uploads, tmp_path_factory) -> Iterator:
    """The page with all of its sections: tiny checkpoints of random weights, and an index of three ECGs."""
    folder, classifier, index = (tmp_path_factory.mktemp(name) for name in ("checkpoint", "classifier", "index"))
    build(MeritModel, merit_config()).save_pretrained(folder)
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder)
    config = merit_config().ecg_config
    config.id2label = {0: "AFIB", 1: "something else"}
    config.problem_type, config.thresholds = "multi_label_classification", [0.001, 0.999]
    build(MeritForEcgClassification, config).save_pretrained(classifier)
    MeritFeatureExtractor().save_pretrained(classifier)
    ecgs = {name: simulate_ecg(name, seed=1) for name in ("sinus_rhythm", "atrial_fibrillation", "low_voltage")}
    rows = {
        "record_id": list(ecgs),
        "embedding": list(embed_ecgs(*load_checkpoint(str(folder)), [*ecgs.values()]).numpy()),
    }
    weights = {"weights": checkpoint_fingerprint(folder)}
    EcgIndex.create(index, weights).add(rows | {"age": [50.0, np.nan, 70.0], "report": ["a", "b\x1b", "c"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SPACE))
        patch.setenv("MERIT_MODEL", str(folder))
        patch.setenv("MERIT_STATEMENTS_MODEL", str(classifier))
        patch.setenv("MERIT_REPORT_MODEL", report_checkpoint)
        patch.setenv("MERIT_INDEX", str(index))
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        import app

        yield app
    for name in ("app", "handlers", "wording"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def handlers(app):
    return app.handlers


@pytest.fixture
def upload(uploads):
    """Copies of files, as an upload is one."""

    def copy(*sources: Path | tuple[str, bytes]) -> list[str]:
        targets = []
        for number, source in enumerate(sources):
            folder = uploads / f"upload{number}"
            folder.mkdir(exist_ok=True)
            name, content = source if isinstance(source, tuple) else (source.name, source.read_bytes())
            targets.append(str(folder / name))
            (folder / name).write_bytes(content)
        return targets

    return copy


def said(rows) -> dict[str, str]:
    """Facts by their English name."""
    return {row[0].split(" / ")[0]: row[1] for row in rows}


def svg_in(picture: str) -> str:
    (content,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', picture)
    return base64.b64decode(content).decode()


def wfdb_files(folder: Path, seconds: int = 10) -> tuple[Path, Path]:
    ecg = simulate_ecg("sinus_rhythm", seed=0, duration=seconds)
    header = write_wfdb(EcgRecord(ecg.signal, 100, ecg.leads, record_id="jane_doe", age=61), folder)
    return header, header.with_suffix(".dat")


class TestRead:
    def test_what_is_shown(self, handlers, upload, tmp_path):
        files = upload(*wfdb_files(tmp_path)[::-1])
        record, picture, facts, measured = handlers.read(files)
        assert (record.leads, record.sampling_rate, record.n_samples) == (STANDARD_LEADS, 100, 1000)
        assert svg_in(picture).rstrip().endswith("</svg>") and DISCLAIMER in picture
        assert 'id="lead V6"' in svg_in(picture) and len(svg_in(picture)) < 1_000_000
        facts = said(facts)
        assert (facts["Format"], facts["Duration, s"], facts["Age"], facts["Flat leads"]) == ("wfdb", "10", "61", "-")
        assert facts["Peak to peak, mV"].startswith("I 0.")
        found = measure(record)
        by_name = {name.split(" / ")[0]: row for name, *row in measured}
        assert by_name["Heart rate"] == [f"{found.heart_rate.value:.4g}", "1/min", "yes"]
        assert len(measured) == len(list(found)) == 9
        unknown = EcgRecord(np.zeros((2, 1000)), 100, ("I", "II"))
        assert {tuple(row[1::2]) for row in handlers.show(unknown, "numpy")[3]} == {("-", "flat")}

    def test_nothing_identifies_and_nothing_stays(self, handlers, upload, uploads, tmp_path, capfd):
        files = upload(*wfdb_files(tmp_path))
        record, picture, facts, measured = handlers.read(files)
        assert list(uploads.rglob("*")) == []
        assert (record.record_id, record.start_time, record.source) == (None, None, None)
        assert "jane" not in repr(record) + svg_in(picture) + picture + json.dumps([facts, measured])
        assert capfd.readouterr() == ("", "")

    def test_of_a_long_recording_ten_seconds(self, handlers, upload, tmp_path):
        whole = simulate_ecg("sinus_rhythm", seed=0, duration=40).signal
        record, _, facts, _ = handlers.read(upload(*wfdb_files(tmp_path, 40)), 35)
        np.testing.assert_allclose(record.signal, whole[:, 3500:], atol=0.0006)
        assert said(facts)["Notes"] == "10 s from 35 s on, of 40 s"
        with pytest.raises(gr.Error, match="40 s"):
            handlers.read(upload(*wfdb_files(tmp_path, 40)), 41)

    def test_what_the_file_does_not_say(self, handlers, upload):
        table = ("a.csv", b"col 0,col 1\n" + b"0.5,0.1\n0.1,0.5\n" * 250)
        with pytest.raises(gr.Error, match="sampling_rate"):
            handlers.read(upload(table), 0, None, "mV", "I, II")
        record, _, facts, _ = handlers.read(upload(table), 0, 125, "mV", "I, II")
        facts = said(facts)
        assert (facts["Leads"], facts["Sampling rate, Hz"], record.n_samples) == ("I, II", "125", 500)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ([("a.edf", b"0       nonsense")], "EDF"),
            ([("a.bin", b"\0" * 100)], "no known ECG format"),
            ([("a.csv", b"")], "is empty"),
            ([("a.hea", b"a 1 100 1000\na.dat 16 200/mV 16 0 0 0 0 I\n")], "a.dat, which is not in its folder"),
            ([("a.csv", CSV), ("b.csv", CSV)], "got 2 files"),
            (
                [(f"{name}.hea", f"{name} 1 100 1000\n{name}.dat 16 200/mV 16 0 0 0 0 I\n".encode()) for name in "ab"],
                "files of one record, got 2 headers",
            ),
            ([], "Upload or choose an ECG first"),
        ],
    )
    def test_a_refused_file_is_a_message(
        self, handlers, upload, uploads, capfd, monkeypatch, tmp_path, files, message
    ):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the handler moves uploads to
        paths = upload(*files)
        with pytest.raises(gr.Error) as error:
            handlers.read(paths)
        assert message in error.value.message
        assert "Traceback" not in error.value.message and str(tmp_path) not in error.value.message
        assert error.value.print_exception is False  # gradio would print it, file name and all, to the log
        assert list(uploads.rglob("*")) == list(tmp_path.rglob("*")) == []
        assert capfd.readouterr() == ("", "")

    def test_what_is_no_upload_is_not_touched(self, handlers, upload, uploads, tmp_path):
        """Neither the files of the server nor what a link among the uploads leads to; the uploads beside are gone."""
        kept = tmp_path / "app.csv"
        kept.write_bytes(CSV)
        link = uploads / "link" / "a.csv"
        link.parent.mkdir()
        link.symlink_to(kept)
        detour = f"{uploads}/../{os.path.relpath(kept, uploads.parent)}"
        for path in (str(kept), detour, str(link), str(uploads / "absent.csv"), str(uploads)):
            with pytest.raises(gr.Error, match="is not among the uploads any more") as error:
                handlers.read([*upload(("b.csv", CSV)), path])
            assert kept.read_bytes() == CSV and str(tmp_path) not in error.value.message
            assert not list(uploads.rglob("b.csv"))
        link.unlink()
        link.parent.rmdir()

    def test_two_files_of_one_name_are_refused(self, handlers, upload, uploads):
        with pytest.raises(gr.Error, match="different names, got a.csv more than once"):
            handlers.read(upload(("a.csv", CSV), ("a.csv", CSV)))
        assert list(uploads.rglob("*")) == []

    def test_control_characters_are_escaped(self, handlers, upload, monkeypatch):
        record = EcgRecord(
            np.ones((1, 1000)), 100, ("I",), device="CS\x1b[2J", notes=("a\u202e<b>",), filters="\x9b31m"
        )
        monkeypatch.setattr(handlers, "read_ecg", lambda *args, **facts: record)
        _, _, facts, _ = handlers.read(upload(("a.csv", CSV)))
        facts = said(facts)
        assert (facts["Device"], facts["Filters"]) == (r"CS\x1b[2J", r"\x9b31m")
        assert facts["Notes"].startswith(r"a\u202e<b>")  # of a table, where it is text, not markup

    def test_errors_are_short_and_name_no_folder_of_the_server(self, handlers, upload, monkeypatch):
        def fail(*args, **facts):
            raise OSError(
                f"No such file: '/srv/app/models/secret {'x' * 5000}.hea' \x1b[2J <b> AVB/LBBB /etc/a/passwd"
            )

        monkeypatch.setattr(handlers, "read_ecg", fail)
        with pytest.raises(gr.Error) as error:
            handlers.read(upload(("a.csv", CSV)))
        message = error.value.message
        assert len(message) < 600 and not any(text in message for text in ("/srv", "/etc", "\x1b", "<"))
        assert message.startswith("No such file: 'secret xxx") and "AVB/LBBB passwd" in message

    def test_a_fault_is_reported_without_what_the_file_says(self, handlers, upload, uploads, monkeypatch, capfd):
        def fail(*args, **facts):
            raise IndexError("jane" + "_doe")

        monkeypatch.setattr(handlers, "read_ecg", fail)
        with pytest.raises(gr.Error, match="This page failed at that input") as error:
            handlers.read(upload(("a.csv", CSV)))
        log = "".join(capfd.readouterr())
        assert "IndexError" in log and "handlers.py" in log and "jane_doe" not in log + error.value.message
        assert list(uploads.rglob("*")) == []

    def test_a_message_is_no_markup(self, handlers, upload):
        with pytest.raises(gr.Error, match="&lt;img") as error:
            handlers.read(upload(("a.csv", CSV.replace(b"II [mV]", b"<img src=x> [mV]"))))
        assert "<" not in error.value.message

    @pytest.mark.real_data
    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["wfdb/cinc2021_mat/HR06000.hea", "wfdb/cinc2021_mat/HR06000.mat"], ("wfdb", 12, 500, 5000)),
            (["wfdb/100.dat", "wfdb/100.hea"], ("wfdb", 2, 360, 3600)),
            (["edf/derived_ptbxl_12lead_edfplus.edf"], ("edf", 12, 500, 5000)),
            (["muse_xml/braveheart_example1.xml"], ("muse", 12, 500, 5000)),
            (["scp_ecg/ecgtoolkit_example.scp"], ("scp", 12, 500, 5000)),
            (["mortara_xml/synthetic_ptbxl_12lead_500hz.xml"], ("mortara", 12, 500, 5000)),
        ],
    )
    def test_real_files(self, handlers, upload, data_dir, names, expected):
        record, _, facts, _ = handlers.read(upload(*(data_dir / "formats" / name for name in names)))
        facts = said(facts)
        assert (facts["Format"], len(record.leads), record.sampling_rate, record.n_samples) == expected
        assert facts["Missing part"] == "0"
        assert (record.record_id, record.start_time) == (None, None)

    @pytest.mark.real_data
    @pytest.mark.parametrize(
        "name", ["scp_ecg/edge_corrupt_shifted_sections.scp", "hl7_aecg/edge_fda_empty.xml", "wfdb/100.dat"]
    )
    def test_real_damaged_files(self, handlers, upload, data_dir, name):
        with pytest.raises(gr.Error, match="Expected"):
            handlers.read(upload(data_dir / "formats" / name))


class TestExamples:
    def test_each_has_a_drawing_and_a_record(self, app, handlers):
        names = list(app.wording.EXAMPLES)
        drawings = handlers.cards()
        assert len(drawings) == len(names) >= 10
        for name, (drawing,) in zip(names, drawings):
            assert f'aria-label="{app.wording.EXAMPLES[name]}"' in drawing
            path = re.search(r'd="M([^"]+)"', drawing)[1]
            heights = np.array([float(point.split(",")[1]) for point in path.split()])
            assert len(heights) == 250 and 5 < np.ptp(heights) < 100
        record, _, facts, _ = handlers.example(names.index("atrial_fibrillation"))
        assert (record.sampling_rate, said(facts)["Format"]) == (500, "simulated")

    def test_those_of_ptb_xl_are_its_records_without_identifiers(self, app, handlers):
        names = [name for name in app.wording.EXAMPLES if name.endswith("_hr")]
        assert {path.stem for path in (SPACE / "examples").iterdir()} == set(names)
        card = (SPACE / "README.md").read_text()
        for name in names:
            record, _, facts, _ = handlers.example(list(app.wording.EXAMPLES).index(name))
            number = str(int(name.split("_")[0]))
            assert said(facts)["Notes"] == f"PTB-XL 1.0.3, record {number}, CC BY 4.0" and number in card
            assert (record.n_samples, record.sampling_rate, len(record.leads)) == (5000, 500, 12)
            assert (record.age, record.sex, record.start_time, record.record_id) == (None,) * 4
            assert "#" not in (SPACE / "examples" / f"{name}.hea").read_text()  # no comments of a header
        assert "CC BY 4.0" in card and "10.13026/kfzx-aw45" in card

    @pytest.mark.real_data
    def test_those_of_ptb_xl_are_as_published(self, ptb_xl_dir):
        for path in (SPACE / "examples").iterdir():
            assert path.read_bytes() == (ptb_xl_dir / "records500" / "00000" / path.name).read_bytes()


class TestModel:
    def test_scores_are_those_of_the_library(self, handlers):
        record, _, facts, _ = handlers.simulate("atrial_fibrillation")
        notes = said(facts)["Notes"]
        assert "af" in notes or "atrial fibrillation" in notes
        texts = ["sinus rhythm", "atrial fibrillation", "left bundle branch block"]
        rows = handlers.compare(record, "\n\n".join(f" {text} " for text in texts))
        assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
        processor = transformers.AutoProcessor.from_pretrained(handlers.MODEL)
        model = transformers.AutoModel.from_pretrained(handlers.MODEL)
        with torch.no_grad():
            outputs = model(**processor(ecg=record, text=texts, return_tensors="pt"))
        cosines = (outputs.ecg_embeds @ outputs.text_embeds.T)[0]
        scale = SIMILARITY_WEIGHT * model.get_logit_scale().item()  # the tiny model predicts no words
        scores = (scale * (cosines - cosines.mean())).tolist()
        expected = {text: pytest.approx((a, b), abs=6e-4) for text, a, b in zip(texts, scores, cosines.tolist())}
        assert {row[0]: tuple(row[1:]) for row in rows} == expected
        answer = handlers.embed(record)
        assert answer["embedding"] == pytest.approx(outputs.ecg_embeds[0].tolist(), abs=1e-5)
        assert (answer["model"], answer["disclaimer"]) == (Path(handlers.MODEL).name, DISCLAIMER)

    def test_wordings_of_a_statement_are_averaged(self, handlers):
        record = handlers.simulate("atrial_fibrillation")[0]
        classes = {"sinus rhythm / sinusrhythmus": ["sinus rhythm", "sinusrhythmus"], "block": ["block"]}
        rows = {row[0]: row[1:] for row in handlers.compare(record, "\n".join(classes))}
        loaded = load_checkpoint(handlers.MODEL)
        scores = score_embeddings(embed_ecgs(*loaded, record, "scores"), embed_prompts(*loaded, classes))
        for name, score, cosine in zip(classes, scores.score[0], scores.cosine_similarity[0]):
            assert rows[name] == pytest.approx([score, cosine], abs=6e-4)

    def test_explanation(self, handlers):
        """By default of the statement that ranks first, against the first wordings of the others."""
        record = handlers.simulate("atrial_fibrillation")[0]
        texts = "sinus rhythm / sinusrhythmus\natrial fibrillation\nblock"
        best = handlers.compare(record, texts)[0][0]
        picture = handlers.explanation(record, " ", texts)
        assert f'alt="What speaks for {best.split(" / ")[0]}"' in picture
        assert picture.split("<figcaption>")[1] == handlers.explanation(record, best, texts).split("<figcaption>")[1]
        assert "<image " in svg_in(picture) and DISCLAIMER in picture  # the coloured fields, drawn as one image
        assert "<image " not in svg_in(handlers.show(record, "simulated")[1])
        other = handlers.explanation(record, "left bundle branch block", texts)
        found = explain(
            *load_checkpoint(handlers.MODEL),
            record,
            "left bundle branch block",
            against=["sinus rhythm", "atrial fibrillation", "block"],
            n_steps=32,
            tolerance=0.05,
        )
        lead, share = max(found.lead_shares().items(), key=lambda item: item[1])
        assert f"Most of it in {lead} ({share:.0%})" in other
        for same in ("Sinusrhythmus", "SINUS RHYTHM"):  # not compared with its own statement of the list
            picture = handlers.explanation(record, same, texts)
            assert f'alt="What speaks for {same}"' in picture
        with pytest.raises(gr.Error, match="of which it knows none"):
            handlers.explanation(record, "心电图", texts)
        expected = handlers.explanation(record, "sinus rhythm normal", texts).split("<figcaption>")[1]
        for broken in ("sinus rhythm\u2028normal", "sinus rhythm\n normal"):  # one statement, of several lines
            assert handlers.explanation(record, broken, texts).split("<figcaption>")[1] == expected

    def test_explanation_beside_statements_of_one_first_wording(self, handlers):
        """Which are compared once: the other wordings tell them apart in the table, and take no part here."""
        record = handlers.simulate("atrial_fibrillation")[0]
        texts = "sinus rhythm / sinusrhythmus\nSinus Rhythm / block\nleft bundle branch block"
        assert len(handlers.compare(record, texts)) == 3
        picture = handlers.explanation(record, "atrial fibrillation", texts)
        once = handlers.explanation(record, "atrial fibrillation", "sinus rhythm\nleft bundle branch block")
        assert picture.split("<figcaption>")[1] == once.split("<figcaption>")[1]

    def test_an_ecg_without_any_signal_gets_no_scores(self, handlers):
        flat = EcgRecord(np.zeros((2, 1000)), 100, ("I", "II"))
        texts = "sinus rhythm\natrial fibrillation"
        for function, *more in (
            (handlers.statements,),
            (handlers.compare, texts),
            (handlers.explanation, "", texts),
            (handlers.classify, "rhythm"),
            (handlers.report, "English"),
        ):
            with pytest.raises(gr.Error, match="ECG 0 holds no signal"):
                function(flat, *more)

    def test_statements_have_the_probabilities_of_their_model(self, handlers, monkeypatch, tmp_path, capfd):
        record = handlers.simulate("sinus_rhythm")[0]
        model = MeritForEcgClassification.from_pretrained(handlers.STATEMENTS_MODEL).eval()
        extractor = MeritFeatureExtractor.from_pretrained(handlers.STATEMENTS_MODEL)
        with torch.no_grad():
            values = model(**extractor(record, return_tensors="pt")).logits[0].sigmoid().tolist()
        rows = handlers.statements(record)
        assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
        expected = {
            "AFIB (atrial fibrillation)": [pytest.approx(values[0], abs=6e-4), 0.001, "●"],
            "something else": [pytest.approx(values[1], abs=6e-4), 0.999, ""],
        }
        assert {row[0]: row[1:] for row in rows} == expected
        monkeypatch.setattr(handlers, "STATEMENTS_MODEL", str(tmp_path))
        with pytest.raises(gr.Error, match="The statements model of this page cannot be loaded") as error:
            handlers.statements(record)
        assert str(tmp_path) not in error.value.message and str(tmp_path) in capfd.readouterr().err

    def test_similar_recordings(self, handlers, monkeypatch, tmp_path, capfd):
        record = handlers.simulate("atrial_fibrillation")[0]
        rows = handlers.similar(record)
        assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)
        assert {row[1] for row in rows} == {
            "sinus_rhythm, 50, a",
            r"atrial_fibrillation, -, b\x1b",
            "low_voltage, 70, c",
        }
        monkeypatch.setattr(handlers, "INDEX", str(tmp_path))
        with pytest.raises(gr.Error, match="The index of this page cannot be used. Its log says why.") as error:
            handlers.similar(record)
        assert str(tmp_path) not in error.value.message and str(tmp_path) in capfd.readouterr().err

    def test_classes_are_scored_as_published(self, handlers):
        record = handlers.simulate("atrial_fibrillation")[0]
        rows = {row[0].split(" (")[0]: row[1:] for row in handlers.classify(record, "rhythm")}
        loaded = load_checkpoint(handlers.MODEL)
        prompts = load_prompts("rhythm")
        scores = score_embeddings(embed_ecgs(*loaded, record, "scores"), embed_prompts(*loaded, prompts))
        assert sorted(rows) == list(prompts)
        for name, score, cosine in zip(prompts, scores.score[0], scores.cosine_similarity[0]):
            assert rows[name] == pytest.approx([score, cosine], abs=6e-4)
        assert "AFIB (atrial fibrillation)" in [row[0] for row in handlers.classify(record, "rhythm")]
        with pytest.raises(gr.Error, match="Expected a task out of"):
            handlers.classify(record, "absent")

    @pytest.mark.parametrize(
        ("statements", "message"),
        [
            ("\n \n", "at least two prompts"),
            (None, "at least two prompts"),
            ("ecg", "at least two prompts"),
            ("ecg\necg", "more than once"),
            ("ecg\nECG", "the same to the model"),
            ("ecg\n心电图", "of which it knows none"),
            ("ecg\n" * 51, "at most 50 statements, got 51"),
            ("ecg " * 5000, "at most 10000 characters, got 20000"),
        ],
    )
    def test_refused_statements(self, handlers, statements, message):
        record = handlers.simulate("sinus_rhythm")[0]
        with pytest.raises(gr.Error, match=message):
            handlers.compare(record, statements)

    def test_missing_samples_are_masked_and_short_records_refused(self, handlers):
        signal = simulate_ecg("sinus_rhythm", seed=0).signal.copy()
        signal[:, :50] = np.nan
        assert len(handlers.compare(EcgRecord(signal, 100, STANDARD_LEADS), "ecg\nblock")) == 2
        with pytest.raises(gr.Error, match="Expected 2.5 to 30 s"):
            handlers.compare(EcgRecord(signal[:, 100:200], 100, STANDARD_LEADS), "ecg\nblock")

    def test_statements_that_are_cut_are_warned_about(self, handlers):
        record = handlers.simulate("sinus_rhythm")[0]
        with pytest.warns(UserWarning, match="1 of 2 texts have more than the 64 tokens that the model reads"):
            assert len(handlers.compare(record, "ecg " * 70 + "\nblock")) == 2

    def test_forgotten_ecg_and_absent_checkpoint(self, handlers, monkeypatch, tmp_path, capfd):
        for function in (handlers.compare, handlers.report):
            with pytest.raises(gr.Error, match="first"):
                function(None, "English")
        monkeypatch.setattr(handlers, "MODEL", str(tmp_path))
        with pytest.raises(gr.Error, match="The model of this page cannot be loaded. Its log says why.") as error:
            handlers.embed(handlers.simulate("sinus_rhythm")[0])
        assert str(tmp_path) not in error.value.message and str(tmp_path) in capfd.readouterr().err

    def test_suggested_statements(self, handlers):
        lines = handlers.suggested().splitlines()
        assert len(lines) == len(handlers.CLASSES)
        assert "atrial fibrillation / vorhofflimmern" in lines

    def test_report(self, handlers):
        record = handlers.simulate("sinus_rhythm")[0]
        english, german = (handlers.report(record, language) for language in ("English", "German"))
        for text in (english, german):
            written, notice = text.split("\n\n")
            assert written
            assert notice == DISCLAIMER
        assert english == handlers.report(record, "English")


@contextmanager
def serving(app, log_file: Path) -> Iterator[str]:
    """The page in a process of its own, on the loopback interface; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": port, "GRADIO_SSR_MODE": "False"}
    with log_file.open("w") as log:
        server = subprocess.Popen([sys.executable, app.__file__], env=os.environ | place, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server stopped"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(url)


NAMES = ("read", "example", "compare", "classify", "explain", "statements", "similar", "report", "embed")


class TestPage:
    def test_sections_are_those_that_are_configured(self, app, monkeypatch):
        def sections(demo):
            texts = [block.value for block in demo.blocks.values() if isinstance(block, gr.Markdown)]
            assert sum(DISCLAIMER in text for text in texts) == (2 if handlers.REPORT_MODEL else 1)
            return [text.split("\n")[0].split(" / ")[0] for text in texts if text.startswith("#")]

        handlers = app.handlers
        everything = [
            "# merit-ecg: read a 12-lead ECG",
            "## ECG",
            "## Measurements",
            "## Statements, with probabilities",
        ]
        everything += ["## In your own words", "## What the model reacts to", "## Draft report"]
        everything += ["## Similar recordings", "## What was read"]
        assert sections(app.demo) == everything
        for name in ("STATEMENTS_MODEL", "REPORT_MODEL", "INDEX"):
            monkeypatch.setattr(handlers, name, None)
        bare = [name for name in everything if name[3:] not in ("Draft report", "Similar recordings")]
        bare.remove("## Statements, with probabilities")
        assert sections(app.build()) == bare

    def test_served(self, app, uploads, tmp_path):
        """End to end over HTTP on the loopback interface, in a process of its own."""
        with serving(app, tmp_path / "log") as url:
            client = Client(url, verbose=False, analytics_enabled=False)
            named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
            assert set(named) == {f"/{name}" for name in NAMES}
            plot, facts, measured = client.predict(
                [handle_file(str(path)) for path in wfdb_files(tmp_path)], api_name="/read"
            )
            assert "</svg>" in svg_in(plot)
            facts = said(facts["data"])
            assert (facts["Leads"], facts["Age"], facts["Flat leads"]) == (", ".join(STANDARD_LEADS), "61", "-")
            assert measured["data"][0][0].startswith("Heart rate")
            scores = client.predict("sinus rhythm\natrial fibrillation", api_name="/compare")
            assert scores["headers"] == ["statement / Aussage", "score / Wert", "cosine similarity"]
            assert {row[0] for row in scores["data"]} == {"sinus rhythm", "atrial fibrillation"}
            assert sum(row[1] for row in scores["data"]) == pytest.approx(0, abs=0.002)
            assert len(client.predict("superclass", api_name="/classify")["data"]) == 5
            assert len(client.predict(api_name="/embed")["embedding"]) == 8
            assert "<image " in svg_in(client.predict("", "sinus rhythm\nblock", api_name="/explain"))
            assert [len(client.predict(api_name=f"/{name}")["data"]) for name in ("statements", "similar")] == [2, 3]
            assert DISCLAIMER in client.predict("German", api_name="/report")
            _, facts, _ = client.predict(0, api_name="/example")
            assert said(facts["data"])["Format"] == "simulated"

            (tmp_path / "secret_name.xml").write_text("<AnnotatedECG xmlns='urn:hl7-org:v3'/>")
            for _ in range(2):
                with pytest.raises(AppError, match="Expected"):
                    client.predict([handle_file(str(tmp_path / "secret_name.xml"))], api_name="/read")
            with pytest.raises(AppError):  # refused before the handler: a rate that is no number
                client.predict([handle_file(str(tmp_path / "secret_name.xml"))], 0, "fast", api_name="/read")
            with pytest.raises(AppError, match="first"):  # another visitor has no ECG
                Client(url, verbose=False, analytics_enabled=False).predict(api_name="/embed")
            with open(tmp_path / "large.edf", "wb") as large:
                large.truncate(10 * 2**20 + 1)
            with pytest.raises(ValueError, match="maximum file size"):
                client.predict([handle_file(str(tmp_path / "large.edf"))], api_name="/read")
            _, facts, _ = client.predict([handle_file(str(path)) for path in wfdb_files(tmp_path)], api_name="/read")
            assert said(facts["data"])["Age"] == "61"
        assert [path.name for path in uploads.rglob("*") if path.is_file()] == []
        log = (tmp_path / "log").read_text()
        assert not any(word in log for word in ("Traceback", "jane_doe", "secret_name", "AnnotatedECG"))

    @pytest.mark.slow
    @pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: put it on the path, or its program in MERIT_CHROMIUM")
    @pytest.mark.parametrize(("width", "height", "mobile"), [(360, 740, True), (1280, 900, False)])
    def test_in_a_browser(self, app, uploads, tmp_path, width, height, mobile):
        """Refused uploads, then a good one in the same page, then an example; never wider than the screen."""
        bad, large, worse, good = (tmp_path / name for name in ("bad.edf", "large.edf", "worse.edf", "good.csv"))
        bad.write_bytes(b"0       nonsense")
        worse.write_bytes(b"0       nonsense")
        large.write_bytes(bytes(10 * 2**20 + 1))
        good.write_bytes(CSV)
        shots = Path(os.environ.get("MERIT_SCREENSHOTS") or tmp_path)
        with serving(app, tmp_path / "log") as url, Browser(url, width, height, mobile) as page:
            page.wait("!!document.querySelector('input[type=file]')")
            page.wait(f"document.querySelectorAll('.card svg').length >= {len(app.wording.EXAMPLES)}")
            page.screenshot(shots / f"start_{width}.png")
            for path in (bad, large, worse):  # the next one while this one is on its way would be lost
                page.upload(str(path))
                toasts = "[...document.querySelectorAll('.toast-body')]"
                page.wait(f"{toasts}.some(toast => toast.innerText.includes({path.name!r}))")
                page.wait(f"!document.body.innerText.includes({path.stem!r} + '\\n.edf')")  # gone from the field
            page.screenshot(shots / f"refused_{width}.png")
            page.upload(str(good))  # no error is closed by hand: they go away with the next file
            page.wait("document.body.innerText.includes('Duration, s')")
            page.wait("!document.querySelector('.toast-body')")
            self.wait_for_everything(page)
            assert not page.evaluate("!!document.querySelector('.toast-body')")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(shots / f"uploaded_{width}.png", whole=True)
            page.evaluate("document.querySelectorAll('.card')[1].closest('button').click()")
            page.wait("document.body.innerText.includes('its report:')")
            self.wait_for_everything(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            self.zoom(page, width)
            page.evaluate("document.querySelector('.ecg').scrollIntoView()")
            page.screenshot(shots / f"drawing_{width}.png")
            page.screenshot(shots / f"example_{width}.png", whole=True)
            page.evaluate("HTMLAnchorElement.prototype.click = function () {window.saved = this.download}")
            page.click("Download the embedding (JSON) / Vektor herunterladen")
            page.wait("window.saved === 'embedding.json'")
            assert not page.evaluate("document.body.innerText.includes('\"embedding\"')")
        assert [path.name for path in uploads.rglob("*") if path.is_file()] == []

    def wait_for_everything(self, page) -> None:
        for text in (
            "AFIB (atrial fibrillation)",
            "atrial fibrillation / vorhofflimmern",
            "low_voltage, 70",
            "QRS axis",
        ):
            page.wait(f"document.body.innerText.includes({text!r})")
        page.wait("document.querySelectorAll('.ecg .paper img').length === 2")
        page.wait(f"[...document.querySelectorAll('textarea')].some(t => t.value.includes({DISCLAIMER!r}))")

    def zoom(self, page, width: int) -> None:
        """Three sizes, of which the middle one is first; the drawing scrolls, the page does not."""
        size = "document.querySelector('.ecg .paper img').getBoundingClientRect().width"
        frame = "document.querySelector('.ecg .paper').clientWidth"  # changes when the page gets a scroll bar
        page.wait(f"{size} === Math.max({frame}, 880)", seconds=10)
        for name, expected in (("large", f"Math.max(2 * {frame}, 1900)"), ("whole", frame)):
            page.evaluate(f"document.querySelector('#drawing-{name}').click()")
            page.wait(f"{size} === {expected}", seconds=10)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelector('#drawing-readable').click()")


class TestRepository:
    def test_card(self, app):
        card = RepoCard.load(SPACE / "README.md", repo_type="space", ignore_metadata_errors=False)
        pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split())
        assert card.data.sdk == "gradio"
        assert card.data.sdk_version == pins["gradio"] == gr.__version__
        assert (SPACE / card.data.app_file).samefile(app.__file__)
        assert card.data.license == "apache-2.0"
        assert isinstance(card.data.python_version, str) and card.data.title and card.data.emoji
        assert len(card.data.short_description) <= 60  # the Hub refuses longer ones
        assert (
            card.data.models == ["your-name/merit-ecg"] and card.data.models[0] in (SPACE / "handlers.py").read_text()
        )
        assert "ecg" in card.data.tags
        assert "**Not a medical device.**" in card.text and "hf upload" in card.text

    def test_requirements_are_those_of_the_package(self, monkeypatch):
        """The package lies beside `app.py`, so its requirements have to be listed."""
        said = {}
        monkeypatch.setattr(setuptools, "setup", lambda **keywords: said.update(keywords))
        runpy.run_path(str(REPOSITORY / "setup.py"))
        needed = said["install_requires"] + [
            line for extra in ("plot", "formats", "explain") for line in said["extras_require"][extra]
        ]
        first, *lines = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
        assert lines == needed
        assert first == "--extra-index-url https://download.pytorch.org/whl/cpu"  # the usual wheel of torch is 6 GB

    def test_without_variables_the_checkpoint_beside_or_on_the_hub(self, tmp_path, monkeypatch):
        monkeypatch.delenv("MERIT_MODEL", raising=False)
        monkeypatch.syspath_prepend(str(SPACE))
        beside = runpy.run_path(str(SPACE / "handlers.py"))["MODEL"]
        assert beside == str(REPOSITORY / "hub_cards" / "merit-ecg")
        (tmp_path / "space").mkdir()
        alone = shutil.copy(SPACE / "handlers.py", tmp_path / "space")
        assert runpy.run_path(str(alone))["MODEL"] == "your-name/merit-ecg"
