"""The weights under `hub_cards/`: they load, give what they gave, and know what they read."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_merit.processing.benchmark.label_sets import class_names
from modeling_merit.processing.data import PtbXl, SignalView, present_ecg_ids
from modeling_merit.processing.data.simulation import FINDINGS, RHYTHMS, simulate_ecg
from modeling_merit.processing.inference import generate_reports, load_checkpoint, load_scorer
from modeling_merit.processing.metrics.classification import auroc

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINT = REPOSITORY / "hub_cards" / "merit-ecg"
STATEMENTS, REPORT = (CHECKPOINT.with_name(f"merit-ecg-{name}") for name in ("statements", "report"))
GOLDEN_ECG = [0.06738, 0.04644, -0.07242, 0.03662]
GOLDEN_TEXT = [0.03670, 0.17147, -0.13209, 0.07849]


@pytest.fixture(scope="module")
def checkpoint():
    return AutoModel.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)


@torch.no_grad()
def test_golden_embeddings(checkpoint):
    model, processor = checkpoint
    assert not model.training
    ecg = simulate_ecg("sinus_rhythm", seed=0)
    output = model(**processor(ecg=ecg, text="sinusrhythmus", return_tensors="pt"))
    np.testing.assert_allclose(output.ecg_embeds[0, :4], GOLDEN_ECG, atol=1e-4)
    np.testing.assert_allclose(output.text_embeds[0, :4], GOLDEN_TEXT, atol=1e-4)


@torch.no_grad()
def test_golden_statements():
    model, extractor = load_scorer(str(STATEMENTS))
    inputs = extractor(simulate_ecg("left_bundle_branch_block", seed=0), return_tensors="pt")
    found = dict(zip(model.config.id2label.values(), model(**inputs).logits.sigmoid()[0].tolist()))
    assert list(found) == class_names("all") and len(found) == 71
    golden = {"CLBBB": 0.9173, "SR": 0.9436, "1AVB": 0.2641}
    assert {name: found[name] for name in golden} == pytest.approx(golden, abs=2e-3)
    assert sorted(found, key=found.get)[-2:] == ["CLBBB", "SR"]
    assert model.dtype == torch.float32 and model.config.calibrated and len(model.config.thresholds) == 71


def test_golden_report():
    model, processor = load_checkpoint(str(REPORT), "AutoModelForMultimodalLM")
    conditions = ("left_bundle_branch_block", "atrial_fibrillation")
    written = [generate_reports(model, processor, simulate_ecg(condition, seed=0))[0] for condition in conditions]
    assert written[0].startswith("sinus rhythm. left bundle branch block")
    assert written[1].startswith("atrial fibrillation with rapid ventricular response")
    assert model.dtype == torch.float32
    german = generate_reports(model, processor, simulate_ecg(conditions[0], seed=0), language="German")[0]
    assert "linksschenkelblock" in german


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in CHECKPOINT.parent.glob("*/model.safetensors")) < 40e6


@torch.no_grad()
def test_simulated_conditions_are_found_without_training_on_simulations(checkpoint):
    model, processor = checkpoint
    conditions = RHYTHMS | FINDINGS
    names = processor(text=[condition.phrases[0] for condition in conditions.values()], return_tensors="pt")
    texts = model.get_text_features(**names).pooler_output
    scores, labels = [], np.repeat(np.eye(len(conditions), dtype=np.int8), 3, axis=0)
    for condition in conditions:
        ecgs = [simulate_ecg(condition, seed=seed) for seed in range(3)]
        scores.append(model.get_ecg_features(**processor(ecg=ecgs, return_tensors="pt")).pooler_output @ texts.T)
    # 0.90 when the weights were made; 0.5 is chance.
    assert np.mean(auroc(labels, torch.cat(scores).numpy())) > 0.8


@pytest.mark.real_data
@torch.no_grad()
def test_atrial_fibrillation_is_found_in_unseen_recordings(checkpoint, ptb_xl_dir, tmp_path):
    model, processor = checkpoint
    ids = tuple(present_ecg_ids(ptb_xl_dir, "100hz"))
    builder = PtbXl(config_name="100hz", data_dir=ptb_xl_dir, ecg_ids=ids, cache_dir=str(tmp_path))
    builder.download_and_prepare()
    table = builder.as_dataset("validation")
    table = table.select(range(min(200, len(table))))
    signals = SignalView(table).signals(range(len(table))) / np.float32(1000)
    prompts = processor(text=["vorhofflimmern", "sinusrhythmus"], return_tensors="pt")
    values = torch.from_numpy(processor.feature_extractor.prepare(signals))
    logits = model(values, **prompts).logits_per_ecg.numpy()
    labels = np.array([["AFIB" in row["code"]] for row in table["scp_codes"]], dtype=np.int8)
    assert labels.sum() >= 5
    # 0.927 when the weights were made; 0.5 is chance.
    assert auroc(labels, logits[:, :1] - logits[:, 1:])[0] > 0.85


@torch.no_grad()
@pytest.mark.parametrize(("drift", "least"), [("offset", 0.99), ("wander", 0.95)])
def test_offset_and_wander_hardly_move_an_embedding(checkpoint, drift, least):
    """Offsets of 0 to 300 mV and wander of 2 mV at 0.2 Hz, of another size and phase in every lead."""
    model, processor = checkpoint
    rng = np.random.default_rng(0)
    for condition in RHYTHMS | FINDINGS:
        ecg = simulate_ecg(condition, seed=1)
        if drift == "offset":
            added = rng.uniform(-300, 300, size=(12, 1))
        else:
            seconds = np.arange(ecg.signal.shape[1]) / ecg.sampling_rate
            added = 2 * np.sin(2 * np.pi * (0.2 * seconds + rng.random((12, 1))))
        inputs = {"sampling_rate": ecg.sampling_rate, "leads": ecg.leads, "units": "mV"}
        signals = [ecg.signal, (ecg.signal + added).astype(np.float32)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of implausible amplitudes, which the offset gives
            prepared = processor.feature_extractor(signals, **inputs, return_tensors="pt")
        for vectors in (model.get_ecg_features(**prepared).pooler_output, model.ecg_model(**prepared).pooler_output):
            assert torch.cosine_similarity(*vectors, dim=0) > least, condition
