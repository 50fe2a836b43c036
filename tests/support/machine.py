"""Measures the speed and load of this machine, so that no test result depends on them.

A deadline in a test is the time that something may take on an idle reference machine. It is
extended by two measurements of the same run:

* the speed of the processor, in CPU time, against the reference (1 there, 2 on a machine half as
  fast, never less than 1);
* the delays with which a sleeping thread of this process woke up: servers on the same processors
  are delayed as well;
* the time for which the processes that this one has started, such as servers, were ready to run
  but had no processor. A server may share its processor with a busy loop while the test has one to
  itself.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

REFERENCE_SECONDS = 0.004
"""CPU time of `_work` on the reference machine: an AMD EPYC of 2024 with Python 3.11."""
TICK_SECONDS = 0.02
KEPT_TICKS = 30_000
"""Ten minutes of ticks; no deadline is longer."""
WAITS_EVERY_TICKS = 5
LONGEST = 10
"""No deadline becomes longer than this many times its seconds, and as many seconds more: where each
process waits all the time, what is stuck would never be noticed."""
PROCESSES = 3
"""Test, server and Redis wait for each other, so each delay counts three times."""


def _work() -> float:
    began = time.thread_time()
    found: dict[int, str] = {}
    for number in range(50_000):
        found[number & 255] = str(number)
    return time.thread_time() - began


SLOWNESS = max(1.0, min(_work() for _ in range(5)) / REFERENCE_SECONDS)


def _descendants(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started, and those that these have started."""
    with suppress(OSError):  # it has ended, or this is not Linux
        for thread in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii")
            for child in map(int, children.split()):
                yield child
                yield from _descendants(child)


def _seconds_ready(pid: int) -> float:
    """Return for how long the main thread of a process has been ready to run but did not run."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()
        return int(fields[1]) / 1e9  # Documentation/scheduler/sched-stats.rst
    return 0.0


class _Waits:
    """The time that the started processes spend waiting for a processor."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}
        self._looked_at = time.monotonic()

    def since_last_look(self) -> float:
        """Return the sum of their waits, at most the time that has passed."""
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        found = {pid: _seconds_ready(pid) for pid in _descendants(os.getpid())}
        waited = sum(max(0.0, found[pid] - self._known.get(pid, 0.0)) for pid in found)
        self._known = found
        return min(waited, passed)


class _Sleeper:
    """A thread that sleeps, and records how late it wakes up, and how late others do."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=KEPT_TICKS)
        self._waits = _Waits()
        self._waited: deque[tuple[float, float]] = deque(maxlen=KEPT_TICKS)
        self._asleep_since = time.monotonic()
        threading.Thread(target=self._run, name="machine", daemon=True).start()

    def _run(self) -> None:
        ticks = 0
        while True:
            ticks += 1
            if ticks % WAITS_EVERY_TICKS == 0 and (waited := self._waits.since_last_look()):
                self._waited.append((time.monotonic(), waited))
            self._asleep_since = began = time.monotonic()
            time.sleep(TICK_SECONDS)
            now = time.monotonic()
            if (late := now - began - TICK_SECONDS) > TICK_SECONDS / 10:
                self._late.append((now, late))

    def late_since(self, began: float) -> float:
        """Return the sum of its delays since ``began``, in seconds."""
        late = max(0.0, time.monotonic() - self._asleep_since - TICK_SECONDS)
        return late + _sum_since(self._late, began)

    def others_waited_since(self, began: float) -> float:
        """Return the sum of the waits of started processes since ``began``, in seconds."""
        return _sum_since(self._waited, began)


def _sum_since(noted: deque[tuple[float, float]], began: float) -> float:
    total = 0.0
    for at, seconds in reversed(noted.copy()):
        if at < began:
            break
        total += seconds
    return total


_sleeper = _Sleeper()


def allowed(seconds: float, since: float) -> float:
    """Return the time allowed for something that began at ``since`` (`time.monotonic`)."""
    delays = PROCESSES * _sleeper.late_since(since) + _sleeper.others_waited_since(since)
    return min(seconds * SLOWNESS + delays, LONGEST * seconds + LONGEST)


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
