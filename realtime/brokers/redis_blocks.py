"""Blocked users on Redis: the commands, and the store for an event loop.

A block and the command that tells all nodes about it are one step. On a cluster, both are in the
partition of the nodes' channel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from realtime.brokers.presence_commands import refuse_errors
from realtime.brokers.script import Args, Script
from realtime.core.blocked_users import BLOCKS_LIMIT, TooManyBlocks
from realtime.core.partitions import WHOLE

if TYPE_CHECKING:
    from realtime.brokers.commands import Commands
    from realtime.core.partitions import Partition

SCRIPT = Script("block.lua", "node_command.lua")


class BlockCommands:
    """Builds the commands for one prefix."""

    def __init__(self, prefix: str, commands: Commands, partition: Partition = WHOLE) -> None:
        """Take what the commands depend on.

        Args:
            prefix: The prefix of every key.
            commands: Builds the command to all nodes.
            partition: The partition of the nodes' channel.
        """
        self._keys = f"{prefix}:{{{partition.tag}}}:"
        self._key = f"{self._keys}blocked"
        self._commands = commands
        self.script = SCRIPT.of(partition)
        """The script that changes a block."""

    def change(self, user: str, until: int, command: bytes) -> Args:
        """Return the command that changes a block and sends a command to all nodes."""
        _, _, _, key, *arguments = self._commands.send_node_command(command)
        block = (user, until, BLOCKS_LIMIT)
        return ("EVALSHA", self.script.digest, 2, key, self._key, *arguments, *block)

    def read(self) -> Args:
        """Return the command that reads all blocks; a millisecond of Redis for ten thousand."""
        return ("ZRANGE", self._key, 0, -1, "WITHSCORES")


def check_change(reply: Any) -> None:
    """Check the reply to `BlockCommands.change`.

    Raises:
        TooManyBlocks: There are too many already.
        BrokerUnavailable: Redis refused.
    """
    refuse_errors([reply])
    if reply == b"full":
        raise TooManyBlocks


class RedisBlocks:
    """A `realtime.brokers.block_store.BlockStore` on Redis."""

    def __init__(
        self,
        commands: BlockCommands,
        run: Callable[[Script, Sequence[Args]], Awaitable[list[Any]]],
        execute: Callable[[Sequence[Args]], Awaitable[list[Any]]],
    ) -> None:
        """Take the commands, and what executes scripts and plain commands."""
        self._commands = commands
        self._run_script = run
        self._execute = execute

    async def change(self, user: str, until: int, command: bytes) -> None:
        """Block a user until a time in seconds, or end the block (0); tell all nodes."""
        changing = self._commands.change(user, until, command)
        [reply] = await self._run_script(self._commands.script, [changing])
        check_change(reply)

    async def read(self) -> dict[str, int]:
        """Return the end of each block, by user."""
        [reply] = await self._execute([self._commands.read()])
        refuse_errors([reply])
        pairs = zip(*[iter(reply)] * 2, strict=True)
        return {user.decode(errors="replace"): int(float(until)) for user, until in pairs}
