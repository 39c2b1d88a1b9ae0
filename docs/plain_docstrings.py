"""A griffe extension: `[G][heads]` in a docstring is a shape, and no link of Markdown."""

import re
from typing import Any

import griffe

CODE = re.compile(r"(`[^`]*`)")


class PlainDocstrings(griffe.Extension):
    """Escapes what Markdown would take for a reference between brackets, outside of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            parts = CODE.split(obj.docstring.value)
            obj.docstring.value = "".join(
                part if part.startswith("`") else part.replace("][", "]\\[") for part in parts
            )
