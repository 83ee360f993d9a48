"""Tokenizers trained on the texts of a data set."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from modeling_merit.objective_merit import ngram_keys

ECG_TOKEN = "<|ecg|>"
"""The token of a prompt whose place the tokens of an ECG take."""


def train_wordpiece(reports: Sequence[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer of the corpus, lower case without accents, the same for the same reports."""
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    # The trainer numbers the letters within words in the random order of a hash map, and breaks ties by these numbers.
    letters = sorted(set("".join(map(normalizer.normalize_str, reports)).replace(" ", "")))
    first = [*special, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(reports, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first))
    # Anew from its vocabulary: the trained one takes those letters for special tokens.
    tokenizer = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ids)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def train_byte_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = ["<|pad|>", "<|end|>", ECG_TOKEN], pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet)
    )
    names = {"pad_token": "<|pad|>", "eos_token": "<|end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names)


def frequent_ngrams(
    input_ids: Sequence[Sequence[int]], vocab_size: int, max_ngram: int, min_reports: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the words and phrases that enough tokenised reports hold, but not all of them.

    Args:
        input_ids (sequence of sequences of `int`): Tokens of the training reports.
        vocab_size (`int`): Tokens of the tokenizer.
        max_ngram (`int`): Tokens of the longest phrase.
        min_reports (`int`): Reports that hold a phrase, at least.

    Returns:
        `tuple(np.ndarray, np.ndarray)`: Keys as `ngram_keys` gives them, int64, ascending, and the fraction of the
        reports that hold each, float32.

    Example:

    >>> keys, frequencies = frequent_ngrams([[1, 2], [1, 3], [1, 2], [4]], vocab_size=9, max_ngram=2, min_reports=2)
    >>> keys.tolist(), frequencies.tolist()
    ([2, 3, 23], [0.75, 0.5, 0.5])
    """
    counts: Counter[int] = Counter()
    for ids in input_ids:
        if len(ids):
            keys = ngram_keys(torch.tensor([ids]), None, vocab_size, max_ngram)
            counts.update(set(keys[keys >= 0].tolist()))
    kept = sorted(key for key, count in counts.items() if min_reports <= count < len(input_ids))
    frequencies = np.array([counts[key] / len(input_ids) for key in kept], dtype=np.float32)
    return np.array(kept, dtype=np.int64), frequencies


__all__ = ["ECG_TOKEN", "frequent_ngrams", "train_byte_bpe", "train_wordpiece"]
