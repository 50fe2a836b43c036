"""Tells this node's connections who is on their channels: when asked, and when it changes.

However many ask at once, Redis is asked once. Joins and leaves are told as they come, as long as
that is cheap; beyond it, once a second, how many there were and how many are here now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Never

from realtime.brokers import Broker
from realtime.driver import FRAME_BYTES
from realtime.errors import BrokerError
from realtime.fanout import Fanout, Listener
from realtime.membership import ANSWER_BYTES, UNKNOWN, Changes, Crier, Headcount, Member, listed
from realtime.protocols import WireProtocol
from realtime.registry import Channel, Registry

if TYPE_CHECKING:
    from realtime.attendance import Attendance

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
FRESH_SECONDS = 1.0
"""How long an answer is given again, if nobody is heard to come or go."""
AT_ONCE = 500
"""Channels whose members are counted in one round trip."""


class _Answer:
    """One question to Redis, and whoever waits for it."""

    def __init__(self, task: asyncio.Task[str], asked_at: float) -> None:
        self.task = task
        self.asked_at = asked_at
        self.is_stale = False


class Roster:
    """See the module. Belongs to one hub; `watch` is a task of each of its subscriptions."""

    def __init__(
        self,
        broker: Broker,
        attendance: Attendance,
        registry: Registry[Listener],
        fanout: Fanout,
        protocol: WireProtocol,
    ) -> None:
        self._presence = broker.presence
        self._attendance = attendance
        self._registry = registry
        self._fanout = fanout
        self._protocol = protocol
        self._criers: dict[Channel[Listener], Crier] = {}
        self._answers: dict[str, _Answer] = {}

    async def members(self, channel: str) -> str:
        """Return who is on a channel, as a JSON object of infos by client.

        Raises:
            TooManyMembers: There are more than a reply can name.
            BrokerError: Nobody knows now.
        """
        answer = self._answers.get(channel)
        now = asyncio.get_running_loop().time()
        if answer is None or answer.is_stale or now - answer.asked_at > FRESH_SECONDS:
            task = asyncio.get_running_loop().create_task(self._read(channel))
            task.add_done_callback(_noted)
            answer = self._answers[channel] = _Answer(task, now)
        return await asyncio.shield(answer.task)

    async def headcount(self, channel: str) -> Headcount:
        """Return how many are on a channel.

        Raises:
            BrokerError: Nobody knows now.
        """
        await self._attendance.settled(channel)
        [found] = await self._presence.headcounts([channel])
        return found

    def count_in(self, channel: Channel[Listener], member: Member) -> None:
        """Count a connection in on a channel that counts its members."""
        self._changed(channel.name)
        self._attendance.join(channel.name, member, is_told=channel.namespace.join_leave)

    def count_out(self, channel: Channel[Listener], client: str) -> None:
        """Count a connection out of such a channel."""
        self._changed(channel.name)
        self._attendance.leave(channel.name, client)

    def _changed(self, channel: str) -> None:
        """What was read of a channel's members holds no more."""
        if (answer := self._answers.get(channel)) is not None:
            answer.is_stale = True

    def hear(self, channel: Channel[Listener], changes: Changes) -> None:
        """Take what came on a channel about its members."""
        self._changed(channel.name)
        if not channel.namespace.join_leave:
            return
        now = asyncio.get_running_loop().time()
        crier = self._crier(channel, now)
        if crier.may_tell(changes, len(channel.listeners), now):
            for text in self._frames(channel.name, changes):
                self._fanout.tell(channel, text)

    def lost(self) -> None:
        """The broker was not heard for a while: nobody knows who came and went."""
        now = asyncio.get_running_loop().time()
        for channel in self._registry:
            if channel.namespace.join_leave and channel.listeners:
                self._crier(channel, now).lost()
        for answer in self._answers.values():
            answer.is_stale = True

    async def watch(self) -> Never:
        """Tell once a second, for as long as a subscription lasts, what was not told at once."""
        self.lost()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._forget()
            try:
                await self._sum_up()
            except BrokerError:
                continue  # the vigil finds out whether Redis is gone

    def stop(self) -> None:
        """Let go of questions that nobody waits for any more."""
        for answer in self._answers.values():
            answer.task.cancel()
        self._answers.clear()
        self._criers.clear()

    async def _read(self, channel: str) -> str:
        await self._attendance.settled(channel)
        return listed(await self._presence.members(channel, ANSWER_BYTES))

    def _crier(self, channel: Channel[Listener], now: float) -> Crier:
        crier = self._criers.get(channel)
        if crier is None:
            crier = self._criers[channel] = Crier(now)
        return crier

    def _frames(self, channel: str, changes: Changes) -> Iterator[str]:
        """Yield the pushes of joins and leaves, joined to frames."""
        texts: list[str] = []
        size = 0
        for text in self._pushes(channel, changes):
            if texts and size + len(text) >= FRAME_BYTES:
                yield "\n".join(texts)
                texts, size = [], 0
            texts.append(text)
            size += len(text) + 1
        yield "\n".join(texts)

    def _pushes(self, channel: str, changes: Changes) -> Iterable[str]:
        yield from (self._protocol.joined(channel, info) for info in changes.joined)
        yield from (self._protocol.left(channel, info) for info in changes.left)

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        for name, answer in list(self._answers.items()):
            if answer.task.done() and now - answer.asked_at > FRESH_SECONDS:
                del self._answers[name]
        for channel in list(self._criers):
            if self._registry.get(channel.name) is not channel:
                del self._criers[channel]

    async def _sum_up(self) -> None:
        """Tell how many joins and leaves there were that nobody was told of."""
        due = [c for c, crier in self._criers.items() if crier.untold and c.is_live]
        for start in range(0, len(due), AT_ONCE):
            await self._count(due[start : start + AT_ONCE])
        for channel in due:
            crier = self._criers.get(channel)
            if crier is not None and crier.headcount is not None:
                self._fanout.tell(channel, self._summary(channel, crier.untold, crier.headcount))
                crier.told()
        await self._tell_those_behind()

    async def _count(self, channels: list[Channel[Listener]]) -> None:
        unknown = [c for c in channels if self._criers[c].headcount is None]
        if not unknown:
            return
        counted = await self._presence.headcounts([channel.name for channel in unknown])
        for channel, headcount in zip(unknown, counted, strict=True):
            if (crier := self._criers.get(channel)) is not None:
                crier.headcount = headcount

    async def _tell_those_behind(self) -> None:
        """Tell connections that could not take a join or a leave how many are here now."""
        behind = self._fanout.take_behind()
        channels = list(dict.fromkeys(behind.values()))
        if not channels:
            return
        counted = await self._presence.headcounts([channel.name for channel in channels])
        counts = dict(zip(channels, counted, strict=True))
        for listener, channel in behind.items():
            self._fanout.tell_one(
                listener, channel, self._summary(channel, UNKNOWN, counts[channel])
            )

    def _summary(self, channel: Channel[Listener], untold: int, headcount: Headcount) -> str:
        known = None if untold == UNKNOWN else untold
        return self._protocol.headcount(channel.name, headcount, known)


def _noted(task: asyncio.Task[str]) -> None:
    """Look at how it ended, or asyncio would complain when nobody waits any more."""
    if not task.cancelled():
        task.exception()
