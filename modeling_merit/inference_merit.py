"""Inference without files and checkpoints: texts as the model reads them, scores of ECGs against texts, reports.

This file travels to the Hub beside the weights, so it imports only siblings. The pipelines, the command line, the
Space and the examples call these functions: a score is the same everywhere. `torch` is imported when a model is used.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

SCORE_MEANING = (
    "A score says how many nats likelier the words of a prompt are with this ECG than without, on average over its "
    "words, plus how much nearer the ECG is to the prompt than to all prompts compared. It is not a probability. It "
    "ranks ECGs by one prompt; prompts have no common scale: their order is rough, the right one can be below 0."
)
"""Stands wherever scores are shown."""

SIMILARITY_WEIGHT = 0.3
"""What the scaled, relative cosine similarity counts in a score beside the words; chosen on fold 9 of PTB-XL."""

REPORT_LANGUAGES = ("English", "German", "Swedish")
"""What a model is told of the report that it learns to write, as `report_language` names it."""


# What happened to umlauts in the 21,797 reports of PTB-XL v1.0.3, and in how many places: capital letters in words of
# lower case ("mÖglich", 17,402 letters), "#" for "ü" ("f#r", "r-s #bergang", 125), German words in ASCII beside the
# same words with umlauts ("leitungsstoerung" 127, "leitungsstÖrung" 385). Two-letter vowels must not be replaced
# everywhere: "ischaemia", "due", "does" and "neuer" are right as they stand. The stems below are German only.
_HASH_FOR_UMLAUT = re.compile(r"(?<![^\W\d])#(?=bergang)|(?<=f)#(?=r\b)")
_GERMAN_IN_ASCII = re.compile(
    r"stoerung|moegli|veraender|staendig|[ck]ulaer|verzoeger|ueber|\bfuer\b|foermig|hoe(?=h)|aemie\b|schaedig|praeter|hoefe"
)
# 555 reports (419 of them in folds 1-8) end in codes that a later reader typed in: "Edit: IMI 80, (LAFB)". These
# are the labels of the data set, not the report; aligning ECGs with them would be supervised training.
_LATER_CODES = re.compile(r"\s*\bedit:.*", re.DOTALL)
_UMLAUTS = (("ae", "ä"), ("oe", "ö"), ("ue", "ü"))


def normalize_report(text: str) -> str:
    """Repair mangled umlauts, make lower case, reduce white space to single blanks, and cut off label codes.

    Nothing is translated or expanded; only what follows "Edit:", the codes of a later reader, is left out. Four
    reports of PTB-XL with other damage (control sequences of a printer, 7-bit Swedish letters, "á" for "ß") stay as
    they are: what would repair them would harm other texts.

    Args:
        text (`str`): A report, or a prompt.

    Returns:
        `str`: The normalised text; normalising it again changes nothing.

    Example:

    >>> normalize_report("Amplitudenkriterien  f#r linkshypertrophie, intraventrikulÄre leitungsstoerung ")
    'amplitudenkriterien für linkshypertrophie, intraventrikuläre leitungsstörung'
    """
    text = _LATER_CODES.sub("", " ".join(text.lower().split()))
    text = _HASH_FOR_UMLAUT.sub("ü", text)
    return _GERMAN_IN_ASCII.sub(lambda stem: _with_umlauts(stem[0]), text)


def _with_umlauts(stem: str) -> str:
    for ascii_vowel, umlaut in _UMLAUTS:
        stem = stem.replace(ascii_vowel, umlaut)
    return stem


def check_prompts(prompts: Mapping[str, Sequence[str]], tokenizer: Any) -> list[str]:
    """Refuse prompts whose scores would say nothing, and return notes on those that the model reads only in part.

    Args:
        prompts (mapping of `str` to sequence of `str`): Texts by class.
        tokenizer (`PreTrainedTokenizerBase`): Of the model.

    Returns:
        `list[str]`: One note each on words that the tokenizer does not know, texts longer than it takes, and texts
        that stand more than once.

    Raises:
        ValueError: If there are fewer than two classes, a text holds no word that the tokenizer knows, or two classes
            are the same to the model.
    """
    if len(prompts) < 2:
        raise ValueError(
            f"Expected at least two prompts or classes, got {len(prompts)}: a score compares them with one another."
        )
    if empty := [name for name, texts in prompts.items() if not texts]:
        raise ValueError(f"Expected at least one text for every class, got none for {quoted(empty[0])}.")
    texts, owners = flatten_prompts(prompts)
    special, unknown = set(tokenizer.all_special_ids), tokenizer.unk_token_id
    limit = tokenizer.model_max_length
    partly, cut = [], []
    for text, tokens in zip(texts, tokenizer(texts, verbose=False)["input_ids"]):
        if not set(tokens) - special:
            raise ValueError(
                f"Expected prompts in words that the model knows, got {quoted(text)}, of which it knows none. Write "
                "it in the language of the reports that the model has learnt from."
            )
        partly += [text] if unknown in tokens else []
        cut += [text] if len(tokens) > limit else []
    read = [tuple(tokens) for tokens in tokenizer(texts, truncation=True, verbose=False)["input_ids"]]
    classes: dict[frozenset, str] = {}
    for index, name in enumerate(prompts):
        same = classes.setdefault(frozenset(t for t, owner in zip(read, owners) if owner == index), name)
        if same != name:
            raise ValueError(
                f"Expected prompts that differ, got {quoted(same)} and {quoted(name)}, which are the same to the "
                "model. Leave one out."
            )
    repeated = [text for text, count in Counter(texts).items() if count > 1]
    found = (
        (partly, "words that the model does not know, which are all the same to it"),
        (cut, f"more than the {limit} tokens that the model reads; the rest is cut off"),
        (repeated, "a place in the prompts more than once"),
    )
    return [
        f"{len(of)} of {len(texts)} texts have {what}: {', '.join(map(quoted, of[:3]))}{', …' if len(of) > 3 else ''}"
        for of, what in found
        if of
    ]


def quoted(text: str) -> str:
    """Return a text as an error quotes it: cut at 60 characters, in quotation marks."""
    return repr(text if len(text) <= 60 else text[:59] + "…")


def flatten_prompts(prompts: Mapping[str, Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """Return all texts in one list, for one call of the text encoder, and the class index of each.

    Example:

    >>> flatten_prompts({"SR": ["sinus rhythm", "sinusrhythmus"], "AFIB": ["vorhofflimmern"]})
    (['sinus rhythm', 'sinusrhythmus', 'vorhofflimmern'], array([0, 0, 1]))
    """
    owners = [index for index, texts in enumerate(prompts.values()) for _ in texts]
    return [text for texts in prompts.values() for text in texts], np.array(owners)


def average_prompts(embeddings: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return one embedding per class: the mean of its texts' unit vectors, brought back to unit length.

    Args:
        embeddings (`np.ndarray` of shape `(texts, width)`): From the text encoder.
        owners (`np.ndarray` of shape `(texts,)`): Class of each text, as `flatten_prompts` returns it.

    Returns:
        `np.ndarray` of shape `(classes, width)`.

    Example:

    >>> average_prompts(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), np.array([0, 0, 1])).round(3).tolist()
    [[0.707, 0.707], [0.0, 1.0]]
    """
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    means = np.stack([unit[owners == index].mean(0) for index in range(int(owners.max()) + 1)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


class PromptEmbeddings(NamedTuple):
    """Prompts as a model sees them: of every class one unit vector, and the share of each word in its texts."""

    names: tuple[str, ...]
    embeddings: np.ndarray  # (classes, projection_dim)
    notes: tuple[str, ...]  # on prompts that the model reads only in part
    words: np.ndarray | None = None  # (classes, num_words), rows of sum 1, or less where a text has no known word
    logit_scale: float = 1.0


class PromptScores(NamedTuple):
    """Scores of ECGs against prompts or classes, each `np.ndarray` of shape `(ecgs, classes)`."""

    cosine_similarity: np.ndarray
    relative_similarity: np.ndarray  # the cosine less its mean over the classes
    score: np.ndarray  # word evidence in nats + SIMILARITY_WEIGHT · logit_scale · relative similarity


def embed_prompts(
    model: Any, processor: Any, prompts: Sequence[str] | Mapping[str, Sequence[str]]
) -> PromptEmbeddings:
    """Return what prompts or classes are to a model: the mean of the unit vectors and of the words of their texts,
    which are normalised as reports are.

    Args:
        model (`MeritModel`): As from `load_checkpoint`.
        processor (`MeritProcessor`): The processor of the same checkpoint.
        prompts (sequence of `str`, or mapping of `str` to sequence of `str`): Texts to compare, or several of them for
            each class, such as `load_prompts("superclass")` of `modeling_merit.processing.benchmark.prompts`.

    Raises:
        ValueError: If the model has no text encoder, or `check_prompts` refuses the prompts.
    """
    import torch

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
    tokens = on_device(model, processor(text=texts, return_tensors="pt"))
    with torch.inference_mode():
        features = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        features = features.float().cpu().numpy()
        scale = float(model.get_logit_scale())
        words = None
        if model.config.num_words:
            bags = model.get_words(tokens["input_ids"], tokens["attention_mask"]).cpu().numpy()
            counts = bags.sum(axis=1, keepdims=True)
            if unknown := [text for text, count in zip(texts, counts) if not count]:
                notes.append(
                    f"{len(unknown)} of {len(texts)} texts have no word that the model has learnt to predict, and are "
                    f"scored by similarity alone: {', '.join(map(quoted, unknown[:3]))}{', …' * (len(unknown) > 3)}"
                )
            bags /= np.maximum(counts, 1)
            words = np.stack([bags[owners == index].mean(axis=0) for index in range(len(classes))])
    return PromptEmbeddings(tuple(classes), average_prompts(features, owners), tuple(notes), words, scale)


def score_embeddings(ecg_features: Any, prompts: PromptEmbeddings) -> PromptScores:
    """Return how well each prompt or class fits each ECG, in the way whose results are published.

    Word prediction says how much likelier the words of a text are with the ECG than without (the mean of
    `log q(word | ECG) - log p(word)`; of the classes of PTB-XL's reports it knows more than the cosine). The cosine
    alone leaves open how near an ECG is to all texts; relative to the mean over the classes it says how much nearer it
    is to one of them, and times `logit_scale` it is a difference in nats, too.

    Args:
        ecg_features (`torch.Tensor` or `np.ndarray` of shape `(ecgs, projection_dim + num_words)`):
            From `model.get_score_features`, or `embed_ecgs` with the features `"scores"`.
        prompts ([`PromptEmbeddings`]): From `embed_prompts`.

    Raises:
        ValueError: If the features have another width.

    Example:

    >>> prompts = PromptEmbeddings(("a", "b"), np.array([[1.0, 0.0], [0.0, 1.0]]), (), np.eye(2), 10.0)
    >>> scores = score_embeddings(np.array([[0.6, 0.8, -1.0, 2.0]]), prompts)
    >>> scores.relative_similarity.round(3).tolist(), scores.score.round(3).tolist()
    ([[-0.1, 0.1]], [[-1.3, 2.3]])
    """
    if hasattr(ecg_features, "detach"):
        ecg_features = ecg_features.detach().float().cpu()
    features, size = np.asarray(ecg_features), prompts.embeddings.shape[1]
    width = size + (0 if prompts.words is None else prompts.words.shape[1])
    if features.shape[-1] != width:
        raise ValueError(
            f"Expected {width} features per ECG, as `embed_ecgs(..., features='scores')` gives them, got "
            f"{features.shape[-1]}."
        )
    embeds, evidence = features[:, :size], features[:, size:]
    relative = embeds @ (prompts.embeddings - prompts.embeddings.mean(axis=0)).T
    score = SIMILARITY_WEIGHT * prompts.logit_scale * relative
    if prompts.words is not None:
        score = score + evidence @ prompts.words.T
    return PromptScores(embeds @ prompts.embeddings.T, relative, score)


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
        ValueError: If the processor refuses an ECG, the number of languages is not that of the ECGs, a language is
            none of `REPORT_LANGUAGES` though no prompt is given, the prompt does not hold the ECG exactly once, or
            other than one text per ECG is asked for.
    """
    import torch

    defaults = generate_kwargs.get("generation_config") or model.generation_config
    for name, only in (("num_return_sequences", 1), ("return_dict_in_generate", False)):
        value = generate_kwargs.get(name, getattr(defaults, name, None))
        if value is not None and value != only:
            raise ValueError(f"Expected one text for each ECG, got {name}={value}. Call `model.generate` for others.")

    features = prepared(processor, ecgs)
    count = len(features["input_values"])
    languages = [language] * count if isinstance(language, str) else list(language)
    if len(languages) != count:
        raise ValueError(f"Expected one language for each of {count} ECGs, got {len(languages)}.")
    if not prompt and (unknown := sorted(set(languages) - set(REPORT_LANGUAGES))):
        raise ValueError(
            f"Expected languages out of {', '.join(REPORT_LANGUAGES)}, in which models learn to write, got "
            f"{', '.join(map(repr, unknown))}. Ask a model that was taught another one with a prompt."
        )
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
    inputs = on_device(model, features, tokens)
    generate_kwargs.setdefault("tokenizer", processor.tokenizer)  # for `stop_strings`
    with torch.inference_mode():
        output = model.generate(**inputs, **generate_kwargs)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.tokenizer.batch_decode(output, skip_special_tokens=True)]


def prepared(processor: Any, ecgs: Any) -> Mapping[str, Any]:
    """Return the tensors of ECGs, unless they are tensors already."""
    return ecgs if isinstance(ecgs, Mapping) else processor(ecg=ecgs, return_tensors="pt")


def on_device(model: Any, *inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Join inputs and put them where the model is."""
    return {name: value.to(model.device) for part in inputs for name, value in part.items()}


__all__ = [
    "REPORT_LANGUAGES",
    "SCORE_MEANING",
    "SIMILARITY_WEIGHT",
    "PromptEmbeddings",
    "PromptScores",
    "average_prompts",
    "check_prompts",
    "embed_prompts",
    "flatten_prompts",
    "generate_reports",
    "normalize_report",
    "on_device",
    "prepared",
    "score_embeddings",
    "quoted",
]
