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
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")

REFERENCE_SECONDS = 0.004
"""CPU time of `_work` on the reference machine: an AMD EPYC of 2024 with Python 3.11."""
TICK_SECONDS = 0.02
KEPT_TICKS = 30_000
"""Ten minutes of ticks; no deadline is longer."""
LOOK_EVERY_TICKS = 25
"""How often the waits of other processes are read; also when a deadline is computed."""
KEPT_LOOKS = 3_000
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


class _Processes:
    """All processes of the machine, and which of them this one has started.

    The parent of a process is only read when it is new. Ten times a second through the threads of
    each process, as before, took a tenth of a processor in each worker: Chromium has many.
    """

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def descendants(self) -> set[int]:
        """Return the processes that this one has started, and those that these have started."""
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._parents = {pid: self._parents.get(pid) or _parent_of(pid) for pid in there}
        children: dict[int, list[int]] = defaultdict(list)
        for pid, parent in self._parents.items():
            children[parent].append(pid)
        found: set[int] = set()
        waiting = children[os.getpid()]
        while waiting:
            pid = waiting.pop()
            if pid not in found:
                found.add(pid)
                waiting += children[pid]
        return found


def _parent_of(pid: int) -> int:
    with suppress(OSError):  # it has ended
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
        return int(fields[1])  # proc_pid_stat(5); the name before may contain anything
    return 0


def _seconds_ready(pid: int) -> float:
    """Return for how long the main thread of a process has been ready to run but did not run."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()
        return int(fields[1]) / 1e9  # Documentation/scheduler/sched-stats.rst
    return 0.0


class _Waits:
    """The time that the started processes spend waiting for a processor."""

    def __init__(self) -> None:
        self._processes = _Processes()
        self._known: dict[int, float] = {}
        self._looked_at = time.monotonic()
        self._noted: deque[tuple[float, float]] = deque(maxlen=KEPT_LOOKS)
        self._lock = threading.Lock()
        self._can_look = Path("/proc/self/schedstat").exists()  # as on Linux

    def look(self) -> None:
        """Note the sum of their waits since the last look, at most the time that has passed."""
        if not self._can_look:
            return
        with self._lock:
            now = time.monotonic()
            passed, self._looked_at = now - self._looked_at, now
            found = {pid: _seconds_ready(pid) for pid in self._processes.descendants()}
            waited = sum(max(0.0, found[pid] - self._known.get(pid, 0.0)) for pid in found)
            self._known = found
            if waited:
                self._noted.append((now, min(waited, passed)))

    def since(self, began: float) -> float:
        """Return the sum of their waits since ``began``, in seconds."""
        self.look()
        return _sum_since(self._noted, began)


class _Sleeper:
    """A thread that sleeps, and records how late it wakes up, and how late others do."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=KEPT_TICKS)
        self._waits = _Waits()
        self._asleep_since = time.monotonic()
        self._is_running = False

    def start(self) -> None:
        """Start measuring, where tests run; the process that distributes them needs no thread."""
        if not self._is_running:
            self._is_running = True
            self._asleep_since = time.monotonic()
            threading.Thread(target=self._run, name="machine", daemon=True).start()

    def _run(self) -> None:
        ticks = 0
        while True:
            ticks += 1
            if ticks % LOOK_EVERY_TICKS == 0:
                self._waits.look()
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
        return self._waits.since(began)


def _sum_since(noted: deque[tuple[float, float]], began: float) -> float:
    total = 0.0
    for at, seconds in reversed(noted.copy()):
        if at < began:
            break
        total += seconds
    return total


_sleeper = _Sleeper()


def measure() -> None:
    """Start measuring this machine, from now on."""
    _sleeper.start()


def allowed(seconds: float, since: float) -> float:
    """Return the time allowed for something that began at ``since`` (`time.monotonic`)."""
    delays = time_lost_since(since)
    return min(seconds * SLOWNESS + delays, LONGEST * seconds + LONGEST)


def time_lost_since(since: float) -> float:
    """Return for how many seconds test, server and Redis have waited for a processor."""
    measure()
    return PROCESSES * _sleeper.late_since(since) + _sleeper.others_waited_since(since)


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


async def in_time(awaitable: Awaitable[_Result], seconds: float) -> _Result:
    """Return the result of what must end within so many seconds of the reference machine."""
    async with within(seconds):
        return await awaitable
