"""Names the channels whose publications many clients cannot keep up with.

One slow client is its own problem. If many fall behind on one channel in the same second, too much
is published there. No clock: time is an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from realtime.core.tally import LOG_EVERY_SECONDS

CONNECTIONS_LEAST = 10
"""Connections that must fall behind within a second."""
CHANNELS_NAMED = 10
"""Channels that are named for one second, those with the most connections."""
BEHIND_PART = 16
"""A connection is behind while one 16th of its outbox waits: 64 KiB of 1 MiB. Less than that may
wait for a moment at a server that suspends each write."""


class CongestedChannel(NamedTuple):
    """A channel to name in the log."""

    channel: str
    connections: int
    """How many fell behind within the last second."""
    total: int
    """How many in all such seconds since the first one; a quiet minute starts a new count."""


class _Named(NamedTuple):
    total: int
    log_at: float
    last: float
    """When it was congested last."""


class CongestedChannels:
    """Counts the connections that fall behind, by channel."""

    def __init__(self) -> None:
        self._behind: frozenset[Hashable] = frozenset()
        self._named: dict[str, _Named] = {}

    def observe(self, behind: Mapping[Hashable, str], now: float) -> list[CongestedChannel]:
        """Return the channels to name, each at most once a minute; call it every second.

        Args:
            behind: The connections that are behind now, with the channel of what has waited
                longest; it is empty for replies.
            now: The time.
        """
        if not behind and not self._named:
            self._behind = frozenset()
            return []
        new = behind.keys() - self._behind
        counts = Counter(behind[each] for each in new if behind[each])
        self._behind = frozenset(behind)
        self._forget_quiet(now)
        news = []
        for channel, count in counts.most_common(CHANNELS_NAMED):
            if count < CONNECTIONS_LEAST:
                break
            total, log_at, _ = self._named.get(channel, _Named(0, now, now))
            total += count
            if now >= log_at:
                news.append(CongestedChannel(channel, count, total))
                log_at = now + LOG_EVERY_SECONDS
            self._named[channel] = _Named(total, log_at, now)
        return news

    def _forget_quiet(self, now: float) -> None:
        quiet = now - LOG_EVERY_SECONDS
        self._named = {name: each for name, each in self._named.items() if each.last > quiet}
