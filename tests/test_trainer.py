"""The models under `Trainer` of transformers: gradient accumulation, evaluation, labels."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from modeling_merit import (
    MeritConfig,
    MeritEcgConfig,
    MeritFeatureExtractor,
    MeritForConditionalGeneration,
    MeritForEcgClassification,
    MeritForPreTraining,
    MeritGenerationConfig,
)

ENCODER = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 1]}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 60}
ECG = torch.randn(12, 500, generator=torch.Generator().manual_seed(0))
TOKENS, PROMPT = torch.tensor([5, 6, 7, 8]), torch.tensor([4] * 12 + [5, 6, 7, 3])


def classifier() -> MeritForEcgClassification:
    return MeritForEcgClassification(MeritEcgConfig(**ENCODER, num_labels=3))


def pre_training() -> MeritForPreTraining:
    text = TEXT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return MeritForPreTraining(MeritConfig(ecg_config=ENCODER, text_config=text))


def generation() -> MeritForConditionalGeneration:
    config = MeritGenerationConfig(ecg_config=ENCODER, text_config=TEXT, num_ecg_tokens=12, ecg_token_id=4)
    return MeritForConditionalGeneration(config)


RECORDS = {
    classifier: {"input_values": ECG, "labels": torch.tensor([0.0, 1.0, 1.0])},
    pre_training: {"input_values": ECG, "input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)},
    generation: {"input_values": ECG, "input_ids": PROMPT, "labels": PROMPT.where(PROMPT != 4, -100)},
}


def trainer(model: nn.Module, record: dict, folder, **options) -> Trainer:
    arguments = TrainingArguments(
        str(folder), report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", max_grad_norm=0.0, **options
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    data = [record] * 4
    return Trainer(model, arguments, train_dataset=data, eval_dataset=data, optimizers=(optimizer, schedule))


@pytest.mark.parametrize("build", [classifier, generation])
def test_accumulated_gradients_are_those_of_one_batch(build, tmp_path):
    torch.manual_seed(0)
    model, weights = build(), []
    state = {name: values.clone() for name, values in model.state_dict().items()}
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        model.load_state_dict(state)
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 1}
        trainer(model, RECORDS[build], tmp_path, **options).train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    start = torch.cat([state[name].flatten() for name, _ in model.named_parameters()])
    assert (weights[0] - start).abs().max() > 1e-3
    for other in weights[1:]:
        torch.testing.assert_close(other - start, weights[0] - start, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("build", RECORDS)
def test_evaluate_gives_the_loss_of_the_model(build, tmp_path):
    torch.manual_seed(0)
    model, record = build(), RECORDS[build]
    torch.manual_seed(1)
    metrics = trainer(model, record, tmp_path, per_device_eval_batch_size=4).evaluate()
    torch.manual_seed(1)
    with torch.no_grad():
        expected = model.eval()(**{name: torch.stack([values] * 4) for name, values in record.items()}).loss.item()
    tolerance = {"rel": 0.2} if build is pre_training else {"rel": 1e-5}  # the masks are drawn anew
    assert metrics["eval_loss"] == pytest.approx(expected, **tolerance)


def test_the_collator_that_trainer_makes_of_a_feature_extractor_keeps_labels(tmp_path):
    torch.manual_seed(0)
    rows = [{"input_values": ECG[:, :length], "labels": [0.0, 1.0, 1.0]} for length in (400, 500, 450, 500)]
    arguments = TrainingArguments(
        str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=1
    )
    model = classifier()
    made = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=MeritFeatureExtractor())
    made.train()
    predicted = made.predict(rows)
    assert predicted.label_ids.tolist() == [[0, 1, 1]] * 4 and np.isfinite(predicted.metrics["test_loss"])
    extractor = MeritFeatureExtractor()
    single = [
        extractor(ECG.numpy(), 100, extractor.leads, "mV", return_quality=True, return_tensors="np") for _ in "ab"
    ]
    padded = extractor.pad([dict(one) | {"labels": 1} for one in single], return_tensors="pt")
    assert padded["labels"].tolist() == [1, 1] and [found["nan_fraction"] for found in padded["quality"]] == [0, 0]


def test_the_loss_comes_first_without_a_dictionary():
    for build, record in RECORDS.items():
        model, inputs = build().eval(), {name: torch.stack([values] * 2) for name, values in record.items()}
        if build is pre_training:
            inputs["noise"] = torch.rand(2, 12, 500 // model.config.ecg_config.patch_length + 1)
        output = model(**inputs)
        assert torch.equal(model(**inputs, return_dict=False)[0], output.loss)
        assert next(iter(output)) == "loss"
