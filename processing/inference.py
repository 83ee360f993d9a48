"""Inference with a checkpoint: load it, embed ECGs, score them against prompts, generate reports.

The command line, the Space and the examples call these functions. `torch` and `transformers` are imported when a
checkpoint is loaded or used, so that commands without a model start without them.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_merit.inference_merit import (
    REPORT_LANGUAGES,
    SIMILARITY_WEIGHT,
    PromptEmbeddings,
    PromptScores,
    embed_prompts,
    generate_reports,
    normalize_report,
    on_device,
    prepared,
    score_embeddings,
)

if TYPE_CHECKING:
    import torch

FEATURES: dict[str, Callable] = {
    "aligned": lambda model, *ecg: model.get_ecg_features(*ecg).pooler_output,
    "scores": lambda model, *ecg: model.get_score_features(*ecg),
    "pooled": lambda model, *ecg: model.ecg_model(*ecg).pooler_output,
}
"""Features of an ECG by name: aligned, unit vectors to compare with texts; scores, these and the evidence
for every word that the model predicts, what `score_embeddings` takes; pooled, means and maxima over time of the
stages of the ECG encoder, for classifiers."""


MODEL_TYPES = {
    "AutoModel": ("merit", "compares ECGs with texts", "examples/pretrain.py"),
    "AutoModelForMultimodalLM": ("merit_generation", "writes reports", "examples/train_report_generation.py"),
}
"""By Auto class: `model_type` in the configuration, what such a model does, and the script that trains one."""

CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


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
        ValueError: If the checkpoint holds no model of that class, or there is no such device.
    """
    folder = find_checkpoint(checkpoint, auto_class)
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(folder)
    _set_up(processor.feature_extractor, truncation)
    return _load_model(getattr(transformers, auto_class), folder, checkpoint, device), processor


def load_scorer(checkpoint: str, truncation: bool = False, device: str | None = None) -> tuple[Any, Any]:
    """Load what gives an ECG scores: a dual encoder as `load_checkpoint` does, or a classifier.

    Args:
        checkpoint (`str`): Folder or Hub id.
        truncation (`bool`), device (`str`, *optional*): As in `load_checkpoint`.

    Returns:
        A `MeritModel` and its `MeritProcessor`, or a `MeritForEcgClassification` and its `MeritFeatureExtractor`.

    Raises:
        OSError: If there is no such checkpoint, or not all of its weights.
        ValueError: If the checkpoint holds neither, or an adapter alone, or there is no such device.
    """
    folder = find_checkpoint(checkpoint, "any")
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"Expected a whole checkpoint, got an adapter without its model in {checkpoint!r}. Merge the two "
            "(`merge_and_unload()` of peft), and save the result with its processor or feature extractor."
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("architectures") != ["MeritForEcgClassification"]:
        return load_checkpoint(checkpoint, truncation=truncation, device=device)
    import transformers

    from modeling_merit import MeritForEcgClassification

    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    _set_up(extractor, truncation)
    return _load_model(MeritForEcgClassification, folder, checkpoint, device), extractor


def _set_up(extractor: Any, truncation: bool) -> None:
    """Let a feature extractor take ECGs as they come."""
    extractor.nan_policy, extractor.extra_leads, extractor.truncation = "mask", "drop", truncation


def _load_model(model_class: Any, folder: Path, checkpoint: str, device: str | None) -> Any:
    from safetensors import SafetensorError

    try:
        model = model_class.from_pretrained(folder).eval()
    except SafetensorError as error:
        raise OSError(f"The weights in {checkpoint!r} are damaged: {error}. Copy or download them again.") from None
    try:
        return model.to(device or "cpu")
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # whichever a build of torch raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"Expected a device that torch finds here, got {device!r}: {reason}") from None


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
        ValueError: If the processor refuses an ECG, or there are no such features.

    Example:

    >>> from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritModel
    >>> from modeling_merit.processing.data.simulation import simulate_ecg
    >>> model = MeritModel(MeritConfig.from_size("tiny", text_config={"vocab_size": 50}, projection_dim=8))
    >>> ecgs = [simulate_ecg("sinus_rhythm", seed=0), simulate_ecg("atrial_fibrillation", seed=0)]
    >>> embed_ecgs(model.eval(), MeritFeatureExtractor(), ecgs).shape  # which takes ECGs as a processor does
    torch.Size([2, 8])
    """
    import torch

    if features not in FEATURES:
        raise ValueError(f"Expected `features` to be one of {', '.join(map(repr, FEATURES))}, got {features!r}.")
    inputs = on_device(model, prepared(processor, ecgs))
    with torch.inference_mode():
        return FEATURES[features](model, inputs["input_values"], inputs.get("ecg_mask")).float().cpu()


def embed_text(model: Any, processor: Any, text: str) -> np.ndarray:
    """Return the unit vector of a text to compare ECGs with, normalised as reports are; warn of unknown words.

    Args:
        model (`MeritModel`), processor (`MeritProcessor`): As from `inference.load_checkpoint`.
        text (`str`): Words of a report, such as `"linksschenkelblock"`.

    Raises:
        ValueError: If the model knows no word of it.
    """
    import torch

    text = normalize_report(text)
    tokens = processor(text=[text], return_tensors="pt").to(model.device)
    found = set(tokens["input_ids"][0].tolist())
    if not found - set(processor.tokenizer.all_special_ids):
        raise ValueError(
            f"Expected a text in words that the model knows, got {text[:100]!r}, of which it knows none. Write it in "
            "the language of the reports that the model has learnt from."
        )
    with torch.inference_mode():
        words = tokens["input_ids"], tokens["attention_mask"]
        features = model.get_text_features(*words)
        if processor.tokenizer.unk_token_id in found:
            unknown = "words that the model does not know, which are all the same to it"
        elif model.config.num_words and not model.get_words(*words).any():
            unknown = "no word that the model has learnt to predict, so that it may mean nothing to it"
        else:
            unknown = None
    if unknown:
        warnings.warn(f"The text has {unknown}: {text[:100]!r}", stacklevel=2)
    return features.pooler_output[0].float().cpu().numpy()


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
        `PromptScores`: The scores, and the cosine similarities in them. They are not probabilities: see
        `benchmark.prompts.SCORE_MEANING`.

    Raises:
        ValueError: If the processor refuses an ECG, or the prompts have no scores with a meaning.
    """
    embedded = embed_prompts(model, processor, prompts)
    for note in embedded.notes:
        warnings.warn(note, stacklevel=2)
    return score_embeddings(embed_ecgs(model, processor, ecgs, "scores"), embedded)


__all__ = [
    "FEATURES",
    "REPORT_LANGUAGES",
    "PromptEmbeddings",
    "PromptScores",
    "SIMILARITY_WEIGHT",
    "embed_ecgs",
    "embed_prompts",
    "embed_text",
    "find_checkpoint",
    "generate_reports",
    "load_checkpoint",
    "load_scorer",
    "score_embeddings",
    "score_prompts",
]
