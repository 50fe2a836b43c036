"""One connection to Redis that carries everybody's commands.

What is asked in one turn of the loop goes out in one write, and what Redis answers at once is read
at once. With a connection for each command an HTTP publish took 135 µs of processor time, not 74,
and thirty-two publishers took thirty-two system calls, not one (ADR-0015).

A call that was not written when something breaks is certainly not done; one that was written and
not answered, perhaps. Each call has its own deadline. One that passes it leaves its place in the
order of answers, so the calls behind it are still answered rightly; no new ones follow there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from hiredis import pack_command
from redis import exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import Connection, DefaultParser

from realtime.brokers.commands import FRESH_SECONDS, unavailable, unknown
from realtime.brokers.script import Args

LOOK_SECONDS = 0.05
"""How late a passed deadline may be noticed."""
WAITING_BYTES = 16 * 1024 * 1024
"""What may wait to be written while Redis takes nothing; beyond it calls fail at once."""
WRITE_BYTES = 64 * 1024
"""What is written at once, or one call: as much as asyncio holds before it says that it is full.

All that waits, up to 16 MiB, would count as written although Redis has not read a byte of it.
"""


class Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """redis-py's, which reads all that has come at once; an error reply is a value like others."""

    reads = 0
    """How often bytes came."""

    async def replies(self) -> list[Any]:
        """Return the replies that have come; wait for the first.

        Raises:
            RedisError: The connection ended, or spoke another protocol.
            OSError: It broke.
        """
        while True:
            replies = []
            try:
                while (reply := self._reader.gets()) is not NOT_ENOUGH_DATA:
                    replies.append(reply)
            except exceptions.InvalidResponse:
                if not replies:  # what came before it is good; hiredis raises it again
                    raise
            if replies:
                return replies
            await self.read_from_socket()
            self.reads += 1

    @property
    def is_at_end(self) -> bool:
        """Whether Redis has closed the connection and there is nothing left to read."""
        return bool(self._stream.at_eof())


def parser_of(connection: Connection) -> Parser:
    """Return the parser of a connection that was made with ours."""
    return cast(Parser, connection._parser)


def writer_of(connection: Connection) -> asyncio.StreamWriter:
    """Return the stream of a connection that is ready.

    redis-py's own way to write connects again where it finds the connection closed.
    """
    return cast(asyncio.StreamWriter, connection._writer)


def abort(connection: Connection) -> None:
    """Close a connection at once, whatever is still to be written.

    redis-py's `disconnect` lets that be written first, and while Redis is frozen that never ends.
    """
    if connection._writer is not None:
        connection._writer.transport.abort()
    connection._close()  # type: ignore[no-untyped-call]


class _Call:
    """Commands of one caller, and the replies that have come so far."""

    __slots__ = ("count", "deadline", "future", "packed", "replies")

    def __init__(self, commands: Sequence[Args], deadline: float) -> None:
        self.packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]
        self.count = len(commands)
        self.deadline = deadline
        self.replies: list[Any] = []
        self.future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Line:
    """See the module. Takes over a connection that is ready; whoever makes it calls `aclose`."""

    def __init__(self, connection: Connection, on_end: Callable[[Line], None]) -> None:
        """Begin to carry.

        Args:
            connection: Made with `Parser` as its parser.
            on_end: Called once, when nothing can be asked or answered here any more.
        """
        self._connection = connection
        self._parser = parser_of(connection)
        self._writer = writer_of(connection)
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._opened_at = self._loop.time()
        self._waiting: deque[_Call] = deque()
        self._waiting_bytes = 0
        self._sent: deque[_Call] = deque()
        self._to_write = asyncio.Event()
        self._timer: asyncio.Handle | None = None
        self._is_open = True
        self._error: Exception = exceptions.ConnectionError("closed")
        self._owner = self._loop.create_task(self._own(), name="realtime line to Redis")
        # Not a `finally` in there: a task that is cancelled before its first step has none.
        self._owner.add_done_callback(self._end)

    @property
    def is_open(self) -> bool:
        """Whether new calls may be made here."""
        return self._is_open and not self._has_ended

    @property
    def is_fresh(self) -> bool:
        """Whether it is of no use to open another one, since it would lead to the same Redis."""
        return self._loop.time() - self._opened_at < FRESH_SECONDS

    async def exchange(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        """Return a reply or an error reply for each command.

        Raises:
            BrokerUnavailable: Certainly not done.
            OutcomeUnknown: Perhaps done.
        """
        if not commands:  # as a call it would take the answers of the others
            return []
        call = _Call(commands, deadline)
        if self._waiting_bytes + len(call.packed) > WAITING_BYTES:
            raise unavailable(BufferError("too much waits to be written"))
        self._waiting.append(call)
        self._waiting_bytes += len(call.packed)
        self._to_write.set()
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        return await call.future

    def retire(self) -> None:
        """Take no new calls; close as soon as those that are under way are answered."""
        self._is_open = False
        if self._timer is None:
            self._timer = self._loop.call_soon(self._look)

    async def aclose(self) -> None:
        """Close the connection; what was not answered fails."""
        self._owner.cancel()
        await asyncio.gather(self._owner, return_exceptions=True)

    @property
    def _has_ended(self) -> bool:
        """Whether the connection is known to be gone; what is written from now on is lost."""
        return self._parser.is_at_end or self._writer.is_closing()

    async def _own(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                group.create_task(self._read())
        except* (exceptions.RedisError, OSError) as broken:
            self._error = broken.exceptions[0]

    async def _write(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            if not self._sent:
                # Let the loop look at the socket first: it may have been closed while nobody
                # looked, and what is written into a closed one is in doubt for no reason.
                await asyncio.sleep(0)
            while self._waiting:
                if self._has_ended:  # what waits is certainly not done
                    raise exceptions.ConnectionError("Redis closed the connection")
                self._writer.write(self._next_to_write())
                await self._writer.drain()

    def _next_to_write(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._waiting and size < WRITE_BYTES:
            call = self._waiting.popleft()
            part, call.packed = call.packed, b""
            self._waiting_bytes -= len(part)
            if not call.future.done():
                self._sent.append(call)
                parts.append(part)
                size += len(part)
        return b"".join(parts)

    async def _read(self) -> None:
        while True:
            for reply in await self._parser.replies():
                self._answered(reply)

    def _answered(self, reply: Any) -> None:
        if not self._sent:
            raise exceptions.ConnectionError("Redis says what nobody asked for")
        call = self._sent[0]
        call.replies.append(reply)
        if len(call.replies) == call.count:
            self._sent.popleft()
            if not call.future.done():
                call.future.set_result(call.replies)

    def _look(self) -> None:
        """Fail what has passed its deadline, and leave a connection that let it pass."""
        self._timer = None
        now = self._loop.time()
        for call in self._waiting:
            if now > call.deadline:
                call.fail(unavailable(TimeoutError()))
        for call in self._sent:
            if now > call.deadline:
                call.fail(unknown(TimeoutError()))
                self._is_open = False
        if not self._is_open and all(call.future.done() for call in (*self._waiting, *self._sent)):
            self._owner.cancel()
        elif self._waiting or self._sent:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _end(self, _owner: asyncio.Task[None]) -> None:
        self._is_open = False
        abort(self._connection)
        if self._timer is not None:
            self._timer.cancel()
        for call in self._waiting:
            call.fail(unavailable(self._error))
        for call in self._sent:
            call.fail(unknown(self._error))
        self._waiting.clear()
        self._sent.clear()
        self._on_end(self)
