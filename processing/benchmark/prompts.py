"""Prompts for zero-shot classification: several phrasings per class, English and German, in the words of reports.

PTB-XL's reports are mostly German, so a text encoder trained on them understands German prompts first. Prompts serve
at test time only; training on sentences made from labels would be close to supervised training.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .label_sets import class_names as task_classes
from .label_sets import package_data

LANGUAGES = ("en", "de")


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


def read_prompt_file(path: str | Path, class_names: Sequence[str]) -> dict[str, list[str]]:
    """Return prompts from JSON: {class: text} (as the CKEPE file of MERL) or {class: [texts]}.

    Names are matched without regard to underscores, which that file leaves out of PTB-XL's names; texts are
    lower-cased, as reports are.

    Args:
        path (`str` or `Path`): The file.
        class_names (sequence of `str`): The classes wanted and their order.

    Raises:
        ValueError: If the file is not of that form, or a class has no prompt in it.
    """
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    texts = isinstance(entries, dict) and [row if isinstance(row, list) else [row] for row in entries.values()]
    if not texts or not all(row and all(isinstance(text, str) and text.strip() for text in row) for row in texts):
        raise ValueError(
            f"Expected {path} to hold a JSON object of class to text or list of texts, got something else."
        )
    chosen = _match(dict(zip(entries, texts)), class_names, str(path))
    return {name: [text.strip().lower() for text in row] for name, row in chosen.items()}


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
