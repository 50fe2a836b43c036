"""Pings connections, and ends those that do not answer or never introduced themselves.

One timer for all connections of a node: each stands in the bucket of the second in which it came,
so that the pings of ten thousand are spread over the whole interval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realtime.codes import NO_PONG, STALE
from realtime.driver import Driver

TICK_SECONDS = 1.0


class Heartbeat:
    """The timer of a hub. Started and stopped by it."""

    def __init__(
        self,
        ping_seconds: int,
        connect_seconds: float,
        *,
        on_stale: Callable[[], None],
        on_tick: Callable[[], None],
    ) -> None:
        """Stand still until `start`.

        Args:
            ping_seconds: How often a connection is pinged.
            connect_seconds: What a connection has to introduce itself.
            on_stale: Called when one did not.
            on_tick: Called each second, after the connections were looked at.
        """
        self._connect_seconds = connect_seconds
        self._on_stale = on_stale
        self._loop = asyncio.get_running_loop()
        self._buckets: list[dict[Driver, None]] = [{} for _ in range(ping_seconds)]
        self._now_at = 0
        self._newcomers: dict[Driver, float] = {}
        self._watched: dict[Driver, None] = {}
        self._on_tick = on_tick
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._was_late = False

    def start(self) -> None:
        """Begin to tick."""
        self._await_tick(self._loop.time())

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expect(self, driver: Driver) -> None:
        """A connection was accepted: it must introduce itself soon."""
        self._newcomers[driver] = self._loop.time() + self._connect_seconds

    def welcome(self, driver: Driver) -> int:
        """A connection introduced itself: ping it from now on; returns what `forget` needs."""
        self._newcomers.pop(driver, None)
        self._buckets[self._now_at][driver] = None
        return self._now_at

    def watch(self, driver: Driver) -> None:
        """A connection owes an answer."""
        self._watched[driver] = None

    def forget(self, driver: Driver, bucket: int | None) -> None:
        """A connection has ended."""
        self._newcomers.pop(driver, None)
        self._watched.pop(driver, None)
        if bucket is not None:
            self._buckets[bucket].pop(driver, None)

    def _await_tick(self, now: float) -> None:
        self._due = now + TICK_SECONDS
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        overslept = self._overslept(now)
        self._await_tick(now)
        if not overslept:
            self._end_stale(now)
            self._end_overdue(now)
        self._now_at = (self._now_at + 1) % len(self._buckets)
        for driver in list(self._buckets[self._now_at]):
            if not driver.is_owed_an_answer:
                driver.ping()
        self._on_tick()

    def _overslept(self, now: float) -> bool:
        """Tell whether this process was stopped: then the answers may lie in the sockets, unread.

        They are read until the next tick, which is believed even if it is late again.
        """
        self._was_late = not self._was_late and now > self._due + TICK_SECONDS
        return self._was_late

    def _end_stale(self, now: float) -> None:
        for driver, deadline in list(self._newcomers.items()):
            if now < deadline:
                return  # they stand in the order in which they came
            driver.end(STALE)
            self._on_stale()

    def _end_overdue(self, now: float) -> None:
        for driver in list(self._watched):
            if not driver.is_owed_an_answer:
                del self._watched[driver]
            elif driver.is_overdue(now):
                driver.end(NO_PONG)
