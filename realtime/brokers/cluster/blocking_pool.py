"""The connections of a process to one node of a cluster, for threads."""

from __future__ import annotations

import time
from queue import Empty, LifoQueue
from typing import Any, cast

from redis import exceptions
from redis.connection import Connection, ConnectionPool

from realtime.brokers.connection_sync import connection_options


class NodePool:
    """At most so many connections to one node; who finds none free waits for one.

    Like redis-py's ``BlockingConnectionPool``, which has one timeout for all who wait, and another
    one for connecting. Not for use after a fork: `SyncClusterLinks` makes another one.
    """

    def __init__(self, url: str, size: int, seconds: float) -> None:
        """Connect lazily.

        Args:
            url: The URL of the node.
            size: The maximum number of connections.
            seconds: The longest timeout.
        """
        # Only parses the URL and creates connections; none is returned to it.
        self._factory = ConnectionPool.from_url(url)
        self._factory.max_connections = size
        self._factory.connection_kwargs.update(connection_options(seconds))
        # The connection that was used last comes first; None is one that was not created yet.
        self._free: LifoQueue[Connection | None] = LifoQueue(size)
        for _ in range(size):
            self._free.put(None)
        self._is_closed = False

    def take_open(self) -> Connection | None:
        """Return a free connection that is open, without waiting for one; None if there is none."""
        try:
            connection = self._free.get_nowait()
        except Empty:
            return None
        if connection is not None and _is_open(connection):
            return connection
        self._free.put(connection)
        return None

    def take(self, deadline: float, *, must_wait: bool) -> Connection | None:
        """Take a free connection, and open it; the caller releases it.

        Args:
            deadline: When to give up, in seconds of `time.monotonic`.
            must_wait: Whether to wait for a free one, instead of returning None.

        Raises:
            RedisError: None was free in time, or it cannot be opened.
            OSError: It cannot be opened.
        """
        try:
            left = max(0.0, deadline - time.monotonic())
            connection = self._free.get(block=must_wait, timeout=left)
        except Empty:
            if must_wait:
                raise exceptions.TimeoutError("no connection was free in time") from None
            return None
        try:
            if connection is None:
                connection = cast("Connection", self._factory.make_connection())
            if not _is_open(connection):
                _open(connection, deadline)
        except BaseException:
            self.discard(connection)
            raise
        return connection

    def release(self, connection: Connection | None) -> None:
        """Let others use a connection, to which no reply is on its way."""
        if self._is_closed and connection is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]
        self._free.put(connection)

    def discard(self, connection: Connection | None) -> None:
        """Close a connection, and let others open it again."""
        if connection is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]
        self._free.put(connection)

    def close(self) -> None:
        """Close all connections; those in use as soon as they are released."""
        self._is_closed = True
        closed: list[Connection | None] = []
        while True:
            try:
                closed.append(self._free.get_nowait())
            except Empty:
                break
        for connection in closed:
            self.release(connection)


def _is_open(connection: Connection) -> bool:
    """Tell whether a connection is open, and has no reply that nobody has read."""
    socket: Any = connection._sock
    if socket is None:  # then `can_read` would connect
        return False
    try:
        return not connection.can_read()
    except (exceptions.RedisError, OSError):
        return False


def _open(connection: Connection, deadline: float) -> None:
    connection.disconnect()  # type: ignore[no-untyped-call]
    left = max(0.001, deadline - time.monotonic())
    connection.socket_connect_timeout = connection.socket_timeout = left
    connection.connect()  # type: ignore[no-untyped-call]
