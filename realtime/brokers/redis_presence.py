"""Members of channels on Redis, for an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from realtime.brokers.presence_commands import (
    CHANGE,
    COUNT,
    LEASE,
    READ,
    SWEEP,
    PresenceCommands,
    beat,
    headcount,
    members,
    refuse_errors,
)
from realtime.brokers.script import Args, Script
from realtime.membership import MEMBERS_BYTES, Beat, Headcount, Roll

Run = Callable[[Script, Sequence[Args]], Awaitable[list[Any]]]
"""Carries commands out; see `realtime.brokers.road.Road.run`."""


class RedisPresence:
    """All of its methods raise `BrokerError`: not known, or perhaps done; doing it again is safe.

    The nodes that it speaks of are names of hex digits.
    """

    def __init__(
        self, prefix: str, run: Run, exchange: Callable[..., Awaitable[list[Any]]]
    ) -> None:
        self._commands = PresenceCommands(prefix)
        self._run = run
        self._exchange = exchange

    async def change(self, node: str, rolls: Sequence[Roll]) -> None:
        """Write down who came and who went."""
        refuse_errors(await self._run(CHANGE, [self._commands.change(node, r) for r in rolls]))

    async def members(self, channel: str, most_bytes: int = MEMBERS_BYTES) -> dict[str, str]:
        """Return who is on a channel: infos by client.

        Raises:
            TooManyMembers: There are more than can be named, or than so many bytes hold.
        """
        [reply] = await self._run(READ, [self._commands.read(channel, most_bytes)])
        return members(reply)

    async def headcounts(self, channels: Sequence[str]) -> list[Headcount]:
        """Return how many are on each channel."""
        replies = await self._run(COUNT, [self._commands.count(channel) for channel in channels])
        return [headcount(reply) for reply in replies]

    async def lease(self, node: str, *, is_new: bool) -> Beat:
        """Say that a node lives, and learn which ones do not."""
        [reply] = await self._run(LEASE, [self._commands.lease(node, is_new=is_new)])
        return beat(reply)

    async def sweep(self, node: str, *, is_leaving: bool = False) -> bool:
        """Count out some members of a node that is gone, or goes; return whether there are more."""
        [reply] = await self._run(SWEEP, [self._commands.sweep(node, is_leaving=is_leaving)])
        refuse_errors([reply])
        return int(reply) > 0

    async def keep(self, node: str, channels: Sequence[str]) -> list[str]:
        """Keep the members of channels from being forgotten; return the channels that were."""
        replies = await self._exchange(self._commands.keep(node, channels))
        refuse_errors(replies)
        kept = zip(*[iter(map(int, replies))] * 3, strict=True)
        return [channel for channel, found in zip(channels, kept, strict=True) if not all(found)]
