"""Pipelines of `transformers` for ECGs: zero-shot classification, classification, features and reports.

This file travels to the Hub beside the weights, so it imports only siblings: `pipeline(task, model=folder,
trust_remote_code=True)` works where the package is not installed. With the package, `import modeling_merit` registers
the tasks. Not a medical device: what the pipelines return is research output, not for diagnosis or treatment.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import GenerationConfig
from transformers.pipelines.base import ChunkPipeline, no_collate_fn
from transformers.pipelines.pt_utils import PipelineChunkIterator, PipelineIterator, PipelinePackIterator

from .inference_merit import SCORE_MEANING, PromptEmbeddings, embed_prompts, generate_reports, score_embeddings
from .reading_merit import FACTS, pieces

PREPARING = (*FACTS, "window_seconds", "step_seconds", "truncation")
BESIDE_THE_CONFIGURATION = (
    *("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer"),
    *("assistant_model", "assistant_tokenizer", "tokenizer"),
)
"""Arguments of `generate` that are no fields of its configuration."""
SCORES = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(dim=-1),
    "none": lambda logits: logits,
}


def pad_ecgs(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ECGs of any lengths as one batch; the mask is False at the samples that are added at their ends."""
    batch: dict[str, Any] = {name: [item[name] for item in items] for name in items[0]}
    for name in ("input_values", "ecg_mask"):
        longest = max(tensor.shape[-1] for tensor in batch[name])
        parts = [torch.nn.functional.pad(tensor, (0, longest - tensor.shape[-1])) for tensor in batch[name]]
        batch[name] = torch.cat(parts)
    return batch


def ranked(scores: dict[str, np.ndarray], labels: list[str], top_k: int | None) -> list[dict[str, Any]]:
    """Return labels with their values, the highest `score` first, at most `top_k` of them.

    Example:

    >>> ranked({"score": np.array([0.25, 0.75])}, ["a", "b"], 1)
    [{'label': 'b', 'score': 0.75}]
    """
    order = np.argsort(-scores["score"], kind="stable")[:top_k]
    return [{"label": labels[i]} | {name: float(values[i]) for name, values in scores.items()} for i in order]


class MeritPipeline(ChunkPipeline):
    """What the ECG pipelines share: their input, windows and batches.

    An ECG is the path of a file, an `EcgRecord` (anything with `signal` in mV, `sampling_rate` and `leads`), an array
    or tensor of shape `(leads, samples)`, or a mapping with `signal` (or `array`), `sampling_rate`, `leads` and
    `units`. A list of these or an array `(ecgs, leads, samples)` gives a list with one result per ECG; a `KeyDataset`
    or a generator gives an iterator of them. As with `load_checkpoint`, NaN samples are masked, and leads without a
    row in the model are dropped with a warning. An ECG that moves in no lead is refused, but not for its features.

    Arguments of every call, or of `pipeline(...)` for all calls:

    - `sampling_rate` (Hz), `leads`, `units` ("mV", "uV", "nV" or "V"): of arrays, or of files that do not state them.
    - `window_seconds`, `step_seconds`: encode windows of this length, one every `step_seconds` (`window_seconds` by
      default), each as an ECG of its own, and join their results; for recordings longer than the model accepts, which
      are refused otherwise. A rest at the end is left out, and so are windows that the model cannot take, with a
      warning. An ECG no longer than a window is encoded whole.
    - `truncation`: cut an ECG that is too long instead.
    - `batch_size`: ECGs or windows that the model takes at once.
    """

    _load_tokenizer = _load_image_processor = _load_video_processor = _load_processor = False
    _load_feature_extractor = True
    refuse_flat = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.feature_extractor is None:
            raise ValueError(
                f"Expected a feature extractor beside the model of the task {self.task!r}, got none. Pass "
                "`feature_extractor`, or `processor` where the model reads or writes text."
            )
        extractor: Any = copy.copy(self.feature_extractor)
        extractor.nan_policy, extractor.extra_leads = "mask", "drop"
        extractor.refuse_flat = self.refuse_flat
        self.extractor = extractor

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if getattr(inputs, "ndim", None) == 3:  # an array or tensor (ecgs, leads, samples)
            inputs = list(inputs)
        elif isinstance(inputs, (list, tuple)):
            if not len(inputs):
                return []
            first = inputs[0]
            one = isinstance(first, (list, tuple, np.ndarray, torch.Tensor)) and np.ndim(first) == 1  # a list of leads
            inputs = np.asarray(inputs) if one else list(inputs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        kwargs.pop("local_files_only", None)  # `pipeline` hands it on after loading
        preparing = {name: kwargs.pop(name) for name in PREPARING if name in kwargs}
        forward, after = self.task_parameters(kwargs)
        if kwargs:
            raise TypeError(
                f"Expected arguments of the task {self.task!r} ({', '.join(PREPARING)}, batch_size and those in the "
                f"documentation of {type(self).__name__}), got {', '.join(kwargs)}."
            )
        return preparing, forward, after

    def task_parameters(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Take out of `kwargs` the arguments for `_forward` and those for `postprocess`."""
        raise NotImplementedError

    def preprocess(self, ecg: Any, truncation: bool | None = None, **kwargs: Any) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the tensors of an ECG, or of its windows, and of each where it starts and whether it is the last."""
        previous, refused, first_refusal = None, 0, None
        for piece in pieces(ecg, **kwargs):
            try:
                features = self.extractor(piece.ecg, **piece.facts, truncation=truncation, return_tensors="pt")
            except ValueError as error:
                if kwargs.get("window_seconds") is None:
                    if "pass truncation=True" in str(error):
                        raise ValueError(f"{error} Or pass `window_seconds=10` to encode it in windows.") from None
                    raise
                refused, first_refusal = refused + 1, first_refusal or error
                continue
            if previous is not None:
                yield {**previous, "is_last": False}
            previous = {**features, "start_s": piece.start_s, "stop_s": piece.stop_s}
        if previous is None:
            raise first_refusal or ValueError("Expected an ECG with at least one window, got none.")
        if refused:
            warnings.warn(f"{refused} windows are left out, the first for: {first_refusal}", stacklevel=2)
        yield {**previous, "is_last": True}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Replace the tensors of ECGs by what the model makes of them."""
        ecgs = {name: model_inputs.pop(name) for name in ("input_values", "ecg_mask")}
        return {"output": self.compute(ecgs, **kwargs), **model_inputs}

    def compute(self, ecgs: dict[str, torch.Tensor], **kwargs: Any) -> Any:
        """Return the output of the model for a batch: a tensor of shape `(ecgs, ...)`, or a list."""
        raise NotImplementedError

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        # As in `ChunkPipeline`, whose batches must be of one length.
        chunks = PipelineChunkIterator(inputs, self.preprocess, preprocess_params)
        collate = no_collate_fn if batch_size == 1 else pad_ecgs
        loader = DataLoader(chunks, num_workers=min(num_workers, 1), batch_size=batch_size, collate_fn=collate)
        packed = PipelinePackIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(packed, self.postprocess, postprocess_params)


class ScoringPipeline(MeritPipeline):
    """What the two classifiers share: one ranking per ECG, and with `return_windows` one per window."""

    def _sanitize_parameters(self, **kwargs):
        top_k = kwargs.get("top_k")
        if top_k is not None and top_k < 1:
            raise ValueError(f"Expected `top_k` of at least 1, or None for all, got {top_k}.")
        return super()._sanitize_parameters(**kwargs)

    def ranking(self, windows: list[dict[str, Any]], scores: dict[str, np.ndarray], labels, top_k, return_windows):
        """Return the ranking of the means over windows of scores `(windows, labels)`."""
        whole = ranked({name: values.mean(axis=0) for name, values in scores.items()}, labels, top_k)
        if not return_windows:
            return whole
        parts = [
            {"start_s": window["start_s"], "stop_s": window["stop_s"]}
            | {"scores": ranked({name: values[row] for name, values in scores.items()}, labels, top_k)}
            for row, window in enumerate(windows)
        ]
        return {"scores": whole, "windows": parts}


class MeritZeroShotEcgClassificationPipeline(ScoringPipeline):
    """Compare ECGs with texts: the task `"zero-shot-ecg-classification"`.

    Arguments beside those of [`MeritPipeline`]:

    - `candidate_labels`: two or more texts, or a mapping of class to one text or a list of them, whose mean embedding
      stands for the class.
    - `top_k`: how many labels are returned, the best first; all by default.
    - `return_windows`: also return the scores of every window, as `{"scores": [...], "windows": [{"start_s", "stop_s",
      "scores"}, ...]}`.

    Returns for each ECG a list of `{"label", "score", "cosine_similarity"}`. A score is that of
    `modeling_merit.processing.inference.score_prompts`; it is not a probability (see `score_meaning`).
    Of several windows the mean counts.

    Example:

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast, pipeline
    >>> from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritModel, MeritProcessor
    >>> words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "sinus": 2, "rhythm": 3}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    >>> processor = MeritProcessor(MeritFeatureExtractor(), tokenizer)
    >>> model = MeritModel(MeritConfig.from_size("tiny", text_config={"vocab_size": 4})).eval()
    >>> classify = pipeline("zero-shot-ecg-classification", model=model, processor=processor)
    >>> ecg = {"signal": np.sin(np.arange(1000))[None], "sampling_rate": 100, "leads": ["II"], "units": "mV"}
    >>> [sorted(row) for row in classify(ecg, candidate_labels=["sinus", "rhythm"])]
    [['cosine_similarity', 'label', 'score'], ['cosine_similarity', 'label', 'score']]
    """

    _load_processor, _load_feature_extractor = True, False
    score_meaning = SCORE_MEANING

    def __init__(self, *args: Any, **kwargs: Any):
        self._last_prompts: tuple[Any, PromptEmbeddings] | None = None
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(f"Expected `processor` beside the model of the task {self.task!r}, got none.")

    def __call__(self, inputs: Any, candidate_labels: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        if candidate_labels is None:
            candidate_labels = self._postprocess_params.get("candidate_labels")
        self.embed_labels(candidate_labels)  # refuses them before any ECG is read
        return super().__call__(inputs, candidate_labels=candidate_labels, **kwargs)

    def task_parameters(self, kwargs):
        names = ("candidate_labels", "top_k", "return_windows")
        return {}, {name: kwargs.pop(name) for name in names if name in kwargs}

    def embed_labels(self, labels: Any) -> PromptEmbeddings:
        """Return the embeddings of labels; those of the last call are kept."""
        if labels is None:
            raise ValueError(
                'Expected `candidate_labels`: two or more texts, such as ["vorhofflimmern", "sinusrhythmus"], or a '
                "mapping of class to texts, got none."
            )
        if isinstance(labels, Mapping):
            labels = {name: [texts] if isinstance(texts, str) else list(texts) for name, texts in labels.items()}
        else:
            labels = [labels] if isinstance(labels, str) else list(labels)
        last = self._last_prompts  # which another thread may replace
        if last is None or last[0] != labels:
            embedded = embed_prompts(self.model, self.processor, labels)
            for note in embedded.notes:
                warnings.warn(note, stacklevel=3)
            self._last_prompts = last = (labels, embedded)
        return last[1]

    def compute(self, ecgs):
        return self.model.get_score_features(ecgs["input_values"], ecgs["ecg_mask"]).float()

    def postprocess(self, windows, candidate_labels=None, top_k=None, return_windows=False):  # type: ignore[override]
        labels = self.embed_labels(candidate_labels)
        found = score_embeddings(torch.cat([window["output"] for window in windows]), labels)
        scores = {"score": found.score, "cosine_similarity": found.cosine_similarity}
        return self.ranking(windows, scores, list(labels.names), top_k, return_windows)


class MeritEcgClassificationPipeline(ScoringPipeline):
    """Classify ECGs by a trained head: the task `"ecg-classification"`.

    Arguments beside those of [`MeritPipeline`]:

    - `top_k`: how many labels are returned, the best first; all by default.
    - `function_to_apply`: `"sigmoid"`, `"softmax"` or `"none"`; by default that of `config.problem_type`: softmax
      where one of several classes holds, none for regression, else sigmoid.
    - `return_windows`: as in [`MeritZeroShotEcgClassificationPipeline`].

    Returns for each ECG a list of `{"label", "score"}`. A score is the probability that the model gives to a label, or
    a logit with `"none"`; it is only as well calibrated as the model. Of several windows the mean counts.

    Example:

    >>> from transformers import pipeline
    >>> from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritForEcgClassification
    >>> config = MeritConfig.from_size("tiny").ecg_config
    >>> config.id2label = {0: "sinus rhythm", 1: "atrial fibrillation"}
    >>> model = MeritForEcgClassification(config).eval()
    >>> classify = pipeline("ecg-classification", model=model, feature_extractor=MeritFeatureExtractor())
    >>> ecg = {"signal": np.sin(np.arange(1000))[None], "sampling_rate": 100, "leads": ["II"], "units": "mV"}
    >>> round(sum(row["score"] for row in classify(ecg)), 3)
    1.0
    """

    def task_parameters(self, kwargs):
        if (kwargs.get("function_to_apply") or "none") not in SCORES:
            raise ValueError(
                f"Expected `function_to_apply` to be one of {', '.join(map(repr, SCORES))}, got "
                f"{kwargs['function_to_apply']!r}."
            )
        names = ("top_k", "function_to_apply", "return_windows")
        return {}, {name: kwargs.pop(name) for name in names if name in kwargs}

    def compute(self, ecgs):
        return self.model(ecgs["input_values"], ecgs["ecg_mask"]).logits.float()

    def postprocess(self, windows, top_k=None, function_to_apply=None, return_windows=False):  # type: ignore[override]
        config = self.model.config
        if function_to_apply is None:
            several = config.problem_type == "multi_label_classification" or config.num_labels == 1
            function_to_apply = "none" if config.problem_type == "regression" else "sigmoid" if several else "softmax"
        scores = SCORES[function_to_apply](torch.cat([window["output"] for window in windows])).numpy()
        labels = [config.id2label[index] for index in range(config.num_labels)]
        return self.ranking(windows, {"score": scores}, labels, top_k, return_windows)


class MeritEcgFeatureExtractionPipeline(MeritPipeline):
    """Embed ECGs: the task `"ecg-feature-extraction"`, and `"feature-extraction"` of a MERIT checkpoint.

    Arguments beside those of [`MeritPipeline`]:

    - `features`: `"pooled"` (default), the output of the ECG encoder that probes and classifiers take, or `"aligned"`,
      the unit vector that is compared with texts.
    - `return_tensors`: return tensors instead of lists.

    Returns for each ECG a list of floats, or a tensor of shape `(features,)`. Of several windows it is the mean, for
    `"aligned"` brought back to unit length.

    Example:

    >>> from transformers import pipeline
    >>> from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritModel
    >>> model = MeritModel(MeritConfig.from_size("tiny", text_config={"vocab_size": 4})).eval()
    >>> embed = pipeline("ecg-feature-extraction", model=model, feature_extractor=MeritFeatureExtractor())
    >>> ecg = np.random.default_rng(0).normal(size=(2, 30_000))  # a minute at 500 Hz
    >>> facts = {"sampling_rate": 500, "leads": ["I", "II"], "units": "mV"}
    >>> embed(ecg, **facts, window_seconds=10, features="aligned", return_tensors=True).shape
    torch.Size([256])
    """

    refuse_flat = False

    def task_parameters(self, kwargs):
        features = kwargs.pop("features", None)
        forward = {} if features is None else {"features": features}
        if forward.get("features", "pooled") not in ("pooled", "aligned"):
            raise ValueError(f"Expected `features` to be 'pooled' or 'aligned', got {forward['features']!r}.")
        if forward.get("features") == "aligned" and not hasattr(self.model, "get_text_features"):
            raise ValueError(
                f"Expected a checkpoint that was aligned with texts for features='aligned', got "
                f"{type(self.model).__name__}. Leave `features` out."
            )
        after = {"return_tensors": kwargs.pop("return_tensors")} if "return_tensors" in kwargs else {}
        return forward, after | forward

    def compute(self, ecgs, features="pooled"):
        inputs = ecgs["input_values"], ecgs["ecg_mask"]
        if features == "aligned":
            return self.model.get_ecg_features(*inputs).pooler_output.float()
        return getattr(self.model, "ecg_model", self.model)(*inputs).pooler_output.float()

    def postprocess(self, windows, features="pooled", return_tensors=False):  # type: ignore[override]
        embedding = torch.cat([window["output"] for window in windows])
        if len(embedding) > 1:
            embedding = embedding.mean(dim=0, keepdim=True)
            embedding = torch.nn.functional.normalize(embedding, dim=1) if features == "aligned" else embedding
        return embedding[0] if return_tensors else embedding[0].tolist()


class MeritEcgToTextPipeline(MeritPipeline):
    """Write texts about ECGs: the task `"ecg-to-text"`.

    Arguments beside those of [`MeritPipeline`]:

    - `prompt`: what the model is asked, with `{ecg}` in the place of the ECG; the prompt for reports in its
      configuration by default.
    - `language`: of the report, as the model was taught it; English by default.
    - arguments of `generate`, such as `max_new_tokens` (128 by default), `num_beams` and `stop_strings`.

    Returns for each ECG a list with one `{"generated_text", "start_s", "stop_s"}` per window, of which there is one
    unless `window_seconds` was given. Texts are those of `modeling_merit.processing.inference.generate_reports`.

    Example (with a checkpoint of `examples/train_report_generation.py`):

        pipeline("ecg-to-text", model="merit-report")("00001_lr.hea", language="German", max_new_tokens=64)
    """

    _load_processor, _load_feature_extractor = True, False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=128)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(f"Expected `processor` beside the model of the task {self.task!r}, got none.")

    def task_parameters(self, kwargs):
        names = {"prompt", "language", "generation_config", *vars(GenerationConfig()), *BESIDE_THE_CONFIGURATION}
        return {name: kwargs.pop(name) for name in names & kwargs.keys()}, {}

    def compute(self, ecgs, prompt=None, language="English", **generate_kwargs):
        options = self._prepare_generate_kwargs(generate_kwargs)
        return generate_reports(self.model, self.processor, ecgs, prompt, language, **options)

    def postprocess(self, windows):  # type: ignore[override]
        # A batch of one ECG is not taken apart: its output is still a list.
        texts = [output if isinstance(output := window["output"], str) else output[0] for window in windows]
        return [
            {"generated_text": text, "start_s": window["start_s"], "stop_s": window["stop_s"]}
            for text, window in zip(texts, windows)
        ]


__all__ = [
    "MeritEcgClassificationPipeline",
    "MeritEcgFeatureExtractionPipeline",
    "MeritEcgToTextPipeline",
    "MeritPipeline",
    "MeritZeroShotEcgClassificationPipeline",
]
