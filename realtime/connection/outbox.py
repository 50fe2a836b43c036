"""The queue of one congested connection: ordered, bounded, and without silent loss.

An invariant holds for every sequence of arrivals, drains and overflows, per channel and epoch: the
publications and gaps taken out cover exactly the publications and gaps put in, disjoint and in
order. Only a closed connection loses more. The module uses no socket and no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from realtime.connection.entries import Entry, GapEntry, Pushes, Undroppable
from realtime.core.overflow import Overflow
from realtime.core.positions import Gap, GapReason

if TYPE_CHECKING:
    from realtime.core.meters import NodeMeters

UNDROPPABLE_BYTES = 64 * 1024  # bytes of replies that may wait for a client
SHED_PART = 64
"""One 64th of the bound is freed at a time, so that a gap is encoded once per dozen entries."""


class Outbox:
    """The waiting entries of one connection.

    Beyond the bound, the oldest entries are dropped, a few at each arrival. Otherwise a hundred
    clients that stall at the same moment would each fold a megabyte at the same moment, 2 ms each,
    and delay all others. Dropped entries leave at most one gap per channel and epoch, ahead of the
    waiting entries.
    """

    __slots__ = (
        "_encode_gap",
        "_entries",
        "_front",
        "_kept",
        "_limit",
        "_meters",
        "_newest",
        "_unencoded",
        "bytes",
        "undroppable_bytes",
    )

    def __init__(
        self, limit: int, encode_gap: Callable[[str, Gap, str], str], meters: NodeMeters
    ) -> None:
        """Create an empty outbox.

        Args:
            limit: Bytes of publications and gaps that may wait.
            encode_gap: Encodes (channel, gap, reason) as a push of the connection's wire protocol.
            meters: Those of the node; they count the publications that are dropped.
        """
        self._front: OrderedDict[object, Entry] = OrderedDict()
        """Entries that overflow has processed; the key of a gap is its channel and epoch."""
        self._entries: deque[Entry] = deque()
        self._newest: dict[str, Pushes] = {}
        """The last publications of each `latest` channel, unless a gap came after them."""
        self._kept: dict[str, object] = {}
        """The keys in `_front` of those that overflow has processed."""
        self._unencoded: dict[tuple[str, str], None] = {}
        """Keys of gaps whose text is not encoded yet; always empty outside of `add`."""
        self._limit = limit
        self._encode_gap = encode_gap
        self._meters = meters
        self._meters.outboxes[self] = None
        self.undroppable_bytes = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._entries or self._front)

    def add(self, entry: Entry) -> bool:
        """Append an entry; return False if the connection must be closed as slow.

        When the bound is exceeded, entries are dropped by the policy of their namespaces.
        """
        self._entries.append(entry)
        if isinstance(entry, Undroppable):
            self.undroppable_bytes += entry.size
            return self.undroppable_bytes <= UNDROPPABLE_BYTES
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
        while self and size + self.first.size < limit:
            entry = self._pop()
            texts.append(entry.text)
            size += entry.size + 1
        return "\n".join(texts)

    def forget(self, channel: str) -> None:
        """Drop the entries of a channel that the client has unsubscribed from.

        Otherwise a later gap could cover a period without a subscription.
        """
        self._count_discarded(channel)
        self._front = OrderedDict(
            (key, e)
            for key, e in self._front.items()
            if isinstance(e, Undroppable) or e.channel != channel
        )
        self._entries = deque(
            e for e in self._entries if isinstance(e, Undroppable) or e.channel != channel
        )
        self._newest.pop(channel, None)
        self._kept.pop(channel, None)
        waiting = (*self._front.values(), *self._entries)
        self.bytes = sum(e.size for e in waiting if not isinstance(e, Undroppable))

    def close(self) -> None:
        """Stop being measured: it is empty, or its connection has ended."""
        del self._meters.outboxes[self]
        self._count_discarded("")

    def _count_discarded(self, channel: str) -> None:
        """Count publications that will not be sent: of one channel, or of all if it is empty."""
        for entry in (*self._front.values(), *self._entries):
            if isinstance(entry, Pushes) and channel in ("", entry.channel):
                self._meters.of(entry.channel).discarded += entry.last - entry.first + 1

    @property
    def first(self) -> Entry:
        """The entry that has waited longest; there must be one."""
        return next(iter(self._front.values())) if self._front else self._entries[0]

    def _pop(self) -> Entry:
        if self._front:
            key, entry = self._front.popitem(last=False)
            if not isinstance(entry, Undroppable) and self._kept.get(entry.channel) is key:
                del self._kept[entry.channel]
        else:
            entry = self._entries.popleft()
        if isinstance(entry, Undroppable):
            self.undroppable_bytes -= entry.size
            return entry
        self.bytes -= entry.size
        if entry.overflow is Overflow.LATEST and self._newest.get(entry.channel) is entry:
            del self._newest[entry.channel]
        return entry

    def _shed(self) -> bool:
        """Drop the oldest entries until the rest fits; the newest of `latest` channels go last."""
        target = self._limit - self._limit // SHED_PART
        while self.bytes > self._limit and (self._entries or self._kept):
            while self.bytes > target and self._entries:
                self._fold(self._entries.popleft())
            while self.bytes > self._limit and self._kept:
                self._give_up(next(iter(self._kept)))
            self._encode_gaps()
        return self.bytes <= self._limit

    def _fold(self, entry: Entry) -> None:
        """Move the oldest entry to the front if it must stay, or replace it with a gap there."""
        if isinstance(entry, Undroppable) or entry.overflow is Overflow.DISCONNECT:
            self._front[object()] = entry
            return
        self.bytes -= entry.size
        self._give_up(entry.channel)
        stays = isinstance(entry, Pushes) and self._newest.get(entry.channel) is entry
        dropped = _gap_of(entry, but_last=stays)
        if dropped is not None:
            reason = entry.reason if isinstance(entry, GapEntry) else GapReason.SLOW
            if isinstance(entry, Pushes):
                self._meters.of(entry.channel).count_gap(dropped, reason)
            self._miss(entry.channel, dropped, reason, entry.overflow)
        if stays:
            assert isinstance(entry, Pushes)  # noqa: S101 - tells the type checker what `stays` says
            newest = _last_of(entry)
            key = self._kept[entry.channel] = object()
            self._front[key] = self._newest[entry.channel] = newest
            self.bytes += newest.size

    def _give_up(self, channel: str) -> None:
        """Drop the publication of a `latest` channel in front, if there is one."""
        key = self._kept.pop(channel, None)
        if key is None:
            return
        entry = self._front.pop(key)
        assert isinstance(entry, Pushes)  # noqa: S101 - nothing else is kept
        if self._newest.get(channel) is entry:
            del self._newest[channel]
        self.bytes -= entry.size
        gap = Gap(entry.epoch, entry.first, entry.last)
        self._meters.of(channel).count_gap(gap, GapReason.SLOW)
        self._miss(channel, gap, GapReason.SLOW, entry.overflow)

    def _miss(self, channel: str, gap: Gap, reason: str, overflow: Overflow) -> None:
        """Merge a gap into the one of its channel and epoch in front, or add it there."""
        key = (channel, gap.epoch)
        before = self._front.get(key)
        if isinstance(before, GapEntry):
            self.bytes -= before.size
            gap = _merge(before.gap, gap)
            # A gap that was only moved keeps its reason, so that a restart of Redis is not
            # attributed to the client.
            reason = reason if before.reason == reason else GapReason.SLOW
        self._front[key] = GapEntry(channel, gap, reason, "", overflow)
        self._unencoded[key] = None

    def _encode_gaps(self) -> None:
        for key in self._unencoded:
            missed = self._front[key]
            assert isinstance(missed, GapEntry)  # noqa: S101 - nothing else is unencoded
            text = self._encode_gap(missed.channel, missed.gap, missed.reason)
            self._front[key] = missed = missed._replace(text=text)
            self.bytes += missed.size
        self._unencoded.clear()


def _gap_of(entry: Pushes | GapEntry, *, but_last: bool) -> Gap | None:
    if isinstance(entry, GapEntry):
        return entry.gap
    last = entry.last - 1 if but_last else entry.last
    return Gap(entry.epoch, entry.first, last) if last >= entry.first else None


def _merge(before: Gap, after: Gap) -> Gap:
    """Merge two adjacent gaps of one channel and epoch."""
    last = None if before.last is None or after.last is None else max(before.last, after.last)
    return Gap(before.epoch, min(before.first, after.first), last)


def _last_of(entry: Pushes) -> Pushes:
    return entry._replace(
        first=entry.last, text=entry.newest, size=len(entry.newest.encode()), frame=b""
    )
