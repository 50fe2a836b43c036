"""Shared by all connections of a worker: their count, their limits, and the callback for limits.

uvicorn creates a protocol object for each connection and passes it nothing of ours except its
configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import uvicorn
from uvicorn.middleware.proxy_headers import _TrustedHosts

from notifier.fair_turns import FairTurns
from notifier.http_answers import Lane
from realtime.core.limits import ConnectionCounter, Limits, address_of

SPARE_CONNECTIONS = 1024
"""For other requests when WebSockets and streams are at their limit: publishers and probes."""
SPARE_PER_ADDRESS = 128
"""Browsers open 6 per host; a publisher's pool has 10 (requests) to 100 (httpx)."""
REFUSALS_AT_ONCE = 1024
"""Connections that get a response before they are closed; any more are closed without one."""
BODY_BYTES = 1024 * 1024
"""Maximum body of a request, whatever its path; individual paths have the same limit or less."""


MAPPED = "::ffff:"
Client = tuple[str, int] | None
"""The address and port of a peer, as in an ASGI scope; None for a socket without one."""


def without_mapping(client: Client) -> Client:
    """Return the IPv4 address of an IPv4 client whose socket is an IPv6 socket (``HOST=::``).

    The system shows it as ``::ffff:10.0.0.1`` (RFC 4291 §2.5.5.2), which does not match a trusted
    proxy ``10.0.0.1``. Without this function, every client would appear to have the proxy's
    address.
    """
    if client is not None and client[0].startswith(MAPPED) and "." in client[0]:
        return client[0].removeprefix(MAPPED), client[1]
    return client


class ConnectionLimiter:
    """Counts the TCP connections of a worker, whatever their protocol: each once, until it ends.

    The hub counts WebSockets and streams by the address that a proxy names. This counts sockets by
    their peer, except for trusted proxies, which speak for many clients.
    """

    def __init__(self, limits: Limits, proxies: list[str] | str) -> None:
        per_address = limits.connections_per_address
        self._crowd = ConnectionCounter(
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

    def enter(self, client: Client) -> str | None:
        """Count a new connection, or return the name of the limit that forbids it."""
        limit = self._crowd.enter(self._address(client))
        return None if limit is None else TRANSPORT_NAMES[limit]

    def leave(self, client: Client) -> None:
        """Remove a connection that `enter` counted."""
        self._crowd.leave(self._address(client))

    def refuse(self) -> bool:
        """Count a rejected connection; return False if there are too many to respond to it."""
        if self._refused >= REFUSALS_AT_ONCE:
            return False
        self._refused += 1
        return True

    def end_refusal(self) -> None:
        """Remove a rejected connection."""
        self._refused -= 1

    def _address(self, client: Client) -> str:
        if not self._has_addresses or client is None or client[0] in self._proxies:
            return ""
        return address_of(client)


TRANSPORT_NAMES = {
    "connections": "transport_connections",
    "connections_per_address": "transport_connections_per_address",
}
"""In logs and metrics; the other names are the hub's."""


class Config(uvicorn.Config):
    """uvicorn's configuration, extended by what our protocol classes need.

    Args:
        app: The ASGI application.
        reached: Called with the name of each limit that was reached.
        limits: The limits on connections; None counts none.
        body_bytes: Maximum body of a request, whatever its path.
        lane: Takes requests to the API whose whole body has arrived; None sends all through ASGI.
        first_frame_bytes: Maximum WebSocket message before its client has introduced itself;
            None is ``ws_max_size``.
        options: uvicorn's options.
    """

    def __init__(
        self,
        app: Any,
        *,
        reached: Callable[[str], None],
        limits: Limits | None = None,
        body_bytes: int = BODY_BYTES,
        lane: Lane | None = None,
        first_frame_bytes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(app, **options)
        self.reached = reached
        proxies = self.forwarded_allow_ips if self.proxy_headers else []
        self.limiter = None if limits is None else ConnectionLimiter(limits, proxies)
        self.body_bytes = body_bytes
        self.lane = lane
        self.first_frame_bytes = first_frame_bytes
        self.turns = FairTurns()


def count_limit(config: uvicorn.Config, limit: str) -> None:
    """Report a limit that was reached, if the configuration has a callback for it."""
    if isinstance(config, Config):
        config.reached(limit)
