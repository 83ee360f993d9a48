"""Inference with a checkpoint: load it, embed ECGs, score them against prompts, generate reports.

The command line, the Space and the examples call these functions. `torch` and `transformers` are imported when a
checkpoint is loaded or used, so that commands without a model start without them.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .benchmark.prompts import average_prompts, check_prompts, flatten_prompts

if TYPE_CHECKING:
    import torch

FEATURES: dict[str, Callable] = {
    "aligned": lambda model, *ecg: model.get_ecg_features(*ecg),
    "pooled": lambda model, *ecg: model.ecg_model(*ecg).pooler_output,
}
"""Features of an ECG by name: aligned, unit vectors to compare with texts; pooled, mean and maximum of the ECG
encoder's outputs, for classifiers."""


MODEL_TYPES = {
    "AutoModel": ("merit", "compares ECGs with texts", "examples/pretrain.py"),
    "AutoModelForMultimodalLM": ("merit_generation", "writes reports", "examples/train_report_generation.py"),
}
"""By Auto class: `model_type` in the configuration, what such a model does, and the script that trains one."""

CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


class PromptEmbeddings(NamedTuple):
    """Prompts as a model sees them, one unit vector per class."""

    names: tuple[str, ...]
    embeddings: np.ndarray  # (classes, projection_dim)
    notes: tuple[str, ...]  # on prompts that the model reads only in part


class PromptScores(NamedTuple):
    """Scores of ECGs against prompts or classes, each `np.ndarray` of shape `(ecgs, classes)`."""

    cosine_similarity: np.ndarray
    relative_similarity: np.ndarray  # the cosine less its mean over the classes


def load_checkpoint(
    checkpoint: str, auto_class: str = "AutoModel", truncation: bool = False, device: str | None = None
) -> tuple[Any, Any]:
    """Load a model and its processor for inference on ECGs as they come.

    NaN samples are masked, and leads without a row in the model are dropped with a warning.

    Args:
        checkpoint (`str`): Folder or Hub id.
        auto_class (`str`): `"AutoModel"` for embeddings and scores, `"AutoModelForMultimodalLM"` for reports.
        truncation (`bool`): Whether ECGs longer than the model accepts are cut instead of refused.
        device (`str`, *optional*): Where the model goes; the CPU by default.

    Returns:
        The model in evaluation mode, and its `MeritProcessor`.

    Raises:
        OSError: If there is no such checkpoint, or not all of its weights.
        ValueError: If the checkpoint holds no model of that class.
    """
    folder = find_checkpoint(checkpoint, auto_class)
    import transformers
    from safetensors import SafetensorError

    try:
        processor = transformers.AutoProcessor.from_pretrained(folder)
        model = getattr(transformers, auto_class).from_pretrained(folder)
    except SafetensorError as error:
        raise OSError(f"The weights in {checkpoint!r} are damaged: {error}. Copy or download them again.") from None
    processor.feature_extractor.nan_policy = "mask"
    processor.feature_extractor.extra_leads = "drop"
    processor.feature_extractor.truncation = truncation
    return model.eval().to(device or "cpu"), processor


def load_scorer(checkpoint: str, truncation: bool = False, device: str | None = None) -> tuple[Any, Any]:
    """Load what gives an ECG scores: a dual encoder as `load_checkpoint` does, or a classifier.

    Args:
        checkpoint (`str`): Folder or Hub id.
        truncation (`bool`), device (`str`, *optional*): As in `load_checkpoint`.

    Returns:
        A `MeritModel` and its `MeritProcessor`, or a `MeritForEcgClassification` and its `MeritFeatureExtractor`.

    Raises:
        OSError: If there is no such checkpoint, or not all of its weights.
        ValueError: If the checkpoint holds neither.
    """
    folder = find_checkpoint(checkpoint, "any")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("architectures") != ["MeritForEcgClassification"]:
        return load_checkpoint(checkpoint, truncation=truncation, device=device)
    import transformers
    from safetensors import SafetensorError

    from modeling_merit import MeritForEcgClassification

    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    try:
        model = MeritForEcgClassification.from_pretrained(folder)
    except SafetensorError as error:
        raise OSError(f"The weights in {checkpoint!r} are damaged: {error}. Copy or download them again.") from None
    extractor.nan_policy, extractor.extra_leads, extractor.truncation = "mask", "drop", truncation
    return model.eval().to(device or "cpu"), extractor


def find_checkpoint(checkpoint: str, auto_class: str = "AutoModel") -> Path:
    """Return the folder of a checkpoint, downloaded if it is a Hub id; without a network that is tried only once.

    Raises:
        OSError: If there is no such folder, and no such model on the Hub or in its cache.
        ValueError: If it holds no model of that class.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        try:
            folder = Path(snapshot_download(checkpoint, allow_patterns=CHECKPOINT_FILES))
        except HFValidationError:
            raise FileNotFoundError(
                f"There is no folder {checkpoint!r}. Expected the folder of a checkpoint, or its id on the Hub."
            ) from None
        except OSError as error:
            raise FileNotFoundError(
                f"There is no folder {checkpoint!r}, and no model of that name could be had from the Hub "
                f"({str(error).partition(chr(10))[0]}). Check the name and the connection."
            ) from None
    configuration = folder / "config.json"
    if not configuration.is_file():
        if (folder / "adapter_config.json").is_file():  # names its base model, which is loaded with it
            return folder
        raise FileNotFoundError(
            f"{checkpoint!r} holds no config.json. Expected the folder of a checkpoint, as examples/pretrain.py "
            "leaves one in its --output_dir."
        )
    try:
        found = json.loads(configuration.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise ValueError(f"The config.json in {checkpoint!r} is damaged. Copy or download it again.") from None
    wanted, does, script = MODEL_TYPES.get(auto_class, (found, "", ""))
    if found != wanted:
        raise ValueError(
            f"Expected a model that {does} (model_type {wanted!r}), got {found!r} in {checkpoint!r}. {script} trains "
            "one."
        )
    return folder


def embed_ecgs(model: Any, processor: Any, ecgs: Any, features: str = "aligned") -> "torch.Tensor":
    """Return the embeddings of ECGs.

    Args:
        model (`MeritModel`): As from `load_checkpoint`.
        processor (`MeritProcessor`): The processor of the same checkpoint.
        ecgs: What `processor(ecg=...)` takes without further arguments: an `EcgRecord`, a path, or a list of these.
            Or a mapping with tensors `input_values` of shape `(ecgs, leads, samples)` and, unless every sample was
            recorded, `ecg_mask`, as the feature extractor returns them.
        features (`str`): A key of `FEATURES`.

    Returns:
        `torch.Tensor` of shape `(ecgs, features)`: float32, on the CPU.

    Raises:
        ValueError: If the processor refuses an ECG.

    Example:

    >>> from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritModel
    >>> from modeling_merit.processing.data.simulation import simulate_ecg
    >>> model = MeritModel(MeritConfig.from_size("tiny", text_config={"vocab_size": 50}, projection_dim=8))
    >>> ecgs = [simulate_ecg("sinus_rhythm", seed=0), simulate_ecg("atrial_fibrillation", seed=0)]
    >>> embed_ecgs(model.eval(), MeritFeatureExtractor(), ecgs).shape  # which takes ECGs as a processor does
    torch.Size([2, 8])
    """
    import torch

    inputs = _tensors(model, _prepared(processor, ecgs))
    with torch.inference_mode():
        return FEATURES[features](model, inputs["input_values"], inputs.get("ecg_mask")).float().cpu()


def embed_prompts(
    model: Any, processor: Any, prompts: Sequence[str] | Mapping[str, Sequence[str]]
) -> PromptEmbeddings:
    """Return one unit vector per prompt or class: the mean of those of its texts, which are normalised as reports are.

    Args:
        model (`MeritModel`): As from `load_checkpoint`.
        processor (`MeritProcessor`): The processor of the same checkpoint.
        prompts (sequence of `str`, or mapping of `str` to sequence of `str`): Texts to compare, or several of them for
            each class, such as `benchmark.prompts.load_prompts("superclass")`.

    Raises:
        ValueError: If the model has no text encoder, or `check_prompts` refuses the prompts.
    """
    import torch

    from .data.reports import normalize_report

    if not hasattr(model, "get_text_features"):
        raise ValueError(f"Expected a checkpoint with a text encoder, got {type(model).__name__}.")
    if not isinstance(prompts, Mapping):
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if len(set(texts)) < len(texts):
            raise ValueError("Expected prompts that differ, got one more than once. Leave it out.")
        prompts = {text: [text] for text in texts}
    classes = {name: [normalize_report(text) for text in texts] for name, texts in prompts.items()}
    notes = check_prompts(classes, processor.tokenizer)
    texts, owners = flatten_prompts(classes)
    tokens = _tensors(model, processor(text=texts, return_tensors="pt"))
    with torch.inference_mode():
        features = model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
    return PromptEmbeddings(tuple(classes), average_prompts(features.float().cpu().numpy(), owners), tuple(notes))


def score_embeddings(ecg_embeds: Any, prompts: PromptEmbeddings) -> PromptScores:
    """Return how well each prompt or class fits each ECG, in the way whose results are published.

    The cosine alone leaves open how near an ECG is to all texts; relative to the mean over the classes it says how
    much nearer it is to one of them.

    Args:
        ecg_embeds (`torch.Tensor` or `np.ndarray` of shape `(ecgs, projection_dim)`): From `embed_ecgs`.
        prompts ([`PromptEmbeddings`]): From `embed_prompts`.

    Example:

    >>> prompts = PromptEmbeddings(("a", "b"), np.array([[1.0, 0.0], [0.0, 1.0]]), ())
    >>> score_embeddings(np.array([[0.6, 0.8]]), prompts).relative_similarity.round(3).tolist()
    [[-0.1, 0.1]]
    """
    embeds = np.asarray(ecg_embeds)
    centred = prompts.embeddings - prompts.embeddings.mean(axis=0)
    return PromptScores(embeds @ prompts.embeddings.T, embeds @ centred.T)


def score_prompts(
    model: Any, processor: Any, ecgs: Any, prompts: Sequence[str] | Mapping[str, Sequence[str]]
) -> PromptScores:
    """Return how well each prompt or class fits each ECG, with a warning for prompts that are read only in part.

    Args:
        model (`MeritModel`): As from `load_checkpoint`.
        processor (`MeritProcessor`): The processor of the same checkpoint.
        ecgs: As in `embed_ecgs`.
        prompts: As in `embed_prompts`.

    Returns:
        `PromptScores`: Cosine similarities, and these relative to their mean over the prompts. They are not
        probabilities: see `benchmark.prompts.SCORE_MEANING`.

    Raises:
        ValueError: If the processor refuses an ECG, or the prompts have no scores with a meaning.
    """
    embedded = embed_prompts(model, processor, prompts)
    for note in embedded.notes:
        warnings.warn(note, stacklevel=2)
    return score_embeddings(embed_ecgs(model, processor, ecgs), embedded)


def generate_reports(
    model: Any,
    processor: Any,
    ecgs: Any,
    prompt: str | None = None,
    language: str | Sequence[str] = "English",
    **generate_kwargs: Any,
) -> list[str]:
    """Generate one text for each ECG: prompt, generate, decode, as one batch.

    Args:
        model (`MeritForConditionalGeneration`): As from `load_checkpoint(..., "AutoModelForMultimodalLM")`.
        processor (`MeritProcessor`): The processor of the same checkpoint.
        ecgs: As in `embed_ecgs`.
        prompt (`str`, *optional*): What the model is asked; the prompt for reports in its configuration by default.
            `{ecg}` stands for the ECG (put first where absent) and `{language}` for the language.
        language (`str` or sequence of `str`): Of all texts, or of each.
        generate_kwargs: Arguments of `model.generate`, such as `max_new_tokens`.

    Returns:
        `list[str]`: The generated texts, without the prompt and surrounding blanks.

    Raises:
        ValueError: If the processor refuses an ECG, the number of languages is not that of the ECGs, or the prompt
            does not hold the ECG exactly once.
    """
    import torch

    features = _prepared(processor, ecgs)
    count = len(features["input_values"])
    languages = [language] * count if isinstance(language, str) else list(language)
    if len(languages) != count:
        raise ValueError(f"Expected one language for each of {count} ECGs, got {len(languages)}.")
    prompt = prompt or model.config.prompts["report"]
    prompt = prompt if "{ecg}" in prompt else "{ecg} " + prompt
    texts = [prompt.replace("{language}", name).replace("{ecg}", processor.ecg_token) for name in languages]
    for text in texts:
        if text.count(processor.ecg_token) != 1:
            raise ValueError(f"Expected {{ecg}} once in the prompt, got {text!r}.")
    placeholders = processor.ecg_token * processor.num_ecg_tokens
    tokens = processor.tokenizer(
        [text.replace(processor.ecg_token, placeholders) for text in texts],
        padding=True,
        padding_side="left",  # generation goes on from the last token
        return_token_type_ids=False,
        return_tensors="pt",
    )
    inputs = _tensors(model, features, tokens)
    with torch.inference_mode():
        output = model.generate(**inputs, **generate_kwargs)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.tokenizer.batch_decode(output, skip_special_tokens=True)]


def _prepared(processor: Any, ecgs: Any) -> Mapping[str, Any]:
    """Return the tensors of ECGs, unless they are tensors already."""
    return ecgs if isinstance(ecgs, Mapping) else processor(ecg=ecgs, return_tensors="pt")


def _tensors(model: Any, *inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Join inputs and put them where the model is."""
    return {name: value.to(model.device) for part in inputs for name, value in part.items()}


__all__ = [
    "FEATURES",
    "PromptEmbeddings",
    "PromptScores",
    "embed_ecgs",
    "embed_prompts",
    "find_checkpoint",
    "generate_reports",
    "load_checkpoint",
    "load_scorer",
    "score_embeddings",
    "score_prompts",
]
