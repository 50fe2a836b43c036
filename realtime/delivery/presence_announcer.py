"""Reports the members of channels to this node's clients: on request, and when they change.

Concurrent requests for one channel share a single query to Redis. Joins and leaves are sent
individually while that is cheap. Above that rate, listeners get a summary once a second: the number
of changes and the current number of members.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Never

from realtime.core.members import (
    ANSWER_BYTES,
    UNKNOWN_COUNT,
    AnnouncementThrottle,
    Changes,
    Headcount,
    Member,
    encode_members,
)
from realtime.delivery.batch import SHORT_BYTES, Encode
from realtime.errors import BrokerError
from realtime.protocols import JOINED_FRAME_BYTES

if TYPE_CHECKING:
    from realtime.brokers import Broker
    from realtime.delivery.fanout import Fanout
    from realtime.delivery.listeners import Listener
    from realtime.delivery.presence_writer import PresenceWriter
    from realtime.delivery.registry import Channel, Registry
    from realtime.protocols import WireProtocol

logger = logging.getLogger(__name__)

SUMMARY_SECONDS = 1.0
ANSWER_REUSE_SECONDS = 1.0
"""How long an answer is reused, unless a join or leave arrives."""
COUNTED_AT_ONCE = 500
"""Channels whose members are counted in one round trip."""


class _Answer:
    """One query to Redis, shared by all callers that wait for it."""

    task: asyncio.Task[str]

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at
        self.has_begun = False
        """Whether it is reading; before, it waits until this node has written its own changes."""
        self.is_stale = False

    def may_be_shared(self, now: float) -> bool:
        """Tell whether the answer is, or will be, new enough for whoever asks now."""
        if not self.has_begun and not self.task.done():
            return True
        return not self.is_stale and now - self.asked_at <= ANSWER_REUSE_SECONDS


class PresenceAnnouncer:
    """See the module. Belongs to one hub; `watch` is a task of each of its subscriptions."""

    def __init__(
        self,
        broker: Broker,
        writer: PresenceWriter,
        registry: Registry[Listener],
        fanout: Fanout,
    ) -> None:
        self._presence = broker.presence
        self._writer = writer
        self._registry = registry
        self._fanout = fanout
        self._throttles: dict[Channel[Listener], AnnouncementThrottle] = {}
        self._answers: dict[str, _Answer] = {}

    async def members(self, channel: str) -> str:
        """Return the members of a channel, as a JSON object of infos by client.

        Raises:
            TooManyMembers: There are more members than fit into a reply.
            BrokerError: Redis did not answer.
        """
        answer = self._answers.get(channel)
        now = asyncio.get_running_loop().time()
        if answer is None or not answer.may_be_shared(now):
            answer = self._answers[channel] = _Answer(now)
            answer.task = asyncio.get_running_loop().create_task(self._read(channel, answer))
            answer.task.add_done_callback(_retrieve_exception)
        return await asyncio.shield(answer.task)

    async def headcount(self, channel: str) -> Headcount:
        """Return the number of clients and users on a channel.

        Raises:
            BrokerError: Redis did not answer.
        """
        await self._writer.wait_until_written(channel)
        [found] = (await self._presence.headcounts([channel])).values()
        return found

    def count_in(self, channel: Channel[Listener], member: Member) -> None:
        """Add a connection to a channel that counts its members."""
        self._invalidate(channel.name)
        self._writer.join(channel.name, member, is_announced=channel.namespace.join_leave)

    def count_out(self, channel: Channel[Listener], client: str) -> None:
        """Remove a connection from a channel that counts its members."""
        self._invalidate(channel.name)
        self._writer.leave(channel.name, client)

    def _invalidate(self, channel: str) -> None:
        """Invalidate the cached members of a channel."""
        if (answer := self._answers.get(channel)) is not None:
            answer.is_stale = True

    def hear(self, channel: Channel[Listener], changes: Changes) -> None:
        """Process joins and leaves that arrived on a channel."""
        self._invalidate(channel.name)
        if not channel.namespace.join_leave:
            return
        now = asyncio.get_running_loop().time()
        throttle = self._throttle(channel, now)
        if throttle.admits(changes, len(channel.listeners), now):
            for encode, size in _frames(channel.name, changes):
                self._fanout.send_ephemeral(channel, encode, size)

    def note_loss(self) -> None:
        """Record that joins and leaves may have been missed during an outage of the broker."""
        now = asyncio.get_running_loop().time()
        for channel in self._registry:
            if channel.namespace.join_leave and channel.listeners:
                self._throttle(channel, now).note_loss()
        for answer in self._answers.values():
            answer.is_stale = True

    async def watch(self) -> Never:
        """Send summaries of unsent joins and leaves once a second until the subscription ends."""
        self.note_loss()
        while True:
            await asyncio.sleep(SUMMARY_SECONDS)
            self._forget()
            try:
                await self._sum_up()
            except BrokerError:
                continue  # the watchdog detects an outage of Redis

    def stop(self) -> None:
        """Cancel all pending queries."""
        for answer in self._answers.values():
            answer.task.cancel()
        self._answers.clear()
        self._throttles.clear()

    async def _read(self, channel: str, answer: _Answer) -> str:
        await self._writer.wait_until_written(channel)
        answer.has_begun, answer.is_stale = True, False
        return encode_members(await self._presence.members(channel, ANSWER_BYTES))

    def _throttle(self, channel: Channel[Listener], now: float) -> AnnouncementThrottle:
        throttle = self._throttles.get(channel)
        if throttle is None:
            throttle = self._throttles[channel] = AnnouncementThrottle(now)
        return throttle

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        for name, answer in list(self._answers.items()):
            if answer.task.done() and now - answer.asked_at > ANSWER_REUSE_SECONDS:
                del self._answers[name]
        for channel in list(self._throttles):
            if self._registry.get(channel.name) is not channel:
                del self._throttles[channel]

    async def _sum_up(self) -> None:
        """Send each channel the number of joins and leaves that were not sent individually."""
        due = [c for c, throttle in self._throttles.items() if throttle.untold and c.is_live]
        for start in range(0, len(due), COUNTED_AT_ONCE):
            await self._count(due[start : start + COUNTED_AT_ONCE])
        for channel in due:
            throttle = self._throttles.get(channel)
            if throttle is not None and throttle.headcount is not None:
                summary = _summary(channel, throttle.untold, throttle.headcount)
                self._fanout.send_ephemeral(channel, summary, SHORT_BYTES)
                throttle.note_count_sent()
        await self._update_those_behind()

    async def _count(self, channels: list[Channel[Listener]]) -> None:
        unknown = [c for c in channels if self._throttles[c].headcount is None]
        if not unknown:
            return
        counted = await self._presence.headcounts([channel.name for channel in unknown])
        for channel in unknown:
            if (throttle := self._throttles.get(channel)) is not None:
                throttle.headcount = counted.get(channel.name)

    async def _update_those_behind(self) -> None:
        """Send the current headcount to listeners that missed a join or leave."""
        behind = self._fanout.take_behind()
        channels = list(dict.fromkeys(behind.values()))
        if not channels:
            return
        try:
            counted = await self._presence.headcounts([channel.name for channel in channels])
        except BrokerError:
            self._fanout.note_behind(behind)
            raise
        for listener, channel in behind.items():
            if (headcount := counted.get(channel.name)) is not None:
                summary = _summary(channel, UNKNOWN_COUNT, headcount)
                self._fanout.send_ephemeral_to(listener, channel, summary)
        self._fanout.note_behind({n: c for n, c in behind.items() if c.name not in counted})


def _frames(channel: str, changes: Changes) -> Iterator[tuple[Encode, int]]:
    """Yield encoders for pushes of joins and leaves, each for as many as fit into a frame."""
    came = [(True, info) for info in changes.joined]
    went = [(False, info) for info in changes.left]
    some: list[tuple[bool, str]] = []
    size = 0
    for change in came + went:
        length = SHORT_BYTES + len(change[1])
        if some and size + length >= JOINED_FRAME_BYTES:
            yield partial(_pushes, channel, some), size
            some, size = [], 0
        some.append(change)
        size += length
    yield partial(_pushes, channel, some), size


def _pushes(channel: str, changes: Sequence[tuple[bool, str]], protocol: WireProtocol) -> str:
    return "\n".join(
        protocol.encode_join(channel, info) if has_come else protocol.encode_leave(channel, info)
        for has_come, info in changes
    )


def _summary(channel: Channel[Listener], untold: int, headcount: Headcount) -> Encode:
    known = None if untold == UNKNOWN_COUNT else untold
    return lambda protocol: protocol.encode_headcount(channel.name, headcount, known)


def _retrieve_exception(task: asyncio.Task[str]) -> None:
    """Retrieve the exception, or asyncio would log it when no caller waits any more."""
    if not task.cancelled():
        task.exception()
