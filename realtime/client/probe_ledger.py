"""What a probe has published, and what each of its listeners has received or was told it missed.

A publication is *silently lost* for a listener that was live for the whole time limit after it and
has neither received it nor been told of a gap that covers it; or that received a later one without
such a gap. The module uses no clock and no I/O: time is an argument, in seconds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from realtime.core import metrics
from realtime.core.meters import NOT_PUBLISHED, PUBLISHED, UNKNOWN, Histogram
from realtime.core.positions import Position

if TYPE_CHECKING:
    from realtime.core.metrics import Snapshot
    from realtime.core.positions import Gap

DEADLINE_SECONDS = 10.0
"""How long a live listener may wait: a node notices a frozen Redis within 2 s."""
DUE_LIMIT = 10_000
"""Publications that a listener may owe at most: it was away for hours; the oldest are dropped."""
ENDED_LIMIT = 8
"""Ended epochs that are remembered, as by `realtime.client.tracker`."""
NAMED_LIMIT = 10
"""Silent losses of one gap that are named one by one."""
UNTOLD = "unknown"
"""The reason of a gap that the listener found itself, because the service did not tell it."""


class SilentLoss(NamedTuple):
    """A publication that a listener neither received nor was told of."""

    listener: str
    position: Position


class ListenerLedger:
    """One listener of a probe."""

    def __init__(self, name: str) -> None:
        """Start as not live."""
        self.name = name
        self.live_since: float | None = None
        self._covered: Position | None = None
        self._due: dict[Position, float] = {}
        self._ended: deque[str] = deque(maxlen=ENDED_LIMIT)
        """Epochs whose rest an open gap has covered."""

    @property
    def is_owed(self) -> bool:
        """Whether it is live and has not received or been told of everything yet."""
        return self.live_since is not None and bool(self._due)

    def note_live(self, position: Position, now: float) -> None:
        """Record that everything up to a position is received or told."""
        self.live_since = now
        self.cover(position)

    def note_away(self) -> None:
        """Record that it is not live: what comes meanwhile is told when it is again."""
        self.live_since = None

    def owe(self, position: Position, now: float) -> None:
        """Record a publication that it must receive, unless it has it already."""
        covered = self._covered
        if covered is None:
            return  # not subscribed yet: whatever came before is not for it
        if position.epoch in self._ended:
            return  # the answer to the publish came later than the gap
        if position.epoch == covered.epoch and position.offset <= covered.offset:
            return
        self._due[position] = now
        if len(self._due) > DUE_LIMIT:
            del self._due[next(iter(self._due))]

    def cover(self, position: Position) -> None:
        """Record that everything of an epoch up to a position is received or told."""
        self._covered = position
        self._forget(position.epoch, position.offset)

    def cover_gap(self, gap: Gap) -> None:
        """Record a gap; one with an open end covers everything that is left of its epoch."""
        if gap.last is not None:
            self.cover(Position(gap.epoch, gap.last))
            return
        self._ended.append(gap.epoch)
        self._forget(gap.epoch, None)

    def _forget(self, epoch: str, last: int | None) -> None:
        gone = [e for e in self._due if e.epoch == epoch and (last is None or e.offset <= last)]
        for each in gone:
            del self._due[each]

    def take_overdue(self, now: float) -> list[Position]:
        """Return and forget what it should have received or been told of by now."""
        if self.live_since is None or now < self.live_since + DEADLINE_SECONDS:
            return []
        overdue = [each for each, at in self._due.items() if now >= at + DEADLINE_SECONDS]
        for each in overdue:
            del self._due[each]
        return overdue


class ProbeLedger:
    """The counts of a probe."""

    def __init__(self, listeners: list[str]) -> None:
        """Start with listeners that are not live."""
        self.listeners = {name: ListenerLedger(name) for name in listeners}
        self._outcomes = dict.fromkeys((PUBLISHED, NOT_PUBLISHED, UNKNOWN), 0)
        self._missed: dict[str, int] = {"broker": 0, "slow": 0, "reconnect": 0}
        self._received = 0
        self._silent = 0
        self._seconds = Histogram()

    @property
    def silent(self) -> int:
        """How many publications were lost silently, once for each listener."""
        return self._silent

    @property
    def summary(self) -> str:
        """The counts as a sentence."""
        published, refused, unknown = self._outcomes.values()
        return (
            f"published {published}, certainly not {refused}, unknown {unknown}; "
            f"{len(self.listeners)} listeners received {self._received}, "
            f"were told of {sum(self._missed.values())} missed, silently lost {self._silent}"
        )

    def note_published(self, outcome: str, position: Position | None, now: float) -> None:
        """Record the outcome of a publish, with its position if it was published."""
        self._outcomes[outcome] += 1
        if position is not None:
            for listener in self.listeners.values():
                listener.owe(position, now)

    def note_received(self, name: str, position: Position, seconds: float) -> None:
        """Record a publication that reached a listener, and how long it took."""
        self._received += 1
        self._seconds.observe(seconds)
        self.listeners[name].cover(position)

    def note_gap(self, name: str, gap: Gap, reason: str) -> list[SilentLoss]:
        """Record a gap; return what was lost silently, if the listener found it itself."""
        self.listeners[name].cover_gap(gap)
        missed = gap.missed or 0
        if reason != UNTOLD:
            self._missed[reason] = self._missed.get(reason, 0) + missed
            return []
        self._silent += missed
        return [
            SilentLoss(name, Position(gap.epoch, gap.first + number))
            for number in range(min(missed, NAMED_LIMIT))
        ]

    def look(self, now: float) -> list[SilentLoss]:
        """Return what has become a silent loss because its time limit is over."""
        found = [
            SilentLoss(name, position)
            for name, listener in self.listeners.items()
            for position in listener.take_overdue(now)
        ]
        self._silent += len(found)
        return found

    def read(self) -> Snapshot:
        """Return the metrics of the probe."""
        live = sum(each.live_since is not None for each in self.listeners.values())
        return {
            metrics.PROBE_PUBLISHES.name: metrics.by_label(self._outcomes),
            metrics.PROBE_RECEIVED.name: metrics.one(self._received),
            metrics.PROBE_MISSED.name: metrics.by_label(self._missed),
            metrics.PROBE_SILENT.name: metrics.one(self._silent),
            metrics.PROBE_LISTENERS.name: metrics.one(len(self.listeners)),
            metrics.PROBE_LIVE.name: metrics.one(live),
            metrics.PROBE_SECONDS.name: self._seconds.read(),
        }
