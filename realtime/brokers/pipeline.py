"""One multiplexed connection to Redis: it sends the calls of many, and gives each its replies.

All commands of one turn of the event loop are sent in one write, unless commands came alone before.
All replies that have arrived are read at once. One connection for each command made a publish take
1.8 times as long (ADR-0015).

Each call has its own deadline. A call that misses its deadline keeps its place in the order of
replies, so that later calls still get the right replies; its connection accepts no new calls after
that.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.bounds import DEADLINE_CHECK_SECONDS, UNSENT_BYTES, WRITE_BYTES
from realtime.brokers.calls import Combine, PendingReplies, RedisCall, pack_calls
from realtime.brokers.commands import NEW_CONNECTION_SECONDS, unavailable, unknown
from realtime.brokers.connector import RedisProtocol, abort

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

    from realtime.brokers.script import Args
    from realtime.core.publication import Publication


class Pipeline(RedisProtocol):
    """One multiplexed connection. Takes over a ready one; the creator must call `aclose`."""

    def __init__(self, connection: Connection, on_end: Callable[[Pipeline], None]) -> None:
        """Take over the transport of a connection.

        Args:
            connection: A connection of a `Connector`, without pending replies.
            on_end: Called once, when the connection has ended.
        """
        super().__init__(connection)
        self._on_end = on_end
        self._opened_at = self._loop.time()
        self._waiting: deque[RedisCall] = deque()
        self._waiting_bytes = 0
        self._sent: deque[PendingReplies] = deque()
        self._flush: asyncio.Handle | None = None
        self._was_alone = True
        """Whether the last write had one call. Then the next one probably need not wait for others,
        which saves a turn of the event loop."""
        self._timer: asyncio.Handle | None = None
        self._is_open = True
        self._error: Exception = exceptions.ConnectionError("closed")
        # A loop that ends cancels this task, so that the connection ends with it.
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

    @property
    def connection(self) -> Connection:
        """The connection that it has taken over."""
        return self._connection

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
        if self._flush is None and not self._is_full:
            if self._was_alone and not self._sent:
                self._write()
            else:
                self._flush = self._loop.call_soon(self._write)
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

    async def _own(self) -> None:
        self._error = await self._lost

    def resume_writing(self) -> None:
        """Write what has waited."""
        super().resume_writing()
        self._write()

    # --------------------------------------------------------------------- the calls

    def _write(self) -> None:
        self._flush = None
        if not self._sent and has_input(self._transport):
            # Let the loop read first: the connection may have been closed while idle, and writing
            # to a closed socket would make the outcome unknown for no reason.
            self._flush = self._loop.call_soon(self._write)
            return
        while self._waiting and not self._is_full:
            if self._has_ended:  # waiting calls are certainly not done
                self._fail(exceptions.ConnectionError("Redis closed the connection"))
                return
            self._transport.write(self._next_to_write())

    def _next_to_write(self) -> bytes:
        calls: list[RedisCall] = []
        size = 0
        while self._waiting and size < WRITE_BYTES:
            call = self._waiting.popleft()
            self._waiting_bytes -= call.size
            if not call.is_done:
                calls.append(call)
                size += call.size
        self._was_alone = len(calls) == 1
        packed, sent = pack_calls(calls)
        self._sent += sent
        return packed

    def _take(self, reply: Any) -> None:
        """Give a reply to its call."""
        if not self._sent:
            raise exceptions.ConnectionError("Redis sent an unexpected reply")
        first = self._sent[0]
        first.replies.append(reply)
        if len(first.replies) == first.count:
            first.answer()
            self._sent.popleft()

    def _check_deadlines_soon(self) -> None:
        """Check the deadlines, but only after reading arrived replies: the loop may have been late.

        The loop handles readable sockets before due timers, so replies are read before
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
        for handle in (self._timer, self._flush):
            if handle is not None:
                handle.cancel()
        for call in self._waiting:
            call.fail(unavailable, self._error)
        for sent in self._sent:
            sent.fail(unknown, self._error)
        self._waiting.clear()
        self._sent.clear()
        self._on_end(self)


def has_input(transport: asyncio.BaseTransport) -> bool:
    """Return whether the socket of a transport has something to read, such as its end."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])  # Windows, where any number is possible
