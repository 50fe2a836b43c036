"""Reads a plain WebSocket handshake from the head that the HTTP parser has read already (ADR-0035).

uvicorn writes the head anew, and `websockets` parses it a second time, in Python, and builds
the response from objects: 110 of the 300 µs that a new connection cost until it was subscribed.
Here a handshake of the usual form is checked and answered with a few comparisons. All others use
the full parser, so each case has exactly one implementation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import lru_cache

from websockets.exceptions import InvalidHeader
from websockets.headers import parse_extension

from notifier.http_framing import count_head_bytes

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 §1.3."""
CONNECTIONS = {b"upgrade", b"keep-alive, upgrade"}
"""As Chromium, Safari and most clients write it, and as Firefox does."""
KEY_CHARACTERS = 24
"""16 bytes in base64."""
UNUSUAL = {b"content-length", b"transfer-encoding", b"sec-websocket-protocol"}
KNOWN_EXTENSIONS = 64
"""Lists of extensions that are remembered as valid or not; browsers send three."""
PLAIN_BYTES = 4096
"""Of a head; longer ones take the old way, which has limits for their lines."""


def accept_plain(url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Return the value of Sec-WebSocket-Accept; None if the handshake is not a plain one.

    Args:
        url: The target of a GET that offers to switch to ``websocket``.
        headers: Its headers, with names in lower case.
    """
    found = dict(headers)
    if len(found) != len(headers) or not UNUSUAL.isdisjoint(found):
        return None
    if not url.startswith(b"/") or not url.isascii():
        return None
    if count_head_bytes(url, headers) > PLAIN_BYTES:
        return None
    if any(value != value.strip(b" \t") for value in found.values()):
        return None  # httptools leaves space behind a value (RFC 9110 §5.5)
    if found.get(b"connection", b"").lower() not in CONNECTIONS:
        return None
    if found.get(b"sec-websocket-version") != b"13":
        return None
    if not _are_extensions(found.get(b"sec-websocket-extensions", b"")):
        return None
    key = found.get(b"sec-websocket-key", b"")
    return make_accept(key) if len(key) == KEY_CHARACTERS and _is_key(key) else None


def make_accept(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept value for a client's key (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


@lru_cache(KNOWN_EXTENSIONS)
def _are_extensions(value: bytes) -> bool:
    """Tell whether a list of extensions is valid, although none of them is used."""
    if not value.strip(b", \t"):
        return True
    try:
        parse_extension(value.decode("ascii"))
    except (InvalidHeader, UnicodeDecodeError):
        return False
    return True
