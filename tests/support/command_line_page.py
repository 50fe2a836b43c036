"""The texts of ``--help`` in docs/command-line.md.

`python -m tests.support.command_line_page` writes them; tests/e2e/test_command_line.py compares
them with what real processes print.
"""

from __future__ import annotations

import re
from pathlib import Path

from notifier.command_help import PAGES, PROGRAM

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"
_BLOCK = re.compile(r"```\nusage: (.*?)\n(.*?)```", re.DOTALL)


def with_help(text: str) -> str:
    """Return the page with the help of each command in its block."""
    return _BLOCK.sub(lambda block: f"```\n{_page_of(block[1])}```", text)


def _page_of(usage: str) -> str:
    """Return the page for the same command, whose other arguments may have changed."""
    words = usage.removeprefix(PROGRAM).split()
    names = [" ".join(words[:count]) for count in (2, 1, 0)]
    return next(PAGES[name] for name in names if name in PAGES)


if __name__ == "__main__":
    PAGE.write_text(with_help(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
