"""The tables of docs/settings.md, generated from the declarations of the settings.

`python -m tests.support.settings_tables` writes them; tests/test_docs.py compares.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from realtime.conf import DECLARED, PREFIX
from realtime.conf.declared import table
from realtime.conf.limits import NumericSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
_TABLE = re.compile(r"^\| setting \|.*\n(?:\|.*\n)+", re.MULTILINE)


def with_tables(text: str) -> str:
    """Return the page with its two tables of settings; the second one is that of the limits."""
    of_limits = [each.name for each in fields(NumericSettings)]
    limits = {name: DECLARED[name] for name in of_limits}
    others = {name: each for name, each in DECLARED.items() if name not in limits}
    tables = iter([table(others, PREFIX), table(limits, PREFIX)])
    text, count = _TABLE.subn(lambda _: next(tables) + "\n", text)
    assert count == 2, f"{PAGE} has {count} tables of settings, not two"
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
