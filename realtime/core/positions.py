"""Positions in a channel, and the gaps between them.

Each channel counts its publications: within an epoch, the publication after offset n has offset
n + 1. An epoch is the lifetime of a counter; a new one starts when Redis restarts, fails over or
loses the counter. The final offset of an epoch is unknown, so a gap at its end stays open
(ADR-0006).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from realtime.errors import BrokerError


class Position(NamedTuple):
    """The state of a channel: ``offset`` publications since ``epoch`` began."""

    epoch: str
    offset: int


class Gap(NamedTuple):
    """Publications that did not arrive: ``first`` to ``last``, inclusive; None is an open end."""

    epoch: str
    first: int
    last: int | None

    @property
    def missed(self) -> int | None:
        """How many, or None if that cannot be known."""
        return None if self.last is None else self.last - self.first + 1


class GapReason(StrEnum):
    """Why publications did not reach a connection."""

    BROKER = "broker"
    """They did not reach the node."""
    SLOW = "slow"
    """The client read too slowly."""
    RECONNECT = "reconnect"
    """They were published between two connections of the client."""


ENDED_EPOCHS = 4
"""How many ended epochs of a channel are remembered."""


class GapDetector:
    """Detects which publications of one channel never reached this node.

    No clock, no I/O: feed it every position in order of arrival. While the start position is
    *settling*, arrivals at or below it are ignored: the position was read on another connection and
    overtook them. The first arrival above it ends that; from then on, a position that is not above
    the last one is a rollback.

    Arrivals of an epoch that has *ended* are ignored: the open gap at its end covers them. They
    come when a frozen master of a Redis Cluster wakes up, and carries out what waited in its
    sockets. Only while the epoch *was read*: if one that began with an arrival displaced others, a
    single late message could silence the channel.
    """

    __slots__ = ("ended", "last", "settling", "was_read")

    def __init__(self, start: Position) -> None:
        self.last = start
        self.settling = True
        self.was_read = True
        """Whether the current epoch is that of a position that was read."""
        self.ended: tuple[Position, ...] = ()
        """The last known position of each ended epoch, at most `ENDED_EPOCHS`, latest first."""

    def observe(self, position: Position) -> tuple[Gap, ...] | None:
        """Record the position of an arrival and return the gaps it reveals.

        Returns None if the start position already includes it and the arrival is to be ignored.
        """
        last = self.last
        if position.epoch == last.epoch:
            if position.offset == last.offset + 1:
                self.last, self.settling = position, False
                return ()
            return self._same_epoch(position)
        if self.was_read and self.end_of(position.epoch) is not None:
            return None
        self._change_epoch(position)
        self.settling = self.was_read = False
        return _across_epochs(last, position, arrived=True)

    def resume(self, read: Position) -> tuple[Gap, ...]:
        """Compare with a position that was read after an interruption, before anything arrives.

        A position that was read never lowers a known one: it may predate the last arrival. A
        position that reveals nothing new does not start settling either: it has overtaken nothing.
        """
        last, self.was_read = self.last, True
        if read.epoch == last.epoch and read.offset <= last.offset:
            return ()
        self.settling = True
        if read.epoch == last.epoch:
            self.last = read
            return (Gap(last.epoch, last.offset + 1, read.offset),)
        known = self.end_of(read.epoch)
        if known is not None:  # the open gap at its end covers everything up to here
            self._change_epoch(max(read, known))
            return (Gap(last.epoch, last.offset + 1, None),)
        self._change_epoch(read)
        return _across_epochs(last, read, arrived=False)

    def end_of(self, epoch: str) -> Position | None:
        """Return the last known position of an epoch if it is one of those that have ended."""
        return next((each for each in self.ended if each.epoch == epoch), None)

    def _change_epoch(self, position: Position) -> None:
        others = (each for each in self.ended if each.epoch != position.epoch)
        self.ended = (self.last, *others)[:ENDED_EPOCHS]
        self.last = position

    def _same_epoch(self, position: Position) -> tuple[Gap, ...] | None:
        last = self.last
        if position.offset > last.offset:
            self.last, self.settling = position, False
            return (Gap(last.epoch, last.offset + 1, position.offset - 1),)
        if self.settling:
            return None
        # The counter went back within its epoch. That is impossible as long as Redis gives every
        # history its own replication id; if it happens anyway, what was lost is unknown.
        self.last = position
        return (Gap(last.epoch, last.offset + 1, None),)


def find_missed(since: Position, began: Position, now: Position) -> tuple[Gap, ...]:
    """Return what a client missed that was at ``since`` and has listened from ``began`` on.

    The client receives everything after ``began``, up to ``now``, or is told what is missing. If
    its epoch is newer than that of ``began``, it can only have learned of it by listening, so it
    missed nothing. If its epoch is neither that of ``began`` nor that of ``now``, their order is
    unknown; the answer is then the larger one: an open gap and the whole epoch of ``began``.
    """
    if since.epoch == now.epoch != began.epoch:
        return ()
    return GapDetector(since).resume(began)


def by_channel(
    channels: Sequence[str], read: Sequence[Position | BrokerError]
) -> dict[str, Position]:
    """Return the positions that were read, by channel.

    Raises:
        BrokerError: The first of the errors, if one of the positions could not be read.
    """
    positions: dict[str, Position] = {}
    for channel, found in zip(channels, read, strict=True):
        if isinstance(found, BrokerError):
            raise found
        positions[channel] = found
    return positions


def _across_epochs(last: Position, position: Position, *, arrived: bool) -> tuple[Gap, ...]:
    """Return an open gap for the old epoch, and all of the new one before the position."""
    ended = Gap(last.epoch, last.offset + 1, None)
    missing = position.offset - 1 if arrived else position.offset
    return (ended, Gap(position.epoch, 1, missing)) if missing > 0 else (ended,)
