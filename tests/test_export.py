"""ONNX graphs: they give what PyTorch gives, for any number, length and choice of leads, and need no torch."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import build, ecg_config, merit_config

from modeling_merit import MeritForEcgClassification, MeritModel
from modeling_merit.objective_merit import ngram_keys
from modeling_merit.processing import EcgRecord, MeritFeatureExtractor, MeritProcessor, read_ecg
from modeling_merit.processing.cli import main
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import embed_prompts, load_checkpoint, score_embeddings, score_prompts
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.writers import write_wfdb

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)
from modeling_merit.processing import export  # noqa: E402
from modeling_merit.processing.export import TOLERANCE, export_onnx, open_session  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPTS = {"SR": ["sinus rhythm", "normal ecg"], "AFIB": ["atrial fibrillation"], "LBBB": ["left bundle branch block"]}
WORDS = 12
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tiny_tokenizer, tmp_path_factory) -> str:
    """A model that predicts some of the words of the prompts."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = build(MeritModel, merit_config(num_words=WORDS))
    tokens = tiny_tokenizer([text for texts in PROMPTS.values() for text in texts], padding=True, return_tensors="pt")
    keys = ngram_keys(tokens["input_ids"], tokens["attention_mask"], model.config.text_config.vocab_size, 3).unique()
    model.set_words(keys[keys >= 0][-WORDS:], torch.linspace(0.1, 0.6, WORDS))
    torch.nn.init.normal_(model.word_head.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    kinds = (("sinus_rhythm", 2.5), ("left_bundle_branch_block", 5), ("atrial_fibrillation", 7.3))
    ecgs = [simulate_ecg(name, seed=seed, duration=s) for seed, (name, s) in enumerate(kinds)]
    export_onnx(checkpoint, folder, prompts=PROMPTS, ecgs=ecgs)
    return folder


def records() -> list[EcgRecord]:
    """ECGs of several lengths and leads, other ones than those that the export compares itself."""
    kinds = (("sinus_rhythm", 3.1), ("right_bundle_branch_block", 10), ("low_voltage", 12.5), ("long_qt", 28))
    ecgs = [simulate_ecg(name, seed=100 + seed, duration=s) for seed, (name, s) in enumerate(kinds)]
    made = [EcgRecord(ecg.signal, 100, ecg.leads) for ecg in ecgs]
    return [*made, made[1].select(["II", "V5"]), made[2].select(["V1"])]


def test_the_files_say_what_they_are(folder):
    facts = json.loads((folder / "merit.json").read_text("utf-8"))
    names = {"ecg_encoder", "text_encoder", "zero_shot"}
    assert {path.name for path in folder.iterdir()} == {f"{name}.onnx" for name in names} | {
        "merit.json",
        "prompts.npz",
        "tokenizer.json",
    }
    assert set(facts["graphs"]) == names
    for about in facts["graphs"].values():
        assert about["bytes"] == (folder / about["file"]).stat().st_size
        assert about["max_difference_to_pytorch"] <= TOLERANCE
    assert (facts["leads"], facts["sampling_rate"]) == (list(STANDARD_LEADS), 100)
    assert facts["disclaimer"] == DISCLAIMER and "not a probability" in facts["score_meaning"]


def test_every_axis_but_the_leads_is_dynamic(folder):
    for name in ("ecg_encoder", "text_encoder", "zero_shot"):
        for value in open_session(folder / f"{name}.onnx").get_inputs():
            fixed = [size for size in value.shape if isinstance(size, int)]
            assert fixed == {
                "input_values": [12],
                "ecg_mask": [12],
                "prompt_embeds": [8],
                "prompt_words": [WORDS],
            }.get(value.name, [])


@pytest.mark.parametrize("together", [False, True])
def test_the_graphs_give_what_the_package_gives(checkpoint, folder, together):
    model, processor = load_checkpoint(checkpoint)
    prompts = embed_prompts(model, processor, PROMPTS)
    ecgs = records()
    for batch in [ecgs] if together else [[ecg] for ecg in ecgs]:
        inputs = dict(processor.feature_extractor(batch, return_tensors="np"))
        embeds, pooled = open_session(folder / "ecg_encoder.onnx").run(["ecg_embeds", "pooled"], inputs)
        with torch.no_grad():
            tensors = [torch.from_numpy(inputs[name]) for name in ("input_values", "ecg_mask")]
            np.testing.assert_allclose(embeds, model.get_ecg_features(*tensors).pooler_output, atol=TOLERANCE)
            np.testing.assert_allclose(pooled, model.ecg_model(*tensors).pooler_output, atol=TOLERANCE)
            features = model.get_score_features(*tensors)
        inputs |= {"prompt_embeds": prompts.embeddings, "prompt_words": prompts.words.astype(np.float32)}
        scores = open_session(folder / "zero_shot.onnx").run(None, inputs)
        expected = score_embeddings(features, prompts)
        np.testing.assert_allclose(scores[0], expected.score, atol=TOLERANCE)
        np.testing.assert_allclose(scores[1], expected.relative_similarity, atol=TOLERANCE)
        np.testing.assert_allclose(scores[2], expected.cosine_similarity, atol=TOLERANCE)
        assert np.abs(scores[0] - scores[1]).max() > 0.01  # the words count
        assert np.ptp(scores[0], axis=1).min() > 100 * TOLERANCE


def test_the_text_encoder_reads_the_tokenizer_beside_it(checkpoint, folder):
    from tokenizers import Tokenizer

    model, processor = load_checkpoint(checkpoint)
    prompts = embed_prompts(model, processor, ["sinus rhythm", "left bundle branch block"])
    tokenizer, session = (
        Tokenizer.from_file(str(folder / "tokenizer.json")),
        open_session(folder / "text_encoder.onnx"),
    )
    for text, expected in zip(prompts.names, prompts.embeddings):
        ids = np.array([tokenizer.encode(text).ids])
        [found] = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        np.testing.assert_allclose(found[0], expected, atol=TOLERANCE)


def test_a_classifier_and_its_8_bit_copy(tmp_path):
    import onnx

    config = ecg_config(problem_type="multi_label_classification")
    config.id2label, config.label2id = {0: "SR", 1: "AFIB"}, {"SR": 0, "AFIB": 1}
    model = build(MeritForEcgClassification, config)
    model.save_pretrained(tmp_path / "model")
    MeritFeatureExtractor().save_pretrained(tmp_path / "model")
    graph, small = export_onnx(str(tmp_path / "model"), tmp_path / "onnx", ecgs=records()[:2], int8=True)
    assert graph.name == "classifier" and graph.max_difference <= TOLERANCE
    assert json.loads((tmp_path / "onnx" / "merit.json").read_text("utf-8"))["labels"] == ["SR", "AFIB"]
    inputs = dict(MeritFeatureExtractor()(records()[1:3], return_tensors="np"))
    with torch.no_grad():
        expected = model(*(torch.from_numpy(inputs[name]) for name in ("input_values", "ecg_mask"))).logits.numpy()
    np.testing.assert_allclose(open_session(graph.path).run(["logits"], inputs)[0], expected, atol=TOLERANCE)
    assert onnx.TensorProto.INT8 in {tensor.data_type for tensor in onnx.load(small.path).graph.initializer}
    found = open_session(small.path).run(["logits"], inputs)[0]
    error = np.abs(found - expected).max()
    assert TOLERANCE < error < 0.1 * np.abs(expected).max()
    with pytest.raises(ValueError, match="Expected no prompts"):
        export_onnx(str(tmp_path / "model"), tmp_path / "other", prompts=PROMPTS)
    assert not (tmp_path / "other").exists()


def test_a_graph_that_differs_is_not_kept(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_difference", lambda *args: 2e-4)
    with pytest.raises(RuntimeError, match="a difference of 0.0002. Nothing is written"):
        export_onnx(checkpoint, tmp_path, ecgs=records()[:1])
    assert list(tmp_path.iterdir()) == []


def test_the_command(checkpoint, tmp_path, capsys):
    file = str(write_wfdb(records()[1], tmp_path))
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    command = ["export", checkpoint, "--out", str(tmp_path / "onnx"), "--ecgs", file]
    command += ["--prompts", str(tmp_path / "prompts.json")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count("differs from PyTorch by at most") == 3 and DISCLAIMER in printed
    with np.load(tmp_path / "onnx" / "prompts.npz", allow_pickle=False) as stored:
        assert stored["names"].tolist() == list(PROMPTS)
    assert main(command) == 2 and "exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


BLOCK = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "modeling_merit"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize(("rate", "absent"), [(100, ("V3",)), (500, ("III", "aVR", "aVL", "aVF"))])
def test_inference_without_torch(checkpoint, folder, tmp_path, rate, absent):
    ecg = simulate_ecg("atrial_fibrillation", seed=7, sampling_rate=rate)
    record = EcgRecord(ecg.signal, rate, ecg.leads).select([lead for lead in STANDARD_LEADS if lead not in absent])
    file = str(write_wfdb(record, tmp_path))
    command = [
        sys.executable,
        "-c",
        BLOCK,
        REPOSITORY / "examples" / "onnx_inference.py",
        folder,
        file,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    printed = dict(reversed(line.split("  ", 1)) for line in done.stdout.splitlines()[: len(PROMPTS)])
    scores = score_prompts(*load_checkpoint(checkpoint), read_ecg(file), PROMPTS).score[0]
    assert {name: float(score) for name, score in printed.items()} == pytest.approx(
        dict(zip(PROMPTS, scores.tolist())), abs=2e-3
    )
    assert DISCLAIMER in done.stdout
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    for end in (".hea", ".dat"):
        shutil.copy(Path(file).with_suffix(end), unknown)
    header = unknown / Path(file).with_suffix(".hea").name
    header.write_text(re.sub(r"(?m)^(\S+\.dat .*) (\w+)$", r"\1 Lead \2", header.read_text()))
    command[-1] = header.with_suffix("")
    refused = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=dict(os.environ))
    assert refused.returncode == 1 and "rename them" in refused.stderr, refused.stderr
    command[-1] = str(tmp_path / "out.edf")
    refused = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=dict(os.environ))
    assert refused.returncode == 1 and "merit-ecg convert FILE RECORD.hea" in refused.stderr
    assert "Traceback" not in refused.stderr
