"""The last quarter of an hour of one node: some totals every five seconds, and changes of state.

No clock: the caller passes the time, as seconds since 1970. All nodes use the same moments, so what
several nodes counted until a moment can be added up.
"""

from __future__ import annotations

from collections import deque

import msgspec

STEP_SECONDS = 5
"""The interval between two entries."""
KEPT_SECONDS = 900
ENTRIES_LIMIT = KEPT_SECONDS // STEP_SECONDS
CHANGES_LIMIT = 20


class HistoryEntry(msgspec.Struct, frozen=True, array_like=True):
    """What a node had counted at one moment. Encoded as an array, since there are many."""

    at: int
    """Seconds since 1970, a multiple of `STEP_SECONDS`."""
    deliveries: int
    published: int
    connections: int
    """At present, unlike the others."""
    lag_seconds: float
    """The latest round trip through the broker; at present, too."""
    missed: dict[str, int] = {}
    """Missed publications by reason; without those of which there are none."""


class StateChange(msgspec.Struct, frozen=True):
    """A node became live, or stopped being live."""

    at: float
    live: bool
    reason: str
    """As probes report it, without confidential details; empty for a node that is live."""


class NodeHistory:
    """See the module. Keeps at most `ENTRIES_LIMIT` entries and `CHANGES_LIMIT` changes."""

    __slots__ = ("_changes", "_entries")

    def __init__(self) -> None:
        """Start without a past."""
        self._entries: deque[HistoryEntry] = deque(maxlen=ENTRIES_LIMIT)
        self._changes: deque[StateChange] = deque(maxlen=CHANGES_LIMIT)

    def is_due(self, now: float) -> bool:
        """Return whether the next entry is to be noted."""
        return not self._entries or self._entries[-1].at != moment_of(now)

    def note(self, entry: HistoryEntry) -> None:
        """Add an entry; drop those from the future, which exist if the clock was set back."""
        while self._entries and self._entries[-1].at >= entry.at:
            self._entries.pop()
        self._entries.append(entry)

    def note_state(self, now: float, *, live: bool, reason: str | None) -> None:
        """Record a change of state."""
        self._changes.append(StateChange(round(now, 3), live, reason or ""))

    def latest(self, now: float, seconds: int) -> list[HistoryEntry]:
        """Return the entries of the last ``seconds``, the oldest first."""
        return [entry for entry in self._entries if entry.at > now - seconds]

    def changes(self) -> list[StateChange]:
        """Return the latest changes of state, the oldest first."""
        return list(self._changes)


def moment_of(now: float) -> int:
    """Return the latest moment at which nodes note their totals."""
    return int(now // STEP_SECONDS) * STEP_SECONDS
