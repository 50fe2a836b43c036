"""What all connections of a worker share: their count, their limits, and who is told of them.

uvicorn makes a protocol for each connection and gives it nothing of ours but its configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import uvicorn
from uvicorn.middleware.proxy_headers import _TrustedHosts

from realtime.limits import Crowd, Limits, address_of

SPARE_CONNECTIONS = 1024
"""For requests, when as many WebSockets and streams are there as may be: publishers and probes."""
SPARE_PER_ADDRESS = 128
"""Browsers open 6 to a host; a publisher's pool has 10 (requests) to 100 (httpx)."""
REFUSALS_AT_ONCE = 1024
"""Connections that are answered before they are closed; what comes beyond is only closed."""
BODY_BYTES = 1024 * 1024
"""Of a request, whatever its path; what one path takes is less, or this."""


class ConnectionLimiter:
    """Counts the TCP connections of a worker, whatever they speak: each once, until it ends.

    The hub counts WebSockets and streams by the address that a proxy names. This counts sockets, by
    their other end; not those of a trusted proxy, which speaks for many.
    """

    def __init__(self, limits: Limits, proxies: list[str] | str) -> None:
        per_address = limits.connections_per_address
        self._crowd = Crowd(
            replace(
                limits,
                connections=limits.connections + SPARE_CONNECTIONS,
                connections_per_address=per_address and per_address + SPARE_PER_ADDRESS,
            )
        )
        self._has_addresses = bool(per_address)
        self._proxies = _TrustedHosts(proxies)
        self._refused = 0

    @property
    def is_empty(self) -> bool:
        """Whether no connection is counted."""
        return self._crowd.is_empty and not self._refused

    def enter(self, client: tuple[str, int] | None) -> str | None:
        """Count a connection; return the name of the limit that forbids it, if one does."""
        limit = self._crowd.enter(self._address(client))
        return None if limit is None else TRANSPORT_NAMES[limit]

    def leave(self, client: tuple[str, int] | None) -> None:
        """Count out a connection that was let in."""
        self._crowd.leave(self._address(client))

    def refuse(self) -> bool:
        """Count a connection that is refused; False if there are too many to answer one more."""
        if self._refused >= REFUSALS_AT_ONCE:
            return False
        self._refused += 1
        return True

    def end_refusal(self) -> None:
        """Count out a connection that was refused."""
        self._refused -= 1

    def _address(self, client: tuple[str, int] | None) -> str:
        if not self._has_addresses or client is None or client[0] in self._proxies:
            return ""
        return address_of(client)


TRANSPORT_NAMES = {
    "connections": "transport_connections",
    "connections_per_address": "transport_connections_per_address",
}
"""In the log and the counts; the other names are the hub's."""


class Config(uvicorn.Config):
    """uvicorn's configuration, with what our protocol classes need.

    Args:
        app: The ASGI application.
        reached: Is told the name of each limit that was reached.
        limits: How many connections may be there; None counts none.
        body_bytes: Of a request, whatever its path.
        first_frame_bytes: Of a WebSocket's message before its client has introduced itself;
            None is ``ws_max_size``.
        options: uvicorn's.
    """

    def __init__(
        self,
        app: Any,
        *,
        reached: Callable[[str], None],
        limits: Limits | None = None,
        body_bytes: int = BODY_BYTES,
        first_frame_bytes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(app, **options)
        self.reached = reached
        proxies = self.forwarded_allow_ips if self.proxy_headers else []
        self.limiter = None if limits is None else ConnectionLimiter(limits, proxies)
        self.body_bytes = body_bytes
        self.first_frame_bytes = first_frame_bytes


def counted(config: uvicorn.Config, limit: str) -> None:
    """Count that a limit was reached, where somebody does."""
    if isinstance(config, Config):
        config.reached(limit)
