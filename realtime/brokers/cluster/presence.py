"""Members of channels on Redis Cluster, for an event loop.

The members of a channel, the lease of their node and the list of its channels are in the partition
of the channel: scripts read and write them in one step. So a node has a lease in each partition in
which it has written members, and only there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from realtime.brokers.cluster.gathering import by_partition, gather
from realtime.brokers.presence_commands import (
    PartitionLease,
    PresenceCommands,
    parse_headcount,
    parse_members,
    parse_partition_lease,
    refuse_errors,
)
from realtime.core.members import MEMBERS_BYTES, Headcount, LeaseReply, MemberUpdate
from realtime.core.partitions import PARTITIONS, partition_of

if TYPE_CHECKING:
    from realtime.brokers.cluster.links import ClusterLinks
    from realtime.brokers.script import Args, Script

NAMES_LIMIT = 16
"""Names under which this node has leases. It uses one at a time, and removes at most eight earlier
ones itself (`realtime.delivery.presence_writer`)."""


class ClusterPresence:
    """A `realtime.brokers.PresenceStore` on Redis Cluster. Bound to one event loop.

    While the master of a partition is away, the methods do their work in all others, so that only
    its own members suffer. They raise `BrokerError` if none of the partitions in question answers.
    Retrying is safe.
    """

    def __init__(self, prefix: str, links: ClusterLinks, seconds: float) -> None:
        """Start without leases.

        Args:
            prefix: As for `realtime.brokers.redis.RedisBroker`.
            links: The links to the masters; the caller closes them.
            seconds: The timeout for the replies of one master.
        """
        self._links = links
        self._seconds = seconds
        self._commands = [PresenceCommands(prefix, each) for each in PARTITIONS]
        self._scripts = self._commands[0].scripts
        self._leases: dict[str, dict[int, bytes]] = {}
        """By name of a node, the partitions in which it has a lease, each with the history of
        writes that has its members."""
        self._gone: dict[str, set[int]] = {}
        """Where the leases of other nodes have expired, as the last renewal said."""

    async def change(self, node: str, updates: Sequence[MemberUpdate]) -> Collection[str]:
        """Write joins and leaves, after a lease in partitions that are new to the node.

        Returns:
            The channels in partitions that were not written, or perhaps not.
        """
        leases = self._leases_of(node)
        grouped = by_partition(updates, lambda update: update.channel)

        async def write(number: int) -> None:
            if number not in leases:
                # Before the first members: a history that ends in between is noticed by `lease`.
                leases[number] = (await self._renew(number, node, is_new=True)).history
            commands = [self._commands[number].change(node, each) for each in grouped[number]]
            refuse_errors(await self._run(number, self._scripts.change, commands))

        written = await gather(grouped, write)
        written.raise_if_all_failed()
        return [update.channel for number in written.errors for update in grouped[number]]

    async def members(self, channel: str, most_bytes: int = MEMBERS_BYTES) -> dict[str, str]:
        """Return the members of a channel: infos by client.

        Raises:
            TooManyMembers: There are more than can be listed, or than fit into ``most_bytes``.
        """
        number = partition_of(channel).number
        command = self._commands[number].read(channel, most_bytes)
        [reply] = await self._run(number, self._scripts.read, [command])
        return parse_members(reply)

    async def headcounts(self, channels: Sequence[str]) -> dict[str, Headcount]:
        """Return the number of members of each channel whose master answers."""
        grouped = by_partition(channels, str)

        async def count(number: int) -> dict[str, Headcount]:
            commands = [self._commands[number].count(channel) for channel in grouped[number]]
            replies = await self._run(number, self._scripts.headcount, commands)
            return dict(zip(grouped[number], map(parse_headcount, replies), strict=True))

        found = await gather(grouped, count)
        found.raise_if_all_failed()
        return {name: each for some in found.results.values() for name, each in some.items()}

    async def lease(self, node: str, *, is_new: bool) -> LeaseReply:
        """Renew the leases of a node, and return nodes of which any lease has expired.

        A new node has no lease before its first members. A node is not known any more if it was
        swept in any partition, or if the history of writes of a partition has changed: the new
        master may lack its last joins and leaves. It then starts again under another name, as it
        does with a single Redis when its subscription breaks.

        It does not raise if masters are away. The members in their partitions are hidden once the
        leases there have expired, and until the next renewal after that.
        """
        if node not in self._leases and not is_new:
            return LeaseReply(is_known=False, gone=())
        leases = self._leases_of(node)
        renewed = await gather(leases, lambda number: self._renew(number, node, is_new=is_new))
        gone: defaultdict[str, set[int]] = defaultdict(set)
        is_known = True
        for number, answer in renewed.results.items():
            is_known = is_known and answer.history == leases[number]
            for name in answer.gone:
                gone[name].add(number)
        self._gone = dict(gone)
        return LeaseReply(is_known, tuple(gone))

    async def sweep(self, node: str, *, is_leaving: bool = False) -> bool:
        """Remove some members of a node that is gone or leaving; return whether more remain.

        It looks where the last `lease` said that the node is gone, and where the node has a lease
        by this object. Where the master is away, the members stay until `lease` names the node:
        they are hidden when its lease has expired.
        """
        own, gone = self._leases.get(node, {}), self._gone.get(node, set())

        async def remove(number: int) -> int:
            command = self._commands[number].sweep(node, is_leaving=is_leaving)
            replies = await self._run(number, self._scripts.sweep, [command])
            refuse_errors(replies)
            return int(replies[0])

        swept = await gather(gone | own.keys(), remove)
        swept.raise_if_all_failed()
        for number, count in swept.results.items():
            if count <= 0:
                gone.discard(number)
            if count == 0 and is_leaving:
                own.pop(number, None)
        has_more = any(count > 0 for count in swept.results.values())
        if is_leaving and not has_more:
            self._leases.pop(node, None)
        return has_more

    async def keep(self, node: str, channels: Sequence[str]) -> list[str]:
        """Keep the members of channels from expiring; return the channels that had expired.

        It does not raise if masters are away. Their channels are kept for several times the
        interval in which nodes call this.
        """
        grouped = by_partition(channels, str)

        async def keep_some(number: int) -> list[str]:
            some = grouped[number]
            replies = await self._links.execute(
                PARTITIONS[number], self._commands[number].keep(node, some), self._seconds
            )
            refuse_errors(replies)
            kept = zip(*[iter(map(int, replies))] * 3, strict=True)
            return [channel for channel, found in zip(some, kept, strict=True) if not all(found)]

        found = await gather(grouped, keep_some)
        expired = {channel for some in found.results.values() for channel in some}
        return [channel for channel in channels if channel in expired]

    def _leases_of(self, node: str) -> dict[int, bytes]:
        if node not in self._leases:
            while len(self._leases) >= NAMES_LIMIT:
                del self._leases[next(iter(self._leases))]  # the oldest; its leases expire
            self._leases[node] = {}
        return self._leases[node]

    async def _renew(self, number: int, node: str, *, is_new: bool) -> PartitionLease:
        command = self._commands[number].lease(node, is_new=is_new)
        [reply] = await self._run(number, self._scripts.lease, [command])
        return parse_partition_lease(reply)

    def _run(
        self, number: int, script: Script, commands: Sequence[Args]
    ) -> Coroutine[Any, Any, list[Any]]:
        return self._links.run_script(PARTITIONS[number], script, commands, self._seconds)
