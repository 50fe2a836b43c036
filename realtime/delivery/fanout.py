"""Delivers arrivals on channels to all listeners.

The subscriber adds all arrivals of one read. Then a turn delivers them: grouped by channel, encoded
once per wire protocol in use, with one write per connection. Under light traffic nothing waits;
under heavy traffic the batches grow automatically. Arrivals that are added elsewhere are delivered
in the next turn of the event loop. A delivery iterates over a snapshot of the listeners in slices,
so that ten thousand listeners do not stall the loop. A channel has one delivery at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realtime.core.codes import SERVER_ERROR
from realtime.delivery.batch import SHORT_BYTES, Batch, Encode, EphemeralText, Notice, UnencodedText
from realtime.delivery.listeners import Listener, count_entry, write_to

if TYPE_CHECKING:
    from realtime.connection.entries import Entry
    from realtime.delivery.registry import Arrival, Channel
    from realtime.protocols import WireProtocol

logger = logging.getLogger(__name__)

SLICE_LISTENERS = 1000
"""Listeners served in one turn of the loop at most, so that other tasks get theirs."""
SLICE_SECONDS = 0.005
"""How long one turn may take, if its listeners are slow to write to."""
CHUNK_LISTENERS = 100
"""Listeners served between two checks of the clock."""
BACKLOG_BYTES = 4 * 1024 * 1024
"""Bytes that may wait; beyond it the subscription pauses, and Redis buffers (32 MiB by default)."""


@dataclass(slots=True)
class _Delivery:
    said: Batch | Notice
    listeners: Sequence[Listener]
    reached: int = 0
    after: Sequence[_Delivery] = ()
    """Deliveries that must finish first."""

    @property
    def is_done(self) -> bool:
        return self.reached == len(self.listeners)

    @property
    def may_begin(self) -> bool:
        return all(delivery.is_done for delivery in self.after)


class Fanout:
    """All deliveries of a node; runs as callbacks on the loop that created it, without a task."""

    def __init__(self) -> None:
        self._protocols: dict[WireProtocol, None] = {}  # of all listeners so far
        self._loop = asyncio.get_running_loop()
        self._batches: dict[Channel[Listener], Batch] = {}
        self._deliveries: dict[Channel[Listener], deque[_Delivery]] = {}
        self._backlog = 0
        self._space: asyncio.Future[None] | None = None
        self._turn_due = False
        self._is_collecting = False
        self._behind: dict[Listener, Channel[Listener]] = {}

    def expect(self, protocol: WireProtocol) -> None:
        """Prepare for listeners that use this protocol."""
        self._protocols[protocol] = None

    def add(self, channel: Channel[Listener], arrival: Arrival) -> None:
        """Queue an arrival for the channel's listeners: gaps first, then the publication."""
        if not channel.listeners:
            return
        batch = self._batch(channel)
        before = batch.bytes
        for gap in arrival.gaps:
            batch.add(gap, SHORT_BYTES)
            if gap.last is None:
                channel.meter.epochs_ended += 1
        if (envelope := arrival.envelope) is not None:
            epoch, body = envelope.position.epoch, envelope.body
            size = len(body) if body.isascii() else len(body.encode())
            batch.add((envelope, channel.announced_epoch != epoch), SHORT_BYTES + size)
            if envelope.sent_ms:
                batch.note_sent(envelope.sent_ms)
            channel.announced_epoch = epoch
        self._backlog += batch.bytes - before

    def collect(self) -> None:
        """Hold everything added from now on until `deliver` is called."""
        self._is_collecting = not self._turn_due  # a turn that is due delivers it anyway
        self._turn_due = True

    def deliver(self) -> None:
        """Deliver what was added since `collect`, without another turn of the event loop."""
        if self._is_collecting:
            self._is_collecting = False
            self._deliver_slice()

    def send_notice(self, channel: Channel[Listener], encode: Encode) -> None:
        """Send a text to all listeners, never dropped, after everything that is queued now.

        The state "live" must not overtake the gaps that report what the channels missed.
        """
        if not channel.listeners:
            return
        said = Notice(encode)
        for other in list(self._batches):
            self.seal(other)
        waiting = [delivery for queue in self._deliveries.values() for delivery in queue]
        delivery = _Delivery(said, tuple(channel.listeners), after=waiting)
        self._deliveries.setdefault(channel, deque()).append(delivery)
        self._backlog += said.bytes
        self._schedule()

    def send_ephemeral(self, channel: Channel[Listener], encode: Encode, size: int) -> None:
        """Send a text to all listeners that receive joins, in order with the publications.

        Args:
            channel: The channel of the listeners.
            encode: Encodes the text.
            size: Its approximate size in bytes.
        """
        if not channel.listeners:
            return
        self._batch(channel).add(UnencodedText(encode, size), size)
        self._backlog += size

    def take_behind(self) -> dict[Listener, Channel[Listener]]:
        """Return and clear the listeners that missed a join or leave because they were blocked."""
        behind, self._behind = self._behind, {}
        return behind

    def note_behind(self, behind: dict[Listener, Channel[Listener]]) -> None:
        """Keep listeners that were taken, because nothing could be sent to them."""
        self._behind = behind | self._behind

    def send_ephemeral_to(
        self, listener: Listener, channel: Channel[Listener], encode: Encode
    ) -> None:
        """Send a text to one listener, or record again that it is blocked."""
        if listener.active:
            text = encode(listener.writer.protocol)
            self._write_ephemeral(listener, channel, EphemeralText(text, len(text.encode())))

    def seal(self, channel: Channel[Listener]) -> None:
        """Fix the recipients of the pending batch: later listeners do not receive it."""
        batch = self._batches.pop(channel, None)
        if batch is None:
            return
        delivery = _Delivery(batch, tuple(channel.listeners))
        self._deliveries.setdefault(channel, deque()).append(delivery)

    def space(self) -> asyncio.Future[None] | None:
        """Return what is done when the backlog has room for more arrivals; None if it has room."""
        if not self.is_full:
            return None
        if self._space is None or self._space.done():  # cancelled with an earlier listener
            self._space = self._loop.create_future()
        return self._space

    @property
    def is_full(self) -> bool:
        """Whether the subscription must pause."""
        return self._backlog > BACKLOG_BYTES

    def _batch(self, channel: Channel[Listener]) -> Batch:
        batch = self._batches.get(channel)
        if batch is None:
            batch = self._batches[channel] = Batch(channel)
            self._schedule()
        return batch

    def _schedule(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._deliver_slice)

    def _deliver_slice(self) -> None:
        """Deliver for one time slice, then yield to the event loop."""
        self._turn_due = False
        until = self._loop.time() + SLICE_SECONDS
        budget = SLICE_LISTENERS
        for channel in [c for c in self._batches if c not in self._deliveries]:
            few = len(channel.listeners)
            if few <= CHUNK_LISTENERS and budget - few >= SLICE_LISTENERS // 2:
                budget -= few
                self._deliver_now(channel)
            else:
                self.seal(channel)
        while self._deliveries and budget > 0:  # one chunk, however long small channels have taken
            budget -= self._deliver_chunk()
            if self._loop.time() >= until:
                break
        if self._deliveries or self._batches:
            self._schedule()
        if self._space is not None and not self.is_full:
            if not self._space.done():  # cancelled with its listener
                self._space.set_result(None)
            self._space = None

    def _deliver_now(self, channel: Channel[Listener]) -> None:
        """Deliver to a few listeners without a queue; the common case with many quiet channels."""
        batch = self._batches.pop(channel)
        self._deliver(channel, tuple(channel.listeners), batch)
        batch.note_delivered(time.time())
        self._backlog -= batch.bytes

    def _deliver_chunk(self) -> int:
        """Deliver to some listeners of the next channel; return how many (at least one)."""
        channel, queue = next(iter(self._deliveries.items()))
        delivery = queue[0]
        end = delivery.reached + CHUNK_LISTENERS if delivery.may_begin else 0
        chunk = delivery.listeners[delivery.reached : end]
        self._deliver(channel, chunk, delivery.said)
        delivery.reached += len(chunk)
        if delivery.is_done:
            delivery.said.note_delivered(time.time())
            self._backlog -= queue.popleft().said.bytes
        del self._deliveries[channel]
        if queue:
            self._deliveries[channel] = queue  # behind the other channels
        return max(1, len(chunk))

    def _deliver(
        self, channel: Channel[Listener], listeners: Sequence[Listener], said: Batch | Notice
    ) -> None:
        if len(self._protocols) == 1:  # on nearly every node
            [protocol] = self._protocols
            self._deliver_entries(channel, listeners, said.entries(protocol))
            return
        for protocol in self._protocols:
            speakers = [each for each in listeners if each.writer.protocol is protocol]
            if speakers:
                self._deliver_entries(channel, speakers, said.entries(protocol))

    def _deliver_entries(
        self,
        channel: Channel[Listener],
        listeners: Sequence[Listener],
        entries: Sequence[Entry | EphemeralText],
    ) -> None:
        for entry in entries:
            if isinstance(entry, EphemeralText):
                for listener in listeners:
                    if listener.hears_joins and listener.active:
                        self._write_ephemeral(listener, channel, entry)
            elif reached := write_to(listeners, entry):
                count_entry(channel.meter, entry, reached)

    def _write_ephemeral(
        self, listener: Listener, channel: Channel[Listener], news: EphemeralText
    ) -> None:
        try:
            if not listener.writer.write_ephemeral(news.text, news.size):
                self._behind[listener] = channel
        except Exception:  # as in `write_to`
            logger.exception("delivering to a connection failed; closing it")
            listener.writer.end(SERVER_ERROR)
