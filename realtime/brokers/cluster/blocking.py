"""Redis Cluster as the broker, for threads: the publishing half without an event loop.

What concerns one channel is in the partition of that channel, a rate limit in that of its name, and
what concerns all nodes in that of their channel. So a batch is several commands, one for each
partition, and some of its items may fail while others succeed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from realtime.brokers import ALL_NODES, Stats
from realtime.brokers.bounds import DEADLINE_SECONDS, QUEUE_BYTES, QUEUE_ITEMS
from realtime.brokers.cluster.blocking_links import SyncClusterLinks
from realtime.brokers.cluster.partition_calls import PartitionCall
from realtime.brokers.cluster.queue_sums import limits_of_each, sum_stats
from realtime.brokers.commands import parse_positions, parse_queue_stats, parse_receipts
from realtime.brokers.partition_sync import SyncPartition
from realtime.brokers.presence_commands import refuse_errors
from realtime.core.fallback_entry import decode_entry
from realtime.core.partitions import PARTITIONS, partition_of
from realtime.errors import BrokerError, EnvelopeError, RealtimeError

if TYPE_CHECKING:
    from realtime.brokers import Survey
    from realtime.brokers.script import Args, Script
    from realtime.core.members import Headcount
    from realtime.core.partitions import Partition
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.survey import Question


class SyncClusterBroker:
    """A `realtime.brokers.partition_sync.SyncRedis` on Redis Cluster."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "rt",
        deadline_seconds: float = DEADLINE_SECONDS,
        queue_items: int = QUEUE_ITEMS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Connect lazily; arguments as for `realtime.brokers.redis.RedisBroker`.

        Each partition has its share of the fallback queue, and its limits.
        """
        self._links = SyncClusterLinks(url, deadline_seconds)
        self._partitions = [
            _ClusterPartition(
                self._links,
                prefix,
                partition,
                **limits_of_each(queue_items, queue_bytes),
            )
            for partition in PARTITIONS
        ]
        self._control = self._of(ALL_NODES)

    def publish(self, publication: Publication) -> Receipt:
        """See `realtime.brokers.Broker.publish`."""
        return self._of(publication.channel).publish(publication)

    def publish_many(self, publications: Sequence[Publication]) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`.

        All publications of a partition share one step. It raises only if all of them have failed
        alike; otherwise, each has its receipt or error.
        """
        groups = _by_partition([each.channel for each in publications])
        calls = [
            self._partitions[number].publish_call([publications[item] for item in items])
            for number, items in groups.items()
        ]
        self._links.run(calls)
        receipts: list[Receipt | RealtimeError] = _in_order(groups, map(_receipts, calls))
        return receipts

    def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `realtime.brokers.Broker.positions`; it raises only if all have failed alike."""
        groups = _by_partition(channels)
        calls = [
            self._partitions[number].positions_call([channels[item] for item in items])
            for number, items in groups.items()
        ]
        self._links.run(calls)
        counts = map(len, groups.values())
        found: list[Position | BrokerError] = _in_order(groups, map(_positions, calls, counts))
        return found

    def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take_from_rate`."""
        return self._of(name).take_from_rate(name, rate, count)

    def send_node_command(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.send_node_command`."""
        self._control.send_node_command(raw)

    def change_block(self, user: str, until: int, command: bytes) -> None:
        """See `realtime.brokers.block_store.BlockStore.change`."""
        self._control.change_block(user, until, command)

    def members(self, channel: str) -> dict[str, str]:
        """See `realtime.brokers.PresenceStore.members`."""
        return self._of(channel).members(channel)

    def headcount(self, channel: str) -> Headcount:
        """See `realtime.brokers.PresenceStore.headcounts`."""
        return self._of(channel).headcount(channel)

    def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        return self._control.survey(question)

    def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""
        replies = self._replies_of(each.stats_call() for each in self._partitions)
        return sum_stats([parse_queue_stats(reply) for reply in replies])

    def queue_page(self, place: str, start: int, count: int) -> list[bytes]:
        """See `realtime.brokers.SyncBroker.queue_page`; one partition follows another.

        Each partition has its entries in their order, without regard to those of the others.
        """
        lengths = self._replies_of(each.length_call(place) for each in self._partitions)
        calls: list[PartitionCall] = []
        before = 0
        for partition, length in zip(self._partitions, map(int, lengths), strict=True):
            first, end = max(0, start - before), min(length, start + count - before)
            if first < end:
                calls.append(partition.page_call(place, first, end - first))
            before += length
        return [entry for entries in self._replies_of(calls) for entry in entries]

    def move_entry(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """See `realtime.brokers.fallback_queue.FallbackQueue.move`."""
        try:
            entry = decode_entry(raw)
        except EnvelopeError:  # it names no channel, so it may be anywhere
            return any(each.move_entry(place, raw, written) for each in self._partitions)
        return self._of(entry.queued.channel).move_entry(place, raw, written)

    def ask(self, commands: Sequence[Args]) -> list[Any]:
        """See `realtime.brokers.partition_sync.SyncRedis.ask`."""
        return self._control.ask(commands)

    def beside(self, kind: str, name: str) -> str:
        """See `realtime.brokers.partition_sync.SyncRedis.beside`."""
        return self._control.beside(kind, name)

    def close(self) -> None:
        """Close all connections."""
        self._links.close()

    def _of(self, name: str) -> _ClusterPartition:
        return self._partitions[partition_of(name).number]

    def _replies_of(self, calls: Iterable[PartitionCall]) -> list[Any]:
        """Return the only reply to each call.

        Raises:
            BrokerUnavailable: One of them was refused, or not sent.
            OutcomeUnknown: One of them was not answered.
        """
        sent = list(calls)
        self._links.run(sent)
        replies = [reply for call in sent for reply in call.result()]
        refuse_errors(replies)
        return replies


class _ClusterPartition(SyncPartition):
    """One partition, whose commands go to the master that has it."""

    def __init__(
        self,
        links: SyncClusterLinks,
        prefix: str,
        partition: Partition,
        *,
        queue_items: int,
        queue_bytes: int,
    ) -> None:
        super().__init__(prefix, partition, queue_items=queue_items, queue_bytes=queue_bytes)
        self._links = links
        self._partition = partition

    def publish_call(self, publications: Sequence[Publication]) -> PartitionCall:
        command = self._commands.publish(*publications)
        return PartitionCall(self._partition, [command], self._scripts.publish)

    def positions_call(self, channels: Sequence[str]) -> PartitionCall:
        commands = self._commands.read_positions(channels)
        return PartitionCall(self._partition, commands, self._scripts.read_position)

    def stats_call(self) -> PartitionCall:
        queue = self._commands.queue
        return PartitionCall(self._partition, [queue.stats()], queue.scripts.stats)

    def length_call(self, place: str) -> PartitionCall:
        return PartitionCall(self._partition, [self._commands.queue.length(place)])

    def page_call(self, place: str, start: int, count: int) -> PartitionCall:
        return PartitionCall(self._partition, [self._commands.queue.page(place, start, count)])

    def _run_script(self, script: Script, commands: Sequence[Args]) -> list[Any]:
        return self._links.run_script(self._partition, script, commands)

    def _execute(self, commands: Sequence[Args]) -> list[Any]:
        return self._links.execute(self._partition, commands)


def _by_partition(names: Sequence[str]) -> dict[int, list[int]]:
    """Return the numbers of the items of each partition, in their order."""
    groups: dict[int, list[int]] = {}
    for number, name in enumerate(names):
        groups.setdefault(partition_of(name).number, []).append(number)
    return groups


def _receipts(call: PartitionCall) -> list[Receipt | RealtimeError] | BrokerError:
    try:
        [reply] = call.result()
        return parse_receipts(reply)
    except BrokerError as error:
        return error


def _positions(call: PartitionCall, count: int) -> list[Position | BrokerError] | BrokerError:
    try:
        return parse_positions(call.result(), count)
    except BrokerError as error:
        return error


def _in_order(
    groups: dict[int, list[int]], answers: Iterable[list[Any] | BrokerError]
) -> list[Any]:
    """Return an answer or error for each item, in the order of the items.

    Raises:
        BrokerError: All partitions have failed, and with the same kind of error.
    """
    answers = [*answers]
    errors = [each for each in answers if isinstance(each, BrokerError)]
    if errors and len(errors) == len(answers) and len({type(each) for each in errors}) == 1:
        raise errors[0]
    found: dict[int, Any] = {}
    for items, answer in zip(groups.values(), answers, strict=True):
        each = [answer] * len(items) if isinstance(answer, BrokerError) else answer
        found.update(zip(items, each, strict=True))
    return [found[item] for item in range(len(found))]
