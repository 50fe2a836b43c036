"""Watches one master of a cluster with canaries on a channel of one of its partitions.

A canary for each partition would cost a cluster 64 times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from redis import exceptions

from realtime.brokers.commands import unavailable
from realtime.brokers.watchdog import Watchdog
from realtime.errors import BrokerUnavailable

if TYPE_CHECKING:
    from realtime.brokers.cluster.links import ClusterLinks
    from realtime.brokers.cluster.shard import ShardConnection
    from realtime.brokers.commands import Commands
    from realtime.core.partitions import Partition


class MasterWatch:
    """See the module. Ends the connection to a master that delivers nothing."""

    def __init__(
        self,
        channel: str,
        partition: Partition,
        links: ClusterLinks,
        commands: Commands,
        deadline_seconds: float,
    ) -> None:
        """Start without canaries in flight.

        Args:
            channel: The channel of the canaries; the creator subscribes to it.
            partition: The partition of the channel.
            links: Sends the canaries.
            commands: Those of the partition.
            deadline_seconds: The timeout for sending one.
        """
        self.channel = channel
        self.partition = partition
        self.is_subscribed = False
        """Whether the subscription to the channel is confirmed."""
        self._links = links
        self._commands = commands
        self._deadline_seconds = deadline_seconds
        self._is_behind: Callable[[], bool] = lambda: False
        self._watchdog = Watchdog(
            self._send,
            is_subscribed=lambda: self.is_subscribed,
            is_behind=lambda: self._is_behind(),
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def lag_seconds(self) -> float:
        """The round-trip time of the last canary."""
        return self._watchdog.lag_seconds

    def start(self, shard: ShardConnection, *, is_behind: Callable[[], bool]) -> None:
        """Start watching a connection.

        Args:
            shard: The connection to the master.
            is_behind: Tells whether the node itself has paused reading.
        """
        self._is_behind = is_behind
        self._task = asyncio.create_task(self._guard(shard), name="realtime watch of a master")

    def stop(self) -> asyncio.Task[None]:
        """Stop watching; return the task, which ends soon."""
        assert self._task is not None  # noqa: S101 - see `start`
        self._task.cancel()
        return self._task

    def note_return(self, number: int) -> None:
        """Record a canary that has come back."""
        self._watchdog.note_return(number)

    async def _guard(self, shard: ShardConnection) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watchdog.send_canaries())
                group.create_task(self._watchdog.watch_socket(shard))
        except* BrokerUnavailable as failed:
            shard.end(exceptions.ConnectionError(str(failed.exceptions[0])))

    async def _send(self, raw: bytes) -> int:
        script, command = self._commands.scripts.send_raw, self._commands.send_raw
        [reply] = await self._links.run_script(
            self.partition, script, [command(self.channel, raw)], self._deadline_seconds
        )
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)
        return int(reply)
