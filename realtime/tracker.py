"""A client's knowledge of one channel: what it has received, and what it must be told it has not.

The twin of `PositionTracker` in client.js; both keep the same law. Everything since the first
position is either received or in a gap, never in both, in order. A client that comes back through
another node may be shown what it has passed: that is dropped, and a gap is never computed
backwards. No clock, no I/O. (`realtime.gaps` is the node's side: it has no reconnects to survive.)
"""

from __future__ import annotations

from typing import NamedTuple

from realtime.gaps import Gap, Position

EPOCHS_LIMIT = 8  # remembered; a new one begins when Redis restarts


class Missed(NamedTuple):
    """Publications that did not arrive, and why, as far as it is known."""

    gap: Gap
    reason: str


class _Epoch:
    __slots__ = ("ended", "last")

    def __init__(self) -> None:
        self.last = 0
        """Up to here everything is received or reported."""
        self.ended = False
        """Whether it is reported as open: some may be missing, nobody knows how many."""


class Tracker:
    """Tell what is new and what is missing on one channel."""

    def __init__(self) -> None:
        self._epochs: dict[str, _Epoch] = {}
        self._current: str | None = None
        self._may_rewind = False

    @property
    def position(self) -> Position | None:
        """Where the channel stands; None before the first reply."""
        if self._current is None:
            return None
        return Position(self._current, self._epochs[self._current].last)

    def subscribed(self, position: Position) -> list[Missed]:
        """Take the position in a reply to a subscribe; what follows is live."""
        first = not self._epochs
        epoch, missed = self._enter(position.epoch, "reconnect")
        if first:
            epoch.last = position.offset
        _reopen(epoch, position.offset)
        # Below what is known: this node is behind the one that we come from.
        _fill(missed, epoch, position, "reconnect")
        return missed

    def publication(self, offset: int, epoch_id: str | None) -> tuple[bool, list[Missed]]:
        """Take a publication.

        Args:
            offset: Its offset.
            epoch_id: Its epoch, which a push names only where it is a new one.

        Returns:
            Whether it is new, and what is missing before it.
        """
        named = self._current if epoch_id is None else epoch_id
        if named is None:
            return True, []
        rewinds = self._may_rewind and named == self._current
        epoch, missed = self._enter(named, "unknown")
        if rewinds:
            # After an open gap the server goes on in the same epoch: the counter went back.
            epoch.last = min(epoch.last, offset - 1)
        _reopen(epoch, offset - 1)
        if offset <= epoch.last:
            return False, missed
        _fill(missed, epoch, Position(named, offset - 1), "unknown")
        epoch.last = offset
        return True, missed

    def gap(self, gap: Gap, reason: str) -> list[Missed]:
        """Take a gap that the server announces; what is known already is cut off."""
        epoch, missed = self._enter(gap.epoch, reason)
        if gap.last is None and epoch.ended:
            return missed
        _reopen(epoch, gap.first - 1)
        _fill(missed, epoch, Position(gap.epoch, gap.first - 1), "unknown")
        if gap.last is not None:
            _fill(missed, epoch, Position(gap.epoch, gap.last), reason)
            return missed
        missed.append(Missed(Gap(gap.epoch, epoch.last + 1, None), reason))
        epoch.ended = self._may_rewind = True
        return missed

    def _enter(self, epoch_id: str, reason: str) -> tuple[_Epoch, list[Missed]]:
        """Make it the epoch that the server speaks of; if it is new, the others have ended."""
        missed: list[Missed] = []
        epoch = self._epochs.get(epoch_id)
        if epoch is None:
            for old_id, old in self._epochs.items():
                if not old.ended:
                    missed.append(Missed(Gap(old_id, old.last + 1, None), reason))
                    old.ended = True
            epoch = self._epochs[epoch_id] = _Epoch()
            if len(self._epochs) > EPOCHS_LIMIT:
                del self._epochs[next(iter(self._epochs))]
        self._current = epoch_id
        self._may_rewind = False
        return epoch, missed


def _reopen(epoch: _Epoch, offset: int) -> None:
    """An epoch that was reported as ended lives: its open gap has told of all up to here."""
    if epoch.ended:
        epoch.ended = False
        epoch.last = max(epoch.last, offset)


def _fill(missed: list[Missed], epoch: _Epoch, to: Position, reason: str) -> None:
    if to.offset > epoch.last:
        missed.append(Missed(Gap(to.epoch, epoch.last + 1, to.offset), reason))
        epoch.last = to.offset
