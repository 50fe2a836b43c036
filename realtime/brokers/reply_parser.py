"""Reads all replies that have arrived from Redis at once, where redis-py reads one at a time."""

from __future__ import annotations

from typing import Any, cast

from redis import exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import Connection, DefaultParser


class Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """A parser that returns all replies that have arrived; error replies are values, too."""

    reads = 0
    """The number of times that bytes have arrived."""

    async def replies(self) -> list[Any]:
        """Wait for the first reply; return all that have arrived.

        Raises:
            RedisError: The connection was closed, or used another protocol.
            OSError: The connection broke.
        """
        while True:
            replies = []
            try:
                while (reply := self._reader.gets()) is not NOT_ENOUGH_DATA:
                    replies.append(reply)
            except exceptions.InvalidResponse:
                if not replies:  # earlier replies are valid; hiredis raises again
                    raise
            if replies:
                return replies
            await self.read_from_socket()
            self.reads += 1

    @property
    def is_at_end(self) -> bool:
        """Whether Redis has closed the connection and all data has been read."""
        return bool(self._stream.at_eof())


def parser_of(connection: Connection) -> Parser:
    """Return the parser of a connection that uses `Parser`."""
    return cast("Parser", connection._parser)
