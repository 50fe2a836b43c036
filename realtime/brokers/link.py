"""The link of one event loop to Redis: one multiplexed connection, replaced when it breaks.

A command has three outcomes, which depend on the *stage* at which it fails (ADR-0007). Before it is
written, it is certainly not executed. After its first byte, only a reply tells whether it was.

All commands of one turn of the event loop are sent in one write, and all replies that have arrived
are read at once. One connection for each command made a publish take 1.8 times as long (ADR-0015).

Each call has its own deadline. A call that misses its deadline keeps its place in the order of
replies, so that later calls still get the right replies; its connection accepts no new calls after
that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from redis import exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import Connection, DefaultParser

from realtime.brokers.bounds import DEADLINE_CHECK_SECONDS, UNSENT_BYTES, WRITE_BYTES
from realtime.brokers.calls import Combine, PendingReplies, RedisCall, pack_calls
from realtime.brokers.commands import (
    NEW_CONNECTION_SECONDS,
    errors_of,
    is_of_no_master,
    lacks_script,
    unavailable,
    unknown,
)
from realtime.brokers.connector import Connector, abort, writer_of

if TYPE_CHECKING:
    from realtime.brokers.script import Args, Script
    from realtime.core.publication import Publication


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


class Pipeline:
    """One multiplexed connection. Takes over a ready one; the creator must call `aclose`."""

    def __init__(self, connection: Connection, on_end: Callable[[Pipeline], None]) -> None:
        """Start reading and writing.

        Args:
            connection: A connection that uses `Parser`.
            on_end: Called once, when the connection has ended.
        """
        self._connection = connection
        self._parser = parser_of(connection)
        self._writer = writer_of(connection)
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._opened_at = self._loop.time()
        self._waiting: deque[RedisCall] = deque()
        self._waiting_bytes = 0
        self._sent: deque[PendingReplies] = deque()
        self._to_write = asyncio.Event()
        self._timer: asyncio.Handle | None = None
        self._is_open = True
        self._error: Exception = exceptions.ConnectionError("closed")
        self._owner = self._loop.create_task(self._own(), name="realtime pipeline to Redis")
        # Not a ``finally`` in `_own`: a task cancelled before its first step never reaches it.
        self._owner.add_done_callback(self._end)

    @property
    def is_open(self) -> bool:
        """Whether the connection accepts new calls."""
        return self._is_open and not self._has_ended

    @property
    def is_fresh(self) -> bool:
        """Whether replacing the connection is useless, because it would reach the same Redis."""
        return self._loop.time() - self._opened_at < NEW_CONNECTION_SECONDS

    def send(self, commands: Sequence[Args], deadline: float) -> asyncio.Future[list[Any]]:
        """Send commands; the future has a reply or an error reply for each.

        Raises:
            BrokerUnavailable: Certainly not done. The future may raise it, too.
            OutcomeUnknown: Perhaps done; only raised by the future.
        """
        call = RedisCall.of_commands(commands, deadline, self._loop.create_future())
        if commands:
            self._enqueue(call)
        else:  # an empty call would consume the replies of other calls
            call.answer()
        return call.future

    def publish(
        self, publication: Publication, combine: Combine, deadline: float
    ) -> asyncio.Future[list[Any]]:
        """Like `send`, with one command for the publications that wait together."""
        future = self._loop.create_future()
        self._enqueue(RedisCall.of_publication(publication, combine, deadline, future))
        return future

    def _enqueue(self, call: RedisCall) -> None:
        if self._waiting_bytes + call.size > UNSENT_BYTES:
            raise unavailable(BufferError("too many bytes are waiting to be written"))
        self._waiting.append(call)
        self._waiting_bytes += call.size
        self._to_write.set()
        if self._timer is None:
            self._timer = self._loop.call_later(DEADLINE_CHECK_SECONDS, self._check_deadlines_soon)

    def retire(self) -> None:
        """Accept no new calls; close as soon as all pending calls are answered."""
        self._is_open = False
        if self._timer is None:
            self._timer = self._loop.call_soon(self._check_deadlines_soon)

    async def aclose(self) -> None:
        """Close the connection; unanswered calls fail."""
        self._owner.cancel()
        await asyncio.gather(self._owner, return_exceptions=True)

    @property
    def _has_ended(self) -> bool:
        """Whether the connection is known to be closed, so that further writes would be lost."""
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
                # Let the loop check the socket first: it may have been closed while idle, and
                # writing to a closed socket would make the outcome unknown for no reason.
                await asyncio.sleep(0)
            while self._waiting:
                if self._has_ended:  # waiting calls are certainly not done
                    raise exceptions.ConnectionError("Redis closed the connection")
                self._writer.write(self._next_to_write())
                await self._writer.drain()

    def _next_to_write(self) -> bytes:
        calls: list[RedisCall] = []
        size = 0
        while self._waiting and size < WRITE_BYTES:
            call = self._waiting.popleft()
            self._waiting_bytes -= call.size
            if not call.is_done:
                calls.append(call)
                size += call.size
        packed, sent = pack_calls(calls)
        self._sent += sent
        return packed

    async def _read(self) -> None:
        while True:
            for reply in await self._parser.replies():
                self._assign_reply(reply)

    def _assign_reply(self, reply: Any) -> None:
        if not self._sent:
            raise exceptions.ConnectionError("Redis sent an unexpected reply")
        first = self._sent[0]
        first.replies.append(reply)
        if len(first.replies) == first.count:
            first.answer()
            self._sent.popleft()

    def _check_deadlines_soon(self) -> None:
        """Check the deadlines, but only after reading arrived replies: the loop may have been late.

        The loop handles readable sockets before due timers, so the reader runs before
        `_fail_overdue`.
        """
        self._timer = self._loop.call_soon(self._fail_overdue)

    def _fail_overdue(self) -> None:
        """Fail calls that missed their deadline; after a missed reply, accept no new calls."""
        self._timer = None
        now = self._loop.time()
        for call in self._waiting:
            call.fail_overdue(now, unavailable)
        for sent in self._sent:
            if sent.fail_overdue(now, unknown):
                self._is_open = False
        if not self._is_open and all(each.is_done for each in (*self._waiting, *self._sent)):
            self._owner.cancel()
        elif self._waiting or self._sent:
            self._timer = self._loop.call_later(DEADLINE_CHECK_SECONDS, self._check_deadlines_soon)

    def _end(self, _owner: asyncio.Task[None]) -> None:
        self._is_open = False
        abort(self._connection)
        if self._timer is not None:
            self._timer.cancel()
        for call in self._waiting:
            call.fail(unavailable, self._error)
        for sent in self._sent:
            sent.fail(unknown, self._error)
        self._waiting.clear()
        self._sent.clear()
        self._on_end(self)


class Link:
    """The link to Redis. Bound to one event loop; create it inside that loop."""

    def __init__(self, url: str) -> None:
        """Connect lazily.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py parses it.
        """
        self._connector = Connector(url, Parser)
        self._pipeline: Pipeline | None = None
        self._pipelines: set[Pipeline] = set()  # those that missed a deadline may still get replies
        self._connecting = asyncio.Lock()

    async def run_script(
        self, script: Script, commands: Sequence[Args], seconds: float
    ) -> list[Any]:
        """Return a reply or an error reply for each command; load the script if Redis lacks it.

        Args:
            script: The script that every command calls.
            commands: The commands to execute.
            seconds: The timeout for all replies.

        Raises:
            BrokerUnavailable: Certainly not done.
            OutcomeUnknown: Perhaps done.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        replies = await self._execute_until(commands, deadline)
        if lacks_script(errors_of(replies)):
            # Every command calls the same script, so none was executed.
            replies = await self._execute_until([script.load, *commands], deadline)
            del replies[0]
        return replies

    async def publish(
        self, script: Script, publication: Publication, combine: Combine, seconds: float
    ) -> list[Any]:
        """Like `run_script` for one publication, which shares its command with those beside it."""
        deadline = asyncio.get_running_loop().time() + seconds
        pipeline = self._pipeline
        if pipeline is None or not pipeline.is_open:
            pipeline = await self._new_pipeline(deadline)
        replies = await pipeline.publish(publication, combine, deadline)
        if errors := errors_of(replies):
            self._look_for_master(pipeline, errors)
            if lacks_script(errors):
                commands = [script.load, combine(publication)]
                _, *replies = await self._execute_until(commands, deadline)
        return replies

    async def execute(self, commands: Sequence[Args], seconds: float) -> list[Any]:
        """Return a reply or an error reply for each command; otherwise as `run_script`."""
        return await self._execute_until(commands, asyncio.get_running_loop().time() + seconds)

    async def connect(self) -> Connection:
        """Return a separate connection, which the caller must close.

        Raises:
            RedisError: Connecting failed.
            OSError: Connecting failed.
        """
        return await self._connector.connect()

    def retire(self) -> None:
        """Make the next command reconnect: the name may resolve to another Redis by now."""
        if self._pipeline is not None:
            self._pipeline.retire()

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        self._connector.close()
        await asyncio.gather(*[each.aclose() for each in self._pipelines])

    async def _execute_until(self, commands: Sequence[Args], deadline: float) -> list[Any]:
        pipeline = self._pipeline
        if pipeline is None or not pipeline.is_open:
            pipeline = await self._new_pipeline(deadline)
        replies = await pipeline.send(commands, deadline)
        self._look_for_master(pipeline, errors_of(replies))
        return replies

    def _look_for_master(self, pipeline: Pipeline, errors: Sequence[Exception]) -> None:
        if is_of_no_master(errors) and not pipeline.is_fresh:
            pipeline.retire()  # the name may resolve to the new master by now

    async def _new_pipeline(self, deadline: float) -> Pipeline:
        """Connect once for all concurrent callers; each waits until its own deadline.

        Raises:
            BrokerUnavailable: The connection was not ready in time.
        """
        try:
            async with asyncio.timeout_at(deadline), self._connecting:
                if self._pipeline is None or not self._pipeline.is_open:
                    self._pipeline = Pipeline(
                        await self._connector.connect(), self._pipelines.discard
                    )
                    self._pipelines.add(self._pipeline)
                return self._pipeline
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
