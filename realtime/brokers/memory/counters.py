"""The positions of channels, for as long as the process lives (ADR-0006, ADR-0026).

A channel without publications has no counter. It is at offset 0 of an epoch derived from the *base
epoch* and its name, and its first publication continues that epoch. When there are too many
counters, those that have been unused longest are forgotten and the base is replaced. A channel that
is published to again then begins another epoch, so no offset is used twice.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection

from realtime.core.positions import Position

COUNTERS = 100_000  # as on Redis, where the base is replaced after as many channels


class PositionCounters:
    """The counters of all channels. No clock and no randomness: new epochs are passed in."""

    def __init__(self, base: str, most: int = COUNTERS) -> None:
        """Start without counters.

        Args:
            base: A random string, the base epoch.
            most: The number of counters after which unused ones are forgotten.
        """
        self._base = base
        self._most = most
        self._positions: OrderedDict[str, Position] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of counters."""
        return len(self._positions)

    def read(self, channel: str) -> Position:
        """Return the position of a channel, which counts as use."""
        if channel not in self._positions:
            return Position(self._first_epoch(channel), 0)
        self._positions.move_to_end(channel)
        return self._positions[channel]

    def advance(self, channel: str, fresh: str, listened: Collection[str]) -> Position:
        """Return the position of the next publication on a channel.

        Args:
            channel: Its name.
            fresh: A random string, in case the base must be replaced.
            listened: The channels with subscribers, whose counters are never forgotten.
        """
        if channel not in self._positions and len(self._positions) >= self._most:
            self._forget(fresh, listened)
        epoch, offset = self.read(channel)
        self._positions[channel] = Position(epoch, offset + 1)
        return self._positions[channel]

    def _forget(self, fresh: str, listened: Collection[str]) -> None:
        """Forget the half that has been unused longest, and replace the base."""
        for channel in listened:  # those at offset 0 keep their epoch, too
            self._positions[channel] = self.read(channel)
        unused = [channel for channel in self._positions if channel not in listened]
        for channel in unused[: max(1, len(unused) // 2)]:
            del self._positions[channel]
        self._base = fresh

    def _first_epoch(self, channel: str) -> str:
        return hashlib.sha256(f"{self._base} {channel}".encode()).hexdigest()[:16]
