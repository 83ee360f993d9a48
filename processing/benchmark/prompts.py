"""Prompts for zero-shot classification: several phrasings per class, English and German, in the words of reports.

PTB-XL's reports are mostly German, so a text encoder trained on them understands German prompts first. Prompts serve
at test time only; training on sentences made from labels would be close to supervised training.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_merit.inference_merit import SCORE_MEANING, average_prompts, check_prompts, flatten_prompts, quoted

from .label_sets import class_names as task_classes
from .label_sets import package_data

LANGUAGES = ("en", "de")

LABEL_SETS = ("superclass", "subclass", "form", "rhythm", "diagnostic", "all", "cpsc2018", "csn")
"""Label sets with prompts of this project."""


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
        raise ValueError(f"the class {quoted(repeated[0])} is there more than once")
    return dict(pairs)


def _match(entries: Mapping, wanted: Sequence[str], where: str) -> dict:
    bare = {name.replace("_", ""): row for name, row in entries.items()}
    missing = [name for name in wanted if name.replace("_", "") not in bare]
    if missing:
        raise ValueError(f"Expected a prompt for every class, got none for {', '.join(missing)} in {where}. Add them.")
    return {name: bare[name.replace("_", "")] for name in wanted}


__all__ = [
    "LABEL_SETS",
    "LANGUAGES",
    "SCORE_MEANING",
    "average_prompts",
    "check_prompts",
    "flatten_prompts",
    "load_prompts",
    "read_prompt_file",
]
