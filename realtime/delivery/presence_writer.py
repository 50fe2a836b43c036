"""Writes this node's members of channels to Redis, where other nodes read them.

A single task does all the writing. It writes the current state of each changed member, so a join
and a leave in quick succession cancel out, and failed writes are retried. With each new
subscription to the broker, the node starts again under a new name. Members that Redis may still
have without the node's knowledge are removed together with the old name.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Never

from realtime.core.members import LEASE_RENEWAL_SECONDS, Member, MemberUpdate
from realtime.errors import BrokerError

if TYPE_CHECKING:
    from realtime.brokers import Broker

PAUSE_SECONDS = 0.05
"""The pause between two writes; changes during it share one write."""
RETRY_SECONDS = 0.5
MEMBERS_RENEWAL_SECONDS = 60.0
CHANGES_AT_ONCE = 500
"""Members in one write, over all channels."""
CHANNELS_AT_ONCE = 500
"""Channels that are renewed in one round trip."""
NAMES_LIMIT = 8
"""Earlier names that the node removes itself; the leases of older ones expire."""
GOODBYE_SECONDS = 1.0


class PresenceWriter:
    """See the module. Belongs to one hub; `keep` is a task of each of its subscriptions."""

    def __init__(self, broker: Broker) -> None:
        self._presence = broker.presence
        self._members: dict[str, dict[str, Member]] = {}
        self._announced: dict[str, bool] = {}
        self._dirty: dict[str, dict[str, Member | None]] = {}
        self._writing: dict[str, dict[str, Member | None]] = {}
        self._is_kept = False
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._name = ""
        self._earlier: list[str] = []
        self._lease_at = self._renew_at = 0.0
        self._is_new = True

    @property
    def members(self) -> int:
        """The number of members, each counted once for each of its channels."""
        return sum(map(len, list(self._members.values())))

    def join(self, channel: str, member: Member, *, is_announced: bool) -> None:
        """Add a connection to the members of a channel.

        Args:
            channel: The name of the channel.
            member: The connection.
            is_announced: Whether joins and leaves are announced on the channel.
        """
        self._members.setdefault(channel, {})[member.client] = member
        self._announced[channel] = is_announced
        self._note(channel, member.client, member)

    def leave(self, channel: str, client: str) -> None:
        """Remove a connection from the members of a channel."""
        members = self._members.get(channel, {})
        if members.pop(client, None) is None:
            return
        self._note(channel, client, None)
        if not members:
            del self._members[channel]
            if not self._is_kept:
                self._announced.pop(channel, None)

    async def wait_until_written(self, channel: str) -> None:
        """Wait until all changes of this node on a channel are written to Redis."""
        while channel in self._dirty or channel in self._writing:
            self._written.clear()
            await self._written.wait()

    async def keep(self) -> Never:
        """Write changes to Redis until the subscription ends."""
        self._begin()
        self._is_kept = True
        try:
            while True:
                try:
                    await self._step()
                except BrokerError:  # the watchdog detects an outage of Redis
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._is_kept = False

    async def aclose(self) -> None:
        """Remove the members of this node immediately, instead of when its lease expires."""
        self._begin()
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._leave_earlier_names()

    def _note(self, channel: str, client: str, member: Member | None) -> None:
        if self._is_kept:  # otherwise `_begin` writes all members anyway
            self._dirty.setdefault(channel, {})[client] = member
            self._wake.set()

    def _begin(self) -> None:
        """Start under a new name, with all members marked as changed."""
        if self._name:
            self._earlier = [*self._earlier, self._name][-NAMES_LIMIT:]
        self._name = secrets.token_hex(8)
        self._writing = {}
        self._dirty = {channel: dict(members) for channel, members in self._members.items()}
        self._written.set()  # a channel without members is not written any more
        self._lease_at = 0.0
        self._renew_at = asyncio.get_running_loop().time() + MEMBERS_RENEWAL_SECONDS
        self._is_new = True

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake.clear()
        if loop.time() >= self._lease_at:
            has_more = await self._renew_lease()
            self._lease_at = loop.time() + (PAUSE_SECONDS if has_more else LEASE_RENEWAL_SECONDS)
        if loop.time() >= self._renew_at:
            await self._renew()
            self._renew_at = loop.time() + MEMBERS_RENEWAL_SECONDS
        if self._dirty:
            is_written = await self._write()
            await asyncio.sleep(PAUSE_SECONDS if is_written else RETRY_SECONDS)
            return
        await self._leave_earlier_names()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._lease_at, self._renew_at)):
                await self._wake.wait()

    async def _renew_lease(self) -> bool:
        """Renew the lease and sweep expired nodes; return whether more remains to be swept."""
        is_known, gone = await self._presence.lease(self._name, is_new=self._is_new)
        if not is_known:  # the process was paused, and other nodes removed our members
            self._begin()
            return True
        self._is_new = False
        for name in gone:
            if await self._presence.sweep(name):
                return True  # continues with the next beat; own changes come first
        return False

    async def _renew(self) -> None:
        """Keep our channels from expiring; write the members of expired ones again."""
        channels = list(self._members)
        for start in range(0, len(channels), CHANNELS_AT_ONCE):
            some = channels[start : start + CHANNELS_AT_ONCE]
            for channel in await self._presence.keep(self._name, some):
                for client, member in self._members.get(channel, {}).items():
                    self._note(channel, client, member)

    async def _write(self) -> bool:
        """Write some changes; return whether all of these are written."""
        self._writing = dict(self._some())
        updates = [
            self._make_update(channel, changes) for channel, changes in self._writing.items()
        ]
        try:
            unwritten = await self._presence.change(self._name, updates)
            self._put_back(unwritten)
        except BrokerError:
            self._put_back(self._writing)
            raise
        finally:
            written, self._writing = self._writing, {}
            self._written.set()
        for channel in written:
            if channel not in self._members and channel not in self._dirty:
                self._announced.pop(channel, None)
        return not unwritten

    def _put_back(self, channels: Collection[str]) -> None:
        """Mark what was being written as changed again, behind the changes of other channels."""
        for channel in channels:
            newer = self._dirty.pop(channel, {})
            self._dirty[channel] = {**self._writing[channel], **newer}

    def _some(self) -> Iterator[tuple[str, dict[str, Member | None]]]:
        """Yield the changes for one write, and remove them from the pending ones."""
        budget = CHANGES_AT_ONCE
        for channel in list(self._dirty):
            if budget <= 0:
                return
            changes = self._dirty.pop(channel)
            now = dict(islice(changes.items(), budget))
            if len(now) < len(changes):
                self._dirty[channel] = {c: m for c, m in changes.items() if c not in now}
            budget -= len(now)
            yield channel, now

    def _make_update(self, channel: str, changes: dict[str, Member | None]) -> MemberUpdate:
        is_here = channel in self._members or channel in self._dirty
        return MemberUpdate(channel, changes, self._announced.get(channel, False), is_here)

    async def _leave_earlier_names(self) -> None:
        """Remove the members that this node wrote under earlier names."""
        while self._earlier:
            while await self._presence.sweep(self._earlier[-1], is_leaving=True):
                pass
            self._earlier.pop()
