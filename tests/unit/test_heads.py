"""Request heads that must be refused."""

from __future__ import annotations

import pytest

from realtime.core.headers import HEADERS_LIMIT, SINGLE, flaw_of


def test_an_ordinary_head_is_accepted():
    headers = [(b"host", b"a"), (b"accept", b"x"), (b"accept", b"y"), (b"cookie", b"a=b")]
    assert flaw_of(headers) is None


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_security_relevant_headers_must_not_be_repeated(name):
    flaw = flaw_of([(b"host", b"a"), (name, b"1"), (b"accept", b"x"), (name, b"1")])
    assert flaw is not None
    assert flaw.status == 400
    assert name.decode() in flaw.reason


def test_the_number_of_headers_is_limited():
    headers = [(b"x-%d" % number, b"") for number in range(HEADERS_LIMIT)]
    assert flaw_of(headers) is None
    flaw = flaw_of([*headers, (b"accept", b"")])
    assert flaw is not None
    assert (flaw.status, flaw.limit) == (431, "request_headers")
