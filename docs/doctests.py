"""Fences the doctests of docstrings, which Markdown would otherwise take for quotations and links."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!```)[^\n]+)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Marks every example as Python console text."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
