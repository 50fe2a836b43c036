"""Measures the speed and load of this machine, so that no test result depends on them.

A deadline in a test is the time that something may take on an idle reference machine. It is
extended by two measurements of the same run:

* the speed of the processor, in CPU time, against the reference (1 there, 2 on a machine half as
  fast, never less than 1);
* the delays with which a sleeping thread of this process woke up: servers on the same processors
  are delayed as well.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

REFERENCE_SECONDS = 0.004
"""CPU time of `_work` on the reference machine: an AMD EPYC of 2024 with Python 3.11."""
TICK_SECONDS = 0.02
KEPT_TICKS = 30_000
"""Ten minutes of ticks; no deadline is longer."""
PROCESSES = 3
"""Test, server and Redis wait for each other, so each delay counts three times."""


def _work() -> float:
    began = time.thread_time()
    found: dict[int, str] = {}
    for number in range(50_000):
        found[number & 255] = str(number)
    return time.thread_time() - began


SLOWNESS = max(1.0, min(_work() for _ in range(5)) / REFERENCE_SECONDS)


class _Sleeper:
    """A thread that sleeps, and records how late it wakes up."""

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
        """Return the sum of its delays since ``began``, in seconds."""
        late = max(0.0, time.monotonic() - self._asleep_since - TICK_SECONDS)
        for at, seconds in reversed(self._late.copy()):
            if at < began:
                break
            late += seconds
        return late


_sleeper = _Sleeper()


def allowed(seconds: float, since: float) -> float:
    """Return the time allowed for something that began at ``since`` (`time.monotonic`)."""
    return seconds * SLOWNESS + PROCESSES * _sleeper.late_since(since)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, with a deadline that is extended while the machine is busy."""
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
