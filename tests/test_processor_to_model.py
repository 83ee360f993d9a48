"""What the processor returns goes into every model and `get_*_features` as it is."""

import numpy as np
import pytest
import torch

from modeling_merit import (
    MeritConfig,
    MeritEcgConfig,
    MeritEcgModel,
    MeritFeatureExtractor,
    MeritForEcgClassification,
    MeritForPreTraining,
    MeritModel,
    MeritProcessor,
)

ENCODER = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 1]}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def inputs(tiny_tokenizer) -> dict:
    processor = MeritProcessor(MeritFeatureExtractor(patch_length=8), tiny_tokenizer)
    ecgs = np.random.default_rng(0).normal(size=(2, 12, 500)).astype(np.float32)
    facts = {"sampling_rate": 100, "leads": MeritEcgConfig().leads, "units": "mV"}
    return processor(ecgs, ["sinus rhythm", "normal ecg"], **facts, return_tensors="pt")


def dual_encoder(model_class: type):
    return model_class(MeritConfig(ecg_config=ENCODER, text_config=TEXT | {"vocab_size": 104})).eval()


def test_features_of_each_kind(inputs):
    model = dual_encoder(MeritModel)
    output = model(**inputs)
    torch.testing.assert_close(model.get_ecg_features(**inputs).pooler_output, output.ecg_embeds)
    torch.testing.assert_close(model.get_text_features(**inputs).pooler_output, output.text_embeds)
    bare = {name: inputs[name] for name in ("input_values", "ecg_mask")}
    torch.testing.assert_close(model.get_ecg_features(**bare, attention_mask=None).pooler_output, output.ecg_embeds)
    assert torch.equal(output.logits_per_text, output.logits_per_ecg.T)


@pytest.mark.parametrize("model_class", [MeritEcgModel, MeritForEcgClassification])
def test_models_of_ecgs_alone(model_class, inputs):
    model = model_class(MeritEcgConfig(**ENCODER)).eval()
    whole, bare = model(**inputs), model(inputs["input_values"], inputs["ecg_mask"], attention_mask=None)
    assert torch.equal(whole[0], bare[0])


def test_pre_training(inputs):
    model = dual_encoder(MeritForPreTraining)
    output = model(**inputs, output_hidden_states=True)
    assert output.loss.isfinite() and next(iter(output)) == "loss"
    # The stem and every stage, of the full views and the masked ones; channels before positions.
    assert [tuple(states.shape) for states in output.hidden_states] == [(4, 8, 126), (4, 8, 126), (4, 16, 63)]
