"""What waits for one congested connection: in order, within a bound, and never lost without a word.

A law holds for every sequence of arrivals, drains and overflows, per channel and epoch: what is
taken out, publications and gaps together, is exactly what came in, disjoint and in order. Only a
connection that is closed loses more. Knows no socket and no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from realtime.gaps import Gap
from realtime.namespaces import Overflow

SLOW = "slow"  # the reason of a gap that is made here
CONTROL_BYTES = 64 * 1024  # bytes of replies that a client may let pile up
SHED_PART = 64
"""The part of the bound that is given up at once: a gap is written once for a dozen entries."""


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
    """The waiting entries of one connection.

    Beyond the bound the oldest go first, a few whenever new ones come: a hundred clients that stop
    at the same moment would otherwise all fold a megabyte at the same moment, 2 ms each, and hold
    up everybody else. What they leave behind, at most one gap for each channel and epoch, stands in
    front of what still waits.
    """

    __slots__ = (
        "_entries",
        "_front",
        "_kept",
        "_limit",
        "_newest",
        "_render_gap",
        "_unwritten",
        "bytes",
        "control_bytes",
    )

    def __init__(self, limit: int, render_gap: Callable[[str, Gap, str], str]) -> None:
        """Make an empty outbox.

        Args:
            limit: Bytes of publications and gaps that may wait.
            render_gap: Writes the push of (channel, gap, reason) in the connection's wire protocol.
        """
        self._front: OrderedDict[object, Entry] = OrderedDict()
        """What was looked at when there was no room; a gap's key is its channel and epoch."""
        self._entries: deque[Entry] = deque()
        self._newest: dict[str, Pushes] = {}
        """The last publications of each `latest` channel, unless a gap came after them."""
        self._kept: dict[str, object] = {}
        """Those of them that stand in front: their keys there."""
        self._unwritten: dict[tuple[str, str], None] = {}
        """Keys of gaps whose text is not written yet; there are none outside of `add`."""
        self._limit = limit
        self._render_gap = render_gap
        self.control_bytes = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._entries or self._front)

    def add(self, entry: Entry) -> bool:
        """Let an entry wait at the end; False says that the connection must be closed as slow.

        When the bound is passed, each channel loses by the policy of its namespace.
        """
        self._entries.append(entry)
        if isinstance(entry, Control):
            self.control_bytes += entry.size
            return self.control_bytes <= CONTROL_BYTES
        self.bytes += entry.size
        if entry.overflow is Overflow.LATEST:
            if isinstance(entry, Pushes):
                self._newest[entry.channel] = entry
            else:
                self._newest.pop(entry.channel, None)
        return self.bytes <= self._limit or self._shed()

    def take(self, limit: int) -> str:
        """Take entries from the front as one frame of at most ``limit`` bytes, or of one entry."""
        entry = self._pop()
        texts, size = [entry.text], entry.size
        while self and size + self._first.size < limit:
            entry = self._pop()
            texts.append(entry.text)
            size += entry.size + 1
        return "\n".join(texts)

    def forget(self, channel: str) -> None:
        """Drop what waits of a channel that its client has left.

        Otherwise a later gap could span the time in which the client was not subscribed.
        """
        self._front = OrderedDict(
            (key, e)
            for key, e in self._front.items()
            if isinstance(e, Control) or e.channel != channel
        )
        self._entries = deque(
            e for e in self._entries if isinstance(e, Control) or e.channel != channel
        )
        self._newest.pop(channel, None)
        self._kept.pop(channel, None)
        waiting = (*self._front.values(), *self._entries)
        self.bytes = sum(e.size for e in waiting if not isinstance(e, Control))

    @property
    def _first(self) -> Entry:
        return next(iter(self._front.values())) if self._front else self._entries[0]

    def _pop(self) -> Entry:
        if self._front:
            key, entry = self._front.popitem(last=False)
            if not isinstance(entry, Control) and self._kept.get(entry.channel) is key:
                del self._kept[entry.channel]
        else:
            entry = self._entries.popleft()
        if isinstance(entry, Control):
            self.control_bytes -= entry.size
            return entry
        self.bytes -= entry.size
        if entry.overflow is Overflow.LATEST and self._newest.get(entry.channel) is entry:
            del self._newest[entry.channel]
        return entry

    def _shed(self) -> bool:
        """Let go of the oldest until the rest has room; of `latest` channels' newest at last."""
        room = self._limit - self._limit // SHED_PART
        while self.bytes > self._limit and (self._entries or self._kept):
            while self.bytes > room and self._entries:
                self._fold(self._entries.popleft())
            while self.bytes > self._limit and self._kept:
                self._give_up(next(iter(self._kept)))
            self._write_gaps()
        return self.bytes <= self._limit

    def _fold(self, entry: Entry) -> None:
        """Move the oldest entry to the front, if it must stay, or to a gap there."""
        if isinstance(entry, Control) or entry.overflow is Overflow.DISCONNECT:
            self._front[object()] = entry
            return
        self.bytes -= entry.size
        self._give_up(entry.channel)
        stays = isinstance(entry, Pushes) and self._newest.get(entry.channel) is entry
        dropped = _dropped(entry, but_last=stays)
        if dropped is not None:
            reason = entry.reason if isinstance(entry, Missed) else SLOW
            self._miss(entry.channel, dropped, reason, entry.overflow)
        if stays:
            assert isinstance(entry, Pushes)  # noqa: S101 - tells the type checker what `stays` says
            newest = _last_of(entry)
            key = self._kept[entry.channel] = object()
            self._front[key] = self._newest[entry.channel] = newest
            self.bytes += newest.size

    def _give_up(self, channel: str) -> None:
        """Drop the publication of a `latest` channel that stands in front, if one does."""
        key = self._kept.pop(channel, None)
        if key is None:
            return
        entry = self._front.pop(key)
        assert isinstance(entry, Pushes)  # noqa: S101 - nothing else is kept
        if self._newest.get(channel) is entry:
            del self._newest[channel]
        self.bytes -= entry.size
        gap = Gap(entry.epoch, entry.first, entry.last)
        self._miss(channel, gap, SLOW, entry.overflow)

    def _miss(self, channel: str, gap: Gap, reason: str, overflow: Overflow) -> None:
        """Join it to the gap of its channel and epoch in front, or let it be one."""
        key = (channel, gap.epoch)
        before = self._front.get(key)
        if isinstance(before, Missed):
            self.bytes -= before.size
            gap = _joined(before.gap, gap)
            # Who was only moved is not to blame: a restart of Redis stays one.
            reason = reason if before.reason == reason else SLOW
        self._front[key] = Missed(channel, gap, reason, "", overflow)
        self._unwritten[key] = None

    def _write_gaps(self) -> None:
        for key in self._unwritten:
            missed = self._front[key]
            assert isinstance(missed, Missed)  # noqa: S101 - nothing else is unwritten
            text = self._render_gap(missed.channel, missed.gap, missed.reason)
            self._front[key] = missed = missed._replace(text=text)
            self.bytes += missed.size
        self._unwritten.clear()


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
