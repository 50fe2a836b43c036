"""Opens connections to Redis with redis-py, and closes them without flushing.

redis-py retries ten times by default and has timeouts of its own. Both are disabled: the stage of a
command decides its outcome (ADR-0007), and deadlines are ours.
"""

from __future__ import annotations

import asyncio
from typing import cast

from redis import exceptions
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


class Connector:
    """The factory of connections to one Redis. Bound to one event loop."""

    def __init__(self, url: str, parser_class: type) -> None:
        """Parse the URL, without connecting yet.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py parses it.
            parser_class: Parses the replies of all connections.
        """
        # Only parses the URL and creates connections; none is returned to the pool.
        self._pool = ConnectionPool.from_url(url)
        # Set after parsing: URL options (`decode_responses`, `socket_timeout`) must not win.
        self._pool.connection_kwargs.update(
            parser_class=parser_class,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            # A timeout of redis-py would cost a task per command, and a shorter connect timeout
            # would fail a burst of first publishes on a busy machine.
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
        )
        self._is_closed = False

    async def connect(self) -> Connection:
        """Return a new connection, which the caller must close.

        Raises:
            RedisError: Connecting failed.
            OSError: Connecting failed.
        """
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            if self._is_closed:  # `close` was called while this one was connecting
                raise exceptions.ConnectionError("the broker was closed")
        except BaseException:
            abort(connection)
            raise
        return connection

    def close(self) -> None:
        """Open no more connections."""
        self._is_closed = True


def writer_of(connection: Connection) -> asyncio.StreamWriter:
    """Return the stream of a ready connection.

    redis-py's own write method reconnects if the connection is closed.
    """
    return cast("asyncio.StreamWriter", connection._writer)


def abort(connection: Connection) -> None:
    """Close a connection immediately, discarding unwritten data.

    redis-py's `disconnect` first flushes the data, which never ends while Redis is frozen.
    """
    if connection._writer is not None:
        connection._writer.transport.abort()
    connection._close()  # type: ignore[no-untyped-call]
