"""The weights under `hub_cards/merit-ecg/`: they load, give the embeddings they gave, and know what they read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

import modeling_merit
from modeling_merit.processing.builders import PtbXl, SignalView, present_ecg_ids
from modeling_merit.processing.builders.synthetic import simulate_ecg
from modeling_merit.processing.evaluation.metrics import auroc

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINT = REPOSITORY / "hub_cards" / "merit-ecg"
GOLDEN_ECG = [0.07496, 0.06104, 0.03766, -0.03666]
GOLDEN_TEXT = [0.06183, -0.02327, 0.03011, -0.03631]


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


def test_the_code_beside_the_weights_is_that_of_the_package():
    package = Path(modeling_merit.__file__).parent
    code = sorted(CHECKPOINT.glob("*.py"))
    assert {path.name for path in code} >= {"modeling_merit.py", "leads.py", "signal_quality.py"}
    for path in code:
        source = package / path.name
        source = source if source.is_file() else REPOSITORY / "processing" / path.name
        assert path.read_text() == source.read_text(), f"{path.name} is old: load the checkpoint and save it again"


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
    values = torch.from_numpy(processor.feature_extractor.normalize(signals))
    logits = model(values, **prompts).logits_per_ecg.numpy()
    labels = np.array([["AFIB" in row["code"]] for row in table["scp_codes"]], dtype=np.int8)
    assert labels.sum() >= 5
    # 0.829 when the weights were made; 0.5 is chance.
    assert auroc(labels, logits[:, :1] - logits[:, 1:])[0] > 0.75
