"""`ModelTesterMixin` of transformers on every model class, one test class each."""

import unittest

import torch
from generation import BATCH, GenerationTests
from transformers.testing_utils import torch_device
from upstream import modeling

from modeling_merit import (
    MeritConfig,
    MeritEcgConfig,
    MeritEcgModel,
    MeritForConditionalGeneration,
    MeritForEcgClassification,
    MeritForPreTraining,
    MeritGenerationConfig,
    MeritModel,
)

SAMPLES, LENGTH = 500, 7
ECG_TOKENS = 12


ENCODER = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 1]}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 104,
}


class Tester:
    """What `ModelTesterMixin` asks for: a configuration, inputs, and the numbers that its tests compare with."""

    batch_size = BATCH
    is_training = True
    num_hidden_layers = TEXT["num_hidden_layers"]

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.get_inputs()

    def get_inputs(self) -> dict:
        return {"input_values": torch.randn(BATCH, 12, SAMPLES, device=torch_device)}

    def get_text(self) -> dict:
        tokens = torch.randint(5, TEXT["vocab_size"], (BATCH, LENGTH), device=torch_device)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


class EcgTester(Tester):
    # Hidden states are (batch, channels, positions) here; `seq_length` and `hidden_size` name the last two dimensions.
    seq_length, hidden_size = ENCODER["hidden_sizes"][0], -(-SAMPLES // 8) * 2
    expected_num_hidden_layers = 1 + len(ENCODER["hidden_sizes"])

    def get_config(self) -> MeritEcgConfig:
        return MeritEcgConfig(**ENCODER)


class EncoderTester(EcgTester):
    is_training = False  # no loss; the suites leave out base models of transformers by their names


class DualTester(EcgTester):
    def get_config(self) -> MeritConfig:
        text = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | TEXT
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
        sizes = {"projection_dim": 8, "projection_hidden_size": 8}
        return MeritConfig(ecg_config=ENCODER, text_config=text, **sizes, **decoder)

    def get_inputs(self) -> dict:
        return super().get_inputs() | self.get_text()


class PreTrainingTester(DualTester):
    def get_inputs(self) -> dict:
        noise = torch.rand(BATCH, 12, -(-SAMPLES // 8), device=torch_device)  # the same mask in every call
        return super().get_inputs() | {"noise": noise}


class GenerationTester(Tester):
    seq_length = encoder_seq_length = ECG_TOKENS + LENGTH
    hidden_size, num_attention_heads, vocab_size = TEXT["hidden_size"], TEXT["num_attention_heads"], TEXT["vocab_size"]

    def get_config(self) -> MeritGenerationConfig:
        text = {"model_type": "llama", "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        return MeritGenerationConfig(
            ecg_config=ENCODER,
            text_config=TEXT | text | {"num_key_value_heads": 2},
            num_ecg_tokens=ECG_TOKENS,
            ecg_token_id=4,
        )

    def get_inputs(self) -> dict:
        text = self.get_text()["input_ids"]
        placeholders = torch.full((BATCH, ECG_TOKENS), self.get_config().ecg_token_id, device=torch_device)
        prompts = torch.cat([text[:, :1], placeholders, text[:, 1:]], dim=1)
        return {**super().get_inputs(), "input_ids": prompts, "attention_mask": torch.ones_like(prompts)}


class ModelTest(modeling.ModelTesterMixin):
    make_tester: type[Tester]
    has_attentions = False  # a convolutional encoder

    def setUp(self):
        self.model_tester = self.make_tester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Add labels as the mixin does for the classes of transformers, whose names it knows."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return inputs | (self.labels(inputs) if return_labels else {})

    def labels(self, inputs: dict) -> dict:
        return {}


class MeritEcgModelTest(ModelTest, unittest.TestCase):
    make_tester, all_model_classes = EncoderTester, (MeritEcgModel,)
    test_resize_embeddings = False


class MeritForEcgClassificationTest(ModelTest, unittest.TestCase):
    make_tester, all_model_classes = EcgTester, (MeritForEcgClassification,)
    test_resize_embeddings = False

    def labels(self, inputs: dict) -> dict:
        return {"labels": torch.zeros(BATCH, dtype=torch.long, device=torch_device)}


class MeritModelTest(ModelTest, unittest.TestCase):
    make_tester, all_model_classes = DualTester, (MeritModel,)
    _is_composite = True
    additional_model_inputs = ["input_ids", "attention_mask"]

    def labels(self, inputs: dict) -> dict:
        return {"return_loss": True}


class MeritForPreTrainingTest(ModelTest, unittest.TestCase):
    make_tester, all_model_classes = PreTrainingTester, (MeritForPreTraining,)
    _is_composite = True
    additional_model_inputs = ["input_ids", "attention_mask"]


class MeritForConditionalGenerationTest(ModelTest, GenerationTests, unittest.TestCase):
    has_attentions = True
    make_tester, all_model_classes = GenerationTester, (MeritForConditionalGeneration,)
    _is_composite = True
    additional_model_inputs = ["input_values"]

    def labels(self, inputs: dict) -> dict:
        return {"labels": inputs["input_ids"].clone()}
