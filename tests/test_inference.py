"""Inference: embeddings, scores and reports are those of model and processor called by hand, alone or in batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor

from modeling_merit.processing import EcgRecord
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import embed_ecgs, generate_reports, load_checkpoint, score_prompts

CHECKPOINT = str(Path(__file__).resolve().parent.parent / "hub_cards" / "merit-ecg")
PROMPTS = ["vorhofflimmern", "sinusrhythmus", "linksschenkelblock"]


@pytest.fixture(scope="module")
def loaded():
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def writer(report_checkpoint):
    return load_checkpoint(report_checkpoint, "AutoModelForMultimodalLM")


@pytest.fixture(scope="module")
def ecgs() -> list[EcgRecord]:
    names = ("sinus_rhythm", "atrial_fibrillation", "left_bundle_branch_block")
    simulated = [simulate_ecg(name, seed=seed) for seed, name in enumerate(names)]
    return [EcgRecord(ecg.signal, ecg.sampling_rate, ecg.leads) for ecg in simulated]


def test_a_checkpoint_is_loaded_for_ecgs_as_they_come(loaded):
    model, processor = loaded
    extractor = processor.feature_extractor
    assert (extractor.nan_policy, extractor.extra_leads, extractor.truncation) == ("mask", "drop", False)
    assert not model.training
    assert load_checkpoint(CHECKPOINT, truncation=True)[1].feature_extractor.truncation


@pytest.mark.parametrize("features", ["aligned", "pooled", "leads"])
@torch.no_grad()
def test_embeddings_are_those_of_the_model(loaded, ecgs, features):
    model, inputs = AutoModel.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)(ecg=ecgs)
    inputs = [torch.as_tensor(inputs[name]) for name in ("input_values", "ecg_mask")]
    expected = {
        "aligned": lambda: model.get_ecg_features(*inputs),
        "pooled": lambda: model.ecg_model(*inputs).pooler_output,
        "leads": lambda: model.ecg_model.get_lead_features(*inputs).flatten(1),
    }[features]()
    torch.testing.assert_close(embed_ecgs(*loaded, ecgs, features), expected)


@torch.no_grad()
def test_scores_are_those_of_the_model(loaded, ecgs):
    model, processor = AutoModel.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)
    outputs = model(**processor(ecg=ecgs, text=PROMPTS, return_tensors="pt"))
    scores = score_prompts(*loaded, ecgs, PROMPTS)
    torch.testing.assert_close(scores.cosine_similarity, outputs.ecg_embeds @ outputs.text_embeds.T)
    torch.testing.assert_close(scores.fractions, outputs.logits_per_ecg.softmax(dim=1))
    assert scores.fractions.shape == (3, 3)


@torch.no_grad()
def test_a_report_is_that_of_the_model(writer, report_checkpoint, ecgs):
    model, processor = (each.from_pretrained(report_checkpoint) for each in (AutoModelForMultimodalLM, AutoProcessor))
    prompt = model.config.prompts["report"].format(ecg=processor.ecg_token, language="German")
    inputs = processor(ecg=ecgs[0], text=prompt, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=9, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    written = generate_reports(*writer, ecgs[0], language="German", max_new_tokens=9, do_sample=False)
    assert written == [processor.tokenizer.decode(ids, skip_special_tokens=True).strip()] != [""]


def test_a_batch_of_several_languages_equals_single_reports(writer, ecgs):
    languages = ["English", "atrial", "a much longer name of a language: 123456789"]  # other texts, other lengths
    options = {"max_new_tokens": 9, "do_sample": False}
    single = [generate_reports(*writer, ecg, language=one, **options)[0] for ecg, one in zip(ecgs, languages)]
    assert generate_reports(*writer, ecgs, language=languages, **options) == single
    assert len(set(single)) > 1
    features = writer[1].feature_extractor(ecgs, return_tensors="pt")
    assert generate_reports(*writer, features, language=languages, **options) == single
    without_mask = {"input_values": features["input_values"]}  # every sample of these was recorded
    assert generate_reports(*writer, without_mask, language=languages, **options) == single


def test_prompts(writer, ecgs):
    options = {"max_new_tokens": 9, "do_sample": False}
    default = writer[0].config.prompts["report"]
    assert generate_reports(*writer, ecgs[0], default, **options) == generate_reports(*writer, ecgs[0], **options)
    first = generate_reports(*writer, ecgs[0], "Rhythm?", **options)
    assert first == generate_reports(*writer, ecgs[0], "{ecg} Rhythm?", **options)
    assert first != generate_reports(*writer, ecgs[0], **options)
    with pytest.raises(ValueError, match="once in the prompt"):
        generate_reports(*writer, ecgs[0], "{ecg} and {ecg}")
    with pytest.raises(ValueError, match="one language for each of 2 ECGs, got 3"):
        generate_reports(*writer, ecgs[:2], language=["English"] * 3)


def test_masked_samples_and_dropped_leads(loaded, ecgs):
    signal = np.concatenate([ecgs[0].signal, ecgs[0].signal[:1]])
    signal[0, :50] = np.nan
    record = EcgRecord(signal, ecgs[0].sampling_rate, (*ecgs[0].leads, "X"))
    with pytest.warns(UserWarning, match="dropped: X"):
        embedding = embed_ecgs(*loaded, record)
    assert embedding.isfinite().all() and not torch.equal(embedding, embed_ecgs(*loaded, ecgs[0]))
