"""Members of channels on Redis, for an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from realtime.brokers.presence_commands import (
    PresenceCommands,
    parse_headcount,
    parse_lease_reply,
    parse_members,
    refuse_errors,
)
from realtime.brokers.script import Args, Script
from realtime.core.members import (
    MEMBERS_BYTES,
    Headcount,
    LeaseReply,
    MemberUpdate,
)

Run = Callable[[Script, Sequence[Args]], Awaitable[list[Any]]]
"""Executes commands; see `realtime.brokers.link.Link.run_script`."""


class RedisPresence:
    """A `realtime.brokers.PresenceStore` on Redis.

    All methods raise `BrokerError` if the result is unknown or the change may have been made;
    retrying is safe. Nodes are identified by names of hex digits.
    """

    def __init__(self, prefix: str, run: Run, execute: Callable[..., Awaitable[list[Any]]]) -> None:
        self._commands = PresenceCommands(prefix)
        self._scripts = self._commands.scripts
        self._run_script = run
        self._execute = execute

    async def change(self, node: str, updates: Sequence[MemberUpdate]) -> Collection[str]:
        """Write joins and leaves."""
        commands = [self._commands.change(node, update) for update in updates]
        refuse_errors(await self._run_script(self._scripts.change, commands))
        return ()

    async def members(self, channel: str, most_bytes: int = MEMBERS_BYTES) -> dict[str, str]:
        """Return the members of a channel: infos by client.

        Raises:
            TooManyMembers: There are more than can be listed, or than fit into ``most_bytes``.
        """
        command = self._commands.read(channel, most_bytes)
        [reply] = await self._run_script(self._scripts.read, [command])
        return parse_members(reply)

    async def headcounts(self, channels: Sequence[str]) -> dict[str, Headcount]:
        """Return the number of members of each channel."""
        commands = [self._commands.count(channel) for channel in channels]
        replies = await self._run_script(self._scripts.headcount, commands)
        return dict(zip(channels, map(parse_headcount, replies), strict=True))

    async def lease(self, node: str, *, is_new: bool) -> LeaseReply:
        """Renew the lease of a node, and return nodes whose lease has expired."""
        command = self._commands.lease(node, is_new=is_new)
        [reply] = await self._run_script(self._scripts.lease, [command])
        return parse_lease_reply(reply)

    async def sweep(self, node: str, *, is_leaving: bool = False) -> bool:
        """Remove some members of a node that is gone or leaving; return whether more remain."""
        command = self._commands.sweep(node, is_leaving=is_leaving)
        [reply] = await self._run_script(self._scripts.sweep, [command])
        refuse_errors([reply])
        return int(reply) > 0

    async def keep(self, node: str, channels: Sequence[str]) -> list[str]:
        """Keep the members of channels from expiring; return the channels that had expired."""
        replies = await self._execute(self._commands.keep(node, channels))
        refuse_errors(replies)
        kept = zip(*[iter(map(int, replies))] * 3, strict=True)
        return [channel for channel, found in zip(channels, kept, strict=True) if not all(found)]
