"""How fast this machine is, and how busy: no verdict may depend on either.

A deadline in a test says how long something may take on a reference machine that does nothing else.
It is lengthened by what was measured in the same run:

* the speed of the processor, in processor time, against the reference (1 there, 2 on a machine half
  as fast, never less than 1);
* how much too late a thread of this process woke that only sleeps. What it waited for, the servers
  on the same processors waited for, too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

REFERENCE_SECONDS = 0.004
"""What `_work` takes on the reference machine: an AMD EPYC of 2024 with Python 3.11."""
TICK_SECONDS = 0.02
KEPT_TICKS = 30_000
"""Ten minutes of them; no deadline is longer."""
PROCESSES = 3
"""Test, server and Redis wait for each other, so what one waited for counts three times."""


def _work() -> float:
    began = time.thread_time()
    found: dict[int, str] = {}
    for number in range(50_000):
        found[number & 255] = str(number)
    return time.thread_time() - began


SLOWNESS = max(1.0, min(_work() for _ in range(5)) / REFERENCE_SECONDS)


class _Sleeper:
    """A thread that notes how late it wakes."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=KEPT_TICKS)
        self._asleep_since = time.monotonic()
        threading.Thread(target=self._run, name="machine", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._asleep_since = began = time.monotonic()
            time.sleep(TICK_SECONDS)
            now = time.monotonic()
            if (late := now - began - TICK_SECONDS) > TICK_SECONDS / 10:
                self._late.append((now, late))

    def late_since(self, began: float) -> float:
        """Return by how many seconds in all it woke too late since then."""
        late = max(0.0, time.monotonic() - self._asleep_since - TICK_SECONDS)
        for at, seconds in reversed(self._late.copy()):
            if at < began:
                break
            late += seconds
        return late


_sleeper = _Sleeper()


def allowed(seconds: float, since: float) -> float:
    """Return how long something that began then (`time.monotonic`) may take."""
    return seconds * SLOWNESS + PROCESSES * _sleeper.late_since(since)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, with a deadline that is lengthened while the machine is busy."""
    loop, began = asyncio.get_running_loop(), time.monotonic()

    def look() -> None:
        nonlocal handle
        left = allowed(seconds, began) - (time.monotonic() - began)
        if left <= 0:
            timeout.reschedule(loop.time())
        else:
            handle = loop.call_later(left, look)

    async with asyncio.timeout(None) as timeout:
        handle = loop.call_later(allowed(seconds, began), look)
        try:
            yield
        finally:
            handle.cancel()
