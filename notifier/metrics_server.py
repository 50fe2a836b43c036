"""Serves ``GET /metrics`` at an address of its own, from the launcher's process.

Away from the port of the clients, so it needs no key, and it answers while the workers start,
drain or hang. Each request costs a snapshot of each worker.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from notifier.counting import Config
from notifier.http import HttpProtocol
from notifier.measuring import Read
from realtime.core.limits import Limits, Rate
from realtime.http.exposition import exposition

CONNECTIONS = 32
"""Scrapers at the same time; a Prometheus keeps one connection."""
_NONE = Rate(1.0, 1)
_LIMITS = Limits(
    connections=CONNECTIONS,
    connections_per_user=0,
    connections_per_address=0,
    channels_per_connection=1,
    commands=_NONE,
    publications=_NONE,
    connect_seconds=10.0,
)
_PLAIN = "text/plain; charset=utf-8"

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class MetricsServer(uvicorn.Server):
    """uvicorn inside the launcher, which has its own signals."""

    def __init__(self, listener: socket.socket, read: Read) -> None:
        """Serve snapshots on a socket that listens already."""
        self._listener = listener
        self._read = read
        super().__init__(
            Config(
                self._answer,
                reached=lambda limit: None,
                limits=_LIMITS,
                interface="asgi3",
                lifespan="off",
                http=HttpProtocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the launcher."""
        yield

    async def keep(self) -> None:
        """Serve until it is cancelled."""
        await self.serve(sockets=[self._listener])

    async def _answer(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Any], send: Send
    ) -> None:
        if scope["path"] != "/metrics":
            await _respond(send, 404, _PLAIN, b"Metrics are at /metrics.\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await _respond(send, 405, _PLAIN, b"Use GET.\n", (b"allow", b"GET, HEAD"))
        else:
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            text, content_type = exposition(await self._read(), accept)
            await _respond(send, 200, content_type, text)


async def _respond(
    send: Send, status: int, content_type: str, body: bytes, *more: tuple[bytes, bytes]
) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
