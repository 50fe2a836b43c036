"""Writes down which of this node's connections are on channels, where others can read it.

One task does all the writing: what it has to say about a member is what is true when its turn
comes, so whoever comes and goes within a moment was never there, and a write that failed is simply
made again. With each new subscription to the broker the node begins anew under another name: whom
it cannot count out, since it does not know whether Redis still has him, ends with the old one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Never

from realtime.brokers import Broker
from realtime.errors import BrokerError
from realtime.membership import BEAT_SECONDS, Member, Roll

PAUSE_SECONDS = 0.05
"""Between two writes: what happens meanwhile goes into one."""
RETRY_SECONDS = 0.5
RENEW_SECONDS = 60.0
CHANGES_AT_ONCE = 500
"""Members in one write, of all channels."""
CHANNELS_AT_ONCE = 500
"""Channels that are renewed in one round trip."""
NAMES_LIMIT = 8
"""Earlier names that the node still leaves itself; the others' leases end."""
GOODBYE_SECONDS = 1.0


class Attendance:
    """See the module. Belongs to one hub; `keep` is a task of each of its subscriptions."""

    def __init__(self, broker: Broker) -> None:
        self._presence = broker.presence
        self._members: dict[str, dict[str, Member]] = {}
        self._told: dict[str, bool] = {}
        self._dirty: dict[str, dict[str, Member | None]] = {}
        self._writing: dict[str, dict[str, Member | None]] = {}
        self._is_kept = False
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._name = ""
        self._earlier: list[str] = []
        self._beat_at = self._renew_at = 0.0
        self._is_new = True

    def join(self, channel: str, member: Member, *, is_told: bool) -> None:
        """A connection is on a channel from now on.

        Args:
            channel: Its name.
            member: The connection.
            is_told: Whether others on the channel hear of it.
        """
        self._members.setdefault(channel, {})[member.client] = member
        self._told[channel] = is_told
        self._note(channel, member.client, member)

    def leave(self, channel: str, client: str) -> None:
        """A connection is on a channel no more."""
        members = self._members.get(channel, {})
        if members.pop(client, None) is None:
            return
        self._note(channel, client, None)
        if not members:
            del self._members[channel]

    async def settled(self, channel: str) -> None:
        """Wait until Redis knows what this node has to say about a channel."""
        while channel in self._dirty or channel in self._writing:
            self._written.clear()
            await self._written.wait()

    async def keep(self) -> Never:
        """Tell Redis, for as long as a subscription lasts."""
        self._begin()
        self._is_kept = True
        try:
            while True:
                try:
                    await self._step()
                except BrokerError:  # the vigil finds out whether Redis is gone
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._is_kept = False

    async def aclose(self) -> None:
        """Leave, so that nobody has to wait for the end of a lease."""
        self._begin()
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._leave_earlier_names()

    def _note(self, channel: str, client: str, member: Member | None) -> None:
        if self._is_kept:  # otherwise `_begin` will see who is here
            self._dirty.setdefault(channel, {})[client] = member
            self._wake.set()

    def _begin(self) -> None:
        """Begin under a new name, and with all members to be written."""
        if self._name:
            self._earlier = [*self._earlier, self._name][-NAMES_LIMIT:]
        self._name = secrets.token_hex(8)
        self._writing = {}
        self._dirty = {channel: dict(members) for channel, members in self._members.items()}
        self._beat_at = 0.0
        self._renew_at = asyncio.get_running_loop().time() + RENEW_SECONDS
        self._is_new = True

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake.clear()
        if loop.time() >= self._beat_at:
            has_more = await self._beat()
            self._beat_at = loop.time() + (PAUSE_SECONDS if has_more else BEAT_SECONDS)
        if loop.time() >= self._renew_at:
            await self._renew()
            self._renew_at = loop.time() + RENEW_SECONDS
        if self._dirty:
            await self._write()
            await asyncio.sleep(PAUSE_SECONDS)
            return
        await self._leave_earlier_names()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._beat_at, self._renew_at)):
                await self._wake.wait()

    async def _beat(self) -> bool:
        """Renew the lease, and count out nodes that did not; return whether there is more to do."""
        is_known, gone = await self._presence.lease(self._name, is_new=self._is_new)
        if not is_known:  # we were frozen, and others have counted our members out
            self._begin()
            return True
        self._is_new = False
        for name in gone:
            if await self._presence.sweep(name):
                return True  # with the next beat; what happens here comes first
        return False

    async def _renew(self) -> None:
        """Keep our channels from being forgotten; write down again what was."""
        channels = list(self._members)
        for start in range(0, len(channels), CHANNELS_AT_ONCE):
            some = channels[start : start + CHANNELS_AT_ONCE]
            for channel in await self._presence.keep(self._name, some):
                for client, member in self._members.get(channel, {}).items():
                    self._note(channel, client, member)

    async def _write(self) -> None:
        self._writing = dict(self._some())
        rolls = [self._roll(channel, changes) for channel, changes in self._writing.items()]
        try:
            await self._presence.change(self._name, rolls)
        except BrokerError:
            for channel, changes in self._writing.items():
                self._dirty[channel] = {**changes, **self._dirty.get(channel, {})}
            raise
        finally:
            written, self._writing = self._writing, {}
            self._written.set()
        for channel in written:
            if channel not in self._members and channel not in self._dirty:
                self._told.pop(channel, None)

    def _some(self) -> Iterator[tuple[str, dict[str, Member | None]]]:
        """Take what goes into one write."""
        room = CHANGES_AT_ONCE
        for channel in list(self._dirty):
            if room <= 0:
                return
            changes = self._dirty.pop(channel)
            now = dict(islice(changes.items(), room))
            if len(now) < len(changes):
                self._dirty[channel] = {c: m for c, m in changes.items() if c not in now}
            room -= len(now)
            yield channel, now

    def _roll(self, channel: str, changes: dict[str, Member | None]) -> Roll:
        is_here = channel in self._members or channel in self._dirty
        return Roll(channel, changes, self._told.get(channel, False), is_here)

    async def _leave_earlier_names(self) -> None:
        """Count out whoever was here under an earlier name of ours and is no more."""
        while self._earlier:
            while await self._presence.sweep(self._earlier[-1], is_leaving=True):
                pass
            self._earlier.pop()
