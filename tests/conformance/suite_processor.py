"""`ProcessorTesterMixin` of transformers on the processor, with ECG records in its audio slot."""

import unittest

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from upstream import processing

from modeling_merit import MeritFeatureExtractor, MeritProcessor
from modeling_merit.processing import EcgRecord

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for block in message['content'] %}{% if block['type'] in ('ecg', 'audio') %}<|ecg|>{% else %}"
    "{{ block['text'] }}{% endif %}{% endfor %}{% endif %} {% endfor %}"
)


class MeritProcessorTest(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = MeritProcessor
    audio_input_name = "input_values"

    @classmethod
    def _setup_feature_extractor(cls) -> MeritFeatureExtractor:
        return MeritFeatureExtractor()

    @classmethod
    def _setup_tokenizer(cls) -> PreTrainedTokenizerFast:
        words = ["lower", "newer", "upper", "older", "longer", "string", "What", "is", "the", "user", "assistant"]
        vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|ecg|>"]})
        return tokenizer

    @staticmethod
    def prepare_processor_dict() -> dict:
        return {"num_ecg_tokens": 12, "chat_template": TEMPLATE}

    def prepare_audio_inputs(self, batch_size: int | None = None):
        signal = np.random.default_rng(0).normal(size=(12, 5000)) / 10
        leads = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
        record = EcgRecord(signal, sampling_rate=500, leads=leads)
        return record if batch_size is None else [record] * batch_size
