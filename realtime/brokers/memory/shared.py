"""One store for all threads and event loops of a process.

A lock makes each step atomic. Waiting readers are woken after the lock is released, in their own
event loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from realtime.brokers.memory.exchange import SubscriberMailbox
from realtime.brokers.memory.store import MemoryStore, StoreLimits

Result = TypeVar("Result")


class TakeStep(Protocol):
    """Takes a step on a store, as `SharedStore.do`."""

    def __call__(self, step: Callable[[MemoryStore, float], Result], /) -> Result:
        """Take the step; return its result."""


class _Waker(NamedTuple):
    loop: asyncio.AbstractEventLoop
    wake: Callable[[], object]

    def call(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self.loop.call_soon_threadsafe(self.wake)


class SharedStore:
    """See the module."""

    def __init__(self, limits: StoreLimits | None = None) -> None:
        """Start with an empty store."""
        self._store = MemoryStore(random_text(), limits)
        self._lock = threading.Lock()
        self._readers: dict[SubscriberMailbox, _Waker] = {}
        self._takers: list[_Waker] = []
        # Seconds since 1970 for people, which do not go back with the clock of the machine.
        self._zero = time.time() - time.monotonic()

    def do(self, step: Callable[[MemoryStore, float], Result]) -> Result:
        """Take one step under the lock; it gets the store and the time, and must not block.

        Raises whatever the step raises.
        """
        woken: list[_Waker] = []
        try:
            with self._lock:
                self._drop_ended_loops()
                try:
                    return step(self._store, self._zero + time.monotonic())
                finally:
                    woken = self._take_woken()
        finally:
            for waker in woken:
                waker.call()

    def open(self, wake: Callable[[], object]) -> SubscriberMailbox:
        """Return a mailbox that is read in the running event loop, whose reader ``wake`` wakes."""
        box = SubscriberMailbox()
        with self._lock:
            self._readers[box] = _Waker(asyncio.get_running_loop(), wake)
        return box

    def close(self, box: SubscriberMailbox) -> None:
        """Close a mailbox."""
        self.do(lambda store, now: store.exchange.close(box))
        with self._lock:
            self._readers.pop(box, None)

    def take_entry(self, hand: str, wake: Callable[[], object]) -> bytes | None:
        """Move the next queued entry into a hand; if there is none, ``wake`` announces one."""

        def step(store: MemoryStore, now: float) -> bytes | None:
            raw = store.queue.take(hand)
            if raw is None:
                self._takers.append(_Waker(asyncio.get_running_loop(), wake))
            return raw

        return self.do(step)

    def stop_waiting(self, wake: Callable[[], object]) -> None:
        """Stop calling ``wake``."""
        with self._lock:
            self._takers = [taker for taker in self._takers if taker.wake != wake]

    def _take_woken(self) -> list[_Waker]:
        boxes = self._store.exchange.take_woken()
        woken = [self._readers[box] for box in boxes if box in self._readers]
        if self._takers and self._store.queue.has_waiting:
            woken += self._takers
            self._takers = []
        return woken

    def _drop_ended_loops(self) -> None:
        """Close the mailboxes of event loops that ended without closing them.

        Nobody reads them, so they must not count as subscribers.
        """
        for box in [box for box, waker in self._readers.items() if waker.loop.is_closed()]:
            self._store.exchange.close(box)
            del self._readers[box]


def random_text() -> str:
    """Return sixteen random hex digits."""
    return secrets.token_hex(8)
