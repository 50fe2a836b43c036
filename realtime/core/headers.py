"""Reject request headers that different servers interpret differently.

Servers disagree about duplicate headers: one uses the first, another the last, a third joins them.
If a proxy checks one and the application uses another, that is a way in (RFC 9112 §11).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

HEADERS_LIMIT = 100
"""As in nginx and Apache."""
SINGLE = {
    b"host", b"origin", b"authorization", b"cookie", b"x-api-key", b"content-length",
    b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest",
}  # fmt: skip
"""Identify the client, its origin, the target and the length. Cookie: RFC 6265 §5.4, one header."""


class Flaw(NamedTuple):
    """Why a request is rejected."""

    status: int
    reason: str
    limit: str = ""
    """The limit that was exceeded, if that is the reason."""


def flaw_of(headers: Iterable[tuple[bytes, bytes]], most: int = HEADERS_LIMIT) -> Flaw | None:
    """Return what is wrong with the headers of an ASGI scope, whose names are lower case."""
    names = [name for name, _ in headers]
    if len(names) > most:
        return Flaw(431, f"more than {most} headers", "request_headers")
    if len(set(names)) == len(names):  # nearly always
        return None
    twice = sorted(name.decode() for name in SINGLE if names.count(name) > 1)
    return Flaw(400, f"more than one {', '.join(twice)}") if twice else None
