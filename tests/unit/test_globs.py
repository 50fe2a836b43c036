"""Patterns match like in the shell, in linear time."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.core.globs import Glob


class Counted(str):
    """A text that counts how often each of its characters is read."""

    looks = 0

    def __iter__(self) -> Iterator[str]:
        for character in super().__iter__():
            self.looks += 1
            yield character


@given(st.text("ab*?", max_size=9), st.text("abc", max_size=9))
@example("", "")
@example("*", "")
@example("**a", "ba")
@example("a*?b", "ab")
def test_a_pattern_matches_like_in_the_shell(pattern: str, text: str) -> None:
    assert Glob(pattern, one="?").fits(text) is fnmatchcase(text, pattern)


@given(st.text("ab*?[]^\\.", max_size=9), st.text("ab?[]^\\.", max_size=9))
def test_every_character_but_the_star_is_literal(pattern: str, text: str) -> None:
    escaped = "".join(f"[{c}]" if c in "?[" else c for c in pattern)
    assert Glob(pattern).fits(text) is fnmatchcase(text, escaped)


@pytest.mark.parametrize(
    "pattern", ["*a*a*a*a*b", "*a" * 127 + "b", "*" * 255, "*?" * 127, "a*" * 99]
)
@pytest.mark.parametrize("length", [0, 1, 100, 255, 10_000])
def test_a_pattern_explodes(pattern: str, length: int) -> None:
    """As a regular expression, the first of these blocked a node's loop for 0.7 to 3 s."""
    text = Counted("a" * length)
    Glob(pattern, one="?").fits(text)
    assert text.looks <= length
