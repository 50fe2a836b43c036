"""`bell.js` and what is said about it: its size, its words, and its parts."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from realtime.host.page_tags import BELL_WORDS

ROOT = Path(__file__).resolve().parents[2]
BELL = ROOT / "realtime/static/realtime/bell.js"
SOURCE = BELL.read_text(encoding="utf-8")
PAGE = (ROOT / "docs/bell.md").read_text(encoding="utf-8")
MOST_BYTES_AS_SENT = 15_000
WORDS = dict(re.findall(r'^  "?([\w-]+)"?: "(.*)",$', SOURCE, re.MULTILINE))


def test_the_bell_is_small() -> None:
    assert len(gzip.compress(BELL.read_bytes())) <= MOST_BYTES_AS_SENT


def test_every_word_is_an_option_of_the_tag_and_documented() -> None:
    assert {word.replace("-", "_") for word in WORDS} == BELL_WORDS
    section = PAGE[PAGE.index("## Words") :]
    said = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", section, re.MULTILINE)
    assert {name: text.replace("\\|", "|") for name, text in said} == WORDS


def test_every_part_and_custom_property_is_documented() -> None:
    made = set(re.findall(r'make\("\w+", "(\w+)[" ]', SOURCE)) - {"said"}
    made |= {"row", "toast", "gap"}
    listed = PAGE[PAGE.index("Parts, for") : PAGE.index("No policy for styles")]
    assert set(re.findall(r"`(\w+)`", listed)) - {"unread"} == made
    used = set(re.findall(r"var\((--[\w-]+)", SOURCE))
    assert set(re.findall(r"`(--realtime-bell[\w-]+)`", PAGE)) == used


def test_no_comment_looks_like_an_import() -> None:
    """Django's storages for static files would rewrite it, or look for a file of that name."""
    for name in ("bell.js", "stream.js"):
        source = (BELL.parent / name).read_text(encoding="utf-8")
        comments = re.findall(r"/\*.*?\*/|//[^\n]*", source, re.DOTALL)
        assert comments
        assert not [
            each for each in comments if re.search(r"\b(?:import|export)\b\s*[({*\"']", each)
        ]
