"""Untrusted text in a mail can neither end a line nor control a terminal."""

from __future__ import annotations

from email.header import decode_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.mail_text import body_text, header_text, is_address_text
from realtime.core.url_rules import is_line

CONTROLS = st.sampled_from([*map(chr, range(0x20)), "\x7f", "\x85", "\u2028", "\ud800", "=?", "?="])
TEXTS = st.lists(st.text() | CONTROLS).map("".join)


@given(TEXTS, st.integers(1, 300))
def test_any_header_is_one_line(text: str, limit: int) -> None:
    line = header_text(text, limit)
    assert is_line(line)
    assert line.splitlines() in ([line], [])
    assert len(line) <= limit
    assert line == line.strip()
    assert line == header_text(line, limit)
    assert line.isascii() or line.encode("utf-8"), "no lone surrogates"
    assert decode_header(line) == [(line, None)], "no encoded words"


@given(TEXTS)
def test_a_body_keeps_its_lines_and_its_length(text: str) -> None:
    body = body_text(text)
    assert len(body) == len(text)
    assert is_line(body.replace("\r", "").replace("\n", "").replace("\t", ""))
    assert [i for i, c in enumerate(text) if c in "\r\n\t"] == [
        i for i, c in enumerate(body) if c in "\r\n\t"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Gruß an Zoë 👩‍🚀", "Gruß an Zoë 👩‍🚀"),
        (" a\0\x1b[31m\r\n\tb ", "a [31m b"),
        ("=?utf-8?q?=0a?=", "= ?utf-8?q?=0a?="),
        ("\0", ""),
    ],
)
def test_ordinary_text_stays_readable(text: str, line: str) -> None:
    assert header_text(text, 200) == line


@given(TEXTS)
def test_an_address_with_a_line_break_or_encoded_word_is_refused(text: str) -> None:
    assert is_address_text(text) == (is_line(text) and "=?" not in text)
    assert is_address_text("ada@example.com")
