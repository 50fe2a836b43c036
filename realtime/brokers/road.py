"""A road to Redis that is made anew when it breaks.

The three outcomes of a command, with the *stage* deciding (ADR-0007): until a ready connection is
in hand, certainly not done; from the first byte of the command on, only a reply tells. redis-py
retries ten times by default, so it must not retry at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from realtime.brokers.commands import is_of_no_master, lacks_script, unavailable
from realtime.brokers.line import Line, Parser, abort
from realtime.brokers.script import Args, Script


class Road:
    """Belongs to one event loop; make it inside."""

    def __init__(self, url: str) -> None:
        """Connect lazily.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.
        """
        # Only to read the URL and to make connections; none of them goes back into it.
        self._pool = ConnectionPool.from_url(url)
        # After the URL: no option in it (`decode_responses`, `socket_timeout`) may undo these.
        self._pool.connection_kwargs.update(
            parser_class=Parser,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            # Ours is the deadline. One of redis-py's would cost a task per command, and a shorter
            # one for connecting would fail a burst of first publishes on a busy machine.
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
        )
        self._line: Line | None = None
        self._lines: set[Line] = set()  # one that let a deadline pass still answers what it can
        self._connecting = asyncio.Lock()
        self._is_closed = False

    async def run(self, script: Script, commands: Sequence[Args], seconds: float) -> list[Any]:
        """Return a reply or an error reply for each command; load the script if Redis lacks it.

        Args:
            script: What every command calls.
            commands: What to do.
            seconds: Until all of it must be answered.

        Raises:
            BrokerUnavailable: Certainly not done.
            OutcomeUnknown: Perhaps done.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        replies = await self._exchange(commands, deadline)
        if any(map(lacks_script, replies)):
            # Every command names the same script, so none of them was done.
            replies = await self._exchange([script.load, *commands], deadline)
            del replies[0]
        return replies

    async def exchange(self, commands: Sequence[Args], seconds: float) -> list[Any]:
        """Return a reply or an error reply for each command; the rest as for `run`."""
        return await self._exchange(commands, asyncio.get_running_loop().time() + seconds)

    async def connected(self) -> Connection:
        """Return a connection beside the road; whoever asks for it closes it.

        Raises:
            RedisError: It cannot be had, like the next one.
            OSError: ditto.
        """
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            if self._is_closed:  # meanwhile: nobody would ever close this one
                raise exceptions.ConnectionError("the broker was closed")
        except BaseException:
            abort(connection)
            raise
        return connection

    def retire(self) -> None:
        """Let the next command connect anew: the address may lead to another Redis by now."""
        if self._line is not None:
            self._line.retire()

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        self._is_closed = True
        await asyncio.gather(*[line.aclose() for line in self._lines])

    async def _exchange(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        line = self._line
        if line is None or not line.is_open:
            line = await self._new_line(deadline)
        replies = await line.exchange(commands, deadline)
        if any(map(is_of_no_master, replies)) and not line.is_fresh:
            line.retire()  # the name may lead to the new master by now
        return replies

    async def _new_line(self, deadline: float) -> Line:
        """Connect, once for all who need it; each of them waits until its own deadline.

        Raises:
            BrokerUnavailable: It cannot be had in time.
        """
        try:
            async with asyncio.timeout_at(deadline), self._connecting:
                if self._line is None or not self._line.is_open:
                    self._line = Line(await self.connected(), self._lines.discard)
                    self._lines.add(self._line)
                return self._line
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
