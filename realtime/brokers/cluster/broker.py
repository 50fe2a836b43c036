"""Redis Cluster as the broker, for an event loop.

What one Redis does in one step for several channels is one step for each partition here: of a batch
whose master is gone in part, the rest is published (ADR-0036 has the steps).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions

from realtime.brokers import ALL_NODES, SentCommand, Stats, Survey
from realtime.brokers.bounds import (
    DEADLINE_SECONDS,
    QUEUE_BYTES,
    QUEUE_ITEMS,
    SURVEY_POLL_SECONDS,
    SURVEY_SECONDS,
)
from realtime.brokers.cluster.gathering import gather
from realtime.brokers.cluster.links import ClusterLinks
from realtime.brokers.cluster.presence import ClusterPresence
from realtime.brokers.cluster.queue_sums import limits_of_each, sum_stats
from realtime.brokers.cluster.subscription import ClusterSubscription
from realtime.brokers.commands import (
    Commands,
    parse_node_commands,
    parse_positions,
    parse_queue_stats,
    parse_receipts,
    parse_wait,
    unavailable,
)
from realtime.brokers.presence_commands import refuse_errors
from realtime.brokers.redis_blocks import BlockCommands, RedisBlocks
from realtime.brokers.server_facts import read_facts
from realtime.core.partitions import PARTITIONS, Partition, partition_of
from realtime.core.redis_facts import RedisFacts
from realtime.errors import BrokerError, RealtimeError

if TYPE_CHECKING:
    from realtime.brokers.calls import Combine
    from realtime.brokers.link import Link
    from realtime.brokers.node_messages import Moment
    from realtime.brokers.script import Args, Script
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.survey import Question

T = TypeVar("T")
CONTROL = partition_of(ALL_NODES)
"""The partition of what belongs to no channel."""


class ClusterBroker:
    """A `realtime.brokers.Broker` on Redis Cluster. Create it inside the loop that uses it."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "rt",
        deadline_seconds: float = DEADLINE_SECONDS,
        queue_items: int = QUEUE_ITEMS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Connect lazily.

        Args:
            url: ``redis+cluster://`` or ``rediss+cluster://``.
            prefix: The prefix of every key and Redis channel.
            deadline_seconds: The timeout for one publish, over all its stages.
            queue_items: The maximum number of entries in the fallback queue; each partition has its
                share.
            queue_bytes: The maximum size of these entries; likewise.
        """
        self._commands = [
            Commands(
                prefix,
                partition,
                **limits_of_each(queue_items, queue_bytes),
            )
            for partition in PARTITIONS
        ]
        # One object for each partition: compared for each publication.
        self._combines: list[Combine] = [commands.publish for commands in self._commands]
        self._deadline_seconds = deadline_seconds
        self._links = ClusterLinks(url)
        self.presence = ClusterPresence(prefix, self._links, deadline_seconds)
        """The members of channels."""
        self.blocks = RedisBlocks(
            BlockCommands(prefix, self._control, CONTROL),
            partial(self._run, CONTROL.number),
            partial(self._execute, CONTROL),
        )
        """The blocked users."""

    async def publish(self, publication: Publication) -> Receipt:
        """See `realtime.brokers.Broker.publish`."""
        partition = partition_of(publication.channel)
        [reply] = await self._links.publish(
            partition,
            self._commands[partition.number].scripts.publish,
            publication,
            self._combines[partition.number],
            self._deadline_seconds,
        )
        [answer] = parse_receipts(reply)
        if isinstance(answer, RealtimeError):
            raise answer
        return answer

    async def publish_many(
        self, publications: Sequence[Publication]
    ) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`; one step for each partition.

        A partition whose master is gone has an error for each of its publications.
        """

        async def publish(number: int, some: Sequence[Publication]) -> list[Any]:
            commands = self._commands[number]
            command = commands.publish(*some)
            [reply] = await self._run(number, commands.scripts.publish, [command])
            return parse_receipts(reply)

        return await _by_partition(publications, lambda each: each.channel, publish)

    async def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `realtime.brokers.Broker.positions`."""

        async def read(number: int, some: Sequence[str]) -> list[Any]:
            commands = self._commands[number]
            script = commands.scripts.read_position
            replies = await self._run(number, script, commands.read_positions(some))
            return list(parse_positions(replies, len(some)))

        return await _by_partition(channels, str, read)

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take_from_rate`."""
        number = partition_of(name).number
        commands = self._commands[number]
        command = commands.take_from_rate(name, rate, count)
        [reply] = await self._run(number, commands.scripts.take_from_rate, [command])
        return parse_wait(reply)

    async def send_raw(self, channel: str, raw: bytes) -> int:
        """See `realtime.brokers.Broker.send_raw`."""
        number = partition_of(channel).number
        commands = self._commands[number]
        command = commands.send_raw(channel, raw)
        return int(await self._one(number, commands.scripts.send_raw, command))

    async def send_node_command(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.send_node_command`."""
        commands = self._control
        command = commands.send_node_command(raw)
        await self._one(CONTROL.number, commands.scripts.send_node_command, command)

    async def announce(self) -> str:
        """See `realtime.brokers.Broker.announce`."""
        commands = self._control
        reply = await self._one(CONTROL.number, commands.scripts.service, commands.announce())
        return str(reply.decode("latin-1"))

    async def read_node_commands(self, moment: Moment) -> tuple[Moment, list[SentCommand]]:
        """See `realtime.brokers.Broker.read_node_commands`."""
        commands = self._control.read_node_commands(moment)
        return parse_node_commands(await self._execute(CONTROL, commands))

    async def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        commands = self._control
        command = commands.ask_nodes(question)
        asked = int(await self._one(CONTROL.number, commands.scripts.send_raw, command))
        until = asyncio.get_running_loop().time() + SURVEY_SECONDS
        answers: list[bytes] = []
        while True:
            [more] = await self._execute(CONTROL, [commands.answers(question.id, len(answers))])
            refuse_errors([more])
            answers += more
            if len(answers) >= asked or asyncio.get_running_loop().time() > until:
                return Survey(answers, max(0, asked - len(answers)))
            await asyncio.sleep(SURVEY_POLL_SECONDS)

    async def answer(self, question_id: str, answer: bytes) -> None:
        """See `realtime.brokers.Broker.answer`."""
        commands = self._control
        command = commands.answer(question_id, answer)
        await self._one(CONTROL.number, commands.scripts.answer, command)

    async def subscription(self) -> ClusterSubscription:
        """See `realtime.brokers.Broker.subscription`."""
        made = ClusterSubscription(self._links, self._commands, self._deadline_seconds)
        await made.open(asyncio.get_running_loop().time() + self._deadline_seconds)
        return made

    async def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`.

        Raises:
            BrokerError: A master is away: the numbers would be too small.
        """

        async def read(number: int) -> Stats:
            queue = self._commands[number].queue
            [reply] = await self._run(number, queue.scripts.stats, [queue.stats()])
            return parse_queue_stats(reply)

        found = await gather(range(len(PARTITIONS)), read)
        found.raise_if_any_failed()
        return sum_stats(found.results.values())

    async def read_servers(self) -> list[RedisFacts]:
        """See `realtime.brokers.Broker.read_servers`: the masters."""

        async def read(address: str, link: Link) -> RedisFacts:
            try:
                return await read_facts(
                    lambda commands: link.execute(commands, self._deadline_seconds),
                    lambda: address,
                )
            except BrokerError:
                return RedisFacts(address=address, is_away=True)

        links = await self._links.link_each(self._deadline_seconds)
        return await asyncio.gather(*[read(*each) for each in links.items()])

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        await self._links.aclose()

    @property
    def _control(self) -> Commands:
        return self._commands[CONTROL.number]

    async def _one(self, number: int, script: Script, command: Args) -> Any:
        """Return the reply to one command.

        Raises:
            BrokerUnavailable: Redis refused it.
        """
        [reply] = await self._run(number, script, [command])
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)
        return reply

    def _run(
        self, number: int, script: Script, commands: Sequence[Args]
    ) -> Coroutine[Any, Any, list[Any]]:
        return self._links.run_script(PARTITIONS[number], script, commands, self._deadline_seconds)

    def _execute(
        self, partition: Partition, commands: Sequence[Args]
    ) -> Coroutine[Any, Any, list[Any]]:
        return self._links.execute(partition, commands, self._deadline_seconds)


async def _by_partition(
    items: Sequence[T],
    channel_of: Callable[[T], str],
    run: Callable[[int, Sequence[T]], Coroutine[Any, Any, list[Any]]],
) -> list[Any]:
    """Run something for the items of each partition at the same time; return all in their order.

    Raises:
        BrokerError: All partitions have failed in the same way; it is the error of the first.
    """
    places: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(partition_of(channel_of(item)).number, []).append(place)

    async def answers_of(number: int, some: list[int]) -> list[Any] | BrokerError:
        try:
            return await run(number, [items[place] for place in some])
        except BrokerError as error:
            return error

    results = await asyncio.gather(*[answers_of(*each) for each in places.items()])
    errors = [each for each in results if isinstance(each, BrokerError)]
    if errors and len(errors) == len(results) and len({type(each) for each in errors}) == 1:
        raise errors[0]
    found: list[Any] = [None] * len(items)
    for some, result in zip(places.values(), results, strict=True):
        answers = [result] * len(some) if isinstance(result, BrokerError) else result
        for place, answer in zip(some, answers, strict=True):
            found[place] = answer
    return found
