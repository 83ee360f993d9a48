"""Tokenizers trained on the texts of a data set."""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

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


__all__ = ["ECG_TOKEN", "train_byte_bpe", "train_wordpiece"]
