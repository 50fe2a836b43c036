"""Brings what arrived on a channel to everybody who listens.

The reader adds arrivals as long as the broker's socket has some; when it has to wait for more, the
turn comes that delivers them: grouped by channel, encoded once, one frame for each connection. When
traffic is light nothing waits, when it is heavy the frames grow by themselves. A delivery goes over
a snapshot of the listeners in slices, so that ten thousand of them do not stall the loop; a channel
has one delivery at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from realtime.codes import SERVER_ERROR
from realtime.driver import FRAME_BYTES, Driver
from realtime.frames import text_frame
from realtime.gaps import Gap, Position
from realtime.outbox import Control, Entry, Missed, Pushes
from realtime.protocols import WireProtocol
from realtime.registry import Arrival, Channel

logger = logging.getLogger(__name__)

SLICE_LISTENERS = 1000
SLICE_SECONDS = 0.005
CHUNK_LISTENERS = 100
"""Deliveries between two looks at the clock."""
BACKLOG_BYTES = 4 * 1024 * 1024
"""What may wait here; beyond it the reader stops, and Redis buffers (32 MiB by default)."""


class Listener:
    """One connection on one channel, from joining to leaving."""

    __slots__ = ("active", "driver", "hears_joins")

    def __init__(self, driver: Driver, *, hears_joins: bool = False) -> None:
        self.driver = driver
        self.active = True
        self.hears_joins = hears_joins


class News(NamedTuple):
    """What is worth hearing only now, such as a join: who cannot take it at once hears less."""

    text: str
    size: int


class _Batch:
    """What arrived on a channel and is not delivered yet, as entries of outboxes."""

    __slots__ = ("_channel", "_entries", "_first", "_last", "_size", "_texts", "bytes")

    def __init__(self, channel: Channel[Listener]) -> None:
        self._channel = channel
        self._entries: list[Entry | News] = []
        self._texts: list[str] = []
        self._size = 0
        self._first: Position | None = None
        self._last: Position | None = None
        self.bytes = 0

    def push(self, position: Position, text: str) -> None:
        size = len(text) if text.isascii() else len(text.encode())
        if self._first is None:
            self._first = position
        elif self._size + size >= FRAME_BYTES:
            self._end_run()
            self._first = position
        self._last = position
        self._texts.append(text)
        self._size += size + 1
        self.bytes += size

    def add(self, entry: Entry | News) -> None:
        self._end_run()
        self._entries.append(entry)
        self.bytes += entry.size

    def entries(self) -> Sequence[Entry | News]:
        self._end_run()
        return self._entries

    def _end_run(self) -> None:
        """Join the publications that follow on each other to the text of one frame."""
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
            frame=text_frame(text.encode()),
        )
        self._entries.append(pushes)
        self._texts = []
        self._size = 0
        self._first = self._last = None


@dataclass(slots=True)
class _Delivery:
    entries: Sequence[Entry | News]
    bytes: int
    listeners: Sequence[Listener]
    reached: int = 0
    after: Sequence[_Delivery] = ()
    """What must be done before."""

    @property
    def is_done(self) -> bool:
        return self.reached == len(self.listeners)

    @property
    def may_begin(self) -> bool:
        return all(delivery.is_done for delivery in self.after)


class Fanout:
    """All deliveries of a node: callbacks on the loop that it is made in, no task."""

    def __init__(self, protocol: WireProtocol) -> None:
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._batches: dict[Channel[Listener], _Batch] = {}
        self._deliveries: dict[Channel[Listener], deque[_Delivery]] = {}
        self._backlog = 0
        self._room: asyncio.Future[None] | None = None
        self._turn_due = False
        self._behind: dict[Listener, Channel[Listener]] = {}

    def add(self, channel: Channel[Listener], arrival: Arrival) -> None:
        """Take an arrival for the channel's listeners: gaps first, then the publication."""
        if not channel.listeners:
            return
        batch = self._batch(channel)
        before = batch.bytes
        for gap in arrival.gaps:
            batch.add(self._missed(channel, gap))
        if arrival.envelope is not None:
            position, content = arrival.envelope
            first_of_epoch = channel.told_epoch != position.epoch
            text = self._protocol.publication(
                channel.name, position, content, first_of_epoch=first_of_epoch
            )
            batch.push(position, text)
            channel.told_epoch = position.epoch
        self._backlog += batch.bytes - before

    def announce(self, channel: Channel[Listener], text: str) -> None:
        """Say the same to all listeners, never dropped, after all that waits for anybody now.

        That a node is live again must not overtake the gap that tells what its channels missed.
        """
        if not channel.listeners:
            return
        control = Control(text, len(text.encode()))
        for other in list(self._batches):
            self.seal(other)
        waiting = [delivery for queue in self._deliveries.values() for delivery in queue]
        said = _Delivery([control], control.size, tuple(channel.listeners), after=waiting)
        self._deliveries.setdefault(channel, deque()).append(said)
        self._backlog += control.size
        self._schedule()

    def tell(self, channel: Channel[Listener], text: str) -> None:
        """Say the same to all listeners that hear joins, in its place among the publications."""
        if not channel.listeners:
            return
        batch = self._batch(channel)
        news = News(text, len(text.encode()))
        batch.add(news)
        self._backlog += news.size

    def take_behind(self) -> dict[Listener, Channel[Listener]]:
        """Return who could not take what it was told, and where."""
        behind, self._behind = self._behind, {}
        return behind

    def tell_one(self, listener: Listener, channel: Channel[Listener], text: str) -> None:
        """Say it to one listener, or note again that it could not take it."""
        if listener.active:
            self._tell(listener, channel, News(text, len(text.encode())))

    def seal(self, channel: Channel[Listener]) -> None:
        """Give what waits to those who listen now; whoever joins later hears nothing of it."""
        batch = self._batches.pop(channel, None)
        if batch is None:
            return
        delivery = _Delivery(batch.entries(), batch.bytes, tuple(channel.listeners))
        self._deliveries.setdefault(channel, deque()).append(delivery)

    async def room(self) -> None:
        """Wait until so little waits here that more may be read from the broker."""
        if self._backlog > BACKLOG_BYTES:
            self._room = self._loop.create_future()
            await self._room

    @property
    def is_full(self) -> bool:
        """Whether the reader has to wait."""
        return self._backlog > BACKLOG_BYTES

    def _missed(self, channel: Channel[Listener], gap: Gap) -> Missed:
        reason = "broker"
        text = self._protocol.gap(channel.name, gap, reason)
        return Missed(channel.name, gap, reason, text, channel.namespace.overflow)

    def _batch(self, channel: Channel[Listener]) -> _Batch:
        batch = self._batches.get(channel)
        if batch is None:
            batch = self._batches[channel] = _Batch(channel)
            self._schedule()
        return batch

    def _schedule(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Deliver for a slice of time, then let others on the loop have theirs."""
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
        while self._deliveries and budget > 0 and self._loop.time() < until:
            budget -= self._deliver_chunk()
        if self._deliveries or self._batches:
            self._schedule()
        if self._room is not None and not self.is_full:
            if not self._room.done():  # cancelled with its reader, when the subscription broke
                self._room.set_result(None)
            self._room = None

    def _deliver_now(self, channel: Channel[Listener]) -> None:
        """Deliver to few without a queue: a node of many quiet channels does nothing else."""
        batch = self._batches.pop(channel)
        self._deliver(channel, tuple(channel.listeners), batch.entries())
        self._backlog -= batch.bytes

    def _deliver_chunk(self) -> int:
        """Deliver to some listeners of the channel whose turn it is; return how many that were."""
        channel, queue = next(iter(self._deliveries.items()))
        delivery = queue[0]
        end = delivery.reached + CHUNK_LISTENERS if delivery.may_begin else 0
        chunk = delivery.listeners[delivery.reached : end]
        self._deliver(channel, chunk, delivery.entries)
        delivery.reached += len(chunk)
        if delivery.is_done:
            self._backlog -= queue.popleft().bytes
        del self._deliveries[channel]
        if queue:
            self._deliveries[channel] = queue  # behind the other channels
        return max(1, len(chunk))

    def _deliver(
        self,
        channel: Channel[Listener],
        listeners: Sequence[Listener],
        entries: Sequence[Entry | News],
    ) -> None:
        for entry in entries:
            if isinstance(entry, News):
                for listener in listeners:
                    if listener.hears_joins and listener.active:
                        self._tell(listener, channel, entry)
            else:
                _deliver(listeners, entry)

    def _tell(self, listener: Listener, channel: Channel[Listener], news: News) -> None:
        try:
            if not listener.driver.tell(news.text, news.size):
                self._behind[listener] = channel
        except Exception:  # as for publications
            logger.exception("a delivery failed; its connection ends")
            listener.driver.end(SERVER_ERROR)


def _deliver(listeners: Sequence[Listener], entry: Entry) -> None:
    frame = entry.frame if isinstance(entry, Pushes) else b""
    size = entry.size
    for listener in listeners:
        if listener.active:
            try:
                if frame:
                    listener.driver.push_frame(entry, frame, size)  # type: ignore[arg-type]
                else:
                    listener.driver.push(entry)
            except Exception:  # the hub's outermost loop: it may cost no neighbour anything
                logger.exception("a delivery failed; its connection ends")
                listener.driver.end(SERVER_ERROR)
