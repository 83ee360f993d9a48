"""Prompts for zero-shot classification: several phrasings per class, English and German, in the words of reports.

PTB-XL's reports are mostly German, so a text encoder trained on them understands German prompts first. Prompts serve
at test time only; training on sentences made from labels would be close to supervised training.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .label_sets import class_names as task_classes
from .label_sets import package_data

LANGUAGES = ("en", "de")

LABEL_SETS = ("superclass", "subclass", "form", "rhythm", "diagnostic", "all", "cpsc2018", "csn")
"""Label sets with prompts of this project."""

SCORE_MEANING = (
    "A score is how much nearer (in cosine similarity) the ECG is to a prompt than to the prompts on average. It is "
    "not a probability; it changes with the prompts compared, and those of different prompts have no common scale."
)
"""Stands wherever scores are shown."""


def load_prompts(
    task: str,
    languages: Sequence[str] = LANGUAGES,
    class_names: Sequence[str] | None = None,
) -> dict[str, list[str]]:
    """Return the project's own prompts for the classes of a task.

    Args:
        task (`str`): A PTB-XL task, `"cpsc2018"` or `"csn"`.
        languages (sequence of `str`): Any of `LANGUAGES`.
        class_names (sequence of `str`, *optional*): The classes wanted and their order, with or without the
            underscores of PTB-XL's names; those of `label_sets.class_names(task)` by default.

    Raises:
        ValueError: If the task has no prompts, a language is unknown, or a class is not one of the task's.

    Example:

    >>> load_prompts("rhythm", languages=["de"])["AFIB"][0], len(load_prompts("all"))
    ('vorhofflimmern', 71)
    """
    if unknown := set(languages) - set(LANGUAGES):
        raise ValueError(f"Expected languages out of {', '.join(LANGUAGES)}, got {', '.join(sorted(unknown))}.")
    data = package_data("prompts.json")
    wanted = task_classes(task) if class_names is None else list(class_names)
    group = data.get(task, data["statements"] if task in ("all", "diagnostic", "form", "rhythm") else None)
    if group is None:
        raise ValueError(f"Expected a PTB-XL task, 'cpsc2018' or 'csn', got {task!r}. Write a prompt file for it.")
    entries = {name: data["statements"][row] if isinstance(row, str) else row for name, row in group.items()}
    chosen = _match(entries, wanted, f"the prompts of {task}")
    return {name: [text for language in languages for text in row[language]] for name, row in chosen.items()}


def read_prompt_file(path: str | Path, class_names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Return prompts from JSON: {class: text} (as the CKEPE file of MERL) or {class: [texts]}.

    Names are matched without regard to underscores, which that file leaves out of PTB-XL's names; texts are
    lower-cased, as reports are.

    Args:
        path (`str` or `Path`): The file.
        class_names (sequence of `str`, *optional*): The classes wanted and their order; those of the file by default.

    Raises:
        OSError: If there is no such file.
        ValueError: If the file is not of that form, or a class has no prompt in it.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected {path} to hold JSON of class to prompts: {error}.") from None
    texts = isinstance(entries, dict) and [row if isinstance(row, list) else [row] for row in entries.values()]
    if not texts or not all(row and all(isinstance(text, str) and text.strip() for text in row) for row in texts):
        raise ValueError(
            f"Expected {path} to hold a JSON object of class to text or list of texts, got something else."
        )
    prompts = dict(zip(entries, texts))
    chosen = prompts if class_names is None else _match(prompts, class_names, str(path))
    return {name: [text.strip().lower() for text in row] for name, row in chosen.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a JSON object with the same class twice, of which the last would win without a word."""
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the class {_short(repeated[0])} is there more than once")
    return dict(pairs)


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
        raise ValueError(f"Expected at least one text for every class, got none for {_short(empty[0])}.")
    texts, owners = flatten_prompts(prompts)
    special, unknown = set(tokenizer.all_special_ids), tokenizer.unk_token_id
    limit = tokenizer.model_max_length
    partly, cut = [], []
    for text, tokens in zip(texts, tokenizer(texts, verbose=False)["input_ids"]):
        if not set(tokens) - special:
            raise ValueError(
                f"Expected prompts in words that the model knows, got {_short(text)}, of which it knows none. Write "
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
                f"Expected prompts that differ, got {_short(same)} and {_short(name)}, which are the same to the "
                "model. Leave one out."
            )
    repeated = [text for text, count in Counter(texts).items() if count > 1]
    found = (
        (partly, "words that the model does not know, which are all the same to it"),
        (cut, f"more than the {limit} tokens that the model reads; the rest is cut off"),
        (repeated, "a place in the prompts more than once"),
    )
    return [
        f"{len(of)} of {len(texts)} texts have {what}: {', '.join(map(_short, of[:3]))}{', …' if len(of) > 3 else ''}"
        for of, what in found
        if of
    ]


def _short(text: str) -> str:
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


def _match(entries: Mapping, wanted: Sequence[str], where: str) -> dict:
    bare = {name.replace("_", ""): row for name, row in entries.items()}
    missing = [name for name in wanted if name.replace("_", "") not in bare]
    if missing:
        raise ValueError(f"Expected a prompt for every class, got none for {', '.join(missing)} in {where}. Add them.")
    return {name: bare[name.replace("_", "")] for name in wanted}
