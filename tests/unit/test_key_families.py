"""The table of Redis keys lists every family of keys that the code can create, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tests.test_docs import page, rows, section

ROOT = Path(__file__).resolve().parents[2]
MADE = re.compile(
    r"""_keys\}([a-z]+:?)|beside\("([a-z]+:[a-z]*)"|\}(hand:)|REDIS_PREFIX', 'rt'\)\}:([a-z]+:?)"""
)


def made() -> set[str]:
    """Return the families in the source code."""
    found: set[str] = set()
    for folder in ("realtime", "notifier"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text()
            found |= {next(filter(None, match)) for match in MADE.findall(source)}
            if path.name == "queue_commands.py":
                fields = source.partition("class QueueKeys")[2].partition("class QueueCommands")[0]
                found |= {
                    f"fallback:{name}" for name in re.findall(r"^    (\w+): str", fields, re.M)
                }
    names = {"fallback:hand:" if name == "hand:" else name for name in found}
    return {f"{name}:" if name == "login" else name for name in names} - {"ch:"}


def test_every_key_family_has_its_bound_in_the_table() -> None:
    """`ch:` is not a key but the prefix of channel names."""
    table = rows(section(page("security.md"), "## What others can put into Redis"))
    told = {name for row in table for name in re.findall(r"`([a-z:]+)`", row[0])}
    assert told == made()
    assert all(len(row) == 5 and row[4] for row in table)
