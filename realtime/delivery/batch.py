"""Queued arrivals on a channel, and their encoding in each wire protocol in use.

A batch is encoded when it is delivered, once per protocol: consecutive publications become the text
of one write, and its WebSocket frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from realtime.connection.entries import Entry, GapEntry, Pushes, Undroppable
from realtime.core.envelope import Envelope
from realtime.core.positions import Gap, GapReason, Position
from realtime.protocols import JOINED_FRAME_BYTES, WireProtocol

if TYPE_CHECKING:
    from realtime.delivery.registry import Channel

SHORT_BYTES = 128
"""Approximate size of a gap, of a state, and of a publication's overhead."""

Encode = Callable[[WireProtocol], str]
"""Encodes a text of one or more lines, joined by newlines, in a given wire protocol."""


class EphemeralText(NamedTuple):
    """An ephemeral text, such as a join; a congested listener gets a summary instead."""

    text: str
    size: int


class UnencodedText(NamedTuple):
    """An ephemeral text that is not encoded yet."""

    encode: Encode
    size: int


_Item = tuple[Envelope, bool] | Gap | UnencodedText
"""An item of a batch: a publication and whether its push names the epoch, a gap, or a text."""


class Batch:
    """The arrivals on a channel that are not delivered yet."""

    __slots__ = ("_channel", "_encoded", "_items", "_sent", "bytes")

    def __init__(self, channel: Channel[Any]) -> None:
        self._channel = channel
        self._items: list[_Item] = []
        self._encoded: dict[WireProtocol, Sequence[Entry | EphemeralText]] = {}
        self._sent: dict[int, int] = {}  # publications by the millisecond of their acceptance
        self.bytes = 0

    def add(self, item: _Item, size: int) -> None:
        """Append an item of this size."""
        self._items.append(item)
        self.bytes += size

    def note_sent(self, milliseconds: int) -> None:
        """Note when a publication in it was accepted, by its envelope."""
        self._sent[milliseconds] = self._sent.get(milliseconds, 0) + 1

    def note_delivered(self, now: float) -> None:
        """Measure how long its publications took; ``now`` is in seconds since 1970."""
        for milliseconds, count in self._sent.items():
            self._channel.meter.delays.observe(now - milliseconds / 1000, count)

    def entries(self, protocol: WireProtocol) -> Sequence[Entry | EphemeralText]:
        """Return the entries in one protocol, encoded once for all its listeners."""
        entries = self._encoded.get(protocol)
        if entries is None:
            encoder = _BatchEncoder(self._channel, protocol)
            entries = self._encoded[protocol] = encoder.encode_all(self._items)
        return entries


class Notice:
    """A text for all listeners that is never dropped."""

    __slots__ = ("_encode", "_encoded", "bytes")

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._encoded: dict[WireProtocol, Sequence[Undroppable]] = {}
        self.bytes = SHORT_BYTES

    def note_delivered(self, now: float) -> None:
        """Measure nothing."""

    def entries(self, protocol: WireProtocol) -> Sequence[Undroppable]:
        """Return the text in one protocol, encoded once for all its listeners."""
        entries = self._encoded.get(protocol)
        if entries is None:
            text = self._encode(protocol)
            entries = self._encoded[protocol] = [Undroppable(text, len(text.encode()))]
        return entries


class _BatchEncoder:
    """Encodes arrivals on a channel as outbox entries, in one protocol."""

    __slots__ = ("_channel", "_entries", "_first", "_last", "_protocol", "_size", "_texts")

    def __init__(self, channel: Channel[Any], protocol: WireProtocol) -> None:
        self._channel = channel
        self._protocol = protocol
        self._entries: list[Entry | EphemeralText] = []
        self._texts: list[str] = []
        self._size = 0
        self._first: Position | None = None
        self._last: Position | None = None

    def encode_all(self, items: Sequence[_Item]) -> Sequence[Entry | EphemeralText]:
        for item in items:
            if isinstance(item, Gap):
                self._add(_encode_gap(self._channel, item, self._protocol))
            elif isinstance(item, UnencodedText):
                text = item.encode(self._protocol)
                self._add(EphemeralText(text, len(text.encode())))
            else:
                self._push(*item)
        self._end_run()
        return self._entries

    def _push(self, envelope: Envelope, first_of_epoch: bool) -> None:
        position = envelope.position
        text = self._protocol.encode_publication(
            self._channel.name, position, envelope.body, first_of_epoch=first_of_epoch
        )
        size = len(text) if text.isascii() else len(text.encode())
        if self._first is None:
            self._first = position
        elif self._size + size >= JOINED_FRAME_BYTES:
            self._end_run()
            self._first = position
        self._last = position
        self._texts.append(text)
        self._size += size + 1

    def _add(self, entry: Entry | EphemeralText) -> None:
        self._end_run()
        self._entries.append(entry)

    def _end_run(self) -> None:
        """Join consecutive publications into the text of one write."""
        if self._first is None or self._last is None:
            return
        text = "\n".join(self._texts)
        pushes = Pushes(
            channel=self._channel.name,
            epoch=self._first.epoch,
            first=self._first.offset,
            last=self._last.offset,
            text=text,
            size=self._size - 1,
            newest=self._texts[-1],
            overflow=self._channel.namespace.overflow,
            frame=self._protocol.wire_frames(text),
        )
        self._entries.append(pushes)
        self._texts = []
        self._size = 0
        self._first = self._last = None


def _encode_gap(channel: Channel[Any], gap: Gap, protocol: WireProtocol) -> GapEntry:
    reason = GapReason.BROKER
    text = protocol.encode_gap(channel.name, gap, reason)
    return GapEntry(channel.name, gap, reason, text, channel.namespace.overflow)
