"""Remembers which keys are over their rate, so that a flood is refused before it is read.

Each process keeps its own record. That is safe because the rate is shared: until the moment that
Redis named, no node can accept a publication of the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.api.keys import Key


class KeyDebts:
    """For each key, the time before which it cannot publish even once."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, float]] = {}  # by name: the rate, and until when
        self._failed: dict[str, tuple[float, float]] = {}  # likewise: when failures are paid (GCRA)

    def note_refusal(self, key: Key, count: int, wait: float, now: float) -> None:
        """Remember that Redis refused some publications.

        Args:
            key: The key, which has a rate.
            count: The number of publications.
            wait: The seconds after which as many publications may be within the rate.
            now: The time of a monotonic clock, in seconds.
        """
        rate = key.rate or 1.0
        # As in take_from_rate.lua: one publication is accepted before many are.
        burst = max(1.0, rate)
        self._block(key, rate, now, wait - (min(burst, count) - 1) / rate)
        self.note_failure(key, now)  # it was read, too

    def note_failure(self, key: Key, now: float) -> None:
        """Count a request that published nothing: it was invalid, or Redis refused it.

        To find that out can take longer than to publish, so such requests have the same rate.

        Args:
            key: The key; one without a rate owes nothing.
            now: The time of a monotonic clock, in seconds.
        """
        if (rate := key.rate) is None:
            return
        known, paid = self._failed.get(key.name, (rate, now))
        burst = max(1.0, rate) / rate  # in seconds
        # At most one more burst: many may have been admitted before the first one failed.
        paid = min(max(paid if known == rate else now, now) + 1 / rate, now + 2 * burst)
        self._failed[key.name] = (rate, paid)
        self._block(key, rate, now, paid - now - burst)

    def _block(self, key: Key, rate: float, now: float, seconds: float) -> None:
        """Refuse a key for some time from now on, or for the longer time that is known."""
        known, until = self._until.get(key.name, (rate, now))
        if seconds > 0:
            self._until[key.name] = (rate, max(until if known == rate else now, now + seconds))

    def wait(self, key: Key, now: float) -> float:
        """Return the seconds until a key may be able to publish again; 0.0 means now."""
        rate, until = self._until.get(key.name, (key.rate, now))
        if rate == key.rate and until > now:
            return until - now
        self._until.pop(key.name, None)
        return 0.0
