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
        self._failed: dict[str, float] = {}  # by name: until when its failures are paid (GCRA)

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
        for_one = wait - (min(burst, count) - 1) / rate
        if for_one > 0:
            self._until[key.name] = (rate, now + for_one)

    def note_failure(self, key: Key, now: float) -> None:
        """Count a request that published nothing, because it was invalid.

        To find that out can take longer than to publish, so invalid requests have the same rate.

        Args:
            key: The key; one without a rate owes nothing.
            now: The time of a monotonic clock, in seconds.
        """
        if (rate := key.rate) is None:
            return
        paid = max(self._failed.get(key.name, now), now) + 1 / rate
        self._failed[key.name] = paid
        if (owed := paid - now - max(1.0, rate) / rate) > 0:
            _, until = self._until.get(key.name, (rate, now))
            self._until[key.name] = (rate, max(until, now + owed))

    def wait(self, key: Key, now: float) -> float:
        """Return the seconds until a key may be able to publish again; 0.0 means now."""
        rate, until = self._until.get(key.name, (key.rate, now))
        if rate == key.rate and until > now:
            return until - now
        self._until.pop(key.name, None)
        return 0.0
