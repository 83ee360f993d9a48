"""Processor of MERIT: ECGs (arrays, records or files) and text become the inputs of the model.

This file travels to the Hub beside the weights, so it imports only siblings; the readers of ECG files stay in the
package `merit-ecg` and are looked for when a path is passed.
"""

from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from typing import Any

from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

NO_LIMIT = 10**9  # tokenizers without a length limit report a larger number than this


class MeritProcessor(ProcessorMixin):
    r"""
    Wraps a [`MeritFeatureExtractor`] and a tokenizer.

    For text generation, each `ecg_token` in a prompt stands for one ECG and is expanded to `num_ecg_tokens`
    placeholders. This happens only if the tokenizer knows the token; a dual encoder does not need it.

    Args:
        feature_extractor ([`MeritFeatureExtractor`]): Prepares the ECGs.
        tokenizer ([`PreTrainedTokenizerBase`]): Prepares the text; it needs a padding token.
        ecg_token (`str`, *optional*, defaults to `"<|ecg|>"`): Stands for an ECG in a prompt.
        num_ecg_tokens (`int`, *optional*, defaults to 240): Placeholders per ECG, as many as the vectors of the model.
        chat_template (`str`, *optional*): Jinja template for `apply_chat_template`.

    Example:

    >>> import numpy as np
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> from modeling_merit.processing import MeritFeatureExtractor
    >>> words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "sinus": 2, "rhythm": 3}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    >>> processor = MeritProcessor(MeritFeatureExtractor(), tokenizer)
    >>> ecg = np.sin(np.arange(12_000, dtype=np.float32)).reshape(12, 1000)
    >>> names = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    >>> inputs = processor(ecg, ["sinus rhythm", "rhythm"], sampling_rate=100, leads=names, units="mV")
    >>> inputs["input_values"].shape, inputs["input_ids"]
    ((1, 12, 1000), [[2, 3], [3, 0]])
    """

    skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "quality"]

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        ecg_token: str = "<|ecg|>",
        num_ecg_tokens: int = 240,
        chat_template: str | None = None,
    ):
        self.ecg_token = ecg_token
        self.num_ecg_tokens = num_ecg_tokens
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    @property
    def audio_token(self) -> str | None:
        """`ecg_token` if the tokenizer knows it: the slot whose token `ProcessorMixin` expands into placeholders."""
        return self.ecg_token if self.audio_token_id is not None else None

    @property
    def audio_token_id(self) -> int | None:
        """Id of `ecg_token`, `None` if the tokenizer does not know it."""
        token_id = self.tokenizer.convert_tokens_to_ids(self.ecg_token)
        return None if token_id == self.tokenizer.unk_token_id else token_id

    def __call__(  # type: ignore[override]
        self,
        ecg: Any = None,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        *,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        nan_policy: str | None = None,
        truncation: bool | None = None,
        return_quality: bool = False,
        padding: bool | str = True,
        max_length: int | None = None,
        text_kwargs: dict[str, Any] | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Prepare ECGs, text, or both.

        Args:
            ecg (path, `EcgRecord`, `np.ndarray`, `torch.Tensor`, or a list of these):
                What [`MeritFeatureExtractor.__call__`] takes, and paths of ECG files.
            text (`str` or sequence of `str`, *optional*):
                Reports, class prompts, or prompts for generation. Their number is free; but if the tokenizer knows
                `ecg_token`, they must hold it once for each ECG.
            audio (*optional*): Another name of `ecg`, used by the generic code of `transformers`.
            sampling_rate, leads, units, nan_policy, truncation, return_quality:
                Passed to [`MeritFeatureExtractor.__call__`]. With paths, the first three are for files that lack them.
            padding (`bool` or `str`, *optional*, defaults to `True`): Padding of the text.
            max_length (`int`, *optional*): Tokens to truncate the text to; the limit of the tokenizer by default.
            text_kwargs (`dict`, *optional*): More arguments for the tokenizer.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`] with
            - **input_values**, **ecg_mask**, **quality** -- as from [`MeritFeatureExtractor`], if `ecg` is given.
            - **input_ids**, **attention_mask** -- of shape `(texts, tokens)`, if `text` is given.

        Raises:
            ValueError: If neither is given, a text is empty, or the placeholders in the prompts do not match the ECGs.
            ImportError: If a path is passed and the package `merit-ecg`, which holds the readers, is not installed.
        """
        ecg = audio if ecg is None else ecg
        if ecg is None and text is None:
            raise ValueError("Expected `ecg`, `text` or both, got neither.")
        data: dict[str, Any] = {}
        placeholders: list[str] = []
        if ecg is not None:
            facts = {"sampling_rate": sampling_rate, "leads": leads, "units": units}
            items = list(ecg) if isinstance(ecg, (list, tuple)) else [ecg]
            if any(isinstance(item, (str, PathLike)) for item in items):
                ecg = [_read(item, **facts) if isinstance(item, (str, PathLike)) else item for item in items]
                if all(isinstance(item, (str, PathLike)) for item in items):
                    facts = {}
            data.update(
                self.feature_extractor(
                    ecg, **facts, nan_policy=nan_policy, truncation=truncation, return_quality=return_quality
                )
            )
            placeholders = [self.replace_audio_token(data, index) for index in range(len(data["input_values"]))]
        if text is not None:
            texts = self._check_text(text, len(placeholders))
            texts, _ = self.get_text_with_replacements(texts, audio_replacements=placeholders)
            data.update(self._tokenize(texts, len(placeholders), padding, max_length, text_kwargs or {}))
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs: Any) -> str:
        """Return the placeholders that one `ecg_token` of a prompt is expanded to."""
        return self.ecg_token * self.num_ecg_tokens

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: list[dict[str, Any]] | list[list[dict[str, Any]]],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Turn a conversation, or a list of them, into a prompt or into the inputs of the model.

        Args:
            conversation (`list`): Messages. Content of the form `{"type": "ecg", "ecg": ecg}` stands for an ECG, where
                `ecg` is what [`MeritProcessor.__call__`] takes for one; the template writes `ecg_token` for it.
            chat_template (`str`, *optional*): Jinja template instead of the one of the processor.
            tokenize (`bool`, *optional*, defaults to `False`): Whether to return inputs of the model instead of text.
            return_dict (`bool`, *optional*, defaults to `False`): With `tokenize`, return all inputs.
            return_tensors (`str`, *optional*): With `tokenize`, `"pt"` or `"np"`.
            processor_kwargs (`dict`, *optional*): With `tokenize`, arguments of [`MeritProcessor.__call__`], such as
                `sampling_rate`, `leads` and `units` for arrays.
            kwargs: `add_generation_prompt`, `continue_final_message`, and variables of the template.

        Returns:
            `str` or `list[str]`, or with `tokenize` a [`BatchFeature`] or its `input_ids`.
        """
        prompt = super().apply_chat_template(conversation, chat_template, **kwargs)
        if not tokenize:
            return prompt
        conversations = [conversation] if isinstance(conversation[0], dict) else conversation
        contents = [message["content"] for messages in conversations for message in messages]
        blocks = [block for content in contents if not isinstance(content, str) for block in content]
        ecgs = [block["ecg"] for block in blocks if block["type"] == "ecg"]
        options = dict(processor_kwargs or {})
        # The template writes the special tokens; the tokenizer must not write them again.
        options["text_kwargs"] = {"add_special_tokens": False} | options.get("text_kwargs", {})
        inputs = self(ecg=ecgs or None, text=prompt, return_tensors=return_tensors, **options)
        return inputs if return_dict else inputs["input_ids"]

    def _check_text(self, text: str | Sequence[str], num_ecgs: int) -> list[str]:
        """Return the texts as a list, or say what is wrong with them."""
        texts = [text] if isinstance(text, str) else list(text)
        for index, item in enumerate(texts):
            if not isinstance(item, str):
                raise ValueError(f"Expected `text` to be a string or strings, got {type(item).__name__} at {index}.")
            if not item.strip():
                raise ValueError(f"Text {index} is empty. Leave the pair out, or write a report for it.")
        if not texts:
            raise ValueError("Expected at least one text, got an empty list. Pass text=None for ECGs alone.")
        found = sum(item.count(self.ecg_token) for item in texts)
        if found and self.audio_token is None:
            raise ValueError(
                f"The text holds {self.ecg_token}, which the tokenizer does not know. Add it with "
                f"`tokenizer.add_special_tokens({{'additional_special_tokens': ['{self.ecg_token}']}})`, or remove it."
            )
        if self.audio_token is not None and found != num_ecgs:
            raise ValueError(
                f"Expected one {self.ecg_token} in the text for each ECG, got {found} for {num_ecgs} ECGs. "
                "Write it where each ECG belongs, in the order of `ecg`."
            )
        return texts

    def _tokenize(
        self, texts: list[str], num_ecgs: int, padding: bool | str, max_length: int | None, text_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return `input_ids` and `attention_mask`, truncated to the limit, but never within an ECG."""
        limit = self.tokenizer.model_max_length if max_length is None else max_length
        limits = {"truncation": True, "max_length": limit} if limit < NO_LIMIT else {}
        options: dict[str, Any] = {"padding": padding, "return_token_type_ids": False, **limits, **text_kwargs}
        encoding = self.tokenizer(texts, **options)
        if self.audio_token is not None:
            kept = sum(list(ids).count(self.audio_token_id) for ids in encoding["input_ids"])
            if kept != num_ecgs * self.num_ecg_tokens:
                raise ValueError(
                    f"Expected {num_ecgs} ECGs of {self.num_ecg_tokens} placeholders; truncation to {limit} tokens "
                    f"leaves {kept} placeholders. Raise `max_length`, or shorten the prompt."
                )
        return dict(encoding)


def _read(path: str | PathLike, **facts: Any) -> Any:
    """Read an ECG file with the readers of the package, which do not travel to the Hub."""
    try:
        readers = import_module("modeling_merit.processing.readers")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("modeling_merit"):
            raise
        raise ImportError(
            f"Reading {str(path)!r} needs the package merit-ecg: pip install merit-ecg. Or pass the signal as "
            "an array with `sampling_rate`, `leads` and `units`."
        ) from error
    return readers.read_ecg(path, **facts)


__all__ = ["MeritProcessor"]
