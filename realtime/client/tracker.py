"""Tracks one channel for a client: which publications it has received, and which are missing.

The counterpart of ``PositionTracker`` in client.js, with the same invariant: every publication
since the first position is either received or in a gap, never in both, and in order. After a
reconnect, another node may send publications that the client has received already. These are
dropped, and a gap never goes backwards. The module uses no clock and no I/O.
(`realtime.core.positions` is the counterpart on a node, which needs to handle no reconnects.)
"""

from __future__ import annotations

from typing import NamedTuple

from realtime.core.positions import Gap, Position

EPOCHS_LIMIT = 8  # epochs that are remembered; a new one begins when Redis restarts


class MissedPublications(NamedTuple):
    """Publications that did not arrive, and the reason if it is known."""

    gap: Gap
    reason: str


class _Epoch:
    __slots__ = ("ended", "last")

    def __init__(self) -> None:
        self.last = 0
        """The offset up to which every publication is received or reported."""
        self.ended = False
        """Whether an open gap was reported: an unknown number of publications may be missing."""


class Tracker:
    """See the module. Belongs to one channel, and outlives its connections."""

    def __init__(self) -> None:
        self._epochs: dict[str, _Epoch] = {}
        self._current: str | None = None
        self._may_rewind = False

    @property
    def position(self) -> Position | None:
        """The position of the channel; None before the first reply."""
        if self._current is None:
            return None
        return Position(self._current, self._epochs[self._current].last)

    def note_subscribed(self, position: Position) -> list[MissedPublications]:
        """Process the position in a reply to a subscribe; return the gaps before it."""
        first = not self._epochs
        epoch, missed = self._enter(position.epoch, "reconnect")
        if first:
            epoch.last = position.offset
        _reopen(epoch, position.offset)
        # Adds no gap if this node lags behind the previous one.
        _fill(missed, epoch, position, "reconnect")
        return missed

    def note_publication(
        self, offset: int, epoch_id: str | None
    ) -> tuple[bool, list[MissedPublications]]:
        """Process a publication.

        Args:
            offset: The offset of the publication.
            epoch_id: Its epoch; None if the push does not name it, because it is unchanged.

        Returns:
            Whether the publication is new, and the gaps before it.
        """
        named = self._current if epoch_id is None else epoch_id
        if named is None:
            return True, []
        rewinds = self._may_rewind and named == self._current
        epoch, missed = self._enter(named, "unknown")
        if rewinds:
            # The server continues in the same epoch after an open gap: its counter went back.
            epoch.last = min(epoch.last, offset - 1)
        _reopen(epoch, offset - 1)
        if offset <= epoch.last:
            return False, missed
        _fill(missed, epoch, Position(named, offset - 1), "unknown")
        epoch.last = offset
        return True, missed

    def note_gap(self, gap: Gap, reason: str) -> list[MissedPublications]:
        """Process a gap that the server reports; return it without the part that is known."""
        epoch, missed = self._enter(gap.epoch, reason)
        if gap.last is None and epoch.ended:
            return missed
        _reopen(epoch, gap.first - 1)
        _fill(missed, epoch, Position(gap.epoch, gap.first - 1), "unknown")
        if gap.last is not None:
            _fill(missed, epoch, Position(gap.epoch, gap.last), reason)
            return missed
        missed.append(MissedPublications(Gap(gap.epoch, epoch.last + 1, None), reason))
        epoch.ended = self._may_rewind = True
        return missed

    def _enter(self, epoch_id: str, reason: str) -> tuple[_Epoch, list[MissedPublications]]:
        """Make an epoch the current one; if it is new, end the others with open gaps."""
        missed: list[MissedPublications] = []
        epoch = self._epochs.get(epoch_id)
        if epoch is None:
            for old_id, old in self._epochs.items():
                if not old.ended:
                    missed.append(MissedPublications(Gap(old_id, old.last + 1, None), reason))
                    old.ended = True
            epoch = self._epochs[epoch_id] = _Epoch()
            if len(self._epochs) > EPOCHS_LIMIT:
                del self._epochs[next(iter(self._epochs))]
        self._current = epoch_id
        self._may_rewind = False
        return epoch, missed


def _reopen(epoch: _Epoch, offset: int) -> None:
    """Continue an epoch that was reported as ended: its open gap covers everything up to here."""
    if epoch.ended:
        epoch.ended = False
        epoch.last = max(epoch.last, offset)


def _fill(missed: list[MissedPublications], epoch: _Epoch, to: Position, reason: str) -> None:
    if to.offset > epoch.last:
        missed.append(MissedPublications(Gap(to.epoch, epoch.last + 1, to.offset), reason))
        epoch.last = to.offset
