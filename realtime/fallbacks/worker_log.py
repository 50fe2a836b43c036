"""What the fallback worker logs: each change of state once, and floods as counts.

The text and the names in an entry may come from anyone who can write to Redis.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Container
from typing import TYPE_CHECKING, NamedTuple

from realtime.core.outage import Outage
from realtime.core.tally import Tally

if TYPE_CHECKING:
    from realtime.brokers import Stats
    from realtime.brokers.fallback_queue import Durability
    from realtime.core.fallback_entry import Entry
    from realtime.errors import BrokerError

logger = logging.getLogger("realtime.fallbacks.worker")


class Failure(NamedTuple):
    """Why an attempt failed."""

    reason: str
    is_final: bool = False
    """Whether another attempt would be pointless."""
    error: BaseException | None = None
    options: bytes | None = None
    """The options for the remaining work, as JSON, if part of it is done."""


class WorkerLog:
    """The log of one worker."""

    def __init__(self, handlers: Container[str]) -> None:
        """Log nothing yet.

        Args:
            handlers: The names of the fallbacks that have a handler; they may change.
        """
        self._handlers = handlers
        self._redis = Outage()
        self._failing: dict[str, Outage] = {}
        self._dead, self._slow = Tally(), Tally()
        self._reported: Stats | None = None

    def warn_of_losses(self, durability: Durability) -> None:
        """Log how this Redis can lose queued entries, if it can."""
        if not durability.aof:
            logger.warning(
                "Redis has no append-only file: if it stops, the queue is lost (%s); "
                "set appendonly yes",
                "except for its last snapshot" if durability.restores else "all of it",
            )
        elif durability.fsync == "no":
            logger.warning(
                "Redis does not sync its append-only file (appendfsync no): if the machine "
                "crashes, entries are lost; set appendfsync everysec"
            )
        if durability.eviction not in ("", "noeviction"):
            logger.warning(
                "Redis may evict queued entries when its memory is full (maxmemory-policy %s): "
                "set noeviction",
                durability.eviction,
            )

    def report(self, stats: Stats) -> None:
        """Log the state of the queue, if it has changed and the queue is not empty."""
        if stats != self._reported and any((stats.waiting, stats.later, stats.dead, stats.in_hand)):
            logger.info(
                "fallback queue: %d waiting (oldest %.0f s), %d in hand, %d later, %d dead; "
                "in total %d handled, %d retried, %d taken over, %d given up",
                *(stats.waiting, stats.oldest_seconds, stats.in_hand, stats.later, stats.dead),
                *(stats.handled, stats.retried, stats.taken_over, stats.given_up),
                extra=stats._asdict(),
            )
        self._reported = stats

    def note_failure(self, entry: Entry, failure: Failure, seconds: float) -> None:
        """Log that an attempt failed and when the next one starts."""
        name = self._name_of(entry.fallback)
        outage = self._failing.setdefault(name, Outage())
        is_news = outage.note_failure(time.monotonic())
        level = logging.WARNING if is_news else logging.DEBUG
        logger.log(
            level,
            "the fallback %s failed: %s; retrying in %.0f s",
            *(name, failure.reason, seconds),
            exc_info=failure.error if is_news else None,
            extra={"id": entry.id, "attempt": entry.failures + 1},
        )

    def note_success(self, entry: Entry) -> None:
        """Log that a fallback works again, if it was failing."""
        outage = self._failing.get(self._name_of(entry.fallback))
        if outage is not None and (over := outage.note_success(time.monotonic())) is not None:
            logger.info(
                "the fallback %s works again after %d failed attempts within %.0f s",
                *(entry.fallback, over.failures, over.seconds),
            )

    def note_slow(self, entry: Entry, seconds: float) -> None:
        """Log that an attempt took long; most of a flood is only counted."""
        name = self._name_of(entry.fallback)
        if (count := self._slow.add(name, time.monotonic())) is not None:
            logger.warning(
                "the fallback %s is slow: an attempt took %.1f s (%d slow ones so far)",
                *(name, seconds, count),
                extra={"id": entry.id, "slow_attempts": count},
            )

    def note_dead(self, fallback: str, what: str) -> None:
        """Log that an entry is dead; most of a flood is only counted."""
        name = self._name_of(fallback)
        count = self._dead.add(name, time.monotonic())
        if count is not None:
            logger.error(
                "gave up on %s (fallback %s, %d so far): see manage.py fallback list",
                *(what, name, count),
            )

    def note_redis_failure(self, error: BrokerError) -> None:
        """Log that Redis is unreachable, once until it answers again."""
        if self._redis.note_failure(time.monotonic()):
            logger.warning("cannot read the fallback queue: %s", error)

    def note_redis_success(self) -> None:
        """Log that Redis answers again, if it was unreachable."""
        if (over := self._redis.note_success(time.monotonic())) is not None:
            logger.info("reading the fallback queue works again after %.1f s", over.seconds)

    def _name_of(self, fallback: str) -> str:
        """Return the name of a handler, or one word for all other names: outsiders choose those."""
        return fallback if fallback in self._handlers else "(unknown)"
