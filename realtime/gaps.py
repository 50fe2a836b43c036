"""Positions, and what is missing between them.

Each channel counts its publications: the next one after offset n has offset n + 1, within one
epoch. An epoch is the life of a counter; a new one starts when Redis restarts, fails over or loses
the counter. Where an epoch ended nobody knows, so a gap at its end stays open (ADR-0006).
"""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """Where a channel stands: ``offset`` publications since ``epoch`` began."""

    epoch: str
    offset: int


class Gap(NamedTuple):
    """Publications that did not arrive: ``first`` to ``last``, included; None is an unknown end."""

    epoch: str
    first: int
    last: int | None

    @property
    def missed(self) -> int | None:
        """How many, or None where nobody can know."""
        return None if self.last is None else self.last - self.first + 1


class GapDetector:
    """Tell which publications of one channel never reached this node.

    No clock, no I/O: feed it every position in order of arrival. While the start position is
    *settling*, arrivals at or below it are ignored: the position was read on another connection and
    overtook them. The first arrival above it ends that; from then on a position that is not above
    the last one is a rollback.
    """

    __slots__ = ("last", "settling")

    def __init__(self, start: Position) -> None:
        self.last = start
        self.settling = True

    def observe(self, position: Position) -> tuple[Gap, ...] | None:
        """Record the position of an arrival and return the gaps it reveals.

        None: the start position counts it already, and it is to be ignored.
        """
        last = self.last
        if position.epoch == last.epoch:
            if position.offset == last.offset + 1:
                self.last, self.settling = position, False
                return ()
            return self._same_epoch(position)
        self.last, self.settling = position, False
        return _across_epochs(last, position, arrived=True)

    def resume(self, read: Position) -> tuple[Gap, ...]:
        """Compare with a position that was read after a break, when nothing has arrived yet.

        A position that was read never lowers a known one: it may have been read before the last
        arrival. One that tells nothing new has overtaken nothing either, and settles nothing.
        """
        last = self.last
        if read.epoch == last.epoch and read.offset <= last.offset:
            return ()
        self.last, self.settling = read, True
        if read.epoch != last.epoch:
            return _across_epochs(last, read, arrived=False)
        return (Gap(last.epoch, last.offset + 1, read.offset),)

    def _same_epoch(self, position: Position) -> tuple[Gap, ...] | None:
        last = self.last
        if position.offset > last.offset:
            self.last, self.settling = position, False
            return (Gap(last.epoch, last.offset + 1, position.offset - 1),)
        if self.settling:
            return None
        # The counter went back inside its epoch. It cannot, as long as Redis gives every history
        # its own replication id; if it does all the same, nobody knows what was lost.
        self.last = position
        return (Gap(last.epoch, last.offset + 1, None),)


def missed_until(since: Position, began: Position, now: Position) -> tuple[Gap, ...]:
    """Return what a client missed that stood at ``since`` and has listened from ``began`` on.

    The client hears everything after ``began``, up to ``now``, or is told of its absence. If it
    stands in an epoch that came after ``began``, it can only have learned that by listening, so it
    missed nothing. If it stands in an epoch that is neither of these two, nobody knows any more
    which came first: the answer is then the larger one, an open gap and the whole epoch of
    ``began``.
    """
    if since.epoch == now.epoch != began.epoch:
        return ()
    return GapDetector(since).resume(began)


def _across_epochs(last: Position, position: Position, *, arrived: bool) -> tuple[Gap, ...]:
    """The old epoch ends openly; of the new one everything before the position is missing."""
    ended = Gap(last.epoch, last.offset + 1, None)
    missing = position.offset - 1 if arrived else position.offset
    return (ended, Gap(position.epoch, 1, missing)) if missing > 0 else (ended,)
