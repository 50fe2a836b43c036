"""Opens connections to Redis with redis-py, takes them over, and closes them without flushing.

redis-py retries ten times by default and has timeouts of its own. Both are disabled: the stage of a
command decides its outcome (ADR-0007), and deadlines are ours.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, cast

from redis import exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import Connection, ConnectionPool, DefaultParser
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


class Connector:
    """The factory of connections to one Redis. Bound to one event loop."""

    trusted_seconds = math.inf
    """How long an open connection is used without calling `has_moved`."""
    is_fixed = True
    """Whether the URL has the address of the master."""

    def __init__(self, url: str) -> None:
        """Parse the URL, without connecting yet.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py parses it.
        """
        self._server = RedisServer(url)
        self._is_closed = False

    async def connect(self, until: float = 0.0) -> Connection:
        """Return a new connection, which the caller must close.

        Args:
            until: If there is no master, when to stop trying, in seconds of the event loop; a fixed
                address is tried once.

        Raises:
            RedisError: Connecting failed.
            OSError: Connecting failed.
        """
        return self._unless_closed(await self._server.connect())

    async def has_moved(self, connection: Connection) -> bool:
        """Tell whether the master is now at another address than a connection leads to."""
        return False

    async def watch(self, connection: Connection, unmoved: Callable[[], None]) -> None:
        """Return when the master has moved; until then, call ``unmoved`` after each look."""
        await asyncio.get_running_loop().create_future()

    def close(self) -> None:
        """Open no more connections."""
        self._is_closed = True

    def _unless_closed(self, connection: Connection) -> Connection:
        if self._is_closed:  # `close` was called while this one was connecting
            abort(connection)
            raise exceptions.ConnectionError("the broker was closed")
        return connection


class RedisServer:
    """Opens connections to one address, which `abort` closes."""

    def __init__(self, url: str) -> None:
        # Only parses the URL and creates connections; none is returned to the pool.
        self._pool = ConnectionPool.from_url(url)
        # Set after parsing: URL options (`decode_responses`, `socket_timeout`) must not win.
        self._pool.connection_kwargs.update(
            parser_class=_Parser,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            # A timeout of redis-py would cost a task per command, and a shorter connect timeout
            # would fail a burst of first publishes on a busy machine.
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
        )

    async def connect(self) -> Connection:
        """Return a new connection; errors as for `Connector.connect`."""
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            abort(connection)
            raise
        return connection


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """redis-py's parser, which also reports unread data."""

    @property
    def has_rest(self) -> bool:
        """Whether something was received that nobody has read yet."""
        return bool(self._reader.has_data() or self._stream._buffer)

    @property
    def is_at_end(self) -> bool:
        """Whether Redis has closed the connection and all data has been read."""
        return bool(self._stream.at_eof())


class RedisProtocol(asyncio.Protocol):
    """Reads replies on a connection that redis-py has opened, bypassing asyncio's streams.

    Each of the two streams needs a task, and another turn of the event loop (ADR-0037). A subclass
    implements `_take`, which is called with each reply, and must `abort` the connection.
    """

    def __init__(self, connection: Connection) -> None:
        """Take over the transport of a connection.

        Args:
            connection: A connection of a `Connector`, without pending replies.
        """
        parser = cast("_Parser", connection._parser)
        self._connection = connection
        self._reader = parser._reader
        self._transport = cast("asyncio.Transport", _writer_of(connection).transport)
        self._loop = asyncio.get_running_loop()
        self._is_full = False  # the transport's buffer
        self._lost: asyncio.Future[Exception] = self._loop.create_future()
        self._transport.set_protocol(self)
        if parser.is_at_end or self._transport.is_closing():
            self._fail(exceptions.ConnectionError("Redis closed the connection"))
        elif parser.has_rest:  # it would be taken for the reply to the first command
            self._fail(exceptions.ConnectionError("Redis sent an unexpected reply"))

    @property
    def _has_ended(self) -> bool:
        """Whether the connection is known to be closed, so that further writes would be lost."""
        return self._lost.done() or self._transport.is_closing()

    def _take(self, reply: Any) -> None:
        """Take one reply; raise a RedisError if Redis should not have sent it."""
        raise NotImplementedError

    def _fail(self, error: Exception) -> None:
        """Record the error that ended the connection; later ones are ignored."""
        if not self._lost.done():
            self._lost.set_result(error)

    # ------------------------------------------------------- callbacks of the transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Record that Redis has closed the connection, or that it broke."""
        self._fail(exc or exceptions.ConnectionError("Redis closed the connection"))

    def eof_received(self) -> None:
        """Fail at once: with TLS, `connection_lost` is called only some turns later."""
        self._fail(exceptions.ConnectionError("Redis closed the connection"))

    def pause_writing(self) -> None:
        """Write no more: Redis does not read."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Write again."""
        self._is_full = False

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        if self._has_ended:
            return
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not NOT_ENOUGH_DATA:
                self._take(reply)
        except exceptions.RedisError as error:
            self._fail(error)


def _writer_of(connection: Connection) -> asyncio.StreamWriter:
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
