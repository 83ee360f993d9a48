"""What a results file must say of the run that made it, so that somebody else can repeat it."""

import hashlib
import importlib.metadata
import json
import math
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ..writers import placed

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "scipy", "scikit-learn")


def git_commit(folder: str | Path = ".") -> str | None:
    """Return the commit of the code in `folder`, with "-dirty" when files differ; `None` outside a repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def data_fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of the bytes of arrays, the first 16 hexadecimal digits: equal data, equal fingerprint.

    Example:

    >>> data_fingerprint([np.arange(3, dtype=np.int16)])
    '90c2698921ca9fd0'
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def provenance(seed: int | None = None, **fields: Any) -> dict[str, Any]:
    """Return command line, package versions, git commit and seed of the running process, and whatever else is given.

    Example:

    >>> provenance(seed=0, data_fingerprint="f00")["data_fingerprint"]
    'f00'
    """
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": git_commit(Path(sys.argv[0]).resolve().parent if sys.argv[0] else "."),
        "seed": seed,
        "versions": {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in PACKAGES},
        **fields,
    }


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON that a person can read, whole or not at all, making the folder when it is absent; NaN is refused, use
    `None`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with placed([path], overwrite=True) as (temporary,):
        temporary.write_text(text, encoding="utf-8")


def without_nan(content: Any) -> Any:
    """Return lists and dictionaries with `None` in the place of NaN, as JSON writes what is not defined.

    Example:

    >>> without_nan({"auroc": [0.5, float("nan")]})
    {'auroc': [0.5, None]}
    """
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def update_rows(
    path: str | Path, rows: Sequence[dict[str, Any]], key: Sequence[str], absent: Mapping[str, Any] | None = None
) -> None:
    """Put rows into a JSON list of rows; a row takes the place of the one with the same values of `key`. Other
    processes of this machine wait meanwhile.

    Args:
        path (`str` or `Path`): The file; made when absent.
        rows (sequence of `dict`): Flat rows, all with the fields of `key`.
        key (sequence of `str`): Fields that name a row.
        absent (mapping, *optional*): Fields of `key` that rows of the file may lack, with what they mean then.

    Raises:
        ValueError: If an interval of a row does not hold its value.
    """
    for row in rows:
        value = row.get("difference", row.get("value"))
        if row.get("ci_low") is not None and not row["ci_low"] <= value <= row["ci_high"]:
            raise ValueError(f"Expected an interval that holds its value, got {row}.")
    path = Path(path).resolve()
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"merit-ecg-{name}.lock"):
        old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        old = [dict(absent or {}) | row for row in old]
        merged = {tuple(row[field] for field in key): row for row in [*old, *rows]}
        write_json(path, list(merged.values()))


__all__ = ["data_fingerprint", "git_commit", "provenance", "update_rows", "without_nan", "write_json"]
