"""What waits for one congested connection: in order, within a bound, and never lost without a word.

A law holds for every sequence of arrivals, drains and overflows, per channel and epoch: what is
taken out, publications and gaps together, is exactly what came in, disjoint and in order. Only a
connection that is closed loses more. Knows no socket and no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from realtime.gaps import Gap
from realtime.namespaces import Overflow

SLOW = "slow"  # the reason of a gap that is made here
CONTROL_BYTES = 64 * 1024  # bytes of replies that a client may let pile up


class Pushes(NamedTuple):
    """Publications of one channel and epoch, ``first`` to ``last``, as the text of one frame."""

    channel: str
    epoch: str
    first: int
    last: int
    text: str
    size: int
    """Bytes of the text in UTF-8."""
    newest: str
    """The push of ``last`` alone."""
    overflow: Overflow
    frame: bytes = b""
    """The text as a frame, made once for all connections; empty where nobody has made it."""


class Missed(NamedTuple):
    """A gap of one channel."""

    channel: str
    gap: Gap
    reason: str
    text: str
    overflow: Overflow

    @property
    def size(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text.encode())


class Control(NamedTuple):
    """A reply or another text that is never dropped."""

    text: str
    size: int


Entry = Pushes | Missed | Control


class Outbox:
    """The waiting entries of one connection."""

    __slots__ = ("_entries", "_limit", "_render_gap", "bytes", "control_bytes")

    def __init__(self, limit: int, render_gap: Callable[[str, Gap, str], str]) -> None:
        """Make an empty outbox.

        Args:
            limit: Bytes of publications and gaps that may wait.
            render_gap: Writes the push of (channel, gap, reason) in the connection's wire protocol.
        """
        self._entries: deque[Entry] = deque()
        self._limit = limit
        self._render_gap = render_gap
        self.control_bytes = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, entry: Entry) -> bool:
        """Let an entry wait at the end; False says that the connection must be closed as slow.

        When the bound is passed, each channel loses by the policy of its namespace.
        """
        self._entries.append(entry)
        if isinstance(entry, Control):
            self.control_bytes += entry.size
            return self.control_bytes <= CONTROL_BYTES
        self.bytes += entry.size
        return self.bytes <= self._limit or self._shed()

    def take(self, limit: int) -> str:
        """Take entries from the front as one frame of at most ``limit`` bytes, or of one entry."""
        entry = self._entries.popleft()
        texts, size = [self._release(entry)], entry.size
        while self._entries and size + self._entries[0].size < limit:
            entry = self._entries.popleft()
            size += entry.size + 1
            texts.append(self._release(entry))
        return "\n".join(texts)

    def forget(self, channel: str) -> None:
        """Drop what waits of a channel that its client has left.

        Otherwise a later gap could span the time in which the client was not subscribed.
        """
        self._entries = deque(
            e for e in self._entries if isinstance(e, Control) or e.channel != channel
        )
        self._recount()

    def _recount(self) -> None:
        self.bytes = sum(e.size for e in self._entries if not isinstance(e, Control))

    def _release(self, entry: Entry) -> str:
        if isinstance(entry, Control):
            self.control_bytes -= entry.size
        else:
            self.bytes -= entry.size
        return entry.text

    def _shed(self) -> bool:
        """Fold what the policies let go; keep the newest of `latest` channels if there is room."""
        for keep_latest in (True, False):
            self._entries = deque(_folded(self._entries, keep_latest, self._render_gap))
            self._recount()
            if self.bytes <= self._limit:
                return True
        return False


def _folded(
    entries: deque[Entry], keep_latest: bool, render: Callable[[str, Gap, str], str]
) -> list[Entry]:
    """Fold each channel's droppable entries into one gap per epoch, at the place of the oldest."""
    kept: list[Entry | None] = []
    gaps: dict[
        tuple[str, str], tuple[int, Missed]
    ] = {}  # (channel, epoch) -> its place and what it holds so far
    newest = _newest_of_latest(entries) if keep_latest else {}
    for entry in entries:
        if isinstance(entry, Control) or entry.overflow is Overflow.DISCONNECT:
            kept.append(entry)
            continue
        stays = isinstance(entry, Pushes) and newest.get(entry.channel) is entry
        dropped = _dropped(entry, but_last=stays)
        if dropped is not None:
            key = (entry.channel, dropped.epoch)
            place, before = gaps.get(key, (len(kept), None))
            if before is None:
                kept.append(None)
            gap = dropped if before is None else _joined(before.gap, dropped)
            # Who was only moved is not to blame: a restart of Redis stays one.
            reason = entry.reason if isinstance(entry, Missed) else SLOW
            if before is not None and before.reason != reason:
                reason = SLOW
            gaps[key] = (place, Missed(entry.channel, gap, reason, "", entry.overflow))
        if stays:
            assert isinstance(entry, Pushes)  # noqa: S101 - tells the type checker what `stays` says
            kept.append(_last_of(entry))
    for place, missed in gaps.values():
        kept[place] = missed._replace(text=render(missed.channel, missed.gap, missed.reason))
    return [entry for entry in kept if entry is not None]


def _newest_of_latest(entries: deque[Entry]) -> dict[str, Pushes]:
    """Return the last publications of each `latest` channel, unless a gap came after them."""
    newest: dict[str, Pushes] = {}
    for entry in entries:
        if isinstance(entry, Control) or entry.overflow is not Overflow.LATEST:
            continue
        if isinstance(entry, Pushes):
            newest[entry.channel] = entry
        else:
            newest.pop(entry.channel, None)
    return newest


def _dropped(entry: Pushes | Missed, *, but_last: bool) -> Gap | None:
    if isinstance(entry, Missed):
        return entry.gap
    last = entry.last - 1 if but_last else entry.last
    return Gap(entry.epoch, entry.first, last) if last >= entry.first else None


def _joined(before: Gap, after: Gap) -> Gap:
    """Join two gaps of one channel and epoch, the later one following on the earlier one."""
    last = None if before.last is None or after.last is None else max(before.last, after.last)
    return Gap(before.epoch, min(before.first, after.first), last)


def _last_of(entry: Pushes) -> Pushes:
    return entry._replace(
        first=entry.last, text=entry.newest, size=len(entry.newest.encode()), frame=b""
    )
