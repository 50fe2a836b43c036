"""The broker's steps that event loops and threads have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realtime.brokers import Stats
from realtime.brokers.memory.entry_queue import EntryQueueLimits
from realtime.brokers.memory.shared import SharedStore, random_text
from realtime.core.fallback_entry import decode_entry
from realtime.errors import EnvelopeError, RealtimeError

if TYPE_CHECKING:
    from realtime.brokers.memory.store import MemoryStore
    from realtime.core.publication import Publication, Receipt


class PublishingSteps:
    """The steps of one broker on a shared store."""

    def __init__(self, shared: SharedStore, queue_items: int, queue_bytes: int) -> None:
        self._shared = shared
        self._limits = EntryQueueLimits(queue_items, queue_bytes)

    def publish(self, publications: Sequence[Publication]) -> list[Receipt | RealtimeError]:
        """Publish all in one step; return a receipt or an error for each."""

        def step(store: MemoryStore, now: float) -> list[Receipt | RealtimeError]:
            return [store.publish(each, now, random_text(), self._limits) for each in publications]

        return self._shared.do(step)

    def publish_one(self, publication: Publication) -> Receipt:
        """Publish one, or raise the error that prevented it."""
        [answer] = self.publish([publication])
        if isinstance(answer, RealtimeError):
            raise answer
        return answer


def stats_of(store: MemoryStore, now: float) -> Stats:
    """Return the state of the fallback queue."""
    waiting, in_hand, later, dead, hands, following, size = store.queue.state(int(now * 1000))
    counts = store.queue.counts
    return Stats(
        *(waiting, in_hand, later, dead, hands),
        oldest_seconds=0.0 if following is None else _age(following, now),
        handled=counts["handled"],
        retried=counts["retried"],
        taken_over=counts["taken_over"],
        given_up=counts["dead"],
        bytes=size,
    )


def _age(raw: bytes, now: float) -> float:
    try:
        return max(0.0, now - decode_entry(raw).published_at)
    except EnvelopeError:  # the worker reports the error
        return float("inf")
