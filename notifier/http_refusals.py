"""Refuses a request without the app, and ends connections so that clients can still read why."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Protocol

LINGER_SECONDS = 2.0
"""How long a refused connection is still read. Closing a socket with unread bytes resets it, and
the client may lose our answer (RFC 9112 §9.6). nginx lingers for up to 30 s."""
LINGER_BYTES = 1024 * 1024
RETRY_AFTER_SECONDS = 5
TURNED_AWAY = {
    "transport_connections": HTTPStatus.SERVICE_UNAVAILABLE,
    "transport_connections_per_address": HTTPStatus.TOO_MANY_REQUESTS,
}
"""The status for each limit of connections."""


def write_refusal(status: HTTPStatus, why: str, body_limit: int) -> bytes:
    """Return a whole response that ends the connection.

    Args:
        status: The status.
        why: The text of the response; empty is the status's own.
        body_limit: The bytes that a body may have.
    """
    kind, text, extra = "text/plain", f"{why or status.phrase}\n", ""
    if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # publishers read this like the API's errors
        most = f"the body has more than {body_limit} bytes"
        kind = "application/json"
        text = f'{{"error":{{"code":107,"reason":"too_large","message":"{most}"}}}}\n'
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        extra = "allow: GET, HEAD, POST\r\n"  # RFC 9110 §15.5.6
    elif status in TURNED_AWAY.values():
        extra = f"retry-after: {RETRY_AFTER_SECONDS}\r\n"
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {kind}\r\n{extra}"
        f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}"
    ).encode()


class Ending(Protocol):
    """A protocol that has written its last bytes."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""


def linger(ending: Ending) -> None:
    """Close our side of a connection, and the other once the client had time to read the answer."""
    transport = ending.transport
    if not transport.can_write_eof():
        transport.close()
        return
    transport.resume_reading()
    transport.write_eof()
    transport.set_protocol(Lingering(ending))


class Lingering(asyncio.Protocol):
    """The rest of a connection: reads and discards, within bounds."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._left = LINGER_BYTES
        self._timer = ending.loop.call_later(LINGER_SECONDS, ending.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Discard bytes; abort when there are too many."""
        self._left -= len(data)
        if self._left < 0:
            self._ending.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol that the connection has ended."""
        self._timer.cancel()
        self._ending.connection_lost(exc)
