"""Reads Markdown pages without line wrapping, so that tests can search for sentences."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"\s*([-*+]|\d+[.)])\s|\s*[|#>]|\s*(```|~~~)")


def unwrapped(text: str) -> str:
    """Return Markdown with the lines of each paragraph and list item joined, except code."""
    lines: list[str] = []
    is_code = False
    for line in text.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            is_code = not is_code
            lines.append(line)
        elif is_code or not line.strip() or _BLOCK.match(line) or not _goes_on(lines):
            lines.append(line)
        else:
            lines[-1] = f"{lines[-1]} {line.strip()}"
    return "\n".join(lines)


def read(path: Path) -> str:
    """Return the text of a page, unwrapped."""
    return unwrapped(path.read_text(encoding="utf-8"))


def _goes_on(lines: list[str]) -> bool:
    """Tell whether the last line belongs to a paragraph or a list item."""
    before = lines[-1] if lines else ""
    return bool(before.strip()) and not re.match(r"\s*[|#]|\s*(```|~~~)", before)
