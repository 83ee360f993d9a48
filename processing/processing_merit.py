"""Processor of MERIT: ECGs (arrays, records or files) and text become the inputs of the model.

This file is copied to the Hub beside the weights, so it imports only siblings; the readers of ECG files stay in the
package `merit-ecg` and are looked for when a path is passed.
"""

from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from typing import Any, TypedDict

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack


class MeritEcgKwargs(TypedDict, total=False):
    """Arguments of [`MeritFeatureExtractor.__call__`]."""

    sampling_rate: float | None
    leads: Sequence[str] | None
    units: str | None
    nan_policy: str | None
    truncation: bool | None
    return_quality: bool


class MeritProcessorKwargs(ProcessingKwargs, total=False):
    """Arguments of [`MeritProcessor.__call__`]: those for ECGs stand in the audio slot of `transformers`."""

    audio_kwargs: MeritEcgKwargs  # type: ignore[misc]


class MeritProcessor(ProcessorMixin):
    r"""
    Wraps a [`MeritFeatureExtractor`] and a tokenizer.

    For text generation, each `ecg_token` in a prompt stands for one ECG and is expanded to `num_ecg_tokens`
    placeholders. This happens only if the tokenizer knows the token; a dual encoder does not need it.

    Args:
        feature_extractor ([`MeritFeatureExtractor`]): Prepares the ECGs.
        tokenizer ([`PreTrainedTokenizerBase`]): Prepares the text; it needs a padding token.
        ecg_token (`str`, *optional*, defaults to `"<|ecg|>"`): Stands for an ECG in a prompt.
        num_ecg_tokens (`int`, *optional*, defaults to 24): Placeholders per ECG, as many as the vectors of the model.
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
    ((1, 12, 1024), [[2, 3], [3, 0]])
    """

    valid_processor_kwargs = MeritProcessorKwargs  # type: ignore[assignment]
    text_kwargs = {"padding": True, "truncation": True, "return_token_type_ids": False}
    skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "quality"]

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        ecg_token: str = "<|ecg|>",
        num_ecg_tokens: int = 24,
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
        **kwargs: Unpack[MeritProcessorKwargs],
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
            sampling_rate, leads, units, nan_policy, return_quality:
                Passed to [`MeritFeatureExtractor.__call__`]. With paths, the first three are for files that lack them.
            truncation (`bool`, *optional*):
                Whether to cut what is too long: by default texts are cut, and ECGs if the feature extractor is set to.
                As an argument for both; in `audio_kwargs` or `text_kwargs` for one of them.
            padding (`bool` or `str`, *optional*, defaults to `True`): Padding of the text.
            max_length (`int`, *optional*): Tokens to truncate the text to; the limit of the tokenizer by default.
            text_kwargs, audio_kwargs (`dict`, *optional*):
                More arguments for the tokenizer; arguments for the feature extractor.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`] with
            - **input_values**, **ecg_mask**, **quality** -- as from [`MeritFeatureExtractor`], if `ecg` is given.
            - **input_ids**, **attention_mask** -- of shape `(texts, tokens)`, if `text` is given.

        Raises:
            ValueError: If neither is given, a text is empty, or the placeholders in the prompts do not match the ECGs.
            TypeError: If an argument is unknown.
            ImportError: If a path is passed and the package `merit-ecg`, which holds the readers, is not installed.
        """
        return super().__call__(text=text, audio=audio if ecg is None else ecg, **kwargs)

    def prepare_inputs_layout(self, text: Any = None, audio: Any = None, **kwargs: Any) -> tuple[Any, ...]:  # type: ignore[override]
        """Return no images, the texts as a list, no videos, and the ECGs as a list."""
        if text is not None:
            text = [text] if isinstance(text, str) else list(text)
        if isinstance(audio, (list, tuple)):
            one = len(audio) > 0 and all(np.ndim(item) == 1 for item in audio)  # a list of leads
            audio = [audio] if one else list(audio)
        elif audio is not None:
            audio = list(audio) if np.ndim(audio) == 3 else [audio]
        return None, text, None, audio

    def validate_inputs(self, text: list[str] | None = None, audio: list[Any] | None = None, **kwargs: Any) -> None:  # type: ignore[override]
        """Raise an error that names the wrong text, number of placeholders, or argument."""
        arguments = self.valid_processor_kwargs.__annotations__
        known = {
            "common_kwargs",
            *arguments,
            *arguments["text_kwargs"].__annotations__,
            *arguments["audio_kwargs"].__annotations__,
        }
        if unknown := [name for name, value in kwargs.items() if name not in known and value is not None]:
            raise TypeError(f"Expected `ecg`, `text` and {', '.join(sorted(known))}, got {', '.join(unknown)}.")
        if audio is None and text is None:
            raise ValueError("Expected `ecg`, `text` or both, got neither.")
        if text is not None and not text:
            raise ValueError("Expected at least one text, got an empty list. Pass text=None for ECGs alone.")
        for index, item in enumerate(text or []):
            if not isinstance(item, str):
                raise ValueError(f"Expected `text` to be a string or strings, got {type(item).__name__} at {index}.")
            if not item.strip():
                raise ValueError(f"Text {index} is empty. Leave the pair out, or write a report for it.")
            if self.audio_token is None and self.ecg_token in item:
                raise ValueError(
                    f"Text {index} holds {self.ecg_token}, which the tokenizer does not know. Remove it, or add it by "
                    f"`tokenizer.add_special_tokens({{'additional_special_tokens': ['{self.ecg_token}']}})`."
                )
        super().validate_inputs(text=text, audio=audio)

    def _process_audio(self, audio: Any, **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        """Return the output of the feature extractor, for which files are read first, and the placeholders."""
        is_path = [isinstance(item, (str, PathLike)) for item in audio]
        metadata = {name: kwargs.get(name) for name in ("sampling_rate", "leads", "units")}
        ecgs = [_read(item, **metadata) if path else item for item, path in zip(audio, is_path)]
        if all(is_path):  # records carry their own
            kwargs = {name: value for name, value in kwargs.items() if name not in metadata}
        return super()._process_audio(ecgs, **kwargs)

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
                `ecg` is what [`MeritProcessor.__call__`] takes for one; the template writes `ecg_token` for it. The
                generic `"audio"` is another name of `"ecg"`.
            chat_template (`str`, *optional*): Jinja template instead of the one of the processor.
            tokenize (`bool`, *optional*, defaults to `False`): Whether to return inputs of the model instead of text.
            return_dict (`bool`, *optional*, defaults to `False`): With `tokenize`, return all inputs.
            return_tensors (`str`, *optional*): With `tokenize`, `"pt"` or `"np"`.
            processor_kwargs (`dict`, *optional*): With `tokenize`, arguments of [`MeritProcessor.__call__`], such as
                `sampling_rate`, `leads` and `units` for arrays.
            kwargs: `add_generation_prompt`, `continue_final_message`, `return_assistant_tokens_mask` (adds
                `assistant_masks`, 1 at the tokens that a template writes between `{% generation %}` and
                `{% endgeneration %}`), `tools`, `documents`, and variables of the template.

        Returns:
            `str` or `list[str]`, or with `tokenize` a [`BatchFeature`] or its `input_ids`.
        """
        options: dict[str, Any] = dict(processor_kwargs or {})
        if tokenize and "add_special_tokens" not in options.get("text_kwargs", {}):
            options.setdefault("add_special_tokens", False)  # the template writes them; not once more the tokenizer
        return super().apply_chat_template(
            conversation,
            chat_template,
            tokenize=tokenize,
            return_dict=return_dict,
            return_tensors=return_tensors,
            processor_kwargs=options,
            **kwargs,
        )

    def _multimodal_inputs_from_conversations(self, conversations: list, *args: Any) -> tuple[list, list, list, dict]:
        """Return no images, videos or sounds, and the ECGs, which the library would read as mono sound."""
        contents = [message.get("content") for messages in conversations for message in messages]
        blocks = [block for content in contents if not isinstance(content, str) for block in content or []]
        names = ("ecg", "audio")
        ecgs = [
            block[name] for block in blocks if block["type"] in names for name in (*names, "path") if name in block
        ]
        return [], [], [], {"ecg": ecgs or None}


def _read(path: str | PathLike, **metadata: Any) -> Any:
    """Read an ECG file with the readers of the package, which are not copied to the Hub."""
    try:
        readers = import_module("modeling_merit.processing.readers")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("modeling_merit"):
            raise
        raise ImportError(
            f"Reading {str(path)!r} needs the package merit-ecg: install it from its folder or repository "
            "(`pip install PATH`). Or pass the signal as an array with `sampling_rate`, `leads` and `units`."
        ) from error
    return readers.read_ecg(path, **metadata)


__all__ = ["MeritProcessor"]
