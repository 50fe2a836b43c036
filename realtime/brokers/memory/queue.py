"""The fallback queue inside the process, for workers and operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from realtime.brokers.fallback_queue import AttemptResult, Durability, TendResult
from realtime.brokers.memory.steps import stats_of

if TYPE_CHECKING:
    from realtime.brokers import Stats
    from realtime.brokers.memory.shared import SharedStore
    from realtime.brokers.memory.store import MemoryStore

PAGE_ENTRIES = 100


class MemoryQueue:
    """A `realtime.brokers.fallback_queue.FallbackQueue`. Bound to one event loop."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared

    def hand(self, name: str) -> MemoryHand:
        """Return a hand."""
        return MemoryHand(name, self._shared)

    async def renew_leases(self, hands: Sequence[str], seconds: float) -> None:
        """Extend the leases of hands."""
        self._shared.do(
            lambda store, now: store.queue.renew_leases(hands, int((now + seconds) * 1000))
        )

    async def release(self, hands: Sequence[str]) -> int:
        """Requeue the entries in hands, and end the leases; return the number of entries."""
        return self._shared.do(lambda store, now: store.queue.release(hands, int(now * 1000)))

    async def tend(self, attempts: int, reason: str) -> TendResult:
        """Requeue entries that are due, and entries in hands whose leases have expired."""
        return self._shared.do(
            lambda store, now: TendResult(*store.queue.tend(int(now * 1000), attempts, reason))
        )

    async def stats(self) -> Stats:
        """Return the state of the queue."""
        return self._shared.do(stats_of)

    async def entries(self, place: str) -> AsyncIterator[bytes]:
        """Yield the entries at ``waiting``, ``later`` or ``dead``."""
        start = 0
        while page := self._page(place, start):
            for raw in page:
                yield raw
            start += PAGE_ENTRIES

    def _page(self, place: str, start: int) -> list[bytes]:
        return self._shared.do(lambda store, now: store.queue.page(place, start, PAGE_ENTRIES))

    async def move(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """Requeue an entry as ``written``, or delete it without one; return whether it existed."""
        return self._shared.do(lambda store, now: store.queue.move(place, raw, written))

    async def durability(self) -> Durability:
        """Return that nothing survives the process; this needs no warning."""
        return Durability(aof=True, fsync="", eviction="", restores=False)

    async def aclose(self) -> None:
        """Do nothing: the queue belongs to the process."""


class MemoryHand:
    """A `realtime.brokers.fallback_queue.QueueHand`."""

    def __init__(self, name: str, shared: SharedStore) -> None:
        self.name = name
        """The name of the hand."""
        self._shared = shared
        self._arrived = asyncio.Event()

    async def take(self, seconds: float) -> bytes | None:
        """Take the next entry, or wait for one; None if none comes within ``seconds``."""
        wake = self._arrived.set
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._arrived.clear()
                    raw = self._shared.take_entry(self.name, wake)
                    if raw is not None:
                        return raw
                    await self._arrived.wait()
        except TimeoutError:
            return None
        finally:
            self._shared.stop_waiting(wake)

    async def peek(self) -> bytes | None:
        """Return the first entry in the hand, if there is one."""
        return self._shared.do(lambda store, now: store.queue.peek(self.name))

    async def acknowledge(self, raw: bytes) -> AttemptResult:
        """Remove a handled entry from the hand."""
        return self._end_attempt(raw, "handled")

    async def retry(self, raw: bytes, written: bytes, seconds: float) -> AttemptResult:
        """Schedule a retry of an entry, stored as ``written``."""
        return self._end_attempt(raw, "retried", written, seconds)

    async def bury(self, raw: bytes, written: bytes) -> AttemptResult:
        """Move an entry to the dead ones, stored as ``written``."""
        return self._end_attempt(raw, "dead", written)

    async def aclose(self) -> None:
        """Do nothing: a hand has no connection here."""

    def _end_attempt(
        self, raw: bytes, outcome: str, written: bytes = b"", seconds: float = 0.0
    ) -> AttemptResult:
        def step(store: MemoryStore, now: float) -> AttemptResult:
            due = int((now + seconds) * 1000)
            return AttemptResult(*store.queue.end_attempt(self.name, raw, outcome, written, due))

        return self._shared.do(step)
