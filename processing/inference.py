"""Inference with a checkpoint: load it, embed ECGs, score them against prompts, generate reports.

The command line, the Space and the examples call these functions. `torch` and `transformers` are imported when a
checkpoint is loaded or used, so that commands without a model start without them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

FEATURES: dict[str, Callable] = {
    "aligned": lambda model, *ecg: model.get_ecg_features(*ecg),
    "pooled": lambda model, *ecg: model.ecg_model(*ecg).pooler_output,
    "leads": lambda model, *ecg: model.ecg_model.get_lead_features(*ecg).flatten(1),
}
"""Features of an ECG by name: aligned, unit vectors to compare with texts; pooled, the mean of the ECG encoder's
outputs, for classifiers; leads, that mean for each lead, one after the other."""


class PromptScores(NamedTuple):
    """Scores of ECGs against prompts, each `torch.Tensor` of shape `(ecgs, prompts)`."""

    cosine_similarity: "torch.Tensor"
    fractions: "torch.Tensor"  # softmax over the prompts


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
        OSError: If there is no such checkpoint.
        ValueError: If the checkpoint holds no model of that class.
    """
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    processor.feature_extractor.nan_policy = "mask"
    processor.feature_extractor.extra_leads = "drop"
    processor.feature_extractor.truncation = truncation
    model = getattr(transformers, auto_class).from_pretrained(checkpoint).eval()
    return model.to(device or "cpu"), processor


def embed_ecgs(model: Any, processor: Any, ecgs: Any, features: str = "aligned") -> "torch.Tensor":
    """Return the embeddings of ECGs.

    Args:
        model (`MeritModel`): As from `load_checkpoint`.
        processor (`MeritProcessor`): The processor of the same checkpoint.
        ecgs: What `processor(ecg=...)` takes without further arguments: an `EcgRecord`, a path, or a list of these.
        features (`str`): A key of `FEATURES`.

    Returns:
        `torch.Tensor` of shape `(ecgs, features)`: float32, on the CPU.

    Raises:
        ValueError: If the processor refuses an ECG.

    Example:

    >>> from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritModel
    >>> from modeling_merit.processing.data.simulation import simulate_ecg
    >>> size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    >>> model = MeritModel(MeritConfig(ecg_config=size, text_config=size | {"vocab_size": 50}, projection_dim=8))
    >>> ecgs = [simulate_ecg("sinus_rhythm", seed=0), simulate_ecg("atrial_fibrillation", seed=0)]
    >>> embed_ecgs(model.eval(), MeritFeatureExtractor(), ecgs).shape  # which takes ECGs as a processor does
    torch.Size([2, 8])
    """
    import torch

    inputs = processor(ecg=ecgs, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        return FEATURES[features](model, inputs["input_values"], inputs["ecg_mask"]).float().cpu()


def score_prompts(model: Any, processor: Any, ecgs: Any, prompts: Sequence[str]) -> PromptScores:
    """Return how well each prompt fits each ECG.

    Args:
        model (`MeritModel`): As from `load_checkpoint`.
        processor (`MeritProcessor`): The processor of the same checkpoint.
        ecgs: As in `embed_ecgs`.
        prompts (sequence of `str`): Texts to compare with.

    Returns:
        `PromptScores`: Cosine similarity, and fractions that compare the prompts with each other. The fractions of an
        ECG sum to 1; they are not probabilities of disease.

    Raises:
        ValueError: If the processor refuses an ECG or a prompt.
    """
    import torch

    inputs = processor(ecg=ecgs, text=list(prompts), return_tensors="pt").to(model.device)
    with torch.inference_mode():
        outputs = model(**inputs)
        cosine = (outputs.ecg_embeds @ outputs.text_embeds.T).float().cpu()
        return PromptScores(cosine, outputs.logits_per_ecg.float().softmax(dim=1).cpu())


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
        ecgs: As in `embed_ecgs`; or a mapping with `input_values` of shape `(ecgs, leads, samples)`, and `ecg_mask`
            if there is one, as the feature extractor returns them.
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

    features = dict(ecgs if isinstance(ecgs, Mapping) else processor(ecg=ecgs, return_tensors="pt"))
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
    inputs = {name: value.to(model.device) for name, value in {**features, **tokens}.items()}
    with torch.inference_mode():
        output = model.generate(**inputs, **generate_kwargs)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.tokenizer.batch_decode(output, skip_special_tokens=True)]


__all__ = [
    "FEATURES",
    "PromptScores",
    "embed_ecgs",
    "generate_reports",
    "load_checkpoint",
    "score_prompts",
]
