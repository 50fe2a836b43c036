"""Pings connections, and closes those that do not answer or never send a connect command.

All connections of a node share one timer. Each is in the bucket of the second in which it
connected, which spreads the pings of ten thousand connections over the whole interval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from realtime.core.codes import NO_PONG, STALE

if TYPE_CHECKING:
    from realtime.connection.writer import Writer

TICK_SECONDS = 1.0


class Heartbeat:
    """The timer of a hub, which starts and stops it."""

    def __init__(
        self,
        ping_seconds: int,
        connect_seconds: float,
        *,
        on_stale: Callable[[], None],
        on_tick: Callable[[], None],
    ) -> None:
        """Create a timer that is not started yet.

        Args:
            ping_seconds: The interval between pings of a connection.
            connect_seconds: The time that a connection has for its connect command.
            on_stale: Called when a connection exceeds that time.
            on_tick: Called every second, after the connections were checked.
        """
        self._connect_seconds = connect_seconds
        self._on_stale = on_stale
        self._loop = asyncio.get_running_loop()
        self._buckets: list[dict[Writer, None]] = [{} for _ in range(ping_seconds)]
        self._now_at = 0
        self._newcomers: dict[Writer, float] = {}
        self._watched: dict[Writer, None] = {}
        self._on_tick = on_tick
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.late_seconds = 0.0
        """How late the last tick was: other work kept the event loop busy."""
        self._was_late = False

    def start(self) -> None:
        """Start the timer."""
        self._await_tick(self._loop.time())

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expect(self, writer: Writer) -> None:
        """Start the deadline for the connect command of an accepted connection."""
        self._newcomers[writer] = self._loop.time() + self._connect_seconds

    def welcome(self, writer: Writer) -> int:
        """Start pinging a client that sent its connect command; return its bucket for `forget`."""
        self._newcomers.pop(writer, None)
        self._buckets[self._now_at][writer] = None
        return self._now_at

    def watch(self, writer: Writer) -> None:
        """Check every second whether a connection that owes an answer is overdue."""
        self._watched[writer] = None

    @property
    def watched(self) -> Collection[Writer]:
        """The connections that owe an answer, and some that have just given it."""
        return self._watched.keys()

    def forget(self, writer: Writer, bucket: int | None) -> None:
        """Remove a connection that has ended."""
        self._newcomers.pop(writer, None)
        self._watched.pop(writer, None)
        if bucket is not None:
            self._buckets[bucket].pop(writer, None)

    def _await_tick(self, now: float) -> None:
        self._due = now + TICK_SECONDS
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        self.late_seconds = max(0.0, now - self._due)
        overslept = self._has_overslept(now)
        self._await_tick(now)
        if not overslept:
            self._end_stale(now)
            self._end_overdue(now)
        self._now_at = (self._now_at + 1) % len(self._buckets)
        for writer in list(self._buckets[self._now_at]):
            if not writer.is_owed_an_answer:
                writer.ping()
        self._on_tick()

    def _has_overslept(self, now: float) -> bool:
        """Tell whether this process was paused, so that the sockets may contain unread answers.

        They are read before the next tick, which is processed even if it is late again.
        """
        self._was_late = not self._was_late and now > self._due + TICK_SECONDS
        return self._was_late

    def _end_stale(self, now: float) -> None:
        for writer, deadline in list(self._newcomers.items()):
            if now < deadline:
                return  # in the order of their arrival
            writer.end(STALE)
            self._on_stale()

    def _end_overdue(self, now: float) -> None:
        for writer in list(self._watched):
            if not writer.is_owed_an_answer:
                del self._watched[writer]
            elif writer.is_overdue(now):
                writer.end(NO_PONG)
